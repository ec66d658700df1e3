"""GIF files as blocks: where the one picture lies, which palette it has, what stands around it.

Owns the block syntax (GIF89a, 31 July 1990); the codes of the picture are the business of `gif_coding`. Pure functions,
safe in any thread.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dedupfs.errors import UndecodableError, UnfitPictureError

_SIGNATURES = (b"GIF87a", b"GIF89a")
_SCREEN_BYTES = 13
_DESCRIPTOR_BYTES = 10
_EXTENSION, _DESCRIPTOR, _TRAILER = 0x21, 0x2C, 0x3B
_GRAPHIC_CONTROL, _APPLICATION = 0xF9, 0xFF
_HAS_TABLE, _INTERLACED = 0x80, 0x40

MAX_SUB_BLOCK_BYTES = 255
MAX_BLOCKS = 100_000
"""A sound file has some; a hostile one would have 20 million that take seconds to be looked at."""

_FILLER = bytes([_EXTENSION, _APPLICATION, 11]) + b"privfill1.0"
"""An application extension of nobody's: every reader skips what it does not know."""
_LEAST_FILLER_BYTES = len(_FILLER) + 1


@dataclass(frozen=True, slots=True)
class GifParts:
    """A file as `before + coded + after`.

    `before` ends with the number of bits of a pixel (`bits`), `coded` are the sub-blocks with the empty one that ends
    them, `stream` is what is in them. `palette` has shape (entries, 3); `transparent` is the entry that shows nothing.
    """

    before: bytes
    coded: bytes
    after: bytes
    stream: bytes
    width_px: int
    height_px: int
    interlaced: bool
    bits: int
    palette: npt.NDArray[np.uint8]
    transparent: int | None


def split(data: bytes) -> GifParts:
    """Take a file of one picture apart.

    Raises:
        UndecodableError: not a whole GIF.
        UnfitPictureError: of several pictures, or of one that is not as large as the screen it is on.
    """
    offset, at, transparent = _to_picture(data)
    parts = _picture(data, at, offset, transparent)
    _check_rest(data, len(data) - len(parts.after))
    return parts


def read_head(before: bytes) -> GifParts:
    """Return the same from `GifParts.before` alone, nothing coded and nothing behind it. Raises as `split`."""
    offset, at, transparent = _to_picture(before)
    parts = _picture(before + b"\x00", at, offset, transparent)
    if parts.before != before:
        raise UndecodableError("GIF with something else before its picture")
    return parts


def _to_picture(data: bytes) -> tuple[int, int, int | None]:
    """Return where the global palette ends, where the picture's descriptor starts, and its transparent entry."""
    if data[:6] not in _SIGNATURES or len(data) < _SCREEN_BYTES:
        raise UndecodableError("no GIF header")
    first = _SCREEN_BYTES + _table_bytes(data[10])
    at, transparent = first, None
    for _ in range(MAX_BLOCKS):
        kind = data[at : at + 1]
        if kind == bytes([_DESCRIPTOR]):
            return first, at, transparent
        if kind != bytes([_EXTENSION]):
            break
        if data[at + 1 : at + 3] == bytes([_GRAPHIC_CONTROL, 4]) and len(data) > at + 6:
            transparent = data[at + 6] if data[at + 3] & 1 else None
        at = _behind_sub_blocks(data, at + 2)
    raise UndecodableError("GIF without a picture")


def _picture(data: bytes, at: int, table_end: int, transparent: int | None) -> GifParts:
    descriptor = data[at : at + _DESCRIPTOR_BYTES]
    if len(descriptor) != _DESCRIPTOR_BYTES:
        raise UndecodableError("GIF cut short")
    left, upper, width_px, height_px = (int.from_bytes(descriptor[i : i + 2], "little") for i in (1, 3, 5, 7))
    flags = descriptor[9]
    screen_px = int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    if (left, upper) != (0, 0) or (width_px, height_px) != screen_px or not width_px or not height_px:
        raise UnfitPictureError("a GIF whose picture is not its whole screen")
    start = at + _DESCRIPTOR_BYTES
    table = data[_SCREEN_BYTES:table_end]
    if flags & _HAS_TABLE:
        table = data[start : start + _table_bytes(flags)]
        start += _table_bytes(flags)
    if not table or len(table) % 3:
        raise UnfitPictureError("a GIF without a palette")
    bits = data[start] if start < len(data) else 0
    if not 2 <= bits <= 8:
        raise UndecodableError("GIF of a forbidden depth")
    start += 1
    end = _behind_sub_blocks(data, start)
    palette = np.frombuffer(table, np.uint8).reshape(-1, 3)[: 1 << bits]
    stream = _joined(data[start:end])
    interlaced = bool(flags & _INTERLACED)
    return GifParts(
        data[:start], data[start:end], data[end:], stream, width_px, height_px, interlaced, bits, palette, transparent
    )


def _check_rest(data: bytes, at: int) -> None:
    """Raise where there is another picture, or no end, behind the first one."""
    for _ in range(MAX_BLOCKS):
        kind = data[at] if at < len(data) else -1
        if kind == _TRAILER:
            return
        if kind == _DESCRIPTOR:
            raise UnfitPictureError("more than one frame")
        if kind != _EXTENSION:
            break
        at = _behind_sub_blocks(data, at + 2)
    raise UndecodableError("GIF without its end")


def _table_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & _HAS_TABLE else 0


def _behind_sub_blocks(data: bytes, at: int) -> int:
    while at < len(data) and data[at]:
        at += 1 + data[at]
    if at >= len(data):
        raise UndecodableError("GIF cut short")
    return at + 1


def _joined(coded: bytes) -> bytes:
    bodies: list[bytes] = []
    at = 0
    while coded[at]:
        bodies.append(coded[at + 1 : at + 1 + coded[at]])
        at += 1 + coded[at]
    return b"".join(bodies)


def make_coded(stream: bytes, room: int, sub_block_bytes: int = MAX_SUB_BLOCK_BYTES) -> bytes | None:
    """Return the sub-blocks of a stream, the empty one that ends them, and what fills the room, or None.

    A few bytes go into more and shorter sub-blocks, many into an extension.

    Args:
        sub_block_bytes: how much is in each while that lasts, 1 to 255.
    """
    count = -(-len(stream) // sub_block_bytes)
    gap = room - len(stream) - count - 1
    if gap < 0:
        return None
    if gap < _LEAST_FILLER_BYTES:
        if count + gap > len(stream):
            return None
        return _sub_blocks(stream, count + gap, sub_block_bytes)
    return _sub_blocks(stream, count, sub_block_bytes) + _filler(gap)


def _filler(size_bytes: int) -> bytes:
    """Return an extension of exactly this size, at least _LEAST_FILLER_BYTES."""
    rest = size_bytes - _LEAST_FILLER_BYTES
    if rest == 1:
        # A sub-block has at least two bytes; the identifier may be one longer as well.
        return _FILLER[:2] + bytes([_FILLER[2] + 1]) + _FILLER[3:] + b"\x00\x00"
    count = -(-rest // (MAX_SUB_BLOCK_BYTES + 1))
    return _FILLER + _sub_blocks(bytes(rest - count), count, MAX_SUB_BLOCK_BYTES)


def _sub_blocks(stream: bytes, count: int, most_bytes: int) -> bytes:
    """Return the stream in so many sub-blocks, each as long as can be, and the empty one."""
    made: list[bytes] = []
    at = 0
    for left in range(count - 1, -1, -1):
        size = min(most_bytes, len(stream) - at - left)
        made.append(bytes([size]) + stream[at : at + size])
        at += size
    return b"".join(made) + b"\x00"
