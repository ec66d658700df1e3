"""Make copies of a photo with other people's tools, and edits that are easily taken for copies.

A copy is what a person or a program makes without meaning to change the picture: smaller, compressed again, in another
format, with other metadata. A hard negative differs in something that somebody may care about, however little. Only
tools that are installed are used; Pillow always is. Each row of the tables is one way, and its strength is the number
that a plot of recall has on its axis (a quality, a percentage of the size, 0 where there is none).
"""

from __future__ import annotations

import functools
import importlib.util
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import canvas
from edits import EDITS
from PIL import Image, ImageOps

TIMEOUT_SECONDS = 120

Maker = Callable[[Path, Path], None]
"""Makes the second file from the first."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to make a copy (`wanted`) or a hard negative of a picture.

    `family` is what is done, `tool` who does it, `sources` the suffixes of the files that it can be done to (any, where
    it is empty).
    """

    family: str
    tool: str
    strength: float
    suffix: str
    make: Maker
    wanted: bool = True
    sources: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.family}-{self.tool}-{self.strength:g}".replace(" ", "_")


@functools.cache
def imagemagick() -> str | None:
    """Return the command of ImageMagick. Other programs are called `convert` too, so it has to say who it is."""
    for name in ("magick", "convert-im6.q16", "convert"):
        path = shutil.which(name)
        if path:
            said = subprocess.run([path, "-version"], capture_output=True, text=True, check=False).stdout
            if said.startswith("Version: ImageMagick"):
                return path
    return None


def _command(template: str) -> Maker:
    """Return a maker that runs a command line; {in} and {out} are the files, {ppm} is the first one decoded."""

    def make(source: Path, target: Path) -> None:
        words = template.split(" ")
        decoded = target.with_suffix(".source.ppm")
        try:
            if "{ppm}" in words:
                # Such formats have no EXIF, so what is made of them has to be upright.
                with Image.open(source) as picture:
                    upright = ImageOps.exif_transpose(picture)
                    upright.convert("L" if picture.mode == "L" else "RGB").save(decoded)
            places = {"{in}": str(source), "{out}": str(target), "{ppm}": str(decoded), "{im}": imagemagick() or ""}
            run([_placed(word, places) for word in words])
        finally:
            decoded.unlink(missing_ok=True)

    return make


def _placed(word: str, places: dict[str, str]) -> str:
    for place, value in places.items():
        word = word.replace(place, value)
    return word


def run(words: list[str]) -> None:
    """Run a command. Raises OSError or subprocess.SubprocessError."""
    subprocess.run(words, check=True, capture_output=True, timeout=TIMEOUT_SECONDS, stdin=subprocess.DEVNULL)


def _pillow(change: Callable[[Image.Image], Image.Image] = lambda picture: picture, **settings: object) -> Maker:
    def make(source: Path, target: Path) -> None:
        with Image.open(source) as picture:
            # Pillow's TIFF writer stumbles over what cameras put into EXIF.
            kept = {"exif": picture.info["exif"]} if "exif" in picture.info and target.suffix != ".tif" else {}
            if "icc_profile" in picture.info:
                kept["icc_profile"] = picture.info["icc_profile"]
            changed = change(picture)
            if target.suffix == ".jpg" and changed.mode not in ("L", "RGB"):
                changed = changed.convert("RGB")
            changed.save(target, **{**kept, **settings})

    return make


def _thumbnail(share: float) -> Callable[[Image.Image], Image.Image]:
    def change(picture: Image.Image) -> Image.Image:
        picture.thumbnail((round(picture.width * share), round(picture.height * share)))
        return picture

    return change


def _resized(share: float, how: Image.Resampling) -> Callable[[Image.Image], Image.Image]:
    return lambda picture: picture.resize((round(picture.width * share), round(picture.height * share)), how)


