"""Open files: from the first write, or the first open, until the bytes are stored and nobody has the file open.

A file's bytes live in a spool from the first write until they are stored. Files that could be pictures are handed to
the ingest pipeline at their last close and stay in memory until it has decided; everything else is stored at its last
close, large files step by step while they are written. `fsync`, age and the memory budget store a file exactly at
once, and the decision replaces that later.

Locks: `OpenFile.lock` before the store's lock (see `handles`); no two files' locks are ever held at once. Expensive
work (sealing, rendering, waiting) happens outside the store's lock.
"""

from __future__ import annotations

import logging
import stat
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from dedupfs.errors import (
    BadHandleError,
    DedupfsError,
    EntryNotFoundError,
    FileTooLargeError,
    IntegrityError,
    InvalidRequestError,
    IsDirectoryError,
    StoreError,
    StoreReadOnlyError,
)
from dedupfs.filesystem.handles import Handle, HandleTable, OpenFile
from dedupfs.filesystem.inodes import Inodes
from dedupfs.filesystem.namespace import Lost
from dedupfs.filesystem.policies import Policies
from dedupfs.filesystem.room import Room
from dedupfs.filesystem.spool import EmptySource, LayoutSource, Source, Spool
from dedupfs.filesystem.subject import FileSubject
from dedupfs.ingest.pipeline import HEAD_BYTES, Pipeline
from dedupfs.ingest.renderer import Renderer
from dedupfs.model import ContentId, InodeNo, Policy
from dedupfs.storage.contents import PreparedLayout
from dedupfs.storage.records import ContentState, Exact, Inode
from dedupfs.storage.store import Transaction
from dedupfs.storage.volume import Volume

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 1 << 53
STEP_BYTES = 16 << 20
"""A large file that is no picture is stored whenever so much of it has been written."""
SPOOL_BUDGET_BYTES = 192 << 20
"""Written bytes that wait in memory, over all files, before the oldest are stored undecided."""
_DECISION_PAUSE_SECONDS = 0.1
_MOST_PAUSE_SECONDS = 1.0
"""How long a write waits for room in the spools, between two decisions and in all. Where pictures are like no others
one is decided about every 15 to 30 ms; where each is compared with some it takes longer, and what waits is stored."""
UNSAVED_MAX_SECONDS = 30.0
"""Nothing that was written stays in memory alone for longer; the kernel's own default for dirty pages."""
_TEND_SECONDS = 5.0
_SEEN_FILES = 50_000
"""Files opened last, whose pages the kernel may keep for the next open; some 10 MB."""


