"""What a file is by its leading bytes, and where chunks must be cut so that metadata and image data never share one.

Owns the signatures; the layout of each format is the business of `jpeg`, `png` and `webp`. Pure functions, any thread.
"""

from __future__ import annotations

from dedupfs.ingest import avif, jpeg, png, webp
from dedupfs.model import PictureFormat

SNIFF_BYTES = 64
"""How many leading bytes `sniff` looks at, at most."""

_SIGNATURES = (
    (b"\xff\xd8\xff", PictureFormat.JPEG),
    (b"\x89PNG\r\n\x1a\n", PictureFormat.PNG),
    (b"II*\x00", PictureFormat.TIFF),
    (b"MM\x00*", PictureFormat.TIFF),
    (b"GIF87a", PictureFormat.GIF),
    (b"GIF89a", PictureFormat.GIF),
)
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_BMP_HEADER_BYTES = frozenset({12, 40, 52, 56, 64, 108, 124})


def sniff(head: bytes) -> PictureFormat | None:
    """Return the format that the first bytes of a file name, or None.

    Args:
        head: the first SNIFF_BYTES of the file, or all of it when it is shorter.
    """
    for signature, picture_format in _SIGNATURES:
        if head.startswith(signature):
            return None if picture_format is PictureFormat.TIFF and head[8:10] == b"CR" else picture_format
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return PictureFormat.WEBP
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_BYTES:
        return PictureFormat.BMP
    if head[4:8] == b"ftyp":
        return _isobmff(head)
    return None


def _isobmff(head: bytes) -> PictureFormat | None:
    """Tell AVIF from HEIC by the major brand, then by the compatible ones."""
    end = min(int.from_bytes(head[:4], "big"), len(head), SNIFF_BYTES)
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))]
    if brands[0] not in _AVIF_BRANDS | _HEIC_BRANDS:
        return None
    if _AVIF_BRANDS.intersection(brands):
        return PictureFormat.AVIF
    return PictureFormat.HEIC


def image_cuts(data: bytes) -> tuple[int, ...]:
    """Return the `cut_points` of a file of whatever sort; none where it is no picture."""
    picture_format = sniff(data[:SNIFF_BYTES])
    return cut_points(data, picture_format) if picture_format is not None else ()


def cut_points(data: bytes, picture_format: PictureFormat) -> tuple[int, ...]:
    """Return the offsets, rising and strictly inside the file, where a new chunk has to begin.

    They are where the coded image starts and where it ends, so that files that differ in metadata only have the same
    chunks in between. Never raises: of a broken file it gives those that can be found, possibly none.
    """
    span = None
    if picture_format is PictureFormat.JPEG:
        span = jpeg.image_span(data)
    elif picture_format is PictureFormat.PNG:
        span = png.image_span(data)
    elif picture_format is PictureFormat.WEBP:
        span = webp.image_span(data)
    elif picture_format is PictureFormat.AVIF:
        span = avif.image_span(data)
    if span is None:
        return ()
    return tuple(sorted({offset for offset in span if 0 < offset < len(data)}))
