"""JPEG files as segments: where metadata ends, where the coded image lies, how it was encoded.

Owns the marker syntax (ITU-T T.81, annex B) and nothing else: no pixel is decoded here. Pure functions, safe in any
thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from dedupfs.errors import UndecodableError, UnfitPictureError

SOI = b"\xff\xd8"
EOI = b"\xff\xd9"

_SOF_ANY = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_SOF_SEQUENTIAL = frozenset({0xC0, 0xC1})
_SOF_ARITHMETIC = frozenset({0xC9, 0xCA})
_SOF_FIT = _SOF_SEQUENTIAL | _SOF_ARITHMETIC | {0xC2}
_DHT, _DAC, _SOS, _DQT, _DRI = 0xC4, 0xCC, 0xDA, 0xDB, 0xDD
_CODED = _SOF_ANY | {_DHT, _DAC, _SOS, _DQT, _DRI, 0xDC, 0xDE, 0xDF}
_METADATA = frozenset(range(0xE0, 0xF0)) | {0xFE}
_PARAMETERLESS = frozenset({0x01, *range(0xD0, 0xD8)})

MAX_SEGMENTS = 20_000
"""A sound picture has some dozens, and a hundred more for each 6 MB of metadata; a hostile one would have 16 million,
and take seconds and gigabytes to be listed."""

_FILL = re.compile(rb"\xff+")
_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""Ends entropy-coded data: neither a stuffed zero nor a restart marker nor a fill byte."""

ZIGZAG = (
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14,
    21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60,
    61, 54, 47, 55, 62, 63,
)  # fmt: skip
"""Position in the 8 x 8 block, row-major, of each entry of a stored quantization table."""

_STANDARD_HUFFMAN_COUNTS = frozenset(
    bytes.fromhex(counts)
    for counts in (
        "00010501010101010100000000000000",
        "00030101010101010101010000000000",
        "0002010303020403050504040000017d",
        "00020102040403040705040400010277",
    )
)
"""Code-length counts of the four tables of T.81 annex K.3; other counts mean tables made for this picture."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One marker segment: `marker` is its second byte; data[start:end] holds it with fill bytes, marker and length.

    For SOS the entropy-coded data that follows is part of the segment.
    """

    marker: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class JpegFrame:
    """Encoder parameters of a picture.

    `tables` has one quantization table a component, 64 steps each, row-major; `sampling` the (horizontal, vertical)
    factors of each; `restart_blocks` is 0 without restart markers. `progressive` also says arithmetic, of either sort:
    nothing here writes that, and of what is written scans come closest to its size.
    """

    width_px: int
    height_px: int
    progressive: bool
    tables: tuple[tuple[int, ...], ...]
    sampling: tuple[tuple[int, int], ...]
    component_ids: tuple[int, ...]
    restart_blocks: int
    own_huffman: bool


@dataclass(frozen=True, slots=True)
class JpegParts:
    """A file as `before + coded + after`: metadata with SOI, the coded image up to and with EOI, what follows it.

    `inside` repeats the metadata segments that lie between coded ones, which a new coded image would lack.
    """

    before: bytes
    coded: bytes
    after: bytes
    inside: bytes
    frame: JpegFrame


def walk(data: bytes) -> tuple[list[Segment], int]:
    """Return the segments between SOI and EOI, and the offset just behind EOI.

    Raises:
        UndecodableError: no JPEG, or it ends (or turns to noise) before EOI.
    """
    if data[:2] != SOI:
        raise UndecodableError("no JPEG start marker")
    segments = list(_segments(data))
    return segments[:-1], segments[-1].end


def _segments(data: bytes) -> Iterator[Segment]:
    """Yield the segments behind SOI, EOI as the last one. Raises UndecodableError."""
    offset = len(SOI)
    for _ in range(MAX_SEGMENTS):
        segment = _segment_at(data, offset)
        yield segment
        if segment.marker == EOI[1]:
            return
        offset = segment.end
    raise UndecodableError(f"JPEG of more than {MAX_SEGMENTS} segments")


def _segment_at(data: bytes, start: int) -> Segment:
    """Return the segment that starts at `start`, EOI included."""
    segment = _header_at(data, start)
    if segment.marker != _SOS:
        return segment
    found = _MARKER_IN_SCAN.search(data, segment.end)
    if found is None:
        raise UndecodableError("JPEG scan has no end")
    return Segment(segment.marker, start, found.start())


