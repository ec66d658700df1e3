"""The measurements of growing libraries run, on small ones, and say what they promise to say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.mounting import mark_fuse

pytestmark = mark_fuse()

BENCH = Path(__file__).parents[1] / "scripts" / "bench.py"


def measured(*arguments: str) -> list[dict[str, Any]]:
    done = subprocess.run([sys.executable, BENCH, *arguments, "--json"], capture_output=True, text=True, check=True)
    figures: list[dict[str, Any]] = json.loads(done.stdout)
    return figures


def test_the_index_is_measured_at_every_size_and_misses_nothing() -> None:
    figures = measured("index", "--pictures", "600", "--steps", "2")
    assert [step["pictures"] for step in figures] == [300, 600]
    assert [step["missed"] for step in figures] == [0, 0]


def test_a_mount_is_measured_with_all_its_files() -> None:
    (figures,) = measured("library", "--files", "1000", "--steps", "1")
    assert figures["files"] == 1000
    assert figures["mount_s"] > 0
    assert figures["resident_mb"] > figures["anonymous_mb"] > 0
