"""Filters that tools have besides the usual ones: the numbers are what the tools themselves made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter

from dedupfs.ingest import jobs, jpeg
from dedupfs.ingest.decode import coded_planes, decode
from dedupfs.ingest.jobs import Fit, Misfit
from dedupfs.ingest.jpeg_coding import coding_of, encode
from dedupfs.ingest.jpeg_rounding import Rounding
from dedupfs.ingest.kernels import Arithmetic
from dedupfs.ingest.recipe import Recipe, Treatment
from dedupfs.ingest.scaling import DEEP, PLANES, Base, Kernel, Scaling, candidates, halved, scaled
from dedupfs.ingest.treatment import Bases
from dedupfs.model import Policy
from tests.ingest.drawing import encoded, photo

BASE = encoded(photo(7), quality=95)
PIXELS = decode(BASE).image

# By `convert -adaptive-resize 5x4!` of ImageMagick 6.9 and `ffmpeg -vf scale=17:5:flags=fast_bilinear` of ffmpeg 5.1.
MESHED = [[222, 91, 219, 101, 132], [163, 216, 210, 185, 171], [183, 193, 199, 113, 121], [44, 107, 99, 80, 66]]
FAST = [
    [104, 97, 151, 108, 156, 119, 92, 125, 34, 41, 170, 61, 161, 111, 154, 119, 106],
    [158, 123, 63, 69, 209, 108, 214, 135, 221, 155, 36, 154, 165, 187, 112, 96, 67],
    [159, 177, 133, 107, 119, 89, 6, 155, 26, 183, 166, 97, 151, 155, 160, 100, 84],
    [126, 104, 128, 122, 129, 181, 193, 151, 185, 155, 192, 68, 221, 95, 90, 32, 31],
    [48, 100, 175, 143, 208, 142, 68, 74, 95, 110, 159, 76, 131, 97, 68, 158, 156],
]

THUMBNAIL_ROW = [
    87,
    93,
    115,
    138,
    134,
    155,
    146,
    149,
    111,
    122,
    120,
    106,
    101,
    150,
    142,
    127,
    167,
    95,
    105,
    86,
    96,
    116,
    154,
    117,
    128,
    89,
    133,
    152,
    143,
    151,
    139,
    116,
    127,
    121,
    128,
    120,
    119,
    114,
    113,
    115,
]
RESIZED = [
    [119, 132, 129, 125, 128, 118, 131, 134, 126, 123, 129],
    [139, 129, 126, 128, 128, 127, 129, 121, 127, 139, 127],
    [130, 132, 127, 129, 132, 130, 135, 123, 126, 129, 132],
    [133, 134, 134, 128, 127, 127, 129, 126, 129, 130, 129],
    [122, 129, 135, 132, 126, 123, 130, 130, 127, 129, 132],
    [126, 123, 131, 129, 123, 127, 126, 129, 134, 130, 129],
    [125, 127, 120, 121, 125, 130, 129, 128, 137, 132, 122],
]


def test_they_make_what_the_tools_make() -> None:
    random = np.random.default_rng(1)
    sources = [Image.fromarray(random.integers(0, 256, shape, np.uint8)) for shape in ((6, 9), (8, 40))]
    meshed = scaled(Base(sources[0], (9.0, 6.0)), Scaling(Kernel.MESH), (5, 4))
    assert np.asarray(meshed).tolist() == MESHED
    fast = scaled(Base(sources[1], (40.0, 8.0)), Scaling(Kernel.POINT_LINEAR_SWSCALE), (17, 5))
    assert np.abs(np.asarray(fast).astype(int) - np.array(FAST)).max() <= 1


def test_what_thumbnail_makes() -> None:
    # By `convert -thumbnail 40x30!` and `convert -resize 11x7!` of ImageMagick 6.9.
    source = Image.fromarray(np.random.default_rng(1).integers(0, 256, (120, 160), np.uint8))
    base = Base(source, (160.0, 120.0))
    thumbnail = scaled(base, Scaling(Kernel.SAMPLED_LANCZOS3), (40, 30))
    assert np.asarray(thumbnail)[0].tolist() == THUMBNAIL_ROW
    resized = scaled(base, Scaling(Kernel.FLOAT_LANCZOS3, arithmetic=DEEP), (11, 7))
    assert np.asarray(resized).tolist() == RESIZED
    assert Scaling(Kernel.SAMPLED_LANCZOS3) in candidates((160, 120), (40, 30), True)
    assert Scaling(Kernel.SAMPLED_LANCZOS3) not in candidates((160, 120), (80, 60), True)


@pytest.mark.parametrize("kernel", [Kernel.MESH, Kernel.POINT_LINEAR_SWSCALE, Kernel.SAMPLED_LANCZOS3])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_a_window_is_a_part_of_the_whole(kernel: Kernel, mode: str) -> None:
    image = PIXELS.convert(mode)
    base = Base(image, (float(image.width), float(image.height)))
    whole = scaled(base, Scaling(kernel), (250, 191))
    part = scaled(base, Scaling(kernel), (250, 191), (40, 33, 190, 180))
    assert whole.mode == part.mode == mode
    assert part.tobytes() == whole.crop((40, 33, 190, 180)).tobytes()


@pytest.mark.parametrize(("kernel", "size_px"), [(Kernel.MESH, (240, 180)), (Kernel.POINT_LINEAR_SWSCALE, (360, 270))])
def test_copies_made_with_them_are_found_and_shifted_ones_are_not(kernel: Kernel, size_px: tuple[int, int]) -> None:
    member = encoded(scaled(Base(PIXELS, (480.0, 360.0)), Scaling(kernel), size_px), quality=88)
    found = jobs.fit(member, BASE, Policy.VERIFIED)
    assert isinstance(found, Fit), found
    assert jobs.render(BASE, found.recipe, found.own, len(member)) == member
    shifted = PIXELS.transform(PIXELS.size, Image.Transform.AFFINE, (1, 0, 1, 0, 1, 0))
    moved = encoded(scaled(Base(shifted, (480.0, 360.0)), Scaling(kernel), size_px), quality=88)
    assert isinstance(jobs.fit(moved, BASE, Policy.VERIFIED), Misfit)


def test_copies_of_a_browser_are_found() -> None:
    # A canvas of Chromium, with which this agrees to the last level on a photo at 10, 20, 25, 40 and 50 %.
    ramp = Image.fromarray(np.arange(0, 64, dtype=np.uint8).reshape(8, 8) * 3)
    assert np.asarray(halved(ramp, 2).image)[0].tolist() == [13, 19, 25, 31]
    assert halved(ramp, 4).extent_px == (2.0, 2.0)
    for size_px in ((120, 90), (96, 72), (45, 34)):
        factor = 1 << int(np.log2(480 / size_px[0]))
        small = scaled(halved(PIXELS, factor), Scaling(Kernel.MIPMAP, reduction=(factor, factor)), size_px)
        member = encoded(small, quality=85)
        found = jobs.fit(member, BASE, Policy.VERIFIED)
        assert isinstance(found, Fit), found
        assert jobs.render(BASE, found.recipe, found.own, len(member)) == member


def test_lettering_made_smaller_in_linear_light_is_found() -> None:
    page = Image.new("RGB", (600, 400), "white")
    draw = ImageDraw.Draw(page)
    for row in range(14):
        draw.text((20 + row, 10 + 27 * row), f"{row} Kaffee und Kuchen, {row * 37 % 19}.{row * 53 % 90 + 10}", "black")
    page.paste(PIXELS.crop((0, 0, 150, 100)), (430, 280))
    base = encoded(page, quality=90)
    pixels = decode(base).image
    scaling = Scaling(Kernel.FLOAT_LANCZOS3, arithmetic=Arithmetic(linear_light=True, floors=True))
    member = encoded(scaled(Base(pixels, (600.0, 400.0)), scaling, (300, 200)), quality=88)
    found = jobs.fit(member, base, Policy.VERIFIED)
    assert isinstance(found, Fit), found


def colourful(seed: int) -> Image.Image:
    """Return a picture whose colours change within few pixels."""
    colours = np.random.default_rng(seed).integers(64, 192, (40, 54, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((430, 318), Image.Resampling.BICUBIC)


def scaled_planes(data: bytes, size_px: tuple[int, int], kernel: Image.Resampling) -> Image.Image:
    """Return what comes of scaling luma and the coded samples of chroma each by themselves."""
    luma, *chroma = coded_planes(data)
    half_px = (-(-size_px[0] // 2), -(-size_px[1] // 2))
    doubled = (2 * half_px[0], 2 * half_px[1])
    parts = [plane.resize(half_px, kernel).resize(doubled, Image.Resampling.NEAREST) for plane in chroma]
    return Image.merge("YCbCr", [luma.resize(size_px, kernel), *(part.crop((0, 0, *size_px)) for part in parts)])


def as_ffmpeg_rounds(image: Image.Image, quality: int) -> bytes:
    coding = coding_of(jpeg.split(encoded(image.convert("RGB"), quality=quality)))
    return jpeg.SOI + encode(image, replace(coding, rounding=Rounding.INWARD))


@pytest.mark.parametrize("size_px", [(215, 159), (323, 239), (127, 94)])
def test_copies_whose_chroma_was_scaled_by_itself_are_found(size_px: tuple[int, int]) -> None:
    base = encoded(colourful(1), quality=92)
    member = as_ffmpeg_rounds(scaled_planes(base, size_px, Image.Resampling.BILINEAR), 90)
    found = jobs.fit(member, base, Policy.VERIFIED)
    assert isinstance(found, Fit), found
    assert Recipe.from_bytes(found.recipe).scaling.kernel in PLANES
    assert len(jobs.render(base, found.recipe, found.own, len(member))) == len(member)


@pytest.mark.parametrize("size_px", [(322, 238), (215, 159)])
def test_copies_by_fast_bilinear_of_a_jpeg_are_found(size_px: tuple[int, int]) -> None:
    base = encoded(colourful(1), quality=92)
    kernel = Kernel.PLANES_LINEAR_SWSCALE
    pixels = scaled(Bases(base, Treatment())(Scaling(kernel)), Scaling(kernel), size_px)
    member = as_ffmpeg_rounds(pixels, 90)
    found = jobs.fit(member, base, Policy.VERIFIED)
    assert isinstance(found, Fit), found
    assert Recipe.from_bytes(found.recipe).scaling.kernel is kernel


def test_edits_are_no_copies_whose_chroma_was_scaled_by_itself() -> None:
    base = encoded(colourful(1), quality=92)
    less = ImageEnhance.Color(colourful(1)).enhance(0.8)
    spotted = colourful(1)
    spotted.paste((255, 0, 0), (200, 150, 208, 158))
    blurred = colourful(1).filter(ImageFilter.GaussianBlur(1.5))
    for changed in (less, spotted, blurred, ImageChops.offset(colourful(1), 1, 0)):
        edit = encoded(changed, quality=92)
        member = as_ffmpeg_rounds(scaled_planes(edit, (215, 159), Image.Resampling.BILINEAR), 90)
        assert isinstance(jobs.fit(member, base, Policy.VERIFIED), Misfit)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("subsampling", [1, 2])
def test_a_window_of_scaled_planes_is_a_part_of_the_whole(orientation: int, subsampling: int) -> None:
    bases = Bases(encoded(colourful(2), quality=92, subsampling=subsampling), Treatment(orientation))
    assert bases.has_planes
    scaling = Scaling(Kernel.PLANES_SWSCALE)
    whole = scaled(bases(scaling), scaling, (201, 153))
    for window in ((0, 0, 201, 153), (48, 32, 144, 128), (33, 21, 201, 153)):
        assert scaled(bases(scaling), scaling, (201, 153), window).tobytes() == whole.crop(window).tobytes()


def test_pictures_without_chroma_of_its_own_size_have_no_planes() -> None:
    for data in (encoded(PIXELS, quality=90, subsampling=0), encoded(PIXELS.convert("L")), encoded(PIXELS, "PNG")):
        assert not Bases(data, Treatment()).has_planes
    assert Bases(encoded(PIXELS, quality=90), Treatment()).has_planes
