"""Glance: other pictures are told apart by drafts, before anything is decoded whole; copies are not."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFilter

from dedupfs.errors import MemoryShortError
from dedupfs.ingest import drafts, footprint, jobs, members, outcome
from dedupfs.ingest import fit as search
from dedupfs.ingest.decode import decode
from dedupfs.ingest.drafts import DRAFT_PX, Drafts
from dedupfs.ingest.glance import Glance, Seen, glance
from dedupfs.ingest.outcome import Misfit
from dedupfs.model import Policy
from tests.ingest.drawing import edited, encoded, photo, resized

ORIGINAL = encoded(photo(31, (1210, 906)), quality=92)
PIXELS = decode(ORIGINAL).image


def seen(data: bytes) -> Seen:
    draft = decode(data, DRAFT_PX)
    return Seen(draft, members.steps_of(data, draft.picture_format))


def told(member: bytes, representative: bytes = ORIGINAL) -> Glance:
    return glance(seen(member), seen(representative), "RGB", closely=True)


def turned(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image.transpose(Image.Transpose.ROTATE_90), quality=85, exif=exif)


EDITS = {
    "brighter": encoded(edited(PIXELS, (1.06, 1.06, 1.06)), quality=90),
    "shifted": encoded(Image.fromarray(np.roll(np.asarray(PIXELS), 2, axis=1)), quality=90),
    "cropped": encoded(PIXELS.crop((12, 9, 1198, 897)).resize(PIXELS.size, Image.Resampling.LANCZOS), quality=90),
    "brighter and smaller": encoded(resized(edited(PIXELS, (1.08, 1.08, 1.08)), 0.7), quality=85),
    "cropped and smaller": encoded(resized(PIXELS.crop((12, 9, 1198, 897)), 0.7), quality=85),
    "brighter and turned": turned(edited(PIXELS, (1.08, 1.08, 1.08))),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_turned_down_by_drafts_both_ways(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object) -> object:
        raise AssertionError("nothing is to be decoded whole")

    monkeypatch.setattr(search, "decode", never)
    for pair in ((EDITS[name], ORIGINAL), (ORIGINAL, EDITS[name])):
        found = jobs.fit(*pair, Policy.VERIFIED)
        assert isinstance(found, Misfit)
        assert found.reason == outcome.REASON_PIXELS
        assert found.limit in (outcome.LIMIT_TILES, outcome.LIMIT_PREVIEW)
        assert found.both_ways
        assert found.at_a_glance


@pytest.mark.parametrize(
    "copy",
    [
        encoded(PIXELS, quality=30),
        encoded(resized(PIXELS, 0.61, Image.Resampling.BICUBIC), quality=60),
        encoded(resized(PIXELS, 0.13), quality=80),
        encoded(resized(PIXELS, 1.3, Image.Resampling.BILINEAR), quality=80),
        encoded(PIXELS.resize((777, 581), Image.Resampling.BOX), "PNG"),
        encoded(PIXELS.convert("L"), quality=90),
        turned(PIXELS),
        turned(resized(PIXELS, 0.5)),
    ],
    ids=["coarse", "smaller", "thumbnail", "larger", "png", "grey", "turned", "turned and smaller"],
)
def test_a_copy_is_not(copy: bytes) -> None:
    base = encoded(PIXELS.convert("L"), quality=95) if decode(copy).image.mode == "L" else ORIGINAL
    for found in (told(copy, base), told(base, copy)):
        assert not found.limit
        assert found.treatment.orientation in (1, 6, 8)


def test_what_depends_on_who_is_drawn_is_not_said_of_both() -> None:
    """A profile is applied to the representative alone, and the colours of a palette are not the picture's own."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    edit = edited(PIXELS, (1.04, 1.04, 1.04))
    assert told(encoded(edit, quality=90)).both_ways
    profiled = told(encoded(edit, quality=90, icc_profile=srgb))
    assert profiled.limit
    assert not profiled.both_ways
    mapped = told(ORIGINAL, encoded(edit.quantize(256), "PNG"))
    assert mapped.limit
    assert not mapped.both_ways
    clear = edit.copy()
    clear.putalpha(Image.linear_gradient("L").resize(edit.size))
    assert not told(ORIGINAL, encoded(clear, "PNG")).both_ways


def test_without_a_comparison_of_pixels_only_the_treatment_is_told() -> None:
    edit = encoded(edited(PIXELS, (1.08, 1.08, 1.08)), quality=90)
    assert not glance(seen(edit), seen(ORIGINAL), "RGB", closely=False).limit


def test_tiles_of_a_scaled_picture_speak_for_both_where_they_are_of_the_smaller_one() -> None:
    """A spot that is too small for the cells of drafts, in a picture of another size."""
    spotted = PIXELS.copy()
    spotted.paste(edited(PIXELS.crop((300, 300, 322, 322)), (1, 1, 1), 12), (300, 300))
    edit = encoded(resized(spotted, 0.8), quality=90)
    assert not told(edit).limit
    found = jobs.fit(edit, ORIGINAL, Policy.VERIFIED)
    assert isinstance(found, Misfit)
    assert (found.limit, found.both_ways) == (outcome.LIMIT_TILES, True)


@pytest.mark.parametrize("picture_format", ["JPEG", "PNG"])
def test_a_comparison_says_what_it_will_take_once_drafts_do_not_tell(picture_format: str) -> None:
    """What is enough for drafts is not enough for whole pictures, and that is no reason to keep them apart."""
    options = {"quality": 60, "subsampling": 0} if picture_format == "JPEG" else {}
    softer = PIXELS.filter(ImageFilter.GaussianBlur(0.5))
    copy = encoded(softer, picture_format, **options)
    with footprint.allowed(footprint.of_replay(copy, ORIGINAL)), pytest.raises(MemoryShortError) as short:
        jobs.fit(copy, ORIGINAL, Policy.VERIFIED)
    assert short.value.needed_bytes == footprint.of_search(copy, ORIGINAL)
    with footprint.allowed(footprint.of_replay(EDITS["brighter"], ORIGINAL)):
        assert isinstance(jobs.fit(EDITS["brighter"], ORIGINAL, Policy.VERIFIED), Misfit)


def test_drafts_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [encoded(photo(seed, (600, 400))) for seed in range(4)]
    drawing = encoded(PIXELS, "PNG")
    made: list[bytes] = []

    def counted(data: bytes, draft_px: tuple[int, int]) -> object:
        made.append(data)
        return decode(data, draft_px)

    monkeypatch.setattr(drafts, "decode", counted)
    monkeypatch.setattr(drafts, "MAX_PIXELS", 2 * 600 * 400)
    lately = Drafts()
    for data in (*pictures[:2], *pictures[:2], pictures[2], pictures[1], pictures[0], drawing, drawing):
        assert lately.of(data).width_px in (600, 1210)
    assert made == [*pictures[:2], pictures[2], pictures[0], drawing, drawing]
