"""The coefficients of libjpeg's fast transform, in pixels that its usual one codes the same.

ImageMagick up to quality 90 and programs on TurboJPEG's interface use it. Owns its arithmetic, and the search for
pixels whose coefficients in floating point fall where the fast ones fell: near those that were coded, as the fast
transform errs by little. Pure functions, any thread.
Source: libjpeg-turbo, jfdctfst.c and jcdctmgr.c; its vector instructions do the same.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import scipy

Blocks = npt.NDArray[np.uint8]
Levels = npt.NDArray[np.int32]
_Floats = npt.NDArray[np.float32]

_SIDE = 8
_STRIP_BLOCKS = 1 << 14
"""Blocks that are transformed at a time, 4 MiB of numbers."""

_AAN = (1.0, 1.387039845, 1.306562965, 1.175875602, 1.0, 0.785694958, 0.541196100, 0.275899379)
_AAN_BITS = 14
_SCALES = np.floor(np.outer(_AAN, _AAN) * (1 << _AAN_BITS) + 0.5).astype(np.int64)
"""What the fast transform leaves to the quantization."""

_MARGIN = 1.2
"""Levels from the edge of its step that a coefficient is kept away: rounded pixels move it by 0.29 (deviation)."""
_USUAL_ERROR = 0.3
"""Levels by which the coefficients of libjpeg's usual transform, in integers, are off at most."""
_ATTEMPTS = 12
_LEFT_ALONE = (np.float32(0.5), np.float32(0.0), np.float32(0.2))
"""Shares of the way to the edge within which a coefficient is left alone, one after the other with so many attempts.

Rounding wants a large one, the range of levels a small one.
"""
_SINGLE_STEPS = 24
_MOST_STEPPED = 64
"""Blocks of a strip that are mended pixel by pixel, at 4 ms each: white paper at quality 90 has hundreds, and then the
code is not repeated to the last byte."""

_DITHER = (np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]], np.float32) + 0.5) / 16
"""Thresholds that make a flat block's mean as fine as sixteenths of a level."""

_TRANSFORM: _Floats = scipy.fft.dct(np.eye(_SIDE), axis=0, norm="ortho").astype(np.float32)
_UP = np.einsum("ur,vc->rcuv", _TRANSFORM, _TRANSFORM).reshape(_SIDE**2, _SIDE, _SIDE)
_SINGLE: _Floats = np.concatenate((_UP, -_UP))
"""What one pixel a level up, and then one a level down, does to the coefficients."""


def coded(plane: Blocks, table: tuple[int, ...]) -> tuple[Blocks, Levels]:
    """Return a plane as pixels that are coded as the fast transform codes it, and the levels of its blocks.

    Args:
        plane: whole blocks.
        table: quantization table, row-major.
    Returns:
        The plane, and levels of shape (rows of blocks, columns of blocks, 8, 8).
    """
    down, across = plane.shape[0] // _SIDE, plane.shape[1] // _SIDE
    blocks = plane.reshape(down, _SIDE, across, _SIDE).transpose(0, 2, 1, 3).reshape(-1, _SIDE, _SIDE)
    steps = np.array(table, np.int64).reshape(_SIDE, _SIDE)
    pixels = np.empty_like(blocks)
    levels = np.empty(blocks.shape, np.int32)
    for at in range(0, len(blocks), _STRIP_BLOCKS):
        strip = slice(at, at + _STRIP_BLOCKS)
        levels[strip] = _quantized(_transformed(blocks[strip]), steps)
        pixels[strip] = _pixels(blocks[strip], levels[strip], steps.astype(np.float32))
    whole = pixels.reshape(down, across, _SIDE, _SIDE).transpose(0, 2, 1, 3).reshape(plane.shape)
    return whole, levels.reshape(down, across, _SIDE, _SIDE)


def flat(levels: Levels, step: int) -> Blocks:
    """Return blocks of one tone each: shape (blocks, 8, 8) for levels of the mean, shape (blocks,)."""
    tones = 128 + levels.astype(np.float32) * step / np.float32(_SIDE)
    tiled = np.tile(_DITHER, (2, 2))
    return np.clip(np.floor(tones[:, None, None] + tiled), 0, 255).astype(np.uint8)


def _transformed(blocks: Blocks) -> Levels:
    """Return the coefficients, scaled as `_SCALES` says."""
    samples = blocks.astype(np.int32).transpose(2, 1, 0) - 128
    rows = np.stack(_passed(samples)).transpose(1, 0, 2)
    return np.stack(_passed(rows)).transpose(2, 0, 1)


def _times(values: Levels, factor: int) -> Levels:
    return (values * factor) >> 8


def _passed(samples: Levels) -> list[Levels]:
    """Return the eight sums of one pass over samples whose first axis it goes along."""
    (s0, s1, s2, s3), (d0, d1, d2, d3) = samples[:4] + samples[:3:-1], samples[:4] - samples[:3:-1]
    sum_outer, difference_outer = s0 + s3, s0 - s3
    sum_inner, difference_inner = s1 + s2, s1 - s2
    turned = _times(difference_inner + difference_outer, 181)
    low, middle, high = d3 + d2, d2 + d1, d1 + d0
    shared = _times(low - high, 98)
    low_part, high_part, centre = _times(low, 139) + shared, _times(high, 334) + shared, _times(middle, 181)
    plus, minus = d0 + centre, d0 - centre
    return [
        sum_outer + sum_inner,
        plus + high_part,
        difference_outer + turned,
        minus - low_part,
        sum_outer - sum_inner,
        minus + low_part,
        difference_outer - turned,
        plus - high_part,
    ]


