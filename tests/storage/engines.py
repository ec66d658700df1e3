"""Engines for tests: one that lives in memory, and one that fails when it is told to."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from dedupfs.errors import IntegrityError, StoreError
from dedupfs.storage.engine import Change, Engine, Snapshot

_TOTAL_BYTES = 1 << 40


@dataclass(frozen=True)
class _Rows:
    """A table, never changed in place, and its keys in order."""

    values: dict[bytes, bytes] = field(default_factory=dict)
    keys: list[bytes] = field(default_factory=list)


class MemoryEngine:
    """Tables in memory; a snapshot is a reference to what they were."""

    def __init__(self, tables: Iterable[str]) -> None:
        self._tables = {name: _Rows() for name in tables}
        self._lock = threading.Lock()

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """See Engine."""
        yield _MemorySnapshot(self._tables)

    def apply(self, changes: Iterable[Change]) -> None:
        """See Engine."""
        with self._lock:
            changed: dict[str, dict[bytes, bytes]] = {}
            for table, key, value in changes:
                if table not in changed:
                    changed[table] = dict(self._tables[table].values)
                if value is None:
                    changed[table].pop(key, None)
                else:
                    changed[table][key] = bytes(value)
            self._tables = {**self._tables, **{name: _Rows(rows, sorted(rows)) for name, rows in changed.items()}}

    def set_aside(self, size_bytes: int) -> None:
        """See Engine. Memory has room."""

    def allocated_bytes(self) -> int:
        """See Engine."""
        return sum(len(key) + len(value) for rows in self._tables.values() for key, value in rows.values.items())

    def free_bytes(self) -> int:
        """See Engine."""
        return _TOTAL_BYTES - self.allocated_bytes()

    def total_bytes(self) -> int:
        """See Engine."""
        return _TOTAL_BYTES

    def close(self) -> None:
        """See Engine. The tables stay, so that another store can be opened on them."""


class _MemorySnapshot:
    def __init__(self, tables: Mapping[str, _Rows]) -> None:
        self._tables = tables

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._tables[table].values.get(key)

    def scan(self, table: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        rows = self._tables[table]
        for at in range(bisect_left(rows.keys, prefix), len(rows.keys)):
            key = rows.keys[at]
            if not key.startswith(prefix):
                return
            yield key, rows.values[key]


class FaultyEngine:
    """Another engine whose `apply` raises `failure` while there is one, and waits while `passing` is not set."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.failure: StoreError | IntegrityError | None = None
        self.passing = threading.Event()
        self.passing.set()
        self.arrived = threading.Event()
        self.applied: list[list[Change]] = []

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """See Engine."""
        return self._engine.snapshot()

    def apply(self, changes: Iterable[Change]) -> None:
        """See Engine."""
        batch = list(changes)
        self.arrived.set()
        assert self.passing.wait(30)
        if self.failure is not None:
            raise self.failure
        self._engine.apply(batch)
        self.applied.append(batch)

    def set_aside(self, size_bytes: int) -> None:
        """See Engine."""
        self._engine.set_aside(size_bytes)

    def allocated_bytes(self) -> int:
        """See Engine."""
        return self._engine.allocated_bytes()

    def free_bytes(self) -> int:
        """See Engine."""
        return self._engine.free_bytes()

    def total_bytes(self) -> int:
        """See Engine."""
        return self._engine.total_bytes()

    def close(self) -> None:
        """See Engine."""
        self._engine.close()
