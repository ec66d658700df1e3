"""Changes on their way to the engine: gathered to be written together, and taken apart where there is no room for that.

Plain data and pure functions; `store` guards them with its lock.
"""

from __future__ import annotations

from dedupfs.storage import records
from dedupfs.storage.records import Table

PIECE_RECORDS = 64
"""On a full disk so many records go together, where all at once have no room: each may take a page or two until the
commit after the next, and the engine keeps a mebibyte for that."""

Changes = dict[bytes, bytes | bytearray | None]
"""Key, and the new value or None to delete."""


class Batch:
    """Changes on their way to the engine, kept by table and, where a table is asked by group, by group too."""

    def __init__(self) -> None:
        self.tables: dict[Table, Changes] = {}
        self.size_bytes = 0
        self._groups: dict[tuple[Table, bytes], Changes] = {}

    def put(self, table: Table, key: bytes, value: bytes | bytearray | None) -> None:
        changes = self.tables.setdefault(table, {})
        if key in changes:
            self.size_bytes -= len(key) + len(changes[key] or b"")
        changes[key] = value
        self.size_bytes += len(key) + len(value or b"")
        if table.group_bytes:
            self._groups.setdefault((table, key[: table.group_bytes]), {})[key] = value

    def group(self, table: Table, prefix: bytes) -> Changes:
        if not prefix:
            return self.tables.get(table, {})
        assert len(prefix) == table.group_bytes
        return self._groups.get((table, prefix), {})

    def merge(self, later: Batch) -> None:
        for table, changes in later.tables.items():
            for key, value in changes.items():
                self.put(table, key, value)


class Part:
    """What one transaction, or some in a row, changed and counted."""

    def __init__(self, changes: Batch, counted: dict[str, int]) -> None:
        self.changes = changes
        self.counted = counted

    @property
    def records(self) -> int:
        return sum(map(len, self.changes.tables.values()))

    def merge(self, later: Part) -> None:
        self.changes.merge(later.changes)
        for name, delta in later.counted.items():
            self.counted[name] = self.counted.get(name, 0) + delta


def pieces(parts: list[Part], limit_records: int | None = PIECE_RECORDS) -> list[Part]:
    """Return parts in the same order, those in a row put together up to a limit."""
    made: list[Part] = []
    for part in parts:
        if made and (limit_records is None or made[-1].records + part.records <= limit_records):
            made[-1].merge(part)
        else:
            made.append(part)
    return made


def steps_of(part: Part) -> list[Part]:
    """Return a transaction in steps where it only lets go of chunks, and as it is otherwise."""
    tables = part.changes.tables
    puts = (value for table in (records.CHUNKS, records.CONTENTS) for value in tables.get(table, {}).values())
    chunks = sorted(tables.get(records.CHUNKS, {}).keys() | tables.get(records.CHUNK_REFS, {}).keys())
    if not chunks or part.records <= PIECE_RECORDS or any(value is not None for value in puts):
        return [part]
    rest = Batch()
    for table, changes in tables.items():
        if table not in (records.CHUNKS, records.CHUNK_REFS):
            for key, value in changes.items():
                rest.put(table, key, value)
    steps = [Part(rest, part.counted)]
    for at in range(0, len(chunks), PIECE_RECORDS // 2):
        step = Batch()
        for table in (records.CHUNKS, records.CHUNK_REFS):
            changes = tables.get(table, {})
            for key in chunks[at : at + PIECE_RECORDS // 2]:
                if key in changes:
                    step.put(table, key, changes[key])
        steps.append(Part(step, {}))
    return steps
