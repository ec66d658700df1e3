"""The measurements run on little, and say what they promise to say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.ingest.drawing import encoded, photo
from tests.mounting import mark_fuse

pytestmark = mark_fuse()

BENCH = Path(__file__).parents[1] / "scripts" / "bench.py"


def measured(*arguments: str | Path) -> Any:
    done = subprocess.run([sys.executable, BENCH, *arguments, "--json"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_index_is_measured_at_every_size_and_misses_nothing() -> None:
    figures = measured("index", "--pictures", "600", "--steps", "2")
    assert [step["pictures"] for step in figures] == [300, 600]
    assert [step["missed"] for step in figures] == [0, 0]


def test_a_mount_is_measured_with_all_its_files() -> None:
    (figures,) = measured("library", "--files", "1000", "--steps", "1")
    assert figures["files"] == 1000
    assert figures["mount_s"] > 0
    assert figures["resident_mb"] > figures["anonymous_mb"] > 0


def test_the_stages_of_a_comparison_are_measured(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(encoded(photo(3), quality=93))
    figures = measured("stages", tmp_path)
    assert figures["look at it"] > 0
    assert "compare with a copy at quality 70: the same bytes" in figures
    assert "compare with an edit at quality 70: not alike" in figures
