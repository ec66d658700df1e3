"""What `render` is given back from disk is read strictly, and the parts under it keep their word."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dedupfs.errors import IntegrityError
from dedupfs.ingest import jobs, kernels, sections
from dedupfs.ingest.jobs import Fit
from dedupfs.ingest.measure import measure
from dedupfs.ingest.recipe import Colour, Ground, Recipe, Treatment
from dedupfs.ingest.scaling import Kernel, Scaling, candidates, reduced, scaled
from dedupfs.ingest.verify import Steps, verify
from dedupfs.model import PictureFormat, Policy
from tests.ingest.drawing import encoded, photo, resized

PICTURE = photo(11, (320, 240))
BASE = encoded(PICTURE, quality=92)
MEMBER = encoded(resized(PICTURE, 0.5), quality=80)
RECIPE = Recipe(
    PictureFormat.WEBP,
    1000,
    700,
    "RGBA",
    Treatment(6, Ground.WHITE, Colour.TO_SRGB),
    Scaling(Kernel.FLOAT_MITCHELL, 2, (3, 2), kernels.Arithmetic(True, False, True)),
    b"coding",
)


def found() -> Fit:
    fit = jobs.fit(MEMBER, BASE, Policy.VERIFIED)
    assert isinstance(fit, Fit)
    return fit


FOUND = found()


def test_recipes_round_trip() -> None:
    assert Recipe.from_bytes(RECIPE.to_bytes()) == RECIPE
    plain = replace(RECIPE, scaling=Scaling(Kernel.SAME), coding=b"")
    assert Recipe.from_bytes(plain.to_bytes()) == plain


@given(st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_recipes_are_read_strictly(record: bytes) -> None:
    for candidate in (record, b"\x01" + record):
        with contextlib.suppress(IntegrityError):
            assert Recipe.from_bytes(candidate).to_bytes() == candidate


@given(st.lists(st.binary(max_size=300), max_size=5))
@settings(deadline=None)
def test_sections_round_trip(parts: list[bytes]) -> None:
    assert sections.unpack(sections.pack(parts), len(parts)) == tuple(parts)
    with pytest.raises(IntegrityError):
        sections.unpack(sections.pack(parts), len(parts) + 1)


@given(st.integers(0, 8 * (len(FOUND.recipe) + len(FOUND.own)) - 1))
@settings(max_examples=60, deadline=None)
def test_one_flipped_bit_never_raises_anything_else(bit: int) -> None:
    both = bytearray(FOUND.recipe + FOUND.own)
    both[bit // 8] ^= 1 << bit % 8
    recipe, own = bytes(both[: len(FOUND.recipe)]), bytes(both[len(FOUND.recipe) :])
    with contextlib.suppress(IntegrityError):
        assert len(jobs.render(BASE, recipe, own, len(MEMBER))) == len(MEMBER)


def test_wrong_arguments_are_integrity_errors() -> None:
    for size in (0, -1, 100, len(FOUND.own)):
        with pytest.raises(IntegrityError):
            jobs.render(BASE, FOUND.recipe, FOUND.own, size)
    with pytest.raises(IntegrityError):
        jobs.render(b"no picture", FOUND.recipe, FOUND.own, len(MEMBER))
    with pytest.raises(IntegrityError):
        jobs.render(BASE, b"", FOUND.own, len(MEMBER))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_flat_pictures_stay_flat(mode: str) -> None:
    flat = Image.new("RGBA", (90, 70), (200, 120, 40, 128)).convert(mode)
    for way in candidates(flat.size, (37, 31), is_jpeg=False):
        made = scaled(reduced(flat, flat.size, way.reduction), way, (37, 31))
        assert made.size == (37, 31)
        assert made.mode == mode
        assert np.abs(np.asarray(made).astype(int) - np.asarray(flat)[0, 0]).max() <= 1, way


def test_windows_are_cut_from_the_whole() -> None:
    window = (40, 32, 136, 112)
    for way in candidates(PICTURE.size, (200, 150), is_jpeg=False):
        base = reduced(PICTURE, PICTURE.size, way.reduction)
        whole = np.asarray(scaled(base, way, (200, 150)).crop(window)).astype(int)
        part = np.asarray(scaled(base, way, (200, 150), window)).astype(int)
        inner = np.abs(whole - part)[8:-8, 8:-8]
        assert inner.max() <= (1 if way.kernel < Kernel.FLOAT_AREA else 0), way


@pytest.mark.parametrize("size_px", [(64, 64), (77, 133), (16, 300)])
def test_maps_see_a_single_pixel(size_px: tuple[int, int]) -> None:
    flat = Image.new("RGB", size_px, (100, 100, 100))
    spot = flat.copy()
    spot.putpixel((size_px[0] - 1, size_px[1] - 1), (164, 164, 164))
    maps = measure(spot, flat)
    assert maps.fine_luma.shape[0] >= size_px[1] // 8
    assert 5 < maps.fine_luma.max() < 40
    assert maps.fine_luma.max() == maps.fine_luma[(size_px[1] - 1) // 8, (size_px[0] - 1) // 8]
    assert measure(flat, flat).fine_luma.max() == 0


def test_limits_grow_with_the_coarseness_of_the_member() -> None:
    rough = Image.fromarray(
        np.clip(np.asarray(PICTURE) + np.random.default_rng(2).normal(0, 3, (240, 320, 3)), 0, 255).astype(np.uint8)
    )
    strict, lenient = (verify(PICTURE, rough, Steps(step, step)) for step in (0.0, 20.0))
    assert strict.excess > lenient.excess
    assert verify(PICTURE, PICTURE, Steps(0.0, 0.0)).matches


def test_noise_of_the_representative_counts_no_more_than_the_members_own() -> None:
    assert Steps(3.0, 6.0).beside(Steps(100.0, 100.0), 1.0).luma == pytest.approx(3.0 * 2**0.5)
    assert Steps(3.0, 6.0).beside(Steps(0.0, 0.0), 1.0) == Steps(3.0, 6.0)
    assert Steps(0.0, 0.0).beside(Steps(9.0, 9.0), 1.0) == Steps(0.0, 0.0)
