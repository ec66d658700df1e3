"""Which of two pictures was made from the other: told from quantization, and what becomes of both in a volume."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crashtest_core import InlinePool
from PIL import Image

from dedupfs.ingest.ancestry import is_made_from
from dedupfs.ingest.decode import planes
from dedupfs.ingest.jobs import fit, inspect
from dedupfs.ingest.outcome import Fit, Misfit
from dedupfs.ingest.reasons import why_apart
from dedupfs.model import Policy
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.records import Exact, Rendition
from tests.filesystem.core import Core
from tests.ingest.drawing import encoded, photo, resized

PICTURE = Image.blend(photo(5), photo(5).convert("L").convert("RGB"), 0.7)
"""In muted colours, of which no program cuts anything off."""


def decoded_elsewhere(data: bytes) -> Image.Image:
    """Return a JPEG's pixels as a decoder gives them that does not smooth chroma, and rounds in its own way."""
    luma, blue, red = np.moveaxis(np.asarray(planes(data).convert("YCbCr"), np.float32), 2, 0)
    blue, red = blue - 128, red - 128
    channels = (luma + 1.402 * red, luma - 0.344 * blue - 0.714 * red, luma + 1.772 * blue)
    return Image.fromarray(np.clip(np.stack(channels, axis=2) + 0.5, 0, 255).astype(np.uint8))


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


@pytest.mark.parametrize("quality", [40, 75, 90, 95])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_what_another_decoder_made_of_a_jpeg_is_known(quality: int, subsampling: int) -> None:
    source = encoded(PICTURE, quality=quality, subsampling=subsampling)
    for made in (opened(source), decoded_elsewhere(source)):
        for picture_format in ("PNG", "TIFF", "BMP"):
            assert is_made_from(encoded(made, picture_format), source)


@pytest.mark.parametrize("quality", [40, 75, 90, 95])
def test_what_a_jpeg_was_made_of_is_not_made_from_it(quality: int) -> None:
    source = encoded(PICTURE, quality=quality)
    assert not is_made_from(encoded(PICTURE, "PNG"), source)
    assert not is_made_from(encoded(PICTURE, quality=98), source)


