"""Encode pixels as the coded image of a WebP with another picture's parameters, to an exact size.

Owns the encoder settings that a recipe stores for WebP members and the search for the quality. Pure functions, any
thread.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from dedupfs.errors import IntegrityError, OversizeError
from dedupfs.ingest import webp
from dedupfs.ingest.decode import decode, translated
from dedupfs.ingest.verify import Steps

SECTIONS = 4
"""Chunks before the image, chunks behind it, what follows the RIFF form, and the RIFF size field."""

_LAYOUT = struct.Struct("<BBB")
_LOSSLESS = 1

_METHOD = 4
"""The default of libwebp's tools and of Pillow; the file does not tell which one was used."""

_LOSSLESS_ATTEMPTS = ((80, 4), (75, 4), (70, 4), (100, 4), (100, 6))
"""Qualities (that is, efforts) and methods: defaults of Pillow, cwebp and of cwebp -z 6, then the strongest."""

_COARSER_STEPS = 12
"""Points of quality that a file may lose where another version of the library makes it longer."""

_MAX_ENCODINGS = 6
_WORK_PIXELS = 24_000_000
"""Pixels that a search encodes in all, at about 8 million a second; at least two encodings are always tried."""


@dataclass(frozen=True, slots=True)
class WebpTarget:
    """A WebP member: its own sections, the mode its pixels are encoded from, how coarsely and to how much."""

    sections: tuple[bytes, bytes, bytes, bytes]
    mode: str
    steps: Steps
    lossless: bool
    quantizers: tuple[int, ...]
    coded: bytes
    size_bytes: int


def target_of(data: bytes, mode: str) -> WebpTarget:
    """Take a member apart whose pixels are of this mode.

    Raises:
        UndecodableError, UnfitPictureError: as `webp.split`.
    """
    parts = webp.split(data)
    step = webp.visible_step(parts.quantizers)
    sections = (parts.before, parts.after, parts.trailer, data[4:8])
    return WebpTarget(sections, mode, Steps(step, step), parts.lossless, parts.quantizers, parts.coded, len(data))


def likely_quality(quantizers: tuple[int, ...]) -> int:
    """Return the quality (0 to 100) that libwebp turns into such quantizer indices. Source: libwebp, quant_enc.c."""
    linear = (1 - sum(quantizers) / max(1, len(quantizers)) / 127) ** 3
    return round(100 * (linear * 1.5 if linear < 0.5 else (linear + 1) / 2))


