"""Crashes at every commit, below the mount: a process that is killed in it, and a disk that wrote part of it.

A round is a process, forked, that does a fixed workload on a copy of a volume and kills itself with SIGKILL before,
inside or after its N-th commit. N goes up until the workload ends. Pictures are worked on in the process itself, and
what that gave is remembered, so that a round takes a fraction of a second.

A power failure is more than that: what was not synced may be on the disk, or not, in any order. LMDB syncs the pages of
a commit before it writes the new root, so such a disk holds some of the pages that the commit changed, in whole or by
sectors, and the old root. The pages are found by comparing the file before and after each commit. Not covered: a disk
that lies about what it has synced, and damage to what was synced before.
"""

from __future__ import annotations

import contextlib
import enum
import os
import pickle
import random
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from crashtest_ledger import Kind, Operation, Seen

from dedupfs.filesystem.filesystem import FileSystem
from dedupfs.ingest import jobs
from dedupfs.ingest.pipeline import Pipeline
from dedupfs.ingest.renderer import Renderer
from dedupfs.ingest.workers import WorkerPool
from dedupfs.model import InodeNo
from dedupfs.storage.engine import Change, Engine, Snapshot
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.volume import Volume

GROUP_SECONDS = 3600.0
"""Commits happen where the workload asks for them, so that the N-th is the same one in every round."""
_PAGE_BYTES = 4096
_SECTOR_BYTES = 512
_ROOT_PAGES = 2
_WHOLE_BYTES = 1 << 30


class Moment(enum.StrEnum):
    """When the process is killed."""

    BEFORE = enum.auto()
    """The commit has not begun."""
    INSIDE = enum.auto()
    """Half of its changes are in LMDB's transaction, which has not been committed."""
    AFTER = enum.auto()
    """It is durable, and nobody has been told."""


