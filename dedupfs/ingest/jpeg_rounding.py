"""How other encoders than libjpeg's usual one round the coefficients of a JPEG, in pixels that Pillow codes the same.

Owns the arithmetic between pixels and quantized coefficients. Pillow's encoder takes no coefficients, so a picture is
brought to the pixels that the wanted coefficients decode to: coded with the same tables, these give the coefficients
back, but where a block would need levels below 0 or above 255. Pure functions, any thread.
"""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt
import scipy
from PIL import Image

from dedupfs.ingest import jpeg_fast

_Plane = npt.NDArray[np.uint8]
_Floats = npt.NDArray[np.float32]

_SIDE = 8
_STRIP_ROWS = 16
"""Rows that are converted at a time, so that their numbers stay in the processor's cache."""

_SHEET_ROWS = 64
"""Rows that are rounded at a time, whole blocks of every component: on the way they take 20 bytes a pixel."""
_STRIP_BLOCKS = 1 << 15
"""Blocks that are transformed at a time, 8 MiB."""


class Rounding(enum.IntEnum):
    """Ways to round; the numbers are part of the recipe format.

    LIBRARY leaves it to libjpeg, whose integer transform has halves go away from zero. UPWARD is that of its transform
    in floating point: halves go up. INWARD is that of ffmpeg: the fraction must reach 5/8. FAST is libjpeg's quick
    transform, which ImageMagick uses up to quality 90.
    """

    LIBRARY = 0
    UPWARD = 1
    INWARD = 2
    FAST = 3


_INWARD_OFFSET = 0.375
"""Source: ffmpeg, mpegvideo_enc.c, intra_quant_bias."""

_TRANSFORM: _Floats = scipy.fft.dct(np.eye(_SIDE), axis=0, norm="ortho").astype(np.float32)


def rounded(
    image: Image.Image, tables: tuple[tuple[int, ...], ...], factors: tuple[int, int], rounding: Rounding
) -> Image.Image:
    """Return the picture as it is after quantization, mode L or YCbCr.

    Args:
        image: mode L, RGB or YCbCr.
        tables: quantization tables, row-major, one a component without trailing repeats.
        factors: how many columns and rows of luma there are to one of chroma.
        rounding: any but FAST (see `whole_blocks`), which says nothing here.
    """
    made = Image.new("L" if image.mode == "L" else "YCbCr", image.size)
    for top in range(0, image.height, _SHEET_ROWS):
        sheet = image.crop((0, top, image.width, min(image.height, top + _SHEET_ROWS)))
        made.paste(_rounded_sheet(sheet, tables, factors, rounding), (0, top))
    return made


def _rounded_sheet(
    image: Image.Image, tables: tuple[tuple[int, ...], ...], factors: tuple[int, int], rounding: Rounding
) -> Image.Image:
    planes = _planes(image, factors)
    done = [_rounded(plane, tables[min(at, len(tables) - 1)], rounding) for at, plane in enumerate(planes)]
    if len(done) == 1:
        return Image.fromarray(done[0])
    return merged(done, factors, image.size)


def whole_blocks(image: Image.Image, tables: tuple[tuple[int, ...], ...], factors: tuple[int, int]) -> Image.Image:
    """Return the picture as the fast transform codes it, filled up to what is coded at once, mode L or YCbCr.

    What a reader never shows comes out as the library would have coded it too, so that the code is the same to the end.

    Args:
        image, tables, factors: as for `rounded`.
    """
    width_px, height_px = image.size
    across, down = factors if image.mode != "L" else (1, 1)
    unit = (_SIDE * across, _SIDE * down)
    filled_px = (width_px + -width_px % unit[0], height_px + -height_px % unit[1])
    samples = np.asarray(image)
    beyond = ((0, 0), (0, filled_px[0] - width_px)) + ((0, 0),) * (samples.ndim - 2)
    planes = _planes(Image.fromarray(np.pad(samples, beyond, mode="edge"), image.mode), factors)
    done: list[_Plane] = []
    for at, plane in enumerate(planes):
        rows = filled_px[1] // (down if at else 1)
        # Rows are repeated once chroma has been brought to fewer; columns before that.
        plane = np.pad(plane, ((0, rows - len(plane)), (0, 0)), mode="edge")
        table = tables[min(at, len(tables) - 1)]
        pixels, levels = jpeg_fast.coded(plane, table)
        if not at:
            _fill_unseen(pixels, levels, table[0], (width_px, height_px))
        done.append(pixels)
    return Image.fromarray(done[0]) if len(done) == 1 else merged(done, factors, filled_px)


