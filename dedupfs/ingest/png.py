"""PNG files as chunks: where the coded image lies, which metadata stands around it, how it was encoded.

Owns the chunk syntax (W3C PNG, third edition, section 5) and the filter types; deflate and pixels are in `png_coding`.
Pure functions, safe in any thread.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from dedupfs.errors import UndecodableError, UnfitPictureError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHUNK_OVERHEAD_BYTES = 12
MAX_CHUNKS = 100_000
"""A sound picture at the limit of size has 8,192 with the body size of libpng, 8 KiB; a hostile one would have 5
million, and take seconds and a gigabyte to be listed."""
FILLER_TYPE = b"prFl"
"""Ancillary, private, safe to copy: every reader skips it."""

GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGB_ALPHA: 4}

_ANIMATION = frozenset({b"acTL", b"fcTL", b"fdAT"})


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk: data[start:end] with length, type, body and CRC."""

    kind: bytes
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class PngHeader:
    """The fields of IHDR that matter; `row_bytes` is a filtered scanline without its filter type."""

    width_px: int
    height_px: int
    bit_depth: int
    colour_type: int
    interlaced: bool

    @property
    def pixel_bytes(self) -> int:
        """Distance in bytes to the pixel on the left, as the filters count it."""
        return max(1, self.bit_depth * CHANNELS[self.colour_type] // 8)

    @property
    def row_bytes(self) -> int:
        return (self.width_px * self.bit_depth * CHANNELS[self.colour_type] + 7) // 8


@dataclass(frozen=True, slots=True)
class PngParts:
    """A file as `before + IDAT chunks + after`; `idat_sizes` are the body sizes of the IDAT chunks in order."""

    before: bytes
    stream: bytes
    after: bytes
    idat_sizes: tuple[int, ...]
    header: PngHeader
    palette: bytes


def walk(data: bytes) -> tuple[list[Chunk], int]:
    """Return the chunks up to and with IEND, and the offset just behind it.

    Raises:
        UndecodableError: no PNG, or cut short before IEND.
    """
    chunks = chunks_of(data)
    if not chunks or chunks[-1].kind != b"IEND":
        raise UndecodableError("PNG cut short")
    return chunks, chunks[-1].end


def chunks_of(data: bytes) -> list[Chunk]:
    """Return the chunks that are whole, in order, as far as IEND.

    Raises:
        UndecodableError: no PNG, or of more than MAX_CHUNKS.
    """
    if not data.startswith(SIGNATURE):
        raise UndecodableError("no PNG signature")
    chunks: list[Chunk] = []
    offset = len(SIGNATURE)
    while not chunks or chunks[-1].kind != b"IEND":
        if len(chunks) == MAX_CHUNKS:
            raise UndecodableError(f"PNG of more than {MAX_CHUNKS} chunks")
        end = offset + CHUNK_OVERHEAD_BYTES + int.from_bytes(data[offset : offset + 4], "big")
        if end > len(data):
            break
        chunks.append(Chunk(data[offset + 4 : offset + 8], offset, end))
        offset = end
    return chunks


def image_span(data: bytes) -> tuple[int, int] | None:
    """Return where the first IDAT chunk starts and the last one ends, or None; never raises."""
    try:
        chunks, _ = walk(data)
    except UndecodableError:
        return None
    spans = [chunk for chunk in chunks if chunk.kind == b"IDAT"]
    return (spans[0].start, spans[-1].end) if spans else None


def split(data: bytes) -> PngParts:
    """Take a file apart.

    Raises:
        UndecodableError: not a whole PNG, or its IDAT chunks do not follow each other, or one is damaged.
        UnfitPictureError: animated.
    """
    chunks, _ = walk(data)
    places = [at for at, chunk in enumerate(chunks) if chunk.kind == b"IDAT"]
    if not places or places != list(range(places[0], places[-1] + 1)):
        raise UndecodableError("PNG without one run of IDAT chunks")
    if any(chunk.kind in _ANIMATION for chunk in chunks):
        raise UnfitPictureError("an animated PNG")
    bodies = [_checked_body(data, chunks[at]) for at in places]
    before = data[: chunks[places[0]].start]
    after = data[chunks[places[-1]].end :]
    palettes = [_checked_body(data, chunk) for chunk in chunks if chunk.kind == b"PLTE"]
    return PngParts(
        before, b"".join(bodies), after, tuple(map(len, bodies)), read_header(data), palettes[0] if palettes else b""
    )


def read_header(data: bytes) -> PngHeader:
    """Return IHDR.

    Raises:
        UndecodableError: it is not there, or holds what the standard does not allow.
    """
    if not data.startswith(SIGNATURE) or data[8:16] != b"\x00\x00\x00\x0dIHDR" or len(data) < 33:
        raise UndecodableError("PNG without IHDR")
    width_px, height_px = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    bit_depth, colour_type, interlace = data[24], data[25], data[28]
    if (
        not width_px
        or not height_px
        or colour_type not in CHANNELS
        or bit_depth not in (1, 2, 4, 8, 16)
        or interlace > 1
    ):
        raise UndecodableError("PNG header holds a forbidden value")
    return PngHeader(width_px, height_px, bit_depth, colour_type, interlace == 1)


def _checked_body(data: bytes, chunk: Chunk) -> bytes:
    body = data[chunk.start + 8 : chunk.end - 4]
    if zlib.crc32(body, zlib.crc32(chunk.kind)) != int.from_bytes(data[chunk.end - 4 : chunk.end], "big"):
        raise UndecodableError("PNG chunk with a wrong checksum")
    return body


def make_chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk with its length and CRC."""
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(body, zlib.crc32(kind)).to_bytes(4, "big")


def make_idat(stream: bytes, body_bytes: int) -> bytes:
    """Return the stream as IDAT chunks of this body size, the last one shorter."""
    starts = range(0, len(stream), body_bytes)
    return b"".join(make_chunk(b"IDAT", stream[start : start + body_bytes]) for start in starts)
