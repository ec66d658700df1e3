"""One state of an LMDB environment for reading, and what LMDB's errors mean to whoever reads or writes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lmdb

from dedupfs.errors import IntegrityError, StoreError, StoreFullError
from dedupfs.storage.lmdb_walk import Walk

log = logging.getLogger(__name__)

_DAMAGE = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.NotFoundError, lmdb.PanicError)


class MapFullError(Exception):
    """The map must grow before the batch fits."""


class MapResizedError(Exception):
    """Another process has grown the map."""


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Turn lmdb's exceptions into ours."""
    try:
        yield
    except (lmdb.Error, MemoryError, OSError) as exc:
        raise translate(action, exc) from exc


def translate(action: str, exc: lmdb.Error | MemoryError | OSError) -> Exception:
    """Return our exception for one of lmdb's, or of the system's below it."""
    if isinstance(exc, lmdb.MapFullError):
        return MapFullError()
    if isinstance(exc, lmdb.MapResizedError):
        return MapResizedError()
    if isinstance(exc, lmdb.DiskError | MemoryError):
        return StoreFullError(f"cannot {action} the database: {_reason(exc)}")
    if isinstance(exc, _DAMAGE):
        return IntegrityError(f"the database is damaged: {_reason(exc)}")
    return StoreError(f"cannot {action} the database: {_reason(exc)}")


def _reason(exc: BaseException) -> str:
    return str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__


class LmdbSnapshot:
    """One read transaction, for the length of a `with` block.

    LMDB refuses to read on where the pages of one large value do not begin as they should. Then a Walk goes on: that
    value is for whoever opens it to find damaged, and the others are sound.

    Written out instead of with `contextmanager`, as is `get`: every record that is not cached comes this way, and
    generators around it took longer than LMDB itself.
    """

    __slots__ = ("_begin", "_leave", "_make_walk", "_tables", "_transaction", "_value", "_walk")

    def __init__(
        self,
        begin: Callable[[], lmdb.Transaction],
        leave: Callable[[], None],
        tables: dict[str, Any],
        value: Callable[[bytes | memoryview], bytes],
        make_walk: Callable[[int], Walk],
    ) -> None:
        self._begin = begin
        self._leave = leave
        self._tables = tables
        self._value = value
        self._make_walk = make_walk
        self._walk: Walk | None = None
        """Reads instead of the transaction, which is spoilt by the first error and keeps its pages all the same."""

    def __enter__(self) -> LmdbSnapshot:
        self._transaction = self._begin()
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self._transaction.abort()
        finally:
            self._leave()

    def get(self, table: str, key: bytes) -> bytes | None:
        if self._walk is None:
            try:
                found = self._transaction.get(key, db=self._tables[table])
                return None if found is None else self._value(found)
            except IntegrityError as exc:
                self._walk = self._go_on_without(exc)
            except (lmdb.Error, MemoryError, OSError) as exc:
                meaning = translate("read", exc)
                if not isinstance(meaning, IntegrityError):
                    raise meaning from exc
                self._walk = self._go_on_without(meaning)
        return self._walk.get(table, key)

    def scan(self, table: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        last: bytes | None = None
        if self._walk is None:
            try:
                with translated("read"), self._transaction.cursor(db=self._tables[table]) as cursor:
                    if not (cursor.set_range(prefix) if prefix else cursor.first()):
                        return
                    for key, value in cursor.iternext():
                        name = bytes(key)
                        if not name.startswith(prefix):
                            return
                        copied = self._value(value)
                        last = name
                        yield name, copied
                        if self._is_spoilt():
                            # Somebody has asked for a damaged value meanwhile.
                            break
                    else:
                        return
            except IntegrityError as exc:
                self._walk = self._go_on_without(exc)
        walk = self._walk
        assert walk is not None
        yield from walk.scan(table, prefix, after=last)

    def _is_spoilt(self) -> bool:
        return self._walk is not None

    def _go_on_without(self, exc: IntegrityError) -> Walk:
        log.warning("%s; reading goes on without LMDB", exc)
        return self._make_walk(self._transaction.id())
