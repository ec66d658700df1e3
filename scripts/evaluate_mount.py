"""Store a collection through a real mount in one order of arrival, read everything back and measure.

Sees dedupfs as a user does, through its commands and the mounted folder, and so can contradict it.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from evaluate_collection import Collection
from evaluate_result import Clusters, Result, judge
from measure import CEILINGS, Comparison, compare_pictures, structural_similarity
from PIL import Image
from throwaway import CommandError, ThrowawayVolume, copy
from trees import digest, files_below, relative

from dedupfs.cli.live import live_figures

FILES_PER_COPY = 200
"""Far more arguments would not fit on a command line."""

POLL_SECONDS = 0.3

Progress = Callable[[int, int], None]


def evaluate(collection: Collection, name: str, order: str, volume: ThrowawayVolume, progress: Progress) -> Result:
    """Return what became of a collection under the policy `verified`; `progress` is told of files decided about."""
    result = Result(collection=name, order=order, files=len(collection.files))
    result.written_bytes = sum(map(collection.size_bytes, collection.files))
    result.unique_bytes, result.ideal_bytes = collection.unique_bytes(), collection.ideal_bytes()

    volume.init("verified")
    volume.run("mount", volume.volume, volume.mountpoint)
    start = time.monotonic()
    copy_in(collection, order, volume.mountpoint)
    result.copy_seconds = time.monotonic() - start
    while (waiting := waiting_files(volume.mountpoint)) > 0:
        progress(result.files - waiting, result.files)
        time.sleep(POLL_SECONDS)
    commit(volume.mountpoint)
    result.cpu_seconds, result.volume_written_bytes = expense(volume.volume)
    volume.unmount()
    result.decide_seconds = time.monotonic() - start - result.copy_seconds

    result.stats = volume.report("stats")
    result.stored_bytes = result.stats["stored_bytes"]
    result.database_bytes = result.stats["database_bytes"]
    clusters = clusters_of(volume.report("clusters"))
    judge(collection, clusters, result)

    with volume.mounted("--read-only") as mountpoint:
        read_back(collection, mountpoint, clusters, result)
    start = time.monotonic()
    check(volume, result)
    result.check_seconds = time.monotonic() - start
    return result


def copy_in(collection: Collection, order: str, mountpoint: Path) -> None:
    if order == "as-is":
        copy(["-a", f"{collection.folder}/.", mountpoint])
        return
    names = collection.in_order(order)
    for begin in range(0, len(names), FILES_PER_COPY):
        batch = [f"./{name}" for name in names[begin : begin + FILES_PER_COPY]]
        copy(["-a", "--parents", "-t", mountpoint, *batch], cwd=collection.folder)


def waiting_files(mountpoint: Path) -> int:
    figures = live_figures(mountpoint)
    return int(figures["waiting"]) + int(figures["undecided"]) if figures else 0


def commit(mountpoint: Path) -> None:
    folder = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def expense(volume: Path) -> tuple[float, int]:
    """Return the processor seconds of a mount and its workers so far, and the bytes that it gave to its disk."""
    pid = int((volume / "mounted").read_text().split()[0])
    written = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())["write_bytes"]
    ticks = sum(_ticks(process) for process in _with_descendants(pid))
    return ticks / os.sysconf("SC_CLK_TCK"), int(written)


def _with_descendants(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from _with_descendants(int(child))


def _ticks(pid: int) -> int:
    """Return the processor time of a process and of its children that have ended."""
    # Fields of proc(5) from the third on: the name in parentheses may hold spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15]))


def clusters_of(report: list[dict[str, Any]]) -> Clusters:
    """Read what `dedupfs clusters` reports."""
    return Clusters(
        {
            relative(entry["representative"]): [relative(member["path"]) for member in entry["members"]]
            for entry in report
        },
        {relative(m["path"]) for entry in report for m in entry["members"] if m["kind"] == "rendition"},
    )


def read_back(collection: Collection, mountpoint: Path, clusters: Clusters, result: Result) -> None:
    """Compare every file and folder of the mount with what was copied."""
    start = time.monotonic()
    found: dict[str, bytes] = {}
    for name in files_below(mountpoint):
        try:
            found[name] = digest(mountpoint / name)
        except OSError as error:
            result.problems.append(f"{name}: {error}")
    result.read_seconds = time.monotonic() - start

    result.problems += [f"{name}: lost or unreadable" for name in collection.files if name not in found]
    result.problems += [f"{name}: nobody wrote this" for name in found if name not in collection.digests]
    if result.order == "as-is":
        # Copying one by one, cp touches the folders again and again.
        compare_folders(collection.folder, mountpoint, result)
    measured: dict[str, Comparison] = {}
    counted: set[bytes] = set()
    for name in sorted(found.keys() & collection.digests.keys()):
        written, read = collection.folder / name, mountpoint / name
        before, after = written.lstat(), read.lstat()
        for what in ("st_size", "st_mtime_ns", "st_mode"):
            if getattr(before, what) != getattr(after, what):
                result.problems.append(f"{name}: {what} {getattr(before, what)} became {getattr(after, what)}")
        same = collection.digests[name] == found[name]
        if name in clusters.renditions:
            # Two files of the same bytes are one rendition, as `stats` counts them.
            is_new = collection.digests[name] not in counted
            counted.add(collection.digests[name])
            result.renditions += is_new
            result.bit_exact_renditions += is_new and same
            if not same:
                measure(name, written, read, measured, result)
        elif not same:
            result.problems.append(f"{name}: not a rendition, and other bytes than were written")
    summarize(measured, result)


def measure(name: str, written: Path, read: Path, measured: dict[str, Comparison], result: Result) -> None:
    """Compare a rendition with what was written: the file's format and metadata, and its pixels."""
    try:
        comparison, problems = compare_pictures(written, read)
        if comparison:
            result.fidelity.append({**asdict(comparison), "ssim": structural_similarity(luma(written), luma(read))})
    except OSError as error:
        result.problems.append(f"{name}: {error}")
        return
    result.problems += [f"{name}: {problem}" for problem in problems]
    if comparison:
        measured[name] = comparison


