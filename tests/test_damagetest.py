"""scripts/damagetest itself: its damage does what it says, and its verdict can be a bad one."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import damagetest
import pytest
from damage_kinds import KINDS, PAGE_BYTES, structure_pages
from damage_round import ERROR, Specimen

EXPECTED = {"/a": "digest of a", "/b": "digest of b"}
SOUND: dict[str, dict[str, Any]] = {
    "serve": {"found": EXPECTED},
    "check": {"problems": 0, "unreadable": []},
    "repair": {"left": [], "unreadable": [], "found": EXPECTED},
}


def page(flags: int, pages: int = 0) -> bytes:
    header = bytes(10) + flags.to_bytes(2, "little") + pages.to_bytes(4, "little")
    return header.ljust(PAGE_BYTES, b"\1")


def test_pages_of_large_values_are_told_from_the_others() -> None:
    assert structure_pages(page(8) + page(2) + page(4, 3) + page(2) + page(2) + page(1)) == [0, 1, 5]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_damage_changes_something(kind: str) -> None:
    whole = b"".join(page(2, number) for number in range(50))
    changed = 0
    for seed in range(20):
        data = bytearray(whole)
        KINDS[kind](data, random.Random(seed))
        changed += data != whole
        assert len(data) == len(whole) or kind == "cut off"
    assert changed > 15


@pytest.mark.parametrize(
    ("step", "answer", "wanted"),
    [
        ("serve", {}, set()),
        ("serve", {"found": {**EXPECTED, "/a": ERROR}}, {"unnoticed"}),
        ("serve", {"found": {**EXPECTED, "/a": "digest of b"}}, {"wrong bytes"}),
        ("repair", {"left": ["a problem"]}, {"left unmended"}),
        ("repair", {"found": {**EXPECTED, "/a": ERROR}}, {"lost by repair"}),
        ("repair", {"found": {**EXPECTED, "/lost+found/#1": "digest of a"}}, set()),
        ("repair", {"found": {**EXPECTED, "/lost+found/#1": "another"}}, {"wrong bytes"}),
    ],
)
def test_a_broken_promise_is_found(step: str, answer: dict[str, Any], wanted: set[str]) -> None:
    found: set[str] = set()
    told: list[str] = []
    damagetest.judge({**SOUND, step: SOUND[step] | answer}, EXPECTED, found, told)
    assert found == wanted
    assert len(told) == len(wanted)
    assert f"{len(wanted)} {next(iter(wanted), 'hang')}" in damagetest.table({"kind": Counter(wanted or {"hang": 0})})


def crashes(directory: Path, specimen: Specimen) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def hangs(directory: Path, specimen: Specimen) -> dict[str, Any]:
    time.sleep(60)
    return {}


def stumbles(directory: Path, specimen: Specimen) -> dict[str, Any]:
    raise LookupError("unforeseen")


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize(("step", "outcome"), [(crashes, "crash"), (hangs, "hang"), (stumbles, "unforeseen")])
def test_what_becomes_of_a_step_is_seen(
    step: Any, outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(damagetest, "STEP_SECONDS", 1.0)
    assert damagetest.apart(step, tmp_path, Specimen(tmp_path, b""))["outcome"] == outcome
