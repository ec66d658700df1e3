"""Damage the database file of a volume in many ways and see that dedupfs never returns a wrong byte.

Each round damages a fresh copy of one volume, then serves it, checks it and repairs it, each in a process of its own
that may crash or hang without taking the others along. Requires: right bytes or an error for each file, an answer in
time, no unforeseen exception; that `check --data` finds what could not be read; that after `check --repair` nothing but
unreadable files is left to report, and that every file that could be read before still can.

A crash inside the database library is counted apart: it returns no wrong bytes, and the next mount starts anew.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import damage_round
from damage_kinds import KINDS
from damage_round import ERROR, Specimen

from dedupfs.errors import DedupfsError

STEP_SECONDS = 60.0
STEPS: dict[str, Callable[[Path, Specimen], dict[str, Any]]] = {
    "serve": damage_round.serve,
    "check": damage_round.examine,
    "repair": damage_round.mend,
}
BROKEN = ("wrong bytes", "unforeseen", "hang", "unnoticed", "left unmended", "lost by repair")
"""Outcomes that break a promise."""


def main() -> int:
    """Run the rounds and print a table of what came of them."""
    parser = argparse.ArgumentParser(
        prog="scripts/damagetest", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, required=True, metavar="N", help="how often to damage the volume")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="first of N seeds (default 0)")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dedupfs-damagetest-") as name:
        folder = Path(name)
        specimen = damage_round.make_specimen(folder, Path(__file__).parents[1] / "tests" / "photos")
        for seed in range(options.seed, options.seed + options.rounds):
            kind, found, told = run_round(folder, specimen, seed)
            outcomes[kind].update(found)
            for line in told:
                print(f"seed {seed}, {kind}: {line}", flush=True)
            if sys.stderr.isatty():
                print(f"\r{seed - options.seed + 1} of {options.rounds}", end="", file=sys.stderr)
    print(table(outcomes))
    print(f"{options.rounds} rounds in {time.monotonic() - started:.0f} s")
    return int(any(counts[outcome] for counts in outcomes.values() for outcome in BROKEN))


def run_round(folder: Path, specimen: Specimen, seed: int) -> tuple[str, set[str], list[str]]:
    """Damage one copy; return the kind of damage, what came of it, and what has to be looked at."""
    chance = random.Random(seed)
    kind = chance.choice(sorted(KINDS))
    damaged = bytearray((specimen.directory / "data.mdb").read_bytes())
    KINDS[kind](damaged, chance)
    answers: dict[str, dict[str, Any]] = {}
    found: set[str] = set()
    told: list[str] = []
    for step, function in STEPS.items():
        directory = Path(shutil.copytree(specimen.directory, folder / "round"))
        (directory / "data.mdb").write_bytes(damaged)
        answers[step] = apart(function, directory, specimen)
        shutil.rmtree(directory)
        outcome = answers[step].get("outcome")
        if outcome:
            found.add(outcome if outcome in BROKEN else f"{outcome} ({step})")
            if outcome in BROKEN or outcome == "crash":
                told.append(f"{step}: {answers[step]['text']}")
    judge(answers, specimen.expected, found, told)
    if not found:
        unread = [path for path, digest in answers["serve"]["found"].items() if digest == ERROR]
        found.add("some unreadable" if unread else "all readable")
    return kind, found, told


def judge(answers: Mapping[str, dict[str, Any]], expected: Mapping[str, str], found: set[str], told: list[str]) -> None:
    """Compare what was read with what was written, and the steps with each other."""
    served = answers["serve"].get("found")
    repaired = answers["repair"].get("found")
    for step, tree in (("serve", served), ("repair", repaired)):
        for path, digest in (tree or {}).items():
            right = {expected[path]} if path in expected else set(expected.values())
            if digest != ERROR and digest not in right:
                found.add("wrong bytes")
                told.append(f"{step}: wrong bytes in {path}")
    unread = {path for path in expected if served is not None and served.get(path, ERROR) == ERROR}
    if unread and answers["check"].get("problems") == 0:
        found.add("unnoticed")
        told.append(f"check finds nothing, and {sorted(unread)} cannot be read")
    if answers["repair"].get("left"):
        found.add("left unmended")
        told.append(f"left after repair: {answers['repair']['left']}")
    if served is not None and repaired is not None:
        gone = {path for path in expected if served.get(path) == expected[path] != repaired.get(path)}
        if gone:
            found.add("lost by repair")
            told.append(f"could be read before the repair and not after: {sorted(gone)}")


def apart(function: Callable[[Path, Specimen], dict[str, Any]], directory: Path, specimen: Specimen) -> dict[str, Any]:
    """Run a step in a child process and return its answer, or what became of it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _answer(function, directory, specimen, writing)
    os.close(writing)
    deadline = time.monotonic() + STEP_SECONDS
    parts: list[bytes] = []
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            part = pipe.read(1 << 16)
            if not part:
                break
            parts.append(part)
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return {"outcome": "hang", "text": f"no answer in {STEP_SECONDS:.0f} s"}
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return {"outcome": "crash", "text": signal.Signals(os.WTERMSIG(status)).name}
    answer: dict[str, Any] = json.loads(b"".join(parts))
    return answer


def _answer(
    function: Callable[[Path, Specimen], dict[str, Any]], directory: Path, specimen: Specimen, writing: int
) -> None:
    """The child's side; never returns."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    try:
        answer = function(directory, specimen)
    except DedupfsError as exc:
        answer = {"outcome": "refused", "text": str(exc)}
    except BaseException:  # noqa: BLE001  Whatever it is goes back to the parent as text.
        answer = {"outcome": "unforeseen", "text": traceback.format_exc()}
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(json.dumps(answer).encode())
    os._exit(0)


def table(outcomes: Mapping[str, Counter[str]]) -> str:
    """Return a line for each kind of damage; a round can have several outcomes."""
    names = sorted({outcome for counts in outcomes.values() for outcome in counts} | set(BROKEN))
    lines = []
    for kind, counts in outcomes.items():
        shown = ", ".join(f"{counts[name]} {name}" for name in names if counts[name])
        lines.append(f"{kind:14} {shown}")
    broken = ", ".join(f"{sum(counts[name] for counts in outcomes.values())} {name}" for name in BROKEN)
    return "\n".join([*lines, f"promises broken: {broken}"])


if __name__ == "__main__":
    sys.exit(main())
