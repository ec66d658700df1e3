"""Say whether a rendition looks the same as the member, everywhere.

Owns the limits; the maps they are held against come from `measure`. Pure functions, any thread.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import scipy
from PIL import Image

from dedupfs.ingest.measure import Map, Maps, measure
from dedupfs.ingest.texture import MIDDLE, WIDE, gain
from dedupfs.model import Differences


@dataclass(frozen=True, slots=True)
class Steps:
    """How coarsely a picture was quantized: mean step of the low frequencies in levels, 0 for lossless.

    `lost` is the luma step of a larger representative at the member's size: detail that the member kept may be gone.
    `dither` is the luma step of a palette, which scatters as noise where a lossy codec leaves flat what is flat.
    """

    luma: float
    chroma: float
    lost: float = 0.0
    dither: float = 0.0

    def coarser(self, other: Steps) -> Steps:
        """Return the larger of each."""
        return Steps(max(self.luma, other.luma), max(self.chroma, other.chroma))

    def beside(self, source: Steps, shrink: float) -> Steps:
        """Return the steps to expect of a difference when the representative was quantized too.

        Its noise is averaged away as it is made smaller by `shrink`, adds up as noise does, and counts for no more than
        the member's own: a fine picture is never rendered from a coarse one.
        """
        lost = source.luma / shrink if shrink >= MIN_LOST_SHRINK else 0.0
        luma, chroma = _added(self.luma, source.luma / shrink), _added(self.chroma, source.chroma / shrink)
        return Steps(luma, chroma, lost, self.dither)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a comparison.

    `excess` is the largest measurement over its limit, so a match has at most 1; `worst` names that measurement.
    """

    differences: Differences
    excess: float
    worst: str

    @property
    def matches(self) -> bool:
        return self.excess <= 1.0


def _added(own: float, other: float) -> float:
    return math.hypot(own, min(own, other))


@dataclass(frozen=True, slots=True)
class Limit:
    """How large a maximum over the picture may be, from the quantization step and from what is usual in this picture.

    Requantized copies differ by single coefficients that fell to the other side, whose height is a share of the step
    (`floor` + `per_step` x step), and by a noise that is alike everywhere: the USUAL_QUANTILE of the map is the usual
    difference, and `spread` times it is allowed. A local edit stands out of it; the usual difference itself is capped
    at `usual_floor` + `usual_per_step` x step, so that an edit of the whole picture does not pass for noise.
    """

    floor: float
    per_step: float
    spread: float
    usual_floor: float
    usual_per_step: float

    def at(self, differences: Map, step: float) -> float:
        """Return the limit for a map of differences, in levels."""
        usual = min(float(np.quantile(differences, USUAL_QUANTILE)), self.usual_floor + self.usual_per_step * step)
        return self.floor + self.per_step * step + self.spread * usual


USUAL_QUANTILE = 0.9
"""An edit of less than a tenth of the picture does not raise its own limit."""

# Set from 758 copies by ImageMagick, cjpeg, jpegtran, cwebp and Pillow (JPEG quality 95 to 30, sizes 10 to 130 %,
# seven filters, linear light, WebP, PNG) of 22 photos, scans, screenshots and graphics. The 664 that passed differ by
# (median, 90 %, 99 %, largest): fine luma 2.2, 4.2, 8.7, 9.7; fine chroma 0, 3.1, 7.2, 10.4; coarse luma 0.3, 0.9, 1.7,
# 2.0; coarse chroma 0, 1.1, 2.0, 4.2; their largest share of a limit is 0.29, 0.64, 0.93, 1.0. Against them stood 2,772
# edits of the same pictures (digit, shift, crop, tone, colour, blur, sharpening, retouch, watermark, date), each at
# quality 92, 75 and 50 and at 60 % of the size. Those under the limits (3 %) were noise that the quantization takes
# away, blurs of half a pixel, and faint edits: most change the fine luma by less than 6 levels before coding.
# Both counts are from shortly before the last change (DETAIL tightened, partial tiles weighted right); measure again.
FINE_LUMA = Limit(1.2, 0.28, 1.6, 1.5, 0.375)
FINE_CHROMA = Limit(1.5, 0.25, 1.3, 1.0, 0.25)
COARSE_LUMA = Limit(0.6, 0.09, 1.5, 0.5, 0.08)
COARSE_CHROMA = Limit(0.6, 0.12, 1.5, 0.5, 0.08)

RANGE_SHARE = 0.02
"""Of the luma range of a block, the smaller of the two pictures: hard edges carry what filters differ in."""

CEILING_FINE_LUMA = 14.0
CEILING_FINE_CHROMA = 16.0
CEILING_COARSE_LUMA = 3.0
CEILING_COARSE_CHROMA = 3.5
"""Levels that no difference may exceed, however coarse the member; those of the labelled copies reach 11.3 and 9.8 at a
point, 1.9 and 3.2 on a tile.

At quality 30 the limits above grow so far that a copy of another copy passed with 21.7 levels of chroma at a point, and
one of an edit with a faint digit with 4.1 on a tile. A drawing in loud colours differs from its own copy at quality 50
(step 27) by 12.8 levels of chroma at a point.
"""

