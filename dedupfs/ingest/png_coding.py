"""Encode pixels as the IDAT chunks of a PNG, to an exact size.

Owns the encoder settings that a recipe stores for PNG members. Two encoders are used: Pillow's, which repeats copies
that Pillow made, and zlib with the member's own scanline filters, which repeats those of tools on libpng and zlib. Pure
functions, any thread.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dedupfs.errors import IntegrityError, OversizeError, UndecodableError, UnfitPictureError
from dedupfs.ingest import png, scanlines
from dedupfs.ingest.decode import translated

SECTIONS = 3
"""Before the IDAT chunks, behind them, and the filter type of every scanline."""

_LAYOUT = struct.Struct("<BBBBI")
_BY_ZLIB, _BY_PILLOW, _BY_ZLIB_ADAPTIVE = 1, 2, 3

_WORK_BYTES = 80_000_000
"""Scanline bytes that a search deflates in all, at about 20 to 60 MB/s; at least two encodings are always tried."""

_MODES = {png.GREY: "L", png.RGB: "RGB", png.GREY_ALPHA: "LA", png.RGB_ALPHA: "RGBA"}


@dataclass(frozen=True, slots=True)
class PngTarget:
    """A PNG member: its own sections, the mode its pixels are encoded from, what it was deflated to."""

    sections: tuple[bytes, bytes, bytes]
    mode: str
    header: png.PngHeader
    stream: bytes
    idat_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class PngCoding:
    """How to deflate: which encoder, zlib level, strategy and memory level, and the body size of the IDAT chunks."""

    encoder: int
    level: int
    strategy: int
    memory: int
    idat_bytes: int

    def to_bytes(self) -> bytes:
        return _LAYOUT.pack(self.encoder, self.level, self.strategy, self.memory, self.idat_bytes)

    @classmethod
    def from_bytes(cls, record: bytes) -> PngCoding:
        """Read what `to_bytes` wrote.

        Raises:
            IntegrityError: anything else.
        """
        if len(record) != _LAYOUT.size:
            raise IntegrityError("PNG settings of a wrong length")
        coding = cls(*_LAYOUT.unpack(record))
        if not _BY_ZLIB <= coding.encoder <= _BY_ZLIB_ADAPTIVE or coding.level > 9 or coding.strategy > 4:
            raise IntegrityError("PNG settings with a forbidden value")
        if not 1 <= coding.memory <= 9 or not coding.idat_bytes:
            raise IntegrityError("PNG settings with a forbidden value")
        return coding


def target_of(data: bytes) -> PngTarget:
    """Take a member apart.

    Raises:
        UndecodableError: broken.
        UnfitPictureError: 16 bits, interlaced, or transparent by a colour key.
    """
    parts = png.split(data)
    header = parts.header
    if header.bit_depth == 16 or header.interlaced:
        raise UnfitPictureError("a PNG of 16 bits or interlaced")
    keyed = b"tRNS" in parts.before
    if keyed and header.colour_type != png.PALETTE:
        raise UnfitPictureError("a PNG with a transparent colour")
    mode = _MODES.get(header.colour_type, "RGBA" if keyed else "RGB")
    types = scanlines.filter_types(parts.stream, header)
    idat_bytes = max(parts.idat_sizes)
    return PngTarget((parts.before, parts.after, types), mode, header, parts.stream, idat_bytes, len(data))


def fitted(image: Image.Image, target: PngTarget) -> Iterator[tuple[bytes, bytes]]:
    """Yield (settings, file) at exactly the size: the member if an encoder repeats it, else the first that fits.

    Raises:
        OversizeError: none does.
    """
    rows = _rows(image, target.sections[0])
    lines = scanlines.filtered(rows, target.sections[2], target.header.pixel_bytes)
    same_pixels = lines == scanlines.inflate(target.stream, target.header)
    kept: tuple[bytes, bytes] | None = None
    missing_bytes: list[int] = []
    work = 0
    for coding in _codings(target):
        if work and work + len(lines) > max(_WORK_BYTES, 2 * len(lines)):
            break
        work += len(lines)
        coded = _coded(image, lines, rows, coding, target.sections[0])
        written = _framed(coded, coding, target.sections, target.size_bytes)
        if written is None:
            if coded:
                missing_bytes.append(len(coded) + _overhead_bytes(target) - target.size_bytes)
            continue
        if same_pixels and _stream(written) == target.stream:
            kept = (coding.to_bytes(), written)
            break
        kept = kept or (coding.to_bytes(), written)
        if not same_pixels:
            break
    if kept is None:
        raise OversizeError(max(0, min(missing_bytes, default=0)))
    yield kept


def _overhead_bytes(target: PngTarget) -> int:
    return len(target.sections[0]) + len(target.sections[1]) + png.CHUNK_OVERHEAD_BYTES


def _stream(data: bytes) -> bytes:
    return png.split(data).stream


def _codings(target: PngTarget) -> Iterator[PngCoding]:
    """Yield settings, likely ones first: the zlib header tells the level's class (RFC 1950, FLEVEL)."""
    level_class = target.stream[1] >> 6
    levels = ((1, 9, 6), (3, 5, 9), (6, 9), (9, 7, 8))[level_class]
    any_filter = bool(target.sections[2].strip(b"\x00"))
    strategies = (
        (zlib.Z_FILTERED, zlib.Z_DEFAULT_STRATEGY) if any_filter else (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED)
    )
    size = target.idat_bytes
    yield PngCoding(_BY_PILLOW, levels[0], 0, 8, size)
    yield PngCoding(_BY_ZLIB, levels[0], strategies[0], 8, size)
    yield PngCoding(_BY_ZLIB, levels[0], strategies[1], 8, size)
    yield PngCoding(_BY_ZLIB, 9, strategies[0], 9, size)
    yield PngCoding(_BY_ZLIB_ADAPTIVE, 9, zlib.Z_FILTERED, 9, size)
    # Dithered palettes have nothing that repeats, so matches only cost: 5 % on a photo in 256 colours.
    yield PngCoding(_BY_ZLIB, 9, zlib.Z_HUFFMAN_ONLY, 8, size)
    for level in levels[1:]:
        for memory in (8, 9):
            for strategy in strategies:
                yield PngCoding(_BY_ZLIB, level, strategy, memory, size)
    yield PngCoding(_BY_PILLOW, 9, 0, 8, size)


