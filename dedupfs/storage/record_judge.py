"""Tells, with the keys of a volume, what the pages of its database do not: whose record this is, and how old.

A sealed record opens in its own table and under its own key alone. Used by a salvage, on one thread.
"""

from __future__ import annotations

from collections.abc import Sequence

from dedupfs.crypto.keys import Keyring
from dedupfs.errors import FormatVersionError, IntegrityError
from dedupfs.storage import codec, records
from dedupfs.storage import header as headers
from dedupfs.storage.lmdb_pages import PageError
from dedupfs.storage.lmdb_walk import Walk
from dedupfs.storage.records import Table


class RecordJudge:
    """Reads records of one volume, wherever they are found."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def table_of(self, key: bytes, value: bytes, tables: Sequence[str]) -> str | None:
        """Return which of some tables a record was written for. Of the similarity index it cannot be told."""
        for table in records.TABLES:
            if table.name in tables and table is not records.BANDS:
                try:
                    self._open(table, key, value)
                except (IntegrityError, FormatVersionError):
                    continue
                return table.name
        return None

    def age(self, walk: Walk) -> tuple[int, ...]:
        """Return what is larger the later a commit is: numbers that only grow, and then the clock.

        The last one is larger the fewer pictures wait for a decision, for deciding changes nothing else of these.
        """
        changed_ns = 0
        for key, value in walk.scan(records.INODES.name, skip=_pass_over):
            try:
                changed_ns = max(changed_ns, codec.decode_inode(self._open(records.INODES, key, value)).ctime_ns)
            except IntegrityError:
                continue
        waiting = sum(1 for _ in walk.scan(records.UNDECIDED.name, skip=_pass_over))
        return self._number(walk, b"next_inode"), self._number(walk, b"next_cluster"), changed_ns, -waiting

    def _number(self, walk: Walk, name: bytes) -> int:
        try:
            value = walk.get(records.VOLUME.name, name)
            return 0 if value is None else codec.decode_number(self._open(records.VOLUME, name, value))
        except IntegrityError:
            return 0

    def _open(self, table: Table, key: bytes, value: bytes) -> bytes:
        if table is records.CHUNKS:
            return self._keyring.open_chunk(key, value)
        if table is records.HEADER:
            headers.parse(value)
            return value
        return self._keyring.open_record(records.place(table, key), value)


def _pass_over(error: PageError, first: bytes, last: bytes | None) -> None:
    """A commit that is damaged here and there may be the last all the same."""
