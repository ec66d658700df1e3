"""What every engine promises: one suite for all of them."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dedupfs.storage.engine import Engine
from dedupfs.storage.lmdb_engine import LmdbEngine
from tests.storage.engines import MemoryEngine

TABLES = ("one", "two")

MAKERS: dict[str, Callable[[Path], Engine]] = {
    "memory": lambda directory: MemoryEngine(TABLES),
    "lmdb": lambda directory: LmdbEngine(directory, TABLES, create=True, initial_map_bytes=1 << 16),
}


@pytest.fixture(params=MAKERS)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    made = MAKERS[request.param](tmp_path)
    yield made
    made.close()


def get(engine: Engine, table: str, key: bytes) -> bytes | None:
    with engine.snapshot() as snapshot:
        return snapshot.get(table, key)


def scan(engine: Engine, table: str, prefix: bytes = b"") -> list[tuple[bytes, bytes]]:
    with engine.snapshot() as snapshot:
        return list(snapshot.scan(table, prefix))


def test_starts_empty(engine: Engine) -> None:
    assert get(engine, "one", b"key") is None
    assert scan(engine, "one") == scan(engine, "one", b"k") == []


def test_returns_what_was_put(engine: Engine) -> None:
    engine.apply([("one", b"key", b"value"), ("one", b"empty", b"")])
    assert get(engine, "one", b"key") == b"value"
    assert get(engine, "one", b"empty") == b""


def test_replaces_and_deletes(engine: Engine) -> None:
    engine.apply([("one", b"a", b"1"), ("one", b"b", b"1")])
    engine.apply([("one", b"a", b"2"), ("one", b"b", None)])
    assert scan(engine, "one") == [(b"a", b"2")]


def test_the_last_change_of_a_batch_counts(engine: Engine) -> None:
    engine.apply([("one", b"a", b"1"), ("one", b"a", None), ("one", b"b", None), ("one", b"b", b"2")])
    assert scan(engine, "one") == [(b"b", b"2")]


def test_deletes_what_is_not_there(engine: Engine) -> None:
    engine.apply([("one", b"key", None)])
    assert get(engine, "one", b"key") is None


def test_tables_are_apart(engine: Engine) -> None:
    engine.apply([("one", b"key", b"1"), ("two", b"key", b"2")])
    engine.apply([("one", b"key", None)])
    assert (get(engine, "one", b"key"), get(engine, "two", b"key")) == (None, b"2")


def test_scans_in_the_order_of_unsigned_bytes(engine: Engine) -> None:
    keys = [b"\0", b"\0\0", b"a", b"a\0", b"a\xff", b"b", b"\x80", b"\xff", b"\xff\xff"]
    engine.apply([("one", key, key[::-1]) for key in random.Random(1).sample(keys, len(keys))])
    assert scan(engine, "one") == [(key, key[::-1]) for key in sorted(keys)]
    assert [key for key, _ in scan(engine, "one", b"a")] == [b"a", b"a\0", b"a\xff"]
    assert [key for key, _ in scan(engine, "one", b"\xff")] == [b"\xff", b"\xff\xff"]
    assert scan(engine, "one", b"\xff\xff\xff") == scan(engine, "one", b"aa") == []


def test_keeps_keys_and_values_of_every_length_in_use(engine: Engine) -> None:
    values = {bytes([length % 251]) * 40: os.urandom(length) for length in (1, 100, 1998, 1999, 4080, 64 * 4096 - 16)}
    engine.apply([("one", key, value) for key, value in values.items()])
    assert dict(scan(engine, "one")) == values


def test_an_empty_batch_changes_nothing(engine: Engine) -> None:
    engine.apply([])
    assert scan(engine, "one") == []


def test_a_batch_that_fails_leaves_nothing(engine: Engine) -> None:
    def changes() -> Iterator[tuple[str, bytes, bytes | None]]:
        yield "one", b"key", b"value"
        raise RuntimeError("the source of the changes broke")

    with pytest.raises(RuntimeError):
        engine.apply(changes())
    assert scan(engine, "one") == []
    engine.apply([("one", b"key", b"value")])
    assert get(engine, "one", b"key") == b"value"


def test_a_snapshot_stays_as_it_was(engine: Engine) -> None:
    engine.apply([("one", b"a", b"1"), ("one", b"b", b"1")])
    with engine.snapshot() as before:
        apply_elsewhere(engine, [("one", b"a", b"2"), ("one", b"b", None), ("one", b"c", b"2")])
        assert list(before.scan("one")) == [(b"a", b"1"), (b"b", b"1")]
        assert before.get("one", b"c") is None
        with engine.snapshot() as after:
            assert list(after.scan("one")) == [(b"a", b"2"), (b"c", b"2")]


def test_a_scan_may_be_left_early(engine: Engine) -> None:
    engine.apply([("one", bytes([number]), b"value") for number in range(10)])
    with engine.snapshot() as snapshot:
        rows = snapshot.scan("one")
        assert next(rows) == (b"\0", b"value")
        assert len(list(snapshot.scan("one"))) == 10
    engine.apply([("one", b"\0", None)])
    assert len(scan(engine, "one")) == 9


def test_batches_from_many_threads_arrive_whole(engine: Engine) -> None:
    """Two keys always hold the same number, whoever wrote it last and whenever somebody looks."""
    stop = threading.Event()
    torn: list[tuple[bytes | None, bytes | None]] = []

    def write(worker: int) -> None:
        for turn in range(15):
            # Large enough for the map of the embedded engine to grow meanwhile.
            value = b"%d %d" % (worker, turn)
            filler = ("two", b"%d" % worker, os.urandom(20_000 + turn))
            engine.apply([("one", b"x", value), filler, ("one", b"y", value)])

    def read() -> None:
        while not stop.is_set():
            with engine.snapshot() as snapshot:
                x, y = snapshot.get("one", b"x"), snapshot.get("one", b"y")
            if x != y:
                torn.append((x, y))
            time.sleep(0.001)

    readers = [threading.Thread(target=read) for _ in range(2)]
    writers = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    for thread in readers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    assert torn == []
    assert sorted(len(value) for _, value in scan(engine, "two")) == [20_014] * 4


def test_tells_its_sizes(engine: Engine) -> None:
    before = engine.allocated_bytes()
    engine.apply([("one", b"%d" % number, os.urandom(5000)) for number in range(100)])
    assert engine.allocated_bytes() >= before + 400_000
    assert 0 < engine.free_bytes() <= engine.total_bytes()


def apply_elsewhere(engine: Engine, changes: list[tuple[str, bytes, bytes | None]]) -> None:
    """Apply on another thread, as the committer does."""
    thread = threading.Thread(target=engine.apply, args=(changes,))
    thread.start()
    thread.join()
