"""Settlement: the ways in which a decision about a picture is stored, each in one transaction.

Every method first looks, under the store's lock, whether the picture is still what it was and whether the decision
still rests on what is true. It returns False when the decision has to be taken again, and True when nothing is left to
do: the picture is stored, or it has changed or gone and whoever changed it will submit it again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from typing import Protocol, TypeGuard

from dedupfs.errors import DedupfsError, InUseError
from dedupfs.ingest import match
from dedupfs.ingest.apart import original_apart
from dedupfs.ingest.decision import Promotion, Refit
from dedupfs.ingest.facts import PictureFacts
from dedupfs.ingest.match import Candidate
from dedupfs.ingest.outcome import Fit
from dedupfs.ingest.renderer import codecs
from dedupfs.ingest.sniff import image_cuts
from dedupfs.model import ClusterId, ContentId, Policy
from dedupfs.storage.contents import PreparedLayout
from dedupfs.storage.records import ContentState, Exact, Layout, Rendition
from dedupfs.storage.store import Transaction
from dedupfs.storage.volume import Volume

_DAY_NS = 24 * 3600 * 10**9


class Subject(Protocol):
    """A picture whose fate is to be decided."""

    @property
    def size_bytes(self) -> int:
        """How long it is, as far as that is known; only to tell how much memory its decision takes."""

    def data(self) -> bytes | None:
        """Return the bytes, or None when they have changed or gone."""

    def policy(self, data: bytes) -> Policy:
        """Return the policy that the picture is under; `data` are its bytes."""

    def is_current(self) -> bool:
        """Whether the bytes still are what they were; called under the store's lock."""

    def adopt(self, transaction: Transaction, content: ContentId) -> None:
        """Rest on the content, which was stored in this transaction."""

    def settled(self, content: ContentId) -> None:
        """Take note that the transaction has happened; called under the store's lock."""

    def failed(self) -> None:
        """Take note that the bytes could not be stored."""


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A picture on its way through the pipeline; `candidates` are those that the decision knows of."""

    subject: Subject
    data: bytes
    cuts: Sequence[int]
    layout: Layout
    content: ContentId
    policy: Policy
    image_cuts: Sequence[int]
    """Those of the cuts where the coded image starts and ends."""
    facts: PictureFacts | None = None
    candidates: Sequence[Candidate] = ()

    def has_coded_image_of(self, other: Layout) -> bool:
        """Whether the other file holds this picture's coded image, chunk by chunk."""
        if not self.image_cuts:
            return False
        start = self.image_cuts[0]
        stop = self.image_cuts[1] if len(self.image_cuts) > 1 else len(self.data)
        image = [extent.chunk for extent in self.layout.extents if start <= extent.offset < stop]
        return bool(image) and set(image) <= {extent.chunk for extent in other.extents}


