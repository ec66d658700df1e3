"""Tighter: what to encode where a file does not come out at its size any more.

Other libraries than those that a rendition was verified with, or another processor, may round otherwise or compress
less well, and a file that was to the last byte has no room for that. Then it is drawn a little coarser rather than not
at all; whoever reads it proves that it still looks the same (see `renderer`). Measured with lossless WebP files that
libwebp 1.5 had made: with libwebp 1.6, five of six did not come out at their size.

The steps for each format go from what nobody can see to what is hard to see. Pure functions, any thread.
"""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image

from dedupfs.errors import OversizeError
from dedupfs.ingest import avif_coding, gif_coding, jpeg_coding, png_coding, tiff_coding, webp_coding
from dedupfs.model import PictureFormat

SHADES = (128, 64, 32)
"""Levels that are left of 256 in a file without loss: no sample moves by more than 1, 2 or 4, and black and white stay.
Each halving takes about an eighth off a photo."""


def tighter(
    picture_format: PictureFormat, image: Image.Image, coding: bytes, sections: tuple[bytes, ...], size_bytes: int
) -> bytes | None:
    """Return a file of exactly the size that shows the image as well as can be, or None.

    Args:
        coding: the settings with which it does not come out at the size.
    Raises:
        IntegrityError: settings or sections that cannot be read.
    """
    if picture_format is PictureFormat.JPEG:
        return _jpeg(image, coding, sections, size_bytes)
    made: Iterator[bytes | None]
    if picture_format is PictureFormat.AVIF:
        made = (avif_coding.write(image, each, sections, size_bytes) for each in avif_coding.coarser(coding))
    elif picture_format is PictureFormat.WEBP and webp_coding.is_lossy(coding):
        made = (webp_coding.write(image, each, sections, size_bytes) for each in webp_coding.coarser(coding))
    else:
        made = _without_loss(picture_format, image, coding, sections, size_bytes)
    return next((each for each in made if each is not None), None)


def _jpeg(image: Image.Image, coding: bytes, sections: tuple[bytes, ...], size_bytes: int) -> bytes | None:
    settings = jpeg_coding.JpegCoding.from_bytes(coding)
    try:
        return next((made for _, made in jpeg_coding.fitted(image, settings, sections, size_bytes)), None)
    except OversizeError:
        return None


def _without_loss(
    picture_format: PictureFormat, image: Image.Image, coding: bytes, sections: tuple[bytes, ...], size_bytes: int
) -> Iterator[bytes | None]:
    module = {
        PictureFormat.GIF: gif_coding,
        PictureFormat.PNG: png_coding,
        PictureFormat.TIFF: tiff_coding,
        PictureFormat.WEBP: webp_coding,
    }.get(picture_format)
    if module is None:
        return
    for settings in module.stronger(coding):
        yield module.write(image, settings, sections, size_bytes)
    for shades in SHADES:
        yield module.write(_in_shades(image, shades), coding, sections, size_bytes)


def _in_shades(image: Image.Image, shades: int) -> Image.Image:
    steps = shades - 1
    table = [round(round(level * steps / 255) * 255 / steps) for level in range(256)]
    same = list(range(256))
    bands = [same if band == "A" else table for band in image.getbands()]
    return image.point([level for band in bands for level in band])
