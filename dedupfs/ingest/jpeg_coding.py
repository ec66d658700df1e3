"""Encode pixels as the coded image of a JPEG with another picture's parameters, to an exact size.

Owns the encoder settings that a recipe stores for JPEG members and the ways to make a coded image fit. Pure functions,
any thread.
"""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from PIL import Image

from dedupfs.errors import IntegrityError, OversizeError
from dedupfs.ingest import jpeg
from dedupfs.ingest.decode import decode, translated
from dedupfs.ingest.jpeg_rounding import Rounding, rounded, whole_blocks

_LAYOUT = struct.Struct("<BBHBBB")
_PROGRESSIVE, _OPTIMISE, _KEEP_RGB = 1, 2, 4

_SUBSAMPLING = {(1, 1): 0, (2, 1): 1, (2, 2): 2}
_FACTORS = tuple(_SUBSAMPLING)
_FALLBACK_SUBSAMPLING = {(1, 2): 2, (4, 1): 2, (4, 2): 2}
"""What Pillow cannot write: 4:4:0, 4:1:1 and 4:1:0 become 4:2:0, and the comparison decides."""

_RGB_IDS = (ord("R"), ord("G"), ord("B"))

_ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
"""The APP14 segment whose transform byte says that the components are RGB."""

_BARE_START = {False: jpeg.SOI, True: jpeg.SOI + _ADOBE_RGB}
"""What a coded image needs in front of it to be decoded with the right colours."""

TRIM_LEVELS = 8
"""Trims go from 1 to this; each makes the steps of the upper frequencies 5 % coarser."""

TRIM_SHARE = 0.03
"""What one trim level saves of a coded image, at most; the search steps by the missing bytes over this."""

MOST_OVERSIZE = 1.5
"""How many times the room an encoding with the member's own settings may take for a tighter one to be looked for. Of
259 copies that were drawn at their size it took up to 1.09; tables and scans save a quarter, and trims as much again.
"""

_STANDARD_LUMA = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29,
    51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121,
    120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
_STANDARD_CHROMA = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99,
    99, 99, 99, 99, *(99, ) * 32,
)  # fmt: skip
"""T.81 annex K.1, row-major."""

_EXPLICIT_TABLES = 0
_BLOCK_FREQUENCY = tuple(row + column for row in range(8) for column in range(8))


@dataclass(frozen=True, slots=True)
class JpegCoding:
    """How to encode: quantization tables (row-major, one a component, without trailing repeats), sampling and scans.

    `rounding` is how the coefficients are rounded.
    """

    tables: tuple[tuple[int, ...], ...]
    subsampling: int
    progressive: bool
    optimise: bool
    keep_rgb: bool
    restart_blocks: int
    trim: int = 0
    rounding: Rounding = Rounding.LIBRARY

    def to_bytes(self) -> bytes:
        """Return the settings: 8 bytes with standard tables, 8 and the tables otherwise."""
        flags = _PROGRESSIVE * self.progressive | _OPTIMISE * self.optimise | _KEEP_RGB * self.keep_rgb
        head = _LAYOUT.pack(flags, self.subsampling, self.restart_blocks, self.trim, self.rounding, len(self.tables))
        for quality in range(1, 101):
            if _standard_tables(quality, len(self.tables)) == self.tables:
                return head + bytes([quality])
        wide = any(step > 255 for table in self.tables for step in table)
        code = "<" + ("H" if wide else "B") * 64
        return head + bytes([_EXPLICIT_TABLES, wide]) + b"".join(struct.pack(code, *table) for table in self.tables)

    @classmethod
    def from_bytes(cls, record: bytes) -> JpegCoding:
        """Read what `to_bytes` wrote.

        Raises:
            IntegrityError: anything else.
        """
        try:
            flags, subsampling, restart_blocks, trim, rounding, count = _LAYOUT.unpack_from(record)
            quality = record[_LAYOUT.size]
            if quality:
                tables = _standard_tables(quality, count)
                if len(record) != _LAYOUT.size + 1:
                    raise IntegrityError("JPEG settings of a wrong length")
            else:
                wide = record[_LAYOUT.size + 1]
                steps = struct.unpack(f"<{64 * count}{'H' if wide else 'B'}", record[_LAYOUT.size + 2 :])
                tables = tuple(steps[at : at + 64] for at in range(0, len(steps), 64))
        except (struct.error, IndexError) as exc:
            raise IntegrityError("JPEG settings cut short") from exc
        if subsampling > 2 or flags > 7 or not 1 <= count <= 3 or trim > TRIM_LEVELS or rounding > max(Rounding):
            raise IntegrityError("JPEG settings with a forbidden value")
        progressive, optimise, keep_rgb = bool(flags & _PROGRESSIVE), bool(flags & _OPTIMISE), bool(flags & _KEEP_RGB)
        return cls(tables, subsampling, progressive, optimise, keep_rgb, restart_blocks, trim, Rounding(rounding))


