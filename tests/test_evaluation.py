"""The parts of scripts/evaluate judge and measure right."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from copies import ways
from evaluate_collection import Collection
from evaluate_figures import figures
from evaluate_fingerprints import distances, threshold_bits
from evaluate_made import Made, Task, deal, make, sources
from evaluate_mount import expense, read_back
from evaluate_policies import Threshold, perceptual
from evaluate_report import write_report
from evaluate_result import Clusters, Result, Verdict, judge
from labels import Judgement, Label, Labels
from matching import Outcome
from measure import compare_pictures, difference, structural_similarity
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


@pytest.fixture
def labelled(tmp_path: Path) -> Collection:
    (tmp_path / "variants" / "s").mkdir(parents=True)
    picture = Image.effect_noise((256, 256), 60)
    picture.save(tmp_path / "variants/s/large.jpg", quality=95)
    picture.save(tmp_path / "variants/s/q50.jpg", quality=50)
    picture.resize((128, 128)).save(tmp_path / "variants/s/small.jpg")
    (tmp_path / "variants/s/again.jpg").write_bytes((tmp_path / "variants/s/q50.jpg").read_bytes())
    picture.rotate(90).save(tmp_path / "variants/s/edited.jpg")
    rows = [
        "variants/s/small.jpg,variants/s/large.jpg,resized,",
        "variants/s/large.jpg,variants/s/q50.jpg,recompressed,",
        "variants/s/large.jpg,variants/s/edited.jpg,rotated,turned",
    ]
    (tmp_path / "variants" / "labels.csv").write_text("\n".join(["a,b,relation,note", *rows]))
    return Collection.read(tmp_path)


def test_variants_or_originals_come_first(labelled: Collection) -> None:
    assert sorted(labelled.in_order("variants-first")[:2]) == ["variants/s/q50.jpg", "variants/s/small.jpg"]
    assert labelled.in_order("originals-first")[0] == "variants/s/large.jpg"
    assert labelled.in_order("shuffled:7") != labelled.in_order("shuffled:8")
    assert sorted(labelled.in_order("shuffled:7")) == labelled.files


def test_a_copy_of_higher_quality_is_no_original(tmp_path: Path) -> None:
    (tmp_path / "variants" / "s").mkdir(parents=True)
    Image.effect_noise((256, 256), 60).save(tmp_path / "variants" / "s" / "b.jpg", quality=60)
    with Image.open(tmp_path / "variants" / "s" / "b.jpg") as picture:
        picture.save(tmp_path / "variants" / "s" / "a.jpg", quality=95)
    rows = ["a,b,relation,note", "variants/s/b.jpg,variants/s/a.jpg,recompressed,"]
    (tmp_path / "variants" / "labels.csv").write_text("\n".join(rows))
    collection = Collection.read(tmp_path)
    assert collection.in_order("originals-first")[0] == "variants/s/b.jpg"
    assert collection.in_order("variants-first")[0] == "variants/s/a.jpg"
    assert collection.ideal_bytes() == sum(map(collection.size_bytes, ["variants/s/b.jpg", "variants/labels.csv"]))


def test_ideal_is_one_file_for_each_picture(labelled: Collection) -> None:
    sizes = {name: labelled.size_bytes(name) for name in labelled.files}
    assert labelled.unique_bytes() == sum(sizes.values()) - sizes["variants/s/again.jpg"]
    assert (
        labelled.ideal_bytes()
        == sizes["variants/s/large.jpg"] + sizes["variants/s/edited.jpg"] + sizes["variants/labels.csv"]
    )


def test_clusters_are_held_against_the_labels(labelled: Collection) -> None:
    verdict = Verdict()
    members = {
        "variants/s/edited.jpg": ["variants/s/edited.jpg", "variants/s/q50.jpg", "variants/s/again.jpg"],
        "variants/s/large.jpg": ["variants/s/large.jpg", "variants/s/small.jpg"],
    }
    judge(labelled, Clusters(members, {"variants/s/q50.jpg"}), verdict)
    assert (verdict.wanted, verdict.merged) == ({"resized": 1, "recompressed": 1}, {"resized": 1})
    assert [row.b for row in verdict.missed] == ["variants/s/q50.jpg"]
    assert verdict.rests_on == {"variants/s/q50.jpg": Judgement.DIFFERENT}
    assert [(pair.kept, pair.taken) for pair in verdict.false_merges] == [
        ("variants/s/edited.jpg", "variants/s/q50.jpg"),
    ]


def test_two_files_of_the_same_bytes_are_one_rendition(labelled: Collection) -> None:
    renditions = {"variants/s/q50.jpg", "variants/s/again.jpg", "variants/s/small.jpg"}
    result = Result(order="shuffled:1")
    read_back(labelled, labelled.folder, Clusters({}, renditions), result)
    assert (result.renditions, result.bit_exact_renditions, result.problems) == (2, 2, [])


def test_one_wrong_file_is_one_false_merge(labelled: Collection) -> None:
    verdict = Verdict()
    judge(
        labelled,
        Clusters(
            {
                "variants/s/large.jpg": [
                    "variants/s/large.jpg",
                    "variants/s/edited.jpg",
                    "variants/s/q50.jpg",
                    "variants/s/small.jpg",
                ]
            },
            set(),
        ),
        verdict,
    )
    assert [str(pair) for pair in verdict.false_merges] == [
        "variants/s/large.jpg and variants/s/edited.jpg (rotated: turned)"
    ]


def test_ways_are_dealt_evenly() -> None:
    pictures = [Path(f"{number}.jpg") for number in range(4)]
    hands = deal(pictures, 5, 2, "pillow", "1")
    cards = [name for hand in hands for name in hand]
    assert [len(hand) for hand in hands] == [7] * 4
    assert len(set(cards)) == len(cards)
    assert hands == deal(pictures, 5, 2, "pillow", "1") != deal(pictures, 5, 2, "pillow", "2")
    every = [way.name for way in ways() if "recompress-pillow" in way.name]
    assert sorted(deal(pictures[:1], 0, 0, "recompress-pillow", "1")[0]) == sorted(every)


def test_what_was_made_is_a_labelled_collection(tmp_path: Path) -> None:
    source = tmp_path / "wren.jpg"
    with Image.open(PHOTOS / "wren.jpg") as picture:
        picture.resize((300, 200)).save(source, quality=95)
    target = tmp_path / "made"
    (target / "variants").mkdir(parents=True)
    names = ("recompress-pillow-75", "recompress-pillow-50", "edit_mirror-pillow-0")
    task = Task(source, target / "variants" / "01-wren", names, frozenset(names[::2]))
    with ThreadPoolExecutor(2) as pool:
        made = make([task], target, pool, lambda done, total: None)
    assert [(each.way.family, each.outcome.merged, each.stored) for each in made] == [
        ("recompress", True, True),
        ("recompress", True, False),
        ("edit mirror", False, True),
    ]
    labels = Labels.read(target)
    assert [(row.b, row.relation) for row in labels.rows] == [
        (made[0].path, "recompressed"),
        (made[2].path, "different-but-similar"),
    ]
    assert all((target / name).exists() for row in labels.rows for name in (row.a, row.b))
    assert not (target / made[1].path).exists()


def test_two_versions_of_one_photo_are_not_both_chosen(tmp_path: Path) -> None:
    with Image.open(PHOTOS / "wren.jpg") as picture:
        large = picture.resize((480, 320))
    large.save(tmp_path / "a.jpg", quality=95)
    large.save(tmp_path / "b.jpg", quality=70)
    large.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "c.jpg")
    faded = large.convert("RGBA")
    faded.putalpha(128)
    faded.save(tmp_path / "faded.png")
    chosen = sources(tmp_path, Labels(), 4, "1")
    assert len(chosen) == 2
    assert tmp_path / "c.jpg" in chosen
    assert tmp_path / "faded.png" not in chosen
    assert sources(tmp_path, Labels(), 4, "1", "^b") == [tmp_path / "b.jpg"]


def test_the_report_tells_what_was_found(labelled: Collection, tmp_path: Path) -> None:
    way = next(way for way in ways() if way.name == "recompress-pillow-75")
    missed = Outcome(False, "pixels from the original", why_not=("copy differs too much, 1.20 times what is allowed",))
    made = [Made("variants/s/large.jpg", "variants/s/q50.jpg", way, missed, 0.1, 0.2)]
    result = Result(collection="made", order="originals-first", files=5, written_bytes=900, ideal_bytes=300)
    result.stored_bytes, result.renditions, result.bit_exact_renditions = 600, 2, 1
    result.fidelity = [{**asdict(difference(flat(), flat())), "ssim": 0.98}]
    judge(labelled, Clusters({"variants/s/edited.jpg": ["variants/s/edited.jpg", "variants/s/q50.jpg"]}, set()), result)
    hashes = {"phash 64": {"copies": [0, 2], "edits": [1, 40]}}
    found = figures(made, [result], {"made": [Threshold(bits=4)]}, hashes, {})
    write_report(found, tmp_path / "report", {"made": labelled.folder})
    text = (tmp_path / "report" / "evaluation.md").read_text()
    assert "| made | originals-first | 2 | 0 | 0.0% | 0 | 1 | 50.0% |" in text
    assert "| copy differs too much | 1 | " in text
    assert "| phash 64 | 2 of 64 | 2 | 1 of 2 |" in text
    assert "| 33.3% | 50.0% |" in text
    with Image.open(tmp_path / "report" / "false-merges" / "001.png") as sheet:
        assert sheet.size == (256 + 8 + 256, 256)
    kept = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    write_report(kept, tmp_path / "again", {"made": labelled.folder})
    assert (tmp_path / "again" / "evaluation.md").read_text() == text


def test_perceptual_merges_more_at_a_wider_threshold(labelled: Collection) -> None:
    narrow, wide = perceptual(labelled, "originals-first", (0, 200), lambda done, total: None)
    assert sum(narrow.merged.values()) <= sum(wide.merged.values()) == 2
    assert [pair.taken for pair in wide.false_merges] == ["variants/s/edited.jpg"]
    assert wide.stored_bytes < narrow.stored_bytes


def test_hashes_place_a_copy_nearer_than_a_stranger(tmp_path: Path) -> None:
    with Image.open(PHOTOS / "wren.jpg") as picture:
        picture.save(tmp_path / "q50.jpg", quality=50)
    pairs = {
        "copies": [(PHOTOS / "wren.jpg", tmp_path / "q50.jpg")],
        "strangers": [(PHOTOS / "wren.jpg", PHOTOS / "cat.jpg")],
    }
    with ThreadPoolExecutor(1) as pool:
        found = distances(pairs, pool, lambda done, total: None)
    assert set(found) >= {"phash 256", "whash 64"}
    assert all(each["copies"][0] < each["strangers"][0] for each in found.values())


def test_a_threshold_finds_nearly_all_copies() -> None:
    assert threshold_bits([1] * 99 + [30]) == 1
    assert threshold_bits([1] * 9 + [30]) == 30
    assert threshold_bits([]) == 0


def test_the_processor_time_of_a_mount_is_read(tmp_path: Path) -> None:
    (tmp_path / "mounted").write_text(f"{os.getpid()}\n")
    seconds, written = expense(tmp_path)
    assert seconds > 0
    assert written >= 0


def test_ssim_of_flat_planes_is_that_of_their_means() -> None:
    a, b = (np.full((20, 20), level, np.uint8) for level in (100, 120))
    assert structural_similarity(a, a) == pytest.approx(1)
    c1 = (0.01 * 255) ** 2
    assert structural_similarity(a, b) == pytest.approx((2 * 100 * 120 + c1) / (100**2 + 120**2 + c1))


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
