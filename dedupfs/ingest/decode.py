"""Bytes to pixels, within limits: the only place that opens a picture with Pillow.

Owns what counts as a picture that can be compared and the translation of Pillow's exceptions; leaves comparing to
others. Meant for worker processes with a memory limit. A decoded picture takes about four bytes a pixel, so MAX_PIXELS
bounds it at 256 MiB, and the size is taken from the header before anything is decoded. Truncated files are refused
(`ImageFile.LOAD_TRUNCATED_IMAGES` stays off). Pure functions, any thread.
"""

from __future__ import annotations

import ctypes
import functools
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile, JpegImagePlugin

from dedupfs.errors import IngestError, UndecodableError, UnfitPictureError
from dedupfs.ingest.sniff import sniff
from dedupfs.model import PictureFormat

MAX_PIXELS = 64 * 1024 * 1024
"""Largest picture that is decoded at all; phones reach 50 megapixels, and a worker holds three pictures at once."""

TRANSPOSITIONS: dict[int, Image.Transpose | None] = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes stored pixels upright."""

INVERSE_ORIENTATION = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
"""EXIF orientation -> the one whose transposition turns upright pixels back into stored ones."""

_ORIENTATION_TAG = 0x0112
_DEEP_PNG_BITS = 16

_PILLOW_NAMES = {
    PictureFormat.JPEG: "JPEG",
    PictureFormat.PNG: "PNG",
    PictureFormat.WEBP: "WEBP",
    PictureFormat.TIFF: "TIFF",
    PictureFormat.BMP: "BMP",
    PictureFormat.GIF: "GIF",
    PictureFormat.AVIF: "AVIF",
    PictureFormat.HEIC: "HEIF",
}

_MODES_FIT = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA"})


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture as it is stored, not turned upright.

    Of PNG pictures with 16 bits a channel these are the upper 8: enough for a representative, never for a member, which
    `png_coding` sees to.

    `image` has mode L, LA, RGB or RGBA; `stored_mode` is what Pillow called it before palettes were resolved. With a
    draft the image is smaller than (`width_px`, `height_px`), which are the stored dimensions.
    """

    image: Image.Image
    picture_format: PictureFormat
    width_px: int
    height_px: int
    orientation: int
    icc: bytes
    stored_mode: str

    @property
    def upright_px(self) -> tuple[int, int]:
        """Width and height after the EXIF orientation is applied."""
        return (self.height_px, self.width_px) if self.orientation >= 5 else (self.width_px, self.height_px)


@dataclass(frozen=True, slots=True)
class Header:
    """What a JPEG says of itself before a pixel is decoded; width and height as they are stored."""

    size_px: tuple[int, int]
    orientation: int
    mode: str


@dataclass(frozen=True, slots=True)
class Outline:
    """What the header of a picture says of what decoding it will take; the first two flags are about JPEG alone."""

    picture_format: PictureFormat
    width_px: int
    height_px: int
    is_progressive: bool
    is_subsampled: bool
    has_alpha: bool
    has_palette: bool

    @property
    def pixels(self) -> int:
        """Their number."""
        return self.width_px * self.height_px


