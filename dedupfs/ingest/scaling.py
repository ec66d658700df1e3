"""Ways to bring one picture to the size of another, and the search for the one that a copying tool used.

Owns the list of ways; pixels in floating point are the business of `kernels`. Pure functions, any thread.
"""

from __future__ import annotations

import enum
import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from dedupfs.ingest import kernels, pillow_filters
from dedupfs.ingest.mesh import meshed


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
    FLOAT_HERMITE = 26
    FLOAT_BOX = 27
    POINT_LINEAR_SWSCALE = 28
    NEAREST_LOW = 32
    NEAREST_CORNER = 33
    MESH = 34
    MIPMAP = 35
    PLANES_SWSCALE = 36
    PLANES_TRIANGLE = 37
    PLANES_AREA = 38
    PLANES_LANCZOS3 = 39
    SAMPLED_LANCZOS3 = 40
    PLANES_LINEAR_SWSCALE = 41


_PILLOW = {
    Kernel.LANCZOS: Image.Resampling.LANCZOS,
    Kernel.BICUBIC: Image.Resampling.BICUBIC,
    Kernel.BILINEAR: Image.Resampling.BILINEAR,
    Kernel.BOX: Image.Resampling.BOX,
    Kernel.HAMMING: Image.Resampling.HAMMING,
    Kernel.NEAREST: Image.Resampling.NEAREST,
}
PILLOW_FILTERS: dict[Kernel, Image.Resampling] = {
    kernel: filter_ for kernel, filter_ in _PILLOW.items() if kernel is not Kernel.NEAREST
}
"""Those that `pillow_filters` knows."""
# Not among them is the Gaussian of ImageMagick: with it copies at 60 % that somebody had blurred by 0.8 pixels passed.
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
    Kernel.FLOAT_HERMITE: kernels.HERMITE,
    Kernel.FLOAT_BOX: kernels.BOX,
    Kernel.POINT_LINEAR_SWSCALE: kernels.POINT_LINEAR,
}

PLANES = {
    Kernel.PLANES_SWSCALE: Kernel.FLOAT_SWSCALE,
    Kernel.PLANES_TRIANGLE: Kernel.FLOAT_TRIANGLE,
    Kernel.PLANES_AREA: Kernel.FLOAT_AREA,
    Kernel.PLANES_LANCZOS3: Kernel.FLOAT_LANCZOS3,
    Kernel.PLANES_LINEAR_SWSCALE: Kernel.POINT_LINEAR_SWSCALE,
}
"""What ffmpeg does to a JPEG: luma and chroma are scaled each by itself, in the samples that are coded."""

_RARE = (Kernel.POINT_LINEAR_SWSCALE, Kernel.MESH)
"""Filters that are asked for by name and seldom, tried only when all others are far off."""

_IN_LIGHT = (Kernel.FLOAT_LANCZOS3, Kernel.FLOAT_CATMULL_ROM, Kernel.FLOAT_MITCHELL, Kernel.FLOAT_TRIANGLE)
"""Filters tried in linear light then too: dark lettering gets so thin in it that other filters would seem closer."""


