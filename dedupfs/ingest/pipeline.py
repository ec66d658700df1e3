"""Pipeline: decides what becomes of a finished picture, stage by stage.

identify -> inspect -> candidates -> the same coded image, a rendition, a promotion, or a cluster of its own. A stage
that declines leaves the picture to the next one; the last one stores it exactly, so that nothing is ever lost here.
What two pictures can be to each other is the business of `decision`.

Decisions run on a few more threads than there are workers, on copies of the bytes and without any lock. `settlement`
stores them; when what a decision rests on has changed meanwhile, because another thread stored a likely match, it is
taken again.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from dedupfs.errors import (
    EntryNotFoundError,
    IngestError,
    IntegrityError,
    StoreError,
    UndecodableError,
    UnfitPictureError,
    WorkerStartError,
)
from dedupfs.ingest import match
from dedupfs.ingest.apart import contents_apart
from dedupfs.ingest.decision import Fitting, Judge, Promotion, closest, promotions
from dedupfs.ingest.facts import PictureFacts
from dedupfs.ingest.gate import Gate
from dedupfs.ingest.originals import Originals
from dedupfs.ingest.outcome import Fit
from dedupfs.ingest.renderer import Renderer
from dedupfs.ingest.settlement import Newcomer, Settlement, Subject, is_undecided
from dedupfs.ingest.sniff import image_cuts, sniff
from dedupfs.ingest.workers import WorkerPool
from dedupfs.model import ClusterId, ContentId, Policy
from dedupfs.storage.contents import PreparedLayout
from dedupfs.storage.records import Exact, Rendition
from dedupfs.storage.store import Transaction
from dedupfs.storage.volume import Volume

log = logging.getLogger(__name__)

HEAD_BYTES = 64
"""Enough of a file's beginning to tell what it is."""
MAX_PICTURE_BYTES = 64 << 20
"""Longer files are stored as they come: a picture has to wait in memory for its decision."""
_MAX_ATTEMPTS = 5
_MAX_FAILURES = 2
"""A picture whose worker ended or took too long so often is taken for one that does not decode. Before, it goes back to
the end of the queue: the machine may have been short of memory or of time."""


_COPIES = 3
"""Of a picture while it is decided about: its bytes, the ciphertext, and a candidate, which is about as long."""
_DECISIONS_BYTES = 400 << 20
_WORKERS_A_SPARE_THREAD = 2
"""While some threads store what was decided, or wait for the disk, others keep the workers busy: storing a picture of
12 megapixels takes half as long as looking at it."""


