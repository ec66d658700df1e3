"""Store a collection of photos, read everything back and measure: the Python part of scripts/evaluate.

Sees dedupfs as a user does, through its commands and the mounted folder, and so can contradict it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evaluate_result import Result, mark, report
from labels import Judgement, Label, Labels
from measure import CEILINGS, Comparison, compare_pictures
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from throwaway import CommandError, ThrowawayVolume, copy, throwaway_volume
from trees import digest, files_below, relative

ORDERS = "as-is, variants-first, shuffled:SEED, or all: one of each"

# Far more arguments would not fit on a command line.
FILES_PER_COPY = 200


@dataclass(frozen=True, slots=True)
class Picture:
    """What decides which of two versions is the better one."""

    pixels: int
    size_bytes: int
    coarseness: int | None  # sum of the luma quantization table of a JPEG


@dataclass
class Collection:
    """The folder that is stored, and what is known about it."""

    folder: Path
    files: list[str]
    labels: Labels
    digests: dict[str, bytes]

    @classmethod
    def read(cls, folder: Path) -> Collection:
        files = sorted(files_below(folder))
        return cls(folder, files, Labels.read(folder), {name: digest(folder / name) for name in files})

    def lesser(self, row: Label) -> str | None:
        """Return the file of a pair that is only a version of the other, or None if that cannot be told."""
        a, b = self._picture(row.a), self._picture(row.b)
        if a is None or b is None:
            return None
        if a.pixels != b.pixels:
            return row.b if a.pixels > b.pixels else row.a
        if a.coarseness is None or b.coarseness is None:
            return None
        # Only when both say the same: a copy can be coarser and larger, by its sampling or by poor Huffman tables.
        if a.coarseness < b.coarseness and a.size_bytes > b.size_bytes:
            return row.b
        return row.a if a.coarseness > b.coarseness and a.size_bytes < b.size_bytes else None

    def _picture(self, name: str) -> Picture | None:
        path = self.folder / name
        try:
            with Image.open(path) as picture:
                tables = picture.quantization if isinstance(picture, JpegImageFile) else {}
                coarseness = sum(tables[0]) if 0 in tables else None
                return Picture(picture.width * picture.height, path.stat().st_size, coarseness)
        except OSError:
            return None

    def in_order(self, order: str) -> list[str]:
        """Return the files as they are to be copied."""
        if order.startswith("shuffled:"):
            return random.Random(order).sample(self.files, len(self.files))
        if not self.labels.rows:
            # Nothing says what a version is of what; a smaller file is more likely to be one.
            return sorted(self.files, key=lambda name: (self.folder / name).lstat().st_size)
        variants = {self.lesser(row) or row.b for row in self.labels.rows if row.wanted}
        return sorted(self.files, key=lambda name: name not in variants)


class Clusters:
    """What `dedupfs clusters` reports, by path."""

    def __init__(self, report: list[dict[str, Any]]) -> None:
        self.count = len(report)
        self.members = {entry["cluster"]: [relative(m["path"]) for m in entry["members"]] for entry in report}
        self.representatives = {entry["cluster"]: relative(entry["representative"]) for entry in report}
        self.cluster_of = {name: cluster for cluster, names in self.members.items() for name in names}
        self.renditions = {relative(m["path"]) for e in report for m in e["members"] if m["kind"] == "rendition"}

    def together(self, x: str, y: str) -> bool:
        return x in self.cluster_of and self.cluster_of[x] == self.cluster_of.get(y)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/evaluate",
        description="Store a collection of photos in a throw-away volume, read everything back and measure.",
        epilog="Ends with 1 if two different pictures were merged or a file did not come back as promised.",
    )
    parser.add_argument(
        "folder", type=Path, help="the photos; labels are used where it has them (see scripts/labels.py)"
    )
    parser.add_argument("--order", default="as-is", help=f"in which order they are copied: {ORDERS}")
    parser.add_argument("--policy", default="verified", choices=["verified", "perceptual", "off"])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    options = parser.parse_args()
    orders = ["as-is", "variants-first", "shuffled:1"] if options.order == "all" else [options.order]
    if not all(order in ("as-is", "variants-first") or order.startswith("shuffled:") for order in orders):
        parser.error(f"--order is {ORDERS}")
    if not options.folder.is_dir():
        parser.error(f"not a folder: {options.folder}")
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # file names can hold any byte
    try:
        collection = Collection.read(options.folder.resolve())
        results = []
        for order in orders:
            with throwaway_volume("evaluate") as volume:
                results.append(evaluate(collection, order, options.policy, volume))
            report(results[-1])
    except KeyboardInterrupt:
        print("interrupted; unmounted and cleaned up", file=sys.stderr)
        return 130
    except (CommandError, OSError) as error:
        print(f"scripts/evaluate: {error}", file=sys.stderr)
        return 1
    compare_orders(results)
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=2, default=str) + "\n")
    return 0 if all(result.good for result in results) else 1


def evaluate(collection: Collection, order: str, policy: str, volume: ThrowawayVolume) -> Result:
    result = Result(order, files=len(collection.files))
    result.written_bytes = sum((collection.folder / name).lstat().st_size for name in collection.files)

    volume.init(policy)
    volume.run("mount", volume.volume, volume.mountpoint)
    start = time.monotonic()
    copy_in(collection, order, volume.mountpoint)
    result.copy_seconds = time.monotonic() - start
    volume.unmount()
    result.unmount_seconds = time.monotonic() - start - result.copy_seconds

    result.stats = volume.report("stats")
    result.stored_bytes = result.stats["stored_bytes"]
    result.database_bytes = result.stats["database_bytes"]
    clusters = Clusters(volume.report("clusters"))
    result.clusters = clusters.count
    judge_clusters(collection, clusters, result)

    with volume.mounted("--read-only") as mountpoint:
        read_back(collection, mountpoint, clusters, result)
    check(volume, result)
    return result


def copy_in(collection: Collection, order: str, mountpoint: Path) -> None:
    if order == "as-is":
        copy(["-a", f"{collection.folder}/.", mountpoint])
        return
    names = collection.in_order(order)
    for begin in range(0, len(names), FILES_PER_COPY):
        batch = [f"./{name}" for name in names[begin : begin + FILES_PER_COPY]]
        copy(["-a", "--parents", "-t", mountpoint, *batch], cwd=collection.folder)


def judge_clusters(collection: Collection, clusters: Clusters, result: Result) -> None:
    """Hold the clusters against the labels: what is missing, what is too much, and who represents."""
    for row in collection.labels.rows:
        if not row.wanted:
            continue
        result.wanted[row.relation] = result.wanted.get(row.relation, 0) + 1
        if not clusters.together(row.a, row.b):
            result.missed.append(row)
            continue
        result.merged[row.relation] = result.merged.get(row.relation, 0) + 1
        # The first of a pair is the original: what was enlarged from it shows no more, and may rest on it.
        if collection.lesser(row) == row.b and clusters.representatives[clusters.cluster_of[row.b]] == row.b:
            result.problems.append(f"{row.b} represents the better {row.a}")

    for names in clusters.members.values():
        for x, y in itertools.combinations(names, 2):
            # Equal bytes come back as they are; that is nobody's loss, whatever the labels know of it.
            if collection.digests.get(x) == collection.digests.get(y):
                continue
            judgement = collection.labels.judge(x, y)
            label = collection.labels.between(x, y)
            text = f"{x} and {y}" + (f" ({label.relation}: {label.note})" if label else "")
            if judgement is Judgement.DIFFERENT:
                result.false_merges.append(text)
            elif judgement is Judgement.UNKNOWN:
                result.unjudged_merges.append(text)


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
    for name in found.keys() & collection.digests.keys():
        written, read = collection.folder / name, mountpoint / name
        before, after = written.lstat(), read.lstat()
        for what in ("st_size", "st_mtime_ns", "st_mode"):
            if getattr(before, what) != getattr(after, what):
                result.problems.append(f"{name}: {what} {getattr(before, what)} became {getattr(after, what)}")
        same = collection.digests[name] == found[name]
        if name in clusters.renditions:
            result.renditions += 1
            result.bit_exact_renditions += same
            measure(name, written, read, measured, result)
        elif not same:
            result.problems.append(f"{name}: not a rendition, and other bytes than were written")
    summarize(measured, result)


def measure(name: str, written: Path, read: Path, measured: dict[str, Comparison], result: Result) -> None:
    """Compare a rendition with what was written: the file's format and metadata, and its pixels."""
    try:
        comparison, problems = compare_pictures(written, read)
    except OSError as error:
        result.problems.append(f"{name}: {error}")
        return
    result.problems += [f"{name}: {problem}" for problem in problems]
    if comparison:
        measured[name] = comparison


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
        ("bit_exact_renditions", result.bit_exact_renditions),
        ("undecided", 0),
    ):
        if result.stats[what] != seen:
            result.problems.append(f"stats says {what} = {result.stats[what]}, and {seen} were found")


def compare_orders(results: list[Result]) -> None:
    """Later copies must end in the same clusters as earlier ones: a better version that comes last takes the lead."""
    by_order = {result.order: result for result in results}
    first, last = by_order.get("as-is"), by_order.get("variants-first")
    if first and last:
        same = first.clusters == last.clusters
        print(f"\n{mark(same)} clusters: {first.clusters} as-is, {last.clusters} variants-first")
        if not same:
            last.problems.append(f"{last.clusters} clusters, and {first.clusters} in the order as-is")


if __name__ == "__main__":
    sys.exit(main())
