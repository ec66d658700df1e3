"""Replay: make a JPEG anew in the likeliest ways, and see whether the very same bytes come out.

Copies by common programs do, and then there is nothing to compare. It costs one decode of each, one filter and one
encoding. A way is given up on the first rows of blocks, whose code has to be how the member's code begins. Pure
functions but for the order of attempts (see `habits`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from dedupfs.errors import UndecodableError, UnfitPictureError
from dedupfs.ingest import jpeg, jpeg_coding, sections
from dedupfs.ingest.decode import Header, decode, header
from dedupfs.ingest.habits import LATELY, Habit
from dedupfs.ingest.jpeg_coding import JpegCoding
from dedupfs.ingest.outcome import NO_DIFFERENCE, Fit
from dedupfs.ingest.recipe import Recipe
from dedupfs.ingest.rendition import in_mode
from dedupfs.ingest.scaling import PILLOW_FILTERS, Base, Kernel, Scaling, exact_window, scaled
from dedupfs.ingest.sketch import sketch
from dedupfs.ingest.treatment import Bases
from dedupfs.model import PictureFormat

_CORNER_PX = 256
"""Columns of the first row of blocks that are encoded to see how the code begins."""

_TOP_PX = 32
"""Rows that are encoded then: in a corner without detail many ways begin alike."""

_MAX_ENCODED = 2
"""Ways that are encoded in full, where several begin alike."""


@dataclass(frozen=True, slots=True)
class _Copy:
    """The member taken apart; `scan` is the code of its blocks."""

    data: bytes
    header: Header
    sections: tuple[bytes, ...]
    coding: JpegCoding
    mode: str
    scan: bytes


def replayed(member: bytes, bases: Bases) -> Fit | None:
    """Return how the member is drawn from a representative to the last byte, or None where that was not found.

    Never raises over hostile bytes.

    Args:
        member: a JPEG.
        bases: of the representative, another JPEG.
    """
    try:
        copy = _taken_apart(member)
        return None if copy is None else _found(copy, bases)
    except (UnfitPictureError, UndecodableError):
        return None


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


def _found(copy: _Copy, bases: Bases) -> Fit | None:
    whole = bases(Scaling(Kernel.SAME)).image
    if whole.mode != copy.mode:
        # A greyscale picture made of a coloured one has lost something, whatever its bytes are.
        return None
    encoded = 0
    for scaling, rounding in LATELY.ways(whole.size, copy.header.size_px):
        coding = replace(copy.coding, rounding=rounding)
        if encoded == _MAX_ENCODED or not _begins_alike(copy, bases(scaling), scaling, coding):
            continue
        image = in_mode(scaled(bases(scaling), scaling, copy.header.size_px), copy.mode)
        written = jpeg_coding.assemble(copy.sections, jpeg_coding.encode(image, coding), len(copy.data))
        if written == copy.data:
            LATELY.note(Habit.of(scaling, rounding))
            record = coding.to_bytes()
            return _fit(copy, Recipe(PictureFormat.JPEG, *image.size, copy.mode, bases.treatment, scaling, record))
        encoded += 1
    return None


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
