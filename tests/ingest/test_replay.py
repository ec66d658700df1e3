"""Replay: a copy that a common program made is known by its bytes, before anything is compared."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from dedupfs.ingest import fit as search
from dedupfs.ingest import jobs, jpeg, pillow_filters, treatment
from dedupfs.ingest.decode import Picture, decode
from dedupfs.ingest.habits import Habit, Habits
from dedupfs.ingest.jpeg_rounding import Rounding
from dedupfs.ingest.outcome import Fit
from dedupfs.ingest.recipe import Treatment
from dedupfs.ingest.replay import Replay
from dedupfs.ingest.scaling import PILLOW_FILTERS, Kernel
from dedupfs.ingest.treatment import Bases
from dedupfs.model import Policy
from tests.ingest.drawing import encoded, photo, resized

ORIGINAL = encoded(photo(21, (810, 606)), quality=93)


def opened(data: bytes = ORIGINAL) -> Image.Image:
    return Image.open(io.BytesIO(data))


def thumbnail() -> Image.Image:
    image = opened()
    image.thumbnail((170, 170))
    return image


def found(member: bytes, representative: bytes = ORIGINAL) -> Fit | None:
    replay = Replay(member, Bases(representative, Treatment()), opened(representative).size)
    return replay.quick() or replay.rest()


@pytest.mark.parametrize(
    "member",
    [
        encoded(opened(), quality=70),
        encoded(opened(), quality=88, subsampling=0),
        encoded(resized(opened(), 0.61), quality=85),
        encoded(resized(opened(), 0.5, Image.Resampling.BICUBIC), quality=85),
        encoded(resized(opened(), 1.3, Image.Resampling.BICUBIC), quality=85),
        encoded(opened().resize((300, 71), Image.Resampling.BOX), quality=85),
        encoded(opened().resize((200, 150), Image.Resampling.BICUBIC, reducing_gap=2.0), quality=85),
        encoded(thumbnail(), quality=75),
    ],
    ids=["quality", "sampling", "odd", "half", "larger", "flattened", "reduced", "thumbnail"],
)
def test_the_ways_of_pillow_come_out_to_the_last_byte(member: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object) -> object:
        raise AssertionError("what is the same to the last byte needs no comparison")

    monkeypatch.setattr(search, "_Search", never)
    fit = jobs.fit(member, ORIGINAL, Policy.VERIFIED)
    assert isinstance(fit, Fit)
    assert fit.bit_exact
    assert jobs.render(ORIGINAL, fit.recipe, fit.own, len(member)) == member
    assert fit.sketch == jobs.look(member)


def test_a_grey_picture_of_a_coloured_one_is_left_to_the_comparison() -> None:
    assert found(encoded(opened().convert("L"), quality=80)) is None
    grey = encoded(opened().convert("L"), quality=95)
    assert found(encoded(opened(grey), quality=80), grey) is not None


def test_an_edit_of_the_last_row_is_seen() -> None:
    image = opened()
    image.load()
    ImageDraw.Draw(image).point((image.width - 1, image.height - 1), fill=(255, 0, 255))
    assert found(encoded(image, quality=70)) is None


def test_a_turned_copy_is_drawn_from_the_turned_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    member = encoded(opened().transpose(Image.Transpose.ROTATE_90), quality=70, exif=exif)
    fit = jobs.fit(member, ORIGINAL, Policy.VERIFIED)
    assert isinstance(fit, Fit)
    assert jobs.render(ORIGINAL, fit.recipe, fit.own, len(member)) == member


def test_what_worked_last_is_tried_first() -> None:
    habits = Habits()
    usual = habits.ways((800, 600), (400, 300))
    assert usual[0][0].kernel is Kernel.LANCZOS
    habits.note(Habit(Kernel.BOX))
    habits.note(Habit(Kernel.FLOAT_TRIANGLE, rounding=Rounding.UPWARD))
    ways = habits.ways((800, 600), (400, 300))
    assert [(scaling.kernel, rounding) for scaling, rounding in ways[:3]] == [
        (Kernel.FLOAT_TRIANGLE, Rounding.UPWARD),
        (Kernel.BOX, Rounding.LIBRARY),
        (Kernel.LANCZOS, Rounding.LIBRARY),
    ]
    assert len(set(ways)) == len(ways) == len(usual) + 1


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_window_is_what_pillow_makes_of_the_whole(mode: str) -> None:
    random = np.random.default_rng(5)
    for _ in range(12):
        width_px, height_px, *target_px = (int(side) for side in random.integers(40, 260, 4))
        shape = (height_px, width_px) if mode == "L" else (height_px, width_px, 3)
        image = Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8))
        size_px = (target_px[0], target_px[1])
        extent_px = (width_px - float(random.random()), float(height_px))
        window = (size_px[0] // 5, size_px[1] // 4, size_px[0] * 2 // 3, size_px[1])
        for resample in PILLOW_FILTERS.values():
            whole = image.resize(size_px, resample, (0, 0, *extent_px)).crop(window).tobytes()
            made = [
                pillow_filters.resized(image, size_px, window, resample, extent_px, order).tobytes()
                for order in (False, True)
            ]
            assert whole in made


def test_fill_bytes_before_the_scan_do_not_hide_its_code() -> None:
    coded = jpeg.split(ORIGINAL).coded
    at = coded.index(b"\xff\xda")
    assert jpeg.first_scan(coded[:at] + b"\xff\xff" + coded[at:]) == jpeg.first_scan(coded)
    assert jpeg.first_scan(coded)[-20:] == coded[-22:-2]


def test_ways_of_copying_are_given_up_on_the_upper_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another picture nothing but these is decoded; some filters need all of it, and are left for later."""
    tall = encoded(photo(22, (400, 2000)), quality=93)
    decoded: list[int] = []

    def counted(data: bytes, draft_px: tuple[int, int] | None = None) -> Picture:
        picture = decode(data, draft_px)
        decoded.append(picture.image.height)
        return picture

    monkeypatch.setattr(treatment, "decode", counted)
    stranger = encoded(photo(23, (400, 2000)), quality=80)
    assert Replay(stranger, Bases(tall, Treatment()), (400, 2000)).quick() is None
    assert decoded == [256]
    sampled = encoded(opened(tall).resize((150, 750), Image.Resampling.NEAREST), quality=80)
    replay = Replay(sampled, Bases(tall, Treatment()), (400, 2000))
    assert replay.quick() is None
    assert replay.rest() is not None


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_upper_rows_are_those_of_the_picture(mode: str, subsampling: int) -> None:
    data = encoded(photo(24, (333, 517)).convert(mode), quality=85, subsampling=subsampling)
    rows = jpeg.upper_rows(data, 128)
    assert rows is not None
    upper = decode(rows).image
    assert upper.size == (333, 128)
    assert upper.crop((0, 0, 333, 120)).tobytes() == decode(data).image.crop((0, 0, 333, 120)).tobytes()


def test_upper_rows_of_a_progressive_picture_do_not_come_alone() -> None:
    assert jpeg.upper_rows(encoded(opened(), quality=85, progressive=True), 128) is None
    coarse = encoded(opened(encoded(opened(), quality=93, progressive=True)), quality=70)
    assert found(coarse, encoded(opened(), quality=93, progressive=True)) is not None
