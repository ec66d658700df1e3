"""Transactions are atomic, see each other at once and reach the engine in groups; a failing engine loses nothing."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from dedupfs.crypto.keys import Keyring
from dedupfs.errors import IntegrityError, StoreError, StoreFullError, StoreReadOnlyError
from dedupfs.storage import records
from dedupfs.storage.engine import Change
from dedupfs.storage.records import BANDS, CHUNKS, ENTRIES, INODES, Table
from dedupfs.storage.store import Store, Transaction
from dedupfs.storage.volume import Volume
from tests.conftest import reopen
from tests.storage.engines import FaultyEngine

GROUP = b"parent 1"
OTHER_GROUP = b"parent 2"


def put(store: Store, table: Table, key: bytes, value: bytes | None) -> None:
    with store.transaction() as transaction:
        change(transaction, table, key, value)


def change(transaction: Transaction, table: Table, key: bytes, value: bytes | None) -> None:
    if value is None:
        transaction.delete(table, key)
    else:
        transaction.put(table, key, value)


def again(store: Store) -> Store:
    """Open what reached the engine, as after a crash."""
    return Store(store.engine, store.keyring, read_only=True)


# Atomicity


def test_a_transaction_that_raises_leaves_nothing(store: Store) -> None:
    put(store, INODES, b"kept", b"1")
    with store.transaction() as transaction:
        transaction.count("files", 1)
        transaction.put(INODES, b"other", b"1")
    told = []

    def fail() -> None:
        with store.transaction() as transaction:
            transaction.put(INODES, b"kept", b"2")
            transaction.put(INODES, b"new", b"2")
            transaction.delete(INODES, b"other")
            transaction.put(ENTRIES, GROUP + b"name", b"2")
            transaction.count("files", 5)
            assert transaction.next_number("next_inode") == 1
            transaction.afterwards(lambda: told.append(1))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert store.get(INODES, b"kept") == store.get(INODES, b"other") == b"1"
    assert store.get(INODES, b"new") is None
    assert store.scan(ENTRIES, GROUP) == store.scan(ENTRIES) == []
    assert store.keys(INODES) == [b"kept", b"other"]
    assert store.counters == {"files": 1}
    assert told == []
    with store.transaction() as transaction:
        assert transaction.next_number("next_inode") == 1


def test_a_nested_transaction_joins_the_outer_one(store: Store) -> None:
    def fail() -> None:
        with store.transaction() as outer:
            with store.transaction() as inner:
                assert inner is outer
                inner.put(INODES, b"key", b"value")
            assert store.get(INODES, b"key") == b"value"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert store.get(INODES, b"key") is None


def test_afterwards_comes_when_the_changes_stand(store: Store) -> None:
    seen: list[bytes | None] = []
    with store.transaction() as transaction:
        transaction.put(INODES, b"key", b"value")
        transaction.afterwards(lambda: seen.append(store.get(INODES, b"key")))
        assert seen == []
    assert seen == [b"value"]


# Reading


@pytest.mark.parametrize("table", [INODES, CHUNKS], ids=["sealed", "as it is"])
def test_a_transaction_reads_its_own_writes(store: Store, table: Table) -> None:
    with store.transaction() as transaction:
        transaction.put(table, b"key", b"1")
        assert store.get(table, b"key") == b"1"
        transaction.delete(table, b"key")
        assert store.get(table, b"key") is None
        transaction.put(table, b"key", b"2")
    assert store.get(table, b"key") == b"2"


@pytest.mark.parametrize("table", [INODES, CHUNKS], ids=["sealed", "as it is"])
def test_what_is_not_committed_is_read_back(store: Store, engine: FaultyEngine, table: Table) -> None:
    assert store.get(table, b"key") is None
    put(store, table, b"key", b"value")
    assert store.get(table, b"key") == b"value"
    assert engine.applied == []
    store.commit()
    assert store.get(table, b"key") == b"value"
    put(store, table, b"key", None)
    assert store.get(table, b"key") is None


@pytest.mark.parametrize("table", [ENTRIES, BANDS], ids=["sealed", "as it is"])
def test_a_scan_merges_all_that_is_on_its_way(store: Store, engine: FaultyEngine, table: Table) -> None:
    """One key for every pair of a place where it was put and a later place where it was changed or removed."""
    places = ["engine", "leaving", "gathered", "own"]
    expected: dict[bytes, bytes] = {}

    def write(transaction: Transaction, place: str) -> None:
        for group in (GROUP, OTHER_GROUP):
            for first in places:
                for later in places:
                    for fate in ("replaced", "removed"):
                        key = group + f"{first} {later} {fate}".encode()
                        if place == first:
                            transaction.put(table, key, place.encode())
                            expected[key] = place.encode()
                        elif place == later and places.index(first) < places.index(later):
                            value = None if fate == "removed" else place.encode()
                            change(transaction, table, key, value)
                            expected.pop(key)
                            if value is not None:
                                expected[key] = value

    def matches() -> bool:
        whole = sorted(expected.items())
        return (
            store.scan(table) == whole
            and store.keys(table) == [key for key, _ in whole]
            and store.scan(table, GROUP) == [(key, value) for key, value in whole if key.startswith(GROUP)]
            and all(store.get(table, key) == value for key, value in whole)
        )

    with store.transaction() as transaction:
        write(transaction, "engine")
    store.commit()
    with store.transaction() as transaction:
        write(transaction, "leaving")
    engine.failure = StoreError("no")
    with pytest.raises(StoreError):
        store.commit()
    with store.transaction() as transaction:
        write(transaction, "gathered")
    assert matches()
    with store.transaction() as transaction:
        write(transaction, "own")
        assert matches()
    assert matches()
    engine.failure = None
    store.commit()
    assert matches()
    assert again(store).scan(table) == sorted(expected.items())


def test_a_scan_of_one_group_does_not_see_another(store: Store) -> None:
    put(store, ENTRIES, GROUP + b"a", b"1")
    put(store, ENTRIES, OTHER_GROUP + b"b", b"2")
    assert store.scan(ENTRIES, GROUP) == [(GROUP + b"a", b"1")]
    assert store.scan(ENTRIES, b"parent 3") == []


# Durability


def test_only_what_was_committed_survives(store: Store) -> None:
    with store.transaction() as transaction:
        transaction.put(INODES, b"key", b"value")
        transaction.count("files", 2)
        assert transaction.next_number("next_inode") == 1
    assert again(store).get(INODES, b"key") is None
    store.commit()
    put(store, INODES, b"late", b"value")
    reopened = again(store)
    assert reopened.get(INODES, b"key") == b"value"
    assert reopened.get(INODES, b"late") is None
    assert reopened.counters == {"files": 2}


def test_close_commits(engine: FaultyEngine, keyring: Keyring) -> None:
    store = Store(engine, keyring, group_seconds=3600)
    put(store, INODES, b"key", b"value")
    store.close()
    assert Store(engine, keyring, read_only=True).get(INODES, b"key") == b"value"


def test_a_volume_keeps_what_was_committed(volume: Volume, tmp_path: Path) -> None:
    put(volume.store, INODES, b"key", b"value")
    volume.store.commit()
    put(volume.store, INODES, b"key", b"later")
    crashed = shutil.copytree(volume.directory, tmp_path / "crashed")
    volume.store.commit()
    committed = shutil.copytree(volume.directory, tmp_path / "committed")
    for directory, value in [(crashed, b"value"), (committed, b"later")]:
        after = reopen(directory)
        assert after.store.get(INODES, b"key") == value
        after.close()


def test_close_does_not_wait_for_an_engine_that_fails(engine: FaultyEngine, keyring: Keyring) -> None:
    store = Store(engine, keyring, group_seconds=3600)
    put(store, INODES, b"key", b"value")
    engine.failure = StoreError("broken")
    closer = threading.Thread(target=closed_with_error, args=(store,), daemon=True)
    closer.start()
    closer.join(10)
    assert not closer.is_alive()


def test_numbers_go_on_after_reopening(engine: FaultyEngine, keyring: Keyring) -> None:
    numbers = []
    for _ in range(3):
        store = Store(engine, keyring, group_seconds=3600)
        with store.transaction() as transaction:
            numbers += [transaction.next_number("next_inode"), transaction.next_number("next_inode")]
        store.close()
    assert numbers == [1, 2, 3, 4, 5, 6]


def test_totals_are_added_up(store: Store) -> None:
    for delta in (3, -1, 0):
        with store.transaction() as transaction:
            transaction.count("files", delta)
            transaction.count("files", delta)
    assert store.counters == {"files": 4}
    store.commit()
    assert again(store).counters == {"files": 4}


def test_changes_are_grouped(store: Store, engine: FaultyEngine) -> None:
    for number in range(10):
        put(store, INODES, b"key", b"%d" % number)
        put(store, INODES, b"key %d" % number, b"value")
    store.commit()
    store.commit()
    assert [len(batch) for batch in engine.applied] == [11]
    assert store.waiting_bytes == 0


def test_the_committer_comes_by_itself(engine: FaultyEngine, keyring: Keyring) -> None:
    store = Store(engine, keyring, group_seconds=0.01)
    put(store, INODES, b"key", b"value")
    assert eventually(lambda: bool(engine.applied))
    store.close()


def test_the_committer_comes_early_when_much_is_waiting(engine: FaultyEngine, keyring: Keyring) -> None:
    store = Store(engine, keyring, group_seconds=3600, group_bytes=1000)
    put(store, CHUNKS, b"key", bytes(900))
    assert not engine.arrived.wait(0.05)
    put(store, CHUNKS, b"other", bytes(900))
    assert engine.arrived.wait(10)
    store.close()


def test_waiting_bytes_are_those_that_wait(store: Store) -> None:
    for _ in range(5):
        put(store, CHUNKS, b"key", bytes(1000))
    assert store.waiting_bytes == 1003
    put(store, CHUNKS, b"key", None)
    assert store.waiting_bytes == 3


# A failing engine


def test_what_could_not_be_written_stays_readable_and_is_written_later(store: Store, engine: FaultyEngine) -> None:
    put(store, INODES, b"old", b"1")
    store.commit()
    put(store, INODES, b"old", b"2")
    put(store, INODES, b"new", b"2")
    engine.failure = StoreFullError("full")
    for _ in range(3):
        with pytest.raises(StoreFullError):
            store.commit()
    put(store, INODES, b"newer", b"3")
    put(store, INODES, b"old", None)
    with pytest.raises(StoreFullError):
        store.commit()
    assert store.scan(INODES) == [(b"new", b"2"), (b"newer", b"3")]
    assert again(store).scan(INODES) == [(b"old", b"1")]
    engine.failure = None
    store.commit()
    assert store.scan(INODES) == again(store).scan(INODES) == [(b"new", b"2"), (b"newer", b"3")]
    assert store.waiting_bytes == 0


def test_while_the_engine_fails_memory_does_not_fill(engine: FaultyEngine, keyring: Keyring) -> None:
    """The committer tries again and again; what comes meanwhile is bounded all the same, and small changes pass."""
    store = Store(engine, keyring, group_seconds=3600, group_bytes=10_000)
    engine.failure = StoreFullError("full")

    def fill() -> None:
        for number in range(1000):
            put(store, CHUNKS, b"%d" % number, bytes(1000))
            with pytest.raises(StoreFullError):
                store.commit()

    put(store, CHUNKS, b"first", bytes(50_000))
    with pytest.raises(StoreFullError):
        store.commit()
    put(store, INODES, b"small", b"change")
    with pytest.raises(StoreFullError, match="full"):
        fill()
    assert 50_000 < store.waiting_bytes < 70_000
    engine.failure = None
    store.commit()
    put(store, CHUNKS, b"later", bytes(1000))
    store.close()
    assert again(store).get(INODES, b"small") == b"change"


def test_the_committer_outlives_a_failure(engine: FaultyEngine, keyring: Keyring) -> None:
    store = Store(engine, keyring, group_seconds=0.01)
    engine.failure = StoreFullError("full")
    put(store, INODES, b"key", b"value")
    assert engine.arrived.wait(10)
    engine.failure = None
    assert eventually(lambda: bool(engine.applied))
    store.close()


def test_nothing_is_taken_on_once_the_engine_has_found_damage(
    engine: FaultyEngine, keyring: Keyring, caplog: pytest.LogCaptureFixture
) -> None:
    """It will never write again, so what is gathered in memory would only be lost later."""
    store = Store(engine, keyring, group_seconds=0.01)
    engine.failure = StoreReadOnlyError("the database is damaged")
    put(store, INODES, b"one", b"value")
    committer = store._committer
    assert committer is not None
    committer.join(30)
    assert not committer.is_alive()
    with pytest.raises(StoreReadOnlyError):
        put(store, INODES, b"two", b"value")
    with pytest.raises(StoreReadOnlyError):
        store.commit()
    assert caplog.text.count("cannot be stored") == 1
    engine.failure = None
    store.close()


def test_an_engine_that_cannot_write_for_damage_is_given_nothing_more(engine: FaultyEngine, keyring: Keyring) -> None:
    """LMDB gives up for good where the disk refuses a new root; directories and names would be made in vain."""
    store = Store(engine, keyring, group_seconds=1e6)
    engine.failure = IntegrityError("the database is damaged: MDB_PANIC")
    put(store, INODES, b"one", b"value")
    with pytest.raises(IntegrityError):
        store.commit()
    with pytest.raises(IntegrityError):
        put(store, INODES, b"two", b"value")
    assert store.get(INODES, b"one") == b"value"
    engine.failure = None
    store.commit()
    put(store, INODES, b"two", b"value")
    store.close()


def test_reads_go_on_while_a_batch_is_written(store: Store, engine: FaultyEngine) -> None:
    engine.passing.clear()
    put(store, INODES, b"key", b"1")
    committer = threading.Thread(target=store.commit)
    committer.start()
    assert engine.arrived.wait(10)
    assert store.get(INODES, b"key") == b"1"
    put(store, INODES, b"key", b"2")
    put(store, INODES, b"other", b"2")
    assert store.scan(INODES) == [(b"key", b"2"), (b"other", b"2")]
    engine.passing.set()
    committer.join()
    assert store.scan(INODES) == [(b"key", b"2"), (b"other", b"2")]
    assert again(store).scan(INODES) == [(b"key", b"1")]
    store.commit()
    assert again(store).scan(INODES) == [(b"key", b"2"), (b"other", b"2")]


# Sealing


def test_records_leave_sealed_and_each_for_its_own_place(store: Store, engine: FaultyEngine) -> None:
    put(store, INODES, b"a", b"plain text")
    put(store, INODES, b"b", b"plain text")
    store.commit()
    ((_, _, first), (_, _, second)) = engine.applied[0]
    assert first is not None and b"plain" not in first and first != second
    for table, key in [(INODES, b"c"), (ENTRIES, b"a"), (records.XATTRS, b"a")]:
        engine.apply([(table.name, key, first)])
        with pytest.raises(IntegrityError):
            store.get(table, key)
        with pytest.raises(IntegrityError):
            again(store).scan(table)


def test_a_changed_record_is_damage(store: Store, engine: FaultyEngine) -> None:
    put(store, INODES, b"a", b"plain text")
    store.commit()
    sealed = engine.applied[0][0][2]
    assert sealed is not None
    for at in range(len(sealed)):
        engine.apply([("inodes", b"a", sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :])])
        with pytest.raises(IntegrityError):
            again(store).get(INODES, b"a")


# Reading only


def test_a_reader_refuses_transactions(store: Store) -> None:
    reader = again(store)
    with pytest.raises(StoreReadOnlyError), reader.transaction():
        pass


def test_a_reader_sees_the_latest_commit(store: Store) -> None:
    reader = again(store)
    assert reader.get(INODES, b"key") is None
    for value in (b"1", b"2", None):
        put(store, INODES, b"key", value)
        store.commit()
        assert reader.get(INODES, b"key") == value
        assert reader.scan(INODES) == ([] if value is None else [(b"key", value)])


# Threads


def test_transactions_and_commits_from_many_threads(store: Store) -> None:
    """Every thread adds to one number and to its own; nobody ever sees one without the other."""
    workers, turns = 6, 40
    stop = threading.Event()
    wrong: list[str] = []

    def number(key: bytes) -> int:
        return int(store.get(INODES, key) or b"0")

    def work(worker: int) -> None:
        for _ in range(turns):
            with store.transaction() as transaction:
                for key in (b"sum", b"%d" % worker):
                    transaction.put(INODES, key, b"%d" % (number(key) + 1))
                transaction.count("turns", 1)

    def watch() -> None:
        while not stop.is_set():
            found = dict(store.scan(INODES))
            total = int(found.pop(b"sum", b"0"))
            if total != sum(map(int, found.values())):
                wrong.append(f"{total} {found}")

    def commit() -> None:
        while not stop.is_set():
            store.commit()
            found = dict(again(store).scan(INODES))
            total = int(found.pop(b"sum", b"0"))
            if total != sum(map(int, found.values())):
                wrong.append(f"durable {total} {found}")

    helpers = [threading.Thread(target=watch), threading.Thread(target=commit), threading.Thread(target=commit)]
    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(workers)]
    for thread in helpers + threads:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    for thread in helpers:
        thread.join()
    store.commit()
    assert wrong == []
    assert number(b"sum") == workers * turns
    assert store.counters == again(store).counters == {"turns": workers * turns}


def test_a_commit_covers_what_finished_before_it(store: Store) -> None:
    """Also when another thread is in the middle of a commit."""
    lost: list[bytes] = []

    def work(worker: int) -> None:
        for turn in range(20):
            key = b"%d %d" % (worker, turn)
            put(store, INODES, key, b"value")
            store.commit()
            if again(store).get(INODES, key) is None:
                lost.append(key)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lost == []


def closed_with_error(store: Store) -> None:
    with pytest.raises(StoreError):
        store.close()


def eventually(condition: Callable[[], bool]) -> bool:
    """Wait up to ten seconds for something another thread does."""
    deadline = time.monotonic() + 10
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_what_is_replaced_before_a_commit_takes_no_room(engine: FaultyEngine, keyring: Keyring) -> None:
    """Batches are kept in parts for a disk that turns out to be full; they must not keep what is gone since."""
    opened = Store(engine, keyring, group_seconds=3600, group_bytes=10_000)
    engine.passing.clear()
    for _ in range(100):
        with opened.transaction() as transaction:
            transaction.put(records.CHUNKS, b"key", bytes(1000))
    held = sum(part.changes.size_bytes for part in opened._gathered_parts)
    engine.passing.set()
    opened.close()
    assert held < 12_000


def test_large_values_reach_the_disk_in_the_order_in_which_a_file_has_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[tuple[str, bytes]] = []
    apply = store.engine.apply

    def record(changes: Iterable[Change]) -> None:
        batch = list(changes)
        reached.extend((table, key) for table, key, _ in batch)
        apply(batch)

    monkeypatch.setattr(store.engine, "apply", record)
    names = [b"3", b"1", b"2"]
    for name in names:
        put(store, CHUNKS, name, b"ciphertext")
    store.commit()
    assert reached == [(CHUNKS.name, name) for name in names]


def test_records_that_are_kept_at_hand_are_bounded_by_their_bytes(engine: FaultyEngine, keyring: Keyring) -> None:
    """The record of a large file is itself large, however few there are."""
    store = Store(engine, keyring, records_bytes=100_000)
    for number in range(40):
        put(store, INODES, b"%02d" % number, bytes([number]) * 10_000)
    store.commit()
    for number in reversed(range(40)):
        assert store.get(INODES, b"%02d" % number) == bytes([number]) * 10_000
    put(store, INODES, b"00", b"short")
    store.commit()
    held = sum(len(value or b"") for value in store._cache.values())
    assert 50_000 < held <= store._cache_bytes <= 100_000
    assert store.get(INODES, b"00") == b"short"
    store.close()
