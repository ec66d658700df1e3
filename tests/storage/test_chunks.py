"""One ciphertext for each plaintext, counted, healed when it comes again, in whole pages."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedupfs.crypto.keys import Keyring
from dedupfs.errors import IntegrityError
from dedupfs.model import ChunkId
from dedupfs.storage.chunks import CHUNK_BYTES, Chunks, stored_size
from dedupfs.storage.records import CHUNK_REFS, CHUNKS, ChunkRefs
from dedupfs.storage.store import Store
from tests.storage.engines import FaultyEngine

PAGE_BYTES = 4096


@pytest.fixture
def chunks(store: Store) -> Chunks:
    return Chunks(store)


def link(chunks: Chunks, store: Store, data: bytes) -> ChunkId:
    prepared = chunks.prepare(data)
    with store.transaction() as transaction:
        chunks.link(transaction, prepared)
    return prepared.id


def unlink(chunks: Chunks, store: Store, chunk: ChunkId) -> None:
    with store.transaction() as transaction:
        chunks.unlink(transaction, chunk)


def damage(store: Store, chunk: ChunkId) -> None:
    """Flip one bit of the stored ciphertext."""
    store.commit()
    sealed = store.get(CHUNKS, chunk)
    assert sealed is not None
    store.engine.apply([(CHUNKS.name, chunk, sealed[:100] + bytes([sealed[100] ^ 4]) + sealed[101:])])


@pytest.mark.parametrize("length", [1, 2, 230, 2000, 5000, CHUNK_BYTES])
def test_round_trip(chunks: Chunks, store: Store, length: int) -> None:
    data = os.urandom(length)
    assert chunks.read(link(chunks, store, data)) == data
    store.commit()
    assert chunks.read(chunks.identify(data)) == data


@pytest.mark.parametrize("length", [0, CHUNK_BYTES + 1])
def test_other_lengths_are_refused(chunks: Chunks, length: int) -> None:
    with pytest.raises(ValueError, match="chunk"):
        chunks.prepare(bytes(length))


def test_equal_plaintexts_share_a_ciphertext_until_the_last_goes(chunks: Chunks, store: Store) -> None:
    chunk = link(chunks, store, b"text")
    store.commit()
    assert link(chunks, store, b"text") == chunk
    assert chunks.references(chunk) == ChunkRefs(2, 256)
    assert store.counters == {"chunks": 1, "stored_bytes": 256}
    unlink(chunks, store, chunk)
    assert bytes(chunks.read(chunk)) == b"text"
    unlink(chunks, store, chunk)
    store.commit()
    assert store.keys(CHUNKS) == store.keys(CHUNK_REFS) == []
    assert store.counters == {"chunks": 0, "stored_bytes": 0}
    with pytest.raises(IntegrityError):
        chunks.read(chunk)


def test_what_is_stored_already_is_not_sealed_again(chunks: Chunks, store: Store) -> None:
    link(chunks, store, b"text")
    assert chunks.prepare(b"text").sealed is None


def test_a_chunk_that_goes_between_prepare_and_link_is_sealed_again(chunks: Chunks, store: Store) -> None:
    chunk = link(chunks, store, b"text")
    prepared = chunks.prepare(memoryview(b"text"))
    unlink(chunks, store, chunk)
    with store.transaction() as transaction:
        chunks.link(transaction, prepared)
    store.commit()
    assert bytes(chunks.read(chunk)) == b"text"
    assert chunks.references(chunk) == ChunkRefs(1, 256)


def test_linking_the_same_bytes_heals_a_damaged_chunk(chunks: Chunks, store: Store) -> None:
    chunk = link(chunks, store, b"text")
    damage(store, chunk)
    with pytest.raises(IntegrityError):
        chunks.read(chunk)
    link(chunks, store, b"text")
    assert bytes(chunks.read(chunk)) == b"text"
    store.commit()
    assert bytes(chunks.read(chunk)) == b"text"
    assert chunks.references(chunk) == ChunkRefs(2, 256)
    assert store.counters["stored_bytes"] == 256


def test_linking_the_same_bytes_heals_a_missing_chunk(chunks: Chunks, store: Store) -> None:
    chunk = link(chunks, store, b"text")
    store.commit()
    store.engine.apply([(CHUNKS.name, chunk, None)])
    link(chunks, store, b"text")
    assert bytes(chunks.read(chunk)) == b"text"
    assert store.counters == {"chunks": 1, "stored_bytes": 256}


def test_healing_does_not_count(chunks: Chunks, store: Store) -> None:
    chunk = link(chunks, store, b"text")
    damage(store, chunk)
    with store.transaction() as transaction:
        chunks.heal(transaction, chunks.prepare(b"text"))
        chunks.heal(transaction, chunks.prepare(b"unknown"))
    store.commit()
    assert bytes(chunks.read(chunk)) == b"text"
    assert chunks.references(chunk) == ChunkRefs(1, 256)
    assert store.keys(CHUNKS) == [chunk]


def test_a_chunk_moved_to_another_id_does_not_open(chunks: Chunks, store: Store) -> None:
    one, other = link(chunks, store, b"one"), link(chunks, store, b"other")
    store.commit()
    sealed = store.get(CHUNKS, one)
    store.engine.apply([(CHUNKS.name, other, sealed)])
    with pytest.raises(IntegrityError):
        chunks.read(other)


@pytest.mark.parametrize("damaged", [None, b"garbage"])
def test_a_chunk_whose_count_is_damaged_stays(chunks: Chunks, store: Store, damaged: bytes | None) -> None:
    """It may have other users than those that are counted from now on."""
    chunk = link(chunks, store, b"text")
    link(chunks, store, b"text")
    store.commit()
    store._cache.clear()
    store.engine.apply([(CHUNK_REFS.name, chunk, damaged)])
    link(chunks, store, b"text")
    for _ in range(2):
        unlink(chunks, store, chunk)
    assert bytes(chunks.read(chunk)) == b"text"


def test_a_chunk_that_is_gone_with_its_count_hinders_nobody(chunks: Chunks, store: Store) -> None:
    chunk = ChunkId(bytes(32))
    with store.transaction() as transaction:
        chunks.unlink(transaction, chunk)
        chunks.link_again(transaction, chunk)
    refs = chunks.references(chunk)
    assert refs is not None and refs.extents > 1, "whoever else names it is not known"


def test_equal_plaintexts_of_two_volumes_have_nothing_in_common(
    chunks: Chunks, store: Store, engine: FaultyEngine
) -> None:
    other = Chunks(Store(engine, Keyring(b"k" * 32), read_only=True))
    one, two = chunks.prepare(b"text"), other.prepare(b"text")
    assert one.id != two.id and one.sealed != two.sealed


@given(st.integers(1, CHUNK_BYTES))
def test_stored_sizes_fill_pages_and_hide_lengths(length: int) -> None:
    size = stored_size(length)
    assert size >= length + 21
    if size > 1998:
        assert (size + 16) % PAGE_BYTES == 0
        assert size - (length + 21) < PAGE_BYTES
    else:
        assert size in (256, 512, 1024, 1998)


@given(st.integers(1, 20_000) | st.just(CHUNK_BYTES))
def test_a_value_is_as_long_as_its_stored_size(length: int) -> None:
    sealed = CHUNKS_OF_NO_VOLUME.prepare(bytes(length - 1) + b"\1").sealed
    assert sealed is not None and len(sealed) == stored_size(length)


def test_the_longest_chunk_is_64_pages() -> None:
    assert stored_size(CHUNK_BYTES) == 64 * PAGE_BYTES - 16
    assert stored_size(CHUNK_BYTES + 1) > stored_size(CHUNK_BYTES)


class _Empty:
    """A store with a keyring and nothing in it."""

    keyring = Keyring(bytes(32))

    def get(self, *_: object) -> None:
        return None


CHUNKS_OF_NO_VOLUME = Chunks(_Empty())  # type: ignore[arg-type]
