"""A part of what Image.resize() makes of a picture, to the last bit, without making the rest.

Pillow takes the part of the source that is to be resized in single precision, so that a part of the target can come out
with other roundings than the same part of the whole, wherever the scale is no round number. This is its arithmetic with
the numbers of the whole: weights of 22 bits after the point, whole levels between rows and columns. Pure functions, any
thread. Source: Pillow, Resample.c.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy  # Its parts load when they are first used.
from PIL import Image

_Positions = npt.NDArray[np.float64]
_Samples = npt.NDArray[np.uint8]

_PRECISION_BITS = 22


@dataclass(frozen=True, slots=True)
class _Filter:
    weight: Callable[[_Positions], _Positions]
    support: float


def _box(x: _Positions) -> _Positions:
    return np.where((x > -0.5) & (x <= 0.5), 1.0, 0.0)


def _bilinear(x: _Positions) -> _Positions:
    return np.maximum(0.0, 1.0 - np.abs(x))


def _hamming(x: _Positions) -> _Positions:
    x = np.abs(x)
    angle = np.where(x == 0, 1.0, x) * np.pi
    weight = np.sin(angle) / angle * (0.54 + 0.46 * np.cos(angle))
    return np.where(x == 0, 1.0, np.where(x < 1.0, weight, 0.0))


def _bicubic(x: _Positions) -> _Positions:
    x = np.abs(x)
    a = -0.5
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _lanczos(x: _Positions) -> _Positions:
    return np.where((x >= -3.0) & (x < 3.0), np.sinc(x) * np.sinc(x / 3), 0.0)


_FILTERS = {
    Image.Resampling.BOX: _Filter(_box, 0.5),
    Image.Resampling.BILINEAR: _Filter(_bilinear, 1.0),
    Image.Resampling.HAMMING: _Filter(_hamming, 1.0),
    Image.Resampling.BICUBIC: _Filter(_bicubic, 2.0),
    Image.Resampling.LANCZOS: _Filter(_lanczos, 3.0),
}


def resized(
    image: Image.Image,
    target_px: tuple[int, int],
    window: tuple[int, int, int, int],
    resample: Image.Resampling,
    extent_px: tuple[float, float],
    down_first: bool = False,
) -> Image.Image:
    """Return a window (left, upper, right, lower) of `image.resize(target_px, resample, (0, 0, *extent_px))`.

    Args:
        image: mode L or RGB.
        resample: any filter but NEAREST.
        down_first: columns before rows. Pillow up to 12 never does that; 13 does for some sizes.
    """
    chosen = _FILTERS[resample]
    left, upper, right, lower = window
    across, x_start, x_stop = _weights(chosen, image.width, extent_px[0], target_px[0], left, right)
    down, y_start, y_stop = _weights(chosen, image.height, extent_px[1], target_px[1], upper, lower)
    samples = np.asarray(image.crop((x_start, y_start, x_stop, y_stop)))
    samples = samples.reshape(*samples.shape[:2], -1)
    for vertical in (down_first, not down_first):
        if vertical:
            samples = _applied(down, samples)
        else:
            samples = _applied(across, samples.transpose(1, 0, 2)).transpose(1, 0, 2)
    samples = np.ascontiguousarray(samples)
    return Image.fromarray(samples[:, :, 0] if samples.shape[2] == 1 else samples)


def _weights(
    chosen: _Filter, limit: int, extent: float, target: int, first: int, last: int
) -> tuple[scipy.sparse.csr_array, int, int]:
    """Return the weights of target places `first` to `last` (exclusive), and the range of source places they want."""
    scale = float(np.float32(extent)) / target
    spread = max(scale, 1.0)
    support = chosen.support * spread
    centres = (np.arange(first, last) + 0.5) * scale
    lows = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    highs = np.minimum((centres + support + 0.5).astype(np.int64), limit)
    columns = lows[:, None] + np.arange(int((highs - lows).max()))
    values = chosen.weight((columns - centres[:, None] + 0.5) * (1.0 / spread))
    values[columns >= highs[:, None]] = 0.0
    values /= values.sum(axis=1, keepdims=True)
    whole = np.trunc(values * (1 << _PRECISION_BITS) + np.copysign(0.5, values))
    start, stop = int(lows.min()), int(highs.max())
    rows = np.repeat(np.arange(last - first), columns.shape[1])
    places = np.minimum(columns, stop - 1).ravel() - start
    matrix = scipy.sparse.csr_array((whole.ravel(), (rows, places)), shape=(last - first, stop - start))
    return matrix, start, stop


def _applied(matrix: scipy.sparse.csr_array, samples: _Samples) -> _Samples:
    """Return the matrix applied to the first of three axes, in whole numbers, which doubles hold exactly."""
    sums = matrix @ samples.reshape(samples.shape[0], -1).astype(np.float64)
    levels = np.floor((sums + (1 << (_PRECISION_BITS - 1))) * (1.0 / (1 << _PRECISION_BITS)))
    applied: _Samples = np.clip(levels, 0, 255).astype(np.uint8).reshape(-1, *samples.shape[1:])
    return applied
