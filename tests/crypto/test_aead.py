"""What is sealed opens to the same bytes, in its own place only, and nothing else opens at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedupfs.crypto import aead
from dedupfs.errors import IntegrityError

KEY = bytes(range(32))
OTHER_KEY = bytes(range(1, 33))
PLACE = b"table\0key"


@dataclass(frozen=True)
class Construction:
    """One of the two ways to seal."""

    seal: Callable[[bytes, bytes, bytes], bytes]
    open: Callable[[bytes, bytes, bytes], bytes]
    overhead_bytes: int


CONSTRUCTIONS = {
    "record": Construction(aead.seal_record, aead.open_record, aead.RECORD_OVERHEAD_BYTES),
    "chunk": Construction(lambda *given: bytes(aead.seal_chunk(*given)), aead.open_chunk, aead.CHUNK_OVERHEAD_BYTES),
}

both = pytest.mark.parametrize("way", CONSTRUCTIONS.values(), ids=CONSTRUCTIONS)


@both
@given(plaintext=st.binary(max_size=300), place=st.binary(max_size=60))
def test_round_trip(way: Construction, plaintext: bytes, place: bytes) -> None:
    sealed = way.seal(KEY, plaintext, place)
    assert len(sealed) == len(plaintext) + way.overhead_bytes
    assert way.open(KEY, sealed, place) == plaintext


@both
@pytest.mark.parametrize("plaintext", [b"", b"some text"], ids=["empty", "text"])
def test_no_bit_can_be_flipped(way: Construction, plaintext: bytes) -> None:
    sealed = way.seal(KEY, plaintext, PLACE)
    for bit in range(8 * len(sealed)):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(IntegrityError):
            way.open(KEY, bytes(changed), PLACE)


@both
def test_nothing_can_be_cut_off_or_added(way: Construction) -> None:
    sealed = way.seal(KEY, b"some text", PLACE)
    for length in range(len(sealed)):
        with pytest.raises(IntegrityError):
            way.open(KEY, sealed[:length], PLACE)
    with pytest.raises(IntegrityError):
        way.open(KEY, sealed + b"\0", PLACE)


@both
def test_opens_in_its_place_and_with_its_key_only(way: Construction) -> None:
    sealed = way.seal(KEY, b"some text", PLACE)
    for key, place in [(OTHER_KEY, PLACE), (KEY, PLACE + b"\0"), (KEY, b"")]:
        with pytest.raises(IntegrityError):
            way.open(key, sealed, place)


@both
@given(sealed=st.binary(max_size=100))
def test_arbitrary_bytes_do_not_open(way: Construction, sealed: bytes) -> None:
    version = way.seal(KEY, b"", PLACE)[:1]
    with pytest.raises(IntegrityError):
        way.open(KEY, version + sealed, PLACE)


def test_equal_records_are_sealed_differently() -> None:
    assert aead.seal_record(KEY, b"text", PLACE) != aead.seal_record(KEY, b"text", PLACE)


def test_equal_chunks_are_sealed_alike() -> None:
    assert aead.seal_chunk(KEY, b"text", PLACE) == aead.seal_chunk(KEY, b"text", PLACE)


SEALED_BEFORE = {
    "record": "02000102030405060708090a0b0c0d0e0f101112131415161783f6b332fb63f933a4180ba3e0ee95a2eeebad85a7e028484b",
    "chunk": "017dd3d8bb9558e6c57c7378edad3fcf33316a1e5ef51f0d6a17",
}


@pytest.mark.parametrize("name", SEALED_BEFORE)
def test_what_was_sealed_before_still_opens(name: str) -> None:
    assert CONSTRUCTIONS[name].open(KEY, bytes.fromhex(SEALED_BEFORE[name]), PLACE) == b"some text"


@pytest.mark.parametrize(
    ("key", "place", "sealed"),
    [
        (b"\1" * 32, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
        (b"\3" * 32, b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
    ],
    ids=["top bit clear", "top bit set"],
)
def test_vectors_of_the_specification(key: bytes, place: bytes, sealed: str) -> None:
    nonce = b"ABCDEFGHIJKLMNOPQRSTUVWX"
    derived = aead.RecordKey(key)._derived(nonce)
    assert derived.encrypt(nonce[12:], b"XAES-256-GCM", place).hex() == sealed