ROUNDED = kernels.Arithmetic()
DEEP = kernels.Arithmetic(deep=True)
DEEP_PNG = kernels.Arithmetic(floors=True, deep=True)
"""ImageMagick's, and that on the way to a PNG."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """One way to resize.

    `draft` is the DCT scale denominator of the decode (1, 2, 4, 8; JPEG only), `reduction` the integer factors of
    Image.reduce() that Pillow's `reducing_gap` puts before the filter, or twice the factor of `halved`. `step` is how
    many source pixels a target pixel takes, in both directions, where a tool kept to a given scale though the size had
    to be rounded; 0 where the target shows the whole source. Then `centred` says that what is left over lies on both
    sides, not at right and bottom.
    """

    kernel: Kernel
    draft: int = 1
    reduction: tuple[int, int] = (1, 1)
    arithmetic: kernels.Arithmetic = ROUNDED
    step: float = 0.0
    centred: bool = False


@dataclass(frozen=True, slots=True)
class Base:
    """A representative decoded at some draft scale and reduced; `extent_px` is the width and height that it shows.

    For PLANES the image is its luma, and `chroma` its other planes.
    """

    image: Image.Image
    extent_px: tuple[float, float]
    chroma: tuple[Image.Image, ...] = ()


def reduced(image: Image.Image, extent_px: tuple[float, float], reduction: tuple[int, int]) -> Base:
    """Return the base that the kernel of a Scaling works on."""
    if reduction == (1, 1):
        return Base(image, extent_px)
    return Base(image.reduce(reduction), (extent_px[0] / reduction[0], extent_px[1] / reduction[1]))


_STRIP_ROWS = 256
"""Rows that are halved at a time; an even number."""


def halved(image: Image.Image, factor: int) -> Base:
    """Return the base of a MIPMAP: means of 2 x 2 pixels, cut off to whole levels, again and again up to the factor.

    What does not make a whole pixel is left out. Source: Skia, SkMipmap.cpp, downsample_2_2().
    """
    samples = np.asarray(image)
    while factor > 1 and min(samples.shape[:2]) > 1:
        bottom, right = (length // 2 * 2 for length in samples.shape[:2])
        tops = range(0, bottom, _STRIP_ROWS)
        samples = np.concatenate([_means(samples[top : min(bottom, top + _STRIP_ROWS), :right]) for top in tops])
        factor //= 2
    smaller = Image.fromarray(samples)
    return Base(smaller, (float(smaller.width), float(smaller.height)))


def _means(samples: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    rows = samples[::2].astype(np.uint16) + samples[1::2]
    means: npt.NDArray[np.uint8] = ((rows[:, ::2] + rows[:, 1::2]) >> 2).astype(np.uint8)
    return means


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
        axes = _axes(base, target_px, scaling)
        return kernels.resample(base.image, axes, (left, upper, right, lower), shape, scaling.arithmetic)
    if scaling.kernel in PLANES:
        return _planes(base, scaling, target_px, (left, upper, right, lower))
    if scaling.kernel is Kernel.SAMPLED_LANCZOS3:
        return _sampled(base, target_px, (left, upper, right, lower))
    if scaling.kernel is Kernel.MIPMAP:
        linear = replace(scaling, kernel=Kernel.POINT_LINEAR, arithmetic=kernels.Arithmetic(floors=True))
        return scaled(base, linear, target_px, window)
    if scaling.kernel is Kernel.MESH:
        return meshed(base.image, base.extent_px, target_px, (left, upper, right, lower))
    if scaling.kernel in (Kernel.NEAREST_LOW, Kernel.NEAREST_CORNER):
        return _picked(base, target_px, (left, upper, right, lower), scaling.kernel is Kernel.NEAREST_CORNER)
    if scaling.kernel is Kernel.NEAREST and window is not None:
        # With a box Pillow steps through the source from another start, which for single pixels is another picture.
        return scaled(base, scaling, target_px).crop(window)
    ratio_x, ratio_y = base.extent_px[0] / width_px, base.extent_px[1] / height_px
    box = (left * ratio_x, upper * ratio_y, right * ratio_x, lower * ratio_y)
    return base.image.resize((right - left, lower - upper), _PILLOW[scaling.kernel], box)


def _planes(base: Base, scaling: Scaling, target_px: tuple[int, int], window: tuple[int, int, int, int]) -> Image.Image:
    """Return luma and chroma, mode YCbCr, chroma in as few samples as before and each of these repeated."""
    alone = replace(scaling, kernel=PLANES[scaling.kernel])
    made = [scaled(base, alone, target_px, window)]
    for plane in base.chroma:
        factors = [round(whole / part) for whole, part in zip(base.image.size, plane.size, strict=True)]
        fewer_px = [-(-side // factor) for side, factor in zip(target_px, factors, strict=True)]
        first = [place // factor for place, factor in zip(window[:2], factors, strict=True)]
        last = [-(-place // factor) for place, factor in zip(window[2:], factors, strict=True)]
        extent_px = (float(plane.width), float(plane.height))
        small = scaled(
            Base(plane, extent_px), alone, (fewer_px[0], fewer_px[1]), (first[0], first[1], last[0], last[1])
        )
        samples = np.asarray(small).repeat(factors[1], axis=0).repeat(factors[0], axis=1)
        down, across = (window[1] - first[1] * factors[1], window[0] - first[0] * factors[0])
        part = samples[down : down + made[0].height, across : across + made[0].width]
        made.append(Image.fromarray(np.ascontiguousarray(part)))
    return Image.merge("YCbCr", made)


_SAMPLES = 5
"""Source pixels along each side that -thumbnail picks for a target pixel."""

MOST_SAMPLED_SHARE = 0.1
"""Of the source's pixels: -thumbnail resizes larger targets as -resize does."""


