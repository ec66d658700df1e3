"""Resampling in floating point with the kernels that other tools use and Pillow lacks.

Owns kernel shapes and separable weighting; which kernel made a copy is found by `scaling`. Sums run in a fixed order in
single precision, so the same input gives the same bytes. Pure functions, any thread; works in strips, so that memory
stays near the size of input and output.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy  # Its parts load when they are first used: a worker that only looks at pictures needs none of them.
from PIL import Image

Floats = npt.NDArray[np.float32]
Positions = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]

_STRIP_ROWS = 256
"""Rows of the target that are made at a time, or so many that they are made of so many of the source."""

_KEPT_WEIGHTS = 64
"""Results of `weights` that are kept: a search asks for the same window with one filter and several arithmetics."""

_AHEAD = 1e-12
"""What ImageMagick adds to a place so that ties go one way."""

_FLOOR_SLACK = 0.001
"""Keeps sums that should be whole numbers from falling below them in single precision."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A kernel: its weight over distance, how far it reaches, and whether it widens when a picture is made smaller."""

    weight: Callable[[Positions], Positions]
    reach: float
    widens: bool


def _cubic(b: float, c: float) -> Callable[[Positions], Positions]:
    """Return the cubic of Mitchell and Netravali (1988) with these parameters."""

    def weight(x: Positions) -> Positions:
        x = np.abs(x)
        near = ((12 - 9 * b - 6 * c) * x**3 + (-18 + 12 * b + 6 * c) * x**2 + (6 - 2 * b)) / 6
        far = ((-b - 6 * c) * x**3 + (6 * b + 30 * c) * x**2 + (-12 * b - 48 * c) * x + (8 * b + 24 * c)) / 6
        return np.where(x < 1, near, np.where(x < 2, far, 0.0))

    return weight


def _lanczos(lobes: int) -> Callable[[Positions], Positions]:
    def weight(x: Positions) -> Positions:
        return np.where(np.abs(x) < lobes, np.sinc(x) * np.sinc(x / lobes), 0.0)

    return weight


def _triangle(x: Positions) -> Positions:
    return np.maximum(0.0, 1.0 - np.abs(x))


def _box(x: Positions) -> Positions:
    return np.where((x >= -0.5) & (x < 0.5), 1.0, 0.0)


def _area(x: Positions) -> Positions:
    raise NotImplementedError("coverage is integrated, not sampled")


AREA = Shape(_area, 0.5, True)
TRIANGLE = Shape(_triangle, 1.0, True)
MITCHELL = Shape(_cubic(1 / 3, 1 / 3), 2.0, True)
CATMULL_ROM = Shape(_cubic(0.0, 0.5), 2.0, True)
HERMITE = Shape(_cubic(0.0, 0.0), 1.0, True)
BOX = Shape(_box, 0.5, True)
SWSCALE_CUBIC = Shape(_cubic(0.0, 0.6), 2.0, True)
LANCZOS2 = Shape(_lanczos(2), 2.0, True)
LANCZOS3 = Shape(_lanczos(3), 3.0, True)
POINT_LINEAR = Shape(_triangle, 1.0, False)
POINT_CUBIC = Shape(_cubic(0.0, 0.75), 2.0, False)
POINT_LANCZOS4 = Shape(_lanczos(4), 4.0, False)


@dataclass(frozen=True, slots=True)
class Axis:
    """How places of the target lie on one axis of the source: place p is centred at `origin` + (p + 0.5) x `step`.

    `limit` is the number of source places. Beyond them a kernel meets the outermost ones again (`repeats`), or nothing.
    """

    step: float
    origin: float
    limit: int
    repeats: bool = False


