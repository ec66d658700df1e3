"""FileSystem over a volume and a pool that answers at once, without processes and without pictures.

A sketch is a stand-in for a photo: a header that says what it shows, how large and how coarse it is, and filler that
follows from the header. The pool finds two sketches of one scene alike, and makes renditions that differ from what was
written in their last byte, so that a test can tell which of the two it reads.
"""

from __future__ import annotations

import hashlib
import random
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dedupfs.errors import UndecodableError, WorkerError
from dedupfs.filesystem.filesystem import FileSystem
from dedupfs.ingest.facts import PictureFacts
from dedupfs.ingest.outcome import Fit, Misfit
from dedupfs.ingest.pipeline import Pipeline
from dedupfs.ingest.renderer import Renderer
from dedupfs.ingest.workers import WorkerPool
from dedupfs.model import Differences, Fingerprint, InodeNo, PictureFormat, Policy
from dedupfs.storage.check import check
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.records import Exact, Rendition
from tests.volumes import opened_volume

_HEADER = struct.Struct(">4sHHB")
_MAGIC = b"\xff\xd8\xff\xe0"
BROKEN_SCENE = 0
CRASHING_SCENE = 1


def sketch(scene: int, width_px: int = 100, coarseness: int = 0, size: int = 6000) -> bytes:
    """Return a stand-in for a photo, of `size` bytes."""
    header = _HEADER.pack(_MAGIC, scene, width_px, coarseness)
    return header + random.Random(header).randbytes(size - len(header) - 1) + b"W"


def rendition_of(data: bytes) -> bytes:
    """Return what is read back of a sketch that is kept as a rendition."""
    return data[:-1] + b"R"


class SketchPool(WorkerPool):
    """Answers for sketches, on the thread that asks. `held` keeps answers back; `calls` counts them."""

    def __init__(self, workers: int = 1) -> None:
        super().__init__(workers)
        self.calls: list[str] = []
        self.asked = threading.Event()
        self._gate = threading.Event()
        self._gate.set()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Answer nothing inside the block."""
        self.asked.clear()
        self._gate.clear()
        try:
            yield
        finally:
            self._gate.set()

    def call(self, job: str, *arguments: Any) -> Any:
        self.calls.append(job)
        self.asked.set()
        assert self._gate.wait(20)
        answers: dict[str, Callable[..., object]] = {
            "inspect": _inspect,
            "fit": _fit,
            "is_made_from": lambda picture, source: False,
            "look": _look,
            "render": _render,
        }
        return answers[job](*arguments)

    def close(self) -> None:
        """There is nothing to stop."""


def _inspect(data: bytes) -> PictureFacts:
    _, scene, width_px, coarseness = _HEADER.unpack_from(data)
    whole = sketch(scene, width_px, coarseness, len(data))
    if scene == BROKEN_SCENE or data not in (whole, rendition_of(whole)):
        raise UndecodableError("broken")
    if scene == CRASHING_SCENE:
        raise WorkerError("the worker process ended")
    fingerprint = Fingerprint(hashlib.sha256(bytes([scene])).digest())
    return PictureFacts(PictureFormat.JPEG, width_px, width_px, 1, coarseness, False, fingerprint)


def _fit(member: bytes, base: bytes, policy: Policy, exact_only: bool = False) -> Fit | Misfit:
    _, scene, width_px, coarseness = _HEADER.unpack_from(member)
    _, base_scene, base_width_px, base_coarseness = _HEADER.unpack_from(base)
    if scene != base_scene or base_width_px < width_px or base_coarseness > coarseness:
        return Misfit("pixels", None)
    if exact_only:
        return Misfit("inexact", None)
    made = rendition_of(member)
    digest = hashlib.sha256(made).digest()
    return Fit(b"recipe", member[: _HEADER.size], Differences(1.0, 1.0, 0.5, 0.5, 0.0), False, digest, _look(made))


def _look(data: bytes) -> bytes:
    return hashlib.sha256(data[: _HEADER.size]).digest()


def _render(base: bytes, recipe: bytes, own: bytes, size: int) -> bytes:
    _, scene, width_px, coarseness = _HEADER.unpack(own)
    return rendition_of(sketch(scene, width_px, coarseness, size))


class Core:
    """A FileSystem with everything below it."""

    def __init__(
        self,
        directory: Path,
        pool: WorkerPool | None = None,
        *,
        read_only: bool = False,
        budget_bytes: int = 64 << 20,
        last_seconds: float = 0.0,
    ) -> None:
        self.volume = opened_volume(directory, read_only=read_only)
        self.pool = pool or SketchPool()
        self.renderer = Renderer(self.volume.contents, self.pool)
        self.pipeline = Pipeline(self.volume, self.pool, self.renderer)
        self.filesystem = FileSystem(
            self.volume, self.pipeline, self.renderer, spool_budget_bytes=budget_bytes, last_seconds=last_seconds
        )
        self.files = self.filesystem.files

    def put(self, name: bytes, data: bytes = b"", *, fsync: bool = False) -> InodeNo:
        """Write a new file as `cp` does."""
        number, handle = self.filesystem.create(ROOT, name, 0o644, 0, 0)
        if data:
            self.files.write(handle, 0, data)
        if fsync:
            self.files.fsync(handle)
        self.files.release(handle)
        return number

    def open(self, name: bytes, *, writable: bool = False) -> int:
        """Open a file by name and return the handle."""
        number = self.filesystem.lookup(ROOT, name)
        return self.files.open(number, readable=True, writable=writable)

    def read(self, name: bytes) -> bytes:
        """Return what a file reads as."""
        handle = self.open(name)
        try:
            return self.files.read(handle, 0, 1 << 30)
        finally:
            self.files.release(handle)

    def edit(self, name: bytes, offset: int, data: bytes) -> None:
        """Write into a file that is there."""
        handle = self.open(name, writable=True)
        self.files.write(handle, offset, data)
        self.files.release(handle)

    def content(self, name: bytes) -> Exact | Rendition | None:
        """Return how a file is kept."""
        inode = self.volume.metadata.inode(self.filesystem.lookup(ROOT, name))
        return self.volume.contents.get(inode.content) if inode.content is not None else None

    def is_rendition(self, name: bytes) -> bool:
        """Whether a file is kept as a reference."""
        return isinstance(self.content(name), Rendition)

    def counter(self, name: str) -> int:
        """Return one of the volume's totals."""
        return self.volume.store.counters.get(name, 0)

    def problems(self) -> list[str]:
        """Return what `check` finds once everything is settled."""
        if not self.volume.store.read_only:
            self.filesystem.settle()
        report = check(self.volume, data=True, render=self.renderer.render)
        return [problem.text for problem in report.problems]

    def crash(self) -> None:
        """Let go of the volume as a power cut would: what was not committed is lost."""
        self.files.stop()
        self.pipeline.close()
        self.volume.store.engine.apply = _refuse  # type: ignore[method-assign]
        try:
            self.volume.close()
        except ConnectionAbortedError:
            return


def _refuse(changes: object) -> None:
    raise ConnectionAbortedError("the power is off")