def _sampled(base: Base, target_px: tuple[int, int], window: tuple[int, int, int, int]) -> Image.Image:
    """Return a window of what ImageMagick's -thumbnail makes: single pixels five times as dense, then its usual filter.

    Source: ImageMagick 6, resize.c, ThumbnailImage().
    """
    reach = math.ceil(kernels.LANCZOS3.reach) * _SAMPLES
    dense_px = (_SAMPLES * target_px[0], _SAMPLES * target_px[1])
    first = [max(0, _SAMPLES * place - reach) for place in window[:2]]
    last = [min(most, _SAMPLES * place + reach) for place, most in zip(window[2:], dense_px, strict=True)]
    picked = _picked(base, dense_px, (first[0], first[1], last[0], last[1]), corner=False)
    step = float(_SAMPLES)
    across, down = (kernels.Axis(step, -float(start), stop - start) for start, stop in zip(first, last, strict=True))
    return kernels.resample(picked, (across, down), window, kernels.LANCZOS3, DEEP)


def exact_window(
    base: Base, scaling: Scaling, target_px: tuple[int, int], window: tuple[int, int, int, int], down_first: bool
) -> Image.Image:
    """Return one window of the base at the target size as it is in the whole picture, slower than `scaled`.

    Args:
        down_first: of Pillow's filters: columns before rows, which depends on its version and on the sizes.
    """
    resample = PILLOW_FILTERS.get(scaling.kernel)
    if resample is None or base.image.mode not in ("L", "RGB"):
        return scaled(base, scaling, target_px, window)
    return pillow_filters.resized(base.image, target_px, window, resample, base.extent_px, down_first)


def _axes(base: Base, target_px: tuple[int, int], scaling: Scaling) -> tuple[kernels.Axis, kernels.Axis]:
    # OpenCV and browsers, whose kernels do not widen, and libvips repeat the outermost pixels; ImageMagick does not.
    repeats = scaling.arithmetic.stepwise or not _FLOAT[scaling.kernel].widens
    found: list[kernels.Axis] = []
    for place, (extent, target) in enumerate(zip(base.extent_px, target_px, strict=True)):
        step = scaling.step / (scaling.draft * scaling.reduction[place]) if scaling.step else extent / target
        origin = (extent - target * step) / 2 if scaling.centred else 0.0
        if scaling.kernel is Kernel.POINT_LINEAR_SWSCALE and place == 0:
            step = _drifting_step(extent, target)
        limit = base.image.size[place] if scaling.step else math.ceil(extent)
        found.append(kernels.Axis(step, origin, limit, repeats))
    return found[0], found[1]


_FIXED = 1 << 16
_LESS = 20