@functools.lru_cache(maxsize=_KEPT_WEIGHTS)
def weights(
    axis: Axis, shape: Shape, first: int, last: int, deep: bool = False
) -> tuple[scipy.sparse.csr_array, int, int]:
    """Return the weights of one axis for target places `first` to `last` (exclusive), in double precision for `deep`.

    Returns:
        A matrix (last - first, stop - start), and the range start, stop of source places that it wants.
    """
    ratio, limit = axis.step, axis.limit
    spread = max(ratio, 1.0) if shape.widens else 1.0
    centres = np.clip(axis.origin + (np.arange(first, last) + 0.5) * ratio, 0.0, limit) + _AHEAD * deep
    reach = shape.reach * spread
    lows = np.floor(centres - reach).astype(np.int64)
    if not axis.repeats:
        lows = np.clip(lows, 0, limit - 1)
    taps = math.ceil(2 * reach) + 2
    columns = lows[:, None] + np.arange(taps)[None, :]
    if shape is AREA:
        half = max(ratio, 1.0) / 2
        cover = np.minimum(columns + 1.0, (centres + half)[:, None]) - np.maximum(columns, (centres - half)[:, None])
        values = np.maximum(cover, 0.0)
    else:
        values = shape.weight((columns + 0.5 - centres[:, None]) / spread)
    if not axis.repeats:
        values[columns >= limit] = 0.0
    columns = np.clip(columns, 0, limit - 1)
    sums = values.sum(axis=1, keepdims=True)
    sums = np.where(np.abs(sums) > 1e-9, sums, 1.0)
    values = values * (1.0 / sums) if deep else values / sums
    start, stop = int(columns.min()), int(columns.max()) + 1
    entries, places = (
        values.ravel().astype(np.float64 if deep else np.float32),
        (columns - start).ravel().astype(np.int32),
    )
    shape_of_all = (last - first, stop - start)
    if bool((np.diff(columns, axis=1) > 0).all()):
        ends = np.arange(0, entries.size + 1, taps, dtype=np.int32)
        return scipy.sparse.csr_array((entries, places, ends), shape=shape_of_all), start, stop
    # What lies beyond the edge counts for the outermost place: its entries are added up, which takes longer.
    rows = np.repeat(np.arange(last - first), taps)
    return scipy.sparse.csr_array((entries, (rows, places)), shape=shape_of_all), start, stop


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How samples are handled around the weighting.

    `linear_light`: weight light (sRGB transfer curve undone) instead of code values; `floors`: cut fractions off
    instead of rounding, as ImageMagick does when it goes from 16 bits to 8; `down_first`: weight along columns before
    rows; `stepwise`: round to whole levels between the two, as libvips does; `deep`: round to 16 bits a channel there
    and in the end, and weight first along the axis that shrinks more, as ImageMagick does.
    """

    linear_light: bool = False
    floors: bool = False
    down_first: bool = False
    stepwise: bool = False
    deep: bool = False


def resample(
    image: Image.Image,
    axes: tuple[Axis, Axis],
    window: tuple[int, int, int, int],
    shape: Shape,
    arithmetic: Arithmetic,
) -> Image.Image:
    """Return a window of the image brought to another size.

    Overshoot is clipped between the axes, as integer arithmetic does it. Colour is weighted with alpha, if there is
    any.

    Args:
        image: mode L, LA, RGB or RGBA.
        axes: how the target lies along the width and the height of the image.
        window: left, upper, right, lower in the target.
    """
    left, upper, right, lower = window
    down_first = axes[0].step >= axes[1].step if arithmetic.deep else arithmetic.down_first
    across, x_start, x_stop = weights(axes[0], shape, left, right, arithmetic.deep)
    strips: list[Bytes] = []
    strip_rows = max(1, int(_STRIP_ROWS / max(1.0, axes[1].step)))
    for top in range(upper, lower, strip_rows):
        bottom = min(lower, top + strip_rows)
        down, y_start, y_stop = weights(axes[1], shape, top, bottom, arithmetic.deep)
        part = image.crop((x_start, y_start, x_stop, y_stop))
        # A weighting goes along the first axis; Pillow turns pixels as a whole, numpy byte by byte.
        part = part if down_first else part.transpose(Image.Transpose.TRANSPOSE)
        samples = np.asarray(part).reshape(part.height, part.width, -1)
        values = _weighable(samples, image.mode, arithmetic)
        first, second = (down, across) if down_first else (across, down)
        values = _stepped(_apply(first, values), arithmetic)
        values = _stepped(_apply(second, _turned(values)), arithmetic)
        made = _samples(values, image.mode, arithmetic)
        strips.append(made.transpose(1, 0, 2) if down_first else made)
    whole = np.concatenate(strips)
    return Image.fromarray(whole[:, :, 0] if whole.shape[2] == 1 else whole)


def _turned(values: Floats) -> Floats:
    """Return the first two of three axes exchanged, copied a pixel and not a number at a time."""
    pixels = values.view(np.dtype((np.void, values.shape[2] * values.itemsize)))[:, :, 0]
    turned: Floats = np.ascontiguousarray(pixels.T).view(values.dtype).reshape(values.shape[1], values.shape[0], -1)
    return turned


def _apply(matrix: scipy.sparse.csr_array, values: Floats) -> Floats:
    """Return the matrix applied to the first of three axes."""
    applied: Floats = matrix @ values.reshape(values.shape[0], -1)
    return applied.reshape(-1, *values.shape[1:])


def _stepped(values: Floats, arithmetic: Arithmetic) -> Floats:
    """Return weighted samples without overshoot, and in whole levels where the arithmetic asks for it."""
    np.clip(values, 0, 255, out=values)
    if arithmetic.stepwise:
        np.floor(values + np.float32(0.5), out=values)
    if arithmetic.deep:
        np.floor(values * _DEEP + np.float32(0.5), out=values)
        values /= _DEEP
    return values


def _weighable(samples: Bytes, mode: str, arithmetic: Arithmetic) -> Floats:
    """Return samples as numbers of 0 to 255, colour multiplied by alpha."""
    values: Floats = _TO_LIGHT[samples] if arithmetic.linear_light else samples.astype(np.float32)
    if mode in ("LA", "RGBA"):
        alpha = samples[:, :, -1:].astype(np.float32)
        values = np.concatenate((values[:, :, :-1] * (alpha / np.float32(255)), alpha), axis=2)
    return values


def _samples(values: Floats, mode: str, arithmetic: Arithmetic) -> Bytes:
    """Return the reverse of `_weighable`, rounded or cut off."""
    offset = np.float32(_FLOOR_SLACK if arithmetic.floors else 0.5)
    if mode in ("LA", "RGBA"):
        alpha = values[:, :, -1:]
        colour = np.clip(values[:, :, :-1] * (np.float32(255) / np.maximum(alpha, np.float32(1e-3))), 0, 255).astype(
            np.float32
        )
        return np.concatenate((_codes(colour, offset, arithmetic), (alpha + offset).astype(np.uint8)), axis=2)
    return _codes(values, offset, arithmetic)


def _codes(values: Floats, offset: np.float32, arithmetic: Arithmetic) -> Bytes:
    if arithmetic.linear_light:
        light = (values * np.float32(_LIGHT_STEPS / 255) + np.float32(0.5)).astype(np.int32)
        values = _FROM_LIGHT[light]
    if arithmetic.deep:
        # Source: ImageMagick 6, quantum-private.h, ScaleQuantumToChar(), which is not quite a division by 257.
        wide = (values * _DEEP + np.float32(0.5)).astype(np.uint32)
        narrow = wide // 257 if arithmetic.floors else (wide + 128 - (wide + 128 >> 8)) >> 8
        return narrow.astype(np.uint8)
    codes: Bytes = np.minimum(values + offset, np.float32(255)).astype(np.uint8)
    return codes


_DEEP = np.float32(257)
"""Steps of 16 bits in a level of 8."""
_LIGHT_STEPS = 65535
_code = np.arange(256) / 255
_TO_LIGHT: Floats = (255 * np.where(_code <= 0.04045, _code / 12.92, ((_code + 0.055) / 1.055) ** 2.4)).astype(
    np.float32
)
"""Code value -> light, 0 to 255. Source: IEC 61966-2-1."""
_light = np.arange(_LIGHT_STEPS + 1) / _LIGHT_STEPS
_FROM_LIGHT: Floats = (255 * np.where(_light <= 0.0031308, 12.92 * _light, 1.055 * _light ** (1 / 2.4) - 0.055)).astype(
    np.float32
)
"""Light in steps of 1 / 65535 -> code value with its fraction."""
