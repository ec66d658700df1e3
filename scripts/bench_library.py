"""Measure what a mount costs against the number of files in the volume.

`scripts/bench library --files N`: fills a throwaway volume with N small files in steps, and after each step measures
through the command line and a real mount: mounting, listing a directory, looking up a path, `stats`, unmounting, and
the memory of the mount afterwards. Nothing that the kernel has cached is used: every step mounts anew.
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import bench_steps
from throwaway import ThrowawayVolume, throwaway_volume

from dedupfs.crypto.keys import ScryptCost
from dedupfs.errors import EntryNotFoundError
from dedupfs.filesystem.filesystem import FileSystem
from dedupfs.filesystem.opening import open_filesystem
from dedupfs.model import InodeNo, Policy
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.records import Config
from dedupfs.storage.volume import create_volume, open_volume, unlock

_IN_DIRECTORY = 1_000
_FILE_BYTES = 64
_LOOKED_UP = 2_000
_LISTED = 10


def main(words: list[str]) -> int:
    """Run the measurement."""
    bench_steps.run(words, "library", __doc__, "files", growing)
    return 0


@contextlib.contextmanager
def growing(files: int, seed: int) -> Iterator[bench_steps.Step]:
    """Give what fills a throwaway volume and measures its mount."""
    chooser = random.Random(seed)
    with throwaway_volume("bench") as volume:
        create_volume(volume.volume, volume.passphrase.encode(), Config(Policy.OFF, ""), ScryptCost(n=2**10))

        def step(done: int, target: int) -> dict[str, float]:
            adding = fill(volume, done, target) / (target - done)
            return {"add_us": round(1e6 * adding, 1)} | measure(volume, target, chooser)

        yield step


def path_of(number: int) -> str:
    """Return the path of a file in the volume."""
    return f"{number // _IN_DIRECTORY:06}/{number:08}.jpg"


def fill(volume: ThrowawayVolume, done: int, target: int) -> float:
    """Add files, without a mount, and return the seconds it took."""
    key = unlock(volume.volume, volume.passphrase.encode())
    filesystem = open_filesystem(open_volume(volume.volume, key))
    started = time.perf_counter()
    try:
        directory = ROOT
        for number in range(done, target):
            parent, name = path_of(number).split("/")
            if number == done or not number % _IN_DIRECTORY:
                directory = _directory(filesystem, parent)
            _, handle = filesystem.create(directory, name.encode(), 0o644, 0, 0)
            filesystem.files.write(handle, 0, number.to_bytes(_FILE_BYTES, "big"))
            filesystem.files.release(handle)
    finally:
        filesystem.close()
    return time.perf_counter() - started


def measure(volume: ThrowawayVolume, files: int, chooser: random.Random) -> dict[str, float]:
    """Return what a mount of so many files costs."""
    started = time.perf_counter()
    volume.run("mount", volume.volume, volume.mountpoint)
    mounting = time.perf_counter() - started
    directories = chooser.sample(range(files // _IN_DIRECTORY), min(_LISTED, files // _IN_DIRECTORY))
    listing = [_timed(partial(os.listdir, volume.mountpoint / f"{number:06}")) for number in directories]
    paths = [volume.mountpoint / path_of(chooser.randrange(files)) for _ in range(_LOOKED_UP)]
    looking = [_timed(path.stat) for path in paths]
    started = time.perf_counter()
    volume.run("stats", volume.mountpoint)
    telling = time.perf_counter() - started
    memory = volume.memory()
    started = time.perf_counter()
    volume.unmount()
    return {
        "mount_s": round(mounting, 2),
        "list_1000_ms": round(1e3 * statistics.median(listing), 1),
        "lookup_median_us": round(1e6 * statistics.median(looking)),
        "stats_s": round(telling, 2),
        "umount_s": round(time.perf_counter() - started, 2),
        "resident_mb": round(memory["VmRSS"] / 1e6),
        "anonymous_mb": round(memory["RssAnon"] / 1e6),
        "bytes_per_file": round((volume.volume / "data.mdb").stat().st_size / files),
    }


def _directory(filesystem: FileSystem, name: str) -> InodeNo:
    try:
        return filesystem.lookup(ROOT, name.encode())
    except EntryNotFoundError:
        return filesystem.make_directory(ROOT, name.encode(), 0o755, 0, 0)


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
