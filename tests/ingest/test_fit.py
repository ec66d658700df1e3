"""Renditions: copies are found and come back at their exact size with their own metadata, edits never."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageDraw, ImageEnhance, ImageFilter

from dedupfs.errors import OversizeError
from dedupfs.ingest import jobs, jpeg, jpeg_coding, outcome
from dedupfs.ingest.decode import INVERSE_ORIENTATION, decode, transposed
from dedupfs.ingest.jobs import Fit, Misfit
from dedupfs.model import Differences, Policy
from tests.ingest.drawing import edited, encoded, photo, resized

ORIGINAL = photo(7)
BASE = encoded(ORIGINAL, quality=95)
PIXELS = decode(BASE).image
DEEP = encoded(Image.fromarray(np.asarray(ORIGINAL.convert("L")).astype(np.uint16) * 257), "PNG")
IDENTICAL = Differences(0.0, 0.0, 0.0, 0.0, 0.0)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def fitted(member: bytes, representative: bytes = BASE) -> Fit:
    """Return the Fit, after checking that it renders to what it says, twice."""
    found = jobs.fit(member, representative, Policy.VERIFIED)
    assert isinstance(found, Fit), found
    rendered = jobs.render(representative, found.recipe, found.own, len(member))
    assert len(rendered) == len(member)
    assert hashlib.sha256(rendered).digest() == found.digest
    assert (rendered == member) is found.bit_exact
    assert rendered == jobs.render(representative, found.recipe, found.own, len(member))
    assert jobs.look(rendered) == found.sketch
    return found


def misfit(member: bytes, representative: bytes = BASE, policy: Policy = Policy.VERIFIED) -> Misfit:
    found = jobs.fit(member, representative, policy)
    assert isinstance(found, Misfit), found
    return found


@pytest.mark.parametrize(
    "member",
    [
        encoded(PIXELS, quality=75),
        encoded(PIXELS, quality=60, progressive=True),
        encoded(PIXELS, quality=85, optimize=True, subsampling=0),
        encoded(PIXELS, quality=85, subsampling=1, restart_marker_rows=1),
        encoded(PIXELS, quality=80, keep_rgb=True),
        encoded(resized(PIXELS, 0.5), quality=85),
        encoded(resized(PIXELS, 0.37, Image.Resampling.BICUBIC), quality=80),
        encoded(resized(PIXELS, 0.6, Image.Resampling.BILINEAR), quality=70),
        encoded(resized(PIXELS, 1.4, Image.Resampling.BICUBIC), quality=80),
        encoded(PIXELS, "WEBP", quality=80),
        encoded(resized(PIXELS, 0.5), "WEBP", quality=70),
        encoded(PIXELS, "WEBP", lossless=True),
        encoded(PIXELS, "PNG"),
        encoded(resized(PIXELS, 0.5), "PNG"),
        encoded(resized(PIXELS, 0.5).convert("RGBA"), "PNG"),
    ],
    ids=[
        "q75", "progressive", "optimised", "422-restart", "rgb", "half", "bicubic", "bilinear", "larger", "webp",
        "webp-half", "webp-lossless", "png", "png-half", "png-opaque",
    ],
)  # fmt: skip
def test_copies_by_pillow_come_back_bit_for_bit(member: bytes) -> None:
    found = fitted(member)
    assert found.bit_exact
    assert found.differences == IDENTICAL
    assert len(found.recipe) + len(found.own) < 300


def test_thumbnails_by_pillow_come_back_bit_for_bit() -> None:
    large = encoded(photo(8, (1600, 1200)), quality=92)
    with Image.open(io.BytesIO(large)) as image:
        image.thumbnail((300, 300))
        assert fitted(encoded(image.convert("RGB"), quality=80), large).bit_exact


@pytest.mark.parametrize("orientation", [3, 6, 8, 5])
def test_turned_copies(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = transposed(PIXELS, INVERSE_ORIENTATION[orientation])
    assert fitted(encoded(stored, quality=85, exif=exif)).bit_exact
    turned = encoded(stored, quality=95, exif=exif)
    fitted(encoded(resized(PIXELS, 0.5), quality=80), turned)


def test_greyscale_copies_of_greyscale() -> None:
    grey = ORIGINAL.convert("L")
    assert fitted(encoded(resized(decode(encoded(grey)).image, 0.5), quality=80), encoded(grey)).bit_exact
    fitted(encoded(grey, quality=80), encoded(grey.convert("RGB"), quality=95))


@pytest.mark.parametrize(
    ("picture_format", "options"),
    [("JPEG", {"quality": 80, "comment": b"a remark"}), ("WEBP", {"quality": 80}), ("PNG", {})],
)
def test_metadata_comes_back(picture_format: str, options: dict[str, Any]) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif[0x0132] = "2016:05:17 12:00:00"
    tags: dict[str, Any] = {"exif": exif.tobytes(), "icc_profile": SRGB}
    if picture_format != "PNG":
        tags["xmp"] = b"<x:xmpmeta/>" + b" " * 1000
    member = encoded(PIXELS, picture_format, **options, **tags) + b"a trailer of some other program"
    found = fitted(member)
    rendered = jobs.render(BASE, found.recipe, found.own, len(member))
    assert rendered.endswith(b"a trailer of some other program")
    with Image.open(io.BytesIO(rendered)) as ours, Image.open(io.BytesIO(member)) as theirs:
        assert ours.info == theirs.info
        assert ours.getexif() == theirs.getexif()


def test_a_smaller_encoding_is_padded_and_a_larger_one_trimmed() -> None:
    member = encoded(PIXELS, quality=80)
    loose = member[:-2] + b"\xff" * 500 + member[-2:]
    assert fitted(loose).bit_exact
    parts = jpeg.split(member)
    coding = jpeg_coding.coding_of(parts)
    for share in (1.0, 0.99, 0.95, 0.9):
        size = round(len(member) * share)
        (settings, written), *_ = jpeg_coding.fitted(PIXELS, coding, (parts.before, b"", b""), size)
        assert len(written) == size
        assert (jpeg_coding.JpegCoding.from_bytes(settings) == coding) is (share == 1.0)
        assert decode(written).image.size == PIXELS.size
    small = resized(PIXELS, 0.1)
    parts = jpeg.split(encoded(small, quality=88))
    size = len(encoded(small, quality=88, optimize=True)) - 20
    (settings, _), *_ = jpeg_coding.fitted(small, jpeg_coding.coding_of(parts), (parts.before, b"", b""), size)
    assert not jpeg_coding.JpegCoding.from_bytes(settings).progressive
    with pytest.raises(OversizeError):
        next(jpeg_coding.fitted(PIXELS, coding, (parts.before, b"", b""), len(member) // 4))


@pytest.mark.parametrize(("quality", "share", "most"), [(80, 0.25, 1), (95, 0.8, 5)], ids=["far", "small steps"])
def test_what_cannot_fit_is_not_encoded_again_and_again(
    quality: int, share: float, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = encoded(PIXELS, quality=quality)
    parts = jpeg.split(member)
    encodings: list[int] = []
    encode = jpeg_coding._encoded

    def counted(*arguments: Any) -> bytes:
        encodings.append(len(coded := encode(*arguments)))
        return coded

    monkeypatch.setattr(jpeg_coding, "_encoded", counted)
    coding = jpeg_coding.coding_of(parts)
    with pytest.raises(OversizeError):
        next(jpeg_coding.fitted(PIXELS, coding, (parts.before, b"", b""), round(len(member) * share)))
    assert len(encodings) <= most


@pytest.mark.parametrize(
    "change", [ImageFilter.MedianFilter(3), ImageFilter.GaussianBlur(2)], ids=["denoised", "blurred"]
)
def test_a_change_of_all_detail_is_seen_on_windows(change: ImageFilter.Filter, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object) -> object:
        raise AssertionError("nothing is to be encoded whole")

    random = np.random.default_rng(3)
    grain = Image.fromarray(np.clip(random.normal(128, 3, (1000, 1500, 1)).repeat(3, axis=2), 0, 255).astype(np.uint8))
    changed = grain.filter(change)
    monkeypatch.setattr(jpeg_coding, "fitted", never)
    found = misfit(encoded(changed, quality=92), encoded(grain, quality=92))
    assert found.limit == outcome.LIMIT_DETAIL
    assert found.at_a_glance


def test_profile_dropped_or_kept() -> None:
    tagged = encoded(PIXELS, quality=95, icc_profile=SRGB)
    fitted(encoded(resized(PIXELS, 0.5), quality=85), tagged)
    fitted(encoded(resized(PIXELS, 0.5), quality=85, icc_profile=SRGB))


def test_transparency_put_on_white() -> None:
    alpha = Image.linear_gradient("L").resize(ORIGINAL.size)
    clear = ORIGINAL.copy()
    clear.putalpha(alpha)
    white = Image.new("RGB", ORIGINAL.size, "white")
    white.paste(ORIGINAL, mask=alpha)
    fitted(encoded(white, quality=85), encoded(clear, "PNG"))
    half = clear.resize((240, 180), Image.Resampling.LANCZOS)
    assert fitted(encoded(half, "PNG"), encoded(clear, "PNG")).bit_exact


def test_palettes_come_back() -> None:
    flat = ORIGINAL.quantize(12).convert("RGB")
    member = encoded(flat.quantize(12), "PNG")
    fitted(member, encoded(flat, "WEBP", lossless=True))


def redrawn(text: str) -> Image.Image:
    picture = ORIGINAL.copy()
    ImageDraw.Draw(picture).rectangle((200, 100, 290, 118), fill=(240, 240, 236))
    ImageDraw.Draw(picture).text((205, 103), text, fill=(30, 30, 30))
    return picture


def retouched() -> Image.Image:
    picture = ORIGINAL.copy()
    side = 13  # 0.1 % of the area
    picture.paste(ORIGINAL.crop((60, 200, 60 + side, 200 + side)), (300, 80))
    return picture


def stamped() -> Image.Image:
    layer = ORIGINAL.copy()
    ImageDraw.Draw(layer).text((350, 330), "2016/05/17", fill=(255, 150, 0))
    return layer


EDITS = {
    "shift": Image.fromarray(np.roll(np.asarray(ORIGINAL), 1, axis=1)),
    "crop": ORIGINAL.crop((5, 4, 475, 356)).resize(ORIGINAL.size, Image.Resampling.LANCZOS),
    "crop-smaller": ORIGINAL.crop((0, 0, 470, 353)),
    "brighter": edited(ORIGINAL, (1.03, 1.03, 1.03)),
    "darker": edited(ORIGINAL, (1, 1, 1), -3),
    "contrast": ImageEnhance.Contrast(ORIGINAL).enhance(1.06),
    "saturation": ImageEnhance.Color(ORIGINAL).enhance(1.12),
    "paler": ImageEnhance.Color(ORIGINAL).enhance(0.88),
    "white-balance": edited(ORIGINAL, (1.04, 1.0, 0.96)),
    "grey": ORIGINAL.convert("L"),
    "sepia": Image.merge("RGB", [ORIGINAL.convert("L").point(lambda v, g=g: v * g) for g in (1.0, 0.9, 0.75)]),
    "blur": ORIGINAL.filter(ImageFilter.GaussianBlur(1.0)),
    "sharper": ORIGINAL.filter(ImageFilter.UnsharpMask(1.5, 100, 0)),
    "retouched": retouched(),
    "stamped": stamped(),
    "mirrored": ORIGINAL.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "other": photo(9),
}


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("options", [{"quality": 90}, {"quality": 60}], ids=["q90", "q60"])
def test_edits_never_fit(name: str, options: dict[str, Any]) -> None:
    edit = encoded(EDITS[name], **options)
    misfit(edit)
    misfit(BASE, edit)
    misfit(encoded(resized(EDITS[name], 0.7), quality=80))


@pytest.mark.parametrize("quality", [90, 70, 50])
def test_a_changed_digit_never_fits(quality: int) -> None:
    base = encoded(redrawn("Total 138.50"), quality=95)
    misfit(encoded(redrawn("Total 133.50"), quality=quality), base)
    misfit(encoded(redrawn("Total 138.60"), "WEBP", quality=quality), base)
    fitted(encoded(decode(base).image, quality=quality), base)


def test_other_transparency_never_fits() -> None:
    alpha = Image.linear_gradient("L").resize(ORIGINAL.size)
    clear = ORIGINAL.copy()
    clear.putalpha(alpha)
    other = ORIGINAL.copy()
    other.putalpha(alpha.point(lambda level: min(255, level + 3)))
    misfit(encoded(other, "PNG"), encoded(clear, "PNG"))
    misfit(encoded(clear, "PNG"), encoded(ORIGINAL, "PNG"))


def test_a_lossless_copy_is_rendered_from_its_lossy_source_and_not_the_reverse() -> None:
    lossless = encoded(PIXELS, "PNG")
    assert misfit(BASE, lossless).reason == outcome.REASON_REVERSE
    assert fitted(lossless, BASE).bit_exact


def test_only_an_exact_rendition_when_that_is_asked_for() -> None:
    coarse = encoded(PIXELS, quality=60)
    again = encoded(decode(coarse).image, quality=95)
    found = jobs.fit(again, coarse, Policy.VERIFIED, exact_only=True)
    assert isinstance(found, Fit)
    assert found.bit_exact
    assert isinstance(jobs.fit(coarse, again, Policy.VERIFIED), Fit)
    inexact = jobs.fit(coarse, again, Policy.VERIFIED, exact_only=True)
    assert isinstance(inexact, Misfit)
    assert inexact.reason == outcome.REASON_INEXACT


def test_perceptual_policy_wants_the_aspect_ratio_and_no_more() -> None:
    brighter = encoded(edited(ORIGINAL, (1.2, 1.1, 1.0)), quality=80)
    found = jobs.fit(brighter, BASE, Policy.PERCEPTUAL)
    assert isinstance(found, Fit)
    assert found.differences.coarse_luma > 5
    assert len(jobs.render(BASE, found.recipe, found.own, len(brighter))) == len(brighter)
    cropped = encoded(ORIGINAL.crop((0, 0, 480, 320)), quality=80)
    assert misfit(cropped, policy=Policy.PERCEPTUAL).reason == outcome.REASON_ASPECT


def test_reasons() -> None:
    assert misfit(DEEP).reason == outcome.REASON_FORMAT
    assert misfit(b"no picture").reason == outcome.REASON_FORMAT
    assert misfit(encoded(PIXELS, quality=80), b"no picture").reason == outcome.REASON_DECODE
    thumbnail = encoded(resized(PIXELS, 0.2), quality=50) + np.random.default_rng(1).bytes(100_000)
    assert misfit(thumbnail).reason == outcome.REASON_OWN
    assert misfit(encoded(photo(9))).reason == outcome.REASON_PIXELS
    gain_map = encoded(PIXELS, quality=80, xmp=b'<rdf hdrgm:Version="1.0"/>')
    assert misfit(gain_map).reason == outcome.REASON_FORMAT


def test_a_misfit_says_what_was_exceeded_and_by_how_much() -> None:
    stranger = misfit(encoded(photo(9)))
    assert (stranger.limit, stranger.differences) == (outcome.LIMIT_PREVIEW, None)
    assert stranger.excess > 1
    assert "at first sight" in stranger.explained()
    far_brighter = misfit(encoded(edited(PIXELS, (1.04, 1.04, 1.04)), "PNG"))
    assert (far_brighter.limit, far_brighter.differences) == (outcome.LIMIT_TILES, None)
    assert far_brighter.excess > 1.5
    assert "tone or colour" in far_brighter.explained()
    brighter = misfit(encoded(edited(PIXELS, (1.01, 1.01, 1.01)), "PNG"))
    assert brighter.limit == "broad luma"
    assert brighter.differences is not None
    assert brighter.explained() == f"differs too much in broad luma, {brighter.excess:.2f} times what is allowed"
    assert misfit(DEEP).explained() == "cannot be encoded again: pixels of mode I;16"


def test_a_misfit_says_how_many_bytes_are_missing() -> None:
    drawing = Image.new("RGB", (320, 240), (90, 120, 30))
    ImageDraw.Draw(drawing).rectangle((40, 40, 200, 180), fill=(200, 30, 10))
    grain = (np.random.default_rng(2).random((240, 320, 1)) < 0.03).astype(np.uint8)
    found = misfit(encoded(drawing, "PNG"), encoded(Image.fromarray(np.asarray(drawing) + grain), "PNG"))
    assert found.reason == outcome.REASON_SIZE
    assert 2_000 < found.missing_bytes < 20_000
    assert found.explained() == f"does not fit the written size, by {found.missing_bytes:,} bytes"


@pytest.mark.parametrize("picture_format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_broken_members_are_misfits(picture_format: str) -> None:
    member = bytearray(encoded(PIXELS, picture_format))
    random = np.random.default_rng(5)
    for _ in range(25):
        broken = member.copy()
        broken[int(random.integers(0, len(broken)))] ^= 1 << int(random.integers(0, 8))
        found = jobs.fit(bytes(broken), BASE, Policy.VERIFIED)
        if isinstance(found, Fit):
            assert len(jobs.render(BASE, found.recipe, found.own, len(broken))) == len(broken)


@pytest.mark.parametrize("quality", [95, 60])
def test_noise_that_drowns_in_texture_is_seen_where_the_picture_is_flat(quality: int) -> None:
    random = np.random.default_rng(5)
    samples = np.asarray(ORIGINAL).astype(np.float64)
    samples[120:] += random.normal(0, 25, (240, samples.shape[1], 1))
    textured = encoded(Image.fromarray(np.clip(samples, 0, 255).astype(np.uint8)), quality=95)
    pixels = decode(textured).image
    noisy = np.asarray(pixels) + random.normal(0, 4, (360, samples.shape[1], 1))
    member = encoded(Image.fromarray(np.clip(noisy + 0.5, 0, 255).astype(np.uint8)), quality=quality)
    assert misfit(member, textured).limit == "grain"
    fitted(encoded(pixels, quality=quality), textured)


def test_small_copies_are_drawn_and_small_differences_are_seen() -> None:
    small = resized(PIXELS, 0.1)
    assert min(small.size) == 36
    assert fitted(encoded(small, quality=80)).bit_exact
    fitted(encoded(resized(PIXELS, 0.1, Image.Resampling.HAMMING), "PNG"))
    # A patch of some pixels, as faint as quality 60 would let pass in a picture of another size.
    other = small.copy()
    patch = small.crop((20, 12, 26, 18))
    other.paste(patch.point(lambda level: min(255, level + 14)), (20, 12))
    assert misfit(encoded(other, quality=60)).limit
    fitted(encoded(small, quality=60))
