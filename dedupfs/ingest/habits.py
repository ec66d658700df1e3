"""Habits: which ways of making a copy were found lately, so that they are tried first for the next one.

Copies come in crowds, a folder from one program and then one from another. What worked for the neighbours only says
what is tried first; what counts as a rendition is the same with and without. One process, one thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from dedupfs.ingest.jpeg_rounding import Rounding
from dedupfs.ingest.kernels import Arithmetic
from dedupfs.ingest.scaling import DEEP, DEEP_PNG, ROUNDED, Kernel, Scaling, candidates, geometries

MAX_HABITS = 8
"""More than there are programs in one folder; each costs about a millisecond where it does not apply."""


@dataclass(frozen=True, slots=True)
class Habit:
    """A way of copying without the numbers that differ from picture to picture."""

    kernel: Kernel
    draft: int = 1
    reduces: bool = False
    arithmetic: Arithmetic = ROUNDED
    steps: bool = False
    centred: bool = False
    rounding: Rounding = Rounding.LIBRARY

    @classmethod
    def of(cls, scaling: Scaling, rounding: Rounding = Rounding.LIBRARY) -> Habit:
        """Return the habit that shows in one copy."""
        reduces = scaling.reduction != (1, 1)
        return cls(
            scaling.kernel, scaling.draft, reduces, scaling.arithmetic, scaling.step > 0, scaling.centred, rounding
        )


USUAL = (
    Habit(Kernel.SAME),
    Habit(Kernel.LANCZOS),
    Habit(Kernel.BICUBIC),
    Habit(Kernel.BICUBIC, reduces=True),
    Habit(Kernel.LANCZOS, reduces=True),
    *(Habit(kernel, draft) for draft in (2, 4, 8) for kernel in (Kernel.SAME, Kernel.BICUBIC, Kernel.LANCZOS)),
    Habit(Kernel.BOX),
    Habit(Kernel.BILINEAR),
    Habit(Kernel.HAMMING),
    Habit(Kernel.NEAREST),
)
"""What Pillow's resize() and thumbnail() do, and the decoder alone."""


_LIKELY = (
    *USUAL[:3],
    Habit(Kernel.FLOAT_LANCZOS3, arithmetic=DEEP, rounding=Rounding.FAST),
    Habit(Kernel.FLOAT_LANCZOS3, arithmetic=DEEP),
    Habit(Kernel.SAMPLED_LANCZOS3, rounding=Rounding.FAST),
    Habit(Kernel.FLOAT_LANCZOS3, arithmetic=DEEP_PNG),
)
"""What is tried on pictures of any format: some of these, and ImageMagick's -resize and -thumbnail."""


class Habits:
    """The ways that were found last, latest first."""

    def __init__(self) -> None:
        self._latest: list[Habit] = []

    def note(self, habit: Habit) -> None:
        """Have it tried first from now on."""
        self._latest = [habit, *(other for other in self._latest if other != habit)][:MAX_HABITS]

    def likely(
        self, source_px: tuple[int, int], target_px: tuple[int, int], is_jpeg: bool
    ) -> list[tuple[Scaling, Rounding]]:
        """Return a few ways to scale to try on pictures of any format; `is_jpeg` as in `candidates`."""
        return list(dict.fromkeys(_matching((*self._latest, *_LIKELY), source_px, target_px, is_jpeg)))

    def ways(self, source_px: tuple[int, int], target_px: tuple[int, int]) -> list[tuple[Scaling, Rounding]]:
        """Return what to try on two JPEGs: the habits, then what is usual.

        Args:
            source_px, target_px: width and height, turned the same way.
        """
        return list(dict.fromkeys(_matching((*self._latest, *USUAL), source_px, target_px, True)))


def _matching(
    habits: Iterable[Habit], source_px: tuple[int, int], target_px: tuple[int, int], is_jpeg: bool
) -> Iterator[tuple[Scaling, Rounding]]:
    """Yield what the habits mean for two pictures of these sizes."""
    known = [Scaling(Kernel.SAME)]
    if source_px != target_px:
        every = [candidates(source_px, target_px, is_jpeg, lying) for lying in geometries(source_px, target_px)]
        known = list(dict.fromkeys(scaling for scalings in every for scaling in scalings))
    for habit in habits:
        plain = replace(habit, arithmetic=ROUNDED, rounding=Rounding.LIBRARY)
        for scaling in known:
            if Habit.of(scaling) == plain:
                yield replace(scaling, arithmetic=habit.arithmetic), habit.rounding


LATELY = Habits()
"""Those of this process."""
