"""Decision: what a picture can be kept as beside one candidate, whoever holds the candidate's bytes.

The volume asks through `pipeline`, which stores the answer; `scan` asks about ordinary files and stores nothing. Owns
the order in which two pictures are tried and what a promotion demands; leaves comparing to the workers. Takes no locks:
what an answer rests on may change meanwhile, and whoever acts on it has to look.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from dedupfs.errors import IngestError, MemoryShortError, WorkerStartError
from dedupfs.ingest.facts import PictureFacts, better
from dedupfs.ingest.match import Candidate
from dedupfs.ingest.outcome import REASON_MEMORY, Fit, Misfit
from dedupfs.ingest.workers import WorkerPool
from dedupfs.model import ClusterId, ContentId, PictureFormat, Policy

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Refit:
    """How one picture of a cluster fits a new representative."""

    fit: Fit
    size: int
    distance_bits: int


@dataclass(frozen=True, slots=True)
class Whole:
    """One picture of a cluster that does not fit a new representative, and the bytes that were written as it."""

    data: bytes
    facts: PictureFacts


Refits = Mapping[ContentId, Refit | Whole]
"""What is to become of every picture of a cluster under a new representative; the old one is always a Refit."""


@dataclass(frozen=True, slots=True)
class Fitting:
    """A candidate whose picture and the newcomer are versions of one another, and how far apart they are.

    `fits` is how the newcomer is drawn from the candidate's representative, or what becomes of every picture of the
    candidate's cluster when the newcomer takes its place.
    """

    candidate: Candidate
    fits: Fit | Refits

    @property
    def difference(self) -> float:
        """The largest difference between the two at a point, in levels; 0 for the same."""
        fit = self.fits if isinstance(self.fits, Fit) else _refit_of(self.candidate, self.fits).fit
        return 0.0 if fit.bit_exact else fit.differences.fine_luma + fit.differences.fine_chroma


@dataclass(frozen=True, slots=True)
class Promotion:
    """A cluster whose pictures are to rest on a newcomer, as far as they can be drawn from it."""

    candidate: Candidate
    fits: Refits

    @property
    def moved(self) -> dict[ContentId, Refit]:
        """How the pictures are drawn that will rest on the newcomer."""
        return {member: refit for member, refit in self.fits.items() if isinstance(refit, Refit)}

    @property
    def left(self) -> dict[ContentId, Whole]:
        """The pictures that will stand alone."""
        return {member: whole for member, whole in self.fits.items() if isinstance(whole, Whole)}


NEAR_SHARE = 1.1
"""Of the least difference, up to which that of another candidate says as little.

