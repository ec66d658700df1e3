"""Copies what can still be read of a damaged database into a new one, table by table.

Of a damaged leaf page nothing is left. The pages below a damaged branch page are looked for in the whole file: a sound
leaf page that no table leads to and that is not free belongs to the gap its keys fit into. Where it fits into several,
as when nothing tells any more where the tables begin, the records themselves have to tell.
"""

from __future__ import annotations

import mmap
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from dedupfs.errors import IntegrityError, StoreError
from dedupfs.storage.engine import Change
from dedupfs.storage.lmdb_check import FREE_PAGES, TreeCheck
from dedupfs.storage.lmdb_engine import DATA_FILE, LOCK_FILE, LmdbEngine
from dedupfs.storage.lmdb_guard import Guard
from dedupfs.storage.lmdb_pages import LEAF, SUB_TABLE, Leaf, PageError, PageFile
from dedupfs.storage.lmdb_roots import possible_roots
from dedupfs.storage.lmdb_walk import Walk

BATCH_BYTES = 32 << 20
DAMAGED_FILE = "data.mdb.damaged"
"""The damaged database after it has been replaced; nothing reads it."""
_SCRATCH = "data.mdb.new"


class Judge(Protocol):
    """Who can read the records of a database."""

    def table_of(self, key: bytes, value: bytes, tables: Sequence[str]) -> str | None:
        """Tell which of some tables a record was written for; None: it cannot be told."""

    def age(self, walk: Walk) -> tuple[int, ...]:
        """Return what is larger the later a commit is."""


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
    is_latest: bool = True
    """False where the root of the last commit was lost, so that it may be missing, and some before it."""


def salvage(directory: Path, target: Path, tables: Sequence[str], judge: Judge | None = None) -> Salvage:
    """Copy the tables of a database, which nobody may be writing to, into a new one in an empty directory.

    Values that cannot be read become empty, as `Snapshot` says. Nothing is changed in `directory`. `judge` is asked
    where the pages do not tell which table a record is from, or which of several commits is the last.
    Raises:
        IntegrityError: not even the root of some commit can be found.
        StoreFullError, StoreError: the new database cannot be written.
    """
    with ExitStack() as held:
        pages, walk = _last_commit(directory / DATA_FILE, tables, judge)
        held.callback(pages.close)
        engine = LmdbEngine(target, tables, create=True)
        held.callback(engine.close)
        run = _Run(pages, walk, engine)
        # The first commit of a database has the number 1, and what `possible_roots` finds has none.
        run.done.is_latest = walk.meta.transaction > 0
        for table in tables:
            run.copy_table(table)
        # What is free cannot be told from what is lost without a root, and free pages hold what has been deleted.
        if run.done.gaps and run.done.is_latest:
            run.copy_lost_leaves(judge)
        run.flush()
        return run.done


def _last_commit(path: Path, tables: Sequence[str], judge: Judge | None) -> tuple[PageFile, Walk]:
    pages: PageFile | None = None
    try:
        pages = PageFile(path)
        walk = Guard(pages).walk(None)
        assert walk is not None
        return pages, walk
    except IntegrityError:
        if pages is None:
            pages = PageFile(path, mmap.PAGESIZE)
        walks = list(possible_roots(pages, tables)) if judge is not None else []
        if not walks or judge is None:
            pages.close()
            raise
        return pages, max(walks, key=judge.age)


def rebuild(directory: Path, tables: Sequence[str], judge: Judge | None = None) -> Salvage:
    """Put a new database with what `salvage` finds in the place of a damaged one, which stays beside it.

    The caller holds the lock of the directory and has no engine open. A crash leaves one or the other in force.
    Raises as `salvage` does, and StoreError.
    """
    scratch = directory / _SCRATCH
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(mode=0o700)
        try:
            done = salvage(directory, scratch, tables, judge)
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

    def copy_lost_leaves(self, judge: Judge | None) -> None:
        """Copy the records of leaf pages that fit into the gap of one table."""
        for leaf in self._lost_leaves():
            first, last = leaf.keys[0], leaf.keys[-1]
            gaps = self.done.gaps
            tables = [gap.table for gap in gaps if gap.first <= first and (gap.last is None or last < gap.last)]
            table = tables[0] if len(tables) == 1 else None
            if len(tables) > 1 and judge is not None:
                table = self._table_of(leaf, tables, judge)
            if table is None:
                continue
            for index, key in enumerate(leaf.keys):
                self._put(table, key, self._walk.value(leaf, index))
                self.done.found_again += 1

    def _table_of(self, leaf: Leaf, tables: Sequence[str], judge: Judge) -> str | None:
        """Return the table of a leaf page, all of whose records are of one, by the first that can be told."""
        for index, key in enumerate(leaf.keys):
            table = judge.table_of(key, self._walk.value(leaf, index), tables)
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
                if self._pages.looks_like(number, LEAF):
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
