"""Nearest: fingerprints in memory, found by closeness, for looking at files outside any volume.

What `storage.similarity` finds in an encrypted index this finds by comparing with everything: 80,000 fingerprints are
2.5 MB and took 0.08 ms a look-up, next to nothing beside decoding the picture. Not safe across threads; the caller
locks.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dedupfs.model import ClusterId, Fingerprint
from dedupfs.storage.similarity import COMPLETE_RADIUS_BITS, FINGERPRINT_BYTES

_WORDS = FINGERPRINT_BYTES // 8
_FIRST_ROWS = 1024


class NearestIndex:
    """Clusters by their fingerprints; a cluster's number is its row and is never used twice.

    What is more than `radius_bits` apart is not found: COMPLETE_RADIUS_BITS, as in a volume, or another to try.
    """

    def __init__(self, radius_bits: int = COMPLETE_RADIUS_BITS) -> None:
        self._radius_bits = radius_bits
        self._words: npt.NDArray[np.uint64] = np.zeros((_WORDS, _FIRST_ROWS), np.uint64)
        self._present: npt.NDArray[np.bool_] = np.zeros(_FIRST_ROWS, np.bool_)
        self._rows = 0

    def add(self, fingerprint: Fingerprint | None) -> ClusterId:
        """Return the number of a new cluster; without a fingerprint it is never found."""
        if self._rows == len(self._present):
            self._words = np.concatenate((self._words, np.zeros_like(self._words)), axis=1)
            self._present = np.concatenate((self._present, np.zeros_like(self._present)))
        row = self._rows
        self._rows += 1
        if fingerprint is not None:
            self._words[:, row] = np.frombuffer(fingerprint, np.uint64)
            self._present[row] = True
        return ClusterId(row)

    def remove(self, cluster: ClusterId) -> None:
        """Find the cluster no more."""
        self._present[cluster] = False

    def lookup(self, fingerprint: Fingerprint) -> list[tuple[ClusterId, int]]:
        """Return every cluster within the radius and its distance in bits, nearest first."""
        wanted = np.frombuffer(fingerprint, np.uint64)
        # Few come within the radius by their first quarter, so that the rest is looked at for those alone.
        first = np.bitwise_count(self._words[0, : self._rows] ^ wanted[0])
        rows = np.flatnonzero((first <= self._radius_bits) & self._present[: self._rows])
        distances = np.bitwise_count(self._words[:, rows] ^ wanted[:, None]).sum(axis=0, dtype=np.int64)
        near = [(ClusterId(int(row)), int(bits)) for row, bits in zip(rows, distances, strict=True)]
        return sorted((hit for hit in near if hit[1] <= self._radius_bits), key=lambda hit: (hit[1], hit[0]))
