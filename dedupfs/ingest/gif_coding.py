"""Encode pixels as the coded picture of a GIF with another picture's palette, to an exact size.

Owns LZW as GIF has it (GIF89a, appendix F) and the settings that a recipe stores for GIF members. Each pixel gets the
nearest entry of the palette: what a program dithered comes out without, and the comparison decides. Pure functions, any
thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from dedupfs.errors import IntegrityError, OversizeError, UndecodableError, UnfitPictureError
from dedupfs.ingest import gif, scanlines

SECTIONS = 2
"""Before the coded picture, behind it."""

MAX_PIXELS = 4_000_000
"""Larger ones stay exact: a million pixels take 0.1 to 0.2 s to encode whenever somebody reads."""

_MAX_BITS = 12
FULL_AT = (4096, 4095, 4094, 1 << 30)
"""Codes in use when an encoder starts anew: most programs, giflib, some others; the last one never does.

A recipe has the place in this tuple, and how many bytes are in a sub-block: 255, or 254 from ImageMagick."""

_PASSES = ((0, 8), (4, 8), (2, 4), (1, 2))
"""First row and distance of the rows of an interlaced picture."""


@dataclass(frozen=True, slots=True)
class GifTarget:
    """A GIF member: its own sections, the mode its pixels are taken from, its codes, their room, how it is cut up."""

    sections: tuple[bytes, bytes]
    mode: str
    stream: bytes
    coded_bytes: int
    sub_block_bytes: int


def target_of(data: bytes) -> GifTarget:
    """Take a member apart.

    Raises:
        UndecodableError, UnfitPictureError: as `gif.split`; unfit is a large one too.
    """
    parts = gif.split(data)
    if parts.width_px * parts.height_px > MAX_PIXELS:
        raise UnfitPictureError(f"a GIF of more than {MAX_PIXELS} pixels")
    mode = "RGB" if parts.transparent is None else "RGBA"
    several = len(parts.stream) > parts.coded[0]
    sub_block_bytes = parts.coded[0] if several else gif.MAX_SUB_BLOCK_BYTES
    return GifTarget((parts.before, parts.after), mode, parts.stream, len(parts.coded), sub_block_bytes)


def fitted(image: Image.Image, member: Image.Image, target: GifTarget) -> Iterator[tuple[bytes, bytes]]:
    """Yield (settings, file) at exactly the size: the member if an encoder repeats it, else the first that fits.

    Args:
        member: the member's own pixels.
    Raises:
        OversizeError: none does.
    """
    head = gif.read_head(target.sections[0])
    palette = _palette(head, image.mode)
    places = scanlines.nearest(np.asarray(image), palette)
    same_pixels = np.array_equal(palette[places], np.asarray(member.convert(image.mode)))
    kept: tuple[bytes, bytes] | None = None
    missing_bytes: list[int] = []
    for setting, full_at in enumerate(FULL_AT):
        stream = compressed(_ordered(places, head), head.bits, full_at)
        coded = gif.make_coded(stream, target.coded_bytes, target.sub_block_bytes)
        if coded is None:
            missing_bytes.append(max(1, len(stream) - len(target.stream)))
        elif kept is None or stream == target.stream:
            kept = (bytes([setting, target.sub_block_bytes]), b"".join((target.sections[0], coded, target.sections[1])))
        if stream == target.stream or (kept is not None and not same_pixels):
            break
    if kept is None:
        raise OversizeError(min(missing_bytes))
    yield kept


def stronger(coding: bytes) -> Iterator[bytes]:
    """Yield settings that may make a shorter file of the same pixels."""
    for setting in range(len(FULL_AT)):
        yield bytes([setting, gif.MAX_SUB_BLOCK_BYTES])


def write(image: Image.Image, coding: bytes, sections: tuple[bytes, ...], size_bytes: int) -> bytes | None:
    """Return the file that settings make of an image, or None when it does not come out at the size.

    Raises:
        IntegrityError: settings or sections that cannot be read.
    """
    before, after = sections
    if len(coding) != 2 or coding[0] >= len(FULL_AT) or not coding[1]:
        raise IntegrityError("GIF settings with a forbidden value")
    try:
        head = gif.read_head(before)
    except (UndecodableError, UnfitPictureError) as exc:
        raise IntegrityError("a GIF member without its header") from exc
    if image.size != (head.width_px, head.height_px):
        raise IntegrityError("a GIF member's own bytes do not belong to its pixels")
    places = scanlines.nearest(np.asarray(image), _palette(head, image.mode))
    stream = compressed(_ordered(places, head), head.bits, FULL_AT[coding[0]])
    coded = gif.make_coded(stream, size_bytes - len(before) - len(after), coding[1])
    return None if coded is None else b"".join((before, coded, after))


def _palette(head: gif.GifParts, mode: str) -> scanlines.Bytes:
    """Return the palette entries, with alpha where the mode has it."""
    if mode != "RGBA":
        return head.palette
    opacity = np.full((len(head.palette), 1), 255, np.uint8)
    if head.transparent is not None:
        opacity[head.transparent : head.transparent + 1] = 0
    return np.hstack((head.palette, opacity))


def _ordered(places: scanlines.Bytes, head: gif.GifParts) -> bytes:
    """Return the place in the palette of each pixel, in the order in which they are coded."""
    if head.interlaced:
        places = np.concatenate([places[first::distance] for first, distance in _PASSES])
    return places.tobytes()


def compressed(places: bytes, bits: int, full_at: int) -> bytes:
    """Return the codes of places below 2 ** bits as a stream.

    Args:
        full_at: number of the code with which the table counts as full.
    """
    clear = 1 << bits
    codes: list[int] = [clear]
    counts: list[int] = []
    """How many codes were written with a table: each begins with what is found in an empty one."""
    table: dict[int, int] = {}
    unused = clear + 2
    start = 0
    prefix = places[0]
    for place in places[1:]:
        key = prefix << 8 | place
        found = table.get(key)
        if found is not None:
            prefix = found
            continue
        codes.append(prefix)
        prefix = place
        if unused < full_at:
            if unused <= _LAST_CODE:
                table[key] = unused
            unused += 1
        else:
            codes.append(clear)
            counts.append(len(codes) - start)
            start = len(codes)
            table = {}
            unused = clear + 2
    codes += [prefix, clear + 1]
    counts.append(len(codes) - start)
    # The clear code in front belongs to no table.
    counts[0] -= 1
    return _packed(np.array(codes, np.uint16), _widths(counts, bits))


_LAST_CODE = (1 << _MAX_BITS) - 1


def _widths(counts: list[int], bits: int) -> npt.NDArray[np.uint8]:
    """Return how many bits each code takes: one more whenever the reader's table has outgrown them."""
    made = [np.array([bits + 1], np.uint8)]
    for count in counts:
        # The reader has one entry fewer than codes; it widens when the next entry would not fit any more.
        entries = (1 << bits) + 1 + np.arange(count)
        made.append(np.clip(np.frexp(entries.astype(np.float64))[1], bits + 1, _MAX_BITS).astype(np.uint8))
    return np.concatenate(made)


def _packed(codes: npt.NDArray[np.uint16], widths: npt.NDArray[np.uint8]) -> bytes:
    """Return codes one behind the other, lowest bits first."""
    ends = np.cumsum(widths, dtype=np.int64)
    starts = ends - widths
    placed = np.zeros(int(ends[-1]), np.uint8)
    for bit in range(_MAX_BITS):
        chosen = widths > bit
        placed[starts[chosen] + bit] = codes[chosen] >> bit & 1
    return np.packbits(placed, bitorder="little").tobytes()
