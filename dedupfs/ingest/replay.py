"""Replay: make a JPEG anew in the likeliest ways, and see whether the very same bytes come out.

Copies by common programs do, and then there is nothing to compare. It costs one decode of each, one filter and one
encoding. A way is given up on the first rows of blocks, whose code has to be how the member's code begins; for most of
the ways, the upper rows of the representative are all that is decoded for that. Pure functions but for the order of
attempts (see `habits`).
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dedupfs.errors import UndecodableError, UnfitPictureError
from dedupfs.ingest import jpeg, jpeg_coding, sections
from dedupfs.ingest.decode import Header, decode, header
from dedupfs.ingest.habits import LATELY, Habit
from dedupfs.ingest.jpeg_coding import JpegCoding
from dedupfs.ingest.jpeg_rounding import Rounding
from dedupfs.ingest.outcome import NO_DIFFERENCE, Fit
from dedupfs.ingest.recipe import Recipe
from dedupfs.ingest.rendition import in_mode
from dedupfs.ingest.scaling import PILLOW_FILTERS, PLANES, Base, Kernel, Scaling, exact_window, scaled
from dedupfs.ingest.sketch import sketch
from dedupfs.ingest.treatment import Bases
from dedupfs.model import PictureFormat

_CORNER_PX = 256
"""Columns of the first row of blocks that are encoded to see how the code begins."""

_TOP_PX = 32
"""Rows that are encoded then: in a corner without detail many ways begin alike."""

_MAX_ENCODED = 2
"""Ways that are encoded in full, where several begin alike."""


_REACH_PX = 8
"""Rows below a window that a filter looks at, in pixels of the copy: POINT_LANCZOS4 at half the size."""

_ROWS = 256
"""The upper rows of a representative are a multiple of that, whole blocks at any scale of a draft."""

_NEVER_UPPER = frozenset(
    {Kernel.NEAREST, Kernel.NEAREST_LOW, Kernel.NEAREST_CORNER, Kernel.MESH, Kernel.MIPMAP, Kernel.SAMPLED_LANCZOS3}
) | frozenset(PLANES)
"""Filters whose upper rows depend on the size of the whole picture, or are not made alone."""


class Replay:
    """The member taken apart, and the ways that have not been tried.

    Never raises over hostile bytes.
    """

    def __init__(self, member: bytes, bases: Bases, source_px: tuple[int, int]) -> None:
        """Prepare.

        Args:
            member: a JPEG.
            bases: of the representative, another JPEG.
            source_px: width and height of that, turned the member's way.
        """
        self.bases = bases
        self._source_px = source_px
        self._encoded = 0
        self._copy: _Copy | None = None
        self._untried: list[tuple[Scaling, Rounding]] = []
        with contextlib.suppress(UnfitPictureError, UndecodableError):
            self._copy = _taken_apart(member)
        if self._copy is not None:
            self._untried = LATELY.ways(source_px, self._copy.header.size_px)

    def quick(self) -> Fit | None:
        """Return how the member is drawn to the last byte in a way that shows in the upper rows of both pictures."""
        if self._copy is None:
            return None
        ratio = self._source_px[1] / self._copy.header.size_px[1]
        rows = math.ceil((_TOP_PX + _REACH_PX) * max(1.0, ratio) / _ROWS) * _ROWS
        with contextlib.suppress(UnfitPictureError, UndecodableError):
            upper = self.bases.upper(rows, self._source_px[1])
            if upper is not None:
                ways = [way for way in self._untried if way[0].kernel not in _NEVER_UPPER]
                self._untried = [way for way in self._untried if way[0].kernel in _NEVER_UPPER]
                return self._found(self._copy, ways, upper)
        return None

    def rest(self) -> Fit | None:
        """Return the same in any other way."""
        if self._copy is None:
            return None
        with contextlib.suppress(UnfitPictureError, UndecodableError):
            return self._found(self._copy, self._untried, self.bases)
        return None

    def _found(self, copy: _Copy, ways: Sequence[tuple[Scaling, Rounding]], bases: Bases) -> Fit | None:
        """Try ways, first on some bases and then on those of the whole picture."""
        if not ways or bases(Scaling(Kernel.SAME)).image.mode != copy.mode:
            # A greyscale picture made of a coloured one has lost something, whatever its bytes are.
            return None
        for scaling, rounding in ways:
            coding = replace(copy.coding, rounding=rounding)
            if self._encoded == _MAX_ENCODED or not _begins_alike(copy, bases(scaling), scaling, coding):
                continue
            image = in_mode(scaled(self.bases(scaling), scaling, copy.header.size_px), copy.mode)
            written = jpeg_coding.assemble(copy.sections, jpeg_coding.encode(image, coding), len(copy.data))
            if written == copy.data:
                LATELY.note(Habit.of(scaling, rounding))
                record = coding.to_bytes()
                treatment = self.bases.treatment
                return _fit(copy, Recipe(PictureFormat.JPEG, *image.size, copy.mode, treatment, scaling, record))
            self._encoded += 1
        return None


@dataclass(frozen=True, slots=True)
class _Copy:
    """The member taken apart; `scan` is the code of its blocks."""

    data: bytes
    header: Header
    sections: tuple[bytes, ...]
    coding: JpegCoding
    mode: str
    scan: bytes


def _taken_apart(member: bytes) -> _Copy | None:
    parts = jpeg.split(member)
    coding = jpeg_coding.coding_of(parts)
    if jpeg.is_multi_picture(parts) or coding.keep_rgb or coding.progressive or coding.optimise:
        # How code with tables made for the whole picture begins cannot be told from a part of it.
        return None
    mode = "L" if len(parts.frame.tables) == 1 else "RGB"
    return _Copy(
        member, header(member), (parts.before, parts.inside, parts.after), coding, mode, jpeg.first_scan(parts.coded)
    )


def _fit(copy: _Copy, recipe: Recipe) -> Fit:
    return Fit(
        recipe.to_bytes(),
        sections.pack(copy.sections),
        NO_DIFFERENCE,
        True,
        hashlib.sha256(copy.data).digest(),
        sketch(decode(copy.data).image),
    )


def _begins_alike(copy: _Copy, base: Base, scaling: Scaling, coding: JpegCoding) -> bool:
    """Return whether the code of the upper left corner of a copy made this way is how the member's code begins."""
    orders = (False, True) if scaling.kernel in PILLOW_FILTERS else (False,)
    rows = 8 if copy.mode == "L" else jpeg_coding.block_rows(coding)
    corners = ((_CORNER_PX, rows), (copy.header.size_px[0], _TOP_PX))
    return any(all(_begins_with(copy, base, scaling, coding, px, order) for px in corners) for order in orders)


def _begins_with(
    copy: _Copy, base: Base, scaling: Scaling, coding: JpegCoding, corner_px: tuple[int, int], down_first: bool
) -> bool:
    target_px = copy.header.size_px
    across, down = (min(sides) for sides in zip(corner_px, target_px, strict=True))
    corner = exact_window(base, scaling, target_px, (0, 0, across, down), down_first)
    scan = jpeg.first_scan(jpeg_coding.encode(in_mode(corner, copy.mode), coding))
    # The end is filled up to a whole byte, which a zero may follow.
    return copy.scan.startswith(scan[:-2])
