"""The encrypted index finds everything within its radius, and the store sees no fingerprint."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from dedupfs.crypto.keys import Keyring
from dedupfs.model import ClusterId, Fingerprint
from dedupfs.storage import similarity
from dedupfs.storage.records import BANDS, number_key
from dedupfs.storage.similarity import COMPLETE_RADIUS_BITS, WIDE_RADIUS_BITS, SimilarityIndex
from dedupfs.storage.store import Store

PROBE = Fingerprint(bytes(range(32)))


@pytest.fixture
def index(store: Store) -> SimilarityIndex:
    return SimilarityIndex(store)


def add(store: Store, index: SimilarityIndex, fingerprints: list[Fingerprint]) -> None:
    """Index fingerprints as the clusters 1, 2, 3 ..."""
    with store.transaction() as transaction:
        for number, fingerprint in enumerate(fingerprints, 1):
            index.add(transaction, ClusterId(number), fingerprint)


def flipped(fingerprint: Fingerprint, bits: npt.NDArray[np.int64]) -> Fingerprint:
    unpacked = np.unpackbits(np.frombuffer(fingerprint, np.uint8))
    unpacked[bits] ^= 1
    return Fingerprint(np.packbits(unpacked).tobytes())


def collection(rng: np.random.Generator, probes: list[Fingerprint]) -> list[Fingerprint]:
    """Return strangers, and for every probe fingerprints at every distance up to 40 bits, scattered and in bursts."""
    strangers = [Fingerprint(rng.bytes(32)) for _ in range(1500)]
    near = []
    for probe in probes:
        for distance in range(41):
            near.append(flipped(probe, rng.choice(256, distance, replace=False)))
            near.append(flipped(probe, (rng.integers(256) + np.arange(distance)) % 256))
    return strangers + near


def by_brute_force(fingerprints: list[Fingerprint], probe: Fingerprint, radius_bits: int) -> list[tuple[int, int]]:
    stored = np.frombuffer(b"".join(fingerprints), np.uint8).reshape(-1, 32)
    distances = np.unpackbits(stored ^ np.frombuffer(probe, np.uint8), axis=1).sum(axis=1)
    found = [(number, int(bits)) for number, bits in enumerate(distances, 1) if bits <= radius_bits]
    return sorted(found, key=lambda each: (each[1], each[0]))


@pytest.mark.parametrize("radius_bits", [0, 7, COMPLETE_RADIUS_BITS, 16, WIDE_RADIUS_BITS])
@pytest.mark.parametrize("committed", [True, False], ids=["committed", "waiting"])
def test_finds_what_brute_force_finds(store: Store, index: SimilarityIndex, radius_bits: int, committed: bool) -> None:
    rng = np.random.default_rng(5)
    probes = [Fingerprint(rng.bytes(32)) for _ in range(8)]
    fingerprints = collection(rng, probes)
    add(store, index, fingerprints)
    if committed:
        store.commit()
    for probe in [*probes, fingerprints[3], Fingerprint(rng.bytes(32))]:
        expected = by_brute_force(fingerprints, probe, radius_bits)
        assert index.lookup(probe, radius_bits) == expected
    assert len(by_brute_force(fingerprints, probes[0], radius_bits)) >= radius_bits


def test_the_hardest_distances_are_found(store: Store, index: SimilarityIndex) -> None:
    """One bit in all bands but one, and then two bits in all bands but one."""
    once = flipped(PROBE, np.arange(15) * 16)
    twice = flipped(PROBE, np.concatenate([np.arange(15) * 16, np.arange(16) * 16 + 1]))
    add(store, index, [once, twice])
    assert index.lookup(PROBE) == [(1, 15)]
    assert index.lookup(PROBE, WIDE_RADIUS_BITS) == [(1, 15), (2, 31)]


@pytest.mark.parametrize("radius_bits", [-1, 32, 256])
def test_a_radius_that_cannot_be_covered_is_refused(index: SimilarityIndex, radius_bits: int) -> None:
    with pytest.raises(ValueError, match="radius"):
        index.lookup(PROBE, radius_bits)


def test_what_is_removed_is_not_found(store: Store, index: SimilarityIndex) -> None:
    add(store, index, [PROBE, PROBE])
    store.commit()
    with store.transaction() as transaction:
        index.remove(transaction, ClusterId(1), PROBE)
    assert index.lookup(PROBE) == [(2, 0)]
    store.commit()
    assert index.lookup(PROBE) == [(2, 0)]
    with store.transaction() as transaction:
        index.remove(transaction, ClusterId(2), PROBE)
    store.commit()
    assert index.lookup(PROBE) == []
    assert store.keys(BANDS) == []


def test_the_table_holds_no_fingerprint(store: Store, index: SimilarityIndex) -> None:
    """Neither the whole nor any four bytes of it, in keys or values, and equal ones look different."""
    rng = np.random.default_rng(6)
    fingerprints = [Fingerprint(rng.bytes(32)) for _ in range(20)] * 2
    add(store, index, fingerprints)
    store.commit()
    rows = store.scan(BANDS)
    stored = b"".join(key[:8] + value for key, value in rows)
    for fingerprint in fingerprints:
        assert not any(fingerprint[at : at + 4] in stored for at in range(29))
    assert len({value for _, value in rows}) == len(fingerprints)


def test_a_mask_comes_off_as_it_went_on(keyring: Keyring) -> None:
    masked = similarity.mask(keyring, ClusterId(3), PROBE)
    assert masked != PROBE
    assert similarity.mask(keyring, ClusterId(3), Fingerprint(masked)) == PROBE
    assert similarity.mask(keyring, ClusterId(4), Fingerprint(masked)) != PROBE


def test_tokens_tell_bands_and_volumes_apart(keyring: Keyring) -> None:
    alike = Fingerprint(bytes(32))
    assert len(set(similarity.tokens(keyring, alike))) == 16
    assert len(set(similarity.tokens(keyring, alike, wide=True))) == 272
    assert not set(similarity.tokens(keyring, alike)) & set(similarity.tokens(Keyring(b"k" * 32), alike))


def test_an_entry_of_another_length_is_passed_over(store: Store, index: SimilarityIndex, keyring: Keyring) -> None:
    token = similarity.tokens(keyring, PROBE)[0]
    store.engine.apply([(BANDS.name, token + number_key(1), b"short")])
    with store.transaction() as transaction:
        index.add(transaction, ClusterId(2), PROBE)
    assert index.lookup(PROBE) == [(2, 0)]
