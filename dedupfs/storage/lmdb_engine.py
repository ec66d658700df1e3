"""The embedded engine: one LMDB environment in the volume's directory; only it and `lmdb_snapshot` import lmdb.

LMDB runs in its safe mode: a commit is one fsync of data and one of the new root, and a crash at any point leaves the
previous root in force. There is no writemap, so a full disk is an error code and not a signal.

Damage: LMDB believes its pages, and a flipped bit in one can end the process. So it is shown none that has not been
checked (`lmdb_guard`): until then, and for good where a page is damaged, tables are read by `lmdb_walk`, which believes
nothing, and nothing is written. Pages that this or another process has written since count as checked. Values in pages
of their own are read with `pread` and not through the map, where a bad sector would be a signal.

Threads: snapshots may be taken anywhere and at once; `apply` is serialised by LMDB's own writer lock and runs its whole
transaction on the calling thread, as LMDB demands. The map may only grow while this process has no transaction open:
`Gate` lets transactions in together and the growth in alone.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

from dedupfs.errors import IntegrityError, StoreError, StoreFullError, StoreReadOnlyError
from dedupfs.storage.engine import Change, Snapshot
from dedupfs.storage.lmdb_check import Damage
from dedupfs.storage.lmdb_gate import Gate
from dedupfs.storage.lmdb_guard import Guard
from dedupfs.storage.lmdb_pages import (
    FIRST_DATA_PAGE,
    PAGE_HEADER_BYTES,
    PageError,
    PageFile,
    has_own_pages,
    restore_overflow,
)
from dedupfs.storage.lmdb_snapshot import LmdbSnapshot, MapFullError, MapResizedError, translate, translated
from dedupfs.storage.lmdb_walk import Walk, WalkSnapshot
from dedupfs.storage.reserve import Reserve

log = logging.getLogger(__name__)

DATA_FILE = "data.mdb"
LOCK_FILE = "lock.mdb"
INITIAL_MAP_BYTES = 1 << 36
"""Address space reserved at first: it costs nothing until it is used, and 64 GiB hold a large photo library."""
_MAX_READERS = 254
_STAMP_KEY = b"\0stamp"
_SMALL_BYTES = 1500
"""Every shorter value lies on a leaf page, whatever its key."""
_WALK_ATTEMPTS = 100
"""Between two steps of a reader another process may commit twice, but hardly for ever."""
_COMMIT_OVERHEAD_BYTES = 1 << 20
"""Generous allowance for the branch pages that one commit copies."""
RESIDENT_BYTES = 64 << 20
"""After so many bytes of values the map's pages are handed back to the page cache. They are shared and could be taken
away at any time, but count as this process's memory until then: reading 400 MB back showed as 405 MB resident."""
_MADV_DONTNEED = 4


