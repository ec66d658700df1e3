"""A rendition is drawn by other libraries than those that it was verified with: never too long for its size."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dedupfs.ingest import jobs, rendition, scaling, tighter
from dedupfs.ingest.outcome import Fit
from dedupfs.ingest.sketch import alike
from dedupfs.model import Policy
from tests.ingest.drawing import encoded, photo, resized

PICTURE = photo(21, (400, 300))
BASE = encoded(PICTURE, quality=93)
DECODED = Image.open(io.BytesIO(BASE)).convert("RGB")

# What is written, the share of samples that another decoder rounds otherwise, and how far the result may be.
COPIES: dict[str, tuple[str, dict[str, Any], float, int]] = {
    "JPEG": ("JPEG", {"quality": 80}, 0.5, 48),
    "progressive JPEG": ("JPEG", {"quality": 60, "progressive": True, "optimize": True}, 0.5, 64),
    "PNG": ("PNG", {}, 0.2, 3),
    "grey PNG": ("PNG", {}, 0.2, 3),
    "lossless WebP": ("WEBP", {"lossless": True}, 0.2, 3),
    "lossy WebP": ("WEBP", {"quality": 80}, 0.5, 64),
    "AVIF": ("AVIF", {"quality": 70}, 0.5, 64),
    "LZW TIFF": ("TIFF", {"compression": "tiff_lzw"}, 0.02, 4),
    "deflated TIFF": ("TIFF", {"compression": "tiff_adobe_deflate"}, 0.05, 4),
    "BMP": ("BMP", {}, 0.5, 1),
    "grey GIF": ("GIF", {}, 0.2, 3),
}


def pixels(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


@pytest.mark.parametrize("name", COPIES)
def test_other_rounding_makes_no_file_too_long(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    picture_format, options, share, limit = COPIES[name]
    base, source = BASE, DECODED
    if name.startswith("grey"):
        base = encoded(PICTURE.convert("L"), quality=93)
        source = Image.open(io.BytesIO(base))
    member = encoded(resized(source, 0.5), picture_format, **options)
    fit = jobs.fit(member, base, Policy.VERIFIED)
    assert isinstance(fit, Fit)

    def otherwise(*arguments: Any) -> Image.Image:
        made = np.asarray(scaling.scaled(*arguments)).astype(int)
        rng = np.random.default_rng(1)
        moved = made + rng.choice((-1, 1), made.shape) * (rng.random(made.shape) < share)
        return Image.fromarray(np.clip(moved, 0, 255).astype(np.uint8))

    monkeypatch.setattr(rendition, "scaled", otherwise)
    drawn = jobs.render(base, fit.recipe, fit.own, len(member))
    assert len(drawn) == len(member) and hashlib.sha256(drawn).digest() != fit.digest
    assert drawn == jobs.render(base, fit.recipe, fit.own, len(member))
    assert alike(jobs.look(drawn), fit.sketch)
    assert np.abs(pixels(drawn) - pixels(member)).max() <= limit
    assert np.abs(pixels(drawn) - pixels(member)).mean() <= 3


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_fewer_shades_keep_black_and_white_and_what_shows_through(mode: str) -> None:
    ramp = Image.frombytes("L", (256, 1), bytes(range(256)))
    image = ramp if mode == "L" else Image.merge(mode, [ramp] * len(Image.new(mode, (1, 1)).getbands()))
    for shades in tighter.SHADES:
        found = np.asarray(tighter._in_shades(image, shades)).reshape(256, -1).astype(int)
        colours = found[:, :-1] if mode.endswith("A") else found
        assert len(np.unique(colours)) == shades
        assert colours.min() == 0 and colours.max() == 255
        assert np.abs(colours - np.arange(256)[:, None]).max() <= 128 // shades + (shades < 128)
        if mode.endswith("A"):
            assert (found[:, -1] == np.arange(256)).all()
