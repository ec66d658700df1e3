"""Measure dedupfs on a folder of photos and write a report: the Python part of scripts/evaluate.

Runs the stages: make copies and edits of some of the photos, judge each alone, store them and the labelled pairs of the
folder through real mounts in several orders, ask the policy `perceptual` and other fingerprints about the same files.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import evaluate_fingerprints
from evaluate_collection import ORDERS, Collection
from evaluate_figures import Figures, figures
from evaluate_fingerprints import COPIES
from evaluate_made import Made, Task, deal, make, sources
from evaluate_mount import evaluate
from evaluate_policies import perceptual
from evaluate_report import write_report
from evaluate_result import Result, mark, report
from labels import Labels
from matching import compare
from throwaway import CommandError, throwaway_volume

from dedupfs.cli.progress import Progress


def main() -> int:
    options = _parser().parse_args()
    if not options.folder.is_dir():
        _parser().error(f"not a folder: {options.folder}")
    sys.stdout.reconfigure(errors="replace", line_buffering=True)  # type: ignore[union-attr]  # file names can hold any byte
    try:
        with tempfile.TemporaryDirectory(prefix="dedupfs-evaluate-made-") as scratch:
            results = _run(options, options.folder.resolve(), options.keep or Path(scratch))
    except KeyboardInterrupt:
        print("interrupted; unmounted and cleaned up", file=sys.stderr)
        return 130
    except (CommandError, OSError) as error:
        print(f"scripts/evaluate: {error}", file=sys.stderr)
        return 1
    return 0 if all(result.good for result in results) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/evaluate",
        description="Copy and edit photos of a folder with the tools installed here, store them and what the folder's"
        " labels name in throw-away volumes in several orders of arrival, read everything back, and tell which copies"
        " are recognised, what is merged wrongly, how faithful and how small it is. The folder is only read.",
        epilog="Ends with 1 if two different pictures were merged or a file did not come back as promised.",
    )
    parser.add_argument("folder", type=Path, help="the photos; its labels are used, see scripts/labels.py")
    parser.add_argument("--pictures", type=int, default=6, metavar="N",
                        help="copy and edit so many of them (6); 0: none, only store the folder as it is")  # fmt: skip
    parser.add_argument("--choose", default="", metavar="REGEX", help="only pictures whose paths in the folder match")
    parser.add_argument("--copies", type=int, default=24, metavar="N",
                        help="copies of each, in ways dealt evenly (24); 0: every way")  # fmt: skip
    parser.add_argument("--edits", type=int, default=8, metavar="N", help="edits of each (8); 0: every one")
    parser.add_argument("--every-way", action="store_true",
                        help="judge a copy and an edit in every way, too, each alone with its original")  # fmt: skip
    parser.add_argument("--seed", default="1", help="which pictures and ways")
    parser.add_argument("--ways", default="", metavar="REGEX", help="only ways to copy or edit whose names match")
    parser.add_argument("--order", default="all", type=_order,
                        help=f"as-is, {', '.join(ORDERS)} (or another number), or all: these three")  # fmt: skip
    parser.add_argument("--made-only", action="store_true", help="leave out the labelled pairs of the folder itself")
    parser.add_argument("--thresholds", default="4,8,15,24", type=_numbers, metavar="BITS,...",
                        help="of the policy `perceptual`, for comparison (4,8,15,24; empty for none)")  # fmt: skip
    parser.add_argument("--report", type=Path, metavar="DIR",
                        help="write evaluation.md, evaluation.json and plots there; plots want matplotlib")  # fmt: skip
    parser.add_argument("--names-only", action="store_true", help="show no pictures of false merges in the report")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the copies and edits in this new folder")
    return parser


def _order(text: str) -> tuple[str, ...]:
    if text == "all":
        return ORDERS
    if text not in ("as-is", *ORDERS) and not text.startswith("shuffled:"):
        raise argparse.ArgumentTypeError(f"there is no order {text}")
    return (text,)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(",") if word)


def _run(options: argparse.Namespace, folder: Path, target: Path) -> list[Result]:
    labels = Labels.read(folder)
    made: list[Made] = []
    collections: dict[str, Collection] = {}
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        if options.pictures:
            made = _make(options, folder, labels, target, pool)
            collections["made"] = Collection.read(target)
        if not options.pictures or (labels.rows and not options.made_only):
            collections["found"] = Collection.read(folder)
        if not any(collection.files for collection in collections.values()):
            raise OSError("no photo of a fitting size there")
        distances = {}
        if options.report and made:
            with Progress("hashing") as progress:
                pairs = _pairs(made, collections)
                distances = evaluate_fingerprints.distances(pairs, pool, progress.show)
    results = []
    for name, order in itertools.product(collections, options.order):
        with throwaway_volume("evaluate") as volume, Progress(f"storing: {name}, {order}") as progress:
            results.append(evaluate(collections[name], name, order, volume, progress.show))
        report(results[-1])
    for name in collections:
        _compare_orders([result for result in results if result.collection == name])
    if options.report:
        found = _figures(options, collections, made, results, distances)
        write_report(found, options.report, None if options.names_only else _folders(collections))
    return results


def _folders(collections: dict[str, Collection]) -> dict[str, Path]:
    return {name: collection.folder for name, collection in collections.items()}


def _make(
    options: argparse.Namespace, folder: Path, labels: Labels, target: Path, pool: ProcessPoolExecutor
) -> list[Made]:
    chosen = sources(folder, labels, options.pictures, options.seed, options.choose)
    stored = deal(chosen, options.copies, options.edits, options.ways, options.seed)
    hands = deal(chosen, 0, 0, options.ways, options.seed) if options.every_way else stored
    (target / "variants").mkdir(parents=True)
    tasks = [
        Task(source, target / "variants" / f"{number:02}-{source.stem}", hand, frozenset(kept))
        for number, (source, hand, kept) in enumerate(zip(chosen, hands, stored, strict=True), 1)
    ]
    with Progress("copying, editing and comparing") as progress:
        return make(tasks, target, pool, progress.show)


def _pairs(made: Sequence[Made], collections: dict[str, Collection]) -> dict[str, list[tuple[Path, Path]]]:
    """Return the pairs whose fingerprints are compared, by what they are."""
    root = collections["made"].folder
    pairs: dict[str, list[tuple[Path, Path]]] = {COPIES: [], "edits": [], "look-alikes": [], "strangers": []}
    for each in (each for each in made if each.stored):
        pairs[COPIES if each.way.wanted else "edits"].append((root / each.original, root / each.path))
    originals = sorted({root / each.original for each in made})
    pairs["strangers"] += itertools.combinations(originals, 2)
    if "found" in collections:
        found = collections["found"]
        for row in found.labels.rows:
            pairs[COPIES if row.wanted else "look-alikes"].append((found.folder / row.a, found.folder / row.b))
        for x, y in itertools.combinations(sorted(found.labels.near_misses), 2):
            if found.labels.near_misses[x] == found.labels.near_misses[y]:
                pairs["look-alikes"].append((found.folder / x, found.folder / y))
    return pairs


def _figures(
    options: argparse.Namespace,
    collections: dict[str, Collection],
    made: Sequence[Made],
    results: Sequence[Result],
    distances: dict[str, dict[str, list[int]]],
) -> Figures:
    policies = {}
    for name, collection in collections.items():
        if options.thresholds:
            with Progress(f"perceptual: {name}") as progress:
                policies[name] = perceptual(collection, options.order[0], options.thresholds, progress.show)
    missed = {row.b: row for result in results if result.collection == "found" for row in result.missed}
    folder = collections["found"].folder if missed else Path()
    alone = {name: compare(folder / row.a, folder / row.b) for name, row in missed.items()}
    return figures(made, results, policies, distances, alone)


def _compare_orders(results: Sequence[Result]) -> None:
    """Later copies must end in the same clusters as earlier ones: a better version that comes last takes the lead."""
    by_order = {result.order: result for result in results}
    first, last = by_order.get("originals-first"), by_order.get("variants-first")
    if first and last:
        same = first.clusters == last.clusters
        print(f"\n{mark(same)} clusters: {first.clusters} originals-first, {last.clusters} variants-first")
        if not same and first.collection == "found":
            last.problems.append(f"{last.clusters} clusters, and {first.clusters} in the order originals-first")


if __name__ == "__main__":
    sys.exit(main())
