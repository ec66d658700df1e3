"""JPEG, PNG and WebP files come apart and together again, and any bytes end in our own errors."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from dedupfs.errors import IngestError, UndecodableError, UnfitPictureError
from dedupfs.ingest import avif, jpeg, jpeg_coding, png, webp
from dedupfs.ingest.sniff import cut_points, sniff
from dedupfs.model import PictureFormat
from tests.ingest.drawing import encoded, photo

PICTURE = photo(1, (160, 120))
EXIF = Image.Exif()
EXIF[0x010F] = "a camera"
XMP = b"<x:xmpmeta/>" + b" " * 500
TEXT = PngImagePlugin.PngInfo()
TEXT.add_text("Comment", "a remark")

PLAIN = {
    PictureFormat.JPEG: encoded(PICTURE, quality=85),
    PictureFormat.PNG: encoded(PICTURE, "PNG"),
    PictureFormat.WEBP: encoded(PICTURE, "WEBP", quality=80),
}
TAGGED = {
    PictureFormat.JPEG: encoded(PICTURE, quality=85, exif=EXIF, xmp=XMP, comment=b"remark") + b"trailer",
    PictureFormat.PNG: encoded(PICTURE, "PNG", exif=EXIF, pnginfo=TEXT) + b"trailer",
    PictureFormat.WEBP: encoded(PICTURE, "WEBP", quality=80, exif=EXIF, xmp=XMP) + b"trailer",
}
READERS: dict[PictureFormat, Callable[[bytes], object]] = {
    PictureFormat.JPEG: jpeg.split,
    PictureFormat.PNG: png.split,
    PictureFormat.WEBP: webp.split,
}


@pytest.mark.parametrize("picture_format", PLAIN)
def test_sniffed_by_content(picture_format: PictureFormat) -> None:
    assert sniff(PLAIN[picture_format][:64]) is picture_format


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"", None),
        (b"\xff\xd8", None),
        (b"hello, world", None),
        (b"RIFF\x00\x00\x00\x00WAVE", None),
        (b"GIF89a\x01\x00", PictureFormat.GIF),
        (b"II*\x00\x08\x00\x00\x00\x00\x00", PictureFormat.TIFF),
        (b"II*\x00\x10\x00\x00\x00CR\x02\x00", None),
        (b"\x00\x00\x00\x18ftypavif\x00\x00\x00\x00mif1miaf", PictureFormat.AVIF),
        (b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1avif", PictureFormat.AVIF),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", PictureFormat.HEIC),
        (b"\x00\x00\x00\x18ftypisom\x00\x00\x00\x00isomavc1", None),
    ],
)
def test_sniff_table(head: bytes, expected: PictureFormat | None) -> None:
    assert sniff(head) is expected


@pytest.mark.parametrize("picture_format", PLAIN)
def test_metadata_alone_never_changes_the_chunks_of_the_image(picture_format: PictureFormat) -> None:
    plain, tagged = PLAIN[picture_format], TAGGED[picture_format]
    ours, theirs = cut_points(plain, picture_format), cut_points(tagged, picture_format)
    assert len(theirs) == 2
    image = tagged[theirs[0] : theirs[1]]
    assert image == plain[ours[0] : (*ours, len(plain))[1]]
    assert b"a camera" not in image
    assert b"remark" not in image


def test_parts_make_the_file_again() -> None:
    parts = jpeg.split(TAGGED[PictureFormat.JPEG])
    assert parts.before + parts.coded + parts.after == TAGGED[PictureFormat.JPEG]
    assert parts.after == b"trailer"
    png_parts = png.split(TAGGED[PictureFormat.PNG])
    chunks = png.make_idat(png_parts.stream, max(png_parts.idat_sizes))
    assert png_parts.before + chunks + png_parts.after == TAGGED[PictureFormat.PNG]
    webp_parts = webp.split(TAGGED[PictureFormat.WEBP])
    rebuilt = webp_parts.before + webp_parts.coded + webp_parts.after + webp_parts.trailer
    assert TAGGED[PictureFormat.WEBP][:12] + rebuilt == TAGGED[PictureFormat.WEBP]


def test_metadata_between_coded_segments_is_found() -> None:
    data = PLAIN[PictureFormat.JPEG]
    scan = next(segment for segment in jpeg.walk(data)[0] if segment.marker == 0xDA)
    remark = b"\xff\xfe\x00\x08remark"
    parts = jpeg.split(data[: scan.start] + remark + data[scan.start :])
    assert parts.inside == remark


def test_encoder_parameters_are_read() -> None:
    frame = jpeg.split(encoded(PICTURE, quality=60, subsampling=1, progressive=True, restart_marker_blocks=4)).frame
    assert (frame.width_px, frame.height_px, frame.progressive, frame.restart_blocks) == (160, 120, True, 4)
    assert frame.sampling == ((2, 1), (1, 1), (1, 1))
    with Image.open(io.BytesIO(encoded(PICTURE, quality=60))) as again:
        assert list(frame.tables[0]) == list(again.quantization[0])  # type: ignore[attr-defined]


@pytest.mark.parametrize("quality", [5, 30, 75, 90, 98, 100])
def test_standard_tables_take_one_byte(quality: int) -> None:
    coding = jpeg_coding.coding_of(jpeg.split(encoded(PICTURE, quality=quality)))
    stored = coding.to_bytes()
    assert len(stored) == 8
    assert jpeg_coding.JpegCoding.from_bytes(stored) == coding


def test_other_tables_are_stored_whole() -> None:
    tables = [[min(255, 3 + place) for place in range(64)], [9] * 64]
    coding = jpeg_coding.coding_of(jpeg.split(encoded(PICTURE, qtables=tables)))
    assert jpeg_coding.JpegCoding.from_bytes(coding.to_bytes()) == coding
    assert coding.tables[0][63] == 66


@pytest.mark.parametrize("quality", [10, 50, 80, 95])
def test_webp_quantizer_leads_back_to_the_quality(quality: int) -> None:
    parts = webp.split(encoded(PICTURE, "WEBP", quality=quality))
    finer = webp.split(encoded(PICTURE, "WEBP", quality=min(100, quality + 5)))
    assert sum(finer.quantizers) < sum(parts.quantizers)


def test_animations_and_other_processes_are_unfit() -> None:
    frames = [PICTURE, PICTURE.transpose(Image.Transpose.ROTATE_180)]
    animated = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
    with pytest.raises(UnfitPictureError):
        png.split(animated)
    with pytest.raises(UnfitPictureError):
        webp.split(encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    data = PLAIN[PictureFormat.JPEG]
    start = next(segment.start for segment in jpeg.walk(data)[0] if segment.marker == 0xC0)
    with pytest.raises(UnfitPictureError):
        jpeg.split(data[: start + 1] + b"\xc3" + data[start + 2 :])
    with pytest.raises(UnfitPictureError):
        jpeg.split(encoded(PICTURE.convert("CMYK")))


@pytest.mark.parametrize("picture_format", PLAIN)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_cut_short_is_undecodable(picture_format: PictureFormat, share: float) -> None:
    data = PLAIN[picture_format]
    with pytest.raises(UndecodableError):
        READERS[picture_format](data[: int(share * len(data))])


@pytest.mark.parametrize(("picture_format", "module"), list(zip(PLAIN, (jpeg, png, webp), strict=True)))
@given(data=st.data())
@settings(max_examples=120, deadline=None)
def test_any_bytes_end_in_our_own_errors(
    picture_format: PictureFormat, module: ModuleType, data: st.DataObject
) -> None:
    sound = TAGGED[picture_format]
    hostile = bytearray(sound[: data.draw(st.integers(0, len(sound)))])
    for _ in range(data.draw(st.integers(0, 6))):
        if hostile:
            hostile[data.draw(st.integers(0, min(len(hostile), 900) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(IngestError):
        module.split(bytes(hostile))
    cuts = cut_points(bytes(hostile), picture_format)
    assert list(cuts) == sorted(set(cuts))
    assert all(0 < cut < len(hostile) for cut in cuts)


@given(st.binary(max_size=400))
@settings(max_examples=150, deadline=None)
def test_noise_behind_a_signature_ends_in_our_own_errors(noise: bytes) -> None:
    webp_start = b"RIFF\x40\x00\x00\x00WEBP"
    for signature, reader in ((jpeg.SOI, jpeg.split), (png.SIGNATURE, png.split), (webp_start, webp.split)):
        with contextlib.suppress(IngestError):
            reader(signature + noise)


SPLITS: dict[PictureFormat, Callable[[bytes], object]] = {
    PictureFormat.JPEG: jpeg.split,
    PictureFormat.PNG: png.split,
    PictureFormat.WEBP: webp.split,
    PictureFormat.AVIF: avif.split,
}


@pytest.mark.parametrize(
    ("head", "part", "picture_format"),
    [
        (b"\xff\xd8", b"\xff\xfe\x00\x02", PictureFormat.JPEG),
        (b"\x89PNG\r\n\x1a\n", png.make_chunk(b"tEXt", b""), PictureFormat.PNG),
        (b"RIFF\x00\x00\x00\x01WEBP", webp.make_chunk(b"EXIF", b""), PictureFormat.WEBP),
        (b"\x00\x00\x00\x10ftypavif\x00\x00\x00\x00", b"\x00\x00\x00\x08free", PictureFormat.AVIF),
    ],
    ids=["jpeg", "png", "webp", "avif"],
)
def test_a_file_of_nothing_but_parts_is_given_up_early(head: bytes, part: bytes, picture_format: PictureFormat) -> None:
    data = head + part * ((16 << 20) // len(part))
    assert len(cut_points(data, picture_format)) <= 1
    with pytest.raises(UndecodableError, match="of more than"):
        SPLITS[picture_format](data)