BROAD_TILES = 5
"""Tiles a side (80 pixels) over which signed differences are averaged: noise goes, faint tone edits stay."""
BROAD_LUMA = (0.5, 0.05)
BROAD_CHROMA = (0.5, 0.05)

DETAIL = (0.03, 0.003)
"""How far the root mean square of fine detail may change, and more per level of step; a blur of 0.8 pixels takes 7 to
30 %.

Copies are within 0.04, but for soft pictures at low quality.
"""
DETAIL_FLOOR = 1.0
"""Square levels added to both: below that there is no detail to compare."""

GRAIN = (1.2, 0.15)
GRAIN_MOST = 2.75
"""Levels by which the luma range of the flattest blocks may change on the mean, more per level of step, and at most.

In a picture full of texture, noise drowns in the detail of the whole and is seen where the picture is flat. Of 30
copies by ffmpeg, avifenc, cwebp, cjpeg and Pillow (steps 0 to 23) it is up to 0.9; of a labelled AVIF and JPEG of a
picture without flat parts (step 10) 2.6; of pictures with noise of 4 levels added, 2.9 to 5.6, unless they have no flat
block.
"""
GRAIN_DITHER = 0.2
"""The same for a level of a palette's step: a photo dithered to 256 colours (step 5) has 1.7 levels more."""
GRAIN_SHARE = 0.1
"""Share of the blocks that are the flattest."""
GRAIN_BLOCKS = 8
"""Fewer blocks than that say nothing about the noise of a picture."""

SMALL_SIDE_PX = 64
"""Below this a side shows so little that neighbouring frames of a film pass the limits of larger pictures."""
SMALL_FINE_LUMA = 4.0
"""Levels of fine luma for a picture with such a side, however coarse it is.

Of 30 copies of five pictures at a tenth of their size by ImageMagick, Pillow, libvips, OpenCV and ffmpeg the largest
is 3.7. Frames of a film in 48 and 32 px, whose quality allowed more, were 5.2 and more apart.
"""

TEXTURE = (0.02, 0.0003)
"""How far the gain of wide details may be from 1, and more per level of step.

Of 214 copies of 10 pictures in sixteen ways it is 0.992 (quality 30) to 1.004, whatever the filter; of the resized
wallpapers of the dev corpus up to 1.019. An unsharp mask of radius 1 and 50 % makes 1.03, of radius 2 and 20 % 1.046; a
blur of half a pixel leaves 0.973 to 0.989.
"""

# A member that was resized from a finer original than its coarse representative has detail that no rendition has: a
# wallpaper of 2560 x 1600 at quality 70 (step 7.9) misses 8 and 12 % of what its versions at 75 and 50 % have, with
# every other measurement below 0.81 of its limit and a gain of middle details of 0.967 and 1.010. Sharpened copies of
# 9 photos at those sizes have a gain of 1.022 (-sharpen 0x0.5) to 1.98 (Pillow's UnsharpMask()), plain ones 0.983 to
# 1.005.
LOST_DETAIL = 0.035
"""Share of fine detail by which the member may have more, per level of `Steps.lost`."""
MAX_LOST_DETAIL = 0.15
MIN_LOST_SHRINK = 1.1
"""At one size the finer file is the representative."""
LOST_GAIN = (0.95, 1.015)
"""Gain of middle details of a member that was not sharpened."""
LOST_WIDE_GAIN = (0.988, 1.012)
"""Gain of its wide details; those of the wallpaper are 0.993 and 1.003."""
LOST_EXCESS = 0.85
"""Of every other limit: nothing else may be near the edge, but for the grain, which goes with detail."""

ALPHA = 0.5
"""Alpha planes are equal or they are not."""


def verify(member: Image.Image, rendition: Image.Image, steps: Steps) -> Verdict:
    """Compare two decoded pictures of one size, as stored.

    Args:
        steps: quantization of the member, which the limits grow with.
    """
    maps = measure(member, rendition)
    verdict = judge(maps, steps)
    only_detail = verdict.worst == "detail" and steps.lost > 0
    lenient = judge(maps, steps, may_have_lost=True) if only_detail else verdict
    if not verdict.matches and not lenient.matches:
        return verdict
    # The gains only now, where they make a difference: they cost half as much as the maps.
    wide = gain(member, rendition, WIDE)
    if not verdict.matches:
        if not _is_within(wide, *LOST_WIDE_GAIN) or not _is_within(gain(member, rendition, MIDDLE), *LOST_GAIN):
            return verdict
        verdict = lenient
    texture = abs((1.0 if wide is None else wide) - 1.0) / (TEXTURE[0] + TEXTURE[1] * steps.luma)
    small = verdict.differences.fine_luma / SMALL_FINE_LUMA if min(member.size) < SMALL_SIDE_PX else 0.0
    further = Verdict(verdict.differences, *max((texture, "texture"), (small, "fine luma of a small picture")))
    return further if further.excess > verdict.excess else verdict


