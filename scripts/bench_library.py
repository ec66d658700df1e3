"""Measure what a mount costs against the number of files in the volume.

`scripts/bench library --files N`: fills a throwaway volume with N small files in steps, and after each step measures
through the command line and a real mount: mounting, listing a directory, looking up a path, `stats`, unmounting, and
the memory of the mount afterwards. Nothing that the kernel has cached is used: every step mounts anew.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from functools import partial

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
    parser = argparse.ArgumentParser(
        prog="scripts/bench library", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=1_000_000, help="size of the library (default: 1000000)")
    parser.add_argument("--steps", type=int, default=4, help="sizes to measure at (default: 4)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(words)
    chooser = random.Random(options.seed)
    found = []
    with throwaway_volume("bench") as volume:
        create_volume(volume.volume, volume.passphrase.encode(), Config(Policy.OFF, ""), ScryptCost(n=2**10))
        done = 0
        for step in range(1, options.steps + 1):
            target = options.files * step // options.steps
            adding = fill(volume, done, target)
            figures = {"files": target, "add_us": round(1e6 * adding / (target - done), 1)}
            figures |= measure(volume, target, chooser)
            done = target
            found.append(figures)
            if not options.json:
                print("  ".join(f"{name} {value}" for name, value in figures.items()), flush=True)
    if options.json:
        print(json.dumps(found, indent=2))
    return 0


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
