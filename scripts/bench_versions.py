"""Make a library of which half is another version of the other half: what people's folders look like over the years."""

from __future__ import annotations

import shutil
from pathlib import Path

from PIL import Image
from trees import files_below

WAYS = ("smaller", "recompressed", "retagged")
"""Taken in turn: half the size at quality 85, quality 70, and the same image data behind another comment."""


def make_versions(source: Path, target: Path) -> None:
    """Copy the JPEGs of a folder, each with one version beside it."""
    originals, versions = target / "originals", target / "versions"
    originals.mkdir(parents=True)
    versions.mkdir()
    number = 0
    for path in files_below(source):
        with Image.open(source / path) as image:
            if image.format != "JPEG":
                continue
            name = f"{number:05}.jpg"
            shutil.copyfile(source / path, originals / name)
            _make_version(image, source / path, WAYS[number % len(WAYS)], versions / name)
            number += 1


def _make_version(image: Image.Image, path: Path, way: str, target: Path) -> None:
    if way == "retagged":
        data = path.read_bytes()
        comment = b"another comment"
        target.write_bytes(data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + data[2:])
    elif way == "smaller":
        image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS).save(target, "JPEG", quality=85)
    else:
        image.save(target, "JPEG", quality=70)
