"""Damage below the records: LMDB sees no damaged page, what is not affected is served, and nothing is made worse."""

from __future__ import annotations

import logging
import random
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pagedamage
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedupfs.errors import IntegrityError, StoreError, StoreReadOnlyError
from dedupfs.storage import lmdb_guard
from dedupfs.storage.lmdb_check import FREE_PAGES, TreeCheck
from dedupfs.storage.lmdb_engine import DATA_FILE, LmdbEngine
from dedupfs.storage.lmdb_pages import BIG_VALUE, BRANCH, LEAF, Meta, PageError, PageFile
from dedupfs.storage.lmdb_salvage import DAMAGED_FILE, Salvage, rebuild, salvage
from dedupfs.storage.lmdb_walk import Walk

PAGE = pagedamage.PAGE_BYTES
TABLES = pagedamage.TABLES
_HEADER_BYTES = 16


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, pagedamage.Content]:
    """A small database with pages of every kind, and what it holds."""
    directory = tmp_path_factory.mktemp("pristine")
    content = pagedamage.make(directory, records=300)
    return (directory / DATA_FILE).read_bytes(), content


@pytest.fixture
def damaged(tmp_path: Path, pristine: tuple[bytes, pagedamage.Content]) -> Iterator[Database]:
    made = Database(tmp_path, *pristine)
    yield made
    made.close()


class Database:
    """A copy of the small database, to be damaged and then looked at."""

    def __init__(self, directory: Path, data: bytes, content: pagedamage.Content) -> None:
        self.directory = directory
        self.data = bytearray(data)
        self.content = dict(content)
        self.write()
        self._files: list[PageFile] = []
        self._engines: list[LmdbEngine] = []

    def write(self) -> None:
        (self.directory / DATA_FILE).write_bytes(self.data)

    def file(self) -> PageFile:
        self._files.append(PageFile(self.directory / DATA_FILE))
        return self._files[-1]

    def newest(self) -> Meta:
        file = self.file()
        return max(file.meta(0), file.meta(1), key=lambda meta: meta.transaction)

    def walk(self) -> Walk:
        return Walk(self.file(), self.newest())

    def leaf(self, table: str, number: int = 0) -> int:
        """Return one of a table's leaf pages, in the order of their keys."""
        walk = self.walk()
        pages = dict.fromkeys(leaf.page for leaf, _ in walk._positions(walk.root(table), b"", None))
        return list(pages)[number]

    def first_big_value(self) -> tuple[bytes, int]:
        """Return the first key of the table of large values and its first page."""
        walk = self.walk()
        for leaf, index in walk._positions(walk.root("large"), b"", None):
            flags, _, start = leaf.nodes[index]
            if flags == BIG_VALUE:
                return leaf.keys[index], struct.unpack_from("=Q", leaf.data, start)[0]
        raise AssertionError("all values are small")

    def open(self) -> LmdbEngine:
        self._engines.append(LmdbEngine(self.directory, TABLES, initial_map_bytes=pagedamage.MAP_BYTES))
        return self._engines[-1]

    def close(self) -> None:
        for file in self._files:
            file.close()
        for engine in self._engines:
            engine.close()


def read(engine: LmdbEngine, content: pagedamage.Content) -> set[tuple[str, bytes]]:
    """Return what cannot be read; all else must be right."""
    lost: set[tuple[str, bytes]] = set()
    for (table, key), value in content.items():
        with engine.snapshot() as snapshot:
            try:
                assert snapshot.get(table, key) == value
            except IntegrityError:
                lost.add((table, key))
    return lost


def faults(walk: Walk, file: PageFile) -> list[tuple[int, str]]:
    check = TreeCheck(file, walk)
    for _ in check.steps():
        pass
    return [(found.page, found.table) for found in check.damage]


