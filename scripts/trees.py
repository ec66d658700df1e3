"""Walk folders and compare what is in them: what scripts/demo and scripts/evaluate have in common. Pure."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


def files_below(folder: Path) -> Iterator[str]:
    """Give the path of every file and symbolic link below, relative to the folder, in order."""
    for directory, subdirectories, names in os.walk(folder):
        subdirectories.sort()
        for name in sorted(names):
            yield os.path.relpath(os.path.join(directory, name), folder)


def digest(path: Path) -> bytes:
    """Return a digest of the file, or where the symbolic link points to."""
    if path.is_symlink():
        return os.fsencode(path.readlink())
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def relative(path: str) -> str:
    """Return a path from a report of dedupfs relative to the root of the volume."""
    return path.lstrip("/")
