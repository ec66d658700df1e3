"""Filters that tools have besides the usual ones: the numbers are what the tools themselves made."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from dedupfs.ingest import jobs
from dedupfs.ingest.decode import decode
from dedupfs.ingest.jobs import Fit, Misfit
from dedupfs.ingest.kernels import Arithmetic
from dedupfs.ingest.scaling import Base, Kernel, Scaling, halved, scaled
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


def test_they_make_what_the_tools_make() -> None:
    random = np.random.default_rng(1)
    sources = [Image.fromarray(random.integers(0, 256, shape, np.uint8)) for shape in ((6, 9), (8, 40))]
    meshed = scaled(Base(sources[0], (9.0, 6.0)), Scaling(Kernel.MESH), (5, 4))
    assert np.asarray(meshed).tolist() == MESHED
    fast = scaled(Base(sources[1], (40.0, 8.0)), Scaling(Kernel.POINT_LINEAR_SWSCALE), (17, 5))
    assert np.abs(np.asarray(fast).astype(int) - np.array(FAST)).max() <= 1


@pytest.mark.parametrize("kernel", [Kernel.MESH, Kernel.POINT_LINEAR_SWSCALE])
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
