"""Copies what can still be read of a damaged database into a new one, table by table.

Of a damaged leaf page nothing is left. The pages below a damaged branch page are looked for in the whole file: a sound
leaf page that no table leads to and that is not free belongs to the gap its keys fit into. Where it fits into several,
as when nothing tells any more where the tables begin, the records themselves have to tell.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dedupfs.errors import IntegrityError, StoreError
from dedupfs.storage.engine import Change
from dedupfs.storage.lmdb_check import FREE_PAGES, TreeCheck
from dedupfs.storage.lmdb_engine import DATA_FILE, LOCK_FILE, LmdbEngine
from dedupfs.storage.lmdb_guard import Guard
from dedupfs.storage.lmdb_pages import LEAF, PAGE_HEADER_BYTES, SUB_TABLE, Leaf, PageError, PageFile
from dedupfs.storage.lmdb_walk import Walk

BATCH_BYTES = 32 << 20
DAMAGED_FILE = "data.mdb.damaged"
"""The damaged database after it has been replaced; nothing reads it."""
_SCRATCH = "data.mdb.new"
Identify = Callable[[bytes, bytes, Sequence[str]], str | None]
"""Told a key, its value and some tables, tells which of them the record was written for; None: it cannot be told."""
_LEAF_FLAGS = LEAF.to_bytes(2, sys.byteorder)


@dataclass(frozen=True, slots=True)
class Gap:
    """Keys of a table that nothing is known of, from `first` up to, and without, `last` (None: to the end)."""

    table: str
    first: bytes
    last: bytes | None
    reason: str


@dataclass(slots=True)
class Salvage:
    """How many records were copied, how many of them from pages without a place, and where some may be missing."""

    records: int = 0
    found_again: int = 0
    gaps: list[Gap] = field(default_factory=list)


def salvage(directory: Path, target: Path, tables: Sequence[str], identify: Identify | None = None) -> Salvage:
    """Copy the tables of a database, which nobody may be writing to, into a new one in an empty directory.

    Values that cannot be read become empty, as `Snapshot` says. Nothing is changed in `directory`.
    Raises:
        IntegrityError: not even the roots of the last commit can be found.
        StoreFullError, StoreError: the new database cannot be written.
    """
    pages = PageFile(directory / DATA_FILE)
    try:
        walk = Guard(pages).walk(None)
        assert walk is not None
        engine = LmdbEngine(target, tables, create=True)
        try:
            run = _Run(pages, walk, engine)
            for table in tables:
                run.copy_table(table)
            if run.done.gaps:
                run.copy_lost_leaves(identify)
            run.flush()
            return run.done
        finally:
            engine.close()
    finally:
        pages.close()


def rebuild(directory: Path, tables: Sequence[str], identify: Identify | None = None) -> Salvage:
    """Put a new database with what `salvage` finds in the place of a damaged one, which stays beside it.

    The caller holds the lock of the directory and has no engine open. A crash leaves one or the other in force.
    Raises as `salvage` does, and StoreError.
    """
    scratch = directory / _SCRATCH
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(mode=0o700)
        try:
            done = salvage(directory, scratch, tables, identify)
            kept = directory / DAMAGED_FILE
            kept.unlink(missing_ok=True)
            os.link(directory / DATA_FILE, kept)
            os.replace(scratch / DATA_FILE, directory / DATA_FILE)
            # It tells which commit is the last, of the old database.
            (directory / LOCK_FILE).unlink(missing_ok=True)
            _sync(directory)
            return done
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as exc:
        raise StoreError(f"the database cannot be made anew: {exc.strerror}") from exc


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Run:
    def __init__(self, pages: PageFile, walk: Walk, engine: LmdbEngine) -> None:
        self._pages = pages
        self._walk = walk
        self._engine = engine
        self._batch: list[Change] = []
        self._batch_bytes = 0
        self.done = Salvage()

    def copy_table(self, table: str) -> None:
        def skip(error: PageError, first: bytes, last: bytes | None) -> None:
            self.done.gaps.append(Gap(table, first, last, str(error)))

        try:
            for key, value in self._walk.scan(table, skip=skip):
                self._put(table, key, value)
        except IntegrityError as exc:
            # Not even its root is to be found.
            self.done.gaps.append(Gap(table, b"", None, str(exc)))

    def copy_lost_leaves(self, identify: Identify | None) -> None:
        """Copy the records of leaf pages that fit into the gap of one table."""
        for leaf in self._lost_leaves():
            first, last = leaf.keys[0], leaf.keys[-1]
            gaps = self.done.gaps
            tables = [gap.table for gap in gaps if gap.first <= first and (gap.last is None or last < gap.last)]
            table = tables[0] if len(tables) == 1 else None
            if len(tables) > 1 and identify is not None:
                table = self._table_of(leaf, tables, identify)
            if table is None:
                continue
            for index, key in enumerate(leaf.keys):
                self._put(table, key, self._walk.value(leaf, index))
                self.done.found_again += 1

    def _table_of(self, leaf: Leaf, tables: Sequence[str], identify: Identify) -> str | None:
        """Return the table of a leaf page, all of whose records are of one, by the first that can be told."""
        for index, key in enumerate(leaf.keys):
            table = identify(key, self._walk.value(leaf, index), tables)
            if table is not None:
                return table
        return None

    def _lost_leaves(self) -> Iterator[Leaf]:
        check = TreeCheck(self._pages, self._walk)
        for _ in check.steps():
            pass
        if any(found.table == FREE_PAGES for found in check.damage):
            # What is free cannot be told from what is lost, and free pages hold what has been deleted.
            return
        for number in check.unused_pages():
            if number * self._pages.page_bytes >= self._pages.size_bytes():
                return
            try:
                header = self._pages.read(number * self._pages.page_bytes, PAGE_HEADER_BYTES)
                if len(header) == PAGE_HEADER_BYTES and header[10:12] == _LEAF_FLAGS:
                    leaf = self._pages.leaf(number, self._walk.meta.end_page)
                    if all(flags != SUB_TABLE for flags, _, _ in leaf.nodes):
                        yield leaf
            except IntegrityError:
                continue

    def _put(self, table: str, key: bytes, value: bytes) -> None:
        self._batch.append((table, key, value))
        self._batch_bytes += len(key) + len(value)
        self.done.records += 1
        if self._batch_bytes > BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        self._engine.apply(self._batch)
        self._batch, self._batch_bytes = [], 0