@pytest.mark.parametrize("quality", [60, 80])
def test_a_jpeg_compressed_again_at_a_higher_quality_is_known(quality: int) -> None:
    source = encoded(PICTURE, quality=quality)
    assert is_made_from(encoded(decoded_elsewhere(source), quality=96), source)
    assert is_made_from(encoded(opened(source), quality=92, subsampling=0), source)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_may_be_turned(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    source = encoded(PICTURE, quality=70, exif=exif)
    assert inspect(source).orientation == orientation
    turned = _upright(opened(source), orientation)
    assert is_made_from(encoded(turned, "PNG"), source)
    assert not is_made_from(encoded(_upright(PICTURE, orientation), "PNG"), source)


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    steps = {2: (0,), 3: (3,), 4: (1,), 5: (5,), 6: (4,), 7: (6,), 8: (2,)}.get(orientation, ())
    for step in steps:
        image = image.transpose(Image.Transpose(step))
    return image


def test_what_cannot_be_told_is_not_claimed() -> None:
    source = encoded(PICTURE, quality=75)
    copy = encoded(opened(source), "PNG")
    assert not is_made_from(encoded(opened(source).crop((0, 0, 472, 360)), "PNG"), source)
    assert not is_made_from(source, copy), "only a JPEG has steps to be told"
    assert not is_made_from(copy[:500], source)
    assert not is_made_from(copy, source[:500])
    assert not is_made_from(b"", source)
    grey = PICTURE.convert("L").resize((48, 48))
    small = encoded(grey, quality=75)
    assert not is_made_from(encoded(decoded_elsewhere(small), "PNG"), small), "too few blocks"


@pytest.fixture
def core(volume_directory: Path) -> Iterator[Core]:
    core = Core(volume_directory, InlinePool())
    try:
        yield core
        assert core.problems() == []
    finally:
        core.filesystem.close()


ORIGINAL = encoded(PICTURE, quality=80)
DERIVED = {
    "png": encoded(decoded_elsewhere(ORIGINAL), "PNG", compress_level=1),
    "finer": encoded(decoded_elsewhere(ORIGINAL), quality=95),
}


@pytest.mark.parametrize("kind", DERIVED)
@pytest.mark.parametrize("original_first", [True, False])
def test_what_was_made_from_a_photo_does_not_take_its_place(core: Core, kind: str, original_first: bool) -> None:
    files = [(b"photo", ORIGINAL), (b"derived", DERIVED[kind])]
    for name, data in files if original_first else reversed(files):
        core.put(name, data)
        core.filesystem.settle()
    assert isinstance(core.content(b"photo"), Exact)
    assert isinstance(core.content(b"derived"), Rendition)
    assert core.read(b"photo") == ORIGINAL


@pytest.mark.parametrize("fine", [encoded(PICTURE, "PNG"), encoded(PICTURE, quality=97)], ids=["png", "finer"])
@pytest.mark.parametrize("original_first", [True, False])
def test_what_a_copy_was_made_of_takes_its_place(core: Core, fine: bytes, original_first: bool) -> None:
    files = [(b"photo", fine), (b"copy", ORIGINAL)]
    for name, data in files if original_first else reversed(files):
        core.put(name, data)
        core.filesystem.settle()
    assert isinstance(core.content(b"photo"), Exact)
    assert isinstance(core.content(b"copy"), Rendition)
    assert core.read(b"photo") == fine


@pytest.mark.parametrize("settings", [{"quality": 90}, {"picture_format": "PNG"}], ids=["jpeg", "png"])
def test_an_enlarged_copy_does_not_take_the_place_of_its_photo(core: Core, settings: dict[str, Any]) -> None:
    enlarged = encoded(resized(opened(ORIGINAL), 1.5), **settings)
    for name, data in (b"photo", ORIGINAL), (b"enlarged", enlarged):
        core.put(name, data)
        core.filesystem.settle()
    assert core.read(b"photo") == ORIGINAL
    assert core.read(b"enlarged") == enlarged
    assert core.is_rendition(b"enlarged")


def test_a_larger_original_takes_the_place_of_its_copy(core: Core) -> None:
    copy = encoded(resized(opened(ORIGINAL), 0.6), quality=85)
    for name, data in (b"copy", copy), (b"photo", ORIGINAL):
        core.put(name, data)
        core.filesystem.settle()
    assert core.read(b"photo") == ORIGINAL
    assert isinstance(core.content(b"photo"), Exact)
    assert core.is_rendition(b"copy")


def test_a_photo_is_kept_apart_from_what_was_made_from_it_rather_than_altered(core: Core) -> None:
    """The PNG is packed too well to be drawn from the photo in its size, while the photo could be drawn from it."""
    derived = encoded(decoded_elsewhere(ORIGINAL), "PNG", optimize=True)
    assert isinstance(fit(derived, ORIGINAL, Policy.VERIFIED), Misfit)
    assert isinstance(fit(ORIGINAL, derived, Policy.VERIFIED), Fit)
    for name, data in (b"derived", derived), (b"photo", ORIGINAL):
        core.put(name, data)
        core.filesystem.settle()
    assert core.read(b"photo") == ORIGINAL
    assert core.read(b"derived") == derived
    assert why(core, b"photo") == "was what the nearest picture was made from, and is not drawn from that"
    assert why(core, b"derived") == "was made from the nearest picture, but cannot be drawn from it"


def why(core: Core, name: bytes) -> str:
    inode = core.volume.metadata.inode(core.filesystem.lookup(ROOT, name))
    content = core.content(name)
    assert inode.content is not None and isinstance(content, Exact)
    return why_apart(core.volume, core.pool, inode.content, content, Policy.VERIFIED).text
