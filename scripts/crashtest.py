"""Kill dedupfs over and over, and prove each time that nothing was lost: the Python part of scripts/crashtest."""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import crashtest_commits
import crashtest_mount
from crashtest_commits import Round

from dedupfs.model import Policy

KILL_SHARE = 10
"""With --mode both, one round in so many kills a mount; that takes about forty times as long as the others."""
WORKLOAD_STEPS = 60
_WIDTH = 30


def main() -> int:
    """Run the rounds and return the exit code."""
    options = _parse()
    kills = {"commits": 0, "kill": options.rounds, "both": max(1, options.rounds // KILL_SHARE)}[options.mode]
    sources = (
        ("commits", options.rounds - kills, commit_rounds),
        ("kill", kills, kill_rounds),
    )
    done: dict[str, int] = {}
    losses: list[dict[str, object]] = []
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="dedupfs-crashtest-", dir=options.folder))
    try:
        for mode, wanted, source in sources:
            if not wanted:
                continue
            crashes = source(folder, options.seed, options.steps, wanted)
            for number, each in enumerate(itertools.islice(crashes, wanted)):
                done[mode] = number + 1
                if each.problems:
                    losses.append({"round": each.name, "problems": each.problems})
                    _say(f"LOSS {each.name}")
                    for problem in each.problems:
                        _say(f"     {problem}")
                _show(mode, number + 1, wanted, len(losses))
    except KeyboardInterrupt:
        _say("interrupted; cleaned up")
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = round(time.monotonic() - started, 1)
    if options.json:
        print(json.dumps({"rounds": done, "seed": options.seed, "seconds": seconds, "losses": losses}, indent=2))
    else:
        counts = " and ".join(f"{count} ({mode})" for mode, count in done.items())
        print(f"{counts} rounds in {seconds} s, seed {options.seed}: {len(losses) or 'no'} losses")
    return 1 if losses else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/crashtest",
        description="Kill dedupfs at every commit of fixed workloads (below the mount), cut the power in each, and kill"
        " real mounts at random moments under load. After each crash `check --data` must be clean, everything fsynced"
        " there, every file old, new or absent as a whole, and every picture decided about.",
        epilog="Ends with 1 if anything was lost. The same seed repeats the commits exactly, the kills roughly.",
    )
    parser.add_argument("--rounds", type=int, default=1000, metavar="N", help="crashes, in all (default: %(default)s)")
    parser.add_argument("--seed", default="1", help="what the workloads follow from (default: %(default)s)")
    parser.add_argument(
        "--mode",
        choices=["commits", "kill", "both"],
        default="both",
        help=f"what to do; both: one round in {KILL_SHARE} kills a mount (default)",
    )
    parser.add_argument(
        "--steps", type=int, default=WORKLOAD_STEPS, metavar="N", help="operations of a workload (default: %(default)s)"
    )
    parser.add_argument("--folder", type=Path, help="where to make the volumes, in a folder that is removed again")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    options = parser.parse_args()
    if options.rounds < 1 or options.steps < 1:
        parser.error("there must be something to do")
    return options


def commit_rounds(folder: Path, seed: str, steps: int, wanted: int) -> Iterator[Round]:
    """Yield rounds of one workload after the other."""
    variants = itertools.product((Policy.VERIFIED, Policy.PERCEPTUAL, Policy.OFF), (True, False))
    for number, (policy, every_step) in enumerate(itertools.cycle(variants)):
        below = folder / f"workload {number}"
        below.mkdir()
        yield from crashtest_commits.rounds(below, f"{seed} {number}", policy, steps, every_step=every_step)
        shutil.rmtree(below)


def kill_rounds(folder: Path, seed: str, steps: int, wanted: int) -> Iterator[Round]:
    """Yield rounds on real mounts, under both policies that decide about pictures."""
    share = -(-wanted // 2)
    for policy in (Policy.VERIFIED, Policy.PERCEPTUAL):
        below = folder / policy.value
        below.mkdir()
        yield from crashtest_mount.rounds(below, f"{seed} {policy.value}", policy, share)


def _show(mode: str, done: int, wanted: int, losses: int) -> None:
    """Draw a bar, on a terminal only."""
    if sys.stderr.isatty():
        filled = _WIDTH * done // wanted
        bar = "#" * filled + "." * (_WIDTH - filled)
        end = "\n" if done == wanted else ""
        print(f"\r\x1b[K{mode} [{bar}] {done} of {wanted}, {losses} losses", end=end, file=sys.stderr, flush=True)


def _say(text: str) -> None:
    clear = "\r\x1b[K" if sys.stderr.isatty() else ""
    print(f"{clear}{text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
