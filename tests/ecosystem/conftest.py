"""One mount for all tests of this folder, and a small photo library of the kinds of files that people have."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.ingest.drawing import encoded
from tests.mounting import MountedVolume, place_for, sound_mount

PHOTOS = Path(__file__).parents[1] / "photos"
MTIME_NS = 1_400_000_000_123_456_789
BEFORE_1970_NS = -86_400_000_000_001


@pytest.fixture(scope="package")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedVolume]:
    """One volume for all tests of this folder."""
    with sound_mount(tmp_path_factory.mktemp("ecosystem")) as mounted:
        yield mounted


@pytest.fixture
def here(shared: MountedVolume, request: pytest.FixtureRequest) -> Path:
    """An empty directory on the shared mount."""
    return place_for(request, shared)


@pytest.fixture(scope="package")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with photos, versions of them, and everything else that a copying tool has to keep.

    Of the versions in `versions`, those with `exact` in their names are drawn again to the last byte; `soft` ones,
    which were made smaller with a filter that nothing here uses, look the same and have other bytes.
    """
    root = tmp_path_factory.mktemp("library")
    (root / "versions").mkdir()
    (root / "empty").mkdir()
    for photo in sorted(PHOTOS.glob("*.jpg")):
        (root / photo.name).write_bytes(photo.read_bytes())
    for name in ("cat", "coffee", "rocket"):
        with Image.open(PHOTOS / f"{name}.jpg") as image:
            half = (image.width // 2, image.height // 2)
            exact, soft = image.resize(half, Image.Resampling.LANCZOS), image.resize(half, Image.Resampling.HAMMING)
        (root / "versions" / f"{name}-exact.jpg").write_bytes(encoded(exact, quality=80))
        (root / "versions" / f"{name}-soft.jpg").write_bytes(encoded(soft, quality=80))
    (root / "versions" / "again.jpg").write_bytes((PHOTOS / "cat.jpg").read_bytes())
    (root / "beach.xmp").write_text("<x:xmpmeta xmlns:x='adobe:ns:meta/'/>")
    (root / "name with spaces, ümlauts and 'quotes'.txt").write_text("text")
    (root / "script").write_text("#!/bin/sh\n")
    (root / "script").chmod(0o4750)
    with (root / "sparse.img").open("wb") as sparse:
        sparse.truncate(5_000_000)
        sparse.seek(3_000_000)
        sparse.write(b"island")
    os.link(root / "cat.jpg", root / "second name of cat.jpg")
    (root / "link.jpg").symlink_to("cat.jpg")
    (root / "dangling").symlink_to("nowhere")
    os.mkfifo(root / "pipe")
    os.setxattr(root / "wren.jpg", b"user.rating", b"5")
    os.setxattr(root / "versions", b"user.colour", b"green")
    os.utime(root / "wren.jpg", ns=(MTIME_NS, MTIME_NS))
    os.utime(root / "beach.xmp", ns=(BEFORE_1970_NS, BEFORE_1970_NS))
    os.utime(root / "versions", ns=(MTIME_NS, MTIME_NS))
    return root