@functools.cache
def _standard_tables(quality: int, count: int) -> tuple[tuple[int, ...], ...]:
    """Return the tables that the IJG library makes of a quality from 1 to 100. Source: libjpeg, jcparam.c."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    bases = (_STANDARD_LUMA, _STANDARD_CHROMA)[:count]
    return tuple(tuple(min(255, max(1, (step * scale + 50) // 100)) for step in base) for base in bases)


def coding_of(parts: jpeg.JpegParts) -> JpegCoding:
    """Return the settings that come closest to how a picture was encoded."""
    frame = parts.frame
    tables = list(frame.tables)
    while len(tables) > 1 and tables[-1] == tables[-2]:
        tables.pop()
    luma_h, luma_v = frame.sampling[0]
    chroma_h, chroma_v = frame.sampling[-1]
    factors = (max(1, luma_h // chroma_h), max(1, luma_v // chroma_v)) if len(frame.sampling) == 3 else (1, 1)
    subsampling = _SUBSAMPLING.get(factors, _FALLBACK_SUBSAMPLING.get(factors, 0))
    keep_rgb = len(frame.sampling) == 3 and (frame.component_ids == _RGB_IDS or _ADOBE_RGB in parts.before)
    optimise = frame.own_huffman and not frame.progressive
    return JpegCoding(tuple(tables), subsampling, frame.progressive, optimise, keep_rgb, frame.restart_blocks)


def visible_step(table: tuple[int, ...]) -> float:
    """Return how coarse a table is: the mean step, in levels, of the ten lowest frequencies."""
    return sum(table[place] for place in jpeg.ZIGZAG[:10]) / 10


def block_rows(coding: JpegCoding) -> int:
    """Return how many rows of pixels of a colour picture are coded before the next ones begin."""
    return 8 * _FACTORS[coding.subsampling][1]


def fitted(
    image: Image.Image, coding: JpegCoding, sections: tuple[bytes, ...], size_bytes: int
) -> Iterator[tuple[bytes, bytes]]:
    """Yield (settings, file) at exactly the size: the least altered encoding that fits, if one does.

    Tried in turn: the member's own settings, Huffman tables made for the picture, progressive scans, coarser upper
    frequencies. The trims are entered at the level that the missing bytes suggest.

    Raises:
        OversizeError: none does.
    """
    room = size_bytes - sum(map(len, sections))
    attempts = [coding]
    if not coding.progressive and not coding.optimise:
        attempts.append(replace(coding, optimise=True))
    saving = replace(coding, progressive=True, optimise=False, restart_blocks=0)
    if saving != coding:
        attempts.append(saving)
    whole = _rounded(image, coding)
    smallest = coded = b""
    for attempt in attempts:
        coded = _encoded(whole, attempt, image.size)
        if len(coded) <= room:
            break
        if len(coded) > MOST_OVERSIZE * room:
            raise OversizeError(len(coded) - room)
        if not smallest or len(coded) < len(smallest):
            # Of a picture of some blocks, scans cost more than they save.
            smallest, saving = coded, attempt
    else:
        attempt, coded = _trimmed_to(room, image, saving, smallest)
    written = assemble(sections, coded, size_bytes)
    # Whoever compares what was written needs the memory.
    del whole
    if written is not None:
        yield attempt.to_bytes(), written


def _trimmed_to(room: int, image: Image.Image, saving: JpegCoding, coded: bytes) -> tuple[JpegCoding, bytes]:
    """Return the least trim that fits and the coded image, beginning with one that does not.

    Raises:
        OversizeError: none does.
    """
    trim, tried = 0, 0
    while len(coded) > room:
        missing = 1 - room / len(coded)
        trim += max(1, int(missing / TRIM_SHARE))
        if trim > TRIM_LEVELS:
            raise OversizeError(len(coded) - room)
        if tried == 1 and trim < TRIM_LEVELS:
            # Where steps are small a trim may change none: the last one says whether any of them will do.
            least = len(encode(image, replace(saving, trim=TRIM_LEVELS)))
            if least > room:
                raise OversizeError(least - room)
        coded = encode(image, replace(saving, trim=trim))
        tried += 1
    return replace(saving, trim=trim), coded


def requantized(image: Image.Image, coding: JpegCoding) -> Image.Image:
    """Return the image encoded with the settings and decoded again."""
    coded = encode(image, replace(coding, progressive=False, optimise=False, restart_blocks=0))
    return decode(_BARE_START[coding.keep_rgb] + coded).image


def evenly_requantized(image: Image.Image, step: float, subsampled: bool) -> Image.Image:
    """Return the image as a codec with one step for all frequencies would about leave it, which JPEG does quickly."""
    table = (max(1, round(step)),) * 64
    return requantized(image.convert("RGB"), JpegCoding((table,), 2 if subsampled else 0, False, False, False, 0))


def encode(image: Image.Image, coding: JpegCoding) -> bytes:
    """Return the coded segments, first table to EOI, of an image of mode L, RGB or YCbCr.

    Raises:
        UndecodableError: the encoder failed.
    """
    return _encoded(_rounded(image, coding), coding, image.size)


def _tables(coding: JpegCoding) -> tuple[tuple[int, ...], ...]:
    return tuple(_trimmed(table, coding.trim) for table in coding.tables)


def _rounded(image: Image.Image, coding: JpegCoding) -> Image.Image:
    """Return the pixels that the library has to be given; scans and Huffman tables make no difference to them."""
    if coding.rounding is Rounding.LIBRARY or coding.keep_rgb:
        return image
    factors = _FACTORS[coding.subsampling]
    if coding.rounding is Rounding.FAST:
        return whole_blocks(image, _tables(coding), factors)
    return rounded(image, _tables(coding), factors, coding.rounding)


def _encoded(image: Image.Image, coding: JpegCoding, size_px: tuple[int, int]) -> bytes:
    """Return the coded segments of an image, of which `size_px` is shown."""
    if coding.progressive and image.size != size_px:
        # The scans of one component leave out what is never shown, so that the code is of another length.
        image = image.crop((0, 0, *size_px))
    out = io.BytesIO()
    with translated():
        image.save(
            out,
            "JPEG",
            qtables=[list(table) for table in _tables(coding)],
            subsampling=coding.subsampling,
            progressive=coding.progressive,
            optimize=coding.optimise,
            keep_rgb=coding.keep_rgb,
            restart_marker_blocks=coding.restart_blocks,
        )
    return jpeg.with_size(jpeg.strip_to_coded(out.getvalue()), size_px)


def _trimmed(table: tuple[int, ...], trim: int) -> tuple[int, ...]:
    """Return the table with upper frequencies made coarser, the lowest left alone, within what its type holds."""
    if not trim:
        return table
    top = 255 if max(table) <= 255 else 65535
    return tuple(
        min(top, step + -(-step * 5 * trim * min(frequency, 7) // 700)) if frequency > 1 else step
        for step, frequency in zip(table, _BLOCK_FREQUENCY, strict=True)
    )


def assemble(sections: tuple[bytes, ...], coded: bytes, size_bytes: int) -> bytes | None:
    """Return the whole file (sections: before, inside, after) at exactly the size, or None when it would be larger.

    The gap is filled in front of EOI with fill bytes, which any marker may have before it (T.81, B.1.1.2); unlike a
    comment they do not turn up in anybody's list of metadata, and what stands before and behind keeps its offset.
    """
    before, inside, after = sections
    gap = size_bytes - len(before) - len(inside) - len(coded) - len(after)
    if gap < 0:
        return None
    return b"".join((before, inside, coded[: -len(jpeg.EOI)], b"\xff" * gap, jpeg.EOI, after))
