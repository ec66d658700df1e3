"""Transactions, grouped commits and sealing, above any engine.

Operations run in transactions that are atomic and see each other at once; what they changed is gathered in memory and
handed to the engine as one batch, at most GROUP_SECONDS or GROUP_BYTES apart, or at once on `commit`. A crash therefore
leaves the volume as it was between two operations. Records are sealed when a batch leaves for the engine and opened
when they are read from it, so that ten changes to one inode in a second cost one encryption.

Locks: `lock` (reentrant) guards the gathered changes and is held for the length of a transaction; holding it, nobody
may wait for anything but memory. `_commit_lock` is held by the one thread that writes a batch, and is always taken
before `lock`, never inside it. A third state, the batch on its way, is read-only and dropped under `lock` once durable.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from dedupfs.crypto.keys import Keyring
from dedupfs.errors import IntegrityError, StoreError, StoreFullError, StoreReadOnlyError
from dedupfs.storage import codec, records
from dedupfs.storage.batches import Batch, Changes, Part, pieces, steps_of
from dedupfs.storage.engine import Change, Engine
from dedupfs.storage.records import Table
from dedupfs.storage.sizes import USUAL

log = logging.getLogger(__name__)

GROUP_SECONDS = 1.0
GROUP_BYTES = 8 << 20
"""While the disk is busy with one group the next grows beyond that. Copying 95 MB in and unmounting, medians of five
rounds: 234 MB/s with 4 and 8 MiB, 213 with 16, 182 with 32, where less is done by the time that the copy ends."""
_LARGE_BYTES = 4096
"""Room for values from here on is set aside when they are accepted; for the others there is the engine's reserve."""
_RECORD_BYTES = 350
"""What a record that is kept takes besides its value: the key, and Python's objects around them."""
_COUNTERS_KEY = b"counters"


