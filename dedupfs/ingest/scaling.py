"""Ways to bring one picture to the size of another, and the search for the one that a copying tool used.

Owns the list of ways; pixels in floating point are the business of `kernels`. Pure functions, any thread.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from dedupfs.ingest import kernels


class Kernel(enum.IntEnum):
    """Filters; the numbers are part of the recipe format.

    The first group is Pillow's own arithmetic, with 8 bits between the axes.
    """

    SAME = 0
    NEAREST = 1
    BOX = 2
    BILINEAR = 3
    HAMMING = 4
    BICUBIC = 5
    LANCZOS = 6
    FLOAT_AREA = 16
    FLOAT_TRIANGLE = 17
    FLOAT_MITCHELL = 18
    FLOAT_CATMULL_ROM = 19
    FLOAT_SWSCALE = 20
    FLOAT_LANCZOS2 = 21
    FLOAT_LANCZOS3 = 22
    POINT_LINEAR = 23
    POINT_CUBIC = 24
    POINT_LANCZOS4 = 25
    NEAREST_LOW = 32
    NEAREST_CORNER = 33


_PILLOW = {
    Kernel.NEAREST: Image.Resampling.NEAREST,
    Kernel.BOX: Image.Resampling.BOX,
    Kernel.BILINEAR: Image.Resampling.BILINEAR,
    Kernel.HAMMING: Image.Resampling.HAMMING,
    Kernel.BICUBIC: Image.Resampling.BICUBIC,
    Kernel.LANCZOS: Image.Resampling.LANCZOS,
}
_FLOAT = {
    Kernel.FLOAT_AREA: kernels.AREA,
    Kernel.FLOAT_TRIANGLE: kernels.TRIANGLE,
    Kernel.FLOAT_MITCHELL: kernels.MITCHELL,
    Kernel.FLOAT_CATMULL_ROM: kernels.CATMULL_ROM,
    Kernel.FLOAT_SWSCALE: kernels.SWSCALE_CUBIC,
    Kernel.FLOAT_LANCZOS2: kernels.LANCZOS2,
    Kernel.FLOAT_LANCZOS3: kernels.LANCZOS3,
    Kernel.POINT_LINEAR: kernels.POINT_LINEAR,
    Kernel.POINT_CUBIC: kernels.POINT_CUBIC,
    Kernel.POINT_LANCZOS4: kernels.POINT_LANCZOS4,
}


ROUNDED = kernels.Arithmetic()


@dataclass(frozen=True, slots=True)
class Scaling:
    """One way to resize.

    `draft` is the DCT scale denominator of the decode (1, 2, 4, 8; JPEG only), `reduction` the integer factors of
    Image.reduce() that Pillow's `reducing_gap` puts before the filter.
    """

    kernel: Kernel
    draft: int = 1
    reduction: tuple[int, int] = (1, 1)
    arithmetic: kernels.Arithmetic = ROUNDED


@dataclass(frozen=True, slots=True)
class Base:
    """A representative decoded at some draft scale and reduced; `extent_px` is the width and height that it shows."""

    image: Image.Image
    extent_px: tuple[float, float]


def reduced(image: Image.Image, extent_px: tuple[float, float], reduction: tuple[int, int]) -> Base:
    """Return the base that the kernel of a Scaling works on."""
    if reduction == (1, 1):
        return Base(image, extent_px)
    return Base(image.reduce(reduction), (extent_px[0] / reduction[0], extent_px[1] / reduction[1]))


def scaled(
    base: Base, scaling: Scaling, target_px: tuple[int, int], window: tuple[int, int, int, int] | None = None
) -> Image.Image:
    """Return the base at the target size, or one window (left, upper, right, lower) of that.

    Windows of Pillow's filters differ from the whole picture within a filter radius of their edges.
    """
    width_px, height_px = target_px
    left, upper, right, lower = window or (0, 0, width_px, height_px)
    if scaling.kernel is Kernel.SAME:
        return base.image if window is None else base.image.crop(window)
    shape = _FLOAT.get(scaling.kernel)
    if shape is not None:
        return kernels.resample(
            base.image, base.extent_px, target_px, (left, upper, right, lower), shape, scaling.arithmetic
        )
    if scaling.kernel in (Kernel.NEAREST_LOW, Kernel.NEAREST_CORNER):
        return _picked(base, target_px, (left, upper, right, lower), scaling.kernel is Kernel.NEAREST_CORNER)
    if scaling.kernel is Kernel.NEAREST and window is not None:
        # With a box Pillow steps through the source from another start, which for single pixels is another picture.
        return scaled(base, scaling, target_px).crop(window)
    ratio_x, ratio_y = base.extent_px[0] / width_px, base.extent_px[1] / height_px
    box = (left * ratio_x, upper * ratio_y, right * ratio_x, lower * ratio_y)
    return base.image.resize((right - left, lower - upper), _PILLOW[scaling.kernel], box)


def _picked(base: Base, target_px: tuple[int, int], window: tuple[int, int, int, int], corner: bool) -> Image.Image:
    """Return single source pixels: those under the corners (OpenCV), or under the centres with ties to the left.

    The latter is what ImageMagick's -sample does; Pillow's NEAREST has its ties to the right.
    """
    samples = np.asarray(base.image)
    columns, rows = (
        _places(extent, target, first, last, corner, limit)
        for extent, target, first, last, limit in zip(
            base.extent_px, target_px, window[:2], window[2:], base.image.size, strict=True
        )
    )
    return Image.fromarray(samples[rows][:, columns])


def _places(extent: float, target: int, first: int, last: int, corner: bool, limit: int) -> npt.NDArray[np.intp]:
    wanted = np.arange(first, last)
    places = np.floor(wanted * extent / target) if corner else np.ceil((wanted + 0.5) * extent / target) - 1
    return np.clip(places.astype(np.intp), 0, limit - 1)


_REDUCING_GAPS = (2.0, 3.0)
"""2.0 is the default of Image.thumbnail(), 3.0 what its documentation calls hard to tell from fair resampling."""


_MAGICK = (
    Kernel.FLOAT_LANCZOS3,
    Kernel.FLOAT_MITCHELL,
    Kernel.FLOAT_TRIANGLE,
    Kernel.FLOAT_CATMULL_ROM,
    Kernel.FLOAT_AREA,
)
"""Filters of ImageMagick, its defaults first."""


def candidates(source_px: tuple[int, int], target_px: tuple[int, int], is_jpeg: bool) -> Iterator[Scaling]:
    """Yield ways to resize, the likely ones first.

    Args:
        source_px, target_px: width and height, turned the same way.
        is_jpeg: the source can be decoded at a DCT scale.
    """
    if source_px == target_px:
        yield Scaling(Kernel.SAME)
        return
    for kernel in (Kernel.LANCZOS, Kernel.BICUBIC, Kernel.BILINEAR, Kernel.BOX, Kernel.HAMMING, Kernel.NEAREST):
        yield Scaling(kernel)
    ratio = min(source_px[0] / target_px[0], source_px[1] / target_px[1])
    yield from (Scaling(Kernel.NEAREST_LOW), Scaling(Kernel.NEAREST_CORNER))
    yield from (Scaling(kernel) for kernel in _FLOAT)
    for floors, linear_light, down_first in itertools.product((True, False), (False, True), (True, False)):
        if floors or linear_light:
            arithmetic = kernels.Arithmetic(linear_light, floors, down_first)
            yield from (Scaling(kernel, arithmetic=arithmetic) for kernel in _MAGICK if floors or not down_first)
    for gap in _REDUCING_GAPS:
        factors = tuple(max(1, int(s / t / gap)) for s, t in zip(source_px, target_px, strict=True))
        if max(factors) > 1:
            yield from (Scaling(k, 1, (factors[0], factors[1])) for k in (Kernel.BICUBIC, Kernel.LANCZOS))
    for draft in (2, 4, 8):
        if is_jpeg and ratio >= draft:
            exact = all(-(-s // draft) == t for s, t in zip(source_px, target_px, strict=True))
            if exact:
                yield Scaling(Kernel.SAME, draft)
            else:
                drafted = (Kernel.BICUBIC, Kernel.LANCZOS, Kernel.BILINEAR, Kernel.BOX)
                yield from (Scaling(kernel, draft) for kernel in drafted)
                yield Scaling(Kernel.FLOAT_LANCZOS3, draft)
