"""GIF pictures as members: the palette and everything around the picture come back, and edits stay edits."""

from __future__ import annotations

import contextlib
import io
import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from dedupfs.errors import IngestError, IntegrityError, UnfitPictureError
from dedupfs.ingest import gif, gif_coding, jobs
from dedupfs.ingest.decode import decode
from dedupfs.ingest.jobs import Fit, Misfit
from dedupfs.model import Policy
from tests.ingest.drawing import edited, encoded, photo

COLOURFUL = photo(31, (320, 240))
FAINT = Image.blend(COLOURFUL.convert("L").convert("RGB"), COLOURFUL, 0.12)
"""Few enough tones for a palette of 256 to be a good copy."""
ORIGINAL = encoded(FAINT, "PNG")


def drawing() -> Image.Image:
    image = Image.new("RGB", (200, 150), (250, 250, 240))
    draw = ImageDraw.Draw(image)
    for at, colour in enumerate(((200, 30, 10), (10, 90, 200), (20, 20, 20), (0, 160, 60), (255, 200, 0))):
        draw.ellipse((10 + 30 * at, 15 + 20 * at, 60 + 30 * at, 55 + 20 * at), fill=colour)
    draw.text((20, 120), "Total 12.80", fill=(15, 15, 15))
    return image


DRAWING = drawing().quantize(64).convert("RGB")


def fitted(member: bytes, original: bytes) -> Fit:
    found = jobs.fit(member, original, Policy.VERIFIED)
    assert isinstance(found, Fit), found
    rendered = jobs.render(original, found.recipe, found.own, len(member))
    assert len(rendered) == len(member)
    assert (rendered == member) is found.bit_exact
    written, read = gif.split(member), gif.split(rendered)
    assert read.before == written.before
    assert read.after.endswith(written.after)
    return found