def _opencv(share: float, interpolation: str, quality: int = 95) -> Maker:
    def make(source: Path, target: Path) -> None:
        import cv2

        picture = cv2.imread(str(source), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
        if picture is None:
            raise OSError("OpenCV did not read it")
        if share != 1:
            picture = cv2.resize(picture, None, fx=share, fy=share, interpolation=getattr(cv2, interpolation))
        settings = [cv2.IMWRITE_JPEG_QUALITY, quality] if target.suffix == ".jpg" else []
        if not cv2.imwrite(str(target), picture, settings):
            raise OSError("OpenCV did not write it")

    return make


def _turned(source: Path, target: Path) -> None:
    """Store the pixels turned, with the EXIF orientation that turns them back."""
    with Image.open(source) as picture:
        upright = ImageOps.exif_transpose(picture).convert("RGB")
        exif = Image.Exif()
        exif[0x0112] = 6
        upright.transpose(Image.Transpose.ROTATE_90).save(target, quality=92, exif=exif)


def _jpegtran_turned(source: Path, target: Path) -> None:
    """Turn without loss, and say so in EXIF."""
    run(["jpegtran", "-copy", "none", "-rotate", "270", "-perfect", "-outfile", str(target), str(source)])
    run(["exiftool", "-q", "-overwrite_original", "-n", "-Orientation=6", str(target)])


def _tagged(*words: str) -> Maker:
    def make(source: Path, target: Path) -> None:
        shutil.copyfile(source, target)
        run(["exiftool", "-q", "-m", "-overwrite_original", *words, str(target)])

    return make


def _mozjpeg(source: Path, target: Path) -> None:
    from mozjpeg_lossless_optimization import optimize

    target.write_bytes(optimize(source.read_bytes()))


def _jpegoptim(*words: str) -> Maker:
    def make(source: Path, target: Path) -> None:
        shutil.copyfile(source, target)
        run(["jpegoptim", "-q", "-f", *words, str(target)])

    return make


def _canvas(share: float, quality: float) -> Maker:
    return lambda source, target: canvas.draw(source, target, share / 100, quality)


_JPEG = (".jpg", ".jpeg")

_QUALITIES = (95, 85, 75, 60, 50, 40, 30)
_SHARES = (75, 50, 33, 25, 10)


def _installed(tool: str) -> bool:
    if tool == "pillow":
        return True
    if tool == "imagemagick":
        return imagemagick() is not None
    if tool == "chromium":
        return canvas.installed()
    modules = {"opencv": "cv2", "mozjpeg": "mozjpeg_lossless_optimization"}
    if tool in modules:
        return importlib.util.find_spec(modules[tool]) is not None
    return shutil.which({"graphicsmagick": "gm"}.get(tool, tool)) is not None


def ways() -> list[Way]:
    """Return the ways that the tools installed here allow, copies first."""
    every = [*_recompressed(), *_encoders(), *_resizers(), *_formats(), *_metadata()]
    every += [Way(f"edit {name}", "pillow", strength, ".jpg", make, wanted=False) for name, strength, make in EDITS]
    return [way for way in every if _installed(way.tool)]


def _recompressed() -> Iterator[Way]:
    for quality in _QUALITIES:
        yield Way("recompress", "imagemagick", quality, ".jpg", _command(f"{{im}} {{in}} -quality {quality} {{out}}"))
        yield Way("recompress", "pillow", quality, ".jpg", _pillow(quality=quality))
    for quality in (90, 75, 50):
        yield Way("recompress", "vips", quality, ".jpg", _command(f"vips jpegsave {{in}} {{out}} --Q {quality}"))
        yield Way("recompress", "opencv", quality, ".jpg", _opencv(1, "", quality))
        yield Way("recompress", "cjpeg", quality, ".jpg",
                  _command(f"cjpeg -quality {quality} -outfile {{out}} {{ppm}}"))  # fmt: skip
    for scale in (2, 5, 10):
        yield Way("recompress", "ffmpeg", 100 - 4 * scale, ".jpg",
                  _command(f"ffmpeg -v error -y -noautorotate -i {{in}} -q:v {scale} {{out}}"))  # fmt: skip
    yield Way("recompress", "graphicsmagick", 80, ".jpg", _command("gm convert {in} -quality 80 {out}"))
    yield Way("recompress", "jpegoptim", 70, ".jpg", _jpegoptim("--max=70"), sources=_JPEG)


def _encoders() -> Iterator[Way]:
    """The same quality with other tables, sampling and scans."""
    for number, options in enumerate(
        (
            "-sample 1x1",
            "-sample 2x1",
            "-sample 1x2",
            "-sample 2x2 -progressive",
            "-optimize",
            "-arithmetic",
            "-restart 1",
            "-dct float",
            "-grayscale -smooth 0",
        )
    ):
        if "-grayscale" in options:
            continue
        yield Way(f"encode {options.replace('-', '')}", "cjpeg", 80 + number / 100, ".jpg",
                  _command(f"cjpeg -quality 80 {options} -outfile {{out}} {{ppm}}"))  # fmt: skip
    yield Way("encode progressive 444", "imagemagick", 85, ".jpg",
              _command("{im} {in} -interlace JPEG -sampling-factor 4:4:4 -quality 85 {out}"))  # fmt: skip
    yield Way("encode 411", "imagemagick", 85, ".jpg", _command("{im} {in} -sampling-factor 4:1:1 -quality 85 {out}"))
    yield Way("encode optimised", "vips", 80, ".jpg",
              _command("vips jpegsave {in} {out} --Q 80 --optimize-coding --interlace"))  # fmt: skip
    yield Way("encode mozjpeg-like", "vips", 80, ".jpg",
              _command("vips jpegsave {in} {out} --Q 80 --optimize-coding --interlace --quant-table 3"))  # fmt: skip
    yield Way("encode progressive", "pillow", 85, ".jpg", _pillow(quality=85, progressive=True, optimize=True))
    yield Way("lossless optimise", "jpegtran", 0, ".jpg",
              _command("jpegtran -copy all -optimize -outfile {out} {in}"), sources=_JPEG)  # fmt: skip
    yield Way("lossless progressive", "jpegtran", 0, ".jpg",
              _command("jpegtran -copy none -progressive -outfile {out} {in}"), sources=_JPEG)  # fmt: skip
    yield Way("lossless optimise", "mozjpeg", 0, ".jpg", _mozjpeg, sources=_JPEG)
    yield Way("lossless optimise", "jpegoptim", 0, ".jpg", _jpegoptim("--strip-all"), sources=_JPEG)


def _resizers() -> Iterator[Way]:
    for share in _SHARES:
        yield Way("resize", "imagemagick", share, ".jpg",
                  _command(f"{{im}} {{in}} -resize {share}% -quality 88 {{out}}"))  # fmt: skip
        yield Way("resize", "pillow", share, ".jpg",
                  _pillow(_resized(share / 100, Image.Resampling.LANCZOS), quality=88))  # fmt: skip
        yield Way("resize", "vips", share, ".jpg", _command(f"vips resize {{in}} {{out}}[Q=88] {share / 100}"))
        yield Way("resize area", "opencv", share, ".jpg", _opencv(share / 100, "INTER_AREA", 90))
        yield Way("resize", "ffmpeg", share, ".jpg",
                  _ffmpeg_scaled(share, "bicubic"))  # fmt: skip
    for share in (75, 50):
        for name in ("BICUBIC", "BILINEAR", "BOX", "HAMMING", "NEAREST"):
            yield Way(f"resize {name.lower()}", "pillow", share, ".jpg",
                      _pillow(_resized(share / 100, Image.Resampling[name]), quality=88))  # fmt: skip
        for name in ("LINEAR", "CUBIC", "LANCZOS4"):
            yield Way(f"resize {name.lower()}", "opencv", share, ".jpg", _opencv(share / 100, f"INTER_{name}", 90))
        for name in ("lanczos", "area", "bilinear", "fast_bilinear"):
            yield Way(f"resize {name}", "ffmpeg", share, ".jpg", _ffmpeg_scaled(share, name))
        for name in ("Mitchell", "Triangle", "Catrom", "Box", "Hermite", "Gaussian", "Lanczos2", "Robidoux"):
            yield Way(f"resize {name}", "imagemagick", share, ".jpg",
                      _command(f"{{im}} {{in}} -filter {name} -resize {share}% -quality 88 {{out}}"))  # fmt: skip
        for name in ("scale", "sample", "adaptive-resize"):
            yield Way(f"resize {name}", "imagemagick", share, ".jpg",
                      _command(f"{{im}} {{in}} -{name} {share}% -quality 88 {{out}}"))  # fmt: skip
        linear = f"-colorspace RGB -resize {share}% -colorspace sRGB"
        yield Way("resize linear light", "imagemagick", share, ".jpg",
                  _command(f"{{im}} {{in}} {linear} -quality 88 {{out}}"))  # fmt: skip
        for name in ("linear", "cubic", "mitchell", "lanczos2"):
            yield Way(f"resize {name}", "vips", share, ".jpg",
                      _command(f"vips resize {{in}} {{out}}[Q=88] {share / 100} --kernel {name}"))  # fmt: skip
        yield Way("resize", "graphicsmagick", share, ".jpg", _command(f"gm convert {{in}} -resize {share}% {{out}}"))
        yield Way("thumbnail", "pillow", share, ".jpg", _pillow(_thumbnail(share / 100), quality=85))
        yield Way("resize png", "imagemagick", share, ".png", _command(f"{{im}} {{in}} -resize {share}% {{out}}"))
        yield Way("resize png", "pillow", share, ".png", _pillow(_resized(share / 100, Image.Resampling.LANCZOS)))
    yield Way("thumbnail", "pillow", 20, ".jpg", _pillow(_thumbnail(0.2), quality=85))
    yield Way("thumbnail", "imagemagick", 30, ".jpg", _command("{im} {in} -thumbnail 30% -quality 82 {out}"))
    for side in (640, 320):
        yield Way("thumbnail", "vipsthumbnail", side, ".jpg",
                  _command(f"vipsthumbnail {{in}} --size {side}x{side}> --no-rotate -o {{out}}[Q=80]"))  # fmt: skip
    yield Way("resize linear light", "vipsthumbnail", 320, ".jpg",
              _command("vipsthumbnail {in} --size 320x320> --linear --no-rotate -o {out}[Q=80]"))  # fmt: skip
    for share in (75, 50, 25):
        yield Way("resize canvas", "chromium", share, ".jpg", _canvas(share, 0.85))
    yield Way("resize canvas", "chromium", 50.8, ".webp", _canvas(50, 0.8))
    for side in (1600, 1280, 333):
        yield Way("messenger", "imagemagick", side, ".jpg",
                  _command(f"{{im}} {{in}} -resize {side}x{side}> -strip -quality 75 {{out}}"))  # fmt: skip
    yield Way("messenger", "imagemagick", 1280.7, ".webp", _command("{im} {in} -resize 1280x1280> -quality 70 {out}"))
    yield Way("messenger", "pillow", 640, ".webp", _pillow(_resized(0.6, Image.Resampling.LANCZOS), quality=70))


def _ffmpeg_scaled(share: float, flags: str) -> Maker:
    scale = f"scale=iw*{share / 100}:-1:flags={flags}"
    return _command(f"ffmpeg -v error -y -noautorotate -i {{in}} -vf {scale} -q:v 2 {{out}}")


def _formats() -> Iterator[Way]:
    for tool, template in (
        ("imagemagick", "{im} {in} {out}"),
        ("graphicsmagick", "gm convert {in} {out}"),
        ("vips", "vips copy {in} {out}"),
        ("ffmpeg", "ffmpeg -v error -y -noautorotate -i {in} {out}"),
    ):
        yield Way("format png", tool, 0, ".png", _command(template))
    yield Way("format png", "opencv", 0, ".png", _opencv(1, ""))
    yield Way("format png", "pillow", 0, ".png", _pillow())
    yield Way("format png", "pillow", 9, ".png", _pillow(optimize=True))
    yield Way("format png palette", "pillow", 256, ".png",
              _pillow(lambda picture: picture.convert("RGB").quantize(256)))  # fmt: skip
    for quality in (90, 75, 50):
        yield Way("format webp", "cwebp", quality, ".webp", _command(f"cwebp -quiet -q {quality} {{ppm}} -o {{out}}"))
    yield Way("format webp", "pillow", 80, ".webp", _pillow(quality=80))
    yield Way("format webp lossless", "cwebp", 0, ".webp", _command("cwebp -quiet -lossless {ppm} -o {out}"))
    yield Way("format webp lossless", "pillow", 0, ".webp", _pillow(lossless=True))
    for suffix in (".bmp", ".tif"):
        yield Way(f"format {suffix[1:]}", "imagemagick", 0, suffix, _command("{im} {in} -compress none {out}"))
        yield Way(f"format {suffix[1:]}", "pillow", 0, suffix, _pillow(lambda picture: picture.convert("RGB")))
    for compression in ("LZW", "Zip"):
        yield Way(f"format tif {compression}", "imagemagick", 0, ".tif",
                  _command(f"{{im}} {{in}} -compress {compression} {{out}}"))  # fmt: skip
    yield Way("format tif LZW", "vips", 0, ".tif", _command("vips tiffsave {in} {out} --compression lzw"))
    yield Way("format tif deflate", "pillow", 0, ".tif",
              _pillow(lambda picture: picture.convert("RGB"), compression="tiff_adobe_deflate"))  # fmt: skip
    for quality in (80, 60):
        yield Way("format avif", "pillow", quality, ".avif", _pillow(quality=quality))
    for quantizer in (20, 36):
        yield Way("format avif", "avifenc", 100 - quantizer, ".avif",
                  _avifenc(f"--min {quantizer} --max {quantizer}"))  # fmt: skip
    for quality in (80, 50):
        yield Way("format heic", "heif-enc", quality, ".heic", _heif_enc(quality))


def _avifenc(options: str) -> Maker:
    return _by_png(f"avifenc -s 8 {options} {{png}} {{out}}")


def _heif_enc(quality: int) -> Maker:
    return _by_png(f"heif-enc -q {quality} -o {{out}} {{png}}")


def _by_png(template: str) -> Maker:
    def make(source: Path, target: Path) -> None:
        decoded = target.with_suffix(".source.png")
        try:
            with Image.open(source) as picture:
                ImageOps.exif_transpose(picture).convert("RGB").save(decoded)
            places = {"{png}": str(decoded), "{out}": str(target)}
            run([_placed(word, places) for word in template.split(" ")])
        finally:
            decoded.unlink(missing_ok=True)

    return make


def _metadata() -> Iterator[Way]:
    yield Way("metadata stripped", "exiftool", 0, ".jpg", _tagged("-all="), sources=_JPEG)
    yield Way("metadata edited", "exiftool", 0, ".jpg",
              _tagged("-Artist=Nobody", "-XMP-dc:Title=A title", "-Copyright=2020"), sources=_JPEG)  # fmt: skip
    yield Way("turned with EXIF", "pillow", 92, ".jpg", _turned)
    yield Way("turned with EXIF", "jpegtran", 0, ".jpg", _jpegtran_turned, sources=_JPEG)


def make_all(source: Path, folder: Path, chosen: list[Way]) -> list[tuple[Way, Path]]:
    """Make the copies of one picture; a tool that fails over it is passed over."""
    made: list[tuple[Way, Path]] = []
    for way in chosen:
        if way.sources and source.suffix.lower() not in way.sources:
            continue
        target = folder / (way.name + way.suffix)
        if not target.exists():
            try:
                way.make(source, target)
            except (OSError, ValueError, RuntimeError, subprocess.SubprocessError):
                target.unlink(missing_ok=True)
        if target.exists():
            made.append((way, target))
    return made
