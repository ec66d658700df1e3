"""Make a labelled collection of photos, copies of them by other tools and hard negatives, and judge each pair alone.

The collection is like any other with labels: `variants/NN-NAME/original.jpg` and what was made of it beside it.
"""

from __future__ import annotations

import contextlib
import csv
import random
import re
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from copies import Way, make_all, ways
from evaluate_mount import Progress
from labels import Judgement, Labels
from matching import Outcome, compare
from PIL import Image
from robustness import choose

from dedupfs.errors import IngestError
from dedupfs.ingest import jobs

_RELATIONS = (("resize", "resized"), ("thumbnail", "resized"), ("messenger", "resized"), ("format", "format"),
              ("metadata", "identical"), ("turned", "identical"), ("lossless", "identical"))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Task:
    """A picture and the names of the ways in which it is to be copied and edited; the folder is where to.

    What is made in other ways than `stored` is judged alone and removed again.
    """

    source: Path
    folder: Path
    names: tuple[str, ...]
    stored: frozenset[str]


@dataclass(frozen=True, slots=True)
class Made:
    """One copy or edit, by its path in the collection, and what becomes of it when its original is alone.

    Processor seconds: `look_seconds` to decode it for its fingerprint, `decide_seconds` for all of the decision.
    """

    original: str
    path: str
    way: Way
    outcome: Outcome
    look_seconds: float
    decide_seconds: float
    stored: bool = True


def sources(folder: Path, labels: Labels, count: int, seed: str, pattern: str = "") -> list[Path]:
    """Return photos of different pictures whose paths below the folder match the pattern.

    Where no labels tell, those are different that would not be merged. Pictures with transparency are left out: most
    ways to copy them lose it, and what they make is another picture.
    """
    chosen: list[Path] = []
    for path in choose(folder, sys.maxsize, seed):
        if len(chosen) == count:
            break
        if not re.search(pattern, path.relative_to(folder).as_posix()) or _shows_through(path):
            continue
        if not any(_is_same(folder, labels, path, other) for other in chosen):
            chosen.append(path)
    return chosen


def _shows_through(path: Path) -> bool:
    with Image.open(path) as picture:
        return picture.has_transparency_data


def _is_same(folder: Path, labels: Labels, x: Path, y: Path) -> bool:
    judgement = labels.judge(*(path.relative_to(folder).as_posix() for path in (x, y)))
    if judgement is Judgement.UNKNOWN and not labels.rows:
        return compare(x, y).merged
    return judgement is not Judgement.DIFFERENT


def deal(pictures: Sequence[Path], copies: int, edits: int, pattern: str, seed: str) -> list[tuple[str, ...]]:
    """Return for each picture the names of ways to copy and to edit it, so many of each (0: all that match).

    They are dealt like cards, so that each way is used about as often as any other.
    """
    dealt: list[list[str]] = [[] for _ in pictures]
    for wanted, count in ((True, copies), (False, edits)):
        cards = [way for way in ways() if way.wanted == wanted and re.search(pattern, way.name)]
        random.Random(seed).shuffle(cards)
        for hand, picture in zip(dealt, pictures, strict=True):
            fitting = [way for way in cards if not way.sources or picture.suffix.lower() in way.sources]
            taken = fitting[: count or len(fitting)]
            hand += [way.name for way in taken]
            cards = [way for way in cards if way not in taken] + taken
    return [tuple(hand) for hand in dealt]


def make(tasks: Sequence[Task], root: Path, pool: Executor, progress: Progress) -> list[Made]:
    """Make everything, judge each pair alone, and label what is left to be stored."""
    by_name = {way.name: way for way in ways()}
    pairs: list[tuple[Path, Path, Way]] = []
    kept: set[Path] = set()
    for done, (task, made) in enumerate(zip(tasks, pool.map(_make, tasks), strict=True)):
        original = task.folder / f"original{task.source.suffix}"
        pairs += [(original, path, by_name[name]) for name, path in made]
        kept |= {path for name, path in made if name in task.stored}
        progress(done + 1, len(tasks))
    judged = []
    outcomes = pool.map(_judge, [(original, path) for original, path, _ in pairs], chunksize=4)
    for done, ((original, path, way), found) in enumerate(zip(pairs, outcomes, strict=True)):
        name, name_of_original = (each.relative_to(root).as_posix() for each in (path, original))
        judged.append(Made(name_of_original, name, way, *found, stored=path in kept))
        if path not in kept:
            path.unlink()
        progress(done + 1, len(pairs))
    _label([pair for pair in pairs if pair[1] in kept], root)
    return judged


def _make(task: Task) -> list[tuple[str, Path]]:
    task.folder.mkdir(parents=True)
    shutil.copy2(task.source, task.folder / f"original{task.source.suffix}")
    chosen = [way for way in ways() if way.name in task.names]
    return [(way.name, path) for way, path in make_all(task.source, task.folder, chosen)]


def _judge(files: tuple[Path, Path]) -> tuple[Outcome, float, float]:
    start = time.process_time()
    with contextlib.suppress(IngestError):
        jobs.inspect(files[1].read_bytes())
    looked = time.process_time()
    outcome = compare(*files)
    return outcome, looked - start, time.process_time() - looked


def _label(pairs: Sequence[tuple[Path, Path, Way]], root: Path) -> None:
    with (root / "variants" / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("a", "b", "relation", "note"))
        for original, path, way in pairs:
            relation = next((name for start, name in _RELATIONS if way.family.startswith(start)), "recompressed")
            names = [each.relative_to(root).as_posix() for each in (original, path)]
            rows.writerow((*names, relation if way.wanted else "different-but-similar", way.name))