def luma(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L"))


def compare_folders(folder: Path, mountpoint: Path, result: Result) -> None:
    for directory, _, _ in os.walk(folder):
        name = os.path.relpath(directory, folder)
        before, after = (folder / name).stat(), (mountpoint / name).stat()
        if (before.st_mode, before.st_mtime_ns) != (after.st_mode, after.st_mtime_ns):
            result.problems.append(f"{name}/: mode or time of the folder differ")


def summarize(measured: dict[str, Comparison], result: Result) -> None:
    if not measured:
        return
    worst: dict[str, float] = {}
    for what, ceiling in asdict(CEILINGS).items():
        # PSNR is the only one of which less is worse.
        pick = min if what == "psnr_db" else max
        values = {name: getattr(comparison, what) for name, comparison in measured.items()}
        name = pick(values, key=values.__getitem__)
        worst[what], result.worst_files[what] = values[name], name
        result.problems += [
            f"{name}: {what} is {value:.1f}, beyond {ceiling}"
            for name, value in values.items()
            if (value < ceiling if what == "psnr_db" else value > ceiling)
        ]
    result.worst = Comparison(**worst)
    different = [c.psnr_db for c in measured.values() if c.psnr_db != float("inf")]
    result.median_psnr_db = statistics.median(different) if different else None


def check(volume: ThrowawayVolume, result: Result) -> None:
    try:
        volume.run("check", volume.volume, "--data")
    except CommandError as error:
        result.problems.append(str(error))
    for what, seen in (
        ("files", result.files),
        ("logical_bytes", result.written_bytes),
        ("renditions", result.renditions),
        ("undecided", 0),
    ):
        if result.stats[what] != seen:
            result.problems.append(f"stats says {what} = {result.stats[what]}, and {seen} were found")
    if result.stats["bit_exact_renditions"] > result.bit_exact_renditions:
        # There may be more: what is drawn anew from an original that came last is held against what it read as before,
        # where the bytes that were written are not known any more.
        text = "stats says {bit_exact_renditions} renditions are identical, and only {} are"
        result.problems.append(text.format(result.bit_exact_renditions, **result.stats))
