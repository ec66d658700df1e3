"""Measure what each stage of deduplication costs of one core.

`scripts/bench stages FOLDER`: takes JPEGs of a folder, makes versions of each, and runs in this process what a worker
does with them: looking at a picture, and comparing it with a version. Processor seconds, so that other work on the
machine counts little; medians over the pictures.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image, ImageDraw
from trees import files_below

from dedupfs.ingest import jobs, worker  # noqa: F401  What a worker loads before its first job.
from dedupfs.ingest.decode import decode
from dedupfs.ingest.outcome import Fit
from dedupfs.model import Policy

_ROUNDS = 2
"""Each is done so often and the last one counts: the first loads code, and finds out what works."""


def main(words: list[str]) -> int:
    """Run the measurement."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench stages", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="JPEGs; only read")
    parser.add_argument("--pictures", type=int, default=12, help="how many to take (default: 12)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(words)
    figures: dict[str, list[float]] = {}
    for number, data in enumerate(jpegs(options.folder, options.pictures)):
        print(f"\r\x1b[K{number + 1} of {options.pictures}", end="", file=sys.stderr, flush=True)
        for what, seconds in stages(data):
            figures.setdefault(what, []).append(seconds)
    print("\r\x1b[K", end="", file=sys.stderr)
    medians = {what: 1e3 * statistics.median(found) for what, found in figures.items()}
    print(json.dumps(medians, indent=2) if options.json else as_text(medians))
    return 0


def jpegs(folder: Path, limit: int) -> Iterator[bytes]:
    """Yield the first JPEGs of a folder."""
    for path in files_below(folder):
        data = (folder / path).read_bytes()
        if data.startswith(b"\xff\xd8\xff"):
            yield data
            limit -= 1
            if not limit:
                return


def stages(data: bytes) -> Iterator[tuple[str, float]]:
    """Yield what was done with one picture, and how many seconds of a core it took."""
    yield "look at it", seconds_of(lambda: jobs.inspect(data))
    yield "  of which: decode a draft of its luma", seconds_of(lambda: decode(data, (256, 256), luma=True))
    yield "decode it", seconds_of(lambda: decode(data))
    for name, version in versions(decode(data).image):
        compare = functools.partial(jobs.fit, version, data, Policy.VERIFIED)
        outcome = compare()
        found = ("the same bytes" if outcome.bit_exact else "alike") if isinstance(outcome, Fit) else "not alike"
        yield f"compare with {name}: {found}", seconds_of(compare)


def versions(image: Image.Image) -> Iterator[tuple[str, bytes]]:
    """Yield versions of a picture, and an edit."""
    half_px = (image.width // 2, image.height // 2)
    yield "a copy at quality 70", saved(image, quality=70)
    yield "a progressive copy at quality 75", saved(image, quality=75, progressive=True)
    yield "a copy of half the size", saved(image.resize(half_px, Image.Resampling.LANCZOS), quality=85)
    twice = decode(saved(image, quality=92)).image
    yield "a copy of a copy", saved(twice, quality=75)
    yield "a copy of a copy of half the size", saved(twice.resize(half_px, Image.Resampling.BICUBIC), quality=80)
    edited = image.copy()
    side_px = image.width // 20
    ImageDraw.Draw(edited).rectangle((side_px, side_px, 3 * side_px, 2 * side_px), fill="white")
    yield "an edit at quality 70", saved(edited, quality=70)


def saved(image: Image.Image, **settings: int) -> bytes:
    """Return the picture as a JPEG."""
    out = io.BytesIO()
    image.save(out, "JPEG", **settings)
    return out.getvalue()


def seconds_of(work: Callable[[], object]) -> float:
    """Return the processor seconds of something, once it is warm."""
    for _ in range(_ROUNDS):
        started = time.process_time()
        work()
    return time.process_time() - started


def as_text(medians: dict[str, float]) -> str:
    """Return a line for each stage."""
    return "\n".join(f"{what:<72}{median:8.1f} ms" for what, median in medians.items())
