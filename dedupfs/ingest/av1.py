"""The headers of an AV1 still picture: what its quantizer, sampling and colours are, and the same picture re-labelled.

Owns the syntax of open bitstream units, sequence headers and the first fields of a key frame (AV1 specification,
sections 5.3, 5.5 and 5.9); no pixel is decoded here. Pure functions, any thread.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dedupfs.errors import UndecodableError, UnfitPictureError

SEQUENCE, TEMPORAL, _FRAME_HEADER, _TILES, _FRAME, _PADDING = 1, 2, 3, 4, 6, 15
_PICTURE = frozenset({SEQUENCE, TEMPORAL, _FRAME_HEADER, _TILES, _FRAME, _PADDING})
"""Units of a plain picture; others hold HDR metadata, layers or tiles of larger pictures."""

_SELECT = 2


@dataclass(frozen=True, slots=True)
class Unit:
    """One open bitstream unit: data[start:end] with its header, the payload from `body` on."""

    kind: int
    start: int
    body: int
    end: int


@dataclass(frozen=True, slots=True)
class Colours:
    """The colour configuration of a sequence; `description` is primaries, transfer and matrix (ITU-T H.273) or None.

    `subsampling` is (horizontal, vertical) as shifts, `position` the chroma sample position of 4:2:0.
    """

    mono: bool
    description: tuple[int, int, int] | None
    full_range: bool
    subsampling: tuple[int, int]
    position: int
    first_bit: int
    last_bit: int


@dataclass(frozen=True, slots=True)
class Stream:
    """What is known of a coded picture: its colours, and of its frame the quantizer index (0 to 255).

    `weighted` says that quantizer matrices are used, `varied` that the quantizer changes from block to block.
    """

    colours: Colours
    quantizer: int
    weighted: bool
    varied: bool


class _Bits:
    """Bits of a payload, most significant first. Reading past the end raises UndecodableError."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def number(self, bits: int) -> int:
        end = self.at + bits
        if end > 8 * len(self._data):
            raise UndecodableError("AV1 header cut short")
        first, last = self.at // 8, (end + 7) // 8
        value = int.from_bytes(self._data[first:last], "big") >> (8 * last - end)
        self.at = end
        return value & ((1 << bits) - 1)

    def flag(self) -> bool:
        return self.number(1) == 1


def units_of(data: bytes) -> list[Unit]:
    """Return the units of a coded picture, in order.

    Raises:
        UndecodableError: they do not fill the data.
    """
    units: list[Unit] = []
    offset = 0
    while offset < len(data):
        head = data[offset]
        if head & 0x80 or not head & 2:
            raise UndecodableError("AV1 unit without a length")
        at = offset + 1 + (head >> 2 & 1)
        length = 0
        for shift in range(0, 56, 7):
            if at >= len(data):
                raise UndecodableError("AV1 unit cut short")
            length |= (data[at] & 0x7F) << shift
            at += 1
            if not data[at - 1] & 0x80:
                break
        if at + length > len(data):
            raise UndecodableError("AV1 unit cut short")
        units.append(Unit(head >> 3 & 15, offset, at, at + length))
        offset = at + length
    return units


def make_unit(kind: int, payload: bytes) -> bytes:
    """Return a unit with its header and length."""
    return bytes([kind << 3 | 2]) + _leb128(len(payload)) + payload


def make_padding(size_bytes: int) -> bytes | None:
    """Return a unit of exactly this size that decoders skip, or None: one byte cannot be filled."""
    if not size_bytes:
        return b""
    for length_bytes in range(1, 5):
        payload = size_bytes - 1 - length_bytes
        if 0 <= payload < 1 << 7 * length_bytes:
            body = bytes(payload - 1) + b"\x80" if payload else b""
            return bytes([_PADDING << 3 | 2]) + _leb128(payload, length_bytes) + body
    return None


