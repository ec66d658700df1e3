"""PlaintextCache: bounded, and what several threads want at once is loaded once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dedupfs.errors import IntegrityError
from dedupfs.model import ChunkId
from dedupfs.storage.plaintext_cache import PlaintextCache

A, B, C = (ChunkId(name * 32) for name in (b"a", b"b", b"c"))


class Loader:
    """Loads ten bytes, and counts."""

    def __init__(self) -> None:
        self.loaded: list[ChunkId] = []

    def __call__(self, chunk: ChunkId) -> memoryview:
        self.loaded.append(chunk)
        return memoryview(chunk[:10])


def test_what_was_used_last_is_held_up_to_a_number_of_bytes() -> None:
    cache, load = PlaintextCache(20), Loader()
    for chunk in (A, B, A, C, A, B):
        assert cache.get(chunk, load) == chunk[:10]
    assert load.loaded == [A, B, C, B]


def test_two_threads_load_a_chunk_once() -> None:
    cache = PlaintextCache(100)
    started, go_on = threading.Event(), threading.Event()
    loads = Loader()

    def slow(chunk: ChunkId) -> memoryview:
        started.set()
        assert go_on.wait(10)
        return loads(chunk)

    with ThreadPoolExecutor() as pool:
        first = pool.submit(cache.get, A, slow)
        assert started.wait(10)
        second = pool.submit(cache.get, A, loads)
        # Others are not in its way.
        assert cache.get(B, loads) == b"b" * 10
        go_on.set()
        assert first.result(10) == second.result(10) == b"a" * 10
    assert loads.loaded == [B, A]


def test_damage_is_told_to_everybody_who_asks() -> None:
    cache = PlaintextCache(100)
    started, go_on = threading.Event(), threading.Event()

    def slow(chunk: ChunkId) -> memoryview:
        started.set()
        assert go_on.wait(10)
        raise IntegrityError("damage")

    def damaged(chunk: ChunkId) -> memoryview:
        raise IntegrityError("damage")

    with ThreadPoolExecutor() as pool:
        first = pool.submit(cache.get, A, slow)
        assert started.wait(10)
        second = pool.submit(cache.get, A, damaged)
        go_on.set()
        for asked in (first, second):
            with pytest.raises(IntegrityError):
                asked.result(10)
    # Nothing of it stays.
    assert cache.get(A, Loader()) == b"a" * 10
