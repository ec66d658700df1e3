"""Damage: it is reported where it is and nowhere else, and the same bytes written again heal it everywhere."""

from __future__ import annotations

import copy
import random
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from dedupfs.errors import EntryNotFoundError, IntegrityError
from dedupfs.model import InodeNo
from dedupfs.storage import records, repair
from dedupfs.storage.check import check
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.readout import layout_of
from dedupfs.storage.records import Table, number_key
from dedupfs.storage.volume import open_volume, unlock
from tests.filesystem.core import Core, rendition_of, sketch
from tests.volumes import PASSPHRASE, make_volume, opened_volume

PHOTO = sketch(5, 200)
SMALL = sketch(5, 100)
TAGGED = sketch(6, 200)
TEXT = b"no picture " * 40_000
EXACT = {b"photo": PHOTO, b"twin": PHOTO, b"tagged": TAGGED, b"text": TEXT}
"""What reads back bit for bit; `small` is a rendition of `photo`."""


class Damaged:
    """A volume that was filled and closed, to be damaged and served again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        core = Core(make_volume(directory))
        for name, data in EXACT.items():
            core.put(name, data)
        core.put(b"small", SMALL)
        self.folder = core.filesystem.make_directory(ROOT, b"folder", 0o755, 1, 2)
        self.sub = core.filesystem.make_directory(self.folder, b"sub", 0o755, 1, 2)
        for parent, name in ((self.folder, b"inside"), (self.sub, b"deep")):
            _, handle = core.filesystem.create(parent, name, 0o644, 1, 2)
            core.files.write(handle, 0, name)
            core.files.release(handle)
        for name in (b"user.a", b"user.b"):
            core.filesystem.set_xattr(self.folder, name, b"value")
        core.filesystem.settle()
        assert core.is_rendition(b"small")
        photo = core.volume.metadata.inode(core.filesystem.lookup(ROOT, b"photo")).content
        assert photo is not None
        self.photo = photo
        core.filesystem.close()

    def change(self, table: Table, key: bytes, change: Callable[[bytes], bytes | None]) -> None:
        """Change one stored value."""
        volume = opened_volume(self.directory)
        with volume.store.engine.snapshot() as snapshot:
            value = snapshot.get(table.name, key)
        assert value is not None
        volume.store.engine.apply([(table.name, key, change(value))])
        volume.close()

    def repair(self) -> None:
        volume = opened_volume(self.directory)
        repair.apply(volume, repair.plan(volume, check(volume, data=True).readout))
        volume.close()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Damaged:
    return Damaged(tmp_path_factory.mktemp("sound") / "volume")


@pytest.fixture
def damaged(sound: Damaged, tmp_path: Path) -> Damaged:
    """A copy of a sound volume, with the numbers of that one."""
    found = copy.copy(sound)
    found.directory = Path(shutil.copytree(sound.directory, tmp_path / "volume"))
    return found


def flipped(value: bytes) -> bytes:
    return value[:-1] + bytes([value[-1] ^ 1])


def gone(value: bytes) -> None:
    return None


def fails(core: Core, *names: bytes) -> None:
    for name in names:
        with pytest.raises(IntegrityError):
            core.read(name)


def reads(core: Core, *names: bytes) -> None:
    for name in names:
        assert core.read(name) == EXACT[name]


# Healing

HURT: dict[str, tuple[list[Table], Callable[[bytes], bytes | None]]] = {
    "a chunk is damaged": ([records.CHUNKS], flipped),
    "a chunk is missing": ([records.CHUNKS], gone),
    "bytes are missing with their count": ([records.CHUNKS, records.CHUNK_REFS], gone),
    "its record is damaged": ([records.CONTENTS], flipped),
    "its record is missing": ([records.CONTENTS], gone),
}


@pytest.fixture(params=HURT)
def hurt(request: pytest.FixtureRequest, damaged: Damaged) -> str:
    """Hurt the photo that two names and a rendition rest on, and say how."""
    tables, change = HURT[request.param]
    volume = opened_volume(damaged.directory)
    content = volume.contents.get(damaged.photo)
    volume.close()
    for table in tables:
        damaged.change(
            table, damaged.photo if table is records.CONTENTS else layout_of(content).extents[0].chunk, change
        )
    return str(request.param)


@pytest.mark.parametrize("repaired", [False, True], ids=["as it is", "repaired"])
@pytest.mark.parametrize("how", ["another name", "fsync", "the same name", "truncated", "removed before"])
def test_a_lost_photo_copied_in_again_heals_everywhere(damaged: Damaged, hurt: str, how: str, repaired: bool) -> None:
    if repaired:
        damaged.repair()
    core = Core(damaged.directory)
    fails(core, b"photo", b"twin", b"small")
    reads(core, b"tagged", b"text")
    if how == "truncated":
        number = core.filesystem.lookup(ROOT, b"photo")
        core.filesystem.truncate(number, 0)
        core.edit(b"photo", 0, PHOTO)
    else:
        if how == "removed before":
            core.filesystem.unlink(ROOT, b"photo")
        name = b"photo" if how == "removed before" else b"again"
        core.put(name, PHOTO, fsync=how == "fsync")
        if how == "the same name":
            core.filesystem.rename(ROOT, b"again", ROOT, b"photo")
    core.filesystem.settle()
    reads(core, b"photo", b"twin", b"tagged", b"text")
    assert core.read(b"small") == rendition_of(SMALL)
    core.put(b"later", sketch(5, 150))
    core.filesystem.settle()
    assert core.is_rendition(b"later"), "its cluster finds it as before"
    if repaired or "chunk" in hurt:
        assert core.problems() == []
    core.filesystem.close()
    damaged.repair()
    core = Core(damaged.directory)
    assert core.problems() == []
    reads(core, b"photo", b"twin", b"tagged", b"text")
    core.filesystem.close()


@pytest.mark.parametrize("repaired", [False, True], ids=["as it is", "repaired"])
def test_what_rests_on_a_lost_photo_can_be_removed(damaged: Damaged, hurt: str, repaired: bool) -> None:
    if repaired:
        damaged.repair()
    core = Core(damaged.directory)
    for name in (b"twin", b"small", b"photo"):
        core.filesystem.unlink(ROOT, name)
    if repaired or "chunk" in hurt:
        assert core.problems() == []
    core.filesystem.close()
    damaged.repair()
    core = Core(damaged.directory)
    assert core.problems() == []
    assert core.counter("clusters") == 1
    reads(core, b"tagged", b"text")
    core.filesystem.close()


def test_a_version_of_a_lost_photo_copied_in_again_is_kept_whole(damaged: Damaged, hurt: str) -> None:
    core = Core(damaged.directory)
    core.put(b"small again", SMALL)
    core.filesystem.settle()
    assert core.read(b"small again") == core.read(b"small") == SMALL
    core.filesystem.close()


# Served all the same


def test_a_damaged_name_hides_no_other(damaged: Damaged, caplog: pytest.LogCaptureFixture) -> None:
    volume = opened_volume(damaged.directory)
    key = volume.metadata.entry_key(ROOT, b"photo")
    volume.close()
    damaged.change(records.ENTRIES, key, flipped)
    core = Core(damaged.directory)
    listed = {entry.name for entry in core.filesystem.list_directory(ROOT)}
    assert listed == {b".", b"..", b"twin", b"tagged", b"text", b"small", b"folder"}
    reads(core, b"twin", b"tagged", b"text")
    with pytest.raises(IntegrityError):
        core.filesystem.lookup(ROOT, b"photo")
    core.filesystem.list_directory(ROOT)
    assert sum("is left out" in message for message in caplog.messages) == 1
    core.filesystem.close()


@pytest.mark.parametrize("change", [flipped, gone])
def test_what_is_below_a_damaged_directory_stays_within_reach(
    damaged: Damaged, change: Callable[[bytes], bytes | None]
) -> None:
    damaged.change(records.INODES, number_key(damaged.folder), change)
    core = Core(damaged.directory)
    filesystem = core.filesystem
    attributes = filesystem.attributes(filesystem.lookup(ROOT, b"folder"))
    assert (attributes.mode, attributes.nlink) == (stat.S_IFDIR | 0o700, 3)
    inside = filesystem.lookup(damaged.folder, b"inside")
    handle = core.files.open(inside, readable=True, writable=False)
    assert core.files.read(handle, 0, 10) == b"inside"
    core.files.release(handle)
    assert filesystem.list_directory(damaged.sub)[1].inode == damaged.folder
    # As `rm -rf` does it.
    filesystem.unlink(damaged.sub, b"deep")
    filesystem.remove_directory(damaged.folder, b"sub")
    filesystem.unlink(damaged.folder, b"inside")
    filesystem.remove_directory(ROOT, b"folder")
    assert core.problems() == []
    filesystem.close()


def test_a_damaged_root_is_served(damaged: Damaged) -> None:
    damaged.change(records.INODES, number_key(ROOT), flipped)
    core = Core(damaged.directory)
    reads(core, b"photo", b"text")
    core.put(b"new", b"text")
    assert core.problems() == []
    core.filesystem.close()


@pytest.mark.parametrize("change", [flipped, gone])
def test_a_file_whose_inode_is_damaged_can_be_replaced_and_removed(
    damaged: Damaged, change: Callable[[bytes], bytes | None]
) -> None:
    core = Core(damaged.directory)
    numbers = {name: core.filesystem.lookup(ROOT, name) for name in (b"photo", b"text")}
    core.filesystem.close()
    for number in numbers.values():
        damaged.change(records.INODES, number_key(number), change)
    core = Core(damaged.directory)
    # It has not gone, which the kernel would be told by another error than of damage.
    assert [core.filesystem.attributes_of(ROOT, name).inode for name in numbers] == list(numbers.values())
    assert core.filesystem.attributes(numbers[b"text"]).size == 0
    assert core.filesystem.attributes(numbers[b"text"]).mode == stat.S_IFREG
    fails(core, b"text", b"photo")
    reads(core, b"twin", b"tagged")
    core.filesystem.rename(ROOT, b"photo", ROOT, b"moved")
    core.filesystem.unlink(ROOT, b"text")
    core.put(b"new", PHOTO)
    core.filesystem.rename(ROOT, b"new", ROOT, b"moved")
    core.filesystem.settle()
    assert core.read(b"moved") == PHOTO
    with pytest.raises(EntryNotFoundError):
        core.filesystem.lookup(ROOT, b"text")
    core.filesystem.close()
    damaged.repair()
    core = Core(damaged.directory)
    assert core.problems() == []
    found = core.filesystem.lookup(ROOT, b"lost+found")
    rescued = [entry.inode for entry in core.filesystem.list_directory(found)[2:]]
    handles = [core.files.open(number, readable=True, writable=False) for number in rescued]
    assert TEXT in [core.files.read(handle, 0, 1 << 20) for handle in handles], "its bytes were not in the inode"
    for handle in handles:
        core.files.release(handle)
    core.filesystem.close()


def test_mounting_does_not_list_what_a_volume_holds(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take longer with each file; only where the next free number is lost must all be known."""
    core.put(b"photo", sketch(7))
    core.filesystem.settle()
    listed: list[Table] = []
    monkeypatch.setattr(core.volume.store, "keys", listed.append)
    core.volume.metadata.mend_numbers()
    assert listed == []


