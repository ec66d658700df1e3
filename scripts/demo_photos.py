"""Make the collection that scripts/demo shows: photos, and what becomes of them in a real library.

Pure: reads a folder of photos, writes another one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageEnhance, ImageFont

# Folders below edited/: changes a person made on purpose, which must survive.
LOOK_ALIKES = ("date printed on", "brightened", "cropped")


def make_collection(originals: Path, collection: Path) -> int:
    """Copy the photos of a folder into `collection`, with versions of each; return the number of photos."""
    photos = sorted(originals.glob("*.jpg"))
    for photo in photos:
        for folder, make in VERSIONS.items():
            target = collection / folder / photo.name
            target.parent.mkdir(parents=True, exist_ok=True)
            make(photo, target)
    shutil.copy(originals / "ATTRIBUTION.md", collection)
    return len(photos)


def messenger(photo: Path, target: Path) -> None:
    """Smaller, strongly compressed, without metadata."""
    with Image.open(photo) as picture:
        picture.thumbnail((640, 640), Image.Resampling.LANCZOS)
        # A new picture carries none of the metadata of the old one.
        Image.frombytes(picture.mode, picture.size, picture.tobytes()).save(target, quality=70)


def shrunk(photo: Path, target: Path) -> None:
    """Half the size for the web, progressive, with its metadata."""
    with Image.open(photo) as picture:
        half = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BICUBIC)
        half.save(target, quality=85, progressive=True, optimize=True, **_metadata(picture))


def recompressed(photo: Path, target: Path) -> None:
    """The same dimensions at a lower quality."""
    with Image.open(photo) as picture:
        picture.save(target, quality=60, **_metadata(picture))


def as_png(photo: Path, target: Path) -> None:
    with Image.open(photo) as picture:
        picture.save(target.with_suffix(".png"), **_metadata(picture))


def as_webp(photo: Path, target: Path) -> None:
    with Image.open(photo) as picture:
        picture.save(target.with_suffix(".webp"), quality=85, **_metadata(picture))


def tagged(photo: Path, target: Path) -> None:
    """Other EXIF data around the same image data, as a photo manager writes it."""
    exif = Image.Exif()
    exif[0x010E] = f"My favourite {photo.stem}"  # ImageDescription
    segment = exif.tobytes()
    marker = b"\xff\xe1" + (len(segment) + 2).to_bytes(2) + segment
    target.write_bytes(b"\xff\xd8" + marker + _without_exif(photo.read_bytes())[2:])


def dated(photo: Path, target: Path) -> None:
    """The date in a corner, as cameras used to print it."""
    with Image.open(photo) as picture:
        font = ImageFont.load_default(size=picture.height / 24)
        corner = (picture.width * 0.96, picture.height * 0.95)
        ImageDraw.Draw(picture).text(corner, "'98 10 24", font=font, fill=(255, 130, 40), anchor="rs")
        picture.save(target, quality=92, **_metadata(picture))


def brightened(photo: Path, target: Path) -> None:
    with Image.open(photo) as picture:
        ImageEnhance.Brightness(picture).enhance(1.12).save(target, quality=92, **_metadata(picture))


def cropped(photo: Path, target: Path) -> None:
    """Five percent less on every side."""
    with Image.open(photo) as picture:
        margin_x, margin_y = picture.width // 20, picture.height // 20
        inside = picture.crop((margin_x, margin_y, picture.width - margin_x, picture.height - margin_y))
        inside.save(target, quality=92, **_metadata(picture))


VERSIONS: dict[str, Callable[[Path, Path], object]] = {
    "camera": shutil.copy2,
    "backup": shutil.copy2,
    "messenger": messenger,
    "web": shrunk,
    "recompressed": recompressed,
    "png": as_png,
    "webp": as_webp,
    "tagged": tagged,
    "edited/date printed on": dated,
    "edited/brightened": brightened,
    "edited/cropped": cropped,
}


def _metadata(picture: Image.Image) -> dict[str, Any]:
    return {name: picture.info[name] for name in ("exif", "icc_profile") if name in picture.info}


def _without_exif(jpeg: bytes) -> bytes:
    """Return the JPEG file without its EXIF segment; everything else stays as it is."""
    position = 2
    while jpeg[position + 1] != 0xDA:  # start of scan: no metadata behind it
        length = int.from_bytes(jpeg[position + 2 : position + 4])
        if jpeg[position + 1] == 0xE1 and jpeg[position + 4 : position + 10] == b"Exif\0\0":
            return jpeg[:position] + jpeg[position + 2 + length :]
        position += 2 + length
    return jpeg
