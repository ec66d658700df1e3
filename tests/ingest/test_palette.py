"""Pictures of 16 bits as representatives, and pictures with palettes that were made from finer ones."""

from __future__ import annotations

import hashlib
import io
import zlib

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw
from scipy.spatial import cKDTree

from dedupfs.errors import UnfitPictureError
from dedupfs.ingest import jobs, outcome, palette, png
from dedupfs.ingest.decode import decode
from dedupfs.ingest.jobs import Fit, Misfit
from dedupfs.ingest.verify import Steps
from dedupfs.model import Policy
from tests.ingest.drawing import edited, encoded, photo

COLOURFUL = photo(31, (320, 240))
ORIGINAL = Image.blend(COLOURFUL.convert("L").convert("RGB"), COLOURFUL, 0.12)
"""Few enough tones for a palette of 256 to be a good copy."""


def deep_png(samples: npt.NDArray[np.uint16], extra: bytes = b"") -> bytes:
    """Return an RGB or RGBA PNG of 16 bits a channel; Pillow writes none."""
    height_px, width_px, channels = samples.shape
    header = (
        width_px.to_bytes(4, "big") + height_px.to_bytes(4, "big") + bytes([16, 2 if channels == 3 else 6, 0, 0, 0])
    )
    rows = np.zeros((height_px, 1 + width_px * channels * 2), np.uint8)
    rows[:, 1:] = samples.astype(">u2").view(np.uint8).reshape(height_px, -1)
    body = png.make_chunk(b"IHDR", header) + extra + png.make_chunk(b"IDAT", zlib.compress(rows.tobytes(), 1))
    return png.SIGNATURE + body + png.make_chunk(b"IEND", b"")


def in_palette(image: Image.Image, dither: float) -> bytes:
    """Return the picture in its 256 best colours, each pixel the nearest to itself and noise of `dither` levels."""
    colours = np.array(image.quantize(256, kmeans=2).getpalette(), np.uint8).reshape(-1, 3)
    samples = np.asarray(image) + np.random.default_rng(1).normal(0, dither, (image.height, image.width, 3))
    indices = cKDTree(colours.astype(np.float64)).query(samples.reshape(-1, 3))[1]
    mapped = Image.fromarray(indices.astype(np.uint8).reshape(image.height, image.width))
    mapped.putpalette(colours.tobytes())
    return encoded(mapped, "PNG")


LOW_BITS = np.random.default_rng(0).integers(0, 256, (240, 320, 3))
DEEP = deep_png((np.asarray(ORIGINAL).astype(np.uint16) << 8 | LOW_BITS).astype(np.uint16))


def test_sixteen_bits_are_a_representative_and_never_a_member() -> None:
    assert decode(DEEP).image.tobytes() == ORIGINAL.tobytes()
    assert jobs.inspect(DEEP).fingerprint == jobs.inspect(encoded(ORIGINAL, "PNG")).fingerprint
    for member in (encoded(ORIGINAL, "PNG"), encoded(ORIGINAL, quality=80)):
        found = jobs.fit(member, DEEP, Policy.VERIFIED)
        assert isinstance(found, Fit)
        assert found.bit_exact
        assert jobs.render(DEEP, found.recipe, found.own, len(member)) == member
    found_reverse = jobs.fit(DEEP, encoded(ORIGINAL, "PNG"), Policy.VERIFIED)
    assert isinstance(found_reverse, Misfit)
    assert found_reverse.reason == outcome.REASON_FORMAT


def test_sixteen_bits_with_a_transparent_colour_are_unfit() -> None:
    keyed = deep_png(np.zeros((80, 80, 3), np.uint16), png.make_chunk(b"tRNS", bytes(6)))
    with pytest.raises(UnfitPictureError):
        decode(keyed)


def test_a_photo_in_256_colours_is_rendered_from_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    member = in_palette(ORIGINAL, dither=1.8)
    for base in (DEEP, encoded(ORIGINAL, "PNG")):
        found = jobs.fit(member, base, Policy.VERIFIED)
        assert isinstance(found, Fit), found
        rendered = jobs.render(base, found.recipe, found.own, len(member))
        assert len(rendered) == len(member)
        assert hashlib.sha256(rendered).digest() == found.digest
    monkeypatch.setattr(palette, "MAX_STEP", 0.0)
    assert isinstance(jobs.fit(member, DEEP, Policy.VERIFIED), Misfit)


def _lettered(text: str) -> Image.Image:
    image = ORIGINAL.copy()
    ImageDraw.Draw(image).text((200, 60), text, fill=(15, 15, 15))
    return image


@pytest.mark.parametrize("dither", [0.0, 3.0])
@pytest.mark.parametrize(
    "changed",
    [
        edited(ORIGINAL, (1.03, 1.03, 1.03)),
        edited(ORIGINAL, (1.0, 1.0, 1.0), 3.0),
        edited(ORIGINAL, (1.04, 1.0, 0.96)),
        _lettered("8"),
        Image.blend(ORIGINAL, _lettered("SAMPLE"), 0.2),
        Image.fromarray(np.roll(np.asarray(ORIGINAL), 1, axis=1)),
    ],
    ids=["brighter", "lifted", "warmer", "digit", "watermark", "shift"],
)
def test_edits_in_256_colours_are_refused(changed: Image.Image, dither: float) -> None:
    found = jobs.fit(in_palette(changed, dither), DEEP, Policy.VERIFIED)
    assert isinstance(found, Misfit), found


def test_limits_grow_only_where_the_palette_errs() -> None:
    fine = ORIGINAL.quantize(256).convert("RGB")
    assert palette.steps_of(fine, fine) == Steps(0.0, 0.0)
    assert 0.5 < palette.steps_of(ORIGINAL, fine).luma <= palette.MAX_STEP
    assert palette.steps_of(ORIGINAL, ORIGINAL.quantize(64).convert("RGB")) == Steps(0.0, 0.0)


def test_a_change_of_tone_is_not_an_error_of_the_palette() -> None:
    flat = Image.blend(ORIGINAL, Image.new("RGB", ORIGINAL.size, (128, 128, 128)), 0.5)
    lifted = edited(flat, (1.0, 1.0, 1.0), 4.0)
    assert palette.steps_of(flat, lifted).luma < 0.5


def test_sixteen_bits_with_alpha_keep_it() -> None:
    samples = np.dstack((np.asarray(ORIGINAL).astype(np.uint16) * 257, np.full((240, 320), 40000, np.uint16)))
    with Image.open(io.BytesIO(deep_png(samples))) as image:
        assert image.mode == "RGBA"
    assert decode(deep_png(samples)).image.getchannel("A").getextrema() == (156, 156)
