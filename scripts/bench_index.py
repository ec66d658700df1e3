"""Measure the encrypted similarity index against the size of the library, with fingerprints that are made up.

`scripts/bench index --pictures N`: fills the index of a throwaway volume with N pictures in steps, and after each step
measures looking up, adding, mounting-time opening and memory, and proves by brute force that nothing within the radius
was missed. Fingerprints are like those of photos: groups of copies a few bits apart, and bits that are not independent,
so that bands are unevenly filled.
"""

from __future__ import annotations

import contextlib
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import bench_steps
import numpy as np
import numpy.typing as npt

from dedupfs.crypto.keys import ScryptCost
from dedupfs.model import ClusterId, ContentId, Fingerprint, Policy
from dedupfs.storage.records import Config
from dedupfs.storage.similarity import COMPLETE_RADIUS_BITS
from dedupfs.storage.volume import Volume, create_volume, open_volume, unlock

Fingerprints = npt.NDArray[np.uint8]

_BATCH = 2_000
"""Pictures between two commits; a mount has fewer, as it commits every second."""
_LOOKUPS = 400
_CHECKED = 50
_COPIES_BITS = 10
"""Copies of one picture are at most so many bits apart; every eighth fingerprint is made as such a copy."""
_PROTOTYPES = 4096
"""Photos resemble each other in the lowest frequencies: each takes a third of its bits from one of so many layouts."""


def main(words: list[str]) -> int:
    """Run the measurement; 1 when a look-up has missed something."""
    found = bench_steps.run(words, "index", __doc__, "pictures", growing)
    return 0 if all(figures["missed"] == 0 for figures in found) else 1


@contextlib.contextmanager
def growing(pictures: int, seed: int) -> Iterator[bench_steps.Step]:
    """Give what fills the index of a throwaway volume, up to a number of pictures, and measures it."""
    generator = np.random.default_rng(seed)
    fingerprints = made_up(generator, pictures)
    with tempfile.TemporaryDirectory(prefix="dedupfs-bench-") as place:
        directory = Path(place) / "volume"
        create_volume(directory, b"measure", Config(Policy.VERIFIED, ""), ScryptCost(n=2**10))
        yield lambda done, target: measure(directory, fingerprints, done, target, generator)


def made_up(generator: np.random.Generator, count: int) -> Fingerprints:
    """Return fingerprints, uint8, shape (count, 32)."""
    layouts = generator.integers(0, 256, (_PROTOTYPES, 32), dtype=np.uint8)
    random = generator.integers(0, 256, (count, 32), dtype=np.uint8)
    # A few layouts are common and most are rare.
    chosen = layouts[np.minimum(generator.zipf(1.3, count), _PROTOTYPES) - 1]
    shared = generator.integers(0, 256, (count, 32), dtype=np.uint8) & generator.integers(
        0, 256, (count, 32), dtype=np.uint8
    )
    made: Fingerprints = (random & ~shared) | (chosen & shared)
    copies = np.arange(7, count, 8)
    made[copies] = made[copies - generator.integers(1, 8, len(copies))]
    for _ in range(_COPIES_BITS // 2):
        bits = generator.integers(0, 256, len(copies))
        made[copies, bits // 8] ^= (1 << (bits % 8)).astype(np.uint8)
    return made


def measure(
    directory: Path, fingerprints: Fingerprints, done: int, target: int, generator: np.random.Generator
) -> dict[str, float]:
    """Fill up to `target` pictures and return the figures at that size."""
    volume_key = unlock(directory, b"measure")
    volume = open_volume(directory, volume_key)
    try:
        started = time.perf_counter()
        for start in range(done, target, _BATCH):
            add(volume, fingerprints, start, min(start + _BATCH, target))
        adding = (time.perf_counter() - started) / (target - done)
    finally:
        volume.close()
    started = time.perf_counter()
    volume = open_volume(directory, volume_key)
    opening = time.perf_counter() - started
    try:
        chosen = generator.integers(0, target, _LOOKUPS)
        seconds, results = [], []
        for at in chosen:
            wanted = Fingerprint(fingerprints[at].tobytes())
            started = time.perf_counter()
            results.append(volume.clusters.index.lookup(wanted))
            seconds.append(time.perf_counter() - started)
        missed = sum(
            missing(fingerprints[:target], int(at), {cluster for cluster, _ in result})
            for at, result in zip(chosen[:_CHECKED], results, strict=False)
        )
        return {
            "lookup_median_ms": round(1e3 * statistics.median(seconds), 3),
            "lookup_p99_ms": round(1e3 * float(np.quantile(seconds, 0.99)), 3),
            "add_us": round(1e6 * adding, 1),
            "open_s": round(opening, 3),
            "database_bytes_per_picture": round(volume.store.engine.allocated_bytes() / target, 1),
            "peak_resident_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1),
            "missed": missed,
        }
    finally:
        volume.close()


def add(volume: Volume, fingerprints: Fingerprints, start: int, stop: int) -> None:
    """Make one cluster for each fingerprint; cluster numbers are places in the array, counted from 1."""
    with volume.store.transaction() as transaction:
        for at in range(start, stop):
            content = ContentId(at.to_bytes(32, "big"))
            made = volume.clusters.create(transaction, content, Fingerprint(fingerprints[at].tobytes()), b"")
            assert made == at + 1
    volume.store.commit()


def missing(fingerprints: Fingerprints, at: int, found: set[ClusterId]) -> int:
    """Return how many clusters within the radius a look-up did not find, by comparing with every fingerprint."""
    words = fingerprints.view(np.uint64)
    distances = np.bitwise_count(words ^ words[at]).sum(axis=1, dtype=np.int64)
    near = {ClusterId(int(index) + 1) for index in np.flatnonzero(distances <= COMPLETE_RADIUS_BITS)}
    return len(near - found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
