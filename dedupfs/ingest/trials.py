"""Trials: windows of a member made from a representative in one way or another, and how far they are from the member.

They are made with the member's own quantization: it takes away faint detail, so that without it the softest filter
would always seem to be the closest. What was measured is remembered, the pictures are not. Owned by one search.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from dedupfs.ingest.jpeg_rounding import Rounding
from dedupfs.ingest.measure import TILE_PX
from dedupfs.ingest.members import Member
from dedupfs.ingest.rendition import as_encoded, in_mode
from dedupfs.ingest.scaling import PLANES, Scaling, scaled
from dedupfs.ingest.treatment import Bases
from dedupfs.ingest.verify import Steps, local_excess
from dedupfs.ingest.windows import Window, inner, trimmed

Samples = npt.NDArray[np.float32]

_WAYS_TOGETHER = 8
"""Ways whose copies of a window are encoded as one picture: to call an encoder costs as much as to encode a window."""

_WINDOWS_TOGETHER = 2
"""Windows of one way that are made at a time: with fewer the encoder is called more often, with more in vain."""


class Trials:
    """What is known about ways to scale, on windows of one member."""

    def __init__(self, image: Image.Image, member: Member, bases: Bases, steps: Steps) -> None:
        """Prepare.

        Args:
            image: the member's pixels.
            steps: what the limits grow with.
        """
        self._image = image
        self._member = member
        self._inward = next((view for view in member.roundings if view.rounding is Rounding.INWARD), member)
        self._bases = bases
        self._steps = steps
        self._wanted: dict[Window, Samples] = {}
        self._errors: dict[tuple[Scaling, Window], float] = {}

    def by_error(
        self, ways: Sequence[Scaling], windows: Sequence[Window], keep: int | None = None
    ) -> list[tuple[Scaling, float]]:
        """Return the ways with their squared error on some windows, in rising order of that.

        Args:
            keep: how many of the closest are wanted; the others are given up as soon as they are behind.
        """
        if len(windows) == 1:
            for _ in self.made_in([way for way in ways if (way, windows[0]) not in self._errors], windows[0]):
                pass
        errors: list[float] = []
        for way in ways:
            # Nothing can be behind the last of those wanted before there are so many.
            bound = sorted(errors)[keep - 1] if keep is not None and len(errors) >= keep else math.inf
            errors.append(self._error(way, windows, bound))
        return [(ways[at], errors[at]) for at in np.argsort(errors, kind="stable")[:keep]]

    def excess(self, way: Scaling, windows: Sequence[Window]) -> float:
        """Return the largest excess of some windows with a way to scale, 0 for no window."""
        made = self.made(way, windows)
        return max((self.excess_of(got, window) for got, window in zip(made, windows, strict=True)), default=0.0)

    def excess_of(self, made: Image.Image, window: Window) -> float:
        """Return the excess of something made over a window."""
        return local_excess(trimmed(self._image.crop(window)), trimmed(made), self._steps)

    def spread(self, made: Sequence[Image.Image]) -> float:
        """Return the largest excess between the first copy of a window and the others."""
        first, *others = (trimmed(each) for each in made)
        return max(local_excess(first, other, self._steps) for other in others)

    def made(self, way: Scaling, windows: Sequence[Window]) -> list[Image.Image]:
        """Return windows of a copy made in this way."""
        if not windows:
            return []
        made = requantized([self._scaled(way, window) for window in windows], self._view(way), self._image.mode)
        self._note(zip(itertools.repeat(way), windows, made, strict=False))
        return made

    def made_in(self, ways: Sequence[Scaling], window: Window) -> Iterator[Image.Image]:
        """Yield a window of copies made in each of the ways."""
        # One below the other they have to stay aligned with the blocks of the coding.
        together = 1 if (window[3] - window[1]) % TILE_PX else _WAYS_TOGETHER
        for _, alike in itertools.groupby(ways, lambda way: way.kernel in PLANES):
            group = list(alike)
            for first in range(0, len(group), together):
                some = group[first : first + together]
                made = requantized([self._scaled(way, window) for way in some], self._view(some[0]), self._image.mode)
                self._note(zip(some, itertools.repeat(window), made, strict=False))
                yield from made

    def _error(self, way: Scaling, windows: Sequence[Window], bound: float) -> float:
        """Return the squared error of a way; infinity once it is over the bound."""
        error = sum(self._errors.get((way, window), 0.0) for window in windows)
        missing = [window for window in windows if (way, window) not in self._errors]
        for first in range(0, len(missing), _WINDOWS_TOGETHER):
            if error > bound:
                break
            some = missing[first : first + _WINDOWS_TOGETHER]
            self.made(way, some)
            error += sum(self._errors[way, window] for window in some)
        return error if error <= bound else math.inf

    def _note(self, made: Iterable[tuple[Scaling, Window, Image.Image]]) -> None:
        for way, window, got in made:
            if window not in self._wanted:
                self._wanted[window] = inner(self._image.crop(window))
            self._errors[way, window] = squared(self._wanted[window], got)

    def _scaled(self, way: Scaling, window: Window) -> Image.Image:
        image = scaled(self._bases(way), way, self._image.size, window)
        return as_encoded(image, self._member.mode, bool(self._member.roundings))

    def _view(self, way: Scaling) -> Member:
        """Return the member as the program that scales this way rounds: ffmpeg's leaves copies softer."""
        return self._inward if way.kernel in PLANES else self._member


def requantized(windows: Sequence[Image.Image], member: Member, mode: str) -> list[Image.Image]:
    """Return windows as the member's encoder would leave them, in a mode; they are aligned with its blocks."""
    tops = [0]
    for window in windows:
        tops.append(tops[-1] + window.height)
    column = Image.new(windows[0].mode, (max(window.width for window in windows), tops[-1]))
    for top, window in zip(tops, windows, strict=False):
        column.paste(window, (0, top))
    coarse = in_mode(member.requantized(column), mode)
    return [coarse.crop((0, top, w.width, top + w.height)) for top, w in zip(tops, windows, strict=False)]


def squared(wanted: Samples, got: Image.Image) -> float:
    """Return the squared error of a window without its margin."""
    difference = (wanted - inner(got)).ravel()
    return float(np.dot(difference, difference))