def test_no_damage_ends_the_process_or_gives_wrong_bytes(tmp_path: Path) -> None:
    outcomes = {outcome for _, outcome, _ in pagedamage.rounds(10_000, 30, tmp_path, records=150)}
    assert outcomes <= {"right", "noticed", "MISSING"}
    assert outcomes >= {"right", "noticed"}


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from([0x00, 0xFF, None]))
def test_a_page_that_passes_the_check_is_one_that_can_be_walked(
    pristine: tuple[bytes, pagedamage.Content],
    tmp_path_factory: pytest.TempPathFactory,
    chance: random.Random,
    value: int | None,
) -> None:
    """Both readers agree about every page, and neither raises anything but our error."""
    database = Database(tmp_path_factory.mktemp("one"), *pristine)
    meta = database.newest()
    of_trees = [at for at in range(2 * PAGE, len(database.data), PAGE) if database.data[at + 10] in (BRANCH, LEAF)]
    start = chance.choice(of_trees)
    at = start + chance.randrange(_HEADER_BYTES if chance.random() < 0.3 else PAGE)
    database.data[at] = database.data[at] ^ (1 << chance.randrange(8)) if value is None else value
    database.write()
    file = database.file()
    walk = Walk(file, meta)
    found = faults(walk, file)
    missed = set()
    try:
        names = walk.tables()
        assert set(names) <= set(TABLES) or found
        for table in names:
            walk.root(table)
            read_now = dict(walk.scan(table, skip=lambda error, first, last: missed.add(error.page)))
            if not missed:
                assert all(walk.get(table, key) == value for key, value in read_now.items())
    except IntegrityError:
        assert found
    # Besides, the check knows of free pages and of double uses.
    assert missed <= {page for page, _ in found}
    assert {page for page, table in found if table in TABLES} >= missed
    database.close()