class Files:
    """Every file of a volume that is open or has bytes to be stored."""

    def __init__(
        self,
        volume: Volume,
        inodes: Inodes,
        pipeline: Pipeline,
        renderer: Renderer,
        policies: Policies,
        spool_budget_bytes: int,
    ) -> None:
        self._volume = volume
        self._store = volume.store
        self._metadata = volume.metadata
        self._contents = volume.contents
        self.inodes = inodes
        self.policies = policies
        self._pipeline = pipeline
        self._renderer = renderer
        self._budget_bytes = spool_budget_bytes
        self._files: dict[InodeNo, OpenFile] = {}
        self._handles = HandleTable()
        self._seen: OrderedDict[InodeNo, tuple[ContentId | None, int]] = OrderedDict()
        self._pins: Counter[ContentId] = Counter()
        self._spooled_bytes = 0
        self._spooled_lock = threading.Lock()
        self.room = Room(volume.store)
        self._stopping = threading.Event()
        self._tender: threading.Thread | None = None

    def start(self, also: Callable[[], None]) -> None:
        """Begin to look after files that stay unsaved for long, and to call `also` every few seconds."""
        self._tender = threading.Thread(target=self._tend, args=(also,), name="tender", daemon=True)
        self._tender.start()

    def stop(self) -> None:
        """End what `start` began."""
        self._stopping.set()
        if self._tender is not None:
            self._tender.join()

    def find(self, number: InodeNo) -> OpenFile | None:
        """Return what is in memory of an inode; under the store's lock."""
        return self._files.get(number)

    # Handles

    def open(self, number: InodeNo, *, readable: bool, writable: bool) -> int:
        """Open a file and return the handle."""
        if writable and self._store.read_only:
            raise StoreReadOnlyError("the volume is open for reading only")
        with self._store.lock:
            inode = self._metadata.inode(number)
            if stat.S_ISDIR(inode.mode):
                raise IsDirectoryError("is a directory")
            file = self._acquire(number, inode)
            keep_cache = self._may_keep_pages(file, inode)
            return self._handles.add(Handle(file, readable, writable, keep_cache))

    def handle(self, number: int) -> Handle:
        """Return an open handle. Raises BadHandleError."""
        return self._handles.get(number)

    def waiting_bytes(self, handle: int) -> int:
        """Return how many bytes of an open file are in memory, to be stored; a guess while others write to it."""
        return _spooled_bytes_of(self._handles.get(handle).file)

    def open_handles(self) -> int:
        """Return how many handles are open."""
        return len(self._handles)

    def read(self, handle: int, offset: int, size: int) -> bytes:
        """Return up to `size` bytes, fewer only at the end of the file. Raises IntegrityError for damage."""
        opened = self._handles.get(handle)
        if not opened.readable:
            raise BadHandleError("not open for reading")
        file = opened.file
        if file.spool is None:
            try:
                return self._source(file).read(offset, size)
            except IntegrityError:
                # Somebody may have written to it and saved it meanwhile, so that its chunks went.
                if file.spool is None:
                    raise
        with file.lock:
            assert file.spool is not None, "it stays while the file is open"
            return file.spool.read(offset, size)

    def write(self, handle: int, offset: int, data: bytes | memoryview) -> int:
        """Write at any offset and return the number of bytes. Raises StoreFullError."""
        opened = self._handles.get(handle)
        if not opened.writable:
            raise BadHandleError("not open for writing")
        self._check_size(offset + len(data))
        self.room.check(len(data), self._spooled_bytes)
        if self._spooled_bytes > self._budget_bytes and not self._relieved_by_decisions():
            self._relieve()
        file = opened.file
        with file.lock:
            spool = self._writable_spool(file)
            held = spool.memory_bytes
            spool.write(offset, data)
            self._account(spool.memory_bytes - held)
            self._stamp(file)
            if spool.memory_bytes >= STEP_BYTES and not self._is_picture(spool, self.policies.of_file(file.inode)):
                self._save(file)
        return len(data)

    def allocate(self, handle: int, offset: int, length: int, *, clear: bool, keep_size: bool) -> None:
        """Make sure that there is room for a range, or with `clear` let it read as zero bytes, which take none.

        The file grows to the end of the range unless `keep_size`. Raises StoreFullError.
        """
        opened = self._handles.get(handle)
        if not opened.writable:
            raise BadHandleError("not open for writing")
        if not keep_size:
            self._check_size(offset + length)
        if not clear:
            self.room.check(length, self._spooled_bytes)
        file = opened.file
        with file.lock:
            spool = self._writable_spool(file)
            held = spool.memory_bytes
            if clear:
                spool.clear(offset, length)
            if not keep_size and offset + length > spool.size:
                spool.truncate(offset + length)
            self._account(spool.memory_bytes - held)
            self._stamp(file)

    def fsync(self, handle: int) -> None:
        """Return when the bytes and attributes of the file are durable. Raises StoreFullError."""
        file = self._handles.get(handle).file
        with file.lock:
            if file.unsaved:
                self._save(file)
            else:
                self._finish_empty(file)
        self._store.commit()

    def release(self, handle: int) -> None:
        """Close a handle."""
        with self._store.lock:
            file = self._handles.remove(handle).file
        self._let_close(file)

    def truncate(self, number: InodeNo, size: int) -> None:
        """Cut a file, or let it grow with zero bytes."""
        self._check_size(size)
        with self._borrowed(number) as file, file.lock:
            spool = self._writable_spool(file, emptied=not size)
            held = spool.memory_bytes
            spool.truncate(size)
            self._account(spool.memory_bytes - held)
            self._stamp(file)

    # The last name, and the last close

    def hold(self, number: InodeNo) -> bool:
        """Keep an inode from going with its last name until `let_loose`; return False for a directory."""
        with self._store.lock:
            inode = self._metadata.inode(number)
            if self._store.read_only or stat.S_ISDIR(inode.mode):
                return False
            self._acquire(number, inode)
            return True

    def let_loose(self, number: InodeNo) -> None:
        """Undo one `hold`."""
        with self._store.lock:
            file = self._files[number]
        self._let_close(file)

    def let_go(self, lost: Lost) -> None:
        """Remove an inode that has lost its last name, or note that it must go with its last handle."""
        with self._store.transaction() as transaction:
            file = self._files.get(lost.inode)
            if file is not None and file.handles:
                self._metadata.set_orphan(transaction, lost.inode)
                return
            self.inodes.delete(transaction, lost.inode)
            if file is not None:
                file.unsaved = False
                self._forget(file)

    def save_now(self, number: InodeNo) -> None:
        """Store the bytes of a file exactly if they are in memory alone, and note that it is whole."""
        file = self._files.get(number)
        if file is not None:
            with file.lock:
                if file.unsaved:
                    self._save(file)
                else:
                    self._finish_empty(file)

    def unsaved(self) -> list[InodeNo]:
        """Return the files whose bytes are in memory alone."""
        return [file.inode for file in self._in_memory() if file.unsaved]

    def reconsider(self) -> None:
        """Void decisions that are under way and have them taken again: other policies may hold; under the store's lock.

        Costs nothing in a volume with one policy.
        """
        if not self._volume.is_mixed:
            return
        for file in self._files.values():
            if file.queued:
                file.generation += 1
                self._pipeline.submit(FileSubject(self, self._volume, file))

    # The whole

    @property
    def spooled_bytes(self) -> int:
        """Memory that holds written bytes."""
        return self._spooled_bytes

    def unsettled(self) -> int:
        """Return how many files still wait for a decision or to be stored."""
        with self._store.lock:
            unsaved = sum(1 for file in self._files.values() if file.unsaved and not file.queued)
        return unsaved + self._pipeline.waiting()

    def wait_for_decisions(self, limit: int) -> None:
        """Return when fewer than so many pictures wait for a decision."""
        self._pipeline.wait_below(limit)

    def settle(self) -> None:
        """Return when every closed file is decided and everything is durable.

        A file that cannot be stored, or for which there is no room, keeps no other from being stored: small ones come
        first. Raises StoreError, IntegrityError.
        """
        if self._store.read_only:
            return
        for file in self._in_memory():
            if file.unsaved and not file.queued and not file.handles:
                self._last_close(file)
        self._pipeline.try_again()
        self._pipeline.wait_idle()
        failure: DedupfsError | None = None
        for file in sorted(self._in_memory(), key=_spooled_bytes_of):
            try:
                if file.unsaved:
                    # Once it is among the changes that wait, all of them would wait for its room.
                    self.room.check_last(_spooled_bytes_of(file))
                self._save_if_unsaved(file)
            except DedupfsError as exc:
                log.error("inode %d could not be stored: %s", file.inode, exc)
                failure = failure or exc
        for file in self._open_and_empty():
            self._finish_empty(file)
        with self._store.lock:
            self._pipeline.look_again()
        self._pipeline.wait_idle()
        self._store.commit()
        if failure is not None:
            raise failure

    def content_in_use(self, content: ContentId) -> bool:
        """Whether somebody reads a content that is stored; called under the store's lock."""
        return self._pins[content] > 0

    # Called by FileSubject

    def loaded(self, spool: Spool) -> bytes:
        """Return a picture's bytes, all of which stay in memory; under the file's lock. Raises IntegrityError.

        Once they are stored, the chunks that the file had before may go, while somebody still has it open.
        """
        held = spool.memory_bytes
        try:
            spool.load()
        finally:
            self._account(spool.memory_bytes - held)
        return spool.data()

    # Called by FileSubject, under the store's lock

    def settled(self, file: OpenFile, content: ContentId | None) -> None:
        """Note in memory that the file's bytes are stored as this content."""
        self._pin(file, content)
        file.unsaved = False
        file.queued = False
        file.mtime_ns = file.ctime_ns = None
        if not file.handles:
            self._forget(file)

    def store_attributes(self, inode: Inode, file: OpenFile) -> Inode:
        """Return the inode's record with what the file knows better."""
        assert file.spool is not None
        return replace(
            inode,
            size=file.spool.size,
            mtime_ns=file.mtime_ns if file.mtime_ns is not None else inode.mtime_ns,
            ctime_ns=max(inode.ctime_ns, file.ctime_ns or 0),
        )

    # Inside

    def _may_keep_pages(self, file: OpenFile, inode: Inode) -> bool:
        """Whether the kernel's pages are of what this open will read; note what it reads for the next one."""
        # What is in memory may be stored in another way by the time of the next open.
        if file.spool is not None:
            self._seen.pop(file.inode, None)
            return False
        state = (inode.content, self._pipeline.replacements(inode.content))
        keep = self._seen.get(file.inode) == state
        self._seen[file.inode] = state
        self._seen.move_to_end(file.inode)
        if len(self._seen) > _SEEN_FILES:
            self._seen.popitem(last=False)
        return keep

    def _acquire(self, number: InodeNo, inode: Inode) -> OpenFile:
        file = self._files.get(number)
        if file is None:
            file = self._files[number] = OpenFile(number)
        if not file.handles and file.spool is None:
            self._pin(file, inode.content)
        file.handles += 1
        return file

    @contextmanager
    def _borrowed(self, number: InodeNo) -> Iterator[OpenFile]:
        with self._store.lock:
            inode = self._metadata.inode(number)
            if stat.S_ISDIR(inode.mode):
                raise IsDirectoryError("is a directory")
            if not stat.S_ISREG(inode.mode):
                raise InvalidRequestError("not a regular file")
            if self._store.read_only:
                raise StoreReadOnlyError("the volume is open for reading only")
            file = self._acquire(number, inode)
        try:
            yield file
        finally:
            self._let_close(file)

    def _let_close(self, file: OpenFile) -> None:
        with self._store.lock:
            file.handles -= 1
            if file.handles:
                return
        self._last_close(file)

    def _last_close(self, file: OpenFile) -> None:
        """Hand the bytes to the pipeline or store them; a failure leaves them in memory for later."""
        with file.lock:
            if self._store.read_only:
                with self._store.lock:
                    if not file.handles:
                        self._forget(file)
                return
            if self._files.get(file.inode, file) is not file:
                # It was forgotten and opened anew since; whoever closes that one takes care of it.
                return
            try:
                if self._remove_orphan(file):
                    return
                if file.unsaved and file.spool is not None and self._is_candidate(file, file.spool):
                    with self._store.lock:
                        if file.handles or file.queued:
                            return
                        file.queued = True
                        self._pipeline.submit(FileSubject(self, self._volume, file))
                    return
                if file.unsaved:
                    self._save(file)
                else:
                    self._finish_empty(file)
            except DedupfsError as exc:
                log.error("inode %d could not be stored yet: %s", file.inode, exc)
                return
            with self._store.lock:
                if not file.handles and not file.unsaved:
                    self._forget(file)

    def _remove_orphan(self, file: OpenFile) -> bool:
        with self._store.transaction() as transaction:
            try:
                nlink = self._metadata.inode(file.inode).nlink
            except EntryNotFoundError:
                return True
            if nlink or file.handles:
                return False
            self.inodes.delete(transaction, file.inode)
            file.unsaved = False
            self._forget(file)
            return True

    def _finish_empty(self, file: OpenFile) -> None:
        """Note that a file to which nothing was written is whole."""
        with self._store.lock:
            if self._store.read_only:
                return
            with self._store.transaction() as transaction:
                if not file.unsaved and self._metadata.unfinished(file.inode) is not None:
                    self._metadata.set_unfinished(transaction, file.inode, None)

    def _forget(self, file: OpenFile) -> None:
        """Drop what is in memory for a file; under the store's lock.

        From here on others may change the inode without this object noticing, so a decision about its bytes is void.
        """
        file.generation += 1
        file.queued = False
        if file.spool is not None:
            self._account(-file.spool.memory_bytes)
            file.spool = None
        file.source = None
        self._pin(file, None)
        if self._files.get(file.inode) is file:
            del self._files[file.inode]
        self._pipeline.look_again()

    def _pin(self, file: OpenFile, content: ContentId | None) -> None:
        if file.content is not None:
            self._pins[file.content] -= 1
            if not self._pins[file.content]:
                del self._pins[file.content]
        file.content = content
        if content is not None:
            self._pins[content] += 1

    def _source(self, file: OpenFile) -> Source:
        with self._store.lock:
            if file.source is None:
                file.source = self._open_content(file.content)
            return file.source

    def _open_content(self, content_id: ContentId | None) -> Source:
        if content_id is None:
            return EmptySource()
        content = self._contents.get(content_id)
        if isinstance(content, Exact):
            return LayoutSource(self._contents, content.layout)
        return self._renderer.source(content)

    def _writable_spool(self, file: OpenFile, *, emptied: bool = False) -> Spool:
        """Return the file's spool and void decisions about older bytes; under the file's lock.

        `emptied` says that nothing of what it held is going to stay. Raises IntegrityError for a damaged picture.
        """
        if file.spool is None:
            # Nothing that is damaged keeps a file from being written anew.
            spool = Spool(EmptySource() if emptied else self._source(file))
            if not emptied and self._is_picture(spool, self.policies.of_file(file.inode)):
                # A picture is stored as a whole: what cannot be read must fail this write, not every attempt to save.
                try:
                    self.loaded(spool)
                except IntegrityError:
                    self._account(-spool.memory_bytes)
                    raise
            file.spool = spool
        # Only what is queued can be decided about, at any moment outside the lock; and it is queued under the file's.
        if file.queued or not file.unsaved:
            with self._store.lock:
                if not file.unsaved:
                    file.unsaved_since = time.monotonic()
                file.unsaved = True
                file.queued = False
                file.generation += 1
                # The kernel keeps what was written, and the same content may read as a rendition.
                self._seen.pop(file.inode, None)
        return file.spool

    def _stamp(self, file: OpenFile) -> None:
        file.mtime_ns = file.ctime_ns = self.inodes.now_ns()

    def _is_picture(self, spool: Spool, policy: Policy) -> bool:
        return self._pipeline.wants(spool.read(0, HEAD_BYTES), spool.size, policy)

    def _is_candidate(self, file: OpenFile, spool: Spool) -> bool:
        """Whether there is a decision to be taken about a picture."""
        policy = self.policies.of_file(file.inode)
        return policy is not Policy.OFF and self._is_picture(spool, policy)

    def _save(self, file: OpenFile) -> None:
        """Store the spool's bytes exactly; under the file's lock. Raises StoreFullError."""
        spool = file.spool
        if spool is None:
            return
        policy = self.policies.of_file(file.inode)
        whole = self._is_picture(spool, policy)
        candidate = whole and policy is not Policy.OFF
        if whole:
            data = self.loaded(spool)
            prepared = self._contents.prepare(data, self._pipeline.cuts(data, policy))
        else:
            prepared = spool.prepare(self._contents)
        with self._store.lock:
            if file.spool is not spool:
                # Without a handle it may have been removed, or decided about and stored, since.
                return
            with self._store.transaction() as transaction:
                content = self._store_exactly(transaction, file, prepared, candidate=candidate)
                if candidate and content is not None:
                    self._pipeline.settlement.keep_again(transaction, content, data)
            self._pin(file, content)
            file.unsaved = False
            file.mtime_ns = file.ctime_ns = None
            if content is not None and candidate:
                # A picture stays in memory while it is open: the decision may replace what is stored.
                self._pipeline.decide_later(content)
            elif not whole and (content is None or isinstance(self._contents.find(content), Exact)):
                self._account(-spool.memory_bytes)
                spool.rebase(LayoutSource(self._contents, prepared.layout))
        self._store.wait_for_room()

    def _store_exactly(
        self, transaction: Transaction, file: OpenFile, prepared: PreparedLayout, *, candidate: bool
    ) -> ContentId | None:
        inode = self._metadata.inode(file.inode)
        content: ContentId | None = None
        if not prepared.layout.size:
            if inode.content is not None:
                self._contents.unlink(transaction, inode.content)
        elif candidate:
            content = self._contents.store_exact(transaction, prepared, ContentState.UNDECIDED)
            self._contents.link(transaction, content)
            if inode.content is not None:
                self._contents.unlink(transaction, inode.content)
        else:
            content = self._contents.succeed(transaction, inode.content, prepared)
        inode = replace(self.store_attributes(inode, file), content=content)
        self.inodes.put_content(transaction, file.inode, inode)
        self._metadata.set_unfinished(transaction, file.inode, None)
        return content

    def _save_if_unsaved(self, file: OpenFile) -> None:
        """Store a file whose bytes are in memory alone, and drop them from memory unless somebody has it open."""
        with file.lock:
            if file.unsaved:
                self._save(file)
            with self._store.lock:
                if not file.handles and not file.unsaved:
                    self._forget(file)

    def _relieved_by_decisions(self) -> bool:
        """Wait while decisions bring the spools within their budget quickly, and return whether they have.

        Without the lock of any file. Whoever writes faster than pictures are decided about is held back for a moment:
        to store one undecided, read it back and store the decision takes longer than both.
        """
        with self._store.lock:
            waiting = [file.spool for file in self._files.values() if file.queued and file.spool is not None]
        if self._spooled_bytes - sum(spool.memory_bytes for spool in waiting) > self._budget_bytes:
            return False
        return self._pipeline.wait_until(
            lambda: self._spooled_bytes <= self._budget_bytes,
            pause_seconds=_DECISION_PAUSE_SECONDS,
            seconds=_MOST_PAUSE_SECONDS,
        )

    def _relieve(self) -> None:
        """Store the files that have waited longest until the spools are within their budget.

        One that cannot be stored is no reason to refuse what is written to another.
        """
        for file in self._in_memory():
            if self._spooled_bytes <= self._budget_bytes:
                return
            try:
                self._save_if_unsaved(file)
                with file.lock:
                    self._drop_written(file)
            except StoreError:
                raise
            except DedupfsError as exc:
                log.error("inode %d could not be stored yet: %s", file.inode, exc)

    def _drop_written(self, file: OpenFile) -> None:
        """Read what is stored from there, for as long as nobody writes on; under the file's lock.

        What the file rests on is not replaced while it is open; a rendition of the same bytes would be others.
        """
        with self._store.lock:
            spool = file.spool
            if spool is None or file.unsaved or file.content is None:
                return
            content = self._contents.find(file.content)
            if isinstance(content, Exact) and content.layout.size == spool.size:
                self._account(-spool.memory_bytes)
                spool.rebase(LayoutSource(self._contents, content.layout))

    def _open_and_empty(self) -> list[OpenFile]:
        with self._store.lock:
            return [file for file in self._files.values() if file.spool is None and file.content is None]

    def _in_memory(self) -> list[OpenFile]:
        with self._store.lock:
            return [file for file in self._files.values() if file.spool is not None]

    def _tend(self, also: Callable[[], None]) -> None:
        while not self._stopping.wait(_TEND_SECONDS):
            try:
                self._save_what_waits(UNSAVED_MAX_SECONDS)
                also()
            except Exception:
                # Nobody else would store what waits.
                log.exception("what waits could not be looked after; it is tried again")

    def _save_what_waits(self, seconds: float) -> None:
        """Store what has been in memory alone for so long."""
        for file in self._in_memory():
            if not file.unsaved or time.monotonic() - file.unsaved_since < seconds:
                continue
            try:
                self._save_if_unsaved(file)
            except StoreError as exc:
                log.warning("inode %d could not be stored yet: %s", file.inode, exc)
            except Exception:
                log.exception("inode %d could not be stored", file.inode)

    def _account(self, delta_bytes: int) -> None:
        with self._spooled_lock:
            self._spooled_bytes += delta_bytes

    def _check_size(self, size: int) -> None:
        if size > MAX_FILE_BYTES:
            raise FileTooLargeError(f"a file has at most {MAX_FILE_BYTES} bytes")
        if size < 0:
            raise InvalidRequestError("a file cannot have a negative size")


def _spooled_bytes_of(file: OpenFile) -> int:
    spool = file.spool
    return min(spool.memory_bytes, spool.size) if spool is not None else 0