def _header_at(data: bytes, start: int) -> Segment:
    """Return the segment that starts at `start`, of a scan its header alone."""
    offset = start
    if data[offset : offset + 1] != b"\xff":
        raise UndecodableError(f"no JPEG marker at offset {start}")
    filled = _FILL.match(data, offset)
    offset = filled.end() if filled is not None else offset
    if offset >= len(data):
        raise UndecodableError("JPEG ends before its end marker")
    marker = data[offset]
    offset += 1
    if marker in (0x00, SOI[1]):
        raise UndecodableError(f"marker 0x{marker:02x} at offset {start} does not belong there")
    if marker == EOI[1] or marker in _PARAMETERLESS:
        return Segment(marker, start, offset)
    length = int.from_bytes(data[offset : offset + 2], "big")
    offset += length
    if length < 2 or offset > len(data):
        raise UndecodableError(f"JPEG segment at offset {start} reaches past the end")
    return Segment(marker, start, offset)


def image_start(data: bytes) -> int | None:
    """Return the offset of the first segment of the coded image, or None when there is none to be found."""
    try:
        return next((segment.start for segment in _segments(data) if segment.marker in _CODED), None)
    except UndecodableError:
        return None


def image_span(data: bytes) -> tuple[int, int] | None:
    """Return where the coded image starts and where EOI ends (or the file, when it is cut short); never raises."""
    start = image_start(data)
    if start is None:
        return None
    try:
        return start, walk(data)[1]
    except UndecodableError:
        return start, len(data)


def split(data: bytes) -> JpegParts:
    """Take a file apart.

    Raises:
        UndecodableError: not a whole JPEG.
        UnfitPictureError: lossless, hierarchical, 12-bit or with other than one or three components.
    """
    segments, end = walk(data)
    first = next((at for at, segment in enumerate(segments) if segment.marker in _CODED), None)
    if first is None:
        raise UndecodableError("JPEG without an image")
    start = segments[first].start
    inside = b"".join(data[s.start : s.end] for s in segments[first:] if s.marker in _METADATA)
    return JpegParts(data[:start], data[start:end], data[end:], inside, _frame(data, segments))


def first_scan(coded: bytes) -> bytes:
    """Return the entropy-coded data of the first scan of a coded image. Raises UndecodableError."""
    offset = 0
    while (segment := _segment_at(coded, offset)).marker != _SOS:
        offset = segment.end
    body = _body(coded, segment)
    return body[4 + 2 * body[0] :]


def strip_to_coded(data: bytes) -> bytes:
    """Return the coded segments and EOI of a picture that an encoder has just made."""
    start = image_start(data)
    if start is None or data[-2:] != EOI:
        raise UndecodableError("encoder made no whole JPEG")
    return data[start:]


def with_size(coded: bytes, size_px: tuple[int, int]) -> bytes:
    """Return coded segments whose frame header says this width and height.

    Raises:
        UndecodableError: there is none.
    """
    offset = 0
    while (segment := _header_at(coded, offset)).marker not in _SOF_ANY:
        offset = segment.end
    width_px, height_px = size_px
    place = segment.end - len(_body(coded, segment)) + 1
    return coded[:place] + height_px.to_bytes(2, "big") + width_px.to_bytes(2, "big") + coded[place + 4 :]


def upper_rows(data: bytes, rows: int) -> bytes | None:
    """Return a file of which a decoder makes the upper rows, but for the last one of chroma, and reads no more.

    None where its code does not go from top to bottom once: a progressive file, or one with a scan a component.

    Args:
        rows: fewer than the picture has; a multiple of what is coded at a time.
    Raises:
        UndecodableError, UnfitPictureError: as `split`.
    """
    frame = read_frame(data)
    offset = len(SOI)
    while (segment := _header_at(data, offset)).marker != _SOS:
        offset = segment.end
    if frame.progressive or _body(data, segment)[0] != len(frame.tables):
        return None
    return SOI + with_size(data[len(SOI) :], (frame.width_px, rows))


def read_frame(data: bytes) -> JpegFrame:
    """Return the encoder parameters that stand before the first scan; the rest of the file is not looked at.

    Raises:
        UndecodableError, UnfitPictureError: as `split`.
    """
    if data[:2] != SOI:
        raise UndecodableError("no JPEG start marker")
    segments: list[Segment] = []
    offset = len(SOI)
    while not segments or segments[-1].marker not in (_SOS, EOI[1]):
        if len(segments) == MAX_SEGMENTS:
            raise UndecodableError(f"JPEG of more than {MAX_SEGMENTS} segments")
        segments.append(_header_at(data, offset))
        offset = segments[-1].end
    return _frame(data, segments)


