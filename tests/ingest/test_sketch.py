"""A sketch recognises a drawing with other rounding errors and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from dedupfs.ingest.sketch import SKETCH_BYTES, alike, sketch
from tests.ingest.drawing import photo

PICTURE = photo(11)
SKETCH = sketch(PICTURE)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_every_mode_has_a_sketch_of_the_same_length(mode: str) -> None:
    assert len(sketch(PICTURE.convert(mode))) == SKETCH_BYTES


@given(seed=st.integers(0, 1000))
def test_rounding_errors_pass(seed: int) -> None:
    errors = np.random.default_rng(seed).integers(-1, 2, (PICTURE.height, PICTURE.width, 3))
    rounded = Image.fromarray(np.clip(np.asarray(PICTURE, np.int16) + errors, 0, 255).astype(np.uint8))
    assert alike(SKETCH, sketch(rounded))


@pytest.mark.parametrize(
    "other",
    [
        photo(12),
        ImageEnhance.Brightness(PICTURE).enhance(1.1),
        PICTURE.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        PICTURE.resize((PICTURE.width - 1, PICTURE.height)),
        PICTURE.convert("L"),
        Image.new("RGB", PICTURE.size),
    ],
    ids=["stranger", "brighter", "mirrored", "narrower", "grey", "black"],
)
def test_other_pictures_do_not(other: Image.Image) -> None:
    assert not alike(SKETCH, sketch(other))


@given(damaged=st.binary(max_size=300))
def test_bytes_that_are_no_sketch_do_not(damaged: bytes) -> None:
    assert not alike(SKETCH, damaged)
