"""Measure the memory of a mount and all its workers while they have most to do.

`scripts/bench memory`: draws a large picture and versions of it, and writes a large file of random bytes; copies both
into a throwaway volume at once, two `cp` at a time, and unmounts. Every 50 ms it adds up the mount and every process
that descends from it.

What counts is anonymous memory, where pages that several processes share count for each with its part (Pss_Anon and
Pss_Shmem of /proc/PID/smaps_rollup, and what is swapped out). The pages of files - the database, which LMDB maps, and
libraries - are left out: the kernel takes them back when it needs them. They are shown beside it, as the rest of PSS.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from soak_samples import children
from throwaway import ThrowawayVolume, throwaway_volume

SAMPLE_SECONDS = 0.05
_PIECE_BYTES = 16 << 20
_STRIP_ROWS = 256
_COUNTED = ("Pss_Anon", "Pss_Shmem", "SwapPss")

Image.MAX_IMAGE_PIXELS = None


def main(words: list[str]) -> int:
    """Run the measurement."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megapixels", type=float, default=100, help="size of the picture (default: 100)")
    parser.add_argument("--large", metavar="MB", type=int, default=5000, help="size of the large file (default: 5000)")
    parser.add_argument("--memory", metavar="SIZE", help="the mount option memory=SIZE (default: that of the mount)")
    parser.add_argument("--policy", default="verified", choices=("verified", "perceptual", "off"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(words)
    with throwaway_volume("bench") as volume:
        sources = volume.folder / "sources"
        make_sources(sources, options.megapixels, options.large)
        volume.init(options.policy)
        figures = measure(volume, sources, [] if options.memory is None else ["-o", f"memory={options.memory}"])
    print(json.dumps(figures, indent=2) if options.json else as_text(figures))
    return 0


def make_sources(folder: Path, megapixels: float, large_mb: int) -> None:
    """Fill a folder: `pictures`, and `large` with one file."""
    (folder / "pictures").mkdir(parents=True)
    (folder / "large").mkdir()
    for name, data in versions(megapixels):
        (folder / "pictures" / name).write_bytes(data)
    with (folder / "large" / "video.mp4").open("wb") as file:
        left = large_mb * 1_000_000
        while left:
            left -= file.write(os.urandom(min(left, _PIECE_BYTES)))


def versions(megapixels: float) -> Iterator[tuple[str, bytes]]:
    """Yield a picture and versions of it as files: sizes, qualities and formats that people make."""
    original = coded(drawn(megapixels), "JPEG", quality=92)
    yield "original.jpg", original
    whole = Image.open(io.BytesIO(original)).convert("RGB")
    yield "quality70.jpg", coded(whole, "JPEG", quality=70)
    yield "progressive.jpg", coded(whole, "JPEG", quality=80, progressive=True)
    edited = whole.copy()
    edited.paste((200, 30, 30), (whole.width // 3, whole.height // 3, whole.width // 3 + 200, whole.height // 3 + 200))
    yield "edited.jpg", coded(edited, "JPEG", quality=85)
    del edited
    for percent in (90, 50, 25):
        size = (whole.width * percent // 100, whole.height * percent // 100)
        smaller = whole.resize(size, Image.Resampling.LANCZOS)
        yield f"size{percent}.jpg", coded(smaller, "JPEG", quality=85)
        if percent == 50:
            yield "sharper.jpg", coded(smaller.resize(size, Image.Resampling.BICUBIC), "JPEG", quality=77)
    yield "size25.png", coded(smaller, "PNG", compress_level=1)
    yield "size25.webp", coded(smaller, "WEBP", quality=80, method=0)


def drawn(megapixels: float) -> Image.Image:
    """Return a picture 4 by 3 with shapes of every size, and noise."""
    generator = np.random.default_rng(7)
    width = max(64, int((megapixels * 1e6 * 4 / 3) ** 0.5))
    height = max(48, int(megapixels * 1e6 / width))
    field_ = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    finer = generator.integers(0, 48, (192, 256, 3), dtype=np.uint8)
    planes = [Image.fromarray(each).resize((width, height), Image.Resampling.BICUBIC) for each in (field_, finer)]
    noise = generator.integers(0, 9, (_STRIP_ROWS, width, 1), dtype=np.uint8)
    made = Image.new("RGB", (width, height))
    for top in range(0, height, _STRIP_ROWS):
        box = (0, top, width, min(height, top + _STRIP_ROWS))
        rough, fine = (np.asarray(plane.crop(box)).astype(np.uint16) for plane in planes)
        strip = np.minimum(rough * 3 // 4 + fine + noise[: box[3] - top], 255).astype(np.uint8)
        made.paste(Image.fromarray(strip), box)
    return made


def coded(image: Image.Image, name: str, **settings: Any) -> bytes:
    """Return a picture as a file."""
    out = io.BytesIO()
    image.save(out, name, **settings)
    return out.getvalue()


def measure(volume: ThrowawayVolume, sources: Path, options: list[str]) -> dict[str, Any]:
    """Copy everything in at once and return the figures."""
    volume.run("mount", volume.volume, volume.mountpoint, *options)
    watch = Watch(int(os.getxattr(volume.mountpoint, "user.dedupfs.pid")))
    started = time.perf_counter()
    copies = [
        subprocess.Popen(["cp", "-r", str(sources / name), str(volume.mountpoint)]) for name in ("large", "pictures")
    ]
    codes = [copy.wait() for copy in copies]
    copied = time.perf_counter() - started
    volume.unmount()
    whole = time.perf_counter() - started
    watch.stop()
    if any(codes):
        raise SystemExit("bench: cp failed")
    found = volume.report("stats")
    kept = {name: found[name] for name in ("files", "renditions", "bit_exact_renditions", "clusters", "undecodable")}
    return {
        "peak_mb": round(watch.peak.total / 1e6, 1),
        "at_s": round(watch.peak.seconds, 1),
        "with_files_mb": round(watch.peak.total_with_files / 1e6, 1),
        "at_peak_mb": _rounded(watch.peak.processes),
        "own_peak_mb": _rounded(watch.own_peaks),
        "idle_mb": round(watch.first / 1e6, 1),
        "samples": watch.count,
        "copied_s": round(copied, 1),
        "settled_s": round(whole, 1),
        **kept,
    }


@dataclass(slots=True)
class Look:
    """Bytes of every process at one moment, by its name."""

    seconds: float = 0.0
    total: int = 0
    total_with_files: int = 0
    processes: dict[str, int] = field(default_factory=dict)


class Watch:
    """Samples a mount and its descendants on a thread of its own, until it is stopped."""

    def __init__(self, pid: int) -> None:
        self.peak = Look()
        self.own_peaks: dict[str, int] = {}
        self.first = 0
        self.count = 0
        self._pid = pid
        self._started = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + SAMPLE_SECONDS, time.monotonic())
            look = self._look()
            self.count += 1
            self.first = self.first or look.total
            for name, size in look.processes.items():
                self.own_peaks[name] = max(self.own_peaks.get(name, 0), size)
            if look.total > self.peak.total:
                self.peak = look

    def _look(self) -> Look:
        look = Look(time.monotonic() - self._started)
        for pid, name in family(self._pid):
            with contextlib.suppress(OSError):
                sizes = memory_of(pid)
                counted = sum(sizes.get(each, 0) for each in _COUNTED)
                look.processes[f"{name} {pid}"] = counted
                look.total += counted
                look.total_with_files += sizes.get("Pss", 0) + sizes.get("SwapPss", 0)
        return look


def family(pid: int) -> Iterator[tuple[int, str]]:
    """Yield a mount and what descends from it, with what each is."""
    yield pid, "mount"
    for server in started_by(pid):
        yield server, "server"
        for worker in started_by(server):
            yield worker, "worker"


def started_by(pid: int) -> list[int]:
    """Return the processes that one has started, from the lists that most kernels keep; looking through all is slow."""
    try:
        lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    return [int(word) for each in lists for word in each.split()] if lists else children(pid)


def memory_of(pid: int) -> dict[str, int]:
    """Return the sums over all that a process has mapped, in bytes. Raises OSError."""
    lines = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[2:] == ["kB"]}


def _rounded(sizes: dict[str, int]) -> dict[str, float]:
    return {name: round(size / 1e6, 1) for name, size in sizes.items()}


def as_text(figures: dict[str, Any]) -> str:
    """Return the figures as lines."""
    shares = "\n".join(
        f"  {name:<16}{size:9.1f}   (its own peak {figures['own_peak_mb'][name]:.1f})"
        for name, size in figures["at_peak_mb"].items()
    )
    rest = "  ".join(f"{name} {value}" for name, value in figures.items() if not isinstance(value, dict))
    return f"peak {figures['peak_mb']:.1f} MB after {figures['at_s']:.1f} s\n{shares}\n{rest}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