def _quantized(coefficients: Levels, steps: npt.NDArray[np.int64]) -> Levels:
    factors, offsets, shifts = _reciprocals(steps.tobytes())
    found = ((np.abs(coefficients).astype(np.int64) + offsets) * factors) >> shifts
    return np.where(coefficients < 0, -found, found).astype(np.int32)


@functools.lru_cache(maxsize=16)
def _reciprocals(steps: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return factor, offset and shift that divide and round. Source: jcdctmgr.c, compute_reciprocal()."""
    scaled = np.frombuffer(steps, np.int64).reshape(_SIDE, _SIDE) * _SCALES
    divisors = (scaled + (1 << (_AAN_BITS - 4))) >> (_AAN_BITS - 3)
    made = np.empty((3, _SIDE, _SIDE), np.int64)
    for place, divisor in np.ndenumerate(divisors):
        made[(slice(None), *place)] = _reciprocal(int(divisor))
    return made[0], made[1], made[2]


def _reciprocal(divisor: int) -> tuple[int, int, int]:
    if divisor == 1:
        return 1, 0, 0
    shift = 16 + divisor.bit_length() - 1
    factor, rest = divmod(1 << shift, divisor)
    offset = divisor // 2
    if rest == 0:
        return factor >> 1, offset, shift - 1
    return (factor, offset + 1, shift) if rest <= divisor // 2 else (factor + 1, offset, shift)


def _pixels(blocks: Blocks, levels: Levels, steps: _Floats) -> Blocks:
    """Return pixels near these blocks whose coefficients round to the levels, but for a few blocks of small steps."""
    wanted = levels * steps
    reach = np.maximum(steps / 2 - np.float32(_MARGIN), 0)
    sure = (steps / 2 - np.minimum(_USUAL_ERROR, steps / 4)).astype(np.float32)
    aims = np.clip(_forward(blocks), wanted - reach, wanted + reach)
    pixels = _backward(aims)
    amiss = np.arange(len(blocks))
    for share in _LEFT_ALONE:
        # Where rounding and the range of levels took a coefficient out of its step, aim as far beyond.
        tried, moved = amiss, aims[amiss]
        pixels[tried] = _backward(moved)
        for _ in range(_ATTEMPTS):
            errors = _forward(pixels[tried]) - wanted[tried]
            bad = (np.abs(errors) > sure).any(axis=(1, 2))
            tried, moved, errors = tried[bad], moved[bad], errors[bad]
            if not len(tried):
                return pixels
            moved = moved - (errors - np.clip(errors, -share * sure, share * sure))
            pixels[tried] = _backward(moved)
        amiss = tried
    if len(amiss) <= _MOST_STEPPED:
        pixels[amiss] = _by_single_steps(pixels[amiss], blocks[amiss], wanted[amiss], sure)
    return pixels


def _by_single_steps(pixels: Blocks, blocks: Blocks, wanted: _Floats, sure: _Floats) -> Blocks:
    """Return pixels moved one by one, from the better of two beginnings, by what mends most."""
    begun = [_forward(each) - wanted for each in (pixels, blocks)]
    costs = [_excess(errors, sure).sum(axis=(1, 2)) for errors in begun]
    closer = (costs[1] < costs[0])[:, None, None]
    made, errors = np.where(closer, blocks, pixels), np.where(closer, begun[1], begun[0])
    cost = np.minimum(*costs)
    left = np.arange(len(made))
    for _ in range(_SINGLE_STEPS):
        left = left[cost[left] > 0]
        if not len(left):
            break
        after = _excess(errors[left, None] + _SINGLE, sure).sum(axis=(2, 3))
        room = np.concatenate((made[left] < 255, made[left] > 0), axis=1).reshape(len(left), -1)
        after[~room] = np.inf
        best = after.argmin(axis=1)
        gains = after[np.arange(len(left)), best] < cost[left]
        left, best = left[gains], best[gains]
        made.reshape(len(made), -1)[left, best % _SIDE**2] += np.where(best < _SIDE**2, 1, 255).astype(np.uint8)
        errors[left] += _SINGLE[best]
        cost[left] = _excess(errors[left], sure).sum(axis=(1, 2))
    return made


def _excess(errors: _Floats, sure: _Floats) -> _Floats:
    """Return the squares of what is beyond the edge."""
    beyond = np.maximum(np.abs(errors) - sure, 0).astype(np.float32)
    return beyond * beyond


def _forward(pixels: Blocks) -> _Floats:
    found: _Floats = _TRANSFORM @ (pixels.astype(np.float32) - np.float32(128)) @ _TRANSFORM.T
    return found


def _backward(coefficients: _Floats) -> Blocks:
    samples = _TRANSFORM.T @ coefficients @ _TRANSFORM + np.float32(128.5)
    return np.clip(samples, 0, 255).astype(np.uint8)