class Store:
    """The tables of one volume, in the clear for its own process."""

    def __init__(
        self,
        engine: Engine,
        keyring: Keyring,
        *,
        read_only: bool = False,
        group_seconds: float = GROUP_SECONDS,
        group_bytes: int = GROUP_BYTES,
        waiting_bytes: int = USUAL.waiting,
        records_bytes: int = USUAL.records,
    ) -> None:
        self.engine = engine
        self.keyring = keyring
        self.read_only = read_only
        self.lock = threading.RLock()
        self._group_seconds = group_seconds
        self._group_bytes = min(group_bytes, waiting_bytes // 2)
        self._most_waiting_bytes = waiting_bytes
        self._gathered = Batch()
        self._leaving = Batch()
        self._gathered_parts: list[Part] = []
        self._leaving_parts: list[Part] = []
        self._parts_bytes = 0
        self._generation = 0
        self._leaving_generation = 0
        self._durable_generation = 0
        self._cache: OrderedDict[tuple[str, bytes], bytes | None] = OrderedDict()
        self._cache_bytes = 0
        self._cache_limit_bytes = records_bytes
        self._transaction: Transaction | None = None
        self._commit_lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._failure: StoreError | IntegrityError | None = None
        self._waiting_limit_bytes = 0
        self._counters: dict[str, int] = {}
        self._leaving_counters: dict[str, int] = {}
        self._durable_counters: dict[str, int] = {}
        self._has_counted = False
        self.reread_counters()
        self._committer: threading.Thread | None = None
        if not read_only:
            self._committer = threading.Thread(target=self._commit_now_and_then, name="committer", daemon=True)
            self._committer.start()

    # Reading

    def get(self, table: Table, key: bytes) -> bytes | None:
        """Return the value in the clear, or None. Raises IntegrityError."""
        with self.lock:
            for batch in self._batches():
                changes = batch.tables.get(table)
                if changes is not None and key in changes:
                    return _as_bytes(changes[key])
            if table.sealed:
                slot = (table.name, key)
                if slot in self._cache:
                    self._cache.move_to_end(slot)
                    return self._cache[slot]
                with self.engine.snapshot() as snapshot:
                    value = self._opened(table, key, snapshot.get(table.name, key))
                self._remember(slot, value)
                return value
        # Values of the other tables are large and never change under one key, so they are read without the lock.
        with self.engine.snapshot() as snapshot:
            return snapshot.get(table.name, key)

    def scan(
        self, table: Table, *prefixes: bytes, damaged: Callable[[bytes, IntegrityError], None] | None = None
    ) -> list[tuple[bytes, bytes]]:
        """Return keys and values in the clear, in the order of the keys; those of the whole table without a prefix.

        Each prefix is exactly `table.group_bytes` long. Where `damaged` is given, it is told of records that do not
        open, and the others are returned.
        Raises:
            IntegrityError: a record does not open, and nobody wants to be told.
        """
        with self.lock:
            found: dict[bytes, bytes] = {}
            with self.engine.snapshot() as snapshot:
                for prefix in prefixes or (b"",):
                    changes: Changes = {}
                    for batch in reversed(self._batches()):
                        changes.update(batch.group(table, prefix))
                    stored = snapshot.scan(table.name, prefix)
                    if table.sealed:
                        stored = self._opened_of(table, stored, changes, damaged, keep=bool(prefix))
                    found.update(stored)
                    for key, value in changes.items():
                        if value is None:
                            found.pop(key, None)
                        else:
                            found[key] = bytes(value)
        return sorted(found.items())

    def keys(self, table: Table) -> list[bytes]:
        """Return all keys of a table, in order, without opening the values."""
        with self.lock:
            changes: Changes = {}
            for batch in reversed(self._batches()):
                changes.update(batch.group(table, b""))
            with self.engine.snapshot() as snapshot:
                stored = {key for key, _ in snapshot.scan(table.name)}
        gone = {key for key, value in changes.items() if value is None}
        return sorted((stored | changes.keys()) - gone)

    @property
    def counters(self) -> Mapping[str, int]:
        """The running totals, as of the last finished transaction."""
        with self.lock:
            return dict(self._counters)

    @property
    def waiting_bytes(self) -> int:
        """Bytes that have not reached the engine yet."""
        return self._gathered.size_bytes + self._leaving.size_bytes

    # Writing

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Run a block whose changes happen together or, if it raises, not at all. Nested blocks join the outer one.

        Raises:
            StoreReadOnlyError: the volume is open for reading only.
            StoreFullError: too much is waiting for a disk that stays full.
            IntegrityError: what is waiting cannot be written for damage.
        """
        with self.lock:
            if self._transaction is not None:
                yield self._transaction
                return
            if self.read_only:
                raise StoreReadOnlyError("the volume is open for reading only")
            if self._failure is not None and self.waiting_bytes > self._waiting_limit_bytes:
                raise self._failure
            transaction = Transaction(self)
            self._transaction = transaction
            try:
                yield transaction
            finally:
                self._transaction = None
            self._gather(transaction)
            for notice in transaction.notices:
                notice()

    def reread_counters(self) -> None:
        """Take the running totals from their record; nobody is kept from his files because they are damaged."""
        with self.lock:
            try:
                stored = self.get(records.VOLUME, _COUNTERS_KEY)
                self._counters = codec.decode_counters(stored) if stored else {}
            except IntegrityError as exc:
                log.error("the totals of the volume are damaged; `dedupfs check --repair` counts them anew: %s", exc)
                self._counters = {}
            self._durable_counters = dict(self._counters)

    def commit(self) -> None:
        """Return when everything that finished before the call is durable.

        Raises:
            StoreFullError: the disk is full; nothing is lost, and a later commit tries again.
            StoreError, IntegrityError: it failed otherwise; nothing is lost before the volume is closed.
        """
        with self.lock:
            wanted = self._generation
        with self._commit_lock:
            if self._durable_generation < wanted:
                self._write_batch()

    def wait_for_room(self) -> None:
        """Block while too much waits for the disk; writers of bulk data call this in between.

        One batch gathers while the committer writes the other, so that sealing and the disk work at once.
        """
        if self.waiting_bytes > self._most_waiting_bytes:
            self.commit()

    def close(self) -> None:
        """Commit and release the engine, whatever happens. Raises what `commit` raises."""
        self._closing = True
        self._wake.set()
        if self._committer is not None:
            self._committer.join()
        try:
            if not self.read_only:
                self.commit()
        finally:
            self.engine.close()

    # Inside

    def _batches(self) -> list[Batch]:
        """Return what is not with the engine yet, latest first; under the lock."""
        own = [] if self._transaction is None else [self._transaction.changes]
        return [*own, self._gathered, self._leaving]

    def _gather(self, transaction: Transaction) -> None:
        if not transaction.changes.tables and not transaction.counted:
            return
        self._gathered.merge(transaction.changes)
        part = Part(transaction.changes, transaction.counted)
        self._gathered_parts.append(part)
        if self._failure is not None:
            # Nobody knows for how long the disk stays full, and a value that is replaced here can go.
            self._gathered_parts[-2:] = pieces(self._gathered_parts[-2:])
        self._parts_bytes += transaction.changes.size_bytes
        if self._parts_bytes > self._gathered.size_bytes + self._group_bytes:
            # Somebody writes the same bytes again and again, and what was replaced before the commit is still here.
            self._gathered_parts = pieces(self._gathered_parts, limit_records=None)
            self._parts_bytes = self._gathered.size_bytes
        for table, changes in transaction.changes.tables.items():
            if table.sealed:
                for key in changes:
                    self._forget((table.name, key))
        if transaction.counted:
            for name, delta in transaction.counted.items():
                self._counters[name] = self._counters.get(name, 0) + delta
            self._has_counted = True
        self._generation += 1
        if self._gathered.size_bytes > self._group_bytes:
            self._wake.set()

    def _write_batch(self) -> None:
        with self.lock:
            if self._has_counted:
                # Once for all transactions of the batch.
                self._gathered.put(records.VOLUME, _COUNTERS_KEY, codec.encode_counters(self._counters))
                self._has_counted = False
            if not self._leaving.tables:
                self._leaving, self._gathered = self._gathered, Batch()
            else:
                # The last attempt failed; what has come since goes along.
                self._leaving.merge(self._gathered)
                self._gathered = Batch()
            self._leaving_generation = self._generation
            self._leaving_parts += self._gathered_parts
            self._gathered_parts = []
            self._parts_bytes = 0
            self._leaving_counters = dict(self._counters)
            leaving = self._leaving
        try:
            try:
                self.engine.apply(self._sealed(leaving))
            except StoreFullError:
                self._write_in_pieces()
        except (StoreError, IntegrityError) as exc:
            with self.lock:
                if isinstance(exc, StoreReadOnlyError | IntegrityError):
                    # The engine has found damage and will hardly write again, so nothing more is taken on.
                    self._waiting_limit_bytes = -1
                elif self._failure is None:
                    # Room for what frees space, not for what fills memory while the disk stays full.
                    self._waiting_limit_bytes = self.waiting_bytes + self._group_bytes
                self._failure = exc
            raise
        with self.lock:
            self._failure = None
            self._durable_generation = self._leaving_generation
            for table, changes in leaving.tables.items():
                if table.sealed:
                    for key, value in changes.items():
                        self._remember((table.name, key), _as_bytes(value))
            self._leaving = Batch()
            self._leaving_parts = []
            self._durable_counters = self._leaving_counters

    def _write_in_pieces(self) -> None:
        """Write the batch in steps that end between two transactions, for a disk without room for all at once.

        What a deletion frees helps the ones behind it. Raises as `Engine.apply` does, with what is left as the batch.

        A transaction that has no room by itself and does nothing but let go of chunks lets go of them in steps, after
        all the rest: a crash in between leaves chunks that nothing names, which take room until a repair, and no harm.
        """
        left = pieces(self._leaving_parts)
        try:
            while left:
                piece, counters = left[0], dict(self._durable_counters)
                if piece.counted:
                    for name, delta in piece.counted.items():
                        counters[name] = counters.get(name, 0) + delta
                    piece.changes.put(records.VOLUME, _COUNTERS_KEY, codec.encode_counters(counters))
                try:
                    self.engine.apply(self._sealed(piece.changes))
                except StoreFullError:
                    steps = steps_of(piece)
                    if len(steps) == 1:
                        raise
                    left[:1] = steps
                    continue
                self._durable_counters = counters
                del left[0]
        except StoreError:
            with self.lock:
                self._leaving_parts = left
                self._leaving = Batch()
                for part in left:
                    self._leaving.merge(part.changes)
                self._leaving.put(records.VOLUME, _COUNTERS_KEY, codec.encode_counters(self._leaving_counters))
            raise

    def set_aside(self, size_bytes: int) -> None:
        """Have the engine keep room for a value that joins what waits. Raises StoreFullError."""
        own = self._transaction.changes.size_bytes if self._transaction is not None else 0
        self.engine.set_aside(self.waiting_bytes + own + size_bytes)

    def _sealed(self, batch: Batch) -> Iterator[Change]:
        for table, changes in batch.tables.items():
            # Large values lie on the disk as they are put: in the order in which a file has them it is read at one go.
            for key, value in sorted(changes.items()) if table.sealed else changes.items():
                if value is not None and table.sealed:
                    value = self.keyring.seal_record(records.place(table, key), bytes(value))
                yield table.name, key, value

    def _opened(self, table: Table, key: bytes, value: bytes | None) -> bytes | None:
        if value is None or not table.sealed:
            return value
        return self.keyring.open_record(records.place(table, key), value)

    def _opened_of(
        self,
        table: Table,
        stored: Iterable[tuple[bytes, bytes]],
        changes: Changes,
        damaged: Callable[[bytes, IntegrityError], None] | None,
        *,
        keep: bool,
    ) -> Iterator[tuple[bytes, bytes]]:
        """Open what has not changed since it was stored; with `keep` it need not be opened the next time."""
        for key, value in stored:
            if key in changes:
                continue
            opened = self._cache.get((table.name, key))
            if opened is None:
                try:
                    opened = self.keyring.open_record(records.place(table, key), value)
                except IntegrityError as exc:
                    if damaged is None:
                        raise
                    damaged(key, exc)
                    continue
                if keep:
                    self._remember((table.name, key), opened)
            yield key, opened

    def _remember(self, slot: tuple[str, bytes], value: bytes | None) -> None:
        if self.read_only:
            # Another process may be writing, and nobody tells us what it changes.
            return
        self._forget(slot)
        self._cache[slot] = value
        # The record of a large file is itself large.
        self._cache_bytes += _RECORD_BYTES + len(value or b"")
        while self._cache_bytes > self._cache_limit_bytes:
            _, oldest = self._cache.popitem(last=False)
            self._cache_bytes -= _RECORD_BYTES + len(oldest or b"")

    def _forget(self, slot: tuple[str, bytes]) -> None:
        if slot in self._cache:
            self._cache_bytes -= _RECORD_BYTES + len(self._cache.pop(slot) or b"")

    def _commit_now_and_then(self) -> None:
        while not self._closing:
            self._wake.wait(self._group_seconds)
            self._wake.clear()
            try:
                self.commit()
            except StoreFullError:
                log.warning("the disk below the volume is full; changes are held in memory until there is room")
            except StoreReadOnlyError as exc:
                log.error("what has been changed since the last commit cannot be stored: %s", exc)
                return
            except Exception:
                log.exception("a group of changes could not be written; it is held in memory and tried again")
                if not self._closing:
                    self._wake.wait(self._group_seconds)


class Transaction:
    """Changes of one atomic operation. Reading the store on the thread that runs the block sees them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.changes = Batch()
        self.counted: dict[str, int] = {}
        self.notices: list[Callable[[], None]] = []

    def put(self, table: Table, key: bytes, value: bytes | bytearray) -> None:
        """Set a value; one that is a bytearray must stay as it is from now on.

        Raises StoreFullError where it is a large one and finds no room.
        """
        if len(value) >= _LARGE_BYTES and not table.sealed:
            self._store.set_aside(len(value))
        self.changes.put(table, key, value)

    def delete(self, table: Table, key: bytes) -> None:
        """Remove a key, whether or not it is there."""
        self.changes.put(table, key, None)

    def count(self, name: str, delta: int) -> None:
        """Add to one of the volume's running totals."""
        if delta:
            self.counted[name] = self.counted.get(name, 0) + delta

    def afterwards(self, notice: Callable[[], None]) -> None:
        """Have something done, still under the store's lock, once the changes stand; not at all if they do not."""
        self.notices.append(notice)

    def next_number(self, name: str) -> int:
        """Return 1, 2, 3 ... over the life of the volume."""
        key = name.encode()
        stored = self._store.get(records.VOLUME, key)
        number = codec.decode_number(stored) if stored else 1
        self.put(records.VOLUME, key, codec.encode_number(number + 1))
        return number


def _as_bytes(value: bytes | bytearray | None) -> bytes | None:
    return bytes(value) if value is not None else None
