"""TIFF and BMP pictures as members: the same samples come back in the same places, and nothing else is touched."""

from __future__ import annotations

import contextlib
import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from dedupfs.errors import IngestError, IntegrityError, UnfitPictureError
from dedupfs.ingest import bmp_coding, jobs, tiff_coding
from dedupfs.ingest.decode import decode
from dedupfs.ingest.jobs import Fit, Misfit
from dedupfs.ingest.tiff_coding import TiffCoding
from dedupfs.model import Policy
from tests.ingest.drawing import edited, encoded, photo

ORIGINAL = encoded(photo(4, (240, 180)), quality=92)
PIXELS = decode(ORIGINAL).image
GREY = encoded(photo(4, (240, 180)).convert("L"), quality=92)
PREDICTED = TiffImagePlugin.ImageFileDirectory_v2()
PREDICTED[317] = 2
STRIPS = TiffImagePlugin.ImageFileDirectory_v2()
STRIPS[278] = 16
STRIPS[270] = "a description"


def fitted(member: bytes, original: bytes = ORIGINAL) -> Fit:
    found = jobs.fit(member, original, Policy.VERIFIED)
    assert isinstance(found, Fit), found
    rendered = jobs.render(original, found.recipe, found.own, len(member))
    assert (rendered == member) is found.bit_exact
    return found


def top_first(data: bytes) -> bytes:
    """Return a BMP with its rows in the other order, which a negative height says."""
    header = bmp_coding.read_header(data)
    rows = [data[at : at + header.row_bytes] for at in range(header.start, header.end, header.row_bytes)]
    height = struct.pack("<i", -header.height_px)
    return data[:22] + height + data[26 : header.start] + b"".join(reversed(rows)) + data[header.end :]


@pytest.mark.parametrize(
    "member",
    [
        encoded(PIXELS, "BMP"),
        top_first(encoded(PIXELS, "BMP")) + b"behind the rows",
        encoded(PIXELS, "TIFF"),
        encoded(PIXELS, "TIFF", tiffinfo=STRIPS) + b"behind the strips",
        encoded(PIXELS, "TIFF", compression="tiff_lzw", tiffinfo=PREDICTED),
        encoded(PIXELS, "TIFF", compression="tiff_adobe_deflate", tiffinfo=STRIPS),
        encoded(PIXELS, "TIFF", compression="packbits"),
        encoded(PIXELS.resize((120, 90), Image.Resampling.LANCZOS), "TIFF"),
    ],
    ids=["bmp", "bmp-down", "tiff", "strips", "lzw", "deflate", "packbits", "half"],
)
def test_copies_come_back_bit_for_bit(member: bytes) -> None:
    assert fitted(member).bit_exact


def test_grey_pictures() -> None:
    grey = decode(GREY).image
    for member in (encoded(grey, "BMP"), encoded(grey, "TIFF"), encoded(grey, "TIFF", compression="tiff_lzw")):
        assert fitted(member, GREY).bit_exact
        assert isinstance(jobs.fit(member, ORIGINAL, Policy.VERIFIED), Misfit)


@pytest.mark.parametrize("picture_format", ["BMP", "TIFF"])
def test_edits_are_not_copies(picture_format: str) -> None:
    spotted = PIXELS.copy()
    spotted.paste((255, 0, 0), (40, 40, 44, 44))
    for change in (edited(PIXELS, (1.02, 1.02, 1.02)), spotted):
        assert isinstance(jobs.fit(encoded(change, picture_format), ORIGINAL, Policy.VERIFIED), Misfit)


def test_what_is_not_understood_stays_exact() -> None:
    deep = Image.fromarray(np.arange(240 * 180, dtype=np.uint16).reshape(180, 240))
    ink = PIXELS.convert("CMYK")
    pages = io.BytesIO()
    PIXELS.save(pages, "TIFF", save_all=True, append_images=[PIXELS.transpose(Image.Transpose.ROTATE_180)])
    lossy = encoded(PIXELS, "TIFF", compression="jpeg")
    two_tone = encoded(PIXELS.convert("1"), "TIFF", compression="group4")
    for member in (encoded(deep, "TIFF"), encoded(ink, "TIFF"), pages.getvalue(), lossy, two_tone):
        assert isinstance(jobs.fit(member, ORIGINAL, Policy.VERIFIED), Misfit)
    with pytest.raises(UnfitPictureError):
        tiff_coding.target_of(lossy, "RGB")


def test_strips_that_overlap_are_refused() -> None:
    target = tiff_coding.target_of(encoded(PIXELS, "TIFF", tiffinfo=STRIPS), "RGB")
    shell, table = target.sections
    amiss = table[:16] + table[:16] + table[32:]
    with pytest.raises(IntegrityError):
        tiff_coding.write(PIXELS, target.coding.to_bytes(), (shell, amiss), target.size_bytes)
    with pytest.raises(IntegrityError):
        TiffCoding.from_bytes(b"\xff" * 8)


@settings(max_examples=200)
@given(st.data(), st.sampled_from(["BMP", "TIFF"]))
def test_damaged_files_end_in_our_errors(data: st.DataObject, picture_format: str) -> None:
    small = PIXELS.resize((20, 10))
    damaged = bytearray(encoded(small, picture_format, **({"tiffinfo": STRIPS} if picture_format == "TIFF" else {})))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    with contextlib.suppress(IngestError):
        if picture_format == "BMP":
            bmp_coding.target_of(cut, "RGB")
        else:
            tiff_coding.target_of(cut, "RGB")