def _is_within(value: float | None, least: float, most: float) -> bool:
    return value is not None and least <= value <= most


def local_excess(member: Image.Image, rendition: Image.Image, steps: Steps) -> float:
    """Return the excess of what can be told from a part of two pictures: all but detail, grain, texture and alpha."""
    ratios = _ratios(measure(member, rendition), steps)
    return max(ratio for name, ratio in ratios.items() if name not in ("detail", "grain", "alpha"))


def detail_excess(parts: Iterable[tuple[Image.Image, Image.Image]], steps: Steps) -> float:
    """Return the excess of fine detail in some parts of a member and a rendition taken together."""
    areas: list[int] = []
    energies: list[tuple[float, float]] = []
    for member, rendition in parts:
        maps = measure(member, rendition)
        areas.append(member.width * member.height)
        energies.append((maps.member_detail, maps.rendition_detail))
    own, other = np.average(energies, axis=0, weights=areas) + DETAIL_FLOOR
    return _detail_excess(math.sqrt(own / other), steps)


def _detail_excess(ratio: float, steps: Steps) -> float:
    return (max(ratio, 1 / ratio) - 1) / (DETAIL[0] + DETAIL[1] * steps.luma)


def _ratios(maps: Maps, steps: Steps) -> dict[str, float]:
    """Return each measurement over its limit."""
    tiles = maps.member_tiles - maps.rendition_tiles
    fine_chroma = maps.fine_chroma
    coarse_luma, coarse_chroma = np.abs(tiles[:, :, 0]), np.abs(tiles[:, :, 1:]).max(axis=2)
    broad = np.abs(scipy.ndimage.uniform_filter(tiles, size=(BROAD_TILES, BROAD_TILES, 1), mode="nearest"))
    shared = np.minimum(maps.member_range, maps.rendition_range)
    fine_luma_limits = FINE_LUMA.at(maps.fine_luma, steps.luma) + RANGE_SHARE * shared
    fine_chroma_limit = min(FINE_CHROMA.at(fine_chroma, steps.chroma), CEILING_FINE_CHROMA)
    coarse_luma_limit = min(COARSE_LUMA.at(coarse_luma, steps.luma), CEILING_COARSE_LUMA)
    coarse_chroma_limit = min(COARSE_CHROMA.at(coarse_chroma, steps.chroma), CEILING_COARSE_CHROMA)
    return {
        "fine luma": float((maps.fine_luma / np.minimum(fine_luma_limits, CEILING_FINE_LUMA)).max()),
        "fine chroma": float(fine_chroma.max()) / fine_chroma_limit,
        "coarse luma": float(coarse_luma.max()) / coarse_luma_limit,
        "coarse chroma": float(coarse_chroma.max()) / coarse_chroma_limit,
        "broad luma": float(broad[:, :, 0].max()) / (BROAD_LUMA[0] + BROAD_LUMA[1] * steps.luma),
        "broad chroma": float(broad[:, :, 1:].max()) / (BROAD_CHROMA[0] + BROAD_CHROMA[1] * steps.chroma),
        "detail": _detail_excess(_detail_ratio(maps), steps),
        "grain": abs(_flatness(maps.member_range) - _flatness(maps.rendition_range))
        / min(GRAIN[0] + GRAIN[1] * steps.luma + GRAIN_DITHER * steps.dither, GRAIN_MOST),
        "alpha": maps.alpha / ALPHA,
    }


def _flatness(ranges: Map) -> float:
    """Return the mean range of the flattest blocks, each picture's own."""
    count = round(GRAIN_SHARE * ranges.size)
    return float(np.partition(ranges, count, axis=None)[:count].mean()) if count >= GRAIN_BLOCKS else 0.0


def _detail_ratio(maps: Maps) -> float:
    """Return how much fine detail the member has, over the rendition's."""
    return math.sqrt((maps.member_detail + DETAIL_FLOOR) / (maps.rendition_detail + DETAIL_FLOOR))


def judge(maps: Maps, steps: Steps, may_have_lost: bool = False) -> Verdict:
    """Hold the maps against the limits.

    Args:
        may_have_lost: the member was found not to be sharpened, so it may have more detail than the rendition.
    """
    tiles = maps.member_tiles - maps.rendition_tiles
    detail = _detail_ratio(maps)
    ratios = _ratios(maps, steps)
    if may_have_lost and detail > 1:
        ratios = {name: ratio if name == "grain" else ratio / LOST_EXCESS for name, ratio in ratios.items()}
        ratios["detail"] = (detail - 1) / min(MAX_LOST_DETAIL, LOST_DETAIL * steps.lost)
    worst = max(ratios, key=lambda name: ratios[name])
    differences = Differences(
        float(maps.fine_luma.max()),
        float(maps.fine_chroma.max()),
        float(np.abs(tiles[:, :, 0]).max()),
        float(np.abs(tiles[:, :, 1:]).max()),
        maps.alpha,
    )
    return Verdict(differences, ratios[worst], worst)
