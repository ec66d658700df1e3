"""Glance: what tells two pictures apart before anything is encoded, from means over parts of them.

Owns the grids and how far their cells may differ. Pure functions, any thread.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from dedupfs.ingest.measure import TILE_PX
from dedupfs.ingest.treatment import on_white
from dedupfs.ingest.verify import CEILING_COARSE_CHROMA, CEILING_COARSE_LUMA, Steps

PREVIEW_SIDE = 64
"""Longer side of the grid on which two pictures are compared first."""

PREVIEW_SHARE = 4
"""Pixels of either picture that make a cell of the grid at least, so that phases of sampling do not show."""

PREVIEW_LIMIT = 30.0
"""Levels by which a cell of the grid may differ."""

HOPELESS_TILES = 1.5
"""Excess of the means of tiles from which a picture is not encoded; of 132 copies that passed the largest was 0.65."""

_TILE_PER_STEP = 1 / 8
"""Levels by which quantization may move the mean of a tile, per level of step: twice what rounding the mean of a block
can do. What is held against the member has not been quantized."""

Preview = npt.NDArray[np.int16]


def grid_of(upright_px: tuple[int, int], draft_px: tuple[int, int]) -> tuple[int, int]:
    """Return the columns and rows of the grid for a member (width, height) and the draft of a representative."""
    longer = max(upright_px)
    side = min(PREVIEW_SIDE, min(longer, *draft_px) // PREVIEW_SHARE)
    return max(1, side * upright_px[0] // longer), max(1, side * upright_px[1] // longer)


def preview(image: Image.Image, grid: tuple[int, int], *, laid_on_white: bool) -> Preview:
    """Return the picture on the grid; colour is weighted with alpha, and laid on white where both have some."""
    small = image.resize(grid, Image.Resampling.BILINEAR)
    return np.asarray((on_white(small) if laid_on_white else small).convert("RGB")).astype(np.int16)


def tiles_of(image: Image.Image) -> Preview:
    """Return the mean Y, Cb and Cr of the tiles that lie wholly within the picture, shape (rows, columns, 3)."""
    small = image.reduce(TILE_PX).convert("RGB").convert("YCbCr")
    return np.asarray(small).astype(np.int16)[: image.height // TILE_PX, : image.width // TILE_PX]


def tiles_excess(member: Preview, other: Preview, steps: Steps) -> float:
    """Return the largest difference of two pictures' tiles over what `verify` lets pass however coarse they are.

    Args:
        steps: quantization of the member alone.
    """
    if not member.size:
        return 0.0
    differences = np.abs(member - other)
    luma, chroma = float(differences[:, :, 0].max()), float(differences[:, :, 1:].max())
    return max(
        luma / (CEILING_COARSE_LUMA + _TILE_PER_STEP * steps.luma),
        chroma / (CEILING_COARSE_CHROMA + _TILE_PER_STEP * steps.chroma),
    )
