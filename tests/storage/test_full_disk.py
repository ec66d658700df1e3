"""A disk that fills up: what was accepted finds its room, and what frees room is never held up by it."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dedupfs.crypto.keys import Keyring
from dedupfs.errors import StoreError, StoreFullError
from dedupfs.storage import records
from dedupfs.storage.lmdb_engine import LmdbEngine
from dedupfs.storage.store import Store

CHUNK_BYTES = 250_000
MEBIBYTE = 1 << 20


@pytest.fixture
def store(tiny_disk: Path, keyring: Keyring) -> Iterator[Store]:
    """A store on a disk of 2 MiB, which commits when it is told to."""
    engine = LmdbEngine(tiny_disk, [table.name for table in records.TABLES], create=True)
    opened = Store(engine, keyring, group_seconds=3600)
    yield opened
    opened.close()


def fill(disk: Path) -> Path:
    """Take all that is left of a disk, as somebody else might."""
    filler = disk / "filler"
    room = os.statvfs(disk)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize)
    return filler


def put_chunk(store: Store, number: int) -> None:
    with store.transaction() as transaction:
        transaction.put(records.CHUNKS, b"%032d" % number, os.urandom(CHUNK_BYTES))


def put_chunks(store: Store, first: int, end: int) -> None:
    for number in range(first, end):
        put_chunk(store, number)


def enlarge(disk: Path) -> None:
    """Have so much room that what LMDB takes besides the values is no matter."""
    subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)


def chunks(store: Store) -> int:
    return len(store.keys(records.CHUNKS))


def test_what_was_accepted_finds_its_room_whoever_fills_the_disk(store: Store, tiny_disk: Path) -> None:
    put_chunks(store, 0, 4)
    fill(tiny_disk)
    store.commit()
    assert chunks(store) == 4


def test_what_has_no_room_is_refused_and_holds_nothing_up(store: Store, tiny_disk: Path) -> None:
    put_chunk(store, 0)
    store.commit()
    filler = fill(tiny_disk)
    with pytest.raises(StoreFullError):
        put_chunks(store, 1, 20)
    with store.transaction() as transaction:
        transaction.delete(records.CHUNKS, b"%032d" % 0)
    store.commit()
    filler.unlink()
    put_chunk(store, 30)
    store.commit()


def test_room_that_waits_for_what_was_accepted_is_counted_once(store: Store, tiny_disk: Path) -> None:
    enlarge(tiny_disk)
    free = store.engine.free_bytes()
    put_chunks(store, 0, 12)
    assert free - store.engine.free_bytes() < CHUNK_BYTES
    store.commit()
    assert 10 * CHUNK_BYTES < free - store.engine.free_bytes() < 15 * CHUNK_BYTES


def test_what_was_set_aside_is_given_back_at_the_end(tiny_disk: Path, keyring: Keyring) -> None:
    enlarge(tiny_disk)
    engine = LmdbEngine(tiny_disk, [table.name for table in records.TABLES], create=True)
    opened = Store(engine, keyring, group_seconds=3600)
    put_chunks(opened, 0, 4)
    assert set_aside(tiny_disk) > 8 * MEBIBYTE
    with opened.transaction() as transaction:
        for number in range(4):
            transaction.delete(records.CHUNKS, b"%032d" % number)
    opened.close()
    assert set_aside(tiny_disk) <= MEBIBYTE


def set_aside(disk: Path) -> int:
    info = (disk / "data.mdb").stat()
    return info.st_blocks * 512 - info.st_size


def test_any_number_of_deletions_together_takes_place_on_a_full_disk(store: Store, tiny_disk: Path) -> None:
    """Each changes a page of its own, and the reserve holds a fraction of the pages that they change together."""
    enlarge(tiny_disk)
    choice = random.Random(1)
    keys = [choice.randbytes(32) for _ in range(6000)]
    with store.transaction() as transaction:
        for key in keys:
            transaction.put(records.CONTENTS, key, bytes(800))
    store.commit()
    fill(tiny_disk)
    for key in choice.sample(keys, 2000):
        with store.transaction() as transaction:
            transaction.delete(records.CONTENTS, key)
            transaction.count("files", -1)
    store.commit()
    assert len(store.keys(records.CONTENTS)) == 4000
    assert store.counters["files"] == -2000


def test_the_removal_of_a_large_file_takes_place_on_a_full_disk(store: Store, tiny_disk: Path) -> None:
    """One transaction that changes more pages than the reserve holds: its chunks go after all the rest, in pieces."""
    enlarge(tiny_disk)
    choice = random.Random(1)
    chunk_ids = [choice.randbytes(32) for _ in range(6000)]
    with store.transaction() as transaction:
        transaction.put(records.CONTENTS, b"content", b"a list of chunks")
        for chunk in chunk_ids:
            transaction.put(records.CHUNKS, chunk, bytes(700))
            transaction.put(records.CHUNK_REFS, chunk, b"two users")
    store.commit()
    fill(tiny_disk)
    with store.transaction() as transaction:
        transaction.delete(records.CONTENTS, b"content")
        for chunk in chunk_ids[:1500]:
            transaction.delete(records.CHUNKS, chunk)
            transaction.delete(records.CHUNK_REFS, chunk)
        for chunk in chunk_ids[1500:3000]:
            transaction.put(records.CHUNK_REFS, chunk, b"one user")
        transaction.count("chunks", -1500)
    store.commit()
    assert (len(store.keys(records.CHUNKS)), len(store.keys(records.CHUNK_REFS))) == (4500, 4500)
    assert store.keys(records.CONTENTS) == []
    assert store.get(records.CHUNK_REFS, chunk_ids[1500]) == b"one user"


def test_a_disk_that_was_full_for_a_moment_is_no_broken_disk(
    store: Store, tiny_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LMDB calls a short write an input/output error, and when the room is looked up there may be some again."""
    engine = store.engine
    assert isinstance(engine, LmdbEngine)
    enlarge(tiny_disk)
    filler = fill(tiny_disk)
    looked_up = engine._disk_room_bytes

    def room_comes() -> int:
        filler.unlink(missing_ok=True)
        return looked_up()

    monkeypatch.setattr(engine, "_disk_room_bytes", room_comes)
    engine.apply([(records.CHUNKS.name, b"%032d" % number, os.urandom(CHUNK_BYTES)) for number in range(5)])
    assert chunks(store) == 5


def test_a_broken_disk_is_no_full_disk(store: Store, tiny_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enlarge(tiny_disk)
    monkeypatch.setattr("dedupfs.storage.lmdb_engine.has_own_pages", lambda *sizes: broken())
    put_chunk(store, 0)
    store.commit()
    put_chunk(store, 0)
    with pytest.raises(StoreError) as caught:
        store.commit()
    assert not isinstance(caught.value, StoreFullError)
    monkeypatch.undo()


def broken() -> bool:
    raise OSError(5, "Input/output error")