@dataclass(frozen=True, slots=True)
class Fault:
    """The N-th commit, counted from 0, and the moment."""

    commit: int
    moment: Moment


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a workload had come: operations begun and ended, and the bytes that changes of files started from."""

    begun: int
    ended: int
    bases: dict[int, bytes]


class DyingEngine:
    """Another engine; the process ends at a fault."""

    def __init__(self, engine: Engine, fault: Fault) -> None:
        self._engine = engine
        self._fault = fault
        self._commits = 0

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """See Engine."""
        return self._engine.snapshot()

    def apply(self, changes: Iterable[Change]) -> None:
        """See Engine."""
        batch = list(changes)
        moment = self._fault.moment if self._commits == self._fault.commit else None
        self._commits += 1
        if moment is Moment.BEFORE:
            _die()
        if moment is Moment.INSIDE:
            middle = len(batch) // 2
            table, key, value = batch[middle]
            batch[middle] = (_DeadlyName(table), key, value)
        self._engine.apply(batch)
        if moment is Moment.AFTER:
            _die()

    def set_aside(self, size_bytes: int) -> None:
        """See Engine."""
        self._engine.set_aside(size_bytes)

    def allocated_bytes(self) -> int:
        """See Engine."""
        return self._engine.allocated_bytes()

    def free_bytes(self) -> int:
        """See Engine."""
        return self._engine.free_bytes()

    def total_bytes(self) -> int:
        """See Engine."""
        return self._engine.total_bytes()

    def close(self) -> None:
        """See Engine."""
        self._engine.close()


class _DeadlyName(str):
    """The name of a table; whoever looks the table up dies. The engine does so inside its transaction."""

    __slots__ = ()

    def __hash__(self) -> int:
        _die()

    def __eq__(self, other: object) -> bool:
        _die()


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


class RecordingEngine(DyingEngine):
    """Another engine; leaves behind what a disk may hold when the power fails in each of its commits."""

    def __init__(self, engine: Engine, data_file: Path, progress: Callable[[], Progress], out: Path, seed: str) -> None:
        super().__init__(engine, Fault(-1, Moment.BEFORE))
        self._data_file = data_file
        self._progress = progress
        self._out = out
        self._seed = seed
        self._number = 0

    def apply(self, changes: Iterable[Change]) -> None:
        """See Engine."""
        before, progress = self._data_file.read_bytes(), self._progress()
        super().apply(changes)
        image = torn(before, self._data_file.read_bytes(), f"{self._seed} {self._number}")
        (self._out / f"{self._number}").write_bytes(pickle.dumps((image, progress)))
        self._number += 1


def torn(before: bytes, after: bytes, seed: str) -> bytes:
    """Return what a disk may hold when the power fails in a commit before its root is written."""
    choice = random.Random(seed)
    size = choice.choice([len(before), len(after)])
    image = bytearray(before[:size].ljust(size, b"\0"))
    share = choice.choice([0.1, 0.5, 0.9, 1.0])
    for start in range(_ROOT_PAGES * _PAGE_BYTES, size, _PAGE_BYTES):
        if image[start : start + _PAGE_BYTES] == after[start : start + _PAGE_BYTES] or choice.random() > share:
            continue
        sectors = range(start, start + _PAGE_BYTES, _SECTOR_BYTES)
        whole = choice.random() < 0.7
        for sector in sectors:
            if whole or choice.random() < 0.5:
                image[sector : sector + _SECTOR_BYTES] = after[sector : sector + _SECTOR_BYTES]
    return bytes(image)


class InlinePool(WorkerPool):
    """Runs the jobs of workers in this process, and remembers what they gave; forked processes inherit that."""

    answers: ClassVar[dict[tuple[object, ...], Any]] = {}

    def __init__(self) -> None:
        super().__init__(1)

    def call(self, job: str, *arguments: object) -> Any:
        """See WorkerPool."""
        question = (job, *arguments)
        if question not in self.answers:
            try:
                self.answers[question] = getattr(jobs, job)(*arguments)
            except Exception as exc:  # noqa: BLE001  It is raised below, as it will be the next time.
                self.answers[question] = exc
        answer = self.answers[question]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """There is nothing to stop."""


@contextlib.contextmanager
def mounted_core(volume: Volume) -> Iterator[FileSystem]:
    """Serve a volume without FUSE; closed at the end."""
    pool = InlinePool()
    renderer = Renderer(volume.contents, pool)
    try:
        filesystem = FileSystem(volume, Pipeline(volume, pool, renderer), renderer)
    except BaseException:
        volume.close()
        raise
    try:
        yield filesystem
    finally:
        filesystem.close()


class CoreFolder:
    """Does the operations of a workload in the root directory of a FileSystem."""

    def __init__(self, filesystem: FileSystem) -> None:
        self._filesystem = filesystem
        self._files = filesystem.files
        self._held: int | None = None

    def perform(self, operation: Operation, keep: Callable[[bytes], None]) -> None:
        """Do it; `keep` gets what a file reads as before something of it is changed."""
        name, other = os.fsencode(operation.name), os.fsencode(operation.other)
        match operation.kind:
            case Kind.WRITE:
                self._write(name, operation.data)
            case Kind.EDIT | Kind.TRUNCATE:
                with self._opened(name, writable=True) as handle:
                    keep(self._files.read(handle, 0, _WHOLE_BYTES))
                    if operation.kind is Kind.EDIT:
                        self._files.write(handle, operation.offset, operation.data)
                    else:
                        self._filesystem.truncate(self._number(name), operation.offset)
            case Kind.RENAME:
                self._filesystem.rename(ROOT, name, ROOT, other)
            case Kind.LINK:
                self._filesystem.link(self._number(name), ROOT, other)
            case Kind.UNLINK:
                self._filesystem.unlink(ROOT, name)
            case Kind.HOLD:
                self.let_go()
                self._held = self._open(name, writable=False)
                self._files.read(self._held, 0, 1)
            case Kind.FSYNC:
                with self._opened(name, writable=False) as handle:
                    self._files.fsync(handle)
            case Kind.SYNC:
                self._filesystem.sync()
            case Kind.SETTLE:
                self._filesystem.settle()

    def let_go(self) -> None:
        """Close the file that is held."""
        if self._held is not None:
            self._files.release(self._held)
            self._held = None

    def read_all(self) -> dict[str, Seen]:
        """Return every file of the folder."""
        found = {}
        for entry in self._filesystem.list_directory(ROOT):
            if entry.name not in (b".", b".."):
                with self._opened(entry.name, writable=False) as handle:
                    found[os.fsdecode(entry.name)] = Seen(entry.inode, self._files.read(handle, 0, _WHOLE_BYTES))
        return found

    def _write(self, name: bytes, data: bytes) -> None:
        if name in {entry.name for entry in self._filesystem.list_directory(ROOT)}:
            self._filesystem.truncate(self._number(name), 0)
            handle = self._open(name, writable=True)
        else:
            _, handle = self._filesystem.create(ROOT, name, 0o644, 0, 0)
        if data:
            self._files.write(handle, 0, data)
        self._files.release(handle)

    def _number(self, name: bytes) -> InodeNo:
        return self._filesystem.lookup(ROOT, name)

    @contextlib.contextmanager
    def _opened(self, name: bytes, *, writable: bool) -> Iterator[int]:
        handle = self._open(name, writable=writable)
        try:
            yield handle
        finally:
            self._files.release(handle)

    def _open(self, name: bytes, *, writable: bool) -> int:
        return self._files.open(self._number(name), readable=True, writable=writable)