@contextmanager
def translated() -> Iterator[None]:
    """Turn whatever Pillow raises over hostile bytes into UndecodableError; memory errors pass, warnings go."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (IngestError, MemoryError):
        raise
    except Exception as exc:  # Its readers raise SyntaxError, struct.error, KeyError and more; there is no common base.
        raise UndecodableError(f"does not decode: {type(exc).__name__}") from exc


def decode(data: bytes, draft_px: tuple[int, int] | None = None, luma: bool = False) -> Picture:
    """Decode a file.

    Args:
        draft_px: JPEG only: decode at the smallest DCT scale that is no smaller than this (stored width, height).
        luma: JPEG only, with `draft_px`: decode the luma plane alone.
    Raises:
        UnfitPictureError: a sort of picture that is not compared.
        UndecodableError: not a picture, broken or cut short.
    """
    with translated():
        image, picture_format = _open(data)
        width_px, height_px = image.size
        orientation = _orientation(image)
        stored_mode = image.mode
        icc = image.info.get("icc_profile") or b""
        if draft_px is not None and picture_format is PictureFormat.JPEG:
            # Without a mode draft() leaves the colour space alone and only scales.
            image.draft("L" if luma else None, draft_px)
        if picture_format is PictureFormat.JPEG and isinstance(image, ImageFile.ImageFile):
            # In pieces of 64 KiB it takes 2 % longer.
            image.decodermaxblock = len(data)
        image.load()
        return Picture(
            _normalised(image),
            picture_format,
            width_px,
            height_px,
            orientation,
            icc if isinstance(icc, bytes) else b"",
            stored_mode,
        )


def outline(data: bytes) -> Outline:
    """Read the header of a picture; no pixel is decoded.

    Raises:
        UnfitPictureError, UndecodableError: as `decode`, as far as the header tells.
    """
    with translated():
        image, picture_format = _open(data)
        return Outline(
            picture_format,
            *image.size,
            is_progressive=picture_format is PictureFormat.JPEG and "progressive" in image.info,
            is_subsampled=any(layer[1:3] != (1, 1) for layer in getattr(image, "layer", [])),
            has_alpha=image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info,
            has_palette=image.mode in ("P", "PA"),
        )


def header(data: bytes) -> Header:
    """Read the header of a JPEG; to know the orientation of others, Pillow would have to decode them.

    Raises:
        UnfitPictureError, UndecodableError: as `decode`, as far as the header tells.
    """
    with translated():
        image, _ = _open(data)
        return Header(image.size, _orientation(image), image.mode)


def planes(data: bytes) -> Image.Image:
    """Return the samples of a JPEG as they are coded, mode L or YCbCr; chroma of fewer samples is repeated.

    Raises:
        UndecodableError, UnfitPictureError: as `decode`.
    """
    with translated():
        whole = _drafted(data, None)
        if whole.mode == "L":
            return whole
        factors = _chroma_factors(whole)
        if factors == (1, 1):
            return whole
        if factors == (2, 2):
            # At half the size libjpeg has nothing to bring to full size: chroma comes as it is.
            small = _drafted(data, (whole.width // 2, whole.height // 2))
            if small.size == (-(-whole.width // 2), -(-whole.height // 2)):
                # Each picture goes as soon as it can: together they would be the largest that a comparison takes.
                luma = whole.getchannel(0)
                del whole
                chroma = [small.getchannel(band) for band in (1, 2)]
                del small
                return Image.merge("YCbCr", [luma, *(_repeated(plane, luma.size) for plane in chroma)])
        if factors == (2, 1) and whole.width >= 4:
            luma, *chroma = whole.split()
            return Image.merge("YCbCr", [luma, *map(_unsmoothed, chroma)])
        raise UnfitPictureError("a JPEG of unusual sampling")


def coded_planes(data: bytes) -> list[Image.Image]:
    """Return luma and the two planes of chroma of a JPEG, mode L, these in as many samples as are coded.

    Raises:
        UndecodableError: as `decode`.
        UnfitPictureError: as `decode`, and where chroma has as many samples as luma, or there is none.
    """
    whole = planes(data)
    with translated():
        factors = _chroma_factors(_header_of(data)) if whole.mode == "YCbCr" else (1, 1)
    if factors == (1, 1):
        raise UnfitPictureError("a JPEG whose chroma is whole")
    luma, *chroma = whole.split()
    return [luma, *(_thinned(plane, factors) for plane in chroma)]


def _thinned(plane: Image.Image, factors: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(np.asarray(plane)[:: factors[1], :: factors[0]]))


def _header_of(data: bytes) -> Image.Image:
    return JpegImagePlugin.JpegImageFile(io.BytesIO(data))


def _drafted(data: bytes, size_px: tuple[int, int] | None) -> Image.Image:
    image = _header_of(data)
    if image.width * image.height > MAX_PIXELS or image.mode not in ("L", "RGB"):
        raise UnfitPictureError("no picture of luma and chroma")
    if image.mode == "RGB":
        image.draft("YCbCr", size_px)
    image.load()
    return image


def _chroma_factors(image: Image.Image) -> tuple[int, int]:
    layers: list[tuple[int, int, int, int]] = getattr(image, "layer", [])
    sampling = [(across, down) for _, across, down, _ in layers]
    if len(sampling) != 3 or sampling[1] != sampling[2]:
        raise UnfitPictureError("a JPEG of unusual sampling")
    (across, down), (chroma_across, chroma_down) = sampling[:2]
    if across % chroma_across or down % chroma_down:
        raise UnfitPictureError("a JPEG of unusual sampling")
    return across // chroma_across, down // chroma_down


def _unsmoothed(plane: Image.Image) -> Image.Image:
    """Return chroma that libjpeg brought to double width, each sample repeated instead.

    Every output column is three parts of one sample and one part of a neighbour. Source: jdsample.c, h2v1_fancy.
    """
    smooth = np.asarray(plane).astype(np.int32)
    columns = -(-smooth.shape[1] // 2)
    smooth = np.pad(smooth, ((0, 0), (0, 2 * columns - smooth.shape[1])), mode="edge")
    even, odd = smooth[:, 0::2], smooth[:, 1::2]
    # Each sample is known from the two columns on its left, and from the two on its right.
    left = np.concatenate((2 * even[:, :1], 3 * even[:, 1:] - odd[:, :-1]), axis=1)
    right = np.concatenate((3 * odd[:, :-1] - even[:, 1:], 2 * odd[:, -1:]), axis=1)
    samples = np.clip((left + right + 2) >> 2, 0, 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(samples.repeat(2, axis=1)[:, : plane.width]))


def _repeated(plane: Image.Image, size_px: tuple[int, int]) -> Image.Image:
    doubled = plane.resize((2 * plane.width, 2 * plane.height), Image.Resampling.NEAREST)
    return doubled.crop((0, 0, *size_px))


def tiff_tags(data: bytes) -> dict[int, tuple[int, ...]]:
    """Return the numeric tags of the first picture of a TIFF.

    Raises:
        UndecodableError: not a TIFF, or broken.
    """
    with translated(), Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
        found: dict[int, tuple[int, ...]] = {}
        for tag in image.tag_v2:  # type: ignore[attr-defined]
            value = image.tag_v2[tag]  # type: ignore[attr-defined]
            values = tuple(value) if isinstance(value, tuple | bytes) else (value,)
            if all(isinstance(each, int) for each in values):
                found[tag] = values
        return found


def upright(picture: Picture) -> Image.Image:
    """Return the pixels with the EXIF orientation applied."""
    return transposed(picture.image, picture.orientation)


def transposed(image: Image.Image, orientation: int) -> Image.Image:
    """Return the image turned as EXIF `orientation` (1 to 8) asks."""
    operation = TRANSPOSITIONS[orientation]
    return image if operation is None else image.transpose(operation)


def composed(first: int, second: int) -> int:
    """Return the EXIF orientation that turns as `first` and then `second`."""
    probe = Image.frombytes("L", (3, 2), bytes(range(6)))
    wanted = transposed(transposed(probe, first), second)
    return next(
        orientation
        for orientation in range(1, 9)
        if (made := transposed(probe, orientation)).size == wanted.size and made.tobytes() == wanted.tobytes()
    )


def _open(data: bytes) -> tuple[Image.Image, PictureFormat]:
    """Return the lazily opened picture; raises before any pixel is decoded."""
    picture_format = sniff(data[:64])
    if picture_format is None:
        raise UndecodableError("no picture format known here")
    name = _PILLOW_NAMES[picture_format]
    if picture_format is PictureFormat.HEIC and not _reads_heic():
        raise UnfitPictureError("no decoder for HEIC")
    image: Image.Image
    if picture_format is PictureFormat.JPEG:
        # The class itself: Image.open() would turn files with further pictures behind the first into another format.
        image = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    else:
        image = Image.open(io.BytesIO(data), formats=(name,))
    width_px, height_px = image.size
    if width_px * height_px > MAX_PIXELS:
        raise UnfitPictureError(f"{width_px} x {height_px} pixels are more than are compared")
    if picture_format is not PictureFormat.JPEG and getattr(image, "n_frames", 1) != 1:
        raise UnfitPictureError("more than one frame")
    if image.mode not in _MODES_FIT:
        raise UnfitPictureError(f"pixels of mode {image.mode}")
    if picture_format is PictureFormat.PNG and data[24:25] == bytes([_DEEP_PNG_BITS]) and "transparency" in image.info:
        raise UnfitPictureError("16 bits a channel and a transparent colour")  # Its upper 8 bits name more colours.
    if picture_format is PictureFormat.TIFF and max(image.tag_v2.get(258, (8,))) > 8:  # type: ignore[attr-defined]
        raise UnfitPictureError("more than 8 bits a channel")
    return image, picture_format


def give_back() -> None:
    """Have the allocator give the kernel what is free between what is in use, before something large is made."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    """Return glibc's function, or None where there is none."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


@functools.cache
def _reads_heic() -> bool:
    """Return whether pillow-heif is installed; it is loaded when the first HEIC picture comes."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener(thumbnails=False)
    return True


def _normalised(image: Image.Image) -> Image.Image:
    """Return the image as L, LA, RGB or RGBA, palettes and keyed transparency resolved."""
    transparent = "transparency" in image.info
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if transparent or image.mode == "PA" else "RGB")
    elif image.mode == "1":
        image = image.convert("LA" if transparent else "L")
    elif transparent and image.mode in ("L", "RGB"):
        image = image.convert(image.mode + "A" if image.mode == "L" else "RGBA")
    return image


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001  As in `translated`; a picture with broken EXIF is shown as it is stored.
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
