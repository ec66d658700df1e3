"""scripts/robustness makes what it says, and judges it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from copies import ways
from edits import EDITS, _is_seen
from PIL import Image
from robustness import measure

PHOTOS = Path(__file__).parent / "photos"


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "wren.jpg"
    with Image.open(next(iter(sorted(PHOTOS.glob("*.jpg"))))) as picture:
        picture.thumbnail((320, 320))
        picture.save(path, quality=95)
    return path


def test_every_way_has_a_name_of_its_own() -> None:
    names = [way.name for way in ways()]
    assert len(names) == len(set(names))
    assert {way.tool for way in ways()} >= {"pillow"}


def test_every_edit_is_seen_or_refused(photo: Path, tmp_path: Path) -> None:
    made = 0
    with Image.open(photo) as opened:
        before = opened.convert("RGB")
    for name, strength, make in EDITS[: len(EDITS) // 3]:
        target = tmp_path / f"{name}-{strength}.jpg"
        try:
            make(photo, target)
        except ValueError:
            continue
        made += 1
        with Image.open(target) as after:
            assert after.size != before.size or np.any(np.asarray(after.convert("RGB")) != np.asarray(before))
    assert made > 25


def test_pairs_are_judged(photo: Path, tmp_path: Path) -> None:
    pattern = "^(recompress-pillow-75|format_png-pillow-0|edit_mirror-|edit_crop-.*-5)"
    pairs = measure([photo], tmp_path, pattern)
    assert {(pair.family, pair.wanted, pair.outcome.merged) for pair in pairs} == {
        ("recompress", True, True),
        ("format png", True, True),
        ("edit mirror", False, False),
        ("edit crop", False, False),
    }


def test_an_edit_that_does_nothing_is_no_edit() -> None:
    grey = Image.new("RGB", (64, 64), (120, 120, 120))
    assert not _is_seen(grey, grey)
    spotted = grey.copy()
    spotted.paste((140, 140, 140), (10, 10, 12, 12))
    assert _is_seen(grey, spotted)
