"""Measure dedupfs beside other encrypting file systems, in one run on one folder.

Every round takes the file systems in turn, so that a machine whose speed drifts is unfair to none; the table has the
medians and, where gocryptfs is among them, the ratio to it. A copy is always timed to the end of unmounting: what a
file system still holds in memory is not stored. `scripts/bench index --help` is about the similarity index of a million
pictures, `scripts/bench library --help` about a mount of a million files, `scripts/bench stages --help` about what one
picture costs, `scripts/bench memory --help` about the memory of a mount that is busy.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import bench_index
import bench_library
import bench_memory
import bench_stages
from bench_systems import Dedupfs, Plain, System, installed_peers
from bench_versions import make_versions
from trees import files_below

SMALL_FILES = 10_000
SMALL_BYTES = 4096
LISTED_FILES = 20_000
READ_BYTES = 1 << 20
REFERENCE = "gocryptfs"

Figures = dict[str, list[float]]
"""The values of every round, by file system."""


def main() -> int:
    """Run the measurement that the arguments ask for."""
    if sys.argv[1:2] == ["index"]:
        return bench_index.main(sys.argv[2:])
    if sys.argv[1:2] == ["library"]:
        return bench_library.main(sys.argv[2:])
    if sys.argv[1:2] == ["stages"]:
        return bench_stages.main(sys.argv[2:])
    if sys.argv[1:2] == ["memory"]:
        return bench_memory.main(sys.argv[2:])
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="photos to copy in; only read")
    parser.add_argument("--peers", action="store_true", help="beside gocryptfs, cryfs and encfs, where installed")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default: 3)")
    parser.add_argument("--json", action="store_true", help="print the figures of every round as JSON")
    parser.add_argument("--small-files", type=int, default=SMALL_FILES, help=f"how many (default: {SMALL_FILES})")
    parser.add_argument("--only", metavar="WORK", choices=sorted(WORK), action="append", help="one kind of work alone")
    options = parser.parse_args()
    if not options.folder.is_dir():
        parser.error(f"{options.folder} is no folder")
    systems: list[System] = [Dedupfs("off"), Dedupfs("verified"), Plain()]
    if options.peers:
        systems.extend(installed_peers())
    figures: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory(prefix="dedupfs-bench-") as place:
        sources = Sources(options.folder, Path(place), options.small_files)
        for name in options.only or WORK:
            for number in range(options.rounds):
                for system in systems:
                    print(f"\r\x1b[K{name}, round {number + 1}: {system.name}", end="", file=sys.stderr, flush=True)
                    with emptied(Path(place) / "work") as folder:
                        for what, value in WORK[name](system, folder, sources):
                            figures.setdefault(what, {}).setdefault(system.name, []).append(value)
            print("\r\x1b[K", end="", file=sys.stderr)
    print(json.dumps(figures, indent=2) if options.json else as_text(figures))
    return 0


class Sources:
    """The folder to be copied, and what is made of it when it is first asked for."""

    def __init__(self, folder: Path, place: Path, small_files: int) -> None:
        self.folder = folder
        self.small_files = small_files
        self._place = place

    def with_versions(self) -> Path:
        """Return a folder in which every second file is another version of the one before."""
        made = self._place / "versions"
        if not made.exists():
            make_versions(self.folder, made)
        return made


@contextlib.contextmanager
def emptied(folder: Path) -> Iterator[Path]:
    """Give an empty folder and remove it afterwards."""
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def mounted(system: System, folder: Path) -> Iterator[Path]:
    """Mount for the length of a block."""
    clear = system.mount(folder)
    try:
        yield clear
    finally:
        system.unmount(folder)


def library(system: System, folder: Path, sources: Sources) -> Iterator[tuple[str, float]]:
    """Copy a library in, read it back, copy it in again."""
    size = size_of(sources.folder)
    system.make(folder)
    yield "copy in, MB/s", size / copying(system, folder, sources.folder, "one") / 1e6
    yield "bytes on disk per byte", system.stored_bytes(folder) / size
    drop_caches()
    with mounted(system, folder) as clear:
        yield "cold read, MB/s", size / timed(lambda: read_all(clear)) / 1e6
        yield "read again, MB/s", size / timed(lambda: read_all(clear)) / 1e6
    yield "second copy, MB/s", size / copying(system, folder, sources.folder, "two") / 1e6
    yield "bytes on disk per byte, two copies", system.stored_bytes(folder) / size / 2


def versions(system: System, folder: Path, sources: Sources) -> Iterator[tuple[str, float]]:
    """Copy in a library of which half the files are versions of the other half."""
    source = sources.with_versions()
    size = size_of(source)
    system.make(folder)
    yield "copy in with versions, MB/s", size / copying(system, folder, source, "one") / 1e6
    yield "bytes on disk per byte, versions", system.stored_bytes(folder) / size


def small(system: System, folder: Path, sources: Sources) -> Iterator[tuple[str, float]]:
    """Make, look at, list and remove small files."""
    system.make(folder)
    data = os.urandom(SMALL_BYTES)
    with mounted(system, folder) as clear:
        paths = [clear / f"{number // 1000:02}" / f"{number:05}" for number in range(sources.small_files)]
        for directory in {path.parent for path in paths}:
            directory.mkdir()

    with mounted(system, folder):
        started = time.perf_counter()
        for path in paths:
            path.write_bytes(data)
    yield "create small files and unmount, files/s", sources.small_files / (time.perf_counter() - started)
    drop_caches()
    with mounted(system, folder) as clear:
        yield "stat small files, files/s", sources.small_files / timed(lambda: [path.stat() for path in paths])
        yield "list small files, files/s", sources.small_files / timed(lambda: list(files_below(clear)))
        yield "read small files, files/s", sources.small_files / timed(lambda: read_all(clear))
    with mounted(system, folder):
        started = time.perf_counter()
        for path in paths:
            path.unlink()
    yield "remove small files and unmount, files/s", sources.small_files / (time.perf_counter() - started)


def listing(system: System, folder: Path, sources: Sources) -> Iterator[tuple[str, float]]:
    """List many files with all their attributes, once warm."""
    system.make(folder)
    with mounted(system, folder) as clear:
        for number in range(LISTED_FILES):
            path = clear / f"{number // 1000:02}" / f"{number:05}"
            if not number % 1000:
                path.parent.mkdir()
            path.touch()
        command = ["ls", "-lR", str(clear)]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        yield (
            f"ls -lR of {LISTED_FILES} files, warm, seconds",
            timed(lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True)),
        )


WORK: dict[str, Callable[[System, Path, Sources], Iterator[tuple[str, float]]]] = {
    "library": library,
    "versions": versions,
    "small": small,
    "listing": listing,
}


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that something takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def copying(system: System, folder: Path, source: Path, name: str) -> float:
    """Return the seconds from the start of a copy to the end of unmounting."""
    with mounted(system, folder) as clear:
        started = time.perf_counter()
        subprocess.run(["cp", "-r", str(source), str(clear / name)], check=True)
    return time.perf_counter() - started


def read_all(folder: Path) -> None:
    """Read every file to its end."""
    for path in files_below(folder):
        with (folder / path).open("rb", buffering=0) as file:
            while file.read(READ_BYTES):
                pass


def size_of(folder: Path) -> int:
    """Return the bytes of all files below."""
    return sum((folder / path).stat().st_size for path in files_below(folder))


def drop_caches() -> None:
    """Have the kernel forget what it has read, where we may ask for it."""
    os.sync()
    with contextlib.suppress(OSError):
        Path("/proc/sys/vm/drop_caches").write_text("3\n")


def as_text(figures: dict[str, Figures]) -> str:
    """Return a table for each figure: median, and the ratio to the reference."""
    lines = []
    for what, by_system in figures.items():
        lines.append(what)
        medians = {name: statistics.median(found) for name, found in by_system.items()}
        for name, median in medians.items():
            spread = by_system[name]
            line = f"  {name:<20}{median:10.2f}   ({min(spread):.2f} to {max(spread):.2f})"
            if REFERENCE in medians and name != REFERENCE:
                line += f"   {median / medians[REFERENCE]:.2f} of {REFERENCE}"
            lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
