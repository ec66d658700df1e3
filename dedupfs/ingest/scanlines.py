"""PNG scanlines: pixels to the packed samples of a colour type, and the five filters.

Owns this arithmetic (W3C PNG, sections 7 and 9). Pure functions, any thread.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt
import scipy
from PIL import Image

from dedupfs.errors import UndecodableError, UnfitPictureError
from dedupfs.ingest import png

Bytes = npt.NDArray[np.uint8]

NONE, SUB, UP, AVERAGE, PAETH = range(5)

MAX_PALETTE_COLOURS = 200_000
"""Distinct colours for which the nearest palette entry is looked up (about a microsecond each)."""


def filter_types(stream: bytes, header: png.PngHeader) -> bytes:
    """Return the filter type of each scanline of an inflated-on-the-way IDAT stream.

    Raises:
        UndecodableError: the stream does not inflate to the size of the picture, or names an unknown filter.
    """
    inflated = inflate(stream, header)
    types = inflated[:: header.row_bytes + 1]
    if max(types) > PAETH:
        raise UndecodableError("PNG scanline with an unknown filter")
    return types


def inflate(stream: bytes, header: png.PngHeader) -> bytes:
    """Return the filtered scanlines; what a hostile stream holds beyond them is not inflated."""
    expected = header.height_px * (header.row_bytes + 1)
    try:
        inflated = zlib.decompressobj().decompress(stream, expected)
    except zlib.error as exc:
        raise UndecodableError("PNG data does not inflate") from exc
    if len(inflated) != expected:
        raise UndecodableError("PNG data cut short")
    return inflated


def pack(image: Image.Image, header: png.PngHeader, palette: npt.NDArray[np.uint8]) -> Bytes:
    """Return the samples of an image, shape (height_px, row_bytes).

    Args:
        image: mode L, LA, RGB or RGBA as the colour type wants; for a palette RGB or RGBA as its entries are.
        palette: entries, shape (entries, 3 or 4); unused for other colour types.
    Raises:
        UnfitPictureError: too many colours for a palette.
    """
    samples = np.asarray(image)
    if header.colour_type == png.PALETTE:
        return _packed_bits(nearest(samples, palette), header.bit_depth)
    if header.bit_depth < 8:
        top = (1 << header.bit_depth) - 1
        return _packed_bits(((samples.astype(np.uint16) * top + 127) // 255).astype(np.uint8), header.bit_depth)
    return np.ascontiguousarray(samples).reshape(header.height_px, header.row_bytes)


def nearest(samples: Bytes, palette: Bytes) -> Bytes:
    """Return the place of the nearest palette entry of each pixel, the first of equal ones."""
    height_px, width_px, channels = samples.shape
    words = np.zeros(height_px * width_px, np.uint32)
    for channel in range(channels):
        words = words << 8 | samples[:, :, channel].ravel()
    distinct, places = np.unique(words, return_inverse=True)
    if len(distinct) > MAX_PALETTE_COLOURS:
        raise UnfitPictureError("too many colours for a palette")
    colours = np.stack([distinct >> 8 * (channels - 1 - at) & 255 for at in range(channels)], axis=1)
    entries, first = np.unique(palette[:, :channels], axis=0, return_index=True)
    nearest = scipy.spatial.cKDTree(entries.astype(np.float64)).query(colours.astype(np.float64))[1]
    found: Bytes = first[nearest].astype(np.uint8)[places].reshape(height_px, width_px)
    return found


def _packed_bits(values: Bytes, bit_depth: int) -> Bytes:
    """Return values below 2 ** bit_depth, several to the byte, leftmost in the high bits."""
    if bit_depth == 8:
        return values
    per_byte = 8 // bit_depth
    height_px, width_px = values.shape
    padded = np.pad(values, ((0, 0), (0, -width_px % per_byte))).reshape(height_px, -1, per_byte)
    packed = np.zeros(padded.shape[:2], np.uint8)
    for at in range(per_byte):
        packed |= padded[:, :, at] << np.uint8(8 - bit_depth * (at + 1))
    return packed


def filtered(rows: Bytes, types: bytes, pixel_bytes: int) -> bytes:
    """Return the scanlines with their filter types in front.

    Args:
        rows: shape (height_px, row_bytes).
        types: one filter type a row.
    """
    height_px, row_bytes = rows.shape
    made = np.empty((height_px, row_bytes + 1), np.uint8)
    kinds = np.frombuffer(types, np.uint8)
    made[:, 0] = kinds
    for kind in range(5):
        chosen = np.flatnonzero(kinds == kind)
        if len(chosen):
            made[chosen, 1:] = rows[chosen] - _predicted(rows, chosen, kind, pixel_bytes)
    return made.tobytes()


def _predicted(rows: Bytes, chosen: npt.NDArray[np.intp], kind: int, pixel_bytes: int) -> Bytes:
    here = rows[chosen]
    if kind == NONE:
        return np.zeros_like(here)
    up = np.where((chosen > 0)[:, None], rows[chosen - 1], np.uint8(0))
    if kind == UP:
        return up
    left = np.zeros_like(here)
    left[:, pixel_bytes:] = here[:, :-pixel_bytes]
    if kind == SUB:
        return left
    if kind == AVERAGE:
        return ((left.astype(np.uint16) + up) >> 1).astype(np.uint8)
    corner = np.zeros_like(here)
    corner[:, pixel_bytes:] = up[:, :-pixel_bytes]
    a, b, c = (plane.astype(np.int16) for plane in (left, up, corner))
    to_a, to_b, to_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    return np.where((to_a <= to_b) & (to_a <= to_c), left, np.where(to_b <= to_c, up, corner))


def adaptive_types(rows: Bytes, pixel_bytes: int) -> bytes:
    """Return the filter of each row whose output has the smallest sum of absolute values (W3C PNG, section 12.7)."""
    every = np.arange(len(rows))
    sums = [
        np.abs((rows - _predicted(rows, every, kind, pixel_bytes)).view(np.int8).astype(np.int16)).sum(axis=1)
        for kind in range(5)
    ]
    types: Bytes = np.argmin(np.stack(sums), axis=0).astype(np.uint8)
    return types.tobytes()
