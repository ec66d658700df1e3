"""Slots open with their own passphrase, in their own volume, at a bounded cost; every purpose has its own subkey."""

from __future__ import annotations

import hashlib
import hmac
import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedupfs.crypto import aead, keys
from dedupfs.crypto.keys import Keyring, KeySlot, ScryptCost, SlotKind, unwrap, wrap, wrap_recovery
from dedupfs.errors import IntegrityError, StoreError, WrongKeyError
from tests.conftest import CHEAP, PASSPHRASE

VOLUME_ID = bytes(range(16))


@pytest.fixture
def slot(key: bytes) -> KeySlot:
    return wrap(key, PASSPHRASE, VOLUME_ID, CHEAP)


def test_a_slot_opens_with_its_passphrase(slot: KeySlot, key: bytes) -> None:
    assert unwrap(slot, PASSPHRASE, VOLUME_ID) == key


@pytest.mark.parametrize("passphrase", [b"", PASSPHRASE + b" ", PASSPHRASE[:-1], PASSPHRASE.upper()])
def test_a_slot_opens_with_no_other_passphrase(slot: KeySlot, passphrase: bytes) -> None:
    with pytest.raises(WrongKeyError):
        unwrap(slot, passphrase, VOLUME_ID)


def test_a_slot_opens_in_its_own_volume_only(slot: KeySlot) -> None:
    with pytest.raises(WrongKeyError):
        unwrap(slot, PASSPHRASE, VOLUME_ID[::-1])


def test_a_slot_is_bound_to_its_salt_and_cost(slot: KeySlot) -> None:
    for changed in (replace(slot, salt=slot.salt[::-1]), replace(slot, cost=ScryptCost(n=2**11))):
        with pytest.raises(WrongKeyError):
            unwrap(changed, PASSPHRASE, VOLUME_ID)


def test_two_slots_of_one_passphrase_share_nothing(slot: KeySlot, key: bytes) -> None:
    other = wrap(key, PASSPHRASE, VOLUME_ID, CHEAP)
    assert other.salt != slot.salt and other.wrapped != slot.wrapped


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_slot_for_a_key_of_another_length_is_not_made(length: int) -> None:
    with pytest.raises(IntegrityError):
        wrap(bytes(length), PASSPHRASE, VOLUME_ID, CHEAP)


@pytest.mark.parametrize("value", [b"", b"0", bytes(74), bytes(1 << 20)])
def test_a_slot_of_another_length_is_damage(slot: KeySlot, value: bytes) -> None:
    with pytest.raises(IntegrityError):
        replace(slot, salt=value)
    with pytest.raises(IntegrityError):
        replace(slot, wrapped=value)


def test_a_recovery_slot_opens_with_its_secret_in_its_volume_only(key: bytes) -> None:
    secret = bytes(range(100, 132))
    slot = wrap_recovery(key, secret, VOLUME_ID)
    assert slot.kind is SlotKind.RECOVERY
    assert unwrap(slot, secret, VOLUME_ID) == key
    for other, volume_id in ((secret[::-1], VOLUME_ID), (secret, VOLUME_ID[::-1])):
        with pytest.raises(WrongKeyError):
            unwrap(slot, other, volume_id)


def test_a_slot_opens_as_what_it_was_made_only(slot: KeySlot, key: bytes) -> None:
    """Nobody makes a passphrase cheap to try by calling its slot one of a recovery key."""
    with pytest.raises(WrongKeyError):
        unwrap(replace(slot, cost=None), PASSPHRASE, VOLUME_ID)
    with pytest.raises(WrongKeyError):
        unwrap(replace(wrap_recovery(key, bytes(32), VOLUME_ID), cost=CHEAP), bytes(32), VOLUME_ID)