def write(image: Image.Image, coding: bytes, sections: tuple[bytes, ...], size_bytes: int) -> bytes | None:
    """Return the file that settings make of an image, or None when it does not come out at the size.

    Raises:
        IntegrityError: settings or sections that cannot be read.
    """
    before, after, types = sections
    settings = PngCoding.from_bytes(coding)
    try:
        header = png.read_header(before)
        rows = _rows(image, before)
        if len(types) != header.height_px or max(types) > scanlines.PAETH:
            raise IntegrityError("scanline filters of another picture")
        wanted = settings.encoder == _BY_ZLIB
        lines = scanlines.filtered(rows, types, header.pixel_bytes) if wanted else b""
        return _framed(_coded(image, lines, rows, settings, before), settings, (before, after, types), size_bytes)
    except (UndecodableError, ValueError) as exc:
        raise IntegrityError("a PNG member's own bytes do not belong to its pixels") from exc


def stronger(coding: bytes) -> Iterator[bytes]:
    """Yield other settings for the same pixels that mostly come out smaller. Raises IntegrityError."""
    idat_bytes = PngCoding.from_bytes(coding).idat_bytes
    for encoder in (_BY_ZLIB, _BY_ZLIB_ADAPTIVE):
        yield PngCoding(encoder, 9, zlib.Z_FILTERED, 9, idat_bytes).to_bytes()


def _rows(image: Image.Image, before: bytes) -> scanlines.Bytes:
    return scanlines.pack(image, png.read_header(before), _palette(before, "A" in image.mode))


def _palette(before: bytes, alpha: bool) -> scanlines.Bytes:
    """Return the palette entries, with alpha from tRNS if wanted; empty without a palette."""
    bodies = {chunk.kind: before[chunk.start + 8 : chunk.end - 4] for chunk in png.chunks_of(before)}
    colours = np.frombuffer(bodies.get(b"PLTE", b""), np.uint8)
    if len(colours) % 3:
        raise UndecodableError("PNG palette of a wrong length")
    entries = colours.reshape(-1, 3)
    if not alpha:
        return entries
    opacity = np.full((len(entries), 1), 255, np.uint8)
    given = np.frombuffer(bodies.get(b"tRNS", b""), np.uint8)[: len(entries)]
    opacity[: len(given), 0] = given
    return np.hstack((entries, opacity))


def _coded(image: Image.Image, lines: bytes, rows: scanlines.Bytes, coding: PngCoding, before: bytes) -> bytes:
    """Return the zlib stream, empty where the encoder cannot make one of such pixels."""
    header = png.read_header(before)
    if coding.encoder == _BY_PILLOW:
        return b"" if _is_packed(header) else _by_pillow(image, coding)
    if coding.encoder == _BY_ZLIB_ADAPTIVE:
        types = scanlines.adaptive_types(rows, header.pixel_bytes)
        lines = scanlines.filtered(rows, types, header.pixel_bytes)
    deflater = zlib.compressobj(coding.level, zlib.DEFLATED, 15, coding.memory, coding.strategy)
    return deflater.compress(lines) + deflater.flush()


def _framed(coded: bytes, coding: PngCoding, sections: tuple[bytes, ...], size_bytes: int) -> bytes | None:
    """Return the whole file at exactly the size, or None when that cannot be met."""
    before, after, _ = sections
    if not coded:
        return None
    room = size_bytes - len(before) - len(after)
    chunks = png.make_idat(coded, coding.idat_bytes)
    if len(chunks) != room:
        # One chunk saves the overhead of the others, and what is left over wants a chunk of its own.
        if len(chunks) > room - png.CHUNK_OVERHEAD_BYTES:
            chunks = png.make_idat(coded, len(coded))
        gap = room - len(chunks)
        if gap and gap < png.CHUNK_OVERHEAD_BYTES:
            return None
        if gap:
            chunks += png.make_chunk(png.FILLER_TYPE, bytes(gap - png.CHUNK_OVERHEAD_BYTES))
    return before + chunks + after


def _is_packed(header: png.PngHeader) -> bool:
    return header.colour_type == png.PALETTE or header.bit_depth != 8


def _by_pillow(image: Image.Image, coding: PngCoding) -> bytes:
    """Return the zlib stream that Pillow makes of an image that it stores in the colour type of its mode."""
    out = io.BytesIO()
    with translated():
        image.save(out, "PNG", compress_level=coding.level)
    return png.split(out.getvalue()).stream