def stored(places: npt.NDArray[np.uint8], bits: int, full_at: int, sub_block_bytes: int, gap: int = 0) -> bytes:
    """Return places as a GIF with a ramp of greys, and this many bytes more than it takes."""
    height, width = places.shape
    side: bytes = width.to_bytes(2, "little") + height.to_bytes(2, "little")
    ramp = b"".join(bytes([level * 255 // ((1 << bits) - 1)] * 3) for level in range(1 << bits))
    stream = gif_coding.compressed(places.tobytes(), bits, full_at)
    room = len(stream) + -(-len(stream) // sub_block_bytes) + 1 + gap
    coded = gif.make_coded(stream, room, sub_block_bytes)
    assert coded is not None
    assert len(coded) == room
    head: bytes = b"GIF89a" + side + bytes([0x80 | (bits - 1), 0, 0]) + ramp
    return head + b"," + bytes(4) + side + b"\x00" + bytes([bits]) + coded + b";"


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_codes_read_as_what_was_written(bits: int) -> None:
    random = np.random.default_rng(bits)
    noise = random.integers(0, 1 << bits, (90, 110), dtype=np.uint8)
    stripes = (np.add.outer(np.arange(90) // 3, np.arange(110) // 5) % (1 << bits)).astype(np.uint8)
    for places, full_at in itertools.product((noise, stripes, np.zeros_like(noise)), gif_coding.FULL_AT):
        with Image.open(io.BytesIO(stored(places, bits, full_at, 255))) as image:
            levels = np.asarray(image.convert("L"))
        assert np.array_equal(levels, (places.astype(int) * 255 // ((1 << bits) - 1)).astype(np.uint8))


@pytest.mark.parametrize("gap", [*range(19), 270, 271, 272, 273, 528, 5000])
def test_any_gap_is_filled_and_nothing_shows(gap: int) -> None:
    places = np.random.default_rng(1).integers(0, 256, (40, 50), dtype=np.uint8)
    plain, filled = stored(places, 8, 4096, 255), stored(places, 8, 4096, 255, gap)
    assert len(filled) == len(plain) + gap
    assert decode(filled).image.tobytes() == decode(plain).image.tobytes()
    assert gif.split(filled).stream == gif.split(plain).stream


@pytest.mark.parametrize("interlace", [False, True])
def test_a_drawing_comes_back_bit_for_bit(interlace: bool) -> None:
    member = encoded(DRAWING, "GIF", interlace=interlace, comment=b"a remark")
    assert fitted(member, encoded(DRAWING, "PNG")).bit_exact
    with_trailer = member + b"something behind the end"
    assert fitted(with_trailer, encoded(DRAWING, "PNG")).bit_exact


@pytest.mark.parametrize("sub_block_bytes", [254, 255])
def test_other_encoders_are_repeated(sub_block_bytes: int) -> None:
    levels = np.asarray(photo(5, (240, 180)).convert("L"))
    original = encoded(Image.fromarray(levels), "PNG")
    for full_at in gif_coding.FULL_AT:
        assert fitted(stored(levels, 8, full_at, sub_block_bytes), original).bit_exact


def test_transparency_is_kept() -> None:
    cut_out = DRAWING.convert("RGBA")
    cut_out.putalpha(DRAWING.convert("L").point(lambda level: 0 if level > 240 else 255))
    member = encoded(cut_out, "GIF")
    original = encoded(decode(member).image, "PNG")
    assert decode(member).image.mode == "RGBA"
    assert fitted(member, original).bit_exact


def test_a_photo_is_rendered_from_the_original() -> None:
    member = encoded(FAINT.quantize(256, kmeans=2, dither=Image.Dither.NONE), "GIF")
    found = fitted(member, ORIGINAL)
    assert not found.bit_exact
    half = FAINT.resize((160, 120), Image.Resampling.LANCZOS)
    fitted(encoded(half.quantize(256, kmeans=2, dither=Image.Dither.NONE), "GIF"), ORIGINAL)


@pytest.mark.parametrize(
    "changed",
    [
        edited(FAINT, (1.03, 1.03, 1.03)),
        edited(FAINT, (1.04, 1.0, 0.96)),
        Image.fromarray(np.roll(np.asarray(FAINT), 1, axis=1)),
    ],
    ids=["brighter", "warmer", "shift"],
)
def test_edits_are_refused(changed: Image.Image) -> None:
    member = encoded(changed.quantize(256, kmeans=2, dither=Image.Dither.NONE), "GIF")
    assert isinstance(jobs.fit(member, ORIGINAL, Policy.VERIFIED), Misfit)


def test_a_changed_digit_is_refused() -> None:
    changed = DRAWING.copy()
    ImageDraw.Draw(changed).text((110, 120), "8", fill=(15, 15, 15))
    member = encoded(changed.quantize(64), "GIF")
    assert isinstance(jobs.fit(member, encoded(DRAWING, "PNG"), Policy.VERIFIED), Misfit)


def test_what_is_not_one_whole_picture_is_unfit() -> None:
    member = encoded(DRAWING, "GIF")
    parts = gif.split(member)
    placed = member[:6] + (400).to_bytes(2, "little") + member[8:]
    two = parts.before + parts.coded + member[len(parts.before) - 11 : len(parts.before)] + parts.coded + parts.after
    for unfit in (placed, two):
        with pytest.raises(UnfitPictureError):
            gif.split(unfit)


def test_settings_that_do_not_belong_are_refused() -> None:
    parts = gif.split(encoded(DRAWING, "GIF"))
    sections = (parts.before, parts.after)
    for coding in (b"", b"\x09\xff", b"\x00\x00"):
        with pytest.raises(IntegrityError):
            gif_coding.write(DRAWING, coding, sections, 10_000)
    with pytest.raises(IntegrityError):
        gif_coding.write(DRAWING.crop((0, 0, 20, 20)), b"\x00\xff", sections, 10_000)
    with pytest.raises(IntegrityError):
        gif_coding.write(DRAWING, b"\x00\xff", (b"GIF89a", b""), 10_000)


@settings(max_examples=200)
@given(st.data())
def test_damaged_files_end_in_our_errors(data: st.DataObject) -> None:
    damaged = bytearray(encoded(DRAWING.resize((20, 10)), "GIF"))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    with contextlib.suppress(IngestError):
        gif_coding.target_of(cut)