def _drifting_step(extent: float, target: int) -> float:
    """Return the step of ffmpeg's fast_bilinear along the width: the last pixels but one are laid on each other.

    Source: libswscale, utils.c, sws_init_context(), where there are no instructions of the processor's own for it.
    """
    return (int((extent - 2) * _FIXED / max(1, target - 2)) - _LESS) / _FIXED


def _picked(base: Base, target_px: tuple[int, int], window: tuple[int, int, int, int], corner: bool) -> Image.Image:
    """Return single source pixels: those under the corners (OpenCV), or under the centres with ties to the left.

    The latter is what ImageMagick's -sample does; Pillow's NEAREST has its ties to the right.
    """
    columns, rows = (
        _places(extent, target, first, last, corner, limit)
        for extent, target, first, last, limit in zip(
            base.extent_px, target_px, window[:2], window[2:], base.image.size, strict=True
        )
    )
    left, upper = int(columns[0]), int(rows[0])
    samples = np.asarray(base.image.crop((left, upper, int(columns[-1]) + 1, int(rows[-1]) + 1)))
    return Image.fromarray(samples[rows - upper][:, columns - left])


def _places(extent: float, target: int, first: int, last: int, corner: bool, limit: int) -> npt.NDArray[np.intp]:
    wanted = np.arange(first, last)
    places = np.floor(wanted * extent / target) if corner else np.ceil((wanted + 0.5) * extent / target) - 1
    return np.clip(places.astype(np.intp), 0, limit - 1)


_REDUCING_GAPS = (2.0, 3.0)
"""2.0 is the default of Image.thumbnail() and of libvips, 3.0 what Pillow calls hard to tell from fair resampling."""

_LEAST_DRIFT_PX = 0.1
"""Source pixels by which a step must move the far edge to be told from the target showing the whole source."""

_MAX_STEPS = 3


def steps_of(source_px: tuple[int, int], target_px: tuple[int, int]) -> list[float]:
    """Return the steps that a tool may have kept to, though the size that came of it was rounded; likely ones first.

    They are round percentages, and the exact ratios of width and of height.

    Args:
        source_px, target_px: width and height, turned the same way.
    """
    steps: list[float] = []
    percents = sorted(range(1, 400), key=lambda percent: (percent % 25 > 0, percent % 5 > 0, percent))
    round_ones = [100 / percent for percent in percents if _rounds_to(source_px, target_px, 100 / percent)]
    for step in (*round_ones[:1], *(source / target for source, target in zip(source_px, target_px, strict=True))):
        drifts = [abs(target * step - source) for source, target in zip(source_px, target_px, strict=True)]
        known = any(max(abs(step - other) * target for target in target_px) < _LEAST_DRIFT_PX for other in steps)
        if max(drifts) >= _LEAST_DRIFT_PX and not known and _rounds_to(source_px, target_px, step):
            steps.append(step)
    return steps[:_MAX_STEPS]


def _rounds_to(source_px: tuple[int, int], target_px: tuple[int, int], step: float) -> bool:
    """True when a scale gives the target size, whichever way its fractions are rounded."""
    return all(abs(source / step - target) < 1.0 for source, target in zip(source_px, target_px, strict=True))


def geometries(source_px: tuple[int, int], target_px: tuple[int, int]) -> list[Scaling]:
    """Return how the target may lie on the source, each with one middling filter: for telling which it is."""
    found = [Scaling(Kernel.FLOAT_TRIANGLE)]
    for step in steps_of(source_px, target_px):
        found += [Scaling(Kernel.FLOAT_TRIANGLE, step=step, centred=centred) for centred in (False, True)]
    return found