@pytest.mark.parametrize("name", [b"next_inode", b"next_cluster", b"counters"], ids=bytes.decode)
@pytest.mark.parametrize("change", [flipped, gone])
def test_a_damaged_record_of_the_volume_hinders_nobody(
    damaged: Damaged, name: bytes, change: Callable[[bytes], bytes | None]
) -> None:
    damaged.change(records.VOLUME, name, change)
    core = Core(damaged.directory)
    core.put(b"new", sketch(9, 80))
    core.filesystem.settle()
    reads(core, b"photo", b"text")
    if name != b"counters":
        assert core.problems() == []
    core.filesystem.close()
    damaged.repair()
    core = Core(damaged.directory)
    assert core.problems() == []
    core.filesystem.close()


SEALED = [table for table in records.TABLES if table.sealed and table is not records.INODES]


@pytest.mark.parametrize("table", SEALED, ids=[table.name for table in SEALED])
def test_everything_can_be_removed_whatever_is_damaged(damaged: Damaged, table: Table) -> None:
    volume = opened_volume(damaged.directory)
    with volume.store.engine.snapshot() as snapshot:
        rows = [key for key, _ in snapshot.scan(table.name) if key != b"config"]
    volume.close()
    for key in rows:
        damaged.change(table, key, flipped)
    core = Core(damaged.directory)
    remove_all(core, ROOT)
    core.filesystem.close()
    damaged.repair()
    core = Core(damaged.directory)
    assert core.problems() == []
    core.filesystem.close()