def _leb128(value: int, size_bytes: int = 0) -> bytes:
    size_bytes = size_bytes or max(1, -(-value.bit_length() // 7))
    return bytes(value >> 7 * place & 0x7F | (0x80 if place < size_bytes - 1 else 0) for place in range(size_bytes))


def read_stream(data: bytes) -> Stream:
    """Return the parameters of a coded still picture.

    Raises:
        UndecodableError: broken.
        UnfitPictureError: not a plain picture of 8 bits.
    """
    units = units_of(data)
    if not _PICTURE.issuperset(unit.kind for unit in units):
        raise UnfitPictureError("an AV1 picture with more than a frame")
    sequences = [unit for unit in units if unit.kind == SEQUENCE]
    frames = [unit for unit in units if unit.kind in (_FRAME, _FRAME_HEADER)]
    if len(sequences) != 1 or len(frames) != 1:
        raise UnfitPictureError("an AV1 picture of several frames")
    sequence = _Sequence(data[sequences[0].body : sequences[0].end])
    return _frame(_Bits(data[frames[0].body : frames[0].end]), sequence)


class _Sequence:
    """The fields of a sequence header that a frame header depends on."""

    def __init__(self, payload: bytes) -> None:
        bits = _Bits(payload)
        profile, _, self.reduced = bits.number(3), bits.flag(), bits.flag()
        if not self.reduced:
            _skip_operating_points(bits)
        else:
            bits.number(5)
        self.width_bits, self.height_bits = bits.number(4) + 1, bits.number(4) + 1
        self.width_px, self.height_px = bits.number(self.width_bits) + 1, bits.number(self.height_bits) + 1
        if not self.reduced and bits.flag():
            raise UnfitPictureError("an AV1 picture with frame numbers")
        self.large_blocks = bits.flag()
        bits.number(2)
        self.order_bits = 0
        self.screen_content = self.integer_motion = _SELECT
        if not self.reduced:
            bits.number(4)
            ordered = bits.flag()
            if ordered:
                bits.number(2)
            self.screen_content = _SELECT if bits.flag() else bits.number(1)
            if self.screen_content and not bits.flag():
                self.integer_motion = bits.number(1)
            if ordered:
                self.order_bits = bits.number(3) + 1
        self.upscaled = bits.flag()
        bits.number(2)
        self.separate_chroma = False
        self.colours = self._colours(bits, profile)
        self.film_grain = bits.flag()

    def _colours(self, bits: _Bits, profile: int) -> Colours:
        first = bits.at
        if bits.flag():
            raise UnfitPictureError("an AV1 picture of more than 8 bits")
        mono = profile != 1 and bits.flag()
        description = (bits.number(8), bits.number(8), bits.number(8)) if bits.flag() else None
        if description == (1, 13, 0):
            raise UnfitPictureError("an AV1 picture coded as RGB")
        full_range = bits.flag()
        subsampling = (1, 1) if mono or profile == 0 else (0, 0) if profile == 1 else (1, 0)
        position = bits.number(2) if subsampling == (1, 1) and not mono else 0
        last = bits.at
        if not mono:
            self.separate_chroma = bits.flag()
        return Colours(mono, description, full_range, subsampling, position, first, last)


def _skip_operating_points(bits: _Bits) -> None:
    if bits.flag():
        raise UnfitPictureError("an AV1 picture with timing")
    delayed = bits.flag()
    for _ in range(bits.number(5) + 1):
        bits.number(12)
        if bits.number(5) > 7:
            bits.number(1)
        if delayed and bits.flag():
            bits.number(4)


def _frame(bits: _Bits, sequence: _Sequence) -> Stream:
    """Read a frame header as far as its quantizer."""
    still = sequence.reduced
    if not still and (bits.flag() or bits.number(2) != 0 or not bits.flag()):
        raise UnfitPictureError("an AV1 picture that is not a key frame")
    fixed_contexts = bits.flag()
    screen = bits.flag() if sequence.screen_content == _SELECT else bool(sequence.screen_content)
    if screen and sequence.integer_motion == _SELECT:
        bits.number(1)
    own_size = not still and bits.flag()
    bits.number(sequence.order_bits)
    width_px, height_px = sequence.width_px, sequence.height_px
    if own_size:
        width_px, height_px = bits.number(sequence.width_bits) + 1, bits.number(sequence.height_bits) + 1
    if sequence.upscaled and bits.flag():
        raise UnfitPictureError("an AV1 picture that is scaled up")
    if bits.flag():
        bits.number(32)
    if screen:
        bits.number(1)
    if not still and not fixed_contexts:
        bits.number(1)
    _skip_tiles(bits, sequence.large_blocks, width_px, height_px)
    quantizer = bits.number(8)
    _skip_delta(bits)
    if not sequence.colours.mono:
        differ = sequence.separate_chroma and bits.flag()
        for _ in range(4 if differ else 2):
            _skip_delta(bits)
    weighted = bits.flag()
    if weighted:
        bits.number(12 if sequence.separate_chroma else 8)
    segmented = bits.flag()
    varied = segmented or (quantizer > 0 and bits.flag())
    return Stream(sequence.colours, quantizer, weighted, varied)


def _skip_delta(bits: _Bits) -> None:
    if bits.flag():
        bits.number(7)


def _skip_tiles(bits: _Bits, large_blocks: bool, width_px: int, height_px: int) -> None:
    shift = 7 if large_blocks else 6
    columns, rows = -(-width_px // (1 << shift)), -(-height_px // (1 << shift))
    least = _tile_log2(4096 >> shift, columns)
    least_all = max(least, _tile_log2((4096 * 2304) >> 2 * shift, columns * rows))
    if not bits.flag():
        raise UnfitPictureError("an AV1 picture in tiles of different sizes")
    across = _raised(bits, least, _tile_log2(1, min(columns, 64)))
    down = _raised(bits, max(least_all - across, 0), _tile_log2(1, min(rows, 64)))
    if across or down:
        bits.number(across + down + 2)


def _raised(bits: _Bits, value: int, most: int) -> int:
    while value < most and bits.flag():
        value += 1
    return value


def _tile_log2(size: int, target: int) -> int:
    log = 0
    while size << log < target:
        log += 1
    return log


def relabelled(sequence: bytes, like: bytes) -> bytes:
    """Return a sequence header payload that says the same about its colours as another one does.

    Raises:
        UnfitPictureError: sampling or range differ, so that it would not be true.
    """
    mine, other = _Sequence(sequence).colours, _Sequence(like).colours
    if (mine.mono, mine.full_range, mine.subsampling) != (other.mono, other.full_range, other.subsampling):
        raise UnfitPictureError("coded with other sampling or range")
    bits, wanted = _text(sequence).rstrip("0"), _text(like)
    joined = bits[: mine.first_bit] + wanted[other.first_bit : other.last_bit] + bits[mine.last_bit :]
    joined += "0" * (-len(joined) % 8)
    return int(joined, 2).to_bytes(len(joined) // 8, "big")


def _text(data: bytes) -> str:
    return "".join(f"{byte:08b}" for byte in data)


_STEPS = (
    (0, 4), (1, 8), (96, 104), (122, 158), (140, 215), (156, 285), (175, 401), (193, 560), (210, 771), (227, 1066),
    (244, 1479), (255, 1828),
)  # fmt: skip
"""Quantizer index -> step of the AC coefficients of 8 bits, in between within 1.5 %. Source: section 7.12.2."""


def visible_step(quantizer: int) -> float:
    """Return the step of a quantizer index on the scale of JPEG tables, 0 for lossless; AV1 scales by 8."""
    indices, steps = zip(*_STEPS, strict=True)
    return float(np.interp(quantizer, indices, steps)) / 8 if quantizer else 0.0