Of 24 small or coarse copies that fitted an edit of their original as well as that, two differed about as much from
both: an original 6.69 levels and the edit 6.54, another 5.53 and 5.66. For all others the edit was at least 1.16 times
as far. An edit has been saved once more, and is the poorer picture.
"""


def closest(found: Iterable[Fitting]) -> Fitting:
    """Return what a newcomer is to be to others, out of at least one: the least different; of near ones the best."""
    fittings = sorted(found, key=lambda fitting: fitting.difference)
    chosen = fittings[0]
    for fitting in fittings[1:]:
        if fitting.difference > NEAR_SHARE * fittings[0].difference:
            break
        if better(fitting.candidate.facts, chosen.candidate.facts):
            chosen = fitting
    return chosen


def promotions(found: Iterable[Fitting]) -> list[Promotion]:
    """Return the clusters that a newcomer can be the representative of, closest first."""
    return [
        Promotion(fitting.candidate, fitting.fits)
        for fitting in sorted(found, key=lambda fitting: fitting.difference)
        if not isinstance(fitting.fits, Fit)
    ]


class Shelf(Protocol):
    """Where the pictures of clusters are kept."""

    def members(self, cluster: ClusterId) -> Iterable[ContentId]:
        """Return all pictures of a cluster, the representative too."""

    def bytes_of(self, member: ContentId) -> bytes | None:
        """Return what was written as a picture, or what it reads as; None when it has gone meanwhile.

        Raises:
            IntegrityError: its bytes cannot be had.
        """

    def bytes_written(self, member: ContentId) -> bytes | None:
        """Return what was written as a picture; None where that is not known any more."""


@dataclass(frozen=True, slots=True)
class _Decided:
    """What came of one candidate, and whether it was turned down before whole pictures were compared."""

    fitting: Fitting | None
    at_a_glance: bool


class Judge:
    """Takes decisions about one newcomer under one policy, on one thread.

    A decision may have to be taken again because another candidate has come up meanwhile; what was found out about
    those that were there before is not found out once more.
    """

    def __init__(self, pool: WorkerPool, policy: Policy, shelf: Shelf, policy_of_others: Policy | None = None) -> None:
        """`policy_of_others` is that of the pictures which are on the shelf, where it may be another one."""
        self._pool = pool
        self._policy = policy
        self._policy_of_others = policy if policy_of_others is None else policy_of_others
        self._shelf = shelf
        self._decided: dict[tuple[ClusterId, ContentId], _Decided] = {}
        self._early = True

    def at_a_glance(self, candidate: Candidate) -> bool:
        """Whether a candidate has been turned down without comparing whole pictures, which costs little."""
        decided = self._decided.get((candidate.cluster, candidate.representative))
        return decided is not None and decided.at_a_glance

    def is_enough(self, fitting: Fitting) -> bool:
        """Whether no other candidate is to be asked: none can be closer, or the policy compares no pixels.

        A picture that becomes a representative may be that of other clusters too, so the others are asked then.
        """
        if self._policy is Policy.PERCEPTUAL:
            return True
        return isinstance(fitting.fits, Fit) and not fitting.difference

    def decide(self, data: bytes, facts: PictureFacts, candidate: Candidate, original: bytes) -> Fitting | None:
        """Try the better picture as the base of the other, then the other way round; None when neither fits.

        The second try is not in vain: an enlarged copy is "better" than its original and can only be drawn from it, of
        two JPEGs often only one can be fitted into the size of the other, and a picture that was compressed again at a
        higher quality seems better than its original but only the original gives both of them to the last byte; so does
        that of an enlarged copy. Where no pixels are compared, it would draw a photo from its thumbnail.

        A picture that was made from the other one (see `ancestry`) is not its base, however fine it is, unless what is
        drawn from it comes back to the last byte. Rather they are kept apart.

        Args:
            data: the newcomer, a whole file.
            original: the candidate's representative, a whole file.
        Raises:
            IntegrityError: a picture of the candidate's cluster cannot be read.
            WorkerStartError: no worker can be started.
        """
        key = (candidate.cluster, candidate.representative)
        decided = self._decided.get(key)
        if decided is None or not self._still_holds(decided):
            self._early = True
            fitting = self._fitting(data, facts, candidate, original)
            decided = self._decided[key] = _Decided(fitting, self._early and fitting is None)
        return decided.fitting

    def _still_holds(self, decided: _Decided) -> bool:
        """Whether nothing has changed that a decision rests on, but for the representative, which is part of its key.

        A cluster that has lost the one picture that stood in the way is not asked again.
        """
        if decided.fitting is None or isinstance(decided.fitting.fits, Fit):
            return True
        return set(self._shelf.members(decided.fitting.candidate.cluster)) == decided.fitting.fits.keys()

    def _fitting(self, data: bytes, facts: PictureFacts, candidate: Candidate, original: bytes) -> Fitting | None:
        theirs = candidate.facts
        promote_first = better(facts, theirs)
        made_from_theirs = promote_first and self._is_made_from(data, facts, original, theirs)
        promote_first = promote_first and not made_from_theirs
        orders = (promote_first,) if self._policy is Policy.PERCEPTUAL else (promote_first, not promote_first)
        kept: Fit | Refits | None = None
        for promoting in orders:
            second_best = kept is not None
            found: Fit | Refits | Misfit
            if promoting:
                is_source = second_best and self._is_made_from(original, theirs, data, facts)
                exact_only = (second_best and not is_source) or made_from_theirs
                found = self._refit(data, facts, candidate, original, exact_only=exact_only)
            else:
                is_source, exact_only = False, second_best
                found = self._compare(data, original, self._policy, exact_only=exact_only)
            if isinstance(found, Misfit):
                if is_source:
                    # The other one, which cannot be drawn from it, was made from the newcomer: they are kept apart.
                    kept = None
                if found.both_ways:
                    break
            elif not exact_only or _is_exact(found):
                kept = found
            if kept is not None and (_is_exact(kept) or facts.pixels < theirs.pixels):
                break
        return Fitting(candidate, kept) if kept is not None else None

    def _is_made_from(self, data: bytes, facts: PictureFacts, source: bytes, theirs: PictureFacts) -> bool:
        return self._policy is not Policy.PERCEPTUAL and is_made_from(self._pool, data, facts, source, theirs)

    def _refit(
        self, data: bytes, facts: PictureFacts, candidate: Candidate, original: bytes, *, exact_only: bool
    ) -> Refits | Misfit:
        """Compare every picture of the cluster with the newcomer; a Misfit when the cluster is better left as it is.

        The representative comes first: if it does not fit, nothing else matters. Others that do not fit are kept whole
        again, as long as what was written is known and all of them together take less than the representative did.
        """
        outcome = self._compare(original, data, self._policy_of_others, exact_only=exact_only)
        if isinstance(outcome, Misfit):
            return outcome
        fits: dict[ContentId, Refit | Whole] = {
            candidate.representative: Refit(outcome, len(original), candidate.distance_bits)
        }
        left_bytes = 0
        for member in self._shelf.members(candidate.cluster):
            if member in fits:
                continue
            theirs = self._shelf.bytes_of(member)
            if theirs is None:
                continue
            outcome = self._compare(theirs, data, self._policy_of_others, exact_only=exact_only)
            if isinstance(outcome, Misfit):
                left_bytes += len(theirs)
                if exact_only or left_bytes >= len(original) or self._shelf.bytes_written(member) != theirs:
                    # The newcomer may be drawn from the representative all the same.
                    return replace(outcome, both_ways=False)
            try:
                seen: PictureFacts = self._pool.call("inspect", theirs)
            except WorkerStartError:
                raise
            except IngestError as exc:
                log.warning("a picture of cluster %d could not be looked at: %s", candidate.cluster, exc)
                return Misfit("failed", None)
            if isinstance(outcome, Misfit):
                fits[member] = Whole(theirs, seen)
            else:
                fits[member] = Refit(outcome, len(theirs), _distance_bits(seen, facts))
        return fits

    def _compare(self, member: bytes, base: bytes, policy: Policy, *, exact_only: bool = False) -> Fit | Misfit:
        try:
            outcome: Fit | Misfit = self._pool.call("fit", member, base, policy, exact_only)
        except WorkerStartError:
            raise
        except MemoryShortError as exc:
            log.info("two pictures are kept apart: to compare them %s", exc)
            return Misfit(REASON_MEMORY, None, note=str(exc))
        except IngestError as exc:
            log.warning("two pictures could not be compared: %s", exc)
            self._early = False
            return Misfit("failed", None)
        self._early = self._early and isinstance(outcome, Misfit) and outcome.at_a_glance
        return outcome


def is_made_from(pool: WorkerPool, data: bytes, facts: PictureFacts, source: bytes, theirs: PictureFacts) -> bool:
    """Whether a picture was made from another one, as far as that can be told. Raises WorkerStartError."""
    if theirs.picture_format is not PictureFormat.JPEG:
        return False
    if facts.pixels != theirs.pixels or facts.has_alpha or facts.coarseness >= theirs.coarseness:
        return False
    try:
        return bool(pool.call("is_made_from", data, source))
    except WorkerStartError:
        raise
    except IngestError as exc:
        log.info("it could not be told whether a picture was made from another one: %s", exc)
        return False


def _is_exact(found: Fit | Refits) -> bool:
    """True when whatever was found comes back to the last byte."""
    if isinstance(found, Fit):
        return found.bit_exact
    return all(isinstance(refit, Whole) or refit.fit.bit_exact for refit in found.values())


def _refit_of(candidate: Candidate, fits: Refits) -> Refit:
    refit = fits[candidate.representative]
    assert isinstance(refit, Refit)
    return refit


def _distance_bits(a: PictureFacts, b: PictureFacts) -> int:
    if a.fingerprint is None or b.fingerprint is None:
        return 0
    return (int.from_bytes(a.fingerprint, "big") ^ int.from_bytes(b.fingerprint, "big")).bit_count()