def _fill_unseen(luma: _Plane, levels: jpeg_fast.Levels, step: int, size_px: tuple[int, int]) -> None:
    """Give blocks beyond the edges the mean of the last block before them in the same unit. Source: jccoefct.c."""
    across, down = (-(-side // _SIDE) for side in size_px)
    means = levels[:, :, 0, 0].copy()
    for column in range(across, means.shape[1]):
        means[:, column] = means[:, column - 1]
    for row in range(down, means.shape[0]):
        means[row] = means[row - 1, np.minimum(np.arange(means.shape[1]) | 1, means.shape[1] - 1)]
    unseen = np.ones(means.shape, bool)
    unseen[:down, :across] = False
    for row, column in np.argwhere(unseen):
        tile = jpeg_fast.flat(means[row : row + 1, column], step)[0]
        luma[row * _SIDE : (row + 1) * _SIDE, column * _SIDE : (column + 1) * _SIDE] = tile


def merged(planes: list[_Plane], factors: tuple[int, int], size_px: tuple[int, int]) -> Image.Image:
    """Return luma and two planes of chroma as one picture, chroma repeated so that its mean is what it was."""
    chroma = [
        plane.repeat(factors[1], axis=0).repeat(factors[0], axis=1)[: size_px[1], : size_px[0]] for plane in planes[1:]
    ]
    return Image.merge("YCbCr", [Image.fromarray(np.ascontiguousarray(plane)) for plane in (planes[0], *chroma)])


def _planes(image: Image.Image, factors: tuple[int, int]) -> list[_Plane]:
    if image.mode == "L":
        return [np.asarray(image)]
    samples = np.asarray(image)
    if image.mode == "YCbCr":
        luma, *chroma = (samples[:, :, channel] for channel in range(3))
    else:
        luma, *chroma = _converted(samples)
    return [luma, *(_downsampled(plane, factors) for plane in chroma)]


def _converted(samples: _Plane) -> list[_Plane]:
    """Return Y, Cb and Cr of RGB in the integers of libjpeg. Source: jccolor.c."""
    planes = [np.empty(samples.shape[:2], np.uint8) for _ in range(3)]
    half, centre = 1 << 15, (128 << 16) + (1 << 15) - 1
    for top in range(0, samples.shape[0], _STRIP_ROWS):
        rows = slice(top, top + _STRIP_ROWS)
        red, green, blue = (samples[rows, :, channel].astype(np.int32) for channel in range(3))
        every = (
            19595 * red + 38470 * green + 7471 * blue + half,
            -11059 * red - 21709 * green + 32768 * blue + centre,
            32768 * red - 27439 * green - 5329 * blue + centre,
        )
        for plane, sums in zip(planes, every, strict=True):
            sums >>= 16
            plane[rows] = sums
    return planes


def _downsampled(plane: _Plane, factors: tuple[int, int]) -> _Plane:
    """Return the plane in fewer columns and rows, with the alternating bias of libjpeg. Source: jcsample.c."""
    across, down = factors
    if factors == (1, 1):
        return plane
    padded = np.pad(plane, ((0, -plane.shape[0] % down), (0, -plane.shape[1] % across)), mode="edge").astype(np.uint16)
    sums = padded[::2] + padded[1::2] if down == 2 else padded
    sums = sums[:, ::2] + sums[:, 1::2]
    biases = (np.arange(sums.shape[1]) % 2 + (1 if across * down == 4 else 0)).astype(np.uint16)
    smaller: _Plane = ((sums + biases) // (across * down)).astype(np.uint8)
    return smaller


def _rounded(plane: _Plane, table: tuple[int, ...], rounding: Rounding) -> _Plane:
    rows, columns = plane.shape
    padded = np.pad(plane, ((0, -rows % _SIDE), (0, -columns % _SIDE)), mode="edge")
    down, across = padded.shape[0] // _SIDE, padded.shape[1] // _SIDE
    blocks = padded.reshape(down, _SIDE, across, _SIDE).transpose(0, 2, 1, 3).reshape(-1, _SIDE, _SIDE)
    steps = np.array(table, np.float32).reshape(_SIDE, _SIDE)
    made = [
        _requantized(blocks[at : at + _STRIP_BLOCKS], steps, rounding) for at in range(0, len(blocks), _STRIP_BLOCKS)
    ]
    whole = np.concatenate(made).reshape(down, across, _SIDE, _SIDE).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(whole.reshape(padded.shape)[:rows, :columns])


def _requantized(blocks: _Plane, steps: _Floats, rounding: Rounding) -> _Plane:
    shares = _TRANSFORM @ (blocks.astype(np.float32) - 128) @ _TRANSFORM.T / steps
    if rounding is Rounding.INWARD:
        levels = np.copysign(np.floor(np.abs(shares) + np.float32(_INWARD_OFFSET)), shares)
        levels[:, 0, 0] = np.copysign(np.floor(np.abs(shares[:, 0, 0]) + np.float32(0.5)), shares[:, 0, 0])
    else:
        levels = np.floor(shares + np.float32(0.5))
    back = _TRANSFORM.T @ (levels * steps) @ _TRANSFORM + np.float32(128.5)
    return np.clip(back, 0, 255).astype(np.uint8)
