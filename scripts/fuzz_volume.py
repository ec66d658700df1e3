"""Write files into a volume without a mount, settle it, and read them back after it was opened anew."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from measure import difference
from PIL import Image

from dedupfs.crypto.keys import ScryptCost
from dedupfs.errors import DedupfsError
from dedupfs.filesystem.filesystem import FileSystem
from dedupfs.ingest.pipeline import Pipeline
from dedupfs.ingest.renderer import Renderer
from dedupfs.ingest.workers import WorkerPool
from dedupfs.model import Policy
from dedupfs.storage.check import check
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.records import Config, Rendition
from dedupfs.storage.volume import Volume, create_volume, open_volume, unlock

PASSPHRASE = b"for fuzzing"
FINE_LEVELS = 20.0
"""A rendition that is further from what was written than this, at some point, is a wrong merge. The verification's own
limits are about half of it; this one is for gross failures, by other code."""
WRITE_BYTES = 128 << 10


def through_a_volume(batch: list[bytes]) -> Iterator[tuple[bytes, str]]:
    """Yield each file with `exact`, `rendition`, or what went wrong."""
    with tempfile.TemporaryDirectory(prefix="dedupfs-fuzz-") as place:
        directory = Path(place) / "volume"
        create_volume(directory, PASSPHRASE, Config(Policy.VERIFIED, ""), ScryptCost(n=2**10))
        with opened(directory) as (_, filesystem, _):
            for number, data in enumerate(batch):
                _, handle = filesystem.create(ROOT, b"%d" % number, 0o644, 0, 0)
                for offset in range(0, len(data), WRITE_BYTES):
                    filesystem.files.write(handle, offset, data[offset : offset + WRITE_BYTES])
                filesystem.files.release(handle)
        with opened(directory) as (volume, filesystem, renderer):
            for number, data in enumerate(batch):
                yield data, _read_back(volume, filesystem, b"%d" % number, data)
            report = check(volume, data=True, render=renderer.render)
            for problem in report.problems:
                yield batch[-1], f"check: {problem.text}"


def _read_back(volume: Volume, filesystem: FileSystem, name: bytes, data: bytes) -> str:
    try:
        number = filesystem.lookup(ROOT, name)
        handle = filesystem.files.open(number, readable=True, writable=False)
        try:
            read = filesystem.files.read(handle, 0, len(data) + 1)
        finally:
            filesystem.files.release(handle)
    except DedupfsError as exc:
        return f"it cannot be read back: {exc}"
    if read == data:
        return "exact"
    content_id = volume.metadata.inode(number).content
    if content_id is None or not isinstance(volume.contents.get(content_id), Rendition):
        return "other bytes come back than were written"
    return "rendition" if len(read) == len(data) and _look_alike(data, read) else "a rendition looks otherwise"


def _look_alike(written: bytes, read: bytes) -> bool:
    with Image.open(io.BytesIO(written)) as before, Image.open(io.BytesIO(read)) as after:
        if (before.size, before.format) != (after.size, after.format):
            return False
        found = difference(np.asarray(before.convert("RGBA")), np.asarray(after.convert("RGBA")))
    return max(found.fine_luma, found.fine_chroma) <= FINE_LEVELS


@contextmanager
def opened(directory: Path) -> Iterator[tuple[Volume, FileSystem, Renderer]]:
    """Open a volume as the mount does, and settle and close it in the end."""
    volume = open_volume(directory, unlock(directory, PASSPHRASE))
    renderer = Renderer(volume.contents, WorkerPool(1))
    filesystem = FileSystem(volume, Pipeline(volume, WorkerPool(2), renderer), renderer)
    try:
        yield volume, filesystem, renderer
    finally:
        filesystem.close()
