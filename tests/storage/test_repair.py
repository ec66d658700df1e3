"""`repair` restores order whatever was planted, keeps what can be read, and says what is gone."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dedupfs.errors import IntegrityError
from dedupfs.model import InodeNo, Policy
from dedupfs.storage import codec, records, repair
from dedupfs.storage.check import check
from dedupfs.storage.engine import Engine, Snapshot
from dedupfs.storage.mending import Plan
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.records import TABLES, Entry, Exact, Table, number_key
from dedupfs.storage.volume import Volume
from tests.storage.library import PICTURE, PLAIN, PLANTS, Library
from tests.storage.tree import Tree, stored_rows


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


def hurt(volume: Volume, table: Table, key: bytes) -> None:
    """Flip the last bit of a record."""
    sealed = stored_rows(volume, table.name)[key]
    volume.store.engine.apply([(table.name, key, sealed[:-1] + bytes([sealed[-1] ^ 1]))])
    volume.store._cache.clear()


# What becomes of it


def test_a_lost_name_leads_to_lost_and_found(library: Library) -> None:
    volume = library.volume
    hurt(volume, records.ENTRIES, volume.metadata.entry_key(ROOT, b"plain"))
    planned = repaired(volume)
    assert list(planned.gone.values()) == [[b"?"]]
    found = lost_and_found(volume)
    assert names(volume, found) == {b"#%d" % library.plain_inode}
    assert read(volume, found, b"#%d" % library.plain_inode) == PLAIN
    assert volume.metadata.inode(found).mode == stat.S_IFDIR | 0o700
    hurt(volume, records.ENTRIES, volume.metadata.entry_key(found, b"#%d" % library.plain_inode))
    repaired(volume)
    assert lost_and_found(volume) == found, "there is one, and it is used again"
    assert read(volume, found, b"#%d" % library.plain_inode) == PLAIN


def test_a_lost_directory_keeps_its_name_and_what_is_in_it(library: Library) -> None:
    volume = library.volume
    with volume.store.transaction() as transaction:
        volume.metadata.put_entry(transaction, library.directory, Entry(library.plain_inode, stat.S_IFREG, b"link"))
        library.change_inode(transaction, library.plain_inode, nlink=2, uid=7, gid=8)
    volume.store.commit()
    hurt(volume, records.INODES, number_key(library.directory))
    planned = repaired(volume)
    assert list(planned.gone.values()) == [[b"directory"]]
    assert read(volume, library.directory, b"link") == PLAIN
    inode = volume.metadata.inode(library.directory)
    assert (inode.mode, inode.uid, inode.gid, inode.parent) == (stat.S_IFDIR | 0o700, 7, 8, ROOT)
    assert volume.metadata.find_xattr(library.directory, b"user.a") == b"1"


def test_bytes_without_an_inode_are_rescued(library: Library) -> None:
    volume = library.volume
    hurt(volume, records.INODES, number_key(library.tree.inodes[b"picture"]))
    planned = repaired(volume)
    assert list(planned.gone.values()) == [[b"picture"]]
    (name,) = names(volume, lost_and_found(volume))
    assert read(volume, lost_and_found(volume), name) == PICTURE


def test_a_file_with_damaged_bytes_stays_as_it_is(library: Library) -> None:
    """Its content waits, counted, for the same bytes, and is whole again with them."""
    volume = library.volume
    refs = volume.contents.references(library.picture)
    for table, key in ((records.CONTENTS, library.picture), (records.CHUNKS, library.chunk(PLAIN))):
        hurt(volume, table, key)
    planned = repaired(volume)
    assert planned.gone == {}
    assert {b"plain", b"twin", b"picture", b"copy"} <= names(volume)
    assert volume.metadata.inode(library.tree.inodes[b"picture"]).size == len(PICTURE)
    assert volume.contents.references(library.picture) == refs
    unreadable = check(volume, data=True).unreadable()
    assert unreadable == [b"copy", b"picture", b"plain", b"twin"]
    library.tree.add(b"picture again", PICTURE)
    library.tree.add(b"plain again", PLAIN)
    volume.store.commit()
    assert check(volume, data=True).problems == []
    assert library.tree.read(b"picture") == PICTURE and library.tree.read(b"plain") == PLAIN


@pytest.mark.parametrize(("compared", "policy"), [(True, Policy.VERIFIED), (False, Policy.OFF)])
def test_a_lost_policy_becomes_the_safest_one(volume: Volume, compared: bool, policy: Policy) -> None:
    tree = Tree(volume)
    picture = tree.add(b"picture", PICTURE)
    if compared:
        tree.found_cluster(picture, None)
    volume.store.commit()
    hurt(volume, records.VOLUME, b"config")
    planned = repaired(volume)
    assert f"the policy is {policy.value} from now on" in next(iter(planned.gone))
    config = volume.store.get(records.VOLUME, b"config")
    assert config is not None and codec.decode_config(config).policy is policy


@pytest.mark.parametrize("value", [None, b"", codec.encode_number(3)])
def test_no_number_is_given_out_twice(library: Library, value: bytes | None) -> None:
    """Those of files that were removed are not known any more, so that many are passed over."""
    volume = library.volume
    highest = max(int.from_bytes(key, "big") for key in stored_rows(volume, "inodes"))
    if value:
        with volume.store.transaction() as transaction:
            transaction.put(records.VOLUME, b"next_inode", value)
    else:
        volume.store.engine.apply([("volume", b"next_inode", value)])
    volume.store._cache.clear()
    repaired(volume)
    with volume.store.transaction() as transaction:
        assert transaction.next_number("next_inode") > highest + 1_000_000


@pytest.mark.parametrize("done", range(0, 34, 3))
def test_a_repair_that_was_cut_off_is_finished_by_the_next(
    library: Library, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    """Whatever was written before the power went."""
    volume = library.volume
    for table in (records.INODES, records.CONTENT_REFS, records.MEMBERS, records.CHUNK_REFS):
        for key in stored_rows(volume, table.name):
            if key != number_key(library.tree.inodes[b"twin"]):
                hurt(volume, table, key)
    monkeypatch.setattr(repair, "BATCH_RECORDS", 1)
    planned = repair.plan(volume, check(volume).readout)
    assert len(planned.writes) > 33
    planned.writes[done:] = []
    repair.apply(volume, planned)
    repaired(volume)
    found = lost_and_found(volume)
    held = {read(volume, found, name) for name in names(volume, found) if _is_readable(volume, found, name)}
    assert {PICTURE, b"undecided"} <= held
    assert read(volume, ROOT, b"twin") == PLAIN


# The database below the records


class Disordered:
    """An engine that goes through one table in another order than its keys ask for, or not to its end."""

    def __init__(self, engine: Engine, table: Table, *, broken: bool) -> None:
        self._engine = engine
        self._table = table
        self._broken = broken

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        with self._engine.snapshot() as snapshot:
            self._get, self._scan = snapshot.get, snapshot.scan
            yield self

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._get(table, key)

    def scan(self, table: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        rows = list(self._scan(table, prefix))
        if table != self._table.name:
            yield from rows
        elif self._broken:
            yield rows[0]
            raise IntegrityError("a page is damaged")
        else:
            yield from reversed(rows)


@pytest.mark.parametrize("broken", [True, False])
@pytest.mark.parametrize("table", [records.INODES, records.CHUNKS, records.BANDS], ids=lambda table: table.name)
def test_what_is_damaged_below_the_records_is_told_and_left_alone(library: Library, table: Table, broken: bool) -> None:
    """A record that was only not found must not be taken for gone."""
    volume = library.volume
    volume.store.commit()
    sound = volume.store.engine
    volume.store.engine = Disordered(sound, table, broken=broken)  # type: ignore[assignment]
    report = check(volume)
    volume.store.engine = sound
    told = f"the database is damaged below its records: {table.name} is out of order or ends early"
    assert told in [problem.text for problem in report.problems]
    with pytest.raises(IntegrityError, match=table.name):
        repair.plan(volume, report.readout)
