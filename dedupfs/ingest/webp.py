"""WebP files as RIFF chunks: where the coded image lies, which metadata stands around it, how it was encoded.

Owns the container (WebP container specification, RFC 9649) and the few header fields of a VP8 key frame that tell how
coarsely it was quantized (RFC 6386, section 9). Pure functions, safe in any thread.
"""

from __future__ import annotations

from dataclasses import dataclass

from dedupfs.errors import UndecodableError, UnfitPictureError

HEADER_BYTES = 12
CHUNK_HEADER_BYTES = 8
MAX_CHUNKS = 10_000
"""A still picture has at most seven; a hostile one would have millions, which take seconds and a gigabyte to list."""
FILLER_KIND = b"prFl"
"""An unknown chunk, which readers must ignore (RFC 9649, section 2.7.1.6)."""

_IMAGE = frozenset({b"VP8 ", b"VP8L", b"ALPH"})


@dataclass(frozen=True, slots=True)
class WebpParts:
    """A file as RIFF header, `before`, `coded`, `after`; `trailer` lies behind the end that the RIFF header gives.

    `before` and `after` are whole chunks of metadata (VP8X, ICCP, EXIF, XMP), `coded` is the image with its alpha
    plane.
    """

    before: bytes
    coded: bytes
    after: bytes
    trailer: bytes
    lossless: bool
    quantizers: tuple[int, ...]


def _walk(data: bytes) -> tuple[list[tuple[bytes, int, int]], int]:
    """Return (kind, start, end) of each chunk, padding byte included, and the end of the RIFF form."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        raise UndecodableError("no WebP header")
    form_end = CHUNK_HEADER_BYTES + int.from_bytes(data[4:8], "little")
    if form_end > len(data):
        raise UndecodableError("WebP cut short")
    chunks: list[tuple[bytes, int, int]] = []
    offset = HEADER_BYTES
    while offset < form_end:
        if len(chunks) == MAX_CHUNKS:
            raise UndecodableError(f"WebP of more than {MAX_CHUNKS} chunks")
        length = int.from_bytes(data[offset + 4 : offset + 8], "little")
        end = offset + CHUNK_HEADER_BYTES + length + (length & 1)
        if end > form_end:
            raise UndecodableError("WebP chunk reaches past the end")
        chunks.append((data[offset : offset + 4], offset, end))
        offset = end
    return chunks, form_end


def image_span(data: bytes) -> tuple[int, int] | None:
    """Return where the coded image starts and ends, or None; never raises."""
    try:
        chunks, _ = _walk(data)
    except UndecodableError:
        return None
    image = [chunk for chunk in chunks if chunk[0] in _IMAGE]
    return (image[0][1], image[-1][2]) if image else None


def split(data: bytes) -> WebpParts:
    """Take a file apart.

    Raises:
        UndecodableError: not a whole WebP, or its image chunks do not follow each other.
        UnfitPictureError: animated.
    """
    chunks, form_end = _walk(data)
    if any(kind in (b"ANIM", b"ANMF") for kind, _, _ in chunks):
        raise UnfitPictureError("an animated WebP")
    places = [at for at, chunk in enumerate(chunks) if chunk[0] in _IMAGE]
    if not places or places != list(range(places[0], places[-1] + 1)):
        raise UndecodableError("WebP without one image")
    start, end = chunks[places[0]][1], chunks[places[-1]][2]
    kind, body_start, _ = chunks[places[-1]]
    body = data[body_start + CHUNK_HEADER_BYTES : end]
    lossless = kind == b"VP8L"
    return WebpParts(
        data[HEADER_BYTES:start],
        data[start:end],
        data[end:form_end],
        data[form_end:],
        lossless,
        () if lossless else quantizers_of(body),
    )


_AC_STEPS = (
    4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32,
    33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 60, 62,
    64, 66, 68, 70, 72, 74, 76, 78, 80, 82, 84, 86, 88, 90, 92, 94, 96, 98, 100, 102, 104, 106, 108, 110, 112, 114,
    116, 119, 122, 125, 128, 131, 134, 137, 140, 143, 146, 149, 152, 155, 158, 161, 164, 167, 170, 173, 177, 181,
    185, 189, 193, 197, 201, 205, 209, 213, 217, 221, 225, 229, 234, 239, 245, 249, 254, 259, 264, 269, 274, 279,
    284,
)  # fmt: skip
"""Quantizer index -> step of the luma AC coefficients. Source: RFC 6386, section 14.1."""


def visible_step(quantizers: tuple[int, ...]) -> float:
    """Return the luma step of the finest segment on the scale of JPEG tables, 0 for lossless; VP8 scales by 2."""
    return _AC_STEPS[min(quantizers)] / 2 if quantizers else 0.0


def make_chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk with its length and, for an odd one, its padding byte."""
    return kind + len(body).to_bytes(4, "little") + body + bytes(len(body) & 1)


class _BoolReader:
    """The boolean entropy decoder of RFC 6386, section 7, for header bits of probability one half."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data[:256].ljust(256, b"\x00"), "big")
        self._bits = 256 * 8
        self._range = 255

    def bit(self) -> int:
        split_at = 1 + (((self._range - 1) * 128) >> 8)
        wide = split_at << (self._bits - 8)
        if self._value >= wide:
            self._value -= wide
            self._range -= split_at
            found = 1
        else:
            self._range = split_at
            found = 0
        while self._range < 128:
            self._range <<= 1
            self._bits -= 1
        return found

    def number(self, bits: int) -> int:
        value = 0
        for _ in range(bits):
            value = value << 1 | self.bit()
        return value

    def signed(self, bits: int) -> int:
        value = self.number(bits)
        return -value if self.bit() else value


def quantizers_of(frame: bytes) -> tuple[int, ...]:
    """Return the quantizer indices (0 finest, 127 coarsest) of the segments of a VP8 key frame, one without segments.

    Raises:
        UndecodableError: no key frame.
    """
    if len(frame) < 11 or frame[0] & 1 or frame[3:6] != b"\x9d\x01\x2a":
        raise UndecodableError("no VP8 key frame")
    reader = _BoolReader(frame[10:])
    reader.number(2)
    segments: list[int] = []
    absolute = 0
    if reader.bit():
        update_map, update_data = reader.bit(), reader.bit()
        if update_data:
            absolute = reader.bit()
            segments = [reader.signed(7) if reader.bit() else 0 for _ in range(4)]
            for _ in range(4):
                if reader.bit():
                    reader.signed(6)
        if update_map:
            for _ in range(3):
                if reader.bit():
                    reader.number(8)
    reader.number(1 + 6 + 3)
    if reader.bit() and reader.bit():
        for _ in range(8):
            if reader.bit():
                reader.signed(6)
    reader.number(2)
    base = reader.number(7)
    indices = (segments if absolute else [base + delta for delta in segments]) or [base]
    return tuple(max(0, min(index, 127)) for index in indices)