class Settlement:
    """Stores decisions. Safe from any thread."""

    def __init__(
        self,
        volume: Volume,
        bytes_written: Callable[[ContentId], bytes | None],
        prepared_as: Callable[[ContentId, bytes], PreparedLayout],
    ) -> None:
        """Prepare.

        Args:
            bytes_written: returns what was written as a content, or None where that is not known any more.
            prepared_as: seals what was written as a content, or raises IntegrityError.
        """
        self._volume = volume
        self._bytes_written = bytes_written
        self._prepared_as = prepared_as
        self._store = volume.store
        self._contents = volume.contents
        self._clusters = volume.clusters
        self._in_use: Callable[[ContentId], bool] = lambda content: False
        self._replacements: Counter[ContentId] = Counter()
        self._deferred: dict[ContentId, Set[ContentId]] = {}
        """Pictures that wait, and the contents whose readers they wait for; the store's lock guards it."""

    def ask_before_replacing(self, in_use: Callable[[ContentId], bool]) -> None:
        """Set what tells, under the store's lock, whether somebody reads a content that is stored."""
        self._in_use = in_use

    def replacements(self, content: ContentId | None) -> int:
        """Return how often the way in which a content is stored has changed since the volume was opened."""
        return self._replacements[content] if content is not None else 0

    @property
    def deferred(self) -> int:
        """How many pictures wait until somebody has closed what they would replace."""
        return len(self._deferred)

    def defer(self, content: ContentId, readers_of: Set[ContentId]) -> None:
        """Have a picture wait until nobody reads any of the contents; under the store's lock."""
        self._deferred[content] = readers_of

    def take_deferred(self) -> list[ContentId]:
        """Return the pictures that need not wait any longer, and forget them; under the store's lock."""
        free = [content for content, readers_of in self._deferred.items() if not any(map(self._in_use, readers_of))]
        for content in free:
            del self._deferred[content]
        return free

    def same(self, newcomer: Newcomer, existing: Exact | Rendition, *, sound: bool) -> bool:
        """The very same bytes are stored already; `sound` tells whether they can be read.

        What is damaged is healed from the newcomer's bytes.
        """
        is_exact = not sound or isinstance(existing, Exact) or existing.bit_exact
        original = None if is_exact else self._original(newcomer.data)
        prepared = self._prepared(newcomer)
        with self._store.transaction() as transaction:
            if not newcomer.subject.is_current():
                return True
            if self._contents.sound(newcomer.content) != existing:
                return False
            if not sound:
                self._contents.become_exact(transaction, newcomer.content, prepared)
                self._replacements[newcomer.content] += 1
            self._keep(transaction, newcomer.content, original)
            return self._stored(transaction, newcomer, prepared)

    def returned(self, newcomer: Newcomer) -> bool:
        """A lost picture that renditions rest on: it takes its place again, and all of them can be read."""
        prepared = self._prepared(newcomer)
        with self._store.transaction() as transaction:
            if not newcomer.subject.is_current():
                return True
            return self._contents.is_awaited(newcomer.content) and self._stored(transaction, newcomer, prepared)

    def apart(self, newcomer: Newcomer, *, whatever_came_meanwhile: bool) -> bool:
        """A cluster of its own."""
        prepared = self._prepared(newcomer)
        facts = newcomer.facts
        with self._store.transaction() as transaction:
            if not newcomer.subject.is_current():
                return True
            if not whatever_came_meanwhile and not self._holds(newcomer):
                return False
            done = self._stored(transaction, newcomer, prepared)
            stored = self._contents.get(newcomer.content)
            if isinstance(stored, Exact) and stored.cluster is None:
                self._found_cluster(transaction, newcomer.content, facts)
            return done

    def plain(self, newcomer: Newcomer) -> None:
        """Exact, and nothing is ever decided about it."""
        prepared = self._prepared(newcomer)
        with self._store.transaction() as transaction:
            if newcomer.subject.is_current():
                self._stored(transaction, newcomer, prepared)
                if is_undecided(self._contents.find(newcomer.content)):
                    self._contents.set_state(transaction, newcomer.content, ContentState.PLAIN)

    def undecodable(self, newcomer: Newcomer) -> bool:
        """A file that only looks like a picture: exact, and counted."""
        prepared = self._prepared(newcomer)
        with self._store.transaction() as transaction:
            if not newcomer.subject.is_current():
                return True
            done = self._stored(transaction, newcomer, prepared)
            stored = self._contents.get(newcomer.content)
            if isinstance(stored, Exact) and stored.cluster is None:
                self._contents.set_state(transaction, newcomer.content, ContentState.UNDECODABLE)
            return done

    def same_image(self, newcomer: Newcomer, candidate: Candidate) -> bool:
        """The candidate's coded image under other metadata: exact, and all but the metadata is stored already."""
        prepared = self._prepared(newcomer)
        with self._store.transaction() as transaction:
            if not newcomer.subject.is_current():
                return True
            if not self._holds(newcomer):
                return False
            # Joined before the file lets go of what it was: that may be the last picture of this very cluster.
            self._contents.store_exact(transaction, prepared)
            self._contents.join(transaction, newcomer.content, candidate.cluster)
            return self._stored(transaction, newcomer, prepared)

    def member(self, newcomer: Newcomer, candidate: Candidate, fit: Fit) -> bool:
        """A rendition of the candidate's representative."""
        own = self._contents.prepare(fit.own)
        original = None if fit.bit_exact else self._original(newcomer.data)
        refit = Refit(fit, len(newcomer.data), candidate.distance_bits)
        rendition = _rendition(refit, own, candidate.cluster, candidate.representative)
        with self._store.transaction() as transaction:
            if not newcomer.subject.is_current():
                return True
            if not self._holds(newcomer):
                return False
            if not self._in_use(newcomer.content):
                self._contents.become_rendition(transaction, newcomer.content, rendition, own)
                self._keep(transaction, newcomer.content, original)
                self._replacements[newcomer.content] += 1
                newcomer.subject.adopt(transaction, newcomer.content)
                transaction.afterwards(lambda: newcomer.subject.settled(newcomer.content))
                return True
        return self._defer(newcomer, {newcomer.content})

    def promotion(self, newcomer: Newcomer, promotions: Sequence[Promotion]) -> bool:
        """The newcomer becomes the representative, and the pictures of the old clusters renditions of it.

        Those that cannot be drawn from it are stored whole again, each in a cluster of its own.
        """
        prepared = self._prepared(newcomer)
        fits = {member: refit for promotion in promotions for member, refit in promotion.moved.items()}
        left = {member: whole for promotion in promotions for member, whole in promotion.left.items()}
        wholes = {member: self._prepared_as(member, whole.data) for member, whole in left.items()}
        olds = {promotion.candidate.representative for promotion in promotions}
        owns = {member: self._contents.prepare(refit.fit.own) for member, refit in fits.items()}
        originals = {member: self._original_of(member, refit.fit) for member, refit in fits.items()}
        with self._store.transaction() as transaction:
            if not newcomer.subject.is_current():
                return True
            if not self._holds(newcomer) or not all(self._is_whole(promotion) for promotion in promotions):
                return False
            if not any(self._in_use(member) for member in (*fits, *left)):
                done = self._stored(transaction, newcomer, prepared)
                for member, whole in left.items():
                    self._leave_whole(transaction, member, whole.facts, wholes[member])
                cluster = self._found_cluster(transaction, newcomer.content, newcomer.facts)
                # The old representatives come last: until then the others rest on them.
                for member in sorted(fits, key=lambda each: each in olds):
                    if self._contents.find(member) is None:
                        # No file had the old representative any more: it went with the last picture that rested on it.
                        continue
                    refit = _as_written(fits[member], self._contents.sound(member))
                    rendition = _rendition(refit, owns[member], cluster, newcomer.content)
                    self._contents.become_rendition(transaction, member, rendition, owns[member])
                    self._keep(transaction, member, originals[member])
                    self._replacements[member] += 1
                return done
        return self._defer(newcomer, fits.keys() | left.keys())

    def _leave_whole(
        self, transaction: Transaction, member: ContentId, facts: PictureFacts, prepared: PreparedLayout
    ) -> None:
        """Store a rendition as it was written again, and let it found a cluster.

        What is stored so already, the coded image of the old representative under other metadata, inherits its cluster.
        """
        if isinstance(self._contents.sound(member), Rendition):
            self.become_exact(transaction, member, prepared)
            self._found_cluster(transaction, member, facts)

    def _is_whole(self, promotion: Promotion) -> bool:
        """Whether the pictures that were compared still are all of their cluster."""
        return set(self._clusters.members(promotion.candidate.cluster)) == promotion.fits.keys()

    def undecided(self, newcomer: Newcomer) -> bool:
        """Exact, and to be looked at again by the next mount."""
        prepared = self._prepared(newcomer)
        with self._store.transaction() as transaction:
            if newcomer.subject.is_current():
                self._stored(transaction, newcomer, prepared, ContentState.UNDECIDED)
        return True

    def become_exact(self, transaction: Transaction, content: ContentId, prepared: PreparedLayout) -> None:
        """Keep a rendition bit for bit again, on somebody's wish. Raises InUseError while somebody reads it."""
        if self._in_use(content):
            raise InUseError("the file, or one of the same bytes, is open")
        self._contents.become_exact(transaction, content, prepared)
        self._replacements[content] += 1

    def found_cluster(self, transaction: Transaction, content: ContentId, facts: PictureFacts | None) -> None:
        """Let a picture that is stored exactly and belongs to no cluster have one of its own."""
        self._found_cluster(transaction, content, facts)

    def keep_again(self, transaction: Transaction, content: ContentId, data: bytes) -> None:
        """Keep the original of a content that is a rendition already, from bytes that have just come again."""
        existing = self._contents.sound(content)
        if isinstance(existing, Rendition) and not existing.bit_exact:
            self._keep(transaction, content, self._original(data))

    def _original_of(self, member: ContentId, fit: Fit) -> PreparedLayout | None:
        """Return the `_original` of a picture that was stored before; None where one is kept, or nobody knows it."""
        if fit.bit_exact or not self._volume.keep_originals_days or self._has_original(member):
            return None
        data = self._bytes_written(member)
        return None if data is None else self._original(data)

    def _prepared(self, newcomer: Newcomer) -> PreparedLayout:
        """Seal a newcomer's bytes, where they are not stored."""
        return self._contents.prepare(newcomer.data, newcomer.cuts, newcomer.layout)

    def _original(self, data: bytes) -> PreparedLayout | None:
        """Return the bytes of a picture, to be kept beside its rendition; None where that is not asked for."""
        if not self._volume.keep_originals_days:
            return None
        return self._contents.prepare(data, original_apart(image_cuts(data)))

    def _has_original(self, content: ContentId) -> bool:
        try:
            return self._volume.kept.find(content) is not None
        except DedupfsError:
            return False

    def _keep(self, transaction: Transaction, content: ContentId, original: PreparedLayout | None) -> None:
        if original is not None:
            until_ns = time.time_ns() + self._volume.keep_originals_days * _DAY_NS
            self._volume.kept.put(transaction, content, original, until_ns)

    def _defer(self, newcomer: Newcomer, readers_of: Set[ContentId]) -> bool:
        """Somebody reads what would be replaced: look again when they have closed it."""
        self.undecided(newcomer)
        with self._store.lock:
            self.defer(newcomer.content, readers_of)
        return True

    def _holds(self, newcomer: Newcomer) -> bool:
        """Whether nobody has settled the same bytes, and the candidates that were compared still are what they were."""
        existing = self._contents.sound(newcomer.content)
        if existing is not None and not is_undecided(existing):
            return False
        facts = newcomer.facts
        if facts is None or facts.fingerprint is None:
            return True
        return match.candidates(self._clusters, facts.fingerprint) == list(newcomer.candidates)

    def _stored(
        self,
        transaction: Transaction,
        newcomer: Newcomer,
        prepared: PreparedLayout,
        state: ContentState = ContentState.PLAIN,
    ) -> bool:
        content = self._contents.store_exact(transaction, prepared, state)
        newcomer.subject.adopt(transaction, content)
        transaction.afterwards(lambda: newcomer.subject.settled(content))
        return True

    def _found_cluster(self, transaction: Transaction, content: ContentId, facts: PictureFacts | None) -> ClusterId:
        fingerprint = facts.fingerprint if facts is not None else None
        record = facts.to_bytes() if facts is not None else b""
        cluster = self._clusters.create(transaction, content, fingerprint, record)
        self._contents.join(transaction, content, cluster)
        return cluster


def is_undecided(content: Exact | Rendition | None) -> TypeGuard[Exact]:
    """Whether a content is stored exactly while its decision is still to come."""
    return isinstance(content, Exact) and content.state is ContentState.UNDECIDED


def _as_written(refit: Refit, before: Exact | Rendition | None) -> Refit:
    """Return how a picture fits a new representative, in terms of what was written.

    Where that is not known any more, what the picture read as was compared, and to be equal to that says nothing.
    """
    fit = refit.fit
    if isinstance(before, Rendition) and not before.bit_exact and fit.bit_exact and fit.digest == before.digest:
        return replace(refit, fit=replace(fit, bit_exact=False))
    return refit


def _rendition(refit: Refit, own: PreparedLayout, cluster: ClusterId, representative: ContentId) -> Rendition:
    fit = refit.fit
    return Rendition(
        size=refit.size,
        cluster=cluster,
        representative=representative,
        recipe=fit.recipe,
        own=own.layout,
        digest=fit.digest,
        sketch=fit.sketch,
        codecs=codecs(),
        differences=fit.differences,
        distance_bits=refit.distance_bits,
        bit_exact=fit.bit_exact,
    )
