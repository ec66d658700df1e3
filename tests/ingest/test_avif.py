"""AVIF pictures as members: read to the quantizer, re-labelled, filled up, and put back into their own container."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dedupfs.errors import IngestError, IntegrityError, UnfitPictureError
from dedupfs.ingest import av1, avif, avif_coding, jobs
from dedupfs.ingest.avif_coding import AvifCoding
from dedupfs.ingest.decode import decode
from dedupfs.ingest.jobs import Fit, Misfit
from dedupfs.model import Policy
from tests.ingest.drawing import edited, encoded, photo

ORIGINAL = encoded(photo(3, (240, 184)), quality=95)
PIXELS = decode(ORIGINAL).image
EXIF = Image.Exif()
EXIF[0x010F] = "a camera"
PLAIN = encoded(PIXELS, "AVIF", quality=75)
TAGGED = encoded(PIXELS, "AVIF", quality=70, exif=EXIF, xmp=b"<x:xmpmeta/>", icc_profile=b"") + b"trailer"


def fitted(member: bytes) -> Fit:
    """Return the Fit, after checking that it renders to a file of the same size, twice the same."""
    found = jobs.fit(member, ORIGINAL, Policy.VERIFIED)
    assert isinstance(found, Fit), found
    rendered = jobs.render(ORIGINAL, found.recipe, found.own, len(member))
    assert len(rendered) == len(member)
    assert (rendered == member) is found.bit_exact
    assert rendered == jobs.render(ORIGINAL, found.recipe, found.own, len(member))
    return found


@pytest.mark.parametrize(
    "member",
    [
        PLAIN,
        TAGGED,
        encoded(PIXELS, "AVIF", quality=60, subsampling="4:4:4"),
        encoded(PIXELS, "AVIF", quality=80, subsampling="4:2:2", range="limited"),
    ],
    ids=["plain", "tagged", "444", "422"],
)
def test_copies_by_pillow_come_back_bit_for_bit(member: bytes) -> None:
    assert fitted(member).bit_exact


def test_a_smaller_copy() -> None:
    found = fitted(encoded(PIXELS.resize((150, 115), Image.Resampling.LANCZOS), "AVIF", quality=75))
    assert found.differences.fine_luma < 8


def test_both_speeds_are_tried_with_the_tuning_of_the_member() -> None:
    target = avif_coding.target_of(PLAIN)
    tried = [AvifCoding.from_bytes(coding) for coding, _ in avif_coding.fitted(PIXELS, decode(PLAIN).image, target)]
    assert {each.speed for each in tried} == {6, 8}
    assert not any(each.plain for each in tried)


def with_matrix(data: bytes, matrix: int) -> bytes:
    """Return a file whose colours are said to be of another matrix, in its container and its sequence header."""
    parts = avif.split(data)
    units = av1.units_of(parts.coded)
    sequence = next(unit for unit in units if unit.kind == av1.SEQUENCE)
    payload = parts.coded[sequence.body : sequence.end]
    old = f"{1:08b}{13:08b}{6:08b}"
    bits = "".join(f"{byte:08b}" for byte in payload).replace(old, f"{1:08b}{13:08b}{matrix:08b}", 1)
    changed = int(bits, 2).to_bytes(len(payload), "big")
    before = parts.before.replace(b"nclx\x00\x01\x00\x0d\x00\x06", b"nclx\x00\x01\x00\x0d\x00" + bytes([matrix]))
    assert before != parts.before
    assert changed != payload
    return before + parts.coded.replace(payload, changed, 1) + parts.after


def test_another_matrix_is_made_up_for() -> None:
    """Pillow codes with the matrix of BT.601 only; a file of another tool may have that of BT.2020."""
    coding = AvifCoding(75, 6, 0, 9, True, True, False, True)
    sequence = next(unit for unit in av1.units_of(avif.split(PLAIN).coded) if unit.kind == av1.SEQUENCE)
    like = avif.split(PLAIN).coded[sequence.body : sequence.end]
    coded = avif_coding.encode(PIXELS, coding, like)
    parts = avif.split(PLAIN)
    # As long as the item that it replaces, so that the container stays true.
    padding = av1.make_padding(len(parts.coded) - len(coded)) if len(coded) <= len(parts.coded) else None
    if padding is None:
        coded = avif_coding.encode(PIXELS, AvifCoding(70, 6, 0, 9, True, True, False, True), like)
        padding = av1.make_padding(len(parts.coded) - len(coded))
    assert padding is not None
    mislabelled = parts.before + coded + padding + parts.after
    member = with_matrix(mislabelled, 9)
    mean = np.asarray(decode(member).image, np.float32).mean((0, 1)) - np.asarray(PIXELS, np.float32).mean((0, 1))
    assert np.abs(mean).max() < 1.5
    found = fitted(member)
    assert found.differences.coarse_chroma < 2
    assert isinstance(jobs.fit(mislabelled, ORIGINAL, Policy.VERIFIED), Misfit)


@pytest.mark.parametrize("quality", [80, 50])
def test_edits_are_not_copies(quality: int) -> None:
    for change in (edited(PIXELS, (1.06, 1.06, 1.06)), edited(PIXELS, (1.05, 1.0, 0.95))):
        assert isinstance(jobs.fit(encoded(change, "AVIF", quality=quality), ORIGINAL, Policy.VERIFIED), Misfit)
    shifted = Image.fromarray(np.roll(np.asarray(PIXELS), 1, axis=1))
    assert isinstance(jobs.fit(encoded(shifted, "AVIF", quality=quality), ORIGINAL, Policy.VERIFIED), Misfit)


def test_more_than_a_plain_picture_is_not_rendered() -> None:
    transparent = PIXELS.copy()
    transparent.putalpha(Image.linear_gradient("L").resize(PIXELS.size))
    with pytest.raises(UnfitPictureError):
        avif.split(encoded(transparent, "AVIF"))
    animated = io.BytesIO()
    PIXELS.save(animated, "AVIF", save_all=True, append_images=[PIXELS.transpose(Image.Transpose.ROTATE_180)])
    with pytest.raises(UnfitPictureError):
        avif.split(animated.getvalue())


def test_what_lies_around_the_picture_is_its_own() -> None:
    found = fitted(TAGGED)
    rendered = jobs.render(ORIGINAL, found.recipe, found.own, len(TAGGED))
    assert rendered.endswith(b"trailer")
    with Image.open(io.BytesIO(rendered)) as image:
        assert image.getexif()[0x010F] == "a camera"
        assert image.info["xmp"] == b"<x:xmpmeta/>"


@given(st.integers(min_value=0, max_value=70_000))
def test_padding_fills_any_gap_but_one_byte(size_bytes: int) -> None:
    padding = av1.make_padding(size_bytes)
    if size_bytes == 1:
        assert padding is None
    else:
        assert padding is not None
        assert len(padding) == size_bytes
        assert len(av1.units_of(padding)) == (size_bytes > 0)


def test_quantizer_and_colours_are_read() -> None:
    coarse, fine = (av1.read_stream(avif.split(encoded(PIXELS, "AVIF", quality=q)).coded) for q in (40, 90))
    assert coarse.quantizer > fine.quantizer > 0
    assert av1.visible_step(coarse.quantizer) > av1.visible_step(fine.quantizer) > 0
    assert fine.colours.description == (1, 13, 6)
    assert fine.colours.subsampling == (1, 1)


def test_settings_survive_and_others_are_refused() -> None:
    coding = AvifCoding(63, 8, 2, 9, False, True, True, True)
    assert AvifCoding.from_bytes(coding.to_bytes()) == coding
    for record in (b"", coding.to_bytes() + b"\x00", b"\xff" * 5):
        with pytest.raises(IntegrityError):
            AvifCoding.from_bytes(record)


@settings(max_examples=300)
@given(st.data())
def test_damaged_files_end_in_our_errors(data: st.DataObject) -> None:
    damaged = bytearray(TAGGED)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, min(700, len(damaged) - 1)))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    with contextlib.suppress(IngestError):
        avif_coding.target_of(bytes(damaged[:cut]))
    avif.image_span(bytes(damaged))