def candidates(
    source_px: tuple[int, int], target_px: tuple[int, int], is_jpeg: bool, geometry: Scaling | None = None
) -> list[Scaling]:
    """Return ways to resize, the likely ones first, without the refinements of each.

    Args:
        source_px, target_px: width and height, turned the same way.
        is_jpeg: the source can be decoded at a DCT scale.
        geometry: how the target lies on the source, one of `geometries`.
    """
    if source_px == target_px:
        return [Scaling(Kernel.SAME)]
    lying = geometry or Scaling(Kernel.FLOAT_TRIANGLE)
    found = [Scaling(kernel) for kernel in _PILLOW]
    usual = [kernel for kernel in _FLOAT if kernel not in _RARE]
    found += [Scaling(kernel) for kernel in (Kernel.NEAREST_LOW, Kernel.NEAREST_CORNER, *usual)]
    if lying.step:
        # Besides the others, not instead: of copies by the hardest filters the middling one tells little.
        found += [replace(lying, kernel=kernel) for kernel in usual]
    if target_px[0] * target_px[1] <= MOST_SAMPLED_SHARE * source_px[0] * source_px[1]:
        found.append(Scaling(Kernel.SAMPLED_LANCZOS3))
    ratio = min(source_px[0] / target_px[0], source_px[1] / target_px[1])
    for gap in _REDUCING_GAPS:
        across, down = (max(1, int(s / t / gap)) for s, t in zip(source_px, target_px, strict=True))
        if max(across, down) > 1:
            found += [Scaling(kernel, 1, (across, down)) for kernel in (Kernel.BICUBIC, Kernel.LANCZOS)]
            found.append(replace(lying, kernel=Kernel.FLOAT_LANCZOS3, reduction=(across, down)))
    for draft in (2, 4, 8):
        if is_jpeg and ratio >= draft:
            exact = all(-(-s // draft) == t for s, t in zip(source_px, target_px, strict=True))
            if exact:
                found.append(Scaling(Kernel.SAME, draft))
            else:
                drafted = (Kernel.BICUBIC, Kernel.LANCZOS, Kernel.BILINEAR, Kernel.BOX)
                found += [Scaling(kernel, draft) for kernel in drafted]
                found.append(replace(lying, kernel=Kernel.FLOAT_LANCZOS3, draft=draft))
    return found


_NEAR_LEVEL = 0.05
"""Share of a level by which the rounding of sizes may have taken a browser to the next one."""


def rare(source_px: tuple[int, int], target_px: tuple[int, int], has_planes: bool = False) -> list[Scaling]:
    """Return ways to resize that are worth a try when none of `candidates` is close.

    Args:
        source_px, target_px: width and height, turned the same way.
        has_planes: the source is a JPEG with fewer samples of chroma than of luma.
    """
    light = kernels.Arithmetic(linear_light=True)
    found = [Scaling(kernel) for kernel in _RARE] + [Scaling(kernel, arithmetic=light) for kernel in _IN_LIGHT]
    found += [Scaling(kernel) for kernel in PLANES if has_planes]
    level = math.log2(min(source / target for source, target in zip(source_px, target_px, strict=True)))
    factors = {1 << max(0, math.floor(level + slack)) for slack in (-_NEAR_LEVEL, _NEAR_LEVEL)} - {1}
    # What browsers do with an odd side is not known here.
    halving = [factor for factor in sorted(factors) if not any(side % factor for side in source_px)]
    found += [Scaling(Kernel.MIPMAP, reduction=(factor, factor)) for factor in halving]
    return found


def refinements(scaling: Scaling) -> list[Scaling]:
    """Return the same filter with other arithmetic: in 16 bits, in linear light, fractions cut off, in whole levels."""
    if scaling.kernel not in _FLOAT:
        return []
    every = [DEEP, DEEP_PNG] + [
        kernels.Arithmetic(linear_light, floors, down_first)
        for floors, linear_light, down_first in itertools.product((True, False), (False, True), (True, False))
        if floors or linear_light or down_first
    ]
    every.append(kernels.Arithmetic(down_first=True, stepwise=True))
    return [replace(scaling, arithmetic=arithmetic) for arithmetic in every]
