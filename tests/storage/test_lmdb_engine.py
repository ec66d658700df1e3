"""What only the embedded engine can get wrong: the size of its map, a full disk, a damaged file, other processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dedupfs.errors import IntegrityError, StoreError, StoreFullError, StoreReadOnlyError
from dedupfs.storage.lmdb_engine import DATA_FILE, LmdbEngine

TABLES = ("one", "two")
SMALL_MAP_BYTES = 1 << 16


def opened(directory: Path, *, create: bool = False, read_only: bool = False) -> LmdbEngine:
    return LmdbEngine(directory, TABLES, create=create, read_only=read_only, initial_map_bytes=SMALL_MAP_BYTES)


def content(engine: LmdbEngine) -> dict[bytes, bytes]:
    with engine.snapshot() as snapshot:
        return dict(snapshot.scan("one"))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[LmdbEngine]:
    made = opened(tmp_path, create=True)
    yield made
    made.close()


class Reserve:
    """Room on a small disk that can be given back, for a deletion needs some to take place."""

    def __init__(self, disk: Path) -> None:
        self._file = disk / "reserve"
        self._file.write_bytes(bytes(64 << 10))

    def release(self) -> None:
        self._file.unlink()


def fill(engine: LmdbEngine, length: int) -> int:
    """Put values until the disk is full and return how many fitted."""
    for number in range(1000):
        try:
            engine.apply([("one", b"%04d" % number, os.urandom(length))])
        except StoreFullError:
            return number
    raise AssertionError("the disk is larger than it should be")


def test_the_map_grows_as_far_as_one_batch_needs(engine: LmdbEngine) -> None:
    values = {b"%03d" % number: os.urandom(50_000) for number in range(40)}
    engine.apply([("one", key, value) for key, value in values.items()])
    assert content(engine) == values


def test_the_map_does_not_grow_under_a_reader(engine: LmdbEngine) -> None:
    """A reader on another thread holds the growth up, and reads on undisturbed."""
    engine.apply([("one", b"key", b"value")])
    writer = threading.Thread(target=engine.apply, args=([("one", b"large", os.urandom(1 << 20))],))
    with engine.snapshot() as snapshot:
        writer.start()
        writer.join(0.2)
        assert writer.is_alive()
        assert list(snapshot.scan("one")) == [(b"key", b"value")]
    writer.join(30)
    assert not writer.is_alive()
    assert len(content(engine)[b"large"]) == 1 << 20


def test_opens_with_a_map_smaller_than_the_data(engine: LmdbEngine, tmp_path: Path) -> None:
    engine.apply([("one", b"key", bytes(1 << 20))])
    engine.close()
    again = opened(tmp_path)
    assert len(content(again)[b"key"]) == 1 << 20
    again.close()


def test_everything_is_there_after_the_process_is_killed(tmp_path: Path) -> None:
    """Without close: `apply` has returned, so it is durable."""
    program = (
        "import os, sys; from pathlib import Path; from dedupfs.storage.lmdb_engine import LmdbEngine\n"
        f"engine = LmdbEngine(Path(sys.argv[1]), {TABLES}, create=True)\n"
        "engine.apply([('one', b'key', b'value')])\n"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program, tmp_path], check=False).returncode == -9
    engine = opened(tmp_path)
    assert content(engine) == {b"key": b"value"}
    engine.close()


def test_a_reader_follows_a_writer_that_grows_the_map(engine: LmdbEngine, tmp_path: Path) -> None:
    engine.apply([("one", b"key", b"value")])
    program = (
        "import sys; from pathlib import Path; from dedupfs.storage.lmdb_engine import LmdbEngine\n"
        f"engine = LmdbEngine(Path(sys.argv[1]), {TABLES}, read_only=True, initial_map_bytes={SMALL_MAP_BYTES})\n"
        "def size():\n"
        "    with engine.snapshot() as snapshot:\n"
        "        return sum(len(value) for _, value in snapshot.scan('one'))\n"
        "print(size(), flush=True)\n"
        "input()\n"
        "print(engine.free_bytes() > 0, size())"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin is not None and reader.stdout is not None
        assert reader.stdout.readline() == "5\n"
        engine.apply([("one", b"large", bytes(1 << 20))])
        output, _ = reader.communicate("\n", timeout=30)
    assert output == f"True {5 + (1 << 20)}\n"


def test_a_writer_follows_another_that_grows_the_map(engine: LmdbEngine, tmp_path: Path) -> None:
    """Keys are changed beside a mount, by a process that may be the one to fill the map."""
    engine.apply([("one", b"key", b"value")])
    program = (
        "import sys; from pathlib import Path; from dedupfs.storage.lmdb_engine import LmdbEngine\n"
        f"engine = LmdbEngine(Path(sys.argv[1]), {TABLES}, initial_map_bytes={SMALL_MAP_BYTES})\n"
        "engine.apply([('one', b'large', bytes(1 << 20))])\n"
        "engine.close()"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path], check=True, timeout=30)
    engine.apply([("one", b"key", b"another")])
    assert {key: len(value) for key, value in content(engine).items()} == {b"key": 7, b"large": 1 << 20}


def test_a_full_disk_is_told_and_survived(tiny_disk: Path) -> None:
    engine = opened(tiny_disk, create=True)
    reserve = Reserve(tiny_disk)
    stored = fill(engine, 100_000)
    before = content(engine)
    assert len(before) == stored > 5
    reserve.release()
    engine.apply([("one", b"%04d" % number, None) for number in range(stored // 2)])
    engine.apply([("one", b"new", os.urandom(100_000))])
    after = content(engine)
    engine.close()
    assert sorted(after) == sorted([*list(before)[stored // 2 :], b"new"])
    again = opened(tiny_disk)
    assert content(again) == after
    again.close()


def test_a_batch_larger_than_the_disk_changes_nothing(tiny_disk: Path) -> None:
    engine = opened(tiny_disk, create=True)
    engine.apply([("one", b"key", b"value")])
    with pytest.raises(StoreFullError):
        engine.apply([("one", b"%03d" % number, os.urandom(100_000)) for number in range(40)])
    assert content(engine) == {b"key": b"value"}
    engine.apply([("one", b"key", b"other")])
    assert content(engine) == {b"key": b"other"}
    engine.close()


def test_a_full_disk_is_told_though_single_pages_are_free(tiny_disk: Path) -> None:
    """Free pages that do not lie side by side are no room for a chunk."""
    engine = opened(tiny_disk, create=True)
    reserve = Reserve(tiny_disk)
    count = fill(engine, 3000)
    reserve.release()
    engine.apply([("one", b"%04d" % number, None) for number in range(0, count, 2)])
    assert engine.free_bytes() > 400_000
    with pytest.raises(StoreFullError):
        engine.apply([("two", b"key", os.urandom(300_000))])
    engine.close()


def test_freed_pages_count_as_free(engine: LmdbEngine) -> None:
    engine.apply([("one", b"key", os.urandom(10 << 20))])
    full, size = engine.free_bytes(), engine.allocated_bytes()
    engine.apply([("one", b"key", None)])
    engine.apply([("one", b"other", b"value")])
    assert engine.allocated_bytes() == pytest.approx(size, rel=0.1)
    # What the disk itself offers is shared with everybody else, so leave some slack.
    assert engine.free_bytes() - full > 5 << 20


def test_a_reader_changes_nothing(engine: LmdbEngine, tmp_path: Path) -> None:
    engine.apply([("one", b"key", b"value")])
    engine.close()
    reader = opened(tmp_path, read_only=True)
    with pytest.raises(StoreReadOnlyError):
        reader.apply([("one", b"key", None)])
    assert content(reader) == {b"key": b"value"}
    reader.close()


@pytest.mark.parametrize("read_only", [False, True])
def test_a_missing_file_is_damage(tmp_path: Path, read_only: bool) -> None:
    with pytest.raises(IntegrityError):
        opened(tmp_path, read_only=read_only)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("data", [b"", b"garbage", os.urandom(20_000)], ids=["empty", "short", "long"])
def test_a_file_of_something_else_is_damage(tmp_path: Path, data: bytes) -> None:
    (tmp_path / DATA_FILE).write_bytes(data)
    with pytest.raises((IntegrityError, StoreError)):
        opened(tmp_path)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_that_was_cut_off_is_damage(engine: LmdbEngine, tmp_path: Path, read_only: bool) -> None:
    """Reading behind the end of a mapped file would be a signal and not an error."""
    engine.apply([("one", b"%03d" % number, os.urandom(100_000)) for number in range(40)])
    engine.close()
    os.truncate(tmp_path / DATA_FILE, (tmp_path / DATA_FILE).stat().st_size // 2)
    with pytest.raises(IntegrityError):
        opened(tmp_path, read_only=read_only)


def test_a_database_without_our_tables_is_damage(engine: LmdbEngine, tmp_path: Path) -> None:
    engine.close()
    with pytest.raises(IntegrityError):
        LmdbEngine(tmp_path, ["one", "two", "three"], initial_map_bytes=SMALL_MAP_BYTES)


def test_the_file_is_for_its_owner_only(engine: LmdbEngine, tmp_path: Path) -> None:
    assert (tmp_path / DATA_FILE).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("length", "pages"), [(1998, 0), (1999, 1), (4080, 1), (4081, 2), (64 * 4096 - 16, 64)])
def test_values_fill_pages_as_chunks_expect(engine: LmdbEngine, length: int, pages: int) -> None:
    engine.apply([("one", os.urandom(32), bytes(length))])
    assert engine._env is not None
    with engine._env.begin() as transaction:
        assert transaction.stat(engine._tables["one"])["overflow_pages"] == pages


def test_a_medium_that_cannot_be_written_can_be_read(tiny_disk: Path) -> None:
    writer = opened(tiny_disk, create=True)
    writer.apply([("one", b"key", b"value")])
    writer.close()
    subprocess.run(["mount", "-o", "remount,ro", tiny_disk], check=True)
    reader = opened(tiny_disk, read_only=True)
    with reader.snapshot() as snapshot:
        assert snapshot.get("one", b"key") == b"value"
    reader.close()


def test_nothing_is_written_under_the_lock_file_of_another_database(tmp_path: Path) -> None:
    """Somebody puts a backup back while a reader has the volume open: LMDB would go by the reader's lock file."""
    first = opened(tmp_path, create=True)
    first.apply([("one", b"key", b"backup")])
    first.close()
    backup = (tmp_path / DATA_FILE).read_bytes()
    for number in range(3):
        later = opened(tmp_path)
        later.apply([("one", b"key", b"%d" % number)])
        later.close()
    program = (
        "import sys; from pathlib import Path; from dedupfs.storage.lmdb_engine import LmdbEngine\n"
        "engine = LmdbEngine(Path(sys.argv[1]), ('one', 'two'), read_only=True); print('open', flush=True); input()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None and reader.stdout.readline() == "open\n"
        (tmp_path / "put back").write_bytes(backup)
        (tmp_path / "put back").rename(tmp_path / DATA_FILE)
        with pytest.raises(StoreError, match="replaced while it was in use"):
            opened(tmp_path)
        reader.communicate("\n", timeout=30)
    engine = opened(tmp_path)
    assert content(engine) == {b"key": b"backup"}
    engine.close()
