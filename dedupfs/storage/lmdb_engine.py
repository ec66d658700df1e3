"""The embedded engine: one LMDB environment in the volume's directory; the only module that imports lmdb.

LMDB runs in its safe mode: a commit is one fsync of data and one of the new root, and a crash at any point leaves the
previous root in force. There is no writemap, so a full disk is an error code and not a signal.

Threads: snapshots may be taken anywhere and at once; `apply` is serialised by LMDB's own writer lock and runs its whole
transaction on the calling thread, as LMDB demands. The map may only grow while this process has no transaction open:
`_Gate` lets transactions in together and the growth in alone.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import lmdb

from dedupfs.errors import IntegrityError, StoreError, StoreFullError, StoreReadOnlyError
from dedupfs.storage.engine import Change

log = logging.getLogger(__name__)

DATA_FILE = "data.mdb"
LOCK_FILE = "lock.mdb"
INITIAL_MAP_BYTES = 1 << 36
"""Address space reserved at first: it costs nothing until it is used, and 64 GiB hold a large photo library."""
_MAX_READERS = 254
RESIDENT_BYTES = 64 << 20
"""How much may be read through the map before its pages are handed back to the page cache. They are shared and could be
taken away at any time, but count as this process's memory until then: reading 5 GB back showed as 5 GB resident."""
_MADV_DONTNEED = 4
_STAMP_KEY = b"\0stamp"
_META_PAGES = 2
_COMMIT_OVERHEAD_BYTES = 1 << 20
"""Generous allowance for the branch pages that one commit copies."""
_RESERVE_SHARE = 50
_RESERVE_MIN_BYTES = 1 << 20
_RESERVE_MAX_BYTES = 4 << 20
"""A fiftieth of the disk, within these bounds, is allocated to the file behind its end. When others have filled the
disk to the last byte, commits go on there: a deleted file gives nothing back before the commit after the next, and each
takes 17 pages (measured with 400 files)."""
_FALLOC_FL_KEEP_SIZE = 1
_UNWRITTEN_BYTES = 1 << 20
"""Generous allowance for pages at the end that LMDB took and gave back within one commit, and so never wrote."""


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

        Raises:
            StoreError: it cannot be opened.
            IntegrityError: it is there and is not an LMDB environment with these tables.
        """
        self._directory = directory
        self._read_only = read_only
        self._gate = _Gate()
        self._read_bytes = 0
        self._reserved_to = 0
        self._data_path = os.path.realpath(directory / DATA_FILE)
        data = directory / DATA_FILE
        if not create and not data.is_file():
            raise IntegrityError(f"{data} is missing")
        size = data.stat().st_size if data.exists() else 0
        map_bytes = initial_map_bytes
        while map_bytes < size:
            map_bytes *= 2
        with _translated("open"):
            self._env = self._open(map_bytes, len(tables), create=create)
            try:
                # Readers that died without leaving would pin old pages for good.
                self._env.reader_check()
                self._check_length()
                if not read_only:
                    self._check_lock_file()
                self._tables = {name: self._env.open_db(name.encode(), create=create) for name in tables}
            except BaseException:
                self._env.close()
                raise
        if not read_only:
            self._reserve()

    def _open(self, map_bytes: int, tables: int, *, create: bool) -> lmdb.Environment:
        while True:
            before = self._files()
            env = lmdb.open(
                str(self._directory),
                map_size=map_bytes,
                max_dbs=tables,
                max_readers=_MAX_READERS,
                readonly=self._read_only,
                create=create,
                mode=0o600,
                # Readers leave a mark for the writer in the lock file; a medium that cannot be written has no writer.
                lock=not self._read_only or os.access(self._directory, os.W_OK),
            )
            # A compaction may have put another pair of files here while LMDB opened one after the other, and one of
            # each pair must never work together.
            if before is None or self._files() == before:
                return env
            env.close()

    def _files(self) -> tuple[tuple[int, int], ...] | None:
        """Return which files the names stand for; None where one is missing."""
        try:
            found = [os.stat(self._directory / name) for name in (DATA_FILE, LOCK_FILE)]
        except FileNotFoundError:
            return None
        return tuple((info.st_dev, info.st_ino) for info in found)

    @contextmanager
    def snapshot(self) -> Iterator[_LmdbSnapshot]:
        """See Engine."""
        with self._reading() as transaction:
            yield _LmdbSnapshot(transaction, self._tables, self._note_read)

    @contextmanager
    def _reading(self) -> Iterator[lmdb.Transaction]:
        with self._gate.shared():
            try:
                with _translated("read"):
                    transaction = self._env.begin()
            except _MapResizedError:
                transaction = None
            if transaction is not None:
                with transaction:
                    yield transaction
                return
        self._adopt_map_size()
        with self._gate.shared():
            with _translated("read"):
                transaction = self._env.begin()
            with transaction:
                yield transaction

    def apply(self, changes: Iterable[Change]) -> None:
        """See Engine."""
        if self._read_only:
            raise StoreReadOnlyError("the volume is open for reading only")
        batch = list(changes)
        try:
            self._apply(batch)
        except StoreFullError:
            # Pages that one commit frees serve the commit after the next. When the disk is full, this may be the next
            # one, and without another in between it would fail for ever.
            self._apply([], stamp=True)
            self._apply(batch)
        self._reserve()

    def _apply(self, batch: Sequence[Change], *, stamp: bool = False) -> None:
        while True:
            try:
                with self._gate.shared(), _translated("write"), self._env.begin(write=True) as transaction:
                    for table, key, value in batch:
                        if value is None:
                            transaction.delete(key, db=self._tables[table])
                        else:
                            transaction.put(key, value, db=self._tables[table])
                    if stamp:
                        # LMDB makes nothing of a commit without a change; this is beside the tables, not in one.
                        transaction.put(_STAMP_KEY, os.urandom(8))
                return
            except _MapFullError:
                self._grow()
            except _MapResizedError:
                self._adopt_map_size()
            except StoreError as exc:
                # LMDB reports the short write on a full disk as EIO; only the room that is left tells the two apart.
                needed = sum(len(key) + len(value or b"") for _, key, value in batch) + _COMMIT_OVERHEAD_BYTES
                # Free pages inside the file do not count: where they were enough, nothing had to be added to it.
                if self._disk_room_bytes() < needed:
                    raise StoreFullError("no space left on the disk that holds the volume") from exc
                raise

    def _reserve(self) -> None:
        """Have the disk set some blocks aside behind the end of the file, unless there still are enough."""
        info = os.statvfs(self._directory)
        reserve = min(max(info.f_blocks * info.f_frsize // _RESERVE_SHARE, _RESERVE_MIN_BYTES), _RESERVE_MAX_BYTES)
        end = os.stat(self._data_path).st_size
        if self._reserved_to - end >= reserve // 2:
            return
        fallocate = getattr(ctypes.CDLL(None), "fallocate64", None)
        if fallocate is None:
            return
        fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        try:
            descriptor = os.open(self._data_path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            log.debug("nothing could be set aside on the disk", exc_info=True)
            return
        try:
            # Where the disk is full, or cannot do that, the next commit asks again.
            if fallocate(descriptor, _FALLOC_FL_KEEP_SIZE, end, reserve) == 0:
                self._reserved_to = end + reserve
        finally:
            os.close(descriptor)

    def allocated_bytes(self) -> int:
        """See Engine. What is set aside behind the end of the file is not counted."""
        info = os.stat(self._directory / DATA_FILE)
        return min(info.st_blocks * 512, info.st_size)

    def free_bytes(self) -> int:
        """See Engine. What the disk offers this user, and the pages that LMDB will use again."""
        page_bytes, pages, used = self._pages()
        return self._disk_room_bytes() + max(0, pages - used) * page_bytes

    def live_bytes(self) -> int:
        """Return the length of a compacted copy, to within some pages."""
        page_bytes, pages, used = self._pages()
        return min(pages, used + _META_PAGES) * page_bytes

    def write_compacted(self, descriptor: int) -> None:
        """Write a copy without free pages, as of the last commit, to a file or a pipe.

        Pages are copied as they are, so in a damaged database this can end the process; see `compact`.
        Raises IntegrityError, StoreError.
        """
        with self._gate.shared(), _translated("copy"):
            self._env.copyfd(descriptor, compact=True)

    def _pages(self) -> tuple[int, int, int]:
        """Return the size of a page, how many the file has, and how many of them hold something."""
        with self._reading() as transaction, _translated("read"):
            pages = self._env.info()["last_pgno"] + 1
            page_bytes = self._env.stat()["psize"]
            stats = [self._env.stat(), *(transaction.stat(table) for table in self._tables.values())]
        return (
            page_bytes,
            pages,
            sum(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in stats),
        )

    def total_bytes(self) -> int:
        """See Engine."""
        info = os.statvfs(self._directory)
        return info.f_blocks * info.f_frsize

    def close(self) -> None:
        """See Engine."""
        with self._gate.alone():
            self._env.close()

    def _note_read(self, size_bytes: int) -> None:
        """Hand back the pages of the map now and then; an inexact count under several threads does no harm."""
        self._read_bytes += size_bytes
        if self._read_bytes < RESIDENT_BYTES:
            return
        self._read_bytes = 0
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

    def _disk_room_bytes(self) -> int:
        info = os.statvfs(self._directory)
        return info.f_bavail * info.f_frsize

    def _check_length(self) -> None:
        """Refuse a file that was cut off: reading behind its end would kill the process."""
        needed = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
        if os.stat(self._directory / DATA_FILE).st_size + _UNWRITTEN_BYTES < needed:
            raise IntegrityError(f"{self._directory / DATA_FILE} is damaged: its end is missing")

    def _check_lock_file(self) -> None:
        """Refuse to write where readers hold the lock file of another database: LMDB takes the number of the last
        transaction from there, and what is committed under too low a number is lost with the next crash."""
        with self._env.begin(write=True) as transaction:
            numbers = transaction.id(), self._env.info()["last_txnid"] + 1
            transaction.abort()
        if numbers[0] != numbers[1]:
            raise StoreError(f"{self._directory / DATA_FILE} was replaced while it was in use; end what still reads it")

    def _grow(self) -> None:
        with self._gate.alone(), _translated("grow"):
            self._env.set_mapsize(self._env.info()["map_size"] * 2)

    def _adopt_map_size(self) -> None:
        """Follow a writer in another process that has grown the map."""
        with self._gate.alone(), _translated("grow"):
            self._env.set_mapsize(0)


class _LmdbSnapshot:
    """One read transaction; not to be kept past its `with` block."""

    __slots__ = ("_note_read", "_tables", "_transaction")

    def __init__(self, transaction: lmdb.Transaction, tables: dict[str, Any], note_read: Callable[[int], None]) -> None:
        self._transaction = transaction
        self._tables = tables
        self._note_read = note_read

    def get(self, table: str, key: bytes) -> bytes | None:
        with _translated("read"):
            value = cast("bytes | None", self._transaction.get(key, db=self._tables[table]))
        self._note_read(len(value or b""))
        return value

    def scan(self, table: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        with _translated("read"), self._transaction.cursor(db=self._tables[table]) as cursor:
            found = cursor.set_range(prefix) if prefix else cursor.first()
            while found:
                key = cast("bytes", cursor.key())
                if not key.startswith(prefix):
                    return
                value = cast("bytes", cursor.value())
                self._note_read(len(value))
                yield key, value
                found = cursor.next()


class _Gate:
    """Many together, or one alone; the one waits for the many and keeps newcomers out."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._inside = 0
        self._closed = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._condition:
            self._condition.wait_for(lambda: not self._closed)
            self._inside += 1
        try:
            yield
        finally:
            with self._condition:
                self._inside -= 1
                if self._closed and not self._inside:
                    self._condition.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._condition:
            self._condition.wait_for(lambda: not self._closed)
            self._closed = True
            self._condition.wait_for(lambda: not self._inside)
        try:
            yield
        finally:
            with self._condition:
                self._closed = False
                self._condition.notify_all()


class _MapFullError(Exception):
    """The map must grow before the batch fits."""


class _MapResizedError(Exception):
    """Another process has grown the map."""


@contextmanager
def _translated(action: str) -> Iterator[None]:
    """Turn lmdb's exceptions into ours."""
    try:
        yield
    except lmdb.MapFullError as exc:
        raise _MapFullError from exc
    except lmdb.MapResizedError as exc:
        raise _MapResizedError from exc
    except (lmdb.DiskError, MemoryError) as exc:
        raise StoreFullError(f"cannot {action} the database: {_reason(exc)}") from exc
    except (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.NotFoundError, lmdb.PanicError) as exc:
        raise IntegrityError(f"the database is damaged: {_reason(exc)}") from exc
    except (lmdb.Error, OSError) as exc:
        raise StoreError(f"cannot {action} the database: {_reason(exc)}") from exc


def _reason(exc: BaseException) -> str:
    return str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__
