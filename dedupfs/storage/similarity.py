"""The encrypted similarity index: fingerprints found by closeness in a store that sees neither them nor their bits.

A fingerprint of 256 bits is cut into 16 bands of 16 bits. Table `bands` maps a pseudorandom token of (band, value) to
the clusters whose fingerprint has that value there, with the whole fingerprint masked by a pad of its cluster. Two
fingerprints at most 15 bits apart agree in at least one band (pigeonhole), so 16 exact look-ups find everything within
15 bits, completely. Values one bit away raise that to 31 bits for 272 look-ups. The scheme is the multi-index hashing
of Norouzi, Punjani and Fleet, "Fast Search in Hamming Space with Multi-Index Hashing" (2012), over PRF tokens.

What the store can learn: which clusters share the value of a band, and how many do. A cluster's fingerprint must never
change, because its pad is used once; a promotion makes a new cluster.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from dedupfs.crypto.keys import Keyring
from dedupfs.model import ClusterId, Fingerprint
from dedupfs.storage import records
from dedupfs.storage.records import number_key
from dedupfs.storage.store import Store, Transaction

log = logging.getLogger(__name__)

FINGERPRINT_BYTES = 32
BANDS = 16
_BAND_BYTES = FINGERPRINT_BYTES // BANDS
_BAND_BITS = _BAND_BYTES * 8
_TOKEN_BYTES = 8
_KEY_BYTES = _TOKEN_BYTES + 8
"""A token, and the number of a cluster."""

COMPLETE_RADIUS_BITS = BANDS - 1
"""Everything within this distance is found by exact look-ups. 300 copies of 16 photos, receipts and screenshots made by
ImageMagick, cjpeg, jpegtran, cwebp, avifenc and heif-enc were at most 10 bits away."""
WIDE_RADIUS_BITS = 2 * BANDS - 1
"""Everything within this distance is found when values one bit away are looked up too."""


class SimilarityIndex:
    """The table `bands`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, transaction: Transaction, cluster: ClusterId, fingerprint: Fingerprint) -> None:
        """Make the cluster findable by its fingerprint."""
        masked = mask(self._store.keyring, cluster, fingerprint)
        for token in tokens(self._store.keyring, fingerprint):
            transaction.put(records.BANDS, token + number_key(cluster), masked)

    def remove(self, transaction: Transaction, cluster: ClusterId, fingerprint: Fingerprint) -> None:
        """Forget the cluster."""
        for token in tokens(self._store.keyring, fingerprint):
            transaction.delete(records.BANDS, token + number_key(cluster))

    def lookup(self, fingerprint: Fingerprint, radius_bits: int = COMPLETE_RADIUS_BITS) -> list[tuple[ClusterId, int]]:
        """Return every cluster within the radius and its distance in bits, nearest first.

        Complete up to WIDE_RADIUS_BITS; past COMPLETE_RADIUS_BITS it takes 17 times the look-ups.
        Raises:
            ValueError: a radius that the look-ups cannot cover.
        """
        if not 0 <= radius_bits <= WIDE_RADIUS_BITS:
            raise ValueError(f"a radius of {radius_bits} bits")
        asked = tokens(self._store.keyring, fingerprint, wide=radius_bits > COMPLETE_RADIUS_BITS)
        masked: dict[bytes, bytes] = {}
        for key, value in self._store.scan(records.BANDS, *asked):
            if len(key) == _KEY_BYTES and len(value) == FINGERPRINT_BYTES:
                masked[key[_TOKEN_BYTES:]] = value
            else:
                log.warning("an entry of the similarity index is damaged and is passed over")
        if not masked:
            return []
        clusters = np.frombuffer(b"".join(masked), ">u8")
        pads = self._store.keyring.masks(_mask_blocks(clusters))
        different = np.frombuffer(b"".join(masked.values()), np.uint64) ^ np.frombuffer(pads, np.uint64)
        different = different.reshape(len(clusters), -1) ^ np.frombuffer(fingerprint, np.uint64)
        distances = np.bitwise_count(different).sum(axis=1, dtype=np.int64)
        near = [(ClusterId(int(clusters[at])), int(distances[at])) for at in np.flatnonzero(distances <= radius_bits)]
        return sorted(near, key=lambda found: (found[1], found[0]))


def tokens(keyring: Keyring, fingerprint: Fingerprint, *, wide: bool = False) -> list[bytes]:
    """Return the tokens of the 16 band values or, when wide, of the 272 values at most one bit from them."""
    blocks = []
    for band in range(BANDS):
        value = int.from_bytes(fingerprint[band * _BAND_BYTES : (band + 1) * _BAND_BYTES], "big")
        blocks.append(_token_block(band, value))
        if wide:
            blocks.extend(_token_block(band, value ^ (1 << bit)) for bit in range(_BAND_BITS))
    return keyring.band_tokens(b"".join(blocks))


def mask(keyring: Keyring, cluster: ClusterId, fingerprint: Fingerprint) -> bytes:
    """Return the fingerprint under the pad of its cluster; the same call takes the pad off again."""
    pad = keyring.masks(_mask_blocks(np.array([cluster], ">u8")))
    return (int.from_bytes(fingerprint, "big") ^ int.from_bytes(pad, "big")).to_bytes(FINGERPRINT_BYTES, "big")


def _token_block(band: int, value: int) -> bytes:
    return band.to_bytes(8, "big") + value.to_bytes(8, "big")


def _mask_blocks(clusters: npt.NDArray[Any]) -> bytes:
    """Return two blocks of 16 bytes for each cluster's number, an array of big-endian uint64."""
    blocks = np.empty((len(clusters), 2, 2), ">u8")
    blocks[:, :, 0] = clusters[:, np.newaxis]
    blocks[:, :, 1] = range(2)
    return blocks.tobytes()