class LmdbEngine:
    """LMDB behind the engine interface. `initial_map_bytes` is for tests that want to see the map grow."""

    def __init__(
        self,
        directory: Path,
        tables: Sequence[str],
        *,
        create: bool = False,
        read_only: bool = False,
        initial_map_bytes: int = INITIAL_MAP_BYTES,
    ) -> None:
        """Open, or create, the environment in an existing directory.

        A damaged one is opened too if it can still be told where its tables are; see `damaged`.

        Raises:
            StoreError: it cannot be opened.
            IntegrityError: it is there and is not an LMDB environment with these tables.
        """
        self._directory = directory
        self._names = list(tables)
        self._read_only = read_only
        self._gate = Gate()
        self._found_bytes = 0
        self._data_path = os.path.realpath(directory / DATA_FILE)
        self._env: lmdb.Environment | None = None
        self._tables: dict[str, Any] = {}
        self._map_start = 0
        data = directory / DATA_FILE
        exists = data.is_file()
        if not exists and not create:
            raise IntegrityError(f"{data} is missing")
        self._reserve = Reserve(data)
        try:
            if not exists:
                self._open_environment(initial_map_bytes, create=True)
                self._open_tables(create=True)
            self._pages = self._open_checked(initial_map_bytes)
            try:
                self._start_check()
            except BaseException:
                self._pages.close()
                raise
        except BaseException:
            self._close_environment()
            raise
        if not read_only and self._guard.roots_sound:
            self._reserve.keep()

    @property
    def damaged(self) -> bool:
        """Whether damage to the structure of the tables has been found, so that nothing can be written any more."""
        return bool(self._guard.damage)

    def find_damage(self) -> list[Damage]:
        """Check the structure of all tables, as of the last commit, and return what is wrong with it."""
        with self._walking() as walk:
            return self._guard.find_damage(walk)

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """See Engine."""
        if self._guard.clean:
            return LmdbSnapshot(self._begin, self._gate.leave, self._tables, self._value, self._walk_of)
        return self._walking_snapshot()

    @contextmanager
    def _walking_snapshot(self) -> Iterator[Snapshot]:
        with self._walking() as walk:
            yield WalkSnapshot(walk)

    @contextmanager
    def _reading(self) -> Iterator[lmdb.Transaction]:
        """A transaction of LMDB, which keeps the pages of one commit as they are, and nobody need read through it."""
        transaction = self._begin()
        try:
            yield transaction
        finally:
            transaction.abort()
            self._gate.leave()

    def _begin(self) -> lmdb.Transaction:
        """Enter the gate and return a transaction for reading; the caller ends it and leaves the gate."""
        assert self._env is not None
        for attempt in range(2):
            self._gate.enter()
            try:
                return self._env.begin(buffers=True)
            except (lmdb.Error, MemoryError, OSError) as exc:
                self._gate.leave()
                if attempt or not isinstance(exc, lmdb.MapResizedError):
                    raise translate("read", exc) from exc
            self._adopt_map_size()
        raise AssertionError("not reached: the second attempt returns or raises")

    @contextmanager
    def _walking(self) -> Iterator[Walk]:
        """A reader of the last commit that does without LMDB."""
        if self._env is None:
            walk = self._guard.walk(None)
            assert walk is not None
            yield walk
            return
        for _ in range(_WALK_ATTEMPTS):
            with self._reading() as transaction:
                walk = self._guard.walk(transaction.id())
                if walk is not None:
                    yield walk
                    return
        raise IntegrityError("the root of the database's last commit cannot be read")

    def apply(self, changes: Iterable[Change]) -> None:
        """See Engine."""
        if self._read_only:
            raise StoreReadOnlyError("the volume is open for reading only")
        self._guard.wait_until_clean()
        # A value that is put twice in one transaction may keep more pages than it needs, which would look like damage.
        latest = {(table, key): value for table, key, value in changes}
        batch = [(table, key, value) for (table, key), value in latest.items()]
        try:
            self._apply(batch)
        except StoreFullError:
            # Pages that one commit frees serve the commit after the next. When the disk is full, this may be the next
            # one, and without another in between it would fail for ever.
            self._apply([], stamp=True)
            self._apply(batch)
        self._reserve.keep()

    def _apply(self, batch: Sequence[Change], *, stamp: bool = False) -> None:
        assert self._env is not None
        tried_again = False
        while True:
            try:
                with (
                    self._gate.shared(),
                    translated("write"),
                    self._env.begin(write=True, buffers=True) as transaction,
                ):
                    for table, key, value in batch:
                        replaced = self._replaced(transaction, table, key)
                        if replaced is not None and has_own_pages(len(key), len(replaced), self._pages.page_bytes):
                            self._prepare_to_free(replaced)
                        if value is None:
                            transaction.delete(key, db=self._tables[table])
                        else:
                            transaction.put(key, value, db=self._tables[table])
                    if stamp:
                        # LMDB makes nothing of a commit without a change; this is beside the tables, not in one.
                        transaction.put(_STAMP_KEY, os.urandom(8))
                return
            except _PutRightError:
                # The next turn looks at it again.
                continue
            except MapFullError:
                self._grow()
            except MapResizedError:
                self._adopt_map_size()
            except StoreError as exc:
                # LMDB reports the short write on a full disk as EIO; only the room that is left tells the two apart.
                needed = sum(len(key) + len(value or b"") for _, key, value in batch) + _COMMIT_OVERHEAD_BYTES
                # Free pages inside the file do not count: where they were enough, nothing had to be added to it.
                if self._disk_room_bytes() < needed or not self._reserve.take(needed):
                    raise StoreFullError("no space left on the disk that holds the volume") from exc
                if tried_again:
                    raise
                # There may be room only since then: somebody has removed something meanwhile.
                tried_again = True

    def set_aside(self, size_bytes: int) -> None:
        """See Engine. Where the disk cannot set blocks aside, this finds nothing wrong."""
        wanted = self._reserve.shortage(size_bytes)
        if wanted and self._free_page_bytes() + self._reserve.ahead_bytes < wanted:
            raise StoreFullError("no space left on the disk that holds the volume")

    def _give_back(self) -> None:
        """Give back to the disk what was set aside for more than deletions."""
        if self._env is None or not self._guard.clean or not self._reserve.is_large:
            return
        # Nobody else makes the file longer while this transaction is open.
        with self._gate.shared(), translated("write"), self._env.begin(write=True) as transaction:
            self._reserve.give_back()
            transaction.abort()
        self._reserve.keep()

    def allocated_bytes(self) -> int:
        """See Engine. What is set aside behind the end of the file is not counted."""
        info = os.stat(self._directory / DATA_FILE)
        return min(info.st_blocks * 512, info.st_size)

    def free_bytes(self) -> int:
        """See Engine. What the disk offers this user, what it has set aside, and the pages that LMDB will use again."""
        return self._disk_room_bytes() + self._reserve.spare_bytes + self._free_page_bytes()

    def _free_page_bytes(self) -> int:
        end_page, used = self._page_counts()
        return max(0, end_page - used) * self._pages.page_bytes

    def live_bytes(self) -> int:
        """Return the length of a compacted copy, to within some pages."""
        end_page, used = self._page_counts()
        return min(end_page, used + FIRST_DATA_PAGE) * self._pages.page_bytes

    def write_compacted(self, descriptor: int) -> None:
        """Write a copy without free pages, as of the last commit, to a file or a pipe.

        Large values are copied through the map, where a bad sector can end the process; see `compact`.
        Raises IntegrityError, StoreError.
        """
        if not self._guard.wait():
            raise IntegrityError("the database is damaged and cannot be copied as a whole")
        assert self._env is not None
        with self._gate.shared(), translated("copy"):
            self._env.copyfd(descriptor, compact=True)

    def _page_counts(self) -> tuple[int, int]:
        """Return how many pages the file has, and how many of them hold something."""
        with self._walking() as walk:
            roots = [walk.meta.free, walk.meta.tables, *(walk.root(name) for name in self._names)]
            return walk.meta.end_page, sum(root.pages for root in roots)

    def total_bytes(self) -> int:
        """See Engine."""
        info = os.statvfs(self._directory)
        return info.f_blocks * info.f_frsize

    def close(self) -> None:
        """See Engine."""
        self._guard.stop()
        try:
            if not self._read_only:
                self._give_back()
        except (OSError, StoreError, IntegrityError):
            log.debug("what was set aside on the disk stays so", exc_info=True)
        with self._gate.alone():
            self._close_environment()
            self._pages.close()

    def _open_checked(self, initial_map_bytes: int) -> PageFile:
        """Look at the file, and let LMDB open it where its roots are sound, unless it has done so already."""
        data = self._directory / DATA_FILE
        while True:
            pages = PageFile(data)
            try:
                self._guard = Guard(pages)
                if self._guard.roots_sound and self._env is None:
                    self._open_environment(initial_map_bytes, create=False)
                # As in `_open_environment`: not the pages of one file and the environment of another.
                if self._env is None or pages.is_same(data):
                    return pages
            except BaseException:
                pages.close()
                raise
            pages.close()
            self._close_environment()

    def _open_environment(self, map_bytes: int, *, create: bool) -> None:
        data = self._directory / DATA_FILE
        while data.exists() and map_bytes < data.stat().st_size:
            map_bytes *= 2
        with translated("open"):
            while True:
                before = self._files()
                self._env = lmdb.open(
                    str(self._directory),
                    map_size=map_bytes,
                    max_dbs=len(self._names),
                    max_readers=_MAX_READERS,
                    readonly=self._read_only,
                    create=create,
                    mode=0o600,
                    # Readers leave a mark for the writer in the lock file; a medium that cannot be written has none.
                    lock=not self._read_only or os.access(self._directory, os.W_OK),
                )
                # A compaction may have put another pair of files here while LMDB opened one after the other, and one
                # of each pair must never work together.
                if before is None or self._files() == before:
                    break
                self._close_environment()
            # Readers that died without leaving would pin old pages for good.
            self._env.reader_check()
            if not self._read_only:
                self._check_lock_file()

    def _files(self) -> tuple[tuple[int, int], ...] | None:
        """Return which files the names stand for; None where one is missing."""
        try:
            found = [os.stat(self._directory / name) for name in (DATA_FILE, LOCK_FILE)]
        except FileNotFoundError:
            return None
        return tuple((info.st_dev, info.st_ino) for info in found)

    def _open_tables(self, *, create: bool) -> None:
        assert self._env is not None
        with translated("open"):
            self._tables = {name: self._env.open_db(name.encode(), create=create) for name in self._names}

    def _close_environment(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None

    def _start_check(self) -> None:
        """Let LMDB have the table of tables once that is known to be sound, and have all the rest checked."""
        with ExitStack() as held:
            walk = held.enter_context(self._walking())
            for name in self._names:
                walk.root(name)
            if self._env is not None and not self._tables:
                self._open_tables(create=False)
            if self._env is not None:
                self._find_map()
            self._guard.start(walk, held.pop_all().close)

    def _find_map(self) -> None:
        """Find out where in memory the file is, from where LMDB has the first table's root.

        Not while others read: whoever holds a transaction meanwhile must not wait for the gate a second time, either.
        """
        assert self._env is not None
        for _ in range(_WALK_ATTEMPTS):
            try:
                with translated("read"), self._env.begin(buffers=True) as transaction:
                    walk = self._guard.walk(transaction.id())
                    if walk is not None:
                        with transaction.cursor() as cursor:
                            cursor.first()
                            self._map_start = _address(cursor.value()) - walk.first_place()
                        return
            except MapResizedError:
                with translated("grow"):
                    self._env.set_mapsize(0)
        raise IntegrityError("the root of the database's last commit cannot be read")

    def _value(self, found: bytes | memoryview) -> bytes:
        """Copy a value out of the map; one that may lie on pages that nobody has looked at, from the file."""
        if len(found) < _SMALL_BYTES:
            return bytes(found)
        self._hand_back(len(found))
        return self._pages.value(_address(found) - self._map_start, len(found))

    def _hand_back(self, size_bytes: int) -> None:
        """Unmap the pages of the map now and then; an inexact count under several threads does no harm.

        A large value is found through its first page, and with that the kernel maps what it has of the file around it.
        """
        self._found_bytes += size_bytes
        if self._found_bytes < RESIDENT_BYTES:
            return
        self._found_bytes = 0
        try:
            maps = Path("/proc/self/maps").read_text()
        except OSError:
            # With too many files open this waits for the next time; it must not fail a read.
            return
        libc = ctypes.CDLL(None, use_errno=True)
        for line in maps.splitlines():
            fields = line.split(maxsplit=5)
            if len(fields) == 6 and fields[5] == self._data_path:
                start, end = (int(bound, 16) for bound in fields[0].split("-"))
                libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)

    def _walk_of(self, number: int) -> Walk:
        """Return a reader of a commit that a transaction of LMDB keeps, for what LMDB refuses to read."""
        walk = self._guard.walk(number)
        if walk is None:
            raise IntegrityError("the database is damaged, and the root of this commit is no more")
        return walk

    def _replaced(self, transaction: lmdb.Transaction, table: str, key: bytes) -> bytes | memoryview | None:
        """Return a value that is about to be replaced.

        Raises _PutRightError where LMDB refused to read it and would not now; the transaction is spoilt by that.
        """
        try:
            return transaction.get(key, db=self._tables[table])
        except lmdb.CorruptedError as exc:
            place = self._walk_of(transaction.id() - 1).own_pages(table, key)
            if place is None:
                raise
            first, length = place
            try:
                self._pages.check_overflow(first, length)
            except PageError as reason:
                log.warning("%s; it is put right, for it is about to be freed", reason)
                restore_overflow(self._directory / DATA_FILE, first, length, self._pages.page_bytes)
                raise _PutRightError from exc
            raise

    def _prepare_to_free(self, replaced: bytes | memoryview) -> None:
        """Put the header of a value's own pages right before LMDB frees as many as it says.

        All of it follows from where the value is and how long; that these pages are no other's has been checked.
        """
        assert self._env is not None
        place = _address(replaced) - self._map_start - PAGE_HEADER_BYTES
        if 0 <= place < self._env.info()["map_size"]:
            first = place // self._pages.page_bytes
            try:
                self._pages.check_overflow(first, len(replaced))
            except PageError as exc:
                log.warning("%s; it is put right, for it is about to be freed", exc)
                restore_overflow(self._directory / DATA_FILE, first, len(replaced), self._pages.page_bytes)

    def _disk_room_bytes(self) -> int:
        info = os.statvfs(self._directory)
        return info.f_bavail * info.f_frsize

    def _check_lock_file(self) -> None:
        """Refuse to write where readers hold the lock file of another database: LMDB takes the number of the last
        transaction from there, and what is committed under too low a number is lost with the next crash."""
        assert self._env is not None
        with self._env.begin(write=True) as transaction:
            numbers = transaction.id(), self._env.info()["last_txnid"] + 1
            transaction.abort()
        if numbers[0] != numbers[1]:
            raise StoreError(f"{self._directory / DATA_FILE} was replaced while it was in use; end what still reads it")

    def _grow(self) -> None:
        assert self._env is not None
        with self._gate.alone():
            with translated("grow"):
                self._env.set_mapsize(self._env.info()["map_size"] * 2)
            self._find_map()

    def _adopt_map_size(self) -> None:
        """Follow a writer in another process that has grown the map."""
        assert self._env is not None
        # It holds a transaction.
        interrupted = self._guard.interrupt()
        with self._gate.alone():
            with translated("grow"):
                self._env.set_mapsize(0)
            if self._tables:
                self._find_map()
        if interrupted:
            self._start_check()


class _PutRightError(Exception):
    """What LMDB stumbled over is no more, so that a new transaction does not."""


def _address(found: bytes | memoryview) -> int:
    """Return where in memory a value is that LMDB has shown."""
    return int(np.frombuffer(found, np.uint8).__array_interface__["data"][0])