class Pipeline:
    """The queue of pictures and the threads that decide about them."""

    def __init__(
        self,
        volume: Volume,
        pool: WorkerPool,
        renderer: Renderer,
        *,
        originals: Originals | None = None,
        decisions: Gate | None = None,
    ) -> None:
        """Prepare to decide; `start` begins.

        Args:
            originals: where the exact bytes of new renditions are remembered.
            decisions: the memory that copies of pictures may take, all decisions together.
        """
        self._volume = volume
        self._contents = volume.contents
        self._clusters = volume.clusters
        self._pool = pool
        self._renderer = renderer
        self._settlement = Settlement(volume, self.bytes_written, self.prepared_as)
        self._originals = Originals() if originals is None else originals
        self._memory = Gate(_DECISIONS_BYTES) if decisions is None else decisions
        self._queue: queue.SimpleQueue[Subject | None] = queue.SimpleQueue()
        self._condition = threading.Condition()
        self._waiting = 0
        self._decided_at = float("-inf")
        self._failures: Counter[ContentId] = Counter()
        self._put_off: set[ContentId] = set()
        """Pictures whose decision could not be stored; like the above guarded by `_condition`."""
        self._threads: list[threading.Thread] = []

    def start(self, in_use: Callable[[ContentId], bool]) -> None:
        """Start deciding, first about what an earlier mount left undecided.

        `in_use` tells, under the store's lock, whether somebody reads a content that is stored.
        """
        self._settlement.ask_before_replacing(in_use)
        for content in self._contents.undecided():
            self._submit_stored(content)
        self._threads = [
            threading.Thread(target=self._work, name=f"ingest-{number}", daemon=True)
            for number in range(self._pool.workers + -(-self._pool.workers // _WORKERS_A_SPARE_THREAD))
        ]
        for thread in self._threads:
            thread.start()

    def wants(self, head: bytes, size: int, policy: Policy) -> bool:
        """Whether a file of this size that begins like this is a picture, to be stored as a whole and cut as one.

        Where the policy is `off`, that is all; otherwise it is to be decided about.
        """
        is_cut = policy is not Policy.OFF or self._volume.first_policy is not Policy.OFF
        return is_cut and size <= MAX_PICTURE_BYTES and sniff(head) is not None

    def cuts(self, data: bytes, policy: Policy) -> Sequence[int]:
        """Return where chunks of a picture are cut, so that its content is one of pictures under this policy."""
        return self._apart(image_cuts(data), policy)

    def _apart(self, image: Sequence[int], policy: Policy) -> Sequence[int]:
        return contents_apart(image, policy, self._volume.first_policy)

    @property
    def settlement(self) -> Settlement:
        """Where decisions are stored."""
        return self._settlement

    def submit(self, subject: Subject) -> None:
        """Queue a picture. The decision is taken on another thread."""
        with self._condition:
            self._waiting += 1
        self._queue.put(subject)

    def decide_later(self, content: ContentId) -> None:
        """Decide about a picture that is stored exactly when nobody uses it any more; under the store's lock."""
        self._settlement.defer(content, {content})

    def look_again(self) -> None:
        """Decide about what had to wait for readers, where they are gone; under the store's lock."""
        if self._settlement.deferred:
            for content in self._settlement.take_deferred():
                self._submit_stored(content)

    def try_again(self) -> None:
        """Decide about stored pictures whose decision found no room on the disk."""
        with self._condition:
            put_off, self._put_off = self._put_off, set()
        for content in put_off:
            self._submit_stored(content)

    def replacements(self, content: ContentId | None) -> int:
        """Return how often the way in which a content is stored has changed since the volume was opened."""
        return self._settlement.replacements(content)

    def waiting(self) -> int:
        """Return how many pictures wait for a decision."""
        return self._waiting + self._settlement.deferred + len(self._put_off)

    def wait_below(self, limit: int) -> None:
        """Return when fewer than so many decisions are queued or under way."""
        with self._condition:
            self._condition.wait_for(lambda: self._waiting < limit)

    def wait_until(self, satisfied: Callable[[], bool], *, pause_seconds: float, seconds: float) -> bool:
        """Wait for what decisions bring about, and return whether it has come true.

        Gives up after `seconds`, and when no decision has ended for `pause_seconds`. `satisfied` takes no locks.
        """
        end = time.monotonic() + seconds
        with self._condition:
            while not satisfied():
                left = min(self._decided_at + pause_seconds, end) - time.monotonic()
                if left <= 0:
                    return False
                self._condition.wait(left)
        return True

    def wait_idle(self) -> None:
        """Return when no decision is queued or under way."""
        with self._condition:
            self._condition.wait_for(lambda: not self._waiting)

    def close(self) -> None:
        """Stop the threads and the workers, each after what it is at."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._pool.close()

    def _work(self) -> None:
        while (subject := self._queue.get()) is not None:
            try:
                with contextlib.suppress(StoreError):
                    # The next look at the store says it, to whom it concerns.
                    self._volume.store.wait_for_room()
                with self._memory.taken(_COPIES * subject.size_bytes):
                    self._decide(subject)
                with self._volume.store.lock:
                    # Readers that it was put off for may have left before it was.
                    self.look_again()
            except StoreError as exc:
                log.warning("a picture could not be stored yet: %s", exc)
                subject.failed()
            except Exception:
                log.exception("no decision could be taken about a picture; it is kept as it is")
                subject.failed()
            finally:
                with self._condition:
                    self._waiting -= 1
                    self._decided_at = time.monotonic()
                    self._condition.notify_all()

    def _decide(self, subject: Subject) -> None:
        data = subject.data()
        if data is None:
            return
        policy = subject.policy(data)
        # To find the end of a JPEG's coded image takes half a millisecond.
        image = image_cuts(data)
        cuts = self._apart(image, policy)
        layout = self._contents.describe(data, cuts)
        newcomer = Newcomer(subject, data, cuts, layout, self._contents.identify(layout), policy, image)
        if policy is Policy.OFF:
            self._settlement.plain(newcomer)
            return
        if self._is_there(newcomer):
            return
        try:
            self._look_at(newcomer)
        except WorkerStartError as exc:
            log.error("%s; a picture stays undecided until the next mount", exc)
            self._settlement.undecided(newcomer)

    def _look_at(self, newcomer: Newcomer) -> None:
        try:
            facts = self.inspect(newcomer.data)
        except WorkerStartError:
            raise
        except UnfitPictureError:
            self._settlement.apart(newcomer, whatever_came_meanwhile=True)
            return
        except IngestError as exc:
            if not isinstance(exc, UndecodableError):
                log.warning("a picture of %d bytes was too much for its worker: %s", len(newcomer.data), exc)
                if self._may_try_again(newcomer.content):
                    self._settlement.undecided(newcomer)
                    self._submit_stored(newcomer.content)
                    return
            self._settlement.undecodable(newcomer)
            return
        judge = self._judge(newcomer.policy)
        for _ in range(_MAX_ATTEMPTS):
            near = match.candidates(self._clusters, facts.fingerprint) if facts.fingerprint is not None else []
            newcomer = replace(newcomer, facts=facts, candidates=near)
            if self._is_there(newcomer) or self._place(newcomer, facts, judge):
                return
        self._settlement.apart(newcomer, whatever_came_meanwhile=True)

    def _may_try_again(self, content: ContentId) -> bool:
        with self._condition:
            self._failures[content] += 1
            if self._failures[content] < _MAX_FAILURES:
                return True
            del self._failures[content]
            return False

    def _submit_stored(self, content: ContentId) -> None:
        self.submit(_StoredPicture(self._volume, content, self))

    def put_off(self, content: ContentId) -> None:
        """Have a stored picture wait for `try_again`: its decision could not be stored."""
        with self._condition:
            self._put_off.add(content)

    def policy_of_content(self, content: ContentId, data: bytes) -> Policy:
        """Return the policy under which a picture was stored; that of the volume where nothing tells."""
        if not self._volume.is_mixed:
            return self._volume.config.policy
        for policy in Policy:
            if self._contents.identify(self._contents.describe(data, self.cuts(data, policy))) == content:
                return policy
        return self._volume.config.policy

    def prepared_as(self, content: ContentId, data: bytes) -> PreparedLayout:
        """Seal what was written as a content, to be stored as that again. Raises IntegrityError: it was not that."""
        policy = self.policy_of_content(content, data)
        prepared = self._contents.prepare(data, self.cuts(data, policy))
        if self._contents.identify(prepared.layout) != content:
            raise IntegrityError("an original is not what was written as the file")
        return prepared

    def _judge(self, policy: Policy) -> Judge:
        # Nobody knows under which policy the pictures of a cluster were written, but where there was only one.
        return Judge(self._pool, policy, self, Policy.VERIFIED if self._volume.is_mixed else policy)

    def _is_there(self, newcomer: Newcomer) -> bool:
        """Return whether the very same bytes were stored, and decided about, before."""
        existing = self._contents.sound(newcomer.content)
        if existing is None and self._contents.is_awaited(newcomer.content):
            return self._settlement.returned(newcomer)
        if existing is None or is_undecided(existing):
            return False
        return self._settlement.same(newcomer, existing, sound=self._is_sound(newcomer.content, existing))

    def _is_sound(self, content: ContentId, existing: Exact | Rendition) -> bool:
        """Whether a rendition can be read; its exact twin is not dropped for one that cannot.

        Chunks of an exact content are looked at, and healed, one by one when they are linked.
        """
        if isinstance(existing, Exact):
            return True
        try:
            self._renderer.render_verified(existing)
        except IntegrityError as exc:
            # Otherwise it has gone or been drawn anew meanwhile, and took what it rested on along.
            if self._contents.sound(content) == existing:
                log.warning("a rendition is replaced by the bytes just written: %s", exc)
            return False
        return True

    def _place(self, newcomer: Newcomer, facts: PictureFacts, judge: Judge) -> bool:
        """Return whether the picture is settled; False when its candidates have changed meanwhile.

        Of several that fit the closest is taken: a thumbnail fits an edit of its picture as well as the picture itself.
        An original that comes after copies takes all clusters that these have founded and that it fits.
        """
        found: list[Fitting] = []
        compared = 0
        for candidate in newcomer.candidates:
            if compared == match.MAX_COMPARED:
                break
            if candidate.representative == newcomer.content:
                continue
            if self._volume.pairs.are_parted(newcomer.content, self._clusters.members(candidate.cluster)):
                continue
            try:
                representative = self._contents.get(candidate.representative)
                if not isinstance(representative, Exact):
                    continue
                if newcomer.has_coded_image_of(representative.layout):
                    return self._settlement.same_image(newcomer, candidate)
                original = self._contents.read_all(representative.layout)
                fitting = judge.decide(newcomer.data, facts, candidate, original)
            except IntegrityError as exc:
                there = self._clusters.find(candidate.cluster)
                if there is not None and there.representative == candidate.representative:
                    log.warning("cluster %d rests on a damaged picture and is passed over: %s", candidate.cluster, exc)
                # Otherwise its picture has been removed meanwhile, and took its bytes along.
                continue
            compared += not judge.at_a_glance(candidate)
            if fitting is None:
                continue
            if not isinstance(fitting.fits, Fit):
                self._originals.put(candidate.representative, original)
            found.append(fitting)
            if judge.is_enough(fitting):
                break
        if not found:
            return self._settlement.apart(newcomer, whatever_came_meanwhile=False)
        best = closest(found)
        if isinstance(best.fits, Fit):
            self._originals.put(newcomer.content, newcomer.data)
            return self._settlement.member(newcomer, best.candidate, best.fits)
        accepted: list[Promotion] = []
        for promotion in promotions(found):
            together = [member for other in accepted for member in other.moved]
            if not any(self._volume.pairs.are_parted(member, together) for member in promotion.moved):
                accepted.append(promotion)
        return self._settlement.promotion(newcomer, accepted)

    def members(self, cluster: ClusterId) -> list[ContentId]:
        """See Shelf."""
        return self._clusters.members(cluster)

    def bytes_of(self, member: ContentId) -> bytes | None:
        """See Shelf: what was written, if that is still known, and what is read otherwise."""
        try:
            content = self._contents.get(member)
            written = self._originals.get(member) or self._kept(member)
            if written is not None:
                return written
            if isinstance(content, Exact):
                return self._contents.read_all(content.layout)
            return self._renderer.render_verified(content)
        except IntegrityError:
            if self._contents.find(member) is None:
                return None
            raise

    def _kept(self, member: ContentId) -> bytes | None:
        try:
            kept = self._volume.kept.find(member)
            return None if kept is None else self._volume.kept.read(kept)
        except (IntegrityError, EntryNotFoundError):
            return None

    def inspect(self, data: bytes) -> PictureFacts:
        """Return what is to be known of a picture. Raises IngestError."""
        facts: PictureFacts = self._pool.call("inspect", data)
        return facts

    def bytes_written(self, content: ContentId) -> bytes | None:
        """Return what was written as a content, or None where that is not known any more."""
        try:
            found = self._contents.find(content)
            if isinstance(found, Exact):
                return self._contents.read_all(found.layout)
            if found is not None and found.bit_exact:
                return self._renderer.render_verified(found)
        except IntegrityError as exc:
            log.warning("the bytes of a picture cannot be kept: %s", exc)
        return self._originals.get(content) or self._kept(content)


def _size_of(content: Exact | Rendition) -> int:
    return content.layout.size if isinstance(content, Exact) else content.size


class _StoredPicture:
    """A picture that is stored exactly and still undecided."""

    def __init__(self, volume: Volume, content: ContentId, pipeline: Pipeline) -> None:
        self._contents = volume.contents
        self._content = content
        self._pipeline = pipeline

    @property
    def size_bytes(self) -> int:
        """See Subject."""
        content = self._contents.sound(self._content)
        return 0 if content is None else _size_of(content)

    def data(self) -> bytes | None:
        """See Subject."""
        content = self._contents.find(self._content)
        if not is_undecided(content):
            return None
        try:
            return self._contents.read_all(content.layout)
        except IntegrityError:
            if self.is_current():
                raise
            # Its last file has been removed while it was being read.
            return None

    def policy(self, data: bytes) -> Policy:
        """See Subject."""
        return self._pipeline.policy_of_content(self._content, data)

    def is_current(self) -> bool:
        """See Subject."""
        return is_undecided(self._contents.find(self._content))

    def adopt(self, transaction: Transaction, content: ContentId) -> None:
        """See Subject: whoever has the content keeps it."""

    def settled(self, content: ContentId) -> None:
        """See Subject."""

    def failed(self) -> None:
        """See Subject: it stays undecided, and is looked at again when everything is settled, or by the next mount."""
        self._pipeline.put_off(self._content)