def _frame(data: bytes, segments: list[Segment]) -> JpegFrame:
    tables: dict[int, tuple[int, ...]] = {}
    frame: tuple[int, bytes] | None = None
    restart_blocks = 0
    own_huffman = False
    for segment in segments:
        if segment.marker not in _CODED or segment.marker == _SOS:
            if segment.marker == _SOS and frame is None:
                raise UndecodableError("JPEG scan before its frame header")
            continue
        body = _body(data, segment)
        if segment.marker == _DQT:
            tables.update(_quantization_tables(body))
        elif segment.marker == _DRI:
            restart_blocks = int.from_bytes(body[:2], "big")
        elif segment.marker == _DHT:
            own_huffman = own_huffman or not _has_standard_huffman(body)
        elif segment.marker in _SOF_ANY:
            if frame is not None or segment.marker not in _SOF_FIT:
                raise UnfitPictureError("a JPEG process other than sequential or progressive DCT")
            frame = (segment.marker, body)
        elif segment.marker != _DAC:
            raise UnfitPictureError("a JPEG with a line count of its own")
    if frame is None:
        raise UndecodableError("JPEG without a frame header")
    return _frame_of(frame[0], frame[1], tables, restart_blocks, own_huffman)


def _frame_of(
    marker: int, body: bytes, tables: dict[int, tuple[int, ...]], restart_blocks: int, own_huffman: bool
) -> JpegFrame:
    if len(body) < 6 or len(body) != 6 + 3 * body[5]:
        raise UndecodableError("JPEG frame header of a wrong length")
    height_px, width_px, components = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big"), body[5]
    if body[0] != 8 or components not in (1, 3):
        raise UnfitPictureError(f"a JPEG of {body[0]} bits and {components} components")
    rows = [body[6 + 3 * at : 9 + 3 * at] for at in range(components)]
    try:
        used = tuple(tables[row[2]] for row in rows)
    except KeyError as exc:
        raise UndecodableError("JPEG lacks a quantization table") from exc
    sampling = tuple((row[1] >> 4, row[1] & 15) for row in rows)
    if not width_px or not height_px or not all(h and v for h, v in sampling) or not all(map(all, used)):
        raise UndecodableError("JPEG frame header holds a zero")
    ids = tuple(row[0] for row in rows)
    progressive = marker not in _SOF_SEQUENTIAL
    return JpegFrame(width_px, height_px, progressive, used, sampling, ids, restart_blocks, own_huffman)


def _body(data: bytes, segment: Segment) -> bytes:
    """Return what follows the length field."""
    offset = segment.start
    while data[offset] == 0xFF:
        offset += 1
    return data[offset + 3 : segment.end]


def _quantization_tables(body: bytes) -> dict[int, tuple[int, ...]]:
    tables: dict[int, tuple[int, ...]] = {}
    offset = 0
    while offset < len(body):
        wide, number = body[offset] >> 4, body[offset] & 15
        length = 128 if wide else 64
        stored = body[offset + 1 : offset + 1 + length]
        if len(stored) != length:
            raise UndecodableError("JPEG quantization table cut short")
        steps = [0] * 64
        for at, place in enumerate(ZIGZAG):
            steps[place] = int.from_bytes(stored[2 * at : 2 * at + 2], "big") if wide else stored[at]
        tables[number] = tuple(steps)
        offset += 1 + length
    return tables


def _has_standard_huffman(body: bytes) -> bool:
    offset = 0
    while offset < len(body):
        counts = body[offset + 1 : offset + 17]
        if counts not in _STANDARD_HUFFMAN_COUNTS:
            return False
        offset += 17 + sum(counts)
    return True


def is_multi_picture(parts: JpegParts) -> bool:
    """True for files that hold further pictures or a gain map; their pointers and streams want the exact bytes.

    Source: CIPA DC-007 (MPF in APP2), Adobe gain map specification (hdrgm in XMP), ISO 21496-1 (APP2).
    """
    metadata = parts.before + parts.inside
    return any(mark in metadata for mark in (b"MPF\x00", b"hdrgm:", b"urn:iso:std:iso:ts:21496", b"HDRGainMap"))
