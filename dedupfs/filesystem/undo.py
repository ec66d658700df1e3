"""Undo: exact bytes brought back, pictures split from what they rest on, and originals let go when their time is over.

What is brought back concerns all files of the same bytes, for they share one content. Nothing is done to what somebody
has open: half of what they read would be of one version and half of the other.
"""

from __future__ import annotations

import logging
import stat
import threading
import time
from dataclasses import replace

from dedupfs.errors import (
    DedupfsError,
    IngestError,
    InUseError,
    NoAttributeError,
    NotPermittedError,
    StoreError,
    WorkerStartError,
)
from dedupfs.filesystem.files import Files
from dedupfs.filesystem.inodes import Inodes
from dedupfs.ingest.facts import PictureFacts
from dedupfs.ingest.pipeline import Pipeline
from dedupfs.ingest.renderer import Renderer
from dedupfs.model import ContentId, InodeNo, Policy
from dedupfs.storage.contents import PreparedLayout
from dedupfs.storage.kept import Kept
from dedupfs.storage.records import Exact, Inode, Rendition
from dedupfs.storage.store import Transaction
from dedupfs.storage.volume import Volume

log = logging.getLogger(__name__)

EXPIRY_SECONDS = 3600.0
"""How often originals are looked through; also when a volume is opened and when it is settled."""


class Undo:
    """What can be undone in one volume. Any thread."""

    def __init__(self, volume: Volume, inodes: Inodes, files: Files, pipeline: Pipeline, renderer: Renderer) -> None:
        self._volume = volume
        self._store = volume.store
        self._metadata = volume.metadata
        self._contents = volume.contents
        self._inodes = inodes
        self._files = files
        self._pipeline = pipeline
        self._renderer = renderer
        self._expired_at: float | None = None
        self._lock = threading.Lock()

    def restore(self, number: InodeNo) -> None:
        """Let a file hold the very bytes that were written, for good; nothing happens where it does.

        Raises:
            NoAttributeError: its original is not kept, or not any more.
            InUseError, NotPermittedError, IntegrityError: as `split`.
        """
        _, content_id, content = self._rendition(number)
        if content is None or content.bit_exact:
            return
        kept = self._volume.kept.find(content_id)
        if kept is None:
            raise NoAttributeError("the original is not kept any more, or never was")
        prepared = self._pipeline.prepared_as(content_id, self._volume.kept.read(kept))
        with self._store.transaction() as transaction:
            self._check_still(number, content_id, content)
            self._become_exact(transaction, content_id, prepared, kept)
            self._inodes.change(transaction, number)
        self._store.commit()

    def split(self, number: InodeNo) -> None:
        """Give a version of another picture a stored picture of its own, and keep the two apart from now on.

        It holds the bytes that were written as long as they are kept, and what it reads as otherwise. Nothing happens
        to what is stored as it was written.
        Raises:
            NotPermittedError: it is no file.
            InUseError: it, or a file of the same bytes, is open or waits to be stored.
            IntegrityError: its bytes are damaged.
            WorkerStartError: no worker can be started.
        """
        inode, content_id, content = self._rendition(number)
        if content is None:
            return
        kept = None if content.bit_exact else self._volume.kept.find(content_id)
        data = self._renderer.render(content) if kept is None else self._volume.kept.read(kept)
        policy = self._files.policies.of_file(number)
        if kept is not None or content.bit_exact:
            prepared, own_id = self._pipeline.prepared_as(content_id, data), content_id
        else:
            prepared = self._contents.prepare(data, self._pipeline.cuts(data, policy))
            own_id = self._contents.identify(prepared.layout)
        facts = self._facts(data)
        with self._store.transaction() as transaction:
            self._check_still(number, content_id, content)
            if own_id == content_id:
                self._become_exact(transaction, content_id, prepared, kept)
            else:
                self._exchange(transaction, number, inode, own_id, prepared)
            stored = self._contents.get(own_id)
            if isinstance(stored, Exact) and stored.cluster is None and policy is not Policy.OFF:
                self._pipeline.settlement.found_cluster(transaction, own_id, facts)
            for each in {own_id, content_id}:
                self._volume.pairs.part(transaction, each, content.representative)
            self._inodes.change(transaction, number)
        self._store.commit()

    def expire_now_and_then(self) -> None:
        """Let originals go whose time is over, if that was not done in the last hour. Raises nothing."""
        with self._lock:
            due = self._expired_at is None or time.monotonic() - self._expired_at >= EXPIRY_SECONDS
        if due:
            self.expire()

    def expire(self) -> None:
        """Let originals go whose time is over, or whose renditions are gone. Raises nothing."""
        with self._lock:
            self._expired_at = time.monotonic()
        now_ns = time.time_ns()
        try:
            for kept in self._volume.kept.all():
                if kept.until_ns <= now_ns or not isinstance(self._contents.sound(kept.content), Rendition):
                    with self._store.transaction() as transaction:
                        self._volume.kept.remove(transaction, kept)
        except StoreError as exc:
            log.warning("originals whose time is over could not be removed yet: %s", exc)
        except DedupfsError:
            log.exception("an original whose time is over cannot be removed")

    # Inside

    def _rendition(self, number: InodeNo) -> tuple[Inode, ContentId, Rendition | None]:
        """Return a file's record and content; None in the place of one that is stored exactly."""
        with self._store.lock:
            inode = self._metadata.inode(number)
            if not stat.S_ISREG(inode.mode):
                raise NotPermittedError("not a regular file")
            self._check_saved(number)
            if inode.content is None:
                return inode, ContentId(b""), None
            content = self._contents.get(inode.content)
        return inode, inode.content, content if isinstance(content, Rendition) else None

    def _check_saved(self, number: InodeNo) -> None:
        file = self._files.find(number)
        if file is not None and (file.unsaved or file.handles):
            raise InUseError("the file is open, or waits to be stored")

    def _check_still(self, number: InodeNo, content_id: ContentId, content: Rendition) -> None:
        self._check_saved(number)
        if self._metadata.inode(number).content != content_id or self._contents.get(content_id) != content:
            raise InUseError("the file has been changed meanwhile")

    def _become_exact(
        self, transaction: Transaction, content_id: ContentId, prepared: PreparedLayout, kept: Kept | None
    ) -> None:
        self._pipeline.settlement.become_exact(transaction, content_id, prepared)
        if kept is not None:
            self._volume.kept.remove(transaction, kept)

    def _exchange(
        self, transaction: Transaction, number: InodeNo, inode: Inode, own_id: ContentId, prepared: PreparedLayout
    ) -> None:
        assert inode.content is not None
        self._contents.store_exact(transaction, prepared)
        self._contents.link(transaction, own_id)
        self._contents.unlink(transaction, inode.content)
        self._inodes.put_content(transaction, number, replace(self._metadata.inode(number), content=own_id))

    def _facts(self, data: bytes) -> PictureFacts | None:
        try:
            return self._pipeline.inspect(data)
        except WorkerStartError:
            raise
        except IngestError as exc:
            log.warning("a picture that is split off will not be found by its versions: %s", exc)
            return None
