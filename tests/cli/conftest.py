"""A folder as scan and report are given it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.names import HOSTILE
from tests.ingest.drawing import encoded, photo


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A photo, copies of it by every kind, one of them with a name out to harm, and documents, two of them equal."""
    image = photo(5)
    jpeg = encoded(image, quality=92)
    files = {
        b"a.jpg": jpeg,
        HOSTILE: jpeg,
        b"metadata.jpg": jpeg[:2] + b"\xff\xfe\x00\x07hello" + jpeg[2:],
        b"recompressed.jpg": encoded(image, quality=60),
        b"resized.jpg": encoded(image.resize((240, 180)), quality=80),
        b"other.jpg": encoded(photo(6), quality=80),
        b"one.txt": b"one",
        b"two.txt": b"two",
        b"two again.txt": b"two",
    }
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, data in files.items():
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(data)
    return folder
