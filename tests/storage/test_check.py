"""`check` finds every contradiction that can be planted, names who suffers, and finds nothing where all is well."""

from __future__ import annotations

import threading

import pytest

from dedupfs.errors import IntegrityError
from dedupfs.storage import records
from dedupfs.storage.check import check
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.records import Rendition, Table, number_key
from dedupfs.storage.report import Problem
from dedupfs.storage.volume import Volume
from tests.conftest import reopen
from tests.storage.library import COPY, PICTURE, PLAIN, PLANTS, Library
from tests.storage.tree import problems, stored_rows


def test_a_volume_with_one_of_everything_is_clean(library: Library) -> None:
    assert problems(library.volume) == []


def test_an_empty_volume_is_clean(volume: Volume) -> None:
    assert problems(volume) == []


def test_a_reader_finds_it_clean_too(library: Library) -> None:
    directory = library.volume.directory
    library.volume.close()
    reader = reopen(directory, read_only=True)
    report = check(reader, data=True)
    reader.close()
    assert report.problems == []
    assert report.chunks_opened == 4
    assert report.records > 40


@pytest.mark.parametrize("name", PLANTS)
def test_a_contradiction_is_reported(library: Library, name: str) -> None:
    text, planted = PLANTS[name]
    with library.volume.store.transaction() as transaction:
        planted(library, transaction)
    found = problems(library.volume)
    assert any(text in problem.text for problem in found), found


# Damaged bytes

SEALED = [table for table in records.TABLES if table.sealed]


@pytest.mark.parametrize("table", SEALED, ids=[table.name for table in SEALED])
def test_a_flipped_bit_in_any_record_is_reported(library: Library, table: Table) -> None:
    rows = stored_rows(library.volume, table.name)
    assert rows
    for key, sealed in rows.items():
        changed = sealed[:-1] + bytes([sealed[-1] ^ 1])
        library.volume.store.engine.apply([(table.name, key, changed)])
        found = check(library.volume).problems
        assert any(f"a record of {table.name} is damaged" in problem.text for problem in found)
        library.volume.store.engine.apply([(table.name, key, sealed)])
    assert problems(library.volume) == []


def test_a_flipped_bit_in_the_index_is_reported(library: Library) -> None:
    for key, masked in stored_rows(library.volume, "bands").items():
        library.volume.store.engine.apply([("bands", key, masked[:-1] + bytes([masked[-1] ^ 1]))])
        assert [problem.text for problem in check(library.volume).problems] == [
            "cluster 1 is not indexed as it should be"
        ]
        library.volume.store.engine.apply([("bands", key, masked)])


def test_a_record_moved_to_another_key_is_reported(library: Library) -> None:
    rows = stored_rows(library.volume, "inodes")
    library.volume.store.engine.apply([("inodes", number_key(library.plain_inode), rows[number_key(ROOT)])])
    assert (
        Problem("a record of inodes is damaged: a sealed record failed authentication", inode=library.plain_inode)
        in check(library.volume).problems
    )


def test_a_flipped_byte_on_the_disk_names_the_content(library: Library) -> None:
    sealed = stored_rows(library.volume, "chunks")[library.chunk(PLAIN)]
    directory = library.volume.directory
    library.volume.close()
    data = (directory / "data.mdb").read_bytes()
    at = data.index(sealed[:100]) + 2000
    (directory / "data.mdb").write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
    damaged = reopen(directory)
    assert check(damaged).problems == []
    assert check(damaged, data=True).problems == [
        Problem("a chunk is damaged", mendable=False),
        Problem("a file cannot be read whole", library.plain, mendable=False),
    ]
    with pytest.raises(IntegrityError):
        damaged.contents.read_all(damaged.contents.describe(PLAIN))
    damaged.close()


def test_damage_to_a_representative_names_its_renditions(library: Library) -> None:
    chunk = library.chunk(PICTURE)
    sealed = stored_rows(library.volume, "chunks")[chunk]
    library.volume.store.engine.apply([("chunks", chunk, sealed[:-1] + bytes([sealed[-1] ^ 1]))])
    hit = {problem.content for problem in check(library.volume, data=True).problems}
    assert hit == {None, library.picture, library.copy}


# Renditions


def test_every_rendition_is_made(library: Library) -> None:
    made: list[Rendition] = []

    def render(rendition: Rendition) -> bytes:
        made.append(rendition)
        return COPY

    library.volume.store.commit()
    assert check(library.volume, render=render).renditions_made == 0
    report = check(library.volume, data=True, render=render)
    assert report.problems == []
    assert report.renditions_made == 1
    assert made == [library.volume.contents.get(library.copy)]


def test_a_rendition_that_cannot_be_made_is_reported(library: Library) -> None:
    def render(rendition: Rendition) -> bytes:
        raise IntegrityError("other pixels")

    library.volume.store.commit()
    found = check(library.volume, data=True, render=render).problems
    assert found == [Problem("a file cannot be read: other pixels", library.copy, mendable=False)]


def test_a_rendition_that_goes_meanwhile_is_no_damage(library: Library) -> None:
    """A live mount may remove a file between the snapshot and its turn."""

    def render(rendition: Rendition) -> bytes:
        library.tree.remove(b"copy")
        library.volume.store.commit()
        raise IntegrityError("a chunk is missing")

    library.volume.store.commit()
    assert check(library.volume, data=True, render=render).problems == []


def test_the_volume_may_grow_while_renditions_are_made(library: Library) -> None:
    """Rendering reads the store; a snapshot kept open meanwhile would stop the map from growing, for good."""

    def render(rendition: Rendition) -> bytes:
        grower = threading.Thread(target=engine._grow, daemon=True)  # type: ignore[attr-defined]
        grower.start()
        library.volume.contents.get(library.picture)
        library.volume.chunks.read(library.chunk(PICTURE))
        grower.join(10)
        assert not grower.is_alive()
        return COPY

    library.volume.store.commit()
    engine = library.volume.store.engine
    assert check(library.volume, data=True, render=render).problems == []


def test_progress_is_told(library: Library) -> None:
    told: list[tuple[int, int]] = []
    library.volume.store.commit()
    check(library.volume, data=True, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
