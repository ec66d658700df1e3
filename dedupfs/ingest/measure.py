"""Maps of how two pictures of one size differ, block by block.

Owns the arithmetic; what is too much is said by `verify`. Works in strips, so that memory stays at the two pictures and
maps of about a hundredth of them. Integer arithmetic throughout. Pure functions, any thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

BLOCK_PX = 8
TILE_PX = 16

_STRIP_ROWS = 64
_STRIP_PIXELS = 1 << 16
"""A strip has as many pixels at least: of windows, the calls cost more than the arithmetic."""

_SCALE = 128
"""Blurred differences are kept in units of 1 / 128 level, which 16 bits just hold."""

_HALO = 4

Map = npt.NDArray[np.float32]
_Ints = npt.NDArray[np.int16]
_Plane = npt.NDArray[np.uint8]
_Number = TypeVar("_Number", np.int16, np.uint8)


@dataclass(frozen=True, slots=True)
class Maps:
    """Differences of a member and a rendition in levels of 0 to 255.

    Blocks are 8 x 8 pixels, tiles 16 x 16, both from the upper left corner of the stored picture, which is where JPEG
    lays its own. Every map has one row a row of blocks (tiles).

    Attributes:
        fine_luma: per block, largest |dY| after a binomial filter of sigma 1.
        member_range, rendition_range: per block, luma maximum minus minimum.
        fine_chroma: per tile, largest |dCb| or |dCr| after a filter of sigma 2.
        member_tiles, rendition_tiles: per tile, mean Y, Cb, Cr; shape (rows, columns, 3).
        member_detail, rendition_detail: mean square of luma minus its blurred self, over the whole picture.
        alpha: largest difference of the alpha planes.
    """

    fine_luma: Map
    member_range: Map
    rendition_range: Map
    fine_chroma: Map
    member_tiles: Map
    rendition_tiles: Map
    member_detail: float
    rendition_detail: float
    alpha: float


def measure(member: Image.Image, rendition: Image.Image) -> Maps:
    """Return the maps of two pictures of equal size, modes L, LA, RGB or RGBA."""
    if member.size != rendition.size:
        raise ValueError(f"{member.size} and {rendition.size} cannot be compared")
    width_px, height_px = member.size
    rows: list[tuple[Map, ...]] = []
    energy = np.zeros(2)
    strip_rows = max(_STRIP_ROWS, _STRIP_PIXELS // width_px // TILE_PX * TILE_PX)
    for top in range(0, height_px, strip_rows):
        bottom = min(height_px, top + strip_rows)
        pair = (_planes(member, top, bottom), _planes(rendition, top, bottom))
        strip, energies = _strip(*pair, (bottom - top, width_px))
        rows.append(strip)
        energy += energies
    maps = [np.concatenate(parts) for parts in zip(*rows, strict=True)]
    detail = energy / (width_px * height_px)
    alpha = _alpha_difference(member, rendition)
    return Maps(maps[0], maps[1], maps[2], maps[3], maps[4], maps[5], float(detail[0]), float(detail[1]), alpha)


def _planes(image: Image.Image, top: int, bottom: int) -> _Plane:
    """Return rows of the picture as Y, Cb, Cr, shape (3, rows, columns), edges repeated.

    There are _HALO more rows and columns on every side, and enough beyond for whole tiles.
    """
    width_px, height_px = image.size
    first, last = max(0, top - _HALO), min(height_px, bottom + _HALO)
    strip = image.crop((0, first, width_px, last))
    above, below = _HALO - (top - first), _HALO - (last - bottom) + -(bottom - top) % TILE_PX
    right = _HALO + -width_px % TILE_PX
    planes = np.empty((3, above + strip.height + below, _HALO + width_px + right), np.uint8)
    if image.mode in ("L", "LA"):
        bands = [strip.getchannel("L")]
        planes[1:] = 128
    else:
        bands = list((strip if strip.mode == "RGB" else strip.convert("RGB")).convert("YCbCr").split())
    for plane, band in zip(planes, bands, strict=False):
        rows = plane[above : above + strip.height]
        rows[:, _HALO : _HALO + width_px] = np.asarray(band)
        rows[:, :_HALO] = rows[:, _HALO : _HALO + 1]
        rows[:, _HALO + width_px :] = rows[:, _HALO + width_px - 1 : _HALO + width_px]
        plane[:above] = rows[0]
        plane[above + strip.height :] = rows[-1]
    return planes


def _strip(
    member: _Plane, rendition: _Plane, valid: tuple[int, int]
) -> tuple[tuple[Map, ...], npt.NDArray[np.float64]]:
    """Return the maps of one strip and the sums of squared detail; `valid` is its rows and columns without padding."""
    inner = slice(_HALO, -_HALO)
    blurred = [_binomial(planes[0, 2:-2, 2:-2].astype(np.int16)) for planes in (member, rendition)]
    fine_luma = _largest(_repadded(np.abs(blurred[0] - blurred[1]), valid), BLOCK_PX).astype(np.float32) / np.float32(
        _SCALE
    )
    lumas = [planes[0, inner, inner] for planes in (member, rendition)]
    ranges = [(_largest(luma, BLOCK_PX) - _smallest(luma, BLOCK_PX)).astype(np.float32) for luma in lumas]
    chroma = np.zeros((), np.int16)
    for plane in (1, 2):
        difference = member[plane].astype(np.int16) - rendition[plane].astype(np.int16)
        flat = difference[::2] + difference[1::2]
        halved = flat[:, ::2] + flat[:, 1::2]
        chroma = np.maximum(chroma, np.abs(_binomial_of_sums(halved)))
    fine_chroma = _largest(_repadded(chroma, ((valid[0] + 1) // 2, (valid[1] + 1) // 2)), TILE_PX // 2).astype(
        np.float32
    ) / np.float32(_SCALE)
    tiles = [
        np.stack([_means(plane[inner, inner], valid) for plane in planes], axis=-1) for planes in (member, rendition)
    ]
    energies = [_detail(luma, blur) for luma, blur in zip(lumas, blurred, strict=True)]
    return (fine_luma, ranges[0], ranges[1], fine_chroma, tiles[0], tiles[1]), np.array(energies)


def _binomial(values: _Ints) -> _Ints:
    """Return `values` (0 to 255) through 1 4 6 4 1 (sigma 1) both ways, times _SCALE, two less on every side."""
    down = values[:-4] + values[4:] + 4 * (values[1:-3] + values[3:-1]) + 6 * values[2:-2]
    down >>= 1
    return down[:, :-4] + down[:, 4:] + 4 * (down[:, 1:-3] + down[:, 3:-1]) + 6 * down[:, 2:-2]


def _binomial_of_sums(values: _Ints) -> _Ints:
    """Return sums of 2 x 2 signed differences through the same filter, times _SCALE for their mean."""
    down = values[:-4] + values[4:] + 4 * (values[1:-3] + values[3:-1]) + 6 * values[2:-2]
    down >>= 3
    return down[:, :-4] + down[:, 4:] + 4 * (down[:, 1:-3] + down[:, 3:-1]) + 6 * down[:, 2:-2]


def _repadded(values: npt.NDArray[_Number], valid: tuple[int, int]) -> npt.NDArray[_Number]:
    """Return the values with all beyond the picture replaced by its edge: out there the filters had nothing to blur."""
    rows, columns = values.shape
    if valid == (rows, columns):
        return values
    return np.pad(values[: valid[0], : valid[1]], ((0, rows - valid[0]), (0, columns - valid[1])), mode="edge")


def _largest(values: npt.NDArray[_Number], side: int) -> npt.NDArray[_Number]:
    rows, columns = values.shape
    across = values.reshape(rows // side, side, columns).max(axis=1)
    largest: npt.NDArray[_Number] = across.reshape(rows // side, columns // side, side).max(axis=2)
    return largest


def _smallest(values: npt.NDArray[_Number], side: int) -> npt.NDArray[_Number]:
    rows, columns = values.shape
    across = values.reshape(rows // side, side, columns).min(axis=1)
    smallest: npt.NDArray[_Number] = across.reshape(rows // side, columns // side, side).min(axis=2)
    return smallest


def _means(plane: _Plane, valid: tuple[int, int]) -> Map:
    """Return the mean of each tile over its pixels within the picture; a sliver counts as half a tile."""
    rows, columns = plane.shape
    inside = plane
    if valid != (rows, columns):
        inside = np.zeros_like(plane)
        inside[: valid[0], : valid[1]] = plane[: valid[0], : valid[1]]
    down = inside.reshape(rows // TILE_PX, TILE_PX, columns).sum(axis=1, dtype=np.uint16)
    sums = down.reshape(rows // TILE_PX, columns // TILE_PX, TILE_PX).sum(axis=2, dtype=np.uint32)
    counts = np.outer(_covered(valid[0], rows), _covered(valid[1], columns))
    means: Map = (sums / np.maximum(counts, TILE_PX**2 // 2)).astype(np.float32)
    return means


def _covered(valid: int, padded: int) -> npt.NDArray[np.int64]:
    """Return how many of the TILE_PX places of each tile along an axis are within the picture."""
    return np.clip(valid - np.arange(0, padded, TILE_PX), 0, TILE_PX)


def _detail(luma: _Plane, blurred: _Ints) -> float:
    """Return the sum of squares of what the filter took away, in levels."""
    sharp = (luma.astype(np.int16) - (blurred >> 7)).astype(np.float32)
    return float(np.vdot(sharp, sharp))


def _alpha_difference(member: Image.Image, rendition: Image.Image) -> float:
    planes = [image.getchannel("A") if image.mode in ("LA", "RGBA") else None for image in (member, rendition)]
    if planes[0] is None and planes[1] is None:
        return 0.0
    opaque = Image.new("L", member.size, 255)
    first, second = (np.asarray(plane or opaque) for plane in planes)
    return float((np.maximum(first, second) - np.minimum(first, second)).max())
