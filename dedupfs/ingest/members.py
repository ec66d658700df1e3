"""A member as its format sees it: own sections, encoder settings, coarseness; and putting a file together again.

The one table from format to the modules that know it. Pure functions, any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from PIL import Image

from dedupfs.errors import IntegrityError, UnfitPictureError
from dedupfs.ingest import (
    avif_coding,
    bmp_coding,
    gif_coding,
    jpeg,
    jpeg_coding,
    png,
    png_coding,
    tiff_coding,
    webp,
    webp_coding,
)
from dedupfs.ingest.decode import Picture
from dedupfs.ingest.jpeg_rounding import Rounding
from dedupfs.ingest.tighter import tighter
from dedupfs.ingest.verify import Steps
from dedupfs.model import PictureFormat


@dataclass(frozen=True, slots=True)
class Member:
    """A file to be rendered.

    `sections` are its own bytes, `modes` the pixel modes it can be encoded from, `steps` how coarsely it was quantized.
    `fitted` yields (settings, file) of encodings of an image, each of exactly the written size, likeliest first;
    `requantized` is an image through the member's encoder and back. `roundings` are other views of a JPEG: the same
    file, if an encoder made it that rounds in another way (`rounding`). `faithful` is False where another codec stands
    in for the member's own in `requantized`.
    """

    picture_format: PictureFormat
    sections: tuple[bytes, ...]
    mode: str
    steps: Steps
    fitted: Callable[[Image.Image], Iterator[tuple[bytes, bytes]]]
    requantized: Callable[[Image.Image], Image.Image]
    rounding: Rounding = Rounding.LIBRARY
    roundings: tuple[Member, ...] = ()
    faithful: bool = True


def open_member(data: bytes, picture: Picture) -> Member:
    """Take a member apart.

    Args:
        picture: what `decode` made of the data.

    Raises:
        UnfitPictureError: a file that is not rendered, whatever the representative.
        UndecodableError: broken.
    """
    picture_format = picture.picture_format
    if picture_format is PictureFormat.JPEG:
        return _jpeg(data)
    if picture_format is PictureFormat.PNG:
        target = png_coding.target_of(data)
        return Member(
            picture_format,
            target.sections,
            target.mode,
            Steps(0.0, 0.0),
            lambda image: png_coding.fitted(image, target),
            lambda image: image,
            faithful=target.header.colour_type != png.PALETTE,
        )
    if picture_format is PictureFormat.WEBP:
        webp_target = webp_coding.target_of(data, picture.stored_mode)
        return Member(
            picture_format,
            webp_target.sections,
            webp_target.mode,
            webp_target.steps,
            lambda image: webp_coding.fitted(image, webp_target),
            lambda image: webp_coding.requantized(image, webp_target),
        )
    if picture_format is PictureFormat.AVIF:
        avif_target = avif_coding.target_of(data)
        subsampled = avif_target.coding.sampling == 0
        return Member(
            picture_format,
            avif_target.sections,
            "RGB",
            avif_target.steps,
            lambda image: avif_coding.fitted(image, picture.image, avif_target),
            lambda image: jpeg_coding.evenly_requantized(image, avif_target.steps.luma, subsampled),
            faithful=False,
        )
    if picture_format is PictureFormat.BMP:
        return _bmp(data, picture)
    if picture_format is PictureFormat.GIF:
        gif_target = gif_coding.target_of(data)
        return Member(
            picture_format,
            gif_target.sections,
            gif_target.mode,
            Steps(0.0, 0.0),
            lambda image: gif_coding.fitted(image, picture.image, gif_target),
            lambda image: image,
            faithful=False,
        )
    if picture_format is PictureFormat.TIFF:
        tiff_target = tiff_coding.target_of(data, picture.stored_mode)
        return Member(
            picture_format,
            tiff_target.sections,
            tiff_target.mode,
            Steps(0.0, 0.0),
            lambda image: tiff_coding.fitted(image, tiff_target),
            lambda image: image,
        )
    raise UnfitPictureError(f"{picture_format.value} is not encoded here")


def _bmp(data: bytes, picture: Picture) -> Member:
    target = bmp_coding.target_of(data, picture.image.mode)

    def fitted(image: Image.Image) -> Iterator[tuple[bytes, bytes]]:
        written = bmp_coding.write(image, target.coding, target.sections, len(data))
        if written is not None:
            yield target.coding, written

    return Member(PictureFormat.BMP, target.sections, target.mode, Steps(0.0, 0.0), fitted, lambda image: image)


def _jpeg(data: bytes) -> Member:
    parts = jpeg.split(data)
    if jpeg.is_multi_picture(parts):
        raise UnfitPictureError("a file of several pictures")
    sections = (parts.before, parts.inside, parts.after)
    usual = jpeg_coding.coding_of(parts)
    steps = steps_of(data, PictureFormat.JPEG)

    def rounding_as(coding: jpeg_coding.JpegCoding) -> Member:
        return Member(
            PictureFormat.JPEG,
            sections,
            "L" if len(parts.frame.tables) == 1 else "RGB",
            steps,
            lambda image: jpeg_coding.fitted(image, coding, sections, len(data)),
            lambda image: jpeg_coding.requantized(image, coding),
            coding.rounding,
        )

    others = [] if usual.keep_rgb else [Rounding.FAST, Rounding.UPWARD, Rounding.INWARD]
    return replace(
        rounding_as(usual), roundings=tuple(rounding_as(replace(usual, rounding=rounding)) for rounding in others)
    )


SECTION_COUNTS = {
    PictureFormat.JPEG: 3,
    PictureFormat.PNG: png_coding.SECTIONS,
    PictureFormat.WEBP: webp_coding.SECTIONS,
    PictureFormat.AVIF: avif_coding.SECTIONS,
    PictureFormat.BMP: bmp_coding.SECTIONS,
    PictureFormat.TIFF: tiff_coding.SECTIONS,
    PictureFormat.GIF: gif_coding.SECTIONS,
}


def write(
    picture_format: PictureFormat, image: Image.Image, coding: bytes, sections: tuple[bytes, ...], size_bytes: int
) -> bytes:
    """Return the file that a recipe's settings make of finished pixels.

    Raises:
        IntegrityError: settings that cannot be read, or a file that does not come out at the size.
    """
    written: bytes | None
    if picture_format is PictureFormat.JPEG:
        coded = jpeg_coding.encode(image, jpeg_coding.JpegCoding.from_bytes(coding))
        written = jpeg_coding.assemble(sections, coded, size_bytes)
    elif picture_format is PictureFormat.PNG:
        written = png_coding.write(image, coding, sections, size_bytes)
    elif picture_format is PictureFormat.AVIF:
        written = avif_coding.write(image, coding, sections, size_bytes)
    elif picture_format is PictureFormat.BMP:
        written = bmp_coding.write(image, coding, sections, size_bytes)
    elif picture_format is PictureFormat.GIF:
        written = gif_coding.write(image, coding, sections, size_bytes)
    elif picture_format is PictureFormat.TIFF:
        written = tiff_coding.write(image, coding, sections, size_bytes)
    else:
        written = webp_coding.write(image, coding, sections, size_bytes)
    if written is None:
        # Not with the libraries that it was verified with.
        written = tighter(picture_format, image, coding, sections, size_bytes)
    if written is None or len(written) != size_bytes:
        raise IntegrityError("a rendition does not come out at its written size")
    return written


UNKNOWN_STEPS = Steps(4.0, 4.0)
"""Taken for lossy pictures whose quantizer is not read (HEIC, AVIF of 10 bits): about JPEG at quality 90."""


def steps_of(data: bytes, picture_format: PictureFormat) -> Steps:
    """Return how coarsely a file was quantized.

    Raises:
        UnfitPictureError, UndecodableError: the headers cannot be read.
    """
    if picture_format is PictureFormat.JPEG:
        tables = jpeg.read_frame(data).tables
        return Steps(jpeg_coding.visible_step(tables[0]), jpeg_coding.visible_step(tables[-1]))
    if picture_format is PictureFormat.WEBP:
        step = webp.visible_step(webp.split(data).quantizers)
        return Steps(step, step)
    if picture_format is PictureFormat.AVIF:
        try:
            return avif_coding.steps_of(data)
        except UnfitPictureError:
            return UNKNOWN_STEPS
    return Steps(0.0, 0.0) if picture_format in LOSSLESS_FORMATS else UNKNOWN_STEPS


LOSSLESS_FORMATS = frozenset({PictureFormat.PNG, PictureFormat.TIFF, PictureFormat.BMP, PictureFormat.GIF})
