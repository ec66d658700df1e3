"""BMP files as members: rows of plain samples between a header and whatever follows.

Owns the layout of uncompressed BMP of 8, 24 and 32 bits (BITMAPINFOHEADER and its successors). There is nothing to fit:
the samples of a size always take the same bytes. Pure functions, any thread.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from dedupfs.errors import IntegrityError, UndecodableError, UnfitPictureError
from dedupfs.ingest import scanlines

SECTIONS = 2
"""Before the rows, behind them."""

_FILE_HEADER_BYTES = 14
_RGB, _BITFIELDS = 0, 3
_MASKS = (0xFF0000, 0xFF00, 0xFF)
_ALPHA_MASK = 0xFF000000
_MODES = {"L", "RGB", "RGBA"}


@dataclass(frozen=True, slots=True)
class BmpHeader:
    """What the header says: rows from `start` to `end` of the file, the bits of a pixel, top or bottom row first."""

    width_px: int
    height_px: int
    bits: int
    top_first: bool
    start: int
    end: int
    palette: npt.NDArray[np.uint8]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, filled up to a multiple of four."""
        return (self.width_px * self.bits + 31) // 32 * 4


@dataclass(frozen=True, slots=True)
class BmpTarget:
    """A BMP member: its own sections, the mode its pixels are taken from, and the fourth byte of its pixels."""

    sections: tuple[bytes, bytes]
    mode: str
    coding: bytes


def read_header(data: bytes) -> BmpHeader:
    """Return the header of a file, which may be cut off behind it.

    Raises:
        UndecodableError: broken.
        UnfitPictureError: compressed, or with another number of bits.
    """
    if data[:2] != b"BM" or len(data) < _FILE_HEADER_BYTES + 40:
        raise UndecodableError("no BMP header")
    start, size = struct.unpack_from("<II", data, 10)
    if size < 40:
        raise UnfitPictureError("a BMP of the first version")
    width_px, height_px, planes, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    colours = struct.unpack_from("<I", data, 46)[0]
    if planes != 1 or bits not in (8, 24, 32) or compression not in (_RGB, _BITFIELDS):
        raise UnfitPictureError("a BMP that is compressed or of other depth")
    if compression == _BITFIELDS and (bits != 32 or struct.unpack_from("<III", data, 54) != _MASKS):
        raise UnfitPictureError("a BMP with unusual masks")
    if width_px <= 0 or not height_px or start < _FILE_HEADER_BYTES + size:
        raise UndecodableError("a BMP header with a forbidden value")
    palette = np.zeros((0, 3), np.uint8)
    if bits == 8:
        first = _FILE_HEADER_BYTES + size
        count = colours or 256
        entries = np.frombuffer(data[first : first + 4 * count], np.uint8)
        if count > 256 or len(entries) != 4 * count or first + 4 * count > start:
            raise UndecodableError("a BMP palette cut short")
        palette = entries.reshape(-1, 4)[:, 2::-1].copy()
    header = BmpHeader(width_px, abs(height_px), bits, height_px < 0, start, start, palette)
    end = start + header.row_bytes * header.height_px
    return BmpHeader(width_px, abs(height_px), bits, height_px < 0, start, end, palette)


def target_of(data: bytes, mode: str) -> BmpTarget:
    """Take a member apart whose decoded pixels are of this mode.

    Raises:
        UndecodableError, UnfitPictureError: as `read_header`.
    """
    header = read_header(data)
    if header.end > len(data):
        raise UndecodableError("BMP cut short")
    if mode not in _MODES or (mode == "RGBA" and header.bits != 32):
        raise UnfitPictureError("a BMP with unusual samples")
    fourth = data[header.start + 3 : header.start + 4] if header.bits == 32 and mode == "RGB" else b""
    mode = "RGB" if mode == "L" else mode
    return BmpTarget((data[: header.start], data[header.end :]), mode, mode.encode() + fourth)


def write(image: Image.Image, coding: bytes, sections: tuple[bytes, ...], size_bytes: int) -> bytes | None:
    """Return the file that the sections make of an image, or None when it does not come out at the size.

    Raises:
        IntegrityError: sections or settings that do not belong to the pixels.
    """
    before, after = sections
    try:
        header = read_header(before)
    except (UndecodableError, UnfitPictureError) as exc:
        raise IntegrityError("a BMP member without its header") from exc
    if image.size != (header.width_px, header.height_px) or header.start != len(before):
        raise IntegrityError("a BMP member's own bytes do not belong to its pixels")
    if len(before) + header.end - header.start + len(after) != size_bytes:
        return None
    samples = np.asarray(image)
    rows = np.zeros((header.height_px, header.row_bytes), np.uint8)
    if header.bits == 8:
        rows[:, : header.width_px] = scanlines.nearest(samples[:, :, :3], header.palette)
    else:
        planes = header.bits // 8
        pixels = np.full((header.height_px, header.width_px, planes), coding[-1], np.uint8)
        pixels[:, :, :3] = samples[:, :, 2::-1]
        if image.mode == "RGBA" and planes == 4:
            pixels[:, :, 3] = samples[:, :, 3]
        rows[:, : planes * header.width_px] = pixels.reshape(header.height_px, -1)
    return b"".join((before, (rows if header.top_first else rows[::-1]).tobytes(), after))
