"""What lies beside, inside and behind a picture is never lost: such a file stays exact, or its rendition has it all."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin, TiffTags

from dedupfs.errors import UndecodableError, UnfitPictureError
from dedupfs.ingest import jobs, jpeg
from dedupfs.ingest.decode import decode
from dedupfs.ingest.jobs import Fit, Misfit
from dedupfs.ingest.sniff import sniff
from dedupfs.model import Policy
from tests.ingest.drawing import encoded, photo

ORIGINAL = encoded(photo(11, (320, 240)), quality=95)
PIXELS = decode(ORIGINAL).image
COPY = encoded(PIXELS, quality=75)
VIDEO = struct.pack(">I", 24) + b"ftypmp42" + bytes(12) + np.random.default_rng(3).bytes(5000)
TURNED = PIXELS.transpose(Image.Transpose.ROTATE_180)


def with_segment(data: bytes, marker: int, body: bytes) -> bytes:
    return data[:2] + bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body + data[2:]


def saved(picture_format: str, **options: object) -> bytes:
    out = io.BytesIO()
    PIXELS.save(out, picture_format, save_all=True, append_images=[TURNED], **options)
    return out.getvalue()


def deep_grey() -> Image.Image:
    return Image.fromarray(np.asarray(PIXELS.convert("L")).astype(np.uint16) * 257)


def deep_png() -> bytes:
    return encoded(deep_grey(), "PNG")


XMP_NOTE = b"http://ns.adobe.com/xap/1.0/\x00"
EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/\x00" + b"0123456789abcdef" * 60
DEPTH_MAP = b"MPF\x00II*\x00\x08\x00\x00\x00"


def raw(tag: int, kind: int, value: object) -> bytes:
    """Return a TIFF with a preview in front of sensor data, as cameras write it under many names."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[tag] = value
    tags.tagtype[tag] = kind
    return encoded(PIXELS, "TIFF", tiffinfo=tags) + np.random.default_rng(6).bytes(60_000)


STAY_EXACT = {
    "raw with a version of DNG": raw(50706, TiffTags.BYTE, b"\x01\x04\x00\x00"),
    "raw in another directory": raw(330, TiffTags.LONG, 230_400),
    "multi-picture": with_segment(COPY, 0xE2, DEPTH_MAP) + COPY,
    "gain map": with_segment(COPY, 0xE1, XMP_NOTE + b'<rdf:Description hdrgm:Version="1.0"/>') + COPY,
    "iso gain map": with_segment(COPY, 0xE2, b"urn:iso:std:iso:ts:21496:-1\x00") + COPY,
    "ink": encoded(PIXELS.convert("CMYK"), quality=80),
    "16 bits": deep_png(),
    "ink in a tiff": encoded(PIXELS.convert("CMYK"), "TIFF"),
    "16 bits in a tiff": encoded(deep_grey(), "TIFF"),
    "floating point": encoded(PIXELS.convert("F"), "TIFF"),
    "animated gif": saved("GIF"),
    "animated png": saved("PNG"),
    "animated webp": saved("WEBP"),
    "animated avif": saved("AVIF"),
    "pages": saved("TIFF"),
}


@pytest.mark.parametrize("kind", STAY_EXACT)
def test_more_than_one_plain_picture_is_never_drawn(kind: str) -> None:
    found = jobs.fit(STAY_EXACT[kind], ORIGINAL, Policy.VERIFIED)
    assert isinstance(found, Misfit)
    assert isinstance(jobs.fit(STAY_EXACT[kind], ORIGINAL, Policy.PERCEPTUAL), Misfit)


@pytest.mark.parametrize("kind", [kind for kind in STAY_EXACT if kind.startswith(("ink", "animated", "pages"))])
def test_nothing_is_drawn_from_one_either(kind: str) -> None:
    assert isinstance(jobs.fit(COPY, STAY_EXACT[kind], Policy.VERIFIED), Misfit)
    with pytest.raises((UnfitPictureError, UndecodableError)):
        jobs.inspect(STAY_EXACT[kind])


@pytest.mark.parametrize(
    "member",
    [
        COPY + VIDEO,
        with_segment(COPY, 0xE1, XMP_NOTE + b'<x GCamera:MotionPhoto="1"/>') + VIDEO,
        with_segment(COPY, 0xE1, EXTENDED_XMP),
        with_segment(COPY, 0xED, b"Photoshop 3.0\x008BIM" + bytes(40)),
        with_segment(with_segment(COPY, 0xEB, b"JP" + bytes(90)), 0xFE, b"a remark"),
        with_segment(COPY, 0xE1, b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x00\x00" + encoded(PIXELS.resize((64, 48)))),
    ],
    ids=["video", "motion photo", "extended xmp", "photoshop", "other segments", "thumbnail"],
)
def test_everything_around_the_coded_image_comes_back(member: bytes) -> None:
    found = jobs.fit(member, ORIGINAL, Policy.VERIFIED)
    assert isinstance(found, Fit), found
    rendered = jobs.render(ORIGINAL, found.recipe, found.own, len(member))
    written, read = jpeg.split(member), jpeg.split(rendered)
    assert (read.before, read.inside, read.after) == (written.before, written.inside, written.after)
    assert len(rendered) == len(member)


@pytest.mark.parametrize("picture_format", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF"])
def test_data_behind_the_end_is_never_lost(picture_format: str) -> None:
    pixels = PIXELS.convert("L").convert("RGB") if picture_format == "GIF" else PIXELS
    original = encoded(pixels, "PNG") if picture_format == "GIF" else ORIGINAL
    member = encoded(pixels, picture_format, **({"lossless": True} if picture_format == "WEBP" else {})) + VIDEO
    found = jobs.fit(member, original, Policy.VERIFIED)
    if isinstance(found, Fit):
        assert jobs.render(original, found.recipe, found.own, len(member)).endswith(VIDEO)
    else:
        # Of these a box or a chunk is taken for a part of the picture that is not known: it stays exact.
        assert picture_format == "AVIF"


def test_a_file_that_is_mostly_something_else_stays_exact() -> None:
    assert isinstance(jobs.fit(COPY + np.random.default_rng(4).bytes(400_000), ORIGINAL, Policy.VERIFIED), Misfit)


@pytest.mark.parametrize(
    "head", [b"II*\x00\x10\x00\x00\x00CR\x02\x00", b"IIRO", b"IIU\x00", b"FUJIFILMCCD-RAW ", b"\x00MRM"]
)
def test_other_raw_is_no_picture(head: bytes) -> None:
    assert sniff(head + bytes(64)) is None


def test_a_film_beside_a_photo_is_no_picture() -> None:
    assert sniff(VIDEO) is None
    assert sniff(struct.pack(">I", 20) + b"ftypqt  " + bytes(12)) is None
