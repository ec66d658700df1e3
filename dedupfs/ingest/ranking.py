"""Ranking: the ways in which a member may have been scaled from a representative, the likeliest first.

They are tried on the most detailed windows of the member, see `trials`. Owns the order of the tries, and when they are
given up. Pure functions, for worker processes.
"""

from __future__ import annotations

import math
from dataclasses import replace

from PIL import Image

from dedupfs.ingest.habits import LATELY
from dedupfs.ingest.kernels import Arithmetic
from dedupfs.ingest.members import Member
from dedupfs.ingest.outcome import LIMIT_FILTER, LIMIT_WINDOW
from dedupfs.ingest.rendition import in_mode
from dedupfs.ingest.scaling import (
    PILLOW_FILTERS,
    ROUNDED,
    Kernel,
    Scaling,
    candidates,
    exact_window,
    geometries,
    rare,
    refinements,
)
from dedupfs.ingest.treatment import Bases
from dedupfs.ingest.trials import Samples, Trials, requantized, squared
from dedupfs.ingest.verify import Steps
from dedupfs.ingest.windows import Window, centre, inner
from dedupfs.model import PictureFormat

MAX_ATTEMPTS = 2
"""Scalings that are encoded in full; on the dev corpus the first is the right one in all but a few pairs."""

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

PROBES = (
    Scaling(Kernel.LANCZOS),
    Scaling(Kernel.BOX),
    Scaling(Kernel.BILINEAR),
    Scaling(Kernel.BICUBIC),
    Scaling(Kernel.FLOAT_TRIANGLE, arithmetic=Arithmetic(linear_light=True)),
    Scaling(Kernel.NEAREST),
)
"""Ways that lie far apart, and others between them."""

HOPELESS_PROBE, HOPELESS_SPREAD = 2.0, 1.5
"""Excess of the first window with the closest of PROBES from which no filter is looked for, and how much more for each
excess of the first probe over the others, NEAREST apart.

Of 72 copies that passed none was over the spread alone: the closest probe is 0.4 off where the spread is 0.7, and at
most 2.4, where it is 3.8. Of edits most are 3 to 9 off, and the spread is 1 to 2.5.
"""

HOPELESS_UNREFINED = 4.0
"""Excess of any window with the filter that is closest on the first one, from which nothing further is tried; of 72
copies that passed the largest was 1.5."""

HOPELESS_WINDOW = 2.0
"""Excess of one window from which the whole picture is not encoded; of 56 copies that passed the largest was 1.12."""

WINDOW_SLACK = 1.1
"""Share by which the excess of a window that was made alone may be above that of the same part of the whole picture."""


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
        self._trials = Trials(image, member, bases, steps)
        self._may_reject = may_reject
        # Other codecs spend their bits on a window of its own in another way than on the same part of a picture.
        is_telling = member.picture_format is PictureFormat.JPEG or member.steps == Steps(0.0, 0.0)
        self._may_reject_early = may_reject and is_telling
        self._windows = windows

    def ranked(self, source_px: tuple[int, int], *, is_jpeg: bool) -> tuple[list[Scaling], str, float]:
        """Return MAX_ATTEMPTS ways to scale, the closest first; or none, a LIMIT_ constant that says why, and by how
        much it was exceeded.

        Args:
            source_px: width and height of the upright representative.
            is_jpeg: whether that can be decoded at a fraction of its size.
        """
        identical = self._identical(source_px, is_jpeg)
        if identical is not None:
            return [identical], "", 0.0
        windows, trials = self._windows, self._trials
        if self._may_reject_early and (excess := self._excess_of_all()):
            return [], LIMIT_FILTER, excess
        lying = geometries(source_px, self._image.size)
        geometry = trials.by_error(lying, windows, 1)[0][0] if len(lying) > 1 else lying[0]
        ways = candidates(source_px, self._image.size, is_jpeg, geometry)
        ways = [way for way, _ in trials.by_error(ways, windows[:1], SHORTLIST)]
        excess = 0.0
        if self._may_reject:
            excess = trials.excess(ways[0], windows[:1])
            if excess > UNUSUAL_FILTER:
                closest = ways[0]
                unusual = rare(source_px, self._image.size, self._bases.has_planes)
                ways = [way for way, _ in trials.by_error([*ways, *unusual], windows[:1])]
                excess = excess if ways[0] == closest else min(excess, trials.excess(ways[0], windows[:1]))
            if excess > HOPELESS_FILTER:
                return [], LIMIT_FILTER, excess
            excess = max(excess, trials.excess(ways[0], windows[1:]))
            if self._may_reject_early and excess > HOPELESS_UNREFINED:
                return [], LIMIT_WINDOW, excess
        ways = self._refined(ways)
        if self._may_reject_early and excess > HOPELESS_WINDOW:
            found = [(way, trials.excess(way, windows)) for way in ways]
            ways = [way for way, excess in found if excess <= HOPELESS_WINDOW * WINDOW_SLACK]
            if not ways:
                return [], LIMIT_WINDOW, min(excess for _, excess in found)
        return ways, "", 0.0

    def _refined(self, ways: list[Scaling]) -> list[Scaling]:
        """Return the closest of some ways and of others with the same filter, at most MAX_ATTEMPTS, by all windows."""
        closest = self._trials.by_error(ways, self._windows, REFINED)
        if not closest[0][1]:
            return [closest[0][0]]
        refined = [other for way, _ in closest for other in refinements(way)]
        refined = [way for way, _ in self._trials.by_error(refined, self._windows[:1], REFINED)]
        distinct: dict[Scaling, Scaling] = {}
        entries = [*closest, *self._trials.by_error(refined, self._windows)]
        for way, _ in sorted(entries, key=lambda entry: entry[1]):
            # A second attempt with the same filter would end as the first did.
            distinct.setdefault(replace(way, arithmetic=ROUNDED), way)
        return list(distinct.values())[:MAX_ATTEMPTS]

    def _excess_of_all(self) -> float:
        """Return the excess of the closest probe on the first window where no filter at all explains it, 0 otherwise.

        Filters differ from each other by less than an edit differs from all of them.
        """
        window = self._windows[0]
        made = list(self._trials.made_in(PROBES, window))
        closest = math.inf
        for got in made:
            closest = min(closest, self._trials.excess_of(got, window))
            if closest <= HOPELESS_PROBE:
                return 0.0
        return closest if closest > HOPELESS_PROBE + HOPELESS_SPREAD * self._trials.spread(made[:-1]) else 0.0

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

    def _is_identical(self, way: Scaling, view: Member, down_first: bool, window: Window, wanted: Samples) -> bool:
        made = in_mode(exact_window(self._bases(way), way, self._image.size, window, down_first), view.mode)
        return not squared(wanted, requantized([made], view, self._image.mode)[0])
