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
from dedupfs.model import ClusterId, ContentId, Policy

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Refit:
    """How one picture of a cluster fits a new representative."""

    fit: Fit
    size: int
    distance_bits: int


@dataclass(frozen=True, slots=True)
class Fitting:
    """A candidate whose picture and the newcomer are versions of one another, and how far apart they are.

    `fits` is how the newcomer is drawn from the candidate's representative, or how every picture of the candidate's
    cluster is drawn from the newcomer.
    """

    candidate: Candidate
    fits: Fit | Mapping[ContentId, Refit]

    @property
    def difference(self) -> float:
        """The largest difference between the two at a point, in levels; 0 for the same."""
        fit = self.fits if isinstance(self.fits, Fit) else self.fits[self.candidate.representative].fit
        return 0.0 if fit.bit_exact else fit.differences.fine_luma + fit.differences.fine_chroma


@dataclass(frozen=True, slots=True)
class Promotion:
    """A cluster whose pictures are to rest on a newcomer, and how each of them is drawn from it."""

    candidate: Candidate
    fits: Mapping[ContentId, Refit]


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
        higher quality seems better than its original but only the original gives both of them to the last byte. Where
        no pixels are compared, it would draw a photo from its thumbnail.

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
        promote_first = better(facts, candidate.facts)
        orders = (promote_first,) if self._policy is Policy.PERCEPTUAL else (promote_first, not promote_first)
        kept: Fit | dict[ContentId, Refit] | None = None
        for promoting in orders:
            second_best = kept is not None
            found: Fit | dict[ContentId, Refit] | Misfit
            if promoting:
                found = self._refit(data, facts, candidate, original, exact_only=second_best)
            else:
                found = self._compare(data, original, self._policy, exact_only=second_best)
            if isinstance(found, Misfit):
                if found.both_ways:
                    break
            elif kept is None or _is_exact(found):
                kept = found
            if kept is not None and (_is_exact(kept) or facts.pixels != candidate.facts.pixels):
                break
        return Fitting(candidate, kept) if kept is not None else None

    def _refit(
        self, data: bytes, facts: PictureFacts, candidate: Candidate, original: bytes, *, exact_only: bool
    ) -> dict[ContentId, Refit] | Misfit:
        """Compare every picture of the cluster with the newcomer; a Misfit when one of them does not fit.

        The representative comes first: if it does not fit, nothing else matters.
        """
        outcome = self._compare(original, data, self._policy_of_others, exact_only=exact_only)
        if isinstance(outcome, Misfit):
            return outcome
        fits = {candidate.representative: Refit(outcome, len(original), candidate.distance_bits)}
        for member in self._shelf.members(candidate.cluster):
            if member in fits:
                continue
            theirs = self._shelf.bytes_of(member)
            if theirs is None:
                continue
            outcome = self._compare(theirs, data, self._policy_of_others)
            if isinstance(outcome, Misfit):
                # The newcomer may be drawn from the representative all the same.
                return replace(outcome, both_ways=False)
            try:
                seen: PictureFacts = self._pool.call("inspect", theirs)
            except WorkerStartError:
                raise
            except IngestError as exc:
                log.warning("a picture of cluster %d could not be looked at: %s", candidate.cluster, exc)
                return Misfit("failed", None)
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


def _is_exact(found: Fit | dict[ContentId, Refit]) -> bool:
    """True when whatever was found comes back to the last byte."""
    return found.bit_exact if isinstance(found, Fit) else all(refit.fit.bit_exact for refit in found.values())


def _distance_bits(a: PictureFacts, b: PictureFacts) -> int:
    if a.fingerprint is None or b.fingerprint is None:
        return 0
    return (int.from_bytes(a.fingerprint, "big") ^ int.from_bytes(b.fingerprint, "big")).bit_count()
