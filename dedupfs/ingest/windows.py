"""Where in a member the ways of scaling are judged: a few squares instead of the whole picture.

Pure functions, any thread.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from dedupfs.ingest.measure import TILE_PX

Window = tuple[int, int, int, int]
"""Left, upper, right, lower."""

WINDOW_PX = 192
WINDOW_MARGIN_PX = 16
MAX_WINDOWS = 5
"""Where the way of scaling is judged: squares of the member with most detail, aligned with the blocks of its coding.
"""


def centre(window: Window) -> Window:
    """Return a quarter of a window, as far from its edges and as aligned as the window is."""
    left, upper, right, lower = window
    return (
        left + (right - left) // 4 // TILE_PX * TILE_PX,
        upper + (lower - upper) // 4 // TILE_PX * TILE_PX,
        right - (right - left) // 4,
        lower - (lower - upper) // 4,
    )


def trimmed(image: Image.Image) -> Image.Image:
    """Return a window without its margin, which filters at its edges reach into."""
    margin = WINDOW_MARGIN_PX if min(image.size) > 4 * WINDOW_MARGIN_PX else 0
    return image.crop((margin, margin, image.width - margin, image.height - margin)) if margin else image


def inner(image: Image.Image) -> npt.NDArray[np.float32]:
    """Return the samples of a window without its margin."""
    return np.asarray(trimmed(image)).astype(np.float32)


def windows_of(image: Image.Image) -> list[Window]:
    """Return the squares (left, upper, right, lower) with most detail and a middling one, or all of a small picture.

    The middling one is for tone: flat parts show best whether fractions were rounded or cut off.
    """
    width_px, height_px = image.size
    if width_px * height_px <= MAX_WINDOWS * WINDOW_PX**2:
        return [(0, 0, width_px, height_px)]
    across, down = max(1, width_px // WINDOW_PX), max(1, height_px // WINDOW_PX)
    luma = np.asarray(image.convert("L").resize((across * 8, down * 8), Image.Resampling.NEAREST)).astype(np.float32)
    spread = luma.reshape(down, 8, across, 8).transpose(0, 2, 1, 3).reshape(down, across, 64).std(axis=2)
    found: list[Window] = []
    order = np.argsort(-spread.ravel(), kind="stable")
    for place in (*order[: MAX_WINDOWS - 1], order[len(order) // 2]):
        row, column = divmod(int(place), across)
        left = column * width_px // across // TILE_PX * TILE_PX
        upper = row * height_px // down // TILE_PX * TILE_PX
        found.append((left, upper, min(width_px, left + WINDOW_PX), min(height_px, upper + WINDOW_PX)))
    return found