def remove_all(core: Core, directory: InodeNo) -> None:
    for entry in core.filesystem.list_directory(directory)[2:]:
        if stat.S_ISDIR(entry.type_bits):
            remove_all(core, entry.inode)
            core.filesystem.remove_directory(directory, entry.name)
        else:
            core.filesystem.unlink(directory, entry.name)


# Every table, every kind of damage

Rows = dict[bytes, bytes]


def _swapped(rows: Rows, chance: random.Random) -> Rows:
    one = chance.choice(sorted(rows))
    other = chance.choice([key for key in sorted(rows) if rows[key] != rows[one]])
    return {one: rows[other], other: rows[one]}


def _flipped_anywhere(rows: Rows, chance: random.Random) -> Rows:
    key = chance.choice(sorted(rows))
    value = bytearray(rows[key])
    value[chance.randrange(len(value))] ^= 1 << chance.randrange(8)
    return {key: bytes(value)}


def _under_another_key(rows: Rows, chance: random.Random) -> Rows:
    key = chance.choice(sorted(rows))
    other = bytearray(key)
    other[chance.randrange(len(other))] ^= 1 << chance.randrange(8)
    return {bytes(other): rows[key]}


KINDS: dict[str, Callable[[Rows, random.Random], dict[bytes, bytes | None]]] = {
    "flipped": lambda rows, chance: {**_flipped_anywhere(rows, chance)},
    "swapped": lambda rows, chance: {**_swapped(rows, chance)},
    "gone": lambda rows, chance: {chance.choice(sorted(rows)): None},
    "twice": lambda rows, chance: {**_under_another_key(rows, chance)},
    "garbage": lambda rows, chance: {chance.choice(sorted(rows)): chance.randbytes(100)},
    "empty": lambda rows, chance: {chance.choice(sorted(rows)): b""},
}
EMPTY_OR_APART = (records.ORPHANS, records.UNFINISHED, records.UNDECIDED, records.HEADER)
FILLED = [table for table in records.TABLES if table not in EMPTY_OR_APART]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("table", FILLED, ids=[table.name for table in FILLED])
def test_no_damage_makes_wrong_bytes(damaged: Damaged, table: Table, kind: str) -> None:
    """Right bytes or an error; `check` notices; what could be read before a repair reads the same after it."""
    expected = read_all(damaged)
    assert ERROR not in expected.values()
    seed = f"{table.name} {kind}"
    volume = opened_volume(damaged.directory)
    with volume.store.engine.snapshot() as snapshot:
        rows = dict(snapshot.scan(table.name))
    changes = KINDS[kind](rows, random.Random(seed))
    volume.store.engine.apply([(table.name, key, value) for key, value in changes.items()])
    volume.close()
    untouched = Path(shutil.copytree(damaged.directory, damaged.directory.with_name("untouched")))
    try:
        served = read_all(damaged)
    except IntegrityError:
        assert table is records.VOLUME and b"config" in changes, "it is all that a mount cannot do without"
        served = {}
    assert {path: data for path, data in served.items() if data != ERROR}.items() <= expected.items()
    damaged.directory = untouched
    noticed, left = repaired(untouched)
    assert noticed or (table, kind) == (records.XATTRS, "gone"), "nothing else tells that an attribute was there"
    assert left == []
    after = read_all(damaged)
    readable = {path: data for path, data in after.items() if data != ERROR}
    assert set(readable.values()) <= set(expected.values())
    assert {path: data for path, data in served.items() if data != ERROR}.items() <= readable.items()
    if table not in (records.CHUNKS, records.CONTENTS):
        assert set(readable.values()) == set(expected.values()), "its bytes are all there, under whatever name"


