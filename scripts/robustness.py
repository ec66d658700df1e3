"""Copy photos with other tools, edit them, and tell what would be merged: the Python part of scripts/robustness.

A quick look while the matching is worked on: each copy beside its original and nothing else, compared by the functions
that the workers of a mount run, without a mount; a thousand take minutes. The same copies and edits all in one volume,
in several orders of arrival, are measured by scripts/evaluate, which writes the report.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
import tempfile
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from copies import make_all, ways
from matching import Outcome, compare
from PIL import Image
from trees import files_below

SMALLEST_PX = 256
LARGEST_PIXELS = 3_000_000


@dataclass(frozen=True, slots=True)
class Pair:
    """One copy or edit of a picture, and what would become of it."""

    source: str
    family: str
    tool: str
    strength: float
    wanted: bool
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Task:
    """What one worker does: make the copies of a picture, or compare one with it."""

    source: Path
    folder: Path
    pattern: str


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/robustness",
        description="Copy and edit photos of a folder with the tools installed here, and tell which are recognised.",
        epilog="Ends with 1 if an edit would be merged with its original.",
    )
    parser.add_argument("folder", type=Path, help="the photos")
    parser.add_argument("--photos", type=int, default=6, metavar="N", help="how many of them, chosen by --seed (6)")
    parser.add_argument("--seed", default="1", help="which of them")
    parser.add_argument("--ways", default="", metavar="REGEX", help="only ways to copy or edit whose names match")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every pair to this file")
    options = parser.parse_args()
    if not options.folder.is_dir():
        parser.error(f"not a folder: {options.folder}")
    sources = choose(options.folder.resolve(), options.photos, options.seed)
    if not sources:
        print("scripts/robustness: no photo of a fitting size there", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="dedupfs-robustness-") as scratch:
        pairs = measure(sources, Path(scratch), options.ways)
    print_pairs(pairs)
    if options.json:
        options.json.write_text(json.dumps([asdict(pair) for pair in pairs], indent=1) + "\n")
    return 1 if any(pair.outcome.merged and not pair.wanted for pair in pairs) else 0


def choose(folder: Path, count: int, seed: str) -> list[Path]:
    """Return pictures of a middling size: of 1 pixel much is alike, of 100 megapixels each way takes minutes."""
    fitting = []
    for name in sorted(files_below(folder)):
        path = folder / name
        if path.suffix.lower() not in (".jpg", ".jpeg", ".png"):
            continue
        try:
            with Image.open(path) as picture:
                if min(picture.size) >= SMALLEST_PX and picture.width * picture.height <= LARGEST_PIXELS:
                    fitting.append(path)
        except OSError:
            continue
    return random.Random(seed).sample(fitting, min(count, len(fitting)))


def measure(sources: list[Path], folder: Path, pattern: str) -> list[Pair]:
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        tasks = [Task(source, folder / source.stem, pattern) for source in sources]
        made = [
            (task, way, path) for task, found in zip(tasks, pool.map(make, tasks), strict=True) for way, path in found
        ]
        outcomes = pool.map(judge, [(task.source, path) for task, _, path in made], chunksize=4)
        names = {way.name: way for way in ways()}
        return [
            Pair(task.source.name, names[way].family, names[way].tool, names[way].strength, names[way].wanted, outcome)
            for (task, way, _), outcome in zip(made, outcomes, strict=True)
        ]


def make(task: Task) -> list[tuple[str, Path]]:
    task.folder.mkdir(parents=True, exist_ok=True)
    chosen = [way for way in ways() if re.search(task.pattern, way.name)]
    return [(way.name, path) for way, path in make_all(task.source, task.folder, chosen)]


def judge(files: tuple[Path, Path]) -> Outcome:
    return compare(*files)


def print_pairs(pairs: list[Pair]) -> None:
    grouped: dict[tuple[str, str, float], list[Pair]] = defaultdict(list)
    for pair in pairs:
        if pair.wanted:
            grouped[pair.family, pair.tool, pair.strength].append(pair)
    print(f"{'copy':52}{'merged':>8}{'of':>5}{'exact':>7}  why not")
    for (family, tool, strength), found in grouped.items():
        merged = [pair for pair in found if pair.outcome.merged]
        exact = sum(pair.outcome.bit_exact for pair in merged)
        reasons = Counter(pair.outcome.reason for pair in found if not pair.outcome.merged)
        why = "; ".join(f"{reason} ({count})" for reason, count in reasons.items())
        print(f"{f'{family}, {tool}, {strength:g}':52}{len(merged):8}{len(found):5}{exact:7}  {why}".rstrip())
    copied = [pair for pair in pairs if pair.wanted]
    edited = [pair for pair in pairs if not pair.wanted]
    if copied:
        merged_count = sum(pair.outcome.merged for pair in copied)
        print(f"\n{merged_count} of {len(copied)} copies recognised ({merged_count / len(copied):.1%})")
    for pair in edited:
        if pair.outcome.merged:
            print(f"MERGED {pair.source}: {pair.family} {pair.strength:g}")
    print(f"{sum(pair.outcome.merged for pair in edited)} of {len(edited)} edits taken for copies")


if __name__ == "__main__":
    sys.exit(main())
