"""What a mount takes while it is at work - memory, descriptors, threads, disk - and whether that grows without bound.

A `Sampler` looks at the mount's process and its workers from outside, through /proc, on a thread of its own.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

SAMPLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One look. Memory is what the kernel calls RSS; anonymous memory is that without pages of files."""

    seconds: float
    mount_bytes: int
    mount_anonymous_bytes: int
    workers_bytes: int
    workers: int
    descriptors: int
    threads: int
    database_bytes: int
    logical_bytes: int


@dataclass(frozen=True, slots=True)
class Bound:
    """What a quantity may be at most, and how far the median of its last third may be above all of its middle third."""

    most: float
    factor: float
    slack: float


MB = 1_000_000
BOUNDS = {
    "mount_bytes": Bound(1500 * MB, 1.1, 30 * MB),
    "mount_anonymous_bytes": Bound(1000 * MB, 1.1, 30 * MB),
    "workers_bytes": Bound(3000 * MB, 1.1, 100 * MB),
    "workers": Bound(2 * (os.cpu_count() or 1) + 4, 1.0, 0),
    "descriptors": Bound(200, 1.0, 5),
    "threads": Bound(100, 1.0, 2),
    "database_bytes": Bound(float("inf"), 1.1, 10 * MB),
}
"""A soak is to be as long as it takes to fill what is bounded: `--megabytes`, and the caches of the mount."""


@dataclass(frozen=True, slots=True)
class Trend:
    """How one quantity went over the life of one mount."""

    largest: float
    per_minute: float
    """Slope of the straight line through the last two thirds, in units a minute."""
    course: tuple[float, ...]
    """Medians of tenths of the time."""
    problem: str | None


class Sampler:
    """Samples until it is stopped, for one life of a mount."""

    def __init__(self, mount_pid: int, data_file: Path, logical_bytes: Callable[[], int]) -> None:
        self.samples: list[Sample] = []
        self._pid = mount_pid
        self._data_file = data_file
        self._logical_bytes = logical_bytes
        self._stop = threading.Event()
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            with contextlib.suppress(OSError):
                self.samples.append(self._look())

    def _look(self) -> Sample:
        mount = _status(self._pid)
        workers = children(self._pid)
        return Sample(
            seconds=time.monotonic() - self._started,
            mount_bytes=mount["VmRSS"],
            mount_anonymous_bytes=mount["RssAnon"],
            workers_bytes=sum(_status(pid).get("VmRSS", 0) for pid in workers),
            workers=len(workers),
            descriptors=len(os.listdir(f"/proc/{self._pid}/fd")),
            threads=len(os.listdir(f"/proc/{self._pid}/task")),
            database_bytes=self._data_file.stat().st_blocks * 512,
            logical_bytes=self._logical_bytes(),
        )


def trends(samples: Sequence[Sample]) -> dict[str, Trend]:
    """Return the trend of every quantity that has a bound."""
    times = [sample.seconds / 60 for sample in samples]
    found = {}
    for name, bound in BOUNDS.items():
        values = [float(asdict(sample)[name]) for sample in samples]
        found[name] = _trend(times, values, bound)
    return found


def _trend(minutes: Sequence[float], values: Sequence[float], bound: Bound) -> Trend:
    if not values:
        return Trend(0, 0, (), "was never looked at")
    third = len(values) // 3
    slope = 0.0
    problem = None
    if third >= 2:
        slope = statistics.linear_regression(minutes[third:], values[third:]).slope
        middle, last = max(values[third : 2 * third]), statistics.median(values[2 * third :])
        if last > bound.factor * middle + bound.slack:
            problem = f"grows: at most {middle:.0f} in the middle third, {last:.0f} in the last"
    if max(values) > bound.most:
        problem = f"came to {max(values):.0f}, and may be at most {bound.most:.0f}"
    tenth = max(1, len(values) // 10)
    course = tuple(statistics.median(values[at : at + tenth]) for at in range(0, tenth * 10, tenth) if at < len(values))
    return Trend(max(values), slope, course, problem)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and not yet waited for."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                    found.append(int(entry.name))
    return found


def _status(pid: int) -> dict[str, int]:
    """Return the sizes in /proc/PID/status, in bytes."""
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[2:] == ["kB"]}
