"""Pictures decode upright and within limits; what is unfit or broken is refused by name."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dedupfs.errors import UndecodableError, UnfitPictureError
from dedupfs.ingest import decode as decoding
from dedupfs.ingest import jobs, png
from dedupfs.ingest.decode import INVERSE_ORIENTATION, decode, transposed, upright
from dedupfs.model import PictureFormat, Policy
from tests.ingest.drawing import encoded, photo

PICTURE = photo(2, (200, 120))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int) -> None:
    stored = transposed(PICTURE, INVERSE_ORIENTATION[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = decode(encoded(stored, "PNG", exif=exif))
    assert picture.orientation == orientation
    assert picture.upright_px == PICTURE.size
    assert upright(picture).tobytes() == PICTURE.tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_inverse_orientation_undoes(orientation: int) -> None:
    there_and_back = transposed(transposed(PICTURE, orientation), INVERSE_ORIENTATION[orientation])
    assert there_and_back.tobytes() == PICTURE.tobytes()


def test_draft_keeps_the_stored_dimensions() -> None:
    picture = decode(encoded(PICTURE.resize((800, 480))), (100, 60), luma=True)
    assert (picture.width_px, picture.height_px) == (800, 480)
    assert picture.image.size == (100, 60)
    assert picture.image.mode == "L"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_modes_become_plain_channels(mode: str) -> None:
    expected = {"1": "L", "P": "RGB"}.get(mode, mode)
    assert decode(encoded(PICTURE.convert(mode), "PNG")).image.mode == expected


@pytest.mark.parametrize("picture_format", ["BMP", "TIFF", "GIF", "AVIF"])
def test_other_still_formats_decode(picture_format: str) -> None:
    facts = jobs.inspect(encoded(PICTURE, picture_format))
    assert facts.picture_format is PictureFormat(picture_format.lower())
    assert (facts.width_px, facts.height_px) == PICTURE.size


@pytest.mark.parametrize(
    "data",
    [
        encoded(PICTURE.convert("CMYK")),
        encoded(Image.fromarray(np.zeros((80, 80), np.uint16)), "PNG"),
        encoded(Image.fromarray(np.zeros((80, 80), np.float32)), "TIFF"),
        encoded(PICTURE, "GIF", save_all=True, append_images=[PICTURE.rotate(180)]),
        encoded(PICTURE, "WEBP", save_all=True, append_images=[PICTURE.rotate(180)]),
    ],
    ids=["cmyk", "grey16", "float", "gif", "webp"],
)
def test_unfit(data: bytes) -> None:
    with pytest.raises(UnfitPictureError):
        decode(data)


def test_bomb_is_refused_by_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    row = zlib.compress(bytes(10))
    bomb = png.SIGNATURE + png.make_chunk(b"IHDR", header) + png.make_chunk(b"IDAT", row) + png.make_chunk(b"IEND", b"")
    with pytest.raises((UnfitPictureError, UndecodableError)):
        decode(bomb)
    large = encoded(PICTURE)
    monkeypatch.setattr(decoding, "MAX_PIXELS", 200 * 120 - 1)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded before the size was checked"))
    with pytest.raises(UnfitPictureError, match="more than"):
        decode(large)


@pytest.mark.parametrize("picture_format", ["JPEG", "PNG", "WEBP"])
def test_truncated_is_undecodable(picture_format: str) -> None:
    data = encoded(PICTURE, picture_format)
    with pytest.raises(UndecodableError):
        decode(data[: len(data) * 2 // 3])


@pytest.mark.parametrize("data", [b"", b"text", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
def test_no_picture_is_undecodable(data: bytes) -> None:
    with pytest.raises(UndecodableError):
        decode(data)


def test_broken_exif_does_not_matter() -> None:
    picture = decode(encoded(PICTURE, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff"))
    assert picture.orientation == 1


def test_further_pictures_of_a_jpeg_do_not_make_it_another_format() -> None:
    out = io.BytesIO()
    PICTURE.save(out, "MPO", save_all=True, append_images=[PICTURE.rotate(180)])
    assert decode(out.getvalue()).picture_format is PictureFormat.JPEG


def test_heic_is_unfit_without_its_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_reads_heic", lambda: False)
    with pytest.raises(UnfitPictureError):
        decode(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(100))


def test_heic_is_read_where_its_decoder_is_installed() -> None:
    """It is a photo's original on many phones: JPEG copies of it are drawn from it."""
    heif = pytest.importorskip("pillow_heif", reason="the extra heif is not installed")
    out = io.BytesIO()
    heif.from_pillow(PICTURE).save(out, quality=90)
    decoded = decode(out.getvalue())
    assert decoded.picture_format is PictureFormat.HEIC
    assert decoded.image.size == PICTURE.size
    copy = encoded(decoded.image, quality=80)
    found = jobs.fit(copy, out.getvalue(), Policy.VERIFIED)
    assert isinstance(found, jobs.Fit)
    assert found.bit_exact
    assert isinstance(jobs.fit(out.getvalue(), copy, Policy.VERIFIED), jobs.Misfit)
