"""A resized member may have detail that a coarse representative lost; one that was sharpened or blurred is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy.ndimage import gaussian_filter

from dedupfs.ingest import jobs, texture
from dedupfs.ingest.decode import decode
from dedupfs.ingest.jobs import Fit, Misfit
from dedupfs.ingest.verify import MIN_LOST_SHRINK, Steps, verify
from dedupfs.model import Policy
from tests.ingest.drawing import encoded, photo, resized

LARGE = photo(21, (1200, 900))
COARSE = encoded(LARGE, quality=60)
SMALL = resized(decode(COARSE).image, 0.75)


def _textured(strength: float) -> Image.Image:
    """Return a picture with fine texture that is independent of its structure."""
    noise = np.random.default_rng(5).normal(0, 1, (450, 600, 1))
    smooth = gaussian_filter(noise, (1, 1, 0))
    fine = noise - smooth
    samples = np.asarray(photo(22, (600, 450)).filter(ImageFilter.GaussianBlur(0.5))) + strength * fine
    return Image.fromarray(np.clip(samples + 0.5, 0, 255).astype(np.uint8))


KEPT, LOST = _textured(2.5), _textured(2.0)


def test_more_detail_passes_beside_a_coarse_larger_representative_only() -> None:
    strict, lenient = Steps(8.0, 16.0), Steps(8.0, 16.0, lost=6.0)
    assert verify(KEPT, LOST, strict).worst == "detail"
    assert not verify(KEPT, LOST, strict).matches
    assert verify(KEPT, LOST, lenient).matches
    assert not verify(LOST, KEPT, lenient).matches
    assert not verify(KEPT, LOST, Steps(8.0, 16.0, lost=1.0)).matches


def test_only_a_larger_and_coarse_representative_may_have_lost_detail() -> None:
    own, source = Steps(8.0, 16.0), Steps(6.0, 9.0)
    assert own.beside(source, 1.0).lost == 0.0
    assert own.beside(source, MIN_LOST_SHRINK).lost == pytest.approx(6.0 / MIN_LOST_SHRINK)
    assert own.beside(Steps(0.0, 0.0), 2.0).lost == 0.0


@pytest.mark.parametrize(
    "sharpened",
    [
        SMALL.filter(ImageFilter.SHARPEN),
        SMALL.filter(ImageFilter.UnsharpMask()),
        SMALL.filter(ImageFilter.UnsharpMask(1, 50, 0)),
        SMALL.filter(ImageFilter.UnsharpMask(2, 20, 0)),
        SMALL.filter(ImageFilter.GaussianBlur(0.8)),
    ],
    ids=["sharpen", "unsharp", "unsharp-1-50", "unsharp-2-20", "blur-0.8"],
)
def test_sharpened_and_blurred_members_are_refused(sharpened: Image.Image) -> None:
    found = jobs.fit(encoded(sharpened, quality=80), COARSE, Policy.VERIFIED)
    assert isinstance(found, Misfit), found
    assert isinstance(jobs.fit(encoded(SMALL, quality=80), COARSE, Policy.VERIFIED), Fit)


def test_gain_tells_sharpening_from_independent_detail() -> None:
    sharp = LOST.filter(ImageFilter.UnsharpMask(1, 50, 0))
    for reduction in (texture.MIDDLE, texture.WIDE):
        assert texture.gain(LOST, LOST, reduction) == pytest.approx(1.0)
        assert (texture.gain(sharp, LOST, reduction) or 0.0) > 1.02
        assert texture.gain(KEPT, LOST, reduction) == pytest.approx(1.0, abs=0.01)
    blank = Image.new("RGB", (600, 450), (90, 90, 90))
    assert texture.gain(blank, blank, texture.WIDE) is None


def test_strips_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    tall = photo(3, (300, 900)).resize((300, 2600))
    soft = decode(encoded(tall, quality=50)).image
    whole = texture.gain(tall, soft, texture.MIDDLE)
    monkeypatch.setattr(texture, "_STRIP_ROWS", 97)
    assert texture.gain(tall, soft, texture.MIDDLE) == pytest.approx(whole, rel=1e-5)
