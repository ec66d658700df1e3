"""`repair` restores order whatever was planted, keeps what can be read, and says what is gone."""

from __future__ import annotations

import stat

import pytest

from dedupfs.model import InodeNo
from dedupfs.storage import repair
from dedupfs.storage.check import check
from dedupfs.storage.mending import Plan
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.records import TABLES, Exact, Table
from dedupfs.storage.volume import Volume
from tests.storage.library import PICTURE, PLAIN, PLANTS, Library
from tests.storage.tree import stored_rows


def repaired(volume: Volume) -> Plan:
    """Repair, require that nothing is left but files that wait for their bytes, and that it was all in one go."""
    volume.store.commit()
    planned = repair.plan(volume, check(volume, data=True).readout)
    repair.apply(volume, planned)
    report = check(volume, data=True)
    assert [problem for problem in report.problems if problem.mendable] == []
    assert repair.plan(volume, report.readout).writes == []
    return planned


def names(volume: Volume, directory: InodeNo = ROOT) -> set[bytes]:
    return {entry.name for entry in volume.metadata.entries(directory)}


def read(volume: Volume, directory: InodeNo, name: bytes) -> bytes:
    entry = volume.metadata.find_entry(directory, name)
    assert entry is not None
    content_id = volume.metadata.inode(entry.inode).content
    assert content_id is not None
    content = volume.contents.get(content_id)
    assert isinstance(content, Exact)
    return volume.contents.read_all(content.layout)


def lost_and_found(volume: Volume) -> InodeNo:
    entry = volume.metadata.find_entry(ROOT, b"lost+found")
    assert entry is not None
    return entry.inode


def test_a_sound_volume_is_left_alone(library: Library) -> None:
    planned = repaired(library.volume)
    assert (planned.mended, planned.gone, planned.writes) == ({}, {}, [])


def test_an_empty_volume_is_left_alone(volume: Volume) -> None:
    assert repaired(volume).writes == []


@pytest.mark.parametrize("name", PLANTS)
def test_what_is_planted_is_mended(library: Library, name: str) -> None:
    _, planted = PLANTS[name]
    with library.volume.store.transaction() as transaction:
        planted(library, transaction)
    planned = repaired(library.volume)
    if name not in ("chunk_that_is_missing", "chunk_of_other_bytes", "rendition_of_something_missing"):
        assert planned.writes
        assert planned.mended or planned.gone
    untouched = {b"plain", b"twin", b"picture", b"undecided"}
    readable = {PLAIN, PICTURE, b"undecided"} - {PICTURE if "chunk" in name else b""}
    where = [(ROOT, each) for each in names(library.volume) & untouched]
    if b"lost+found" in names(library.volume):
        found = lost_and_found(library.volume)
        where += [(found, each) for each in names(library.volume, found)]
    if name == "content_of_another_id":
        # What is planted is another content.
        readable -= {PLAIN}
    held = {read(library.volume, *each) for each in where if _is_readable(library.volume, *each)}
    assert readable <= held | ({b"undecided"} if "undecided" in name else set())


def _is_readable(volume: Volume, directory: InodeNo, name: bytes) -> bool:
    entry = volume.metadata.find_entry(directory, name)
    assert entry is not None
    inode = volume.metadata.inode(entry.inode)
    if not stat.S_ISREG(inode.mode) or inode.content is None:
        return False
    content = volume.contents.find(inode.content)
    return isinstance(content, Exact) and all(
        chunk.chunk in stored_rows(volume, "chunks") and _opens(volume, content) for chunk in content.layout.extents
    )


def _opens(volume: Volume, content: Exact) -> bool:
    try:
        volume.contents.read_all(content.layout)
    except Exception:  # noqa: BLE001
        return False
    return True


SEALED = [table for table in TABLES if table.sealed]


@pytest.mark.parametrize("table", SEALED, ids=[table.name for table in SEALED])
@pytest.mark.parametrize("damage", ["flipped", "gone", "empty", "swapped"])
def test_a_damaged_record_is_mended(library: Library, table: Table, damage: str) -> None:
    rows = stored_rows(library.volume, table.name)
    assert rows
    backup = {each.name: stored_rows(library.volume, each.name) for each in TABLES}
    for key, sealed in rows.items():
        other = next((value for each, value in rows.items() if each != key), b"other")
        value = {"flipped": sealed[:-1] + bytes([sealed[-1] ^ 1]), "gone": None, "empty": b"", "swapped": other}[damage]
        library.volume.store.engine.apply([(table.name, key, value)])
        library.volume.store._cache.clear()
        repaired(library.volume)
        restore(library.volume, backup)


def restore(volume: Volume, tables: dict[str, dict[bytes, bytes]]) -> None:
    """Put the tables back as they were."""
    volume.store._cache.clear()
    for name, rows in tables.items():
        now = stored_rows(volume, name)
        volume.store.engine.apply([(name, key, None) for key in now.keys() - rows.keys()])
        volume.store.engine.apply([(name, key, value) for key, value in rows.items() if now.get(key) != value])
    volume.store._cache.clear()
