"""What is done to a damaged volume, step by step, and what is expected of each step. Runs in a process of its own.

A specimen is a volume that holds some of everything, written once into a fresh database, so that no page of it is an
older state of another: putting back older states is the one thing that cannot be found.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lmdb
from demo_photos import recompressed, shrunk
from PIL import Image

from dedupfs.crypto.keys import ScryptCost
from dedupfs.errors import DedupfsError
from dedupfs.filesystem.filesystem import FileSystem
from dedupfs.ingest import jobs
from dedupfs.ingest.pipeline import Pipeline
from dedupfs.ingest.renderer import Renderer
from dedupfs.ingest.workers import WorkerPool
from dedupfs.model import InodeNo, Policy
from dedupfs.storage import repair
from dedupfs.storage.check import check
from dedupfs.storage.header import BACKUP_FILE, HEADER_FILE
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.records import Config
from dedupfs.storage.report import Report
from dedupfs.storage.volume import Volume, create_volume, open_volume, rebuild_database, unlock

_PASSPHRASE = b"specimen"
_SIDE_PX = 320
_JOBS: dict[str, Callable[..., Any]] = {"inspect": jobs.inspect, "fit": jobs.fit, "render": jobs.render}
ERROR = "error"
"""Stands for the digest of a file that cannot be read."""


class InlinePool(WorkerPool):
    """Runs jobs where they are asked for: these pictures are our own, and a process for each would take most time."""

    def call(self, job: str, *arguments: Any) -> Any:
        return _JOBS[job](*arguments)

    def close(self) -> None:
        """There is nothing to stop."""


@dataclass(slots=True)
class Specimen:
    """A sound volume: its directory, its key, and the digests of what its paths read as."""

    directory: Path
    key: bytes
    expected: dict[str, str] = field(default_factory=dict)


def make_specimen(folder: Path, photos: Path) -> Specimen:
    """Fill a volume with versions of photos, small and large files, links, attributes and folders."""
    grown = folder / "grown"
    create_volume(grown, _PASSPHRASE, Config(Policy.VERIFIED, "specimen"), ScryptCost(n=2**10))
    key = unlock(grown, _PASSPHRASE)
    filesystem = _opened(grown, key)
    _fill(filesystem, folder, photos)
    filesystem.settle()
    expected = read_tree(filesystem)
    filesystem.close()
    directory = folder / "specimen"
    directory.mkdir()
    environment = lmdb.open(str(grown), max_dbs=64, readonly=True)
    environment.copy(str(directory), compact=True)
    environment.close()
    for name in (HEADER_FILE, BACKUP_FILE):
        shutil.copy(grown / name, directory)
    return Specimen(directory, key, expected)


def _fill(filesystem: FileSystem, folder: Path, photos: Path) -> None:
    chance = random.Random(1)
    pictures = filesystem.make_directory(ROOT, b"pictures", 0o755, 0, 0)
    for photo in sorted(photos.glob("*.jpg"))[:3]:
        base, small, coarse = (folder / f"{name}-{photo.name}" for name in ("base", "small", "coarse"))
        with Image.open(photo) as picture:
            picture.thumbnail((_SIDE_PX, _SIDE_PX))
            picture.save(base, quality=92)
        shrunk(base, small)
        recompressed(base, coarse)
        for path in (base, small, coarse):
            _write(filesystem, pictures, os.fsencode(path.name), path.read_bytes())
    notes = filesystem.make_directory(ROOT, b"notes", 0o700, 1, 1)
    for number in range(120):
        inode = _write(filesystem, notes, b"note %d" % number, chance.randbytes(chance.randrange(1, 3000)))
        if number % 10 == 0:
            filesystem.set_xattr(inode, b"user.number", b"%d" % number)
            filesystem.link(inode, ROOT, b"link %d" % number)
    deep = notes
    for number in range(5):
        deep = filesystem.make_directory(deep, b"folder %d" % number, 0o755, 0, 0)
        _write(filesystem, deep, b"deep", b"%d" % number)
    _write(filesystem, ROOT, b"large", chance.randbytes(900_000))
    _write(filesystem, ROOT, b"sparse", bytes(700_000) + b"end")
    _write(filesystem, ROOT, b"empty", b"")
    filesystem.make_link(ROOT, b"symbolic", b"notes/note 1", 0, 0)


def _write(filesystem: FileSystem, parent: InodeNo, name: bytes, data: bytes) -> InodeNo:
    number, handle = filesystem.create(parent, name, 0o644, 0, 0)
    filesystem.files.write(handle, 0, data)
    filesystem.files.release(handle)
    return number


def _opened(directory: Path, key: bytes) -> FileSystem:
    volume = open_volume(directory, key)
    renderer = Renderer(volume.contents, InlinePool(1))
    return FileSystem(volume, Pipeline(volume, InlinePool(1), renderer), renderer)


def read_tree(filesystem: FileSystem) -> dict[str, str]:
    """Return the digest of every file and link by its path, or ERROR; of directories that cannot be listed too."""
    found: dict[str, str] = {}
    waiting = [("", ROOT)]
    while waiting:
        path, directory = waiting.pop()
        try:
            entries = filesystem.list_directory(directory)[2:]
        except DedupfsError:
            found[path] = ERROR
            continue
        for entry in entries:
            below = path + "/" + entry.name.decode(errors="backslashreplace")
            if stat.S_ISDIR(entry.type_bits):
                waiting.append((below, entry.inode))
            else:
                found[below] = _digest(filesystem, entry.inode, link=stat.S_ISLNK(entry.type_bits))
    return found


def _digest(filesystem: FileSystem, number: InodeNo, *, link: bool) -> str:
    try:
        if link:
            return hashlib.sha256(filesystem.read_link(number)).hexdigest()
        size = filesystem.attributes(number).size
        handle = filesystem.files.open(number, readable=True, writable=False)
        try:
            data = filesystem.files.read(handle, 0, 1 << 30)
        finally:
            filesystem.files.release(handle)
        return hashlib.sha256(data).hexdigest() if len(data) == size else "of another length"
    except DedupfsError:
        return ERROR


# The steps


def serve(directory: Path, specimen: Specimen) -> dict[str, Any]:
    """Read everything as a mount does, then write, read back and remove a file."""
    filesystem = _opened(directory, specimen.key)
    try:
        found = read_tree(filesystem)
        data = os.urandom(5000)
        with contextlib.suppress(DedupfsError):
            number = _write(filesystem, ROOT, b"written now", data)
            handle = filesystem.files.open(number, readable=True, writable=False)
            assert filesystem.files.read(handle, 0, 10_000) == data, "what was written now reads as something else"
            filesystem.files.release(handle)
            filesystem.settle()
            filesystem.unlink(ROOT, b"written now")
    finally:
        with contextlib.suppress(DedupfsError):
            filesystem.close()
    return {"found": found}


def examine(directory: Path, specimen: Specimen) -> dict[str, Any]:
    """Check with --data."""
    volume = open_volume(directory, specimen.key, read_only=True, whatever_state=True)
    try:
        report = _checked(volume)
    finally:
        volume.close()
    return {"problems": len(report.problems), "unreadable": [_shown(path) for path in report.unreadable()]}


def mend(directory: Path, specimen: Specimen) -> dict[str, Any]:
    """Repair as `check --repair` does, check again, and read everything."""
    rebuild_database(directory, specimen.key)
    volume = open_volume(directory, specimen.key, whatever_state=True)
    try:
        planned = repair.plan(volume, check(volume, data=True).readout)
        repair.apply(volume, planned)
        report = _checked(volume)
    finally:
        volume.close()
    filesystem = _opened(directory, specimen.key)
    try:
        found = read_tree(filesystem)
    finally:
        filesystem.close()
    return {
        "left": sorted({problem.text for problem in report.problems if problem.mendable}),
        "unreadable": [_shown(path) for path in report.unreadable()],
        "found": found,
    }


def _checked(volume: Volume) -> Report:
    renderer = Renderer(volume.contents, InlinePool(1))
    return check(volume, data=True, render=renderer.render)


def _shown(path: bytes) -> str:
    return "/" + path.decode(errors="backslashreplace")