def fitted(image: Image.Image, target: WebpTarget) -> Iterator[tuple[bytes, bytes]]:
    """Yield (settings, file) at exactly the size: the member if a setting repeats it, else the finest that fits.

    Raises:
        OversizeError: none does.
    """
    attempts = _lossless_settings() if target.lossless else None
    quality = likely_quality(target.quantizers)
    tried: dict[int, int] = {}
    kept: tuple[int, bytes, bytes] | None = None
    allowed = max(2, min(_MAX_ENCODINGS, _WORK_PIXELS // (image.width * image.height)))
    for _ in range(allowed):
        if attempts is not None:
            coding = next(attempts, b"")
            if not coding:
                break
        else:
            coding = _LAYOUT.pack(0, quality, _METHOD)
        coded = encode(image, coding)
        tried[quality] = len(coded)
        written = assemble(target.sections, coded, target.size_bytes)
        if written is not None and (kept is None or len(coded) > kept[0]):
            kept = (len(coded), coding, written)
        if coded == target.coded or (target.lossless and written is not None):
            break
        if attempts is None:
            following = _next_quality(tried, len(target.coded))
            if following in tried and kept is None and min(tried) > 0:
                # All that were small enough leave a gap that no chunk fills.
                following = min(tried) - 1
            if following in tried:
                break
            quality = following
    if kept is None:
        raise OversizeError(max(0, min(tried.values()) - len(target.coded)))
    yield kept[1], kept[2]


def _next_quality(tried: dict[int, int], wanted: int) -> int:
    """Return the quality at which the size should come closest to the wanted one, from those measured so far."""
    above = min((q for q, size in tried.items() if size > wanted), default=None)
    below = max((q for q, size in tried.items() if size <= wanted), default=None)
    if above is None or below is None:
        known = below if above is None else above
        assert known is not None
        # About 1.5 % of size a point of quality in the middle of the scale, more at its upper end.
        step = math.log(wanted / tried[known]) / (0.015 if known < 85 else 0.04)
        moved = known + (max(1, round(step)) if above is None else min(-1, round(step)))
        return min(100, max(0, moved))
    if above - below <= 1:
        return below
    share = math.log(wanted / tried[below]) / math.log(tried[above] / tried[below])
    return min(above - 1, max(below + 1, round(below + share * (above - below))))


def _lossless_settings() -> Iterator[bytes]:
    return iter([_LAYOUT.pack(_LOSSLESS, quality, method) for quality, method in _LOSSLESS_ATTEMPTS])


def requantized(image: Image.Image, target: WebpTarget) -> Image.Image:
    """Return the image encoded about as coarsely as the target and decoded again, quickly."""
    if target.lossless:
        return image
    out = io.BytesIO()
    with translated():
        image.save(out, "WEBP", quality=likely_quality(target.quantizers), method=_METHOD)
    return decode(out.getvalue()).image


def write(image: Image.Image, coding: bytes, sections: tuple[bytes, ...], size_bytes: int) -> bytes | None:
    """Return the file that settings make of an image, or None when it does not come out at the size.

    Raises:
        IntegrityError: settings that cannot be read.
    """
    return assemble(sections, encode(image, coding), size_bytes)


def is_lossy(coding: bytes) -> bool:
    """Whether settings are those of a lossy file."""
    return coding[:1] != bytes([_LOSSLESS])


def coarser(coding: bytes) -> Iterator[bytes]:
    """Yield settings of lossy files that come out smaller, a step at a time."""
    flags, quality, method = _LAYOUT.unpack(coding)
    for step in range(1, min(quality, _COARSER_STEPS) + 1):
        yield _LAYOUT.pack(flags, quality - step, method)


def stronger(coding: bytes) -> Iterator[bytes]:
    """Yield other settings for the same pixels that mostly come out smaller, without taking a hundred times as long."""
    strong = _LAYOUT.pack(_LOSSLESS, 100, _METHOD)
    if coding != strong:
        yield strong


def encode(image: Image.Image, coding: bytes) -> bytes:
    """Return the image chunks, alpha included.

    Raises:
        IntegrityError: settings that cannot be read.
    """
    if len(coding) != _LAYOUT.size:
        raise IntegrityError("WebP settings of a wrong length")
    flags, quality, method = _LAYOUT.unpack(coding)
    if flags > _LOSSLESS or quality > 100 or method > 6:
        raise IntegrityError("WebP settings with a forbidden value")
    out = io.BytesIO()
    with translated():
        image.save(out, "WEBP", lossless=bool(flags), quality=quality, method=method, exact=bool(flags))
    return webp.split(out.getvalue()).coded


def assemble(sections: tuple[bytes, ...], coded: bytes, size_bytes: int) -> bytes | None:
    """Return the whole file at exactly the size, or None when that cannot be met.

    The gap becomes a chunk that readers ignore, last in the RIFF form; it needs eight bytes and an even length.
    """
    before, after, trailer, form_bytes = sections
    made = webp.HEADER_BYTES + len(before) + len(coded) + len(after) + len(trailer)
    gap = size_bytes - made
    if gap < 0 or gap & 1 or 0 < gap < webp.CHUNK_HEADER_BYTES:
        return None
    filler = webp.make_chunk(webp.FILLER_KIND, bytes(gap - webp.CHUNK_HEADER_BYTES)) if gap else b""
    return b"".join((b"RIFF", form_bytes, b"WEBP", before, coded, after, filler, trailer))
