"""Work on a real mount for as long as it is told to, and find what grows and what reads otherwise: scripts/soak.

Sees dedupfs as a user does, through its commands and the mounted folder. The mount lives five lives; the third is
the long one, from which the trends are taken. After each life the volume is unmounted, compacted and proved sound, and
after the last every file is compared once more.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from soak_samples import MB, Sample, Sampler, Trend, trends
from soak_work import DifferenceError, Worker
from throwaway import CommandError, ThrowawayVolume, throwaway_volume

LIVES = (0.05, 0.05, 0.8, 0.05, 0.05)


def main() -> int:
    """Soak, report, and return 0 if nothing was found."""
    options = parse()
    with throwaway_volume("soak") as volume:
        soak = Soak(volume, options)
        try:
            soak.run(options.minutes)
        except CommandError as error:
            soak.problems.append(str(error))
    report = soak.report()
    print(json.dumps(report, indent=2) if options.json else as_text(report))
    return 1 if soak.problems else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/soak",
        description="Mixed work on a new volume - pictures and versions of them, other files, edits, renames, removals,"
        " reads, remounts - that is compared with a model all the time. Says what the mount took, and how that grew."
        " Exit code 1 when something grew without bound, or one file read otherwise than it should.",
    )
    parser.add_argument("--minutes", type=float, default=60, help="how long to work (default: 60)")
    parser.add_argument("--seed", type=int, default=1, help="another seed is other work (default: 1)")
    parser.add_argument("--users", type=int, default=3, help="threads that work at once (default: 3)")
    parser.add_argument("--megabytes", type=int, default=150, help="how much to keep (default: 150)")
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="put files that read otherwise there, both ways")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser.parse_args()


class Soak:
    """One volume, its users, and what was found."""

    def __init__(self, volume: ThrowawayVolume, options: argparse.Namespace) -> None:
        self.problems: list[str] = []
        self._volume = volume
        self._data_file = volume.volume / "data.mdb"
        limit_bytes = options.megabytes * MB // options.users
        model = volume.folder / "model"
        self._workers = [
            Worker(number, options.seed, volume.mountpoint, model, limit_bytes) for number in range(options.users)
        ]
        self._keep: Path | None = options.keep
        self._lives: list[dict[str, Any]] = []
        self._long: list[Sample] = []

    def run(self, minutes: float) -> None:
        """Work for some minutes. Raises CommandError."""
        self._volume.init("verified")
        for number, share in enumerate(LIVES):
            with self._volume.mounted() as mountpoint:
                if not number:
                    for worker in self._workers:
                        worker.start()
                samples = self._live(mountpoint, minutes * share * 60)
            if share == max(LIVES):
                self._long = samples
            if self.problems:
                return
            self._prove_sound(samples)
        with self._volume.mounted():
            self._together(lambda worker, stop: worker.compare_all(), None)

    def report(self) -> dict[str, Any]:
        """Return everything that was found."""
        measured = trends(self._long)
        self.problems += [f"{name} {trend.problem}" for name, trend in measured.items() if trend.problem]
        return {
            "problems": self.problems,
            "done": _summed(worker.done for worker in self._workers),
            "compared": _summed(worker.compared for worker in self._workers),
            "trends": {name: asdict(trend) for name, trend in measured.items()},
            "lives": self._lives,
        }

    def _live(self, mountpoint: Path, seconds: float) -> list[Sample]:
        """Let the users work for a while on a mount, and return what was seen of it."""
        pid = int(os.getxattr(mountpoint, "user.dedupfs.pid"))
        sampler = Sampler(pid, self._data_file, lambda: sum(worker.logical_bytes for worker in self._workers))
        try:
            self._together(Worker.work, seconds)
        finally:
            sampler.stop()
        return sampler.samples

    def _together(self, task: Any, seconds: float | None) -> None:
        """Run a task for every user at once, until it ends, somebody finds something, or the time is over."""
        stop = threading.Event()

        def run(worker: Worker) -> None:
            try:
                task(worker, stop)
            except DifferenceError as error:
                self._note(error)
                stop.set()
            except Exception:  # noqa: BLE001  Whatever it is, it is what the soak is there to find.
                self.problems.append(traceback.format_exc())
                stop.set()

        threads = [threading.Thread(target=run, args=(worker,)) for worker in self._workers]
        for thread in threads:
            thread.start()
        if seconds is not None:
            stop.wait(seconds)
            stop.set()
        for thread in threads:
            thread.join()

    def _note(self, error: DifferenceError) -> None:
        """Keep what is needed to find out why a file reads otherwise."""
        said = ""
        if error.read:
            path = error.path.relative_to(self._volume.mountpoint)
            said = " " + self._volume.run("why", self._volume.mountpoint, path, "--json")
        if self._keep is not None and error.read:
            self._keep.mkdir(parents=True, exist_ok=True)
            (self._keep / f"written {error.path.name}").write_bytes(error.written)
            (self._keep / f"read {error.path.name}").write_bytes(error.read)
        self.problems.append(f"{error}{said}")

    def _prove_sound(self, samples: list[Sample]) -> None:
        """Compact and check the unmounted volume, and note what it holds. Raises CommandError for damage."""
        started = time.monotonic()
        compacted = json.loads(self._volume.run("compact", self._volume.volume, "--json"))
        self._volume.run("check", self._volume.volume, "--data")
        stats = self._volume.report("stats")
        self._lives.append(
            {
                "samples": len(samples),
                "largest_mount_bytes": max((sample.mount_bytes for sample in samples), default=0),
                "database_bytes": compacted["before_bytes"],
                "compacted_bytes": compacted["after_bytes"],
                "compact_and_check_seconds": round(time.monotonic() - started, 1),
                **{name: stats[name] for name in ("files", "logical_bytes", "stored_bytes", "pictures", "renditions")},
            }
        )


def as_text(report: dict[str, Any]) -> str:
    lines = [f"{'':24}{'largest':>10}{'a minute':>10}   tenths of the long life"]
    for name, fields in report["trends"].items():
        trend = Trend(**fields)
        unit = MB if name.endswith("bytes") else 1
        label = name.replace("_bytes", ", MB") if unit == MB else name
        course = " ".join(f"{value / unit:.0f}" for value in trend.course)
        lines.append(f"{label:24}{trend.largest / unit:10.1f}{trend.per_minute / unit:+10.2f}   {course}")
    for number, life in enumerate(report["lives"], 1):
        lines.append(
            f"life {number}: {life['files']} files, {life['logical_bytes'] / MB:.0f} MB written,"
            f" {life['stored_bytes'] / MB:.0f} MB stored, {life['database_bytes'] / MB:.0f} MB on disk,"
            f" {life['compacted_bytes'] / MB:.0f} MB compacted; {life['renditions']} renditions"
            f" of {life['pictures']} pictures"
        )
    lines.append(f"done: {report['done']}")
    lines.append(f"compared: {report['compared']}")
    lines += [f"PROBLEM: {problem}" for problem in report["problems"]] or ["nothing grew, nothing differed"]
    return "\n".join(lines)


def _summed(counters: Any) -> dict[str, int]:
    total: dict[str, int] = {}
    for counter in counters:
        for name, count in counter.items():
            total[name] = total.get(name, 0) + count
    return dict(sorted(total.items()))


if __name__ == "__main__":
    sys.exit(main())