def test_memory_that_is_not_to_be_had_is_no_wrong_passphrase(slot: KeySlot, monkeypatch: pytest.MonkeyPatch) -> None:
    for failure in (MemoryError, ValueError):

        def refuse(*_: object, _failure: type[Exception] = failure, **__: object) -> bytes:
            raise _failure

        monkeypatch.setattr(hashlib, "scrypt", refuse)
        with pytest.raises(StoreError, match="memory"):
            unwrap(slot, PASSPHRASE, VOLUME_ID)


def test_the_default_cost_is_what_the_format_promises() -> None:
    assert ScryptCost() == ScryptCost(n=2**17, r=8, p=1)


@pytest.mark.parametrize(
    ("n", "r", "p"),
    [
        pytest.param(0, 8, 1, id="none"),
        pytest.param(1, 8, 1, id="one"),
        pytest.param(-1024, 8, 1, id="negative"),
        pytest.param(1000, 8, 1, id="not a power of two"),
        pytest.param(1024, 0, 1, id="no blocks"),
        pytest.param(1024, 8, 0, id="no lanes"),
        pytest.param(2**20, 8, 1, id="a gigabyte"),
        pytest.param(2**10, 2**20, 1, id="wide blocks"),
        pytest.param(2**17, 8, 2**10, id="many lanes"),
        pytest.param(2**400, 8, 1, id="astronomic"),
        pytest.param(2**16, 1, 1, id="n too large for r"),
        pytest.param(2, 2**22, 2, id="more memory than scrypt takes"),
    ],
)
def test_an_absurd_cost_is_refused_at_once(n: int, r: int, p: int) -> None:
    with pytest.raises(IntegrityError):
        ScryptCost(n, r, p)


@given(st.integers(1, 400), st.integers(1, 2**24), st.integers(1, 2**24))
def test_an_accepted_cost_keeps_to_the_limits(log_n: int, r: int, p: int) -> None:
    try:
        cost = ScryptCost(2**log_n, r, p)
    except IntegrityError:
        return
    assert 128 * cost.r * (cost.n + cost.p) <= ScryptCost.MEMORY_LIMIT_BYTES + ScryptCost.LANES_LIMIT_BYTES
    assert cost.n * cost.r * cost.p <= ScryptCost.WORK_LIMIT


@pytest.mark.parametrize(
    ("n", "r", "p"), [(2, 1, 2**16), (2, 2**16, 1), (2**15, 1, 1), (2**14, 8, 1)], ids=["lanes", "width", "n", "usual"]
)
def test_scrypt_takes_every_cost_that_is_accepted(key: bytes, n: int, r: int, p: int) -> None:
    assert unwrap(wrap(key, PASSPHRASE, VOLUME_ID, ScryptCost(n, r, p)), PASSPHRASE, VOLUME_ID) == key


def test_every_purpose_has_a_subkey_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aead, "RecordKey", lambda key: key)
    monkeypatch.setattr(keys, "_ShortHmac", lambda key: key)
    keyring = Keyring(bytes(range(32)))
    subkeys = [getattr(keyring, name) for name in Keyring.__slots__]
    assert len(set(subkeys)) == len(subkeys) == 7
    assert all(len(subkey) == 32 for subkey in subkeys)


def test_every_volume_has_subkeys_of_its_own(keyring: Keyring) -> None:
    other = Keyring(keys.new_volume_key())
    for name in Keyring.__slots__:
        assert getattr(other, name) != getattr(keyring, name)


def test_keyed_functions_differ_by_purpose(keyring: Keyring) -> None:
    block = bytes(16)
    outputs = [
        keyring.chunk_id(block)[:8],
        keyring.content_id(block)[:8],
        keyring.name_token(b"", block)[:8],
        keyring.band_tokens(block)[0],
        keyring.masks(block)[:8],
    ]
    assert len(set(outputs)) == len(outputs)


def test_a_record_does_not_open_as_a_chunk(keyring: Keyring) -> None:
    name = bytes(32)
    with pytest.raises(IntegrityError):
        keyring.open_chunk(name, keyring.seal_record(name, b"text"))
    with pytest.raises(IntegrityError):
        keyring.open_record(name, bytes(keyring.seal_chunk(name, b"text" * 16)))


