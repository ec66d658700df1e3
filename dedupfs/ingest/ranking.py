"""Ranking: the ways in which a member may have been scaled from a representative, the likeliest first.

They are compared on the most detailed windows of the member, after the member's own quantization: it takes away faint
detail, so that without it the softest filter would always seem to be the closest. Pure functions, for worker processes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from dedupfs.ingest.habits import LATELY
from dedupfs.ingest.jpeg_rounding import Rounding
from dedupfs.ingest.members import Member
from dedupfs.ingest.rendition import as_encoded, in_mode
from dedupfs.ingest.scaling import (
    PILLOW_FILTERS,
    PLANES,
    ROUNDED,
    Scaling,
    candidates,
    exact_window,
    geometries,
    rare,
    refinements,
    scaled,
)
from dedupfs.ingest.treatment import Bases
from dedupfs.ingest.verify import Steps, local_excess
from dedupfs.ingest.windows import Window, centre, inner, trimmed

SHORTLIST = 8
"""Ways to scale that are tried on all windows of the member, after the first window has ranked them."""

REFINED = 3
"""Of these, ways whose arithmetic is varied, and variants tried on all windows: how a filter rounds matters less than
which one it is."""

UNUSUAL_FILTER = 1.0
"""Excess of the first window with the closest filter from which rare filters are tried too."""

HOPELESS_FILTER = 12.0
"""Excess of the first window with the closest filter from which its arithmetic is not refined. Lettering that was made
smaller in linear light is 7.1 off before that."""


class Ranking:
    """Ranks for one member and one representative."""

    def __init__(
        self,
        image: Image.Image,
        windows: list[Window],
        member: Member,
        bases: Bases,
        steps: Steps,
        *,
        may_reject: bool,
    ) -> None:
        """Prepare.

        Args:
            image: the member's pixels, `windows` where they have most detail.
            steps: what the limits grow with.
            may_reject: whether no way at all may be the answer.
        """
        self._image = image
        self._member = member
        self._views = {view.rounding: view for view in (*member.roundings, member)}
        self._bases = bases
        self._steps = steps
        self._may_reject = may_reject
        self._windows = windows

    def ranked(self, source_px: tuple[int, int], *, is_jpeg: bool) -> tuple[list[Scaling], float]:
        """Return the ways to scale, the closest first, or none, and then the excess of the closest.

        Args:
            source_px: width and height of the upright representative.
            is_jpeg: whether that can be decoded at a fraction of its size.
        """
        identical = self._identical(source_px, is_jpeg)
        if identical is not None:
            return [identical], 0.0
        windows = self._windows
        lying = geometries(source_px, self._image.size)
        geometry = self._by_error(lying, windows)[0][0] if len(lying) > 1 else lying[0]
        ways = candidates(source_px, self._image.size, is_jpeg, geometry)
        ways = [way for way, _ in self._by_error(ways, windows[:1])[:SHORTLIST]]
        if self._may_reject:
            excess = self._excess_of(ways[0], windows[0])
            if excess > UNUSUAL_FILTER:
                unusual = rare(source_px, self._image.size, self._bases.has_planes)
                ways = [way for way, _ in self._by_error([*ways, *unusual], windows[:1])]
                excess = min(excess, self._excess_of(ways[0], windows[0]))
            if excess > HOPELESS_FILTER:
                return [], excess
        closest = self._by_error(ways, windows)
        if not closest[0][1]:
            return [closest[0][0]], 0.0
        refined = [other for way, _ in closest[:REFINED] for other in refinements(way)]
        refined = [way for way, _ in self._by_error(refined, windows[:1])[:REFINED]]
        distinct: dict[Scaling, Scaling] = {}
        for way, _ in sorted([*closest, *self._by_error(refined, windows)], key=lambda entry: entry[1]):
            # A second attempt with the same filter would end as the first did.
            distinct.setdefault(replace(way, arithmetic=ROUNDED), way)
        return list(distinct.values()), 0.0

    def _identical(self, source_px: tuple[int, int], is_jpeg: bool) -> Scaling | None:
        """Return a likely way that leaves no difference on the windows, if there is one.

        A part of each window will do, as it comes out exactly like the same part of the whole picture.
        """
        centres = [centre(window) for window in self._windows]
        wanted = [inner(self._image.crop(window)) for window in centres]
        for way, rounding in LATELY.likely(source_px, self._image.size, is_jpeg):
            view = self._views.get(rounding)
            if view is None:
                continue
            for down_first in (False, True) if way.kernel in PILLOW_FILTERS else (False,):
                pairs = zip(centres, wanted, strict=True)
                if all(self._is_identical(way, view, down_first, *pair) for pair in pairs):
                    return way
        return None

    def _is_identical(
        self, way: Scaling, view: Member, down_first: bool, window: Window, wanted: npt.NDArray[np.float32]
    ) -> bool:
        made = in_mode(exact_window(self._bases(way), way, self._image.size, window, down_first), view.mode)
        return not squared(wanted, requantized([made], view, self._image.mode)[0])

    def _excess_of(self, way: Scaling, window: Window) -> float:
        """Return the excess of one window of the member with a way to scale."""
        image = self._scaled(way, window)
        made = requantized([image], self._view(way), self._image.mode)[0]
        return local_excess(trimmed(self._image.crop(window)), trimmed(made), self._steps)

    def _by_error(self, ways: list[Scaling], windows: list[Window]) -> list[tuple[Scaling, float]]:
        """Return the ways with their squared error on some windows of the member, in rising order of that."""
        wanted = [inner(self._image.crop(window)) for window in windows]
        errors: list[float] = []
        for scaling in ways:
            made = [self._scaled(scaling, window) for window in windows]
            pairs = zip(wanted, requantized(made, self._view(scaling), self._image.mode), strict=True)
            errors.append(sum(squared(want, got) for want, got in pairs))
        return [(ways[at], errors[at]) for at in np.argsort(errors, kind="stable")]

    def _scaled(self, way: Scaling, window: Window) -> Image.Image:
        image = scaled(self._bases(way), way, self._image.size, window)
        return as_encoded(image, self._member.mode, bool(self._member.roundings))

    def _view(self, way: Scaling) -> Member:
        """Return the member as the program that scales this way rounds: ffmpeg's leaves copies softer."""
        return self._views.get(Rounding.INWARD, self._member) if way.kernel in PLANES else self._member


def requantized(windows: list[Image.Image], member: Member, mode: str) -> list[Image.Image]:
    """Return windows as the member's encoder would leave them, in a mode; they are aligned with its blocks."""
    tops = [0]
    for window in windows:
        tops.append(tops[-1] + window.height)
    column = Image.new(windows[0].mode, (max(window.width for window in windows), tops[-1]))
    for top, window in zip(tops, windows, strict=False):
        column.paste(window, (0, top))
    coarse = in_mode(member.requantized(column), mode)
    return [coarse.crop((0, top, w.width, top + w.height)) for top, w in zip(tops, windows, strict=False)]


def squared(wanted: npt.NDArray[np.float32], got: Image.Image) -> float:
    """Return the squared error of a window without its margin."""
    return float(np.square(wanted - inner(got)).sum())
