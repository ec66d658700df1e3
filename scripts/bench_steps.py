"""Measurements that are repeated while something grows: their options, their steps, and how figures are shown."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable
from contextlib import AbstractContextManager

Step = Callable[[int, int], dict[str, float]]
"""Grow from one size to the next, and return the figures there."""


Growing = AbstractContextManager[Step]


def run(
    words: list[str], command: str, description: str | None, counted: str, begin: Callable[[int, int], Growing]
) -> list[dict[str, float]]:
    """Measure at several sizes, show the figures and return them.

    Args:
        counted: what there are more and more of, the name of an option.
        begin: given the last size and a seed, prepares and cleans up.
    """
    parser = argparse.ArgumentParser(
        prog=f"scripts/bench {command}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        f"--{counted}",
        dest="size",
        metavar="N",
        type=int,
        default=1_000_000,
        help="size of the library (default: 1000000)",
    )
    parser.add_argument("--steps", type=int, default=4, help="sizes to measure at (default: 4)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(words)
    sizes = [options.size * step // options.steps for step in range(options.steps + 1)]
    found = []
    with begin(options.size, options.seed) as step:
        for done, target in itertools.pairwise(sizes):
            figures = {counted: target} | step(done, target)
            found.append(figures)
            if not options.json:
                print("  ".join(f"{name} {value}" for name, value in figures.items()), flush=True)
    if options.json:
        print(json.dumps(found, indent=2))
    return found
