"""Measure the encrypted similarity index against the size of the library, with fingerprints that are made up.

`scripts/bench index --pictures N`: fills the index of a throwaway volume with N pictures in steps, and after each step
measures opening it, looking up, the first commit, adding and memory, and proves by brute force that nothing within the
radius was missed. Fingerprints are like those of photos: groups of copies a few bits apart, and bits that are not
independent, so that bands are unevenly filled.

All but the last 4,000 pictures of the first step are put into the table in the order of their tokens, which LMDB takes
a hundred times as fast as one picture after the other; with `--steps 1` ten million take minutes. Times are of the
wall clock, those with `cpu` in their name of the processor. Until all pages of a database have been checked, look-ups
go another way and writing waits: `checking_` and `first_commit_s` tell of that time.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import bench_steps
import lmdb
import numpy as np
import numpy.typing as npt

from dedupfs.crypto.keys import Keyring, ScryptCost
from dedupfs.model import ClusterId, ContentId, Fingerprint, Policy
from dedupfs.storage import codec, records
from dedupfs.storage.records import Config
from dedupfs.storage.similarity import BANDS, COMPLETE_RADIUS_BITS
from dedupfs.storage.volume import Volume, create_volume, open_volume, unlock

Fingerprints = npt.NDArray[np.uint8]

_BATCH = 2_000
"""Pictures between two commits; a mount has fewer, as it commits every second."""
_ADDED = 4_000
"""Pictures that are added one by one, as a mount does, even where the rest is put in at once."""
_OWNERS = 1 << 17
"""Tokens between two commits."""
_EARLY = 40
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
    if not done and target > 2 * _ADDED:
        done = target - _ADDED
        fill(directory, volume_key, fingerprints[:done])
    volume = open_volume(directory, volume_key)
    try:
        volume.configure(label=str(done))
        started, used = time.perf_counter(), time.process_time()
        for start in range(done, target, _BATCH):
            add(volume, fingerprints, start, min(start + _BATCH, target))
        adding, adding_cpu = time.perf_counter() - started, time.process_time() - used
    finally:
        volume.close()
    before = anonymous_bytes()
    started = time.perf_counter()
    volume = open_volume(directory, volume_key)
    opening = time.perf_counter() - started
    try:
        chosen = generator.integers(0, target, _LOOKUPS)

        def look_up(at: int) -> list[tuple[ClusterId, int]]:
            return volume.clusters.index.lookup(Fingerprint(fingerprints[at].tobytes()))

        early, _ = timed(look_up, chosen[:_EARLY])
        # A commit waits until all pages have been checked.
        volume.configure(label=str(target))
        committed = time.perf_counter() - started
        results = [look_up(at) for at in chosen]
        seconds, cpu = timed(look_up, chosen)
        missed = sum(
            missing(fingerprints[:target], int(at), {cluster for cluster, _ in result})
            for at, result in zip(chosen[:_CHECKED], results, strict=False)
        )
        return {
            "lookup_median_ms": round(1e3 * statistics.median(seconds), 3),
            "lookup_p99_ms": round(1e3 * float(np.quantile(seconds, 0.99)), 3),
            "lookup_cpu_median_ms": round(1e3 * statistics.median(cpu), 3),
            "lookup_cpu_p99_ms": round(1e3 * float(np.quantile(cpu, 0.99)), 3),
            "add_us": round(1e6 * adding / (target - done), 1),
            "add_cpu_us": round(1e6 * adding_cpu / (target - done), 1),
            "open_s": round(opening, 3),
            "checking_lookup_median_ms": round(1e3 * statistics.median(early), 3),
            "first_commit_s": round(committed, 2),
            "database_bytes_per_picture": round(volume.store.engine.allocated_bytes() / target, 1),
            "anonymous_mb": round((anonymous_bytes() - before) / 1e6, 1),
            "missed": missed,
        }
    finally:
        volume.close()


def timed(work: Callable[[int], object], items: Iterable[int]) -> tuple[list[float], list[float]]:
    """Return the seconds that each item takes, of the wall clock and of this thread on its processor."""
    seconds, cpu = [], []
    for item in items:
        started, used = time.perf_counter(), time.thread_time()
        work(item)
        seconds.append(time.perf_counter() - started)
        cpu.append(time.thread_time() - used)
    return seconds, cpu


def anonymous_bytes() -> int:
    """Return the memory of this process without pages of files, such as those of the database."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def fill(directory: Path, volume_key: bytes, fingerprints: Fingerprints) -> None:
    """Put the pictures into the empty table `bands`, in the order of its keys; clusters are numbered from 1."""
    keyring = Keyring(volume_key)
    clusters = np.arange(1, len(fingerprints) + 1, dtype=">u8")
    counts = np.zeros((len(fingerprints), 2, 2), ">u8")
    counts[:, :, 0] = clusters[:, np.newaxis]
    counts[:, :, 1] = range(2)
    masked = np.frombuffer(keyring.masks(counts.tobytes()), np.uint64) ^ fingerprints.reshape(-1).view(np.uint64)
    masked_bytes = masked.tobytes()
    values = fingerprints.view(">u2")
    blocks = np.zeros((1 << 16, 2), ">u8")
    blocks[:, 1] = np.arange(1 << 16)
    tables = []
    for band in range(BANDS):
        blocks[:, 0] = band
        tables.append(np.frombuffer(b"".join(keyring.band_tokens(blocks.tobytes())), ">u8"))
    # Everything under one token is of one band and value, nearly always, so that whole tokens are put in their order.
    owners = [(token, band, value) for band, table in enumerate(tables) for value, token in enumerate(table.tolist())]
    owners.sort()
    orders = [np.argsort(values[:, band], kind="stable") for band in range(BANDS)]
    edges = [np.searchsorted(values[orders[band], band], np.arange((1 << 16) + 1)) for band in range(BANDS)]
    with lmdb.open(str(directory), map_size=1 << 40, max_dbs=64, writemap=True, map_async=True) as environment:
        bands = environment.open_db(records.BANDS.name.encode(), create=False)
        for start in range(0, len(owners), _OWNERS):
            with environment.begin(write=True, db=bands) as transaction, transaction.cursor() as cursor:
                for token, band, value in owners[start : start + _OWNERS]:
                    head = token.to_bytes(8, "big")
                    places = orders[band][edges[band][value] : edges[band][value + 1]].tolist()
                    items = [
                        (head + (at + 1).to_bytes(8, "big"), masked_bytes[32 * at : 32 * at + 32]) for at in places
                    ]
                    cursor.putmulti(items, append=True)
        environment.sync(True)
    volume = open_volume(directory, volume_key)
    try:
        with volume.store.transaction() as changes:
            changes.put(records.VOLUME, b"next_cluster", codec.encode_number(len(fingerprints) + 1))
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
