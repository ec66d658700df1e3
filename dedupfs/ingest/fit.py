"""Search for the rendition of a member from a representative, and prove it.

Owns the order of the search: what is cheap and what rejects most comes first. Pure functions, for worker processes.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from dedupfs.errors import MemoryShortError, OversizeError, UndecodableError, UnfitPictureError
from dedupfs.ingest import drafts, footprint, members, palette, sections
from dedupfs.ingest.decode import INVERSE_ORIENTATION, Picture, composed, decode, give_back, header
from dedupfs.ingest.glance import HOPELESS_TILES, Preview, Seen, glance, tiles_excess, tiles_of
from dedupfs.ingest.habits import LATELY, Habit
from dedupfs.ingest.jpeg_coding import JpegCoding
from dedupfs.ingest.jpeg_rounding import Rounding
from dedupfs.ingest.members import Member
from dedupfs.ingest.outcome import (
    LIMIT_DETAIL,
    LIMIT_GREY,
    LIMIT_TILES,
    LIMIT_WINDOW,
    NO_DIFFERENCE,
    REASON_ASPECT,
    REASON_DECODE,
    REASON_FORMAT,
    REASON_INEXACT,
    REASON_OWN,
    REASON_PIXELS,
    REASON_REVERSE,
    REASON_SIZE,
    Fit,
    Misfit,
)
from dedupfs.ingest.ranking import HOPELESS_WINDOW, Ranking
from dedupfs.ingest.recipe import Colour, Recipe, Treatment
from dedupfs.ingest.rendition import as_encoded, in_mode
from dedupfs.ingest.replay import Replay
from dedupfs.ingest.scaling import (
    PLANES,
    Kernel,
    Scaling,
    scaled,
)
from dedupfs.ingest.sketch import sketch
from dedupfs.ingest.sniff import sniff
from dedupfs.ingest.treatment import Bases
from dedupfs.ingest.trials import requantized, squared
from dedupfs.ingest.verify import Steps, Verdict, detail_excess, local_excess, verify
from dedupfs.ingest.windows import Window, inner, trimmed, windows_of
from dedupfs.model import PictureFormat, Policy

MAX_OWN_SHARE = 0.9
"""Own bytes and recipe may be at most this share of the file."""

RECIPE_ALLOWANCE_BYTES = 200

MAX_FINISHES = 2
"""Ways to round and to take samples that are encoded in full."""

USUAL_ERROR_SHARE = 0.98
"""Another way has to be closer than the usual one by more than chance; it costs time whenever somebody reads."""

GOOD_ENOUGH = 0.8
"""Share of the limits with which no further setting of a dear encoder is tried."""

HOPELESS_VERDICT = 2.5
"""Excess of a rendition from which no other filter and no other rounding is encoded; where a later one of a JPEG
passed, the first was at most 1.9 off."""

HOPELESS_ROUNDING = 1.5
"""The same for a rendition of the representative's size, of which only the rounding is in question; the largest was
1.01, of 430 copies that were found by a search."""

HOPELESS_DETAIL = 5.0
"""Excess of the fine detail of the windows together from which nothing is encoded; of the same copies the largest was
2.0. A filter that takes noise away, or a blur, changes it by 5 to 50 times what is allowed."""

HOPELESS_LOSSY = 8.0
"""Excess, before it is encoded, from which a rendition of a lossy WebP has never passed afterwards."""

MOST_PLANES_EXCESS = 0.9
"""Of the limits where luma and chroma were scaled apart: copies by ffmpeg measure up to 0.86, and a copy at 60 % of an
edit, a digit that is 15 levels darker, 0.93."""

GREY_FINE, GREY_COARSE = 5.0, 2.5
"""Chroma levels of a colour representative that a greyscale member may have dropped: JPEG noise on a grey picture."""


def fit(member: bytes, representative: bytes, policy: Policy, exact_only: bool = False) -> Fit | Misfit:
    """Find a rendition of `member` from `representative` that may replace it under the policy.

    Both are whole files. Never raises over hostile bytes, they make a Misfit.

    Args:
        exact_only: give up early where the rendition will not be the member to the last byte.
    Raises:
        MemoryShortError: a comparison would take more memory than is allowed (see `footprint`).
    """
    replay = _replay(member, representative)
    if replay is None:
        footprint.demand(footprint.of_search(member, representative))
    elif (replayed := replay.quick()) is not None and not _is_mostly_own(replayed.own, member):
        return replayed
    try:
        seen = drafts.LATELY.of(member)
        opened = members.open_member(member, seen)
    except (UnfitPictureError, UndecodableError) as exc:
        return Misfit(REASON_FORMAT, None, note=str(exc))
    own = sections.pack(opened.sections)
    if _is_mostly_own(own, member):
        return Misfit(REASON_OWN, None)
    try:
        source = _looked_at(seen, opened, representative, policy)
        if isinstance(source, Misfit):
            return source
        if replay is not None:
            if (replayed := replay.rest()) is not None:
                return replayed
            footprint.demand(footprint.of_search(member, representative))
        picture = decode(member) if seen.picture_format is PictureFormat.JPEG else seen
        bases = None if replay is None else replay.bases
        return _Search(member, picture, opened, own, source, policy, exact_only, bases).run()
    except MemoryShortError:
        raise
    except (UnfitPictureError, UndecodableError) as exc:
        return Misfit(REASON_DECODE, None, note=str(exc))


def _looked_at(seen: Picture, opened: Member, representative: bytes, policy: Policy) -> _Source | Misfit:
    """Return the representative as a search wants it; a Misfit where a draft of it shows another picture.

    Raises:
        UnfitPictureError, UndecodableError: it does not decode.
    """
    draft = drafts.LATELY.of(representative)
    if policy is Policy.PERCEPTUAL and not _same_aspect(seen.upright_px, draft.upright_px):
        return Misfit(REASON_ASPECT, None)
    steps = members.steps_of(representative, draft.picture_format)
    closely = policy is not Policy.PERCEPTUAL
    told = glance(Seen(seen, opened.steps), Seen(draft, steps), opened.mode, closely=closely)
    if told.limit and closely:
        return Misfit(REASON_PIXELS, None, told.limit, told.excess, both_ways=told.both_ways)
    return _Source(representative, draft, steps, told.treatment, told.is_level)


def _is_mostly_own(own: bytes, member: bytes) -> bool:
    return len(own) + RECIPE_ALLOWANCE_BYTES > MAX_OWN_SHARE * len(member)


def _replay(member: bytes, representative: bytes) -> Replay | None:
    """Return the attempt to make a member to the last byte, where both are JPEG; as a copy that nobody has turned."""
    if not sniff(member) is sniff(representative) is PictureFormat.JPEG:
        return None
    try:
        mine, source = header(member), header(representative)
    except (UnfitPictureError, UndecodableError):
        return None
    treatment = Treatment(composed(source.orientation, INVERSE_ORIENTATION[mine.orientation]))
    source_px = source.size_px[::-1] if treatment.orientation >= 5 else source.size_px
    return Replay(member, Bases(representative, treatment), (source_px[0], source_px[1]))


@dataclass(frozen=True, slots=True)
class Finish:
    """What is encoded: pixels, the treatment of the representative that they came from, and a view of the member."""

    treatment: Treatment
    image: Image.Image
    member: Member


@dataclass(frozen=True, slots=True)
class _Source:
    """A representative: a draft of it, its quantization, and what happens to it before it is scaled.

    `is_level`: see `Glance`.
    """

    data: bytes
    draft: Picture
    steps: Steps
    treatment: Treatment
    is_level: bool

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height, turned the member's way."""
        width_px, height_px = self.draft.width_px, self.draft.height_px
        return (height_px, width_px) if self.treatment.orientation >= 5 else (width_px, height_px)