@pytest.mark.parametrize("seed", range(4))
def test_what_lmdb_writes_is_never_taken_for_damage(tmp_path: Path, seed: int) -> None:
    """A false alarm would make a sound volume read-only."""
    chance = random.Random(seed)
    sizes = [(0, 50), (0, 400), (500, 2500), (1000, 9000)][seed]
    model: dict[bytes, bytes] = {}
    with lmdb.open(str(tmp_path), map_size=1 << 26, max_dbs=1, sync=False) as environment:
        table = environment.open_db(b"t")
        for commit in range(12):
            batch: dict[bytes, bytes | None] = dict.fromkeys(chance.sample(sorted(model), len(model) * commit // 20))
            for _ in range(chance.choice((3, 30, 300))):
                key = chance.choice((b"", b"prefix00")) + chance.randbytes(chance.choice((2, 8, 32)))
                batch[key] = chance.randbytes(chance.randint(*sizes))
            with environment.begin(write=True) as transaction:
                for key, value in batch.items():
                    if value is None:
                        transaction.delete(key, db=table)
                        del model[key]
                    else:
                        transaction.put(key, value, db=table)
                        model[key] = value
            _assert_sound(tmp_path, model)
        (tmp_path / "copy").mkdir()
        environment.copy(str(tmp_path / "copy"), compact=True)
    _assert_sound(tmp_path / "copy", model)


def _assert_sound(directory: Path, model: dict[bytes, bytes]) -> None:
    file = PageFile(directory / DATA_FILE)
    meta = max(file.meta(0), file.meta(1), key=lambda meta: meta.transaction)
    assert faults(Walk(file, meta), file) == []
    walk = Walk(file, meta)
    assert dict(walk.scan("t")) == model
    assert all(walk.get("t", key) == value for key, value in model.items())
    engine = LmdbEngine(directory, ["t"]) if directory.name == "copy" else None
    if engine is not None:
        assert not engine.damaged
        engine.close()
    file.close()


def _flags(database: Database, page: int) -> None:
    database.data[page * PAGE + 10] ^= 4


def _bounds(database: Database, page: int) -> None:
    database.data[page * PAGE + 13] ^= 0x40


def _zero(database: Database, page: int) -> None:
    database.data[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)


def _swapped(database: Database, page: int) -> None:
    other = database.leaf("few")
    one, two = slice(page * PAGE, (page + 1) * PAGE), slice(other * PAGE, (other + 1) * PAGE)
    database.data[one], database.data[two] = database.data[two], database.data[one]


@pytest.mark.parametrize("harm", [_flags, _bounds, _zero, _swapped])
def test_only_the_keys_of_a_damaged_page_are_lost(damaged: Database, harm: Callable[[Database, int], None]) -> None:
    page = damaged.leaf("many", 3)
    here = {("many", key) for key in damaged.file().leaf(page, 1 << 30).keys}
    few = {slot for slot in damaged.content if slot[0] == "few"} if harm is _swapped else set()
    harm(damaged, page)
    damaged.write()
    engine = damaged.open()
    assert engine.damaged
    assert read(engine, damaged.content) == here | few
    assert (page, "many") in [(found.page, found.table) for found in engine.find_damage()]
    with engine.snapshot() as snapshot, pytest.raises(IntegrityError):
        list(snapshot.scan("many"))
    before = (damaged.directory / DATA_FILE).read_bytes()
    with pytest.raises(StoreReadOnlyError):
        engine.apply([("few", b"another", b"value")])
    assert (damaged.directory / DATA_FILE).read_bytes() == before
    assert engine.free_bytes() > 0


def test_a_used_page_in_the_list_of_free_ones_stops_all_writing(damaged: Database) -> None:
    """The next commit would write over it."""
    used = damaged.leaf("many", 1)
    meta = damaged.newest()
    file = damaged.file()
    leaf = file.leaf(meta.free.page, meta.end_page)
    flags, _, start = leaf.nodes[0]
    at = (struct.unpack_from("=Q", leaf.data, start)[0] * PAGE + 16) if flags == BIG_VALUE else leaf.page * PAGE + start
    count = struct.unpack_from("=Q", damaged.data, at)[0]
    listed = sorted({*struct.unpack_from(f"={count}Q", damaged.data, at + 8)[1:], used}, reverse=True)
    struct.pack_into(f"={count}Q", damaged.data, at + 8, *listed)
    damaged.write()
    engine = damaged.open()
    assert [(found.page, found.reason) for found in engine.find_damage()] == [(used, "is used twice")]
    with pytest.raises(StoreReadOnlyError):
        engine.apply([("few", b"another", b"value")])
    assert read(engine, damaged.content) == set()


def test_a_file_without_its_end_serves_what_is_left(damaged: Database) -> None:
    meta = damaged.newest()
    trees = {meta.tables.page, *(damaged.walk().root(table).page for table in ("few", "large"))}
    del damaged.data[(max(trees) + 1) * PAGE :]
    damaged.write()
    engine = damaged.open()
    with engine.snapshot() as snapshot:
        assert snapshot.get("few", b"key1") == damaged.content["few", b"key1"]


def test_the_header_of_a_values_own_pages_is_put_right_before_they_are_freed(damaged: Database) -> None:
    """LMDB would free as many pages as it says, whoever uses them."""
    key, page = damaged.first_big_value()
    damaged.data[page * PAGE + 12 : page * PAGE + 16] = (40).to_bytes(4, sys.byteorder)
    damaged.write()
    engine = damaged.open()
    assert read(engine, damaged.content) == set()
    engine.apply([("large", key, None)])
    del damaged.content["large", key]
    for number in range(3):
        engine.apply([("few", b"new%d" % number, bytes(3000))])
    assert engine.find_damage() == []
    assert read(engine, damaged.content) == set()


def test_a_damaged_root_never_takes_the_volume_back_in_time(damaged: Database) -> None:
    """The other root is that of the commit before."""
    newest = damaged.newest()
    page = newest.transaction & 1
    damaged.data[page * PAGE + 16] ^= 1
    damaged.write()
    engine = damaged.open()
    assert engine.damaged
    assert read(engine, damaged.content) == set()
    with pytest.raises(StoreReadOnlyError):
        engine.apply([("few", b"another", b"value")])
    _zero(damaged, page)
    damaged.write()
    with pytest.raises(IntegrityError, match="last commit"):
        damaged.open()


def test_an_impossible_older_root_is_no_reason_to_give_up(damaged: Database) -> None:
    page = 1 - (damaged.newest().transaction & 1)
    damaged.data[page * PAGE + 87] ^= 0x80
    damaged.write()
    engine = damaged.open()
    assert engine.damaged
    assert read(engine, damaged.content) == set()


@pytest.mark.parametrize("bit", [0, 1, 7, 60])
def test_a_false_commit_number_is_found_out(damaged: Database, bit: int) -> None:
    for page in (0, 1):
        at = page * PAGE + 16 + 16 + 8 + 96 + 8
        value = struct.unpack_from("=Q", damaged.data, at)[0]
        struct.pack_into("=Q", damaged.data, at, value ^ (1 << bit))
        damaged.write()
        engine = damaged.open()
        assert engine.damaged
        assert read(engine, damaged.content) == set()
        struct.pack_into("=Q", damaged.data, at, value)


def test_damage_to_the_older_root_changes_nothing(damaged: Database) -> None:
    """LMDB does not look at its tables, and the next commit writes it anew."""
    page = 1 - (damaged.newest().transaction & 1)
    struct.pack_into("=Q", damaged.data, page * PAGE + 16 + 24 + 40, damaged.first_big_value()[1])
    damaged.write()
    engine = damaged.open()
    assert not engine.damaged
    engine.apply([("few", b"new", b"value")])
    damaged.content["few", b"new"] = b"value"
    assert read(engine, damaged.content) == set()


def test_reads_go_on_and_writes_wait_while_pages_are_being_checked(
    damaged: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    going_on = threading.Event()
    steps = TreeCheck.steps

    def slow_steps(check: TreeCheck) -> Iterator[None]:
        for _ in steps(check):
            yield
            assert going_on.wait(30)

    monkeypatch.setattr(lmdb_guard, "SECONDS_AT_OPEN", -1)
    monkeypatch.setattr(TreeCheck, "steps", slow_steps)
    engine = damaged.open()
    writer = threading.Thread(target=engine.apply, args=([("few", b"new", b"value")],))
    writer.start()
    assert read(engine, damaged.content) == set()
    writer.join(0.1)
    assert writer.is_alive()
    going_on.set()
    writer.join(30)
    damaged.content["few", b"new"] = b"value"
    assert read(engine, damaged.content) == set()
    assert not engine.damaged


def test_closing_does_not_wait_for_the_check(damaged: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_guard, "SECONDS_AT_OPEN", -1)
    engine = damaged.open()
    engine.close()


def test_a_damaged_table_of_tables_is_an_error_at_once(damaged: Database) -> None:
    _zero(damaged, damaged.newest().tables.page)
    damaged.write()
    with pytest.raises((IntegrityError, StoreError)):
        damaged.open()


def test_an_absurd_length_costs_no_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A sparse file is as long as anybody likes."""
    pagedamage.make(tmp_path, records=50)
    data = bytearray((tmp_path / DATA_FILE).read_bytes())
    database = Database(tmp_path, bytes(data), {})
    walk = database.walk()
    leaf, index = next(
        (leaf, index)
        for leaf, index in walk._positions(walk.root("large"), b"", None)
        if leaf.nodes[index][0] == BIG_VALUE
    )
    node = leaf.nodes[index][2] - len(leaf.keys[index]) - 8
    struct.pack_into("=I", database.data, leaf.page * PAGE + node, 2**31)
    for page in (0, 1):
        struct.pack_into("=Q", database.data, page * PAGE + 16 + 16 + 8 + 96, 2**24 - 1)
        struct.pack_into("=Q", database.data, page * PAGE + 16 + 16, 2**40)
    database.write()
    with open(tmp_path / DATA_FILE, "r+b") as file:
        file.truncate(2**24 * PAGE)
    engine = database.open()
    with caplog.at_level(logging.CRITICAL), engine.snapshot() as snapshot:
        assert snapshot.get("large", leaf.keys[index]) == b""
    assert engine.damaged
    database.close()


def test_a_page_error_names_its_page() -> None:
    error = PageError(7, "is empty")
    assert error.page == 7
    assert str(error) == "the database is damaged: page 7 is empty"


def test_free_pages_are_a_table_of_their_own(damaged: Database) -> None:
    _zero(damaged, damaged.newest().free.page)
    damaged.write()
    engine = damaged.open()
    assert [found.table for found in engine.find_damage()] == [FREE_PAGES]
    assert read(engine, damaged.content) == set()


def test_a_large_value_that_begins_wrongly_costs_no_other_and_can_be_removed(damaged: Database) -> None:
    """LMDB refuses to read it, to go past it, and to remove it."""
    key, page = damaged.first_big_value()
    damaged.data[page * PAGE : page * PAGE + _HEADER_BYTES] = b"\xa5" * _HEADER_BYTES
    damaged.write()
    engine = damaged.open()
    wanted = {stored: value for (table, stored), value in damaged.content.items() if table == "large"}
    with engine.snapshot() as snapshot:
        assert dict(snapshot.scan("large")) == wanted, "nothing but the header is damaged"
        assert snapshot.get("large", key) == wanted[key]
    others = [stored for stored in wanted if stored != key]
    engine.apply([("large", key, None), ("large", others[0], b"another")])
    engine.apply([("large", others[1], b"another")])
    with engine.snapshot() as snapshot:
        assert {stored for stored, _ in snapshot.scan("large")} == set(others)
    assert engine.find_damage() == []


def test_salvage_copies_all_but_the_records_of_a_damaged_leaf(damaged: Database, tmp_path: Path) -> None:
    page = damaged.leaf("many", 2)
    lost = damaged.file().leaf(page, 1 << 30).keys
    _bounds(damaged, page)
    damaged.write()
    found = salvaged(damaged, tmp_path / "new")
    assert [(gap.table, gap.first <= lost[0], gap.last is None or lost[-1] < gap.last) for gap in found.gaps] == [
        ("many", True, True)
    ]
    assert found.records == len(damaged.content) - len(lost)
    engine = LmdbEngine(tmp_path / "new", TABLES)
    assert not engine.damaged
    with engine.snapshot() as snapshot:
        held = {(table, key): value for table in TABLES for key, value in snapshot.scan(table)}
    engine.close()
    assert held == {slot: value for slot, value in damaged.content.items() if slot[1] not in lost}


def test_salvage_finds_the_leaves_of_a_lost_branch_again(damaged: Database, tmp_path: Path) -> None:
    _zero(damaged, damaged.walk().root("many").page)
    damaged.write()
    found = salvaged(damaged, tmp_path / "new")
    assert found.records == len(damaged.content)
    assert found.found_again == sum(table == "many" for table, _ in damaged.content)
    engine = LmdbEngine(tmp_path / "new", TABLES)
    assert read(engine, damaged.content) == set()
    engine.close()


def salvaged(database: Database, target: Path) -> Salvage:
    target.mkdir()
    return salvage(database.directory, target, TABLES)


def test_a_rebuilt_database_can_be_written_to(damaged: Database) -> None:
    _zero(damaged, damaged.walk().root("many").page)
    damaged.write()
    before = (damaged.directory / DATA_FILE).read_bytes()
    assert rebuild(damaged.directory, TABLES).found_again
    assert sorted(path.name for path in damaged.directory.iterdir()) == [DATA_FILE, DAMAGED_FILE]
    assert (damaged.directory / DAMAGED_FILE).read_bytes() == before
    engine = damaged.open()
    engine.apply([("few", b"new", b"value")])
    damaged.content["few", b"new"] = b"value"
    assert read(engine, damaged.content) == set()
    assert not engine.find_damage()