def test_a_chunk_does_not_open_under_another_id(keyring: Keyring) -> None:
    sealed = keyring.seal_chunk(bytes(32), b"text")
    assert keyring.open_chunk(bytes(32), sealed) == b"text"
    with pytest.raises(IntegrityError):
        keyring.open_chunk(b"\1" + bytes(31), sealed)


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=20))
def test_bulk_functions_work_block_by_block(blocks: list[bytes]) -> None:
    keyring = Keyring(bytes(32))
    assert keyring.band_tokens(b"".join(blocks)) == [keyring.band_tokens(block)[0] for block in blocks]
    assert keyring.masks(b"".join(blocks)) == b"".join(keyring.masks(block) for block in blocks)


def test_names_of_two_scopes_have_different_tokens(keyring: Keyring) -> None:
    scopes = [b"entry" + number.to_bytes(8, "big") for number in range(3)] + [b"xattr" + bytes(8)]
    tokens = [keyring.name_token(scope, name) for scope, name in itertools.product(scopes, [b"", b"a", b"b"])]
    assert len(set(tokens)) == 12


def test_slots_made_before_open(key: bytes) -> None:
    salt = bytes(range(32))
    passphrase = KeySlot(CHEAP, salt, bytes.fromhex(GOLDEN_SLOTS["passphrase"]))
    recovery_key = KeySlot(None, salt, bytes.fromhex(GOLDEN_SLOTS["recovery"]))
    assert unwrap(passphrase, PASSPHRASE, VOLUME_ID) == unwrap(recovery_key, bytes(32), VOLUME_ID) == key


GOLDEN_SLOTS = {
    "passphrase": "0232333435363738393a3b3c3d3e3f40414243444546474849a8a75659ccea2122ea8226b1"
    "968d858a0a66bd1cb8267c48816c20de535000775f53da4436e281e28bd479a3c74c6a28",
    "recovery": "0232333435363738393a3b3c3d3e3f404142434445464748499f9235286552a8aa132cbef6"
    "cb343457d70132fa2b677f053cfe43877e9e83f7bcb2cef7d537f46cab9c544073e04266",
}

GOLDEN = {
    "chunk id": "c0fafde76a66f6092c23526691b8c963b5e5aea7c721a5e9980b2bd7786cf698",
    "content id": "c50bb6fdc394ca3fa913c94869e9542b0bcd5e2bc399561731288af6b78bca33",
    "name token": "825c8829e1eb393b18094ccfe151748a",
    "band token": "947f0e4e48e80762",
    "mask": "361271c0123188cfa7c038f1217963da",
    "chunk": "0183d2bb455da6dfe79a1ddd63231764c2eb0aea35",
}


def test_keyed_functions_are_what_older_volumes_hold(keyring: Keyring) -> None:
    outputs = {
        "chunk id": keyring.chunk_id(b"text"),
        "content id": keyring.content_id(b"text"),
        "name token": keyring.name_token(b"scope", b"name"),
        "band token": keyring.band_tokens(bytes(16))[0],
        "mask": keyring.masks(bytes(16)),
        "chunk": bytes(keyring.seal_chunk(bytes(32), b"text")),
    }
    assert {name: output.hex() for name, output in outputs.items()} == GOLDEN


@given(scope=st.binary(max_size=100), name=st.binary(max_size=300))
def test_names_are_told_apart_by_hmac(scope: bytes, name: bytes) -> None:
    """The digest of short messages is made from its parts; it is the one of RFC 2104 all the same."""
    key = keys._subkey(bytes(32), "names")
    expected = hmac.digest(key, scope + b"\0" + name, "sha256")[: keys.NAME_TOKEN_BYTES]
    assert Keyring(bytes(32)).name_token(scope, name) == expected