class _Search:
    """One call of `fit`: the decoded member and what has been learnt about the representative."""

    def __init__(
        self,
        member: bytes,
        picture: Picture,
        opened: Member,
        own: bytes,
        source: _Source,
        policy: Policy,
        exact_only: bool,
        bases: Bases | None,
    ) -> None:
        self._member = member
        self._picture = picture
        self._opened = opened
        self._own = own
        self._source = source
        self._policy = policy
        self._exact_only = exact_only
        self._bases = bases
        self._size_px = (picture.width_px, picture.height_px)
        draft = source.draft
        self._shrink = math.sqrt(draft.width_px * draft.height_px / (picture.width_px * picture.height_px))
        self._steps = opened.steps.beside(source.steps, self._shrink)
        self._closest: Verdict | None = None
        self._ended: tuple[str, float] = ("", 0.0)
        self._both_ways = False
        self._missing_bytes: int | None = None

    def run(self) -> Fit | Misfit:
        draft, treatment = self._source.draft, self._source.treatment
        known = self._bases
        # Only a JPEG can be decoded in part, so that the draft of anything else is all of it.
        whole = draft if draft.picture_format is not PictureFormat.JPEG else None
        bases = known if known and known.treatment == treatment else Bases(self._source.data, treatment, whole)
        source_px = self._source.size_px
        same = Scaling(Kernel.SAME)
        if source_px == self._size_px and self._is_reverse(bases(same).image, draft):
            return Misfit(REASON_REVERSE, None)
        ways = [same] if source_px == self._size_px else self._ranked(source_px, draft, bases)
        fitted_any = not ways
        for scaling in ways:
            image = scaled(bases(scaling), scaling, self._size_px)
            if self._policy is not Policy.PERCEPTUAL and not self._may_be_grey(image):
                return Misfit(REASON_PIXELS, None, LIMIT_GREY)
            if self._is_another(image) or self._is_hopeless(image):
                fitted_any = True
                continue
            image = as_encoded(image, self._opened.mode, bool(self._opened.roundings))
            finishes = self._finishes(Finish(treatment, image, self._opened), scaling)
            fitted_any = fitted_any or not finishes
            while finishes:
                # From the list, so that its pixels go with it.
                best, fits_size = self._fitted(finishes.pop(0), scaling)
                fitted_any = fitted_any or fits_size
                if best is not None and (best.bit_exact or not self._exact_only):
                    return best
                if self._is_far_off():
                    return self._misfit(fitted_any)
        return self._misfit(fitted_any)

    @functools.cached_property
    def _tiles(self) -> Preview:
        return tiles_of(self._picture.image)

    @functools.cached_property
    def _windows(self) -> list[Window]:
        return windows_of(self._picture.image)

    def _misfit(self, fitted_any: bool) -> Misfit:
        closest = self._closest
        differences = closest.differences if closest is not None else None
        limit, excess = (closest.worst, closest.excess) if closest is not None else self._ended
        if self._exact_only:
            return Misfit(REASON_INEXACT, differences, limit, excess)
        would_pass = closest is not None and closest.excess <= 1.0
        if not fitted_any or (would_pass and self._missing_bytes is not None):
            return Misfit(REASON_SIZE, differences, missing_bytes=self._missing_bytes or 0)
        return Misfit(REASON_PIXELS, differences, limit, excess, both_ways=self._both_ways and closest is None)

    def _fitted(self, finish: Finish, scaling: Scaling) -> tuple[Fit | None, bool]:
        """Return the closest rendition that passes, if one does, and whether any encoding came out at the size."""
        best: tuple[float, Fit] | None = None
        fits_size = False
        size_px, mode = self._size_px, finish.image.mode
        try:
            for coding, written in finish.member.fitted(finish.image):
                fits_size = True
                recipe = Recipe(self._picture.picture_format, *size_px, mode, finish.treatment, scaling, coding)
                found = self._judged(recipe, written, finish.image)
                if found is not None and (best is None or found[0] < best[0]):
                    best = found
                if best is not None and (best[1].bit_exact or best[0] <= GOOD_ENOUGH):
                    break
        except OversizeError as exc:
            known = self._missing_bytes
            self._missing_bytes = exc.missing_bytes if known is None else min(known, exc.missing_bytes)
        return (None if best is None else best[1]), fits_size

    def _finishes(self, usual: Finish, scaling: Scaling) -> list[Finish]:
        """Return ways to get from scaled pixels to a file, the closest to the member on its windows first.

        They differ in how a JPEG's coefficients are rounded, and in whether the samples of a representative of the
        same size are taken as they are coded, as jpegtran and ffmpeg do.
        """
        if not usual.member.roundings and not self._may_be_coded(usual.treatment, scaling):
            return [usual]
        windows = self._windows
        member_windows = [self._picture.image.crop(window) for window in windows]
        wanted = [inner(window) for window in member_windows]
        errors: list[float] = []
        found: list[Finish] = []
        for finish in self._every_finish(usual, scaling):
            found.append(finish)
            parts = [finish.image.crop(window) for window in windows]
            made = requantized(parts, finish.member, self._picture.image.mode)
            errors.append(sum(squared(want, got) for want, got in zip(wanted, made, strict=True)))
            if not errors[-1]:
                break
            if len(errors) == 1 and self._differ(member_windows, made):
                return []
        if self._exact_only and min(errors):
            return []
        order = np.argsort([errors[0] * USUAL_ERROR_SHARE, *errors[1:]], kind="stable")
        return [found[at] for at in order[:MAX_FINISHES]]

    def _every_finish(self, usual: Finish, scaling: Scaling) -> Iterator[Finish]:
        yield usual
        for member in usual.member.roundings:
            yield replace(usual, member=member)
        # Another decode of the representative, which is in vain if the last one was the right one.
        coded = self._as_coded(usual.treatment, scaling)
        if coded is not None:
            treatment, image = coded
            roundings = usual.member.roundings
            image = as_encoded(image, usual.member.mode, bool(roundings))
            for member in (usual.member, *roundings):
                yield Finish(treatment, image, member)

    def _differ(self, wanted: list[Image.Image], made: list[Image.Image]) -> bool:
        """Return whether some window shows that the whole pictures are too far apart for any way of encoding."""
        if self._policy is Policy.PERCEPTUAL or not self._opened.faithful:
            return False
        for want, got in zip(wanted, made, strict=True):
            excess = local_excess(trimmed(want), trimmed(got), self._steps)
            if excess > HOPELESS_WINDOW:
                self._ended = (LIMIT_WINDOW, excess)
                return True
        pairs = ((trimmed(want), trimmed(got)) for want, got in zip(wanted, made, strict=True))
        excess = detail_excess(pairs, self._steps)
        if excess > HOPELESS_DETAIL:
            self._ended = (LIMIT_DETAIL, excess)
        return excess > HOPELESS_DETAIL

    def _as_coded(self, treatment: Treatment, scaling: Scaling) -> tuple[Treatment, Image.Image] | None:
        """Return the representative's samples as they are coded, where that is another way to see them."""
        if not self._may_be_coded(treatment, scaling):
            return None
        changed = replace(treatment, colour=Colour.PLANES)
        try:
            return changed, Bases(self._source.data, changed)(scaling).image
        except (UnfitPictureError, UndecodableError):
            return None

    def _may_be_coded(self, treatment: Treatment, scaling: Scaling) -> bool:
        lossless = self._opened.steps == Steps(0.0, 0.0)
        is_plain = scaling == Scaling(Kernel.SAME) and treatment.colour is Colour.PLAIN
        return is_plain and (self._picture.picture_format is PictureFormat.JPEG or lossless)

    def _is_reverse(self, image: Image.Image, draft: Picture) -> bool:
        lossy = self._opened.steps.luma > 0
        if not lossy or draft.picture_format not in members.LOSSLESS_FORMATS:
            return False
        return in_mode(image, self._picture.image.mode).tobytes() == self._picture.image.tobytes()

    def _ranked(self, source_px: tuple[int, int], draft: Picture, bases: Bases) -> list[Scaling]:
        may_reject = self._policy is not Policy.PERCEPTUAL and self._opened.faithful
        image, windows = self._picture.image, self._windows
        ranking = Ranking(image, windows, self._opened, bases, self._steps, may_reject=may_reject)
        ways, limit, excess = ranking.ranked(source_px, is_jpeg=draft.picture_format is PictureFormat.JPEG)
        if not ways:
            self._ended = (limit, excess)
        return ways

    def _is_hopeless(self, image: Image.Image) -> bool:
        """True when encoding is dear and would be in vain; JPEG is cheap enough to be tried."""
        if self._policy is Policy.PERCEPTUAL or self._picture.picture_format is PictureFormat.JPEG:
            return False
        if self._picture.stored_mode == "P":
            return False
        verdict = verify(self._picture.image, in_mode(image, self._picture.image.mode), self._steps)
        self._note(verdict)
        return verdict.excess > (HOPELESS_LOSSY if self._opened.steps.luma else 1.0)

    def _is_another(self, image: Image.Image) -> bool:
        """True when means of whole tiles already show another picture, before anything is encoded."""
        if self._policy is Policy.PERCEPTUAL or not self._opened.faithful:
            # Of an AVIF that passed, the tiles were 1.05 times what is allowed before it was encoded.
            return False
        other = tiles_of(in_mode(image, self._picture.image.mode))
        excess = tiles_excess(self._tiles, other, self._opened.steps)
        if excess > HOPELESS_TILES:
            self._ended = (LIMIT_TILES, excess)
            # The tiles of a larger picture are parts of these, of which some differ as much.
            smaller = self._shrink >= 1.0
            steps = self._opened.steps.coarser(self._source.steps)
            self._both_ways = (
                smaller and self._source.is_level and tiles_excess(self._tiles, other, steps) > HOPELESS_TILES
            )
        return excess > HOPELESS_TILES

    def _is_far_off(self) -> bool:
        """True when what was encoded differs by more than another filter or rounding can make up for."""
        if self._policy is Policy.PERCEPTUAL or not self._opened.faithful or self._closest is None:
            return False
        hopeless = HOPELESS_ROUNDING if self._source.size_px == self._size_px else HOPELESS_VERDICT
        return self._picture.picture_format is PictureFormat.JPEG and self._closest.excess > hopeless

    def _note(self, verdict: Verdict) -> None:
        if self._closest is None or verdict.excess < self._closest.excess:
            self._closest = verdict

    def _may_be_grey(self, image: Image.Image) -> bool:
        """True unless colour would be lost: a greyscale member and pixels that are not grey."""
        if self._opened.mode not in ("L", "LA") or image.mode in ("L", "LA"):
            return True
        image = image.convert("RGB") if image.mode == "YCbCr" else image
        differences = verify(image.convert("L"), image, self._opened.steps).differences
        return differences.fine_chroma <= GREY_FINE and differences.coarse_chroma <= GREY_COARSE

    def _judged(self, recipe: Recipe, written: bytes, image: Image.Image) -> tuple[float, Fit] | None:
        """Return the excess and the Fit of a finished rendition of an image, or None when it does not pass."""
        if written == self._member:
            LATELY.note(Habit.of(recipe.scaling, _rounding_of(recipe)))
            return 0.0, Fit(
                recipe.to_bytes(),
                self._own,
                NO_DIFFERENCE,
                True,
                hashlib.sha256(written).digest(),
                sketch(self._picture.image),
            )
        # 5 bytes a pixel by now.
        give_back()
        again = decode(written)
        same = (again.width_px, again.height_px, again.orientation, again.icc, again.picture_format)
        picture = self._picture
        if same != (*self._size_px, picture.orientation, picture.icc, picture.picture_format):
            return None
        steps = self._steps
        if picture.stored_mode == "P" and picture.picture_format in palette.FORMATS:
            steps = palette.steps_of(image, again.image).beside(self._source.steps, self._shrink)
        verdict = verify(picture.image, again.image, steps)
        self._note(verdict)
        allowed = MOST_PLANES_EXCESS if recipe.scaling.kernel in PLANES else 1.0
        if verdict.excess > allowed and self._policy is not Policy.PERCEPTUAL:
            return None
        fit_found = Fit(
            recipe.to_bytes(),
            self._own,
            verdict.differences,
            False,
            hashlib.sha256(written).digest(),
            sketch(again.image),
        )
        return verdict.excess, fit_found


def _rounding_of(recipe: Recipe) -> Rounding:
    is_jpeg = recipe.picture_format is PictureFormat.JPEG
    return JpegCoding.from_bytes(recipe.coding).rounding if is_jpeg else Rounding.LIBRARY


def _same_aspect(a_px: tuple[int, int], b_px: tuple[int, int]) -> bool:
    """True when one is the other resized, give or take the rounding of one pixel."""
    return abs(a_px[0] * b_px[1] - a_px[1] * b_px[0]) <= max(*a_px, *b_px)
