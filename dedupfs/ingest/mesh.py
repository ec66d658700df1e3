"""Sampling on triangles: what ImageMagick's -adaptive-resize does.

Each target pixel lies between four source pixels. The square of these is cut along the diagonal whose ends are more
alike, and the pixel is weighted from the corners of its triangle. Pure functions, any thread.
Source: ImageMagick 6, resize.c, InterpolativeResizeImage(); pixel.c, MeshInterpolatePixel.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

_Bytes = npt.NDArray[np.uint8]
_Floats = npt.NDArray[np.float32]
_Places = npt.NDArray[np.intp]

_STRIP_ROWS = 256

_LUMA = np.array([0.212656, 0.715158, 0.072186], np.float32)
"""Weights of red, green and blue when corners are compared."""

_SLACK = np.float32(0.001)
"""Fractions are cut off, as it goes from 16 bits to 8; this keeps whole numbers from falling below themselves."""


def meshed(
    image: Image.Image, extent_px: tuple[float, float], target_px: tuple[int, int], window: tuple[int, int, int, int]
) -> Image.Image:
    """Return a window (left, upper, right, lower) of the image sampled at the target size.

    Args:
        image: mode L, LA, RGB or RGBA.
    """
    left, upper, right, lower = window
    columns = _places(extent_px[0], target_px[0], left, right)
    strips = [
        _strip(image, columns, _places(extent_px[1], target_px[1], top, min(lower, top + _STRIP_ROWS)))
        for top in range(upper, lower, _STRIP_ROWS)
    ]
    whole = np.concatenate(strips)
    return Image.fromarray(whole[:, :, 0] if whole.shape[2] == 1 else whole)


def _strip(image: Image.Image, columns: tuple[_Places, _Floats], rows: tuple[_Places, _Floats]) -> _Bytes:
    across = [np.clip(columns[0] + beside, 0, image.width - 1) for beside in (0, 1)]
    down = [np.clip(rows[0] + below, 0, image.height - 1) for below in (0, 1)]
    left, upper, right, lower = (int(place) for place in (across[0][0], down[0][0], across[1][-1], down[1][-1]))
    samples = np.asarray(image.crop((left, upper, right + 1, lower + 1)))
    samples = samples.reshape(*samples.shape[:2], -1)
    corners = [
        samples[down[below] - upper][:, across[beside] - left] for below, beside in ((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    first, second, third, fourth = (corner.astype(np.float32) for corner in corners)
    x, y = columns[1][None, :, None], rows[1][:, None, None]
    falling = np.abs(_luma(first) - _luma(fourth)) < np.abs(_luma(second) - _luma(third))
    made = np.where(
        falling[:, :, None],
        np.where(x <= y, _weighted(x, 1 - y, third, fourth, first), _weighted(1 - x, y, second, first, fourth)),
        np.where(x <= 1 - y, _weighted(x, y, first, second, third), _weighted(1 - x, 1 - y, fourth, third, second)),
    )
    codes: _Bytes = np.clip(made + _SLACK, 0, 255).astype(np.uint8)
    return codes


def _places(extent: float, target: int, first: int, last: int) -> tuple[_Places, _Floats]:
    """Return the source place before each target place, and how far behind it that lies."""
    wanted = (np.arange(first, last) + 0.5) * (extent / target) - 0.5
    before = np.floor(wanted)
    return before.astype(np.intp), (wanted - before).astype(np.float32)


def _weighted(x: _Floats, y: _Floats, corner: _Floats, beside: _Floats, below: _Floats) -> _Floats:
    weighted: _Floats = x * beside + y * below + (1 - x - y) * corner
    return weighted


def _luma(samples: _Floats) -> _Floats:
    return samples[:, :, :3] @ _LUMA if samples.shape[2] >= 3 else samples[:, :, 0]
