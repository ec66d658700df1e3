"""The parts of scripts/evaluate judge and measure right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evaluate import Collection
from labels import Judgement, Label, Labels
from measure import compare_pictures, difference
from PIL import Image

PHOTOS = Path(__file__).parent / "photos"

LABELS = Labels(
    [
        Label("variants/s/a.jpg", "variants/s/small.jpg", "resized"),
        Label("variants/s/a.jpg", "variants/s/q50.jpg", "recompressed"),
        Label("variants/s/a.jpg", "variants/s/crop1.jpg", "crop"),
        Label("variants/s/a.jpg", "variants/s/crop2.jpg", "crop"),
    ],
    {"photos/frame1.jpg": "film", "photos/frame2.jpg": "film"},
)


@pytest.mark.parametrize(
    ("x", "y", "judgement"),
    [
        ("variants/s/small.jpg", "variants/s/a.jpg", Judgement.SAME),
        ("variants/s/a.jpg", "variants/s/crop1.jpg", Judgement.DIFFERENT),
        ("variants/s/small.jpg", "variants/s/q50.jpg", Judgement.SAME),
        ("variants/s/small.jpg", "variants/s/crop1.jpg", Judgement.DIFFERENT),
        ("variants/s/crop1.jpg", "variants/s/crop2.jpg", Judgement.UNKNOWN),
        ("variants/s/a.jpg", "variants/t/a.jpg", Judgement.DIFFERENT),
        ("photos/x.jpg", "photos/y.jpg", Judgement.DIFFERENT),
        ("photos/x.jpg", "variants/s/a.jpg", Judgement.DIFFERENT),
        ("photos/frame1.jpg", "photos/frame2.jpg", Judgement.DIFFERENT),
    ],
)
def test_pairs_are_judged_by_the_labels(x: str, y: str, judgement: Judgement) -> None:
    assert LABELS.judge(x, y) is judgement
    assert LABELS.judge(y, x) is judgement


def test_without_labels_only_near_misses_are_known() -> None:
    labels = Labels([], LABELS.near_misses)
    assert labels.judge("photos/x.jpg", "photos/y.jpg") is Judgement.UNKNOWN
    assert labels.judge("photos/frame1.jpg", "photos/frame2.jpg") is Judgement.DIFFERENT


def test_variants_come_first(tmp_path: Path) -> None:
    (tmp_path / "variants").mkdir()
    picture = Image.effect_noise((256, 256), 60)
    picture.save(tmp_path / "large.jpg", quality=95)
    picture.save(tmp_path / "q50.jpg", quality=50)
    picture.resize((128, 128)).save(tmp_path / "small.jpg")
    rows = ["a,b,relation,note", "small.jpg,large.jpg,resized,", "large.jpg,q50.jpg,recompressed,"]
    (tmp_path / "variants" / "labels.csv").write_text("\n".join(rows))
    order = Collection.read(tmp_path).in_order("variants-first")
    assert sorted(order[:2]) == ["q50.jpg", "small.jpg"]


def flat(shape: tuple[int, int] = (64, 64)) -> np.ndarray:
    return np.full((*shape, 4), 128, dtype=np.uint8)


def test_equal_pictures_do_not_differ() -> None:
    result = difference(flat(), flat())
    assert (result.fine_luma, result.fine_chroma, result.coarse_luma, result.coarse_chroma, result.alpha) == (0,) * 5
    assert result.psnr_db == float("inf")


def test_a_faint_change_everywhere_has_its_size_on_both_scales() -> None:
    brighter = flat((50, 70))  # sides that are no multiple of a tile
    brighter[..., :3] += 5
    result = difference(flat((50, 70)), brighter)
    assert result.fine_luma == pytest.approx(5, abs=1e-3)
    assert result.coarse_luma == pytest.approx(5, abs=1e-3)
    assert result.fine_chroma == pytest.approx(0, abs=1e-3)
    assert result.psnr_db == pytest.approx(34.15, abs=0.01)


def test_a_small_change_is_seen_on_the_fine_scale() -> None:
    changed = flat()
    changed[30:34, 30:34, :3] = 255
    result = difference(flat(), changed)
    assert result.fine_luma > 60
    assert result.coarse_luma < 15


def test_a_change_of_colour_or_alpha_alone_is_seen() -> None:
    redder = flat()
    redder[..., 0] += 20
    assert difference(flat(), redder).fine_chroma > 8
    clearer = flat()
    clearer[5, 5, 3] = 90
    assert difference(flat(), clearer).alpha == 38


def test_lost_metadata_is_a_problem(tmp_path: Path) -> None:
    with Image.open(PHOTOS / "budgie.jpg") as photo:
        photo.save(tmp_path / "bare.jpg", quality=95)
    comparison, problems = compare_pictures(PHOTOS / "budgie.jpg", tmp_path / "bare.jpg")
    assert comparison is not None
    assert "exif differs" in problems
    assert "icc_profile differs" in problems


def test_other_dimensions_cannot_be_compared(tmp_path: Path) -> None:
    with Image.open(PHOTOS / "cat.jpg") as photo:
        photo.resize((100, 100)).save(tmp_path / "small.jpg")
    comparison, problems = compare_pictures(PHOTOS / "cat.jpg", tmp_path / "small.jpg")
    assert comparison is None
    assert problems[0].startswith("dimensions (451, 300) became (100, 100)")