ERROR = b"an error"


def read_all(damaged: Damaged) -> dict[bytes, bytes]:
    """Return what every file reads as, by its path."""
    core = Core(damaged.directory)
    found: dict[bytes, bytes] = {}
    waiting = [(b"", ROOT)]
    while waiting:
        path, directory = waiting.pop()
        for entry in core.filesystem.list_directory(directory)[2:]:
            below = path + b"/" + entry.name
            if stat.S_ISDIR(entry.type_bits):
                waiting.append((below, entry.inode))
            else:
                found[below] = _read(core, entry.inode)
    core.filesystem.close()
    return found


def _read(core: Core, number: InodeNo) -> bytes:
    try:
        handle = core.files.open(number, readable=True, writable=False)
    except (IntegrityError, EntryNotFoundError):
        return ERROR
    try:
        return core.files.read(handle, 0, 1 << 30)
    except IntegrityError:
        return ERROR
    finally:
        core.files.release(handle)


def repaired(directory: Path) -> tuple[list[str], list[str]]:
    """Repair a volume; return what was wrong before, and what is still wrong that should not be."""
    volume = open_volume(directory, unlock(directory, PASSPHRASE), whatever_state=True)
    report = check(volume, data=True)
    repair.apply(volume, repair.plan(volume, report.readout))
    after = check(volume, data=True)
    volume.close()
    return [each.text for each in report.problems], [each.text for each in after.problems if each.mendable]
