"""Footprint: what a job of a worker will take of memory, told from the headers of its pictures before any is decoded.

A worker is told with each job how much it may take. A job that needs more says so, at once, and is given that much when
others have finished, or never. Owns the estimates; leaves sharing to `gate` and `workers`. `demand` speaks for the one
job that a process runs at a time; where nobody set a limit, as in tests and tools, everything is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dedupfs.errors import IngestError, MemoryShortError
from dedupfs.ingest.decode import Outline, outline
from dedupfs.model import PictureFormat

# Measured at 6 and 12 megapixels as the growth of a fresh worker's largest resident memory, in bytes a pixel; the
# pictures as JPEG of 4:2:0, in the other formats as Pillow writes them. Pillow keeps four bytes a pixel.
_DECODED = {
    PictureFormat.JPEG: 4.3,
    PictureFormat.PNG: 6.5,
    PictureFormat.WEBP: 22.0,
    PictureFormat.AVIF: 10.5,
    PictureFormat.TIFF: 8.5,
    PictureFormat.BMP: 8.5,
    PictureFormat.GIF: 8.5,
    PictureFormat.HEIC: 12.0,
}
"""To decode a picture whole and hold it."""
_DRAFT = 0.6
"""To decode a JPEG to an eighth of its size."""
_COEFFICIENTS, _COEFFICIENTS_SUBSAMPLED = 6.0, 3.2
"""More for a progressive JPEG, whose coefficients libjpeg gathers first."""
_COEFFICIENTS_ASIDE = 4.0
"""Less of that in a search: when they are there, not everything else is."""
_ALPHA = 10.0
"""More for a picture with alpha: it is laid on a ground."""

_SEARCH_BASE = 4.9
"""A search for a rendition beside the decoded representative, a pixel of that."""
_SEARCH_MEMBER = {
    PictureFormat.JPEG: 7.2,
    PictureFormat.PNG: 22.0,
    PictureFormat.WEBP: 12.0,
    PictureFormat.AVIF: 22.0,
    PictureFormat.TIFF: 8.0,
    PictureFormat.BMP: 10.0,
}
"""The same beside the decoded member, a pixel of that. In all, a pixel of the larger one: JPEG of equal size 20.4, of
half the size 12.8, of 90 % 19.7; of equal size PNG 26, AVIF 42, WebP 35, TIFF 22, BMP 28; a PNG of half the size 16."""
_SEARCH_OTHERS = 7.0
"""More a pixel of the representative for a member that is WebP or AVIF: 16.7 for a WebP of a quarter of the size."""
_PALETTE = 40.0
"""More for a member with a palette: 74 in all at equal size."""
_ENLARGED = 9.0
"""More for a member that is larger than the representative: 22.3 in all, a pixel of the member, for twice the size."""
_REPLAY_BASE, _REPLAY_MEMBER, _REPLAY_ENLARGED = 7.0, 2.2, 3.0
"""To make a JPEG anew to the last byte: 8.9 at equal size, 7.5 for a member of half the size; 4.6 a pixel of a member
that is much larger."""
_BLOCKS = 1.0
"""More for luma alone of each of two pictures, of which parts are transformed."""
_RENDER_BASE, _RENDER_MEMBER = 3.0, 12.0
"""To draw a rendition, beside the decoded representative: 7.3 for a JPEG of half the size."""

_ALWAYS_BYTES = 6 << 20
"""What a job takes besides pixels and files; what was measured holds the files, of up to 3 bytes a pixel."""
SMALL_BYTES = 16 << 20
"""What every job may take without being asked: enough to look at a JPEG of 12 megapixels."""


class _Allowance:
    bytes_: int | None = None


@contextmanager
def allowed(size_bytes: int | None) -> Iterator[None]:
    """Let `demand` refuse more than so many bytes, for the length of a block; None refuses nothing."""
    _Allowance.bytes_ = size_bytes
    try:
        yield
    finally:
        _Allowance.bytes_ = None


def is_limited() -> bool:
    """Whether the job that runs may take only so much."""
    return _Allowance.bytes_ is not None


def demand(size_bytes: int) -> None:
    """Say that so much memory will be taken. Raises MemoryShortError where that is not allowed."""
    if _Allowance.bytes_ is not None and size_bytes > _Allowance.bytes_:
        raise MemoryShortError(size_bytes)


def of_inspect(data: bytes) -> int:
    """Return the bytes that it takes to look at a picture."""
    seen = _outline(data)
    if seen is None:
        return _total()
    drafted = seen.picture_format is PictureFormat.JPEG
    per_pixel = _DRAFT if drafted else _DECODED[seen.picture_format]
    return _total((seen, per_pixel + _coefficients(seen) + _alpha(seen)))


def of_look(data: bytes) -> int:
    """Return the bytes that it takes to decode a picture whole and draw it small."""
    seen = _outline(data)
    return _total() if seen is None else _total((seen, _decoded(seen) + _coefficients(seen) + 4.0))


def of_ancestry(picture: bytes, source: bytes) -> int:
    """Return the bytes that it takes to tell whether a picture was made from a source."""
    outlines = [each for each in map(_outline, (picture, source)) if each is not None]
    return _total(*((seen, _decoded(seen) + _coefficients(seen) + _BLOCKS) for seen in outlines))


def of_replay(member: bytes, representative: bytes) -> int:
    """Return the bytes that it takes to try and make a member to the last byte; only JPEGs are."""
    seen, base = _outline(member), _outline(representative)
    if seen is None or base is None or not seen.picture_format is base.picture_format is PictureFormat.JPEG:
        return _total()
    own = _REPLAY_MEMBER + (_REPLAY_ENLARGED if seen.pixels > base.pixels else 0.0)
    return _total((base, _REPLAY_BASE + _coefficients(base) / 2), (seen, own))


def of_search(member: bytes, representative: bytes) -> int:
    """Return the bytes that it takes to search for a rendition and to compare it."""
    seen, base = _outline(member), _outline(representative)
    if seen is None or base is None:
        return _total()
    own = _SEARCH_MEMBER.get(seen.picture_format, 0.0) + (_PALETTE if seen.has_palette else 0.0)
    own += _ENLARGED if seen.pixels > base.pixels else 0.0
    own += max(0.0, _coefficients(seen) - _COEFFICIENTS_ASIDE)
    others = _SEARCH_OTHERS if seen.picture_format in (PictureFormat.WEBP, PictureFormat.AVIF) else 0.0
    return _total((base, _SEARCH_BASE + _decoded(base) + others), (seen, own + _decoded(seen)))


def of_render(representative: bytes, size_px: tuple[int, int]) -> int:
    """Return the bytes that it takes to draw a rendition of a size."""
    base = _outline(representative)
    if base is None:
        return _total()
    return _total((base, _RENDER_BASE + _decoded(base))) + int(size_px[0] * size_px[1] * _RENDER_MEMBER)


def _decoded(seen: Outline) -> float:
    return _DECODED[seen.picture_format] + _alpha(seen)


def _alpha(seen: Outline) -> float:
    return _ALPHA if seen.has_alpha else 0.0


def _coefficients(seen: Outline) -> float:
    if not seen.is_progressive:
        return 0.0
    return _COEFFICIENTS_SUBSAMPLED if seen.is_subsampled else _COEFFICIENTS


def _total(*parts: tuple[Outline, float]) -> int:
    return _ALWAYS_BYTES + int(sum(seen.pixels * per_pixel for seen, per_pixel in parts))


def _outline(data: bytes) -> Outline | None:
    """Return what the header says; None for a picture that the job will turn down before it decodes it."""
    try:
        return outline(data)
    except IngestError:
        return None
