"""Hard walls: a disk that is full, or fails, at every place where that can happen. Nothing that was accepted is lost
while the volume is mounted, and what can be stored at the end is."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import pytest
from crashtest_core import CoreFolder, InlinePool
from crashtest_ledger import DURABLE, Ledger
from crashtest_workload import Workload

from dedupfs.errors import StoreError, StoreFullError
from dedupfs.model import Policy
from dedupfs.storage.batches import PIECE_RECORDS
from dedupfs.storage.engine import Change, Engine
from dedupfs.storage.metadata import ROOT
from tests.filesystem.core import Core, rendition_of, sketch
from tests.storage.engines import FaultyEngine
from tests.volumes import make_volume

PHOTO = sketch(7, width_px=400, size=300_000)
COPY = sketch(7, width_px=200, coarseness=3)
SMALL = sketch(7, width_px=100, coarseness=5)
MEGABYTE = 1 << 20


class CappedEngine(FaultyEngine):
    """Another engine on a disk with so much room; a batch that does not fit is refused as a whole."""

    def __init__(self, engine: Engine, room_bytes: int) -> None:
        super().__init__(engine)
        self.room_bytes = room_bytes

    def apply(self, changes: Iterable[Change]) -> None:
        """See Engine."""
        batch = list(changes)
        if sum(len(key) + len(value or b"") for _, key, value in batch) > self.room_bytes:
            raise StoreFullError("no space left")
        super().apply(batch)

    def free_bytes(self) -> int:
        """See Engine."""
        return self.room_bytes


class NarrowEngine(FaultyEngine):
    """Another engine on a full disk: it takes small batches, and of those so many, then nothing more."""

    def __init__(self, engine: Engine, batches: int) -> None:
        super().__init__(engine)
        self._batches = batches

    def apply(self, changes: Iterable[Change]) -> None:
        """See Engine."""
        batch = list(changes)
        if len(batch) > PIECE_RECORDS + 1 or len(self.applied) == self._batches:
            raise StoreFullError("no space left")
        super().apply(batch)


@contextmanager
def failing(core: Core, failure: StoreError) -> Iterator[FaultyEngine]:
    """Let no commit succeed inside the block."""
    sound = core.volume.store.engine
    engine = FaultyEngine(sound)
    engine.failure = failure
    core.volume.store.engine = engine
    try:
        yield engine
    finally:
        core.volume.store.engine = sound


@pytest.mark.parametrize("failure", [StoreFullError("full"), StoreError("input/output error")], ids=["full", "broken"])
@pytest.mark.parametrize("policy", [Policy.VERIFIED, Policy.PERCEPTUAL])
@pytest.mark.parametrize("seed", range(3))
def test_a_disk_that_fails_for_a_while_loses_nothing(
    tmp_path: Path, policy: Policy, failure: StoreError, seed: int
) -> None:
    """Whatever is done meanwhile: each fsync says so, and afterwards everything is as if nothing had happened."""
    directory = make_volume(tmp_path / "volume", policy)
    core = Core(directory, InlinePool())
    stream, ledger = Workload(f"walls {seed}"), Ledger({}, policy)
    folder = CoreFolder(core.filesystem)
    try:
        for number in range(70):
            operation = stream.next()
            fails = number % 20 >= 8
            base: list[bytes] = []
            if not fails:
                folder.perform(operation, base.append)
            else:
                may_fail = suppress(type(failure)) if operation.kind in DURABLE else nullcontext()
                with failing(core, failure), may_fail:
                    folder.perform(operation, base.append)
            ledger.note(operation, ended=True, base=base[0] if base else None)
        folder.let_go()
        core.filesystem.settle()
        assert ledger.explain(folder.read_all()) is not None
        assert core.problems() == []
        assert core.counter("undecided") == 0
    finally:
        core.filesystem.close()
    again = Core(directory, InlinePool())
    assert ledger.explain(CoreFolder(again.filesystem).read_all()) is not None
    again.filesystem.close()


@pytest.mark.parametrize("batches", [1, 2, 3])
def test_the_power_may_fail_between_the_pieces_of_a_commit(tmp_path: Path, batches: int) -> None:
    """A batch that has no room as a whole is written in pieces; each leaves the volume as it was after an operation."""
    directory = make_volume(tmp_path / "volume", Policy.VERIFIED)
    core = Core(directory, InlinePool())
    folder, ledger = CoreFolder(core.filesystem), Ledger({})
    stream = Workload(f"pieces {batches}")
    operations = [operation for operation in (stream.next() for _ in range(90)) if operation.kind not in DURABLE]
    core.volume.store.engine = engine = NarrowEngine(core.volume.store.engine, batches)
    # Nothing is committed before all of it waits.
    engine.failure = StoreFullError("full")
    for operation in operations:
        base: list[bytes] = []
        folder.perform(operation, base.append)
        ledger.note(operation, ended=True, base=base[0] if base else None)
    folder.let_go()
    core.pipeline.wait_idle()
    engine.failure = None
    with suppress(StoreFullError):
        core.volume.store.commit()
    assert len(engine.applied) >= batches
    core.crash()
    core = Core(directory, InlinePool())
    assert core.problems() == []
    assert ledger.explain(CoreFolder(core.filesystem).read_all()) is not None
    core.filesystem.close()


@pytest.mark.parametrize("crash", [False, True])
def test_a_promotion_on_a_full_disk_happens_later_or_not_at_all(volume_directory: Path, crash: bool) -> None:
    core = Core(volume_directory)
    core.put(b"small", SMALL)
    core.filesystem.settle()
    core.put(b"copy", COPY)
    core.filesystem.settle()
    core.put(b"photo", PHOTO)
    with failing(core, StoreFullError("full")):
        with pytest.raises(StoreFullError):
            core.filesystem.settle()
        assert core.read(b"photo") == PHOTO
        assert core.read(b"copy") in (COPY, rendition_of(COPY))
        if crash:
            core.crash()
    if crash:
        core = Core(volume_directory)
        assert {entry.name for entry in core.filesystem.list_directory(ROOT)} == {b".", b"..", b"small", b"copy"}
        assert core.read(b"copy") == COPY
    else:
        core.filesystem.settle()
        assert core.read(b"photo") == PHOTO
        assert core.is_rendition(b"copy")
        assert core.is_rendition(b"small")
    assert core.problems() == []
    core.filesystem.close()


def test_a_stored_picture_whose_decision_found_no_room_is_decided_about_when_there_is(
    volume_directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise StoreFullError("full")

    core = Core(volume_directory)
    core.put(b"photo", PHOTO)
    core.filesystem.settle()
    with monkeypatch.context() as patched:
        patched.setattr(core.volume.contents, "become_rendition", refuse)
        core.put(b"copy", COPY, fsync=True)
        core.pipeline.wait_idle()
        assert core.files.unsettled() == 1
        assert core.counter("undecided") == 1
    assert "could not be stored yet" in caplog.text
    core.filesystem.settle()
    assert core.files.unsettled() == 0
    assert core.is_rendition(b"copy")
    assert core.problems() == []
    core.filesystem.close()


def write_open(core: Core, name: bytes, size: int) -> None:
    """Write a new file that stays open, so that nothing of it is stored."""
    _, handle = core.filesystem.create(ROOT, name, 0o644, 0, 0)
    core.files.write(handle, 0, b"\1" * size)


def test_what_fits_is_stored_at_the_end_on_a_full_disk(
    volume_directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    core = Core(volume_directory, last_seconds=0)
    write_open(core, b"large", 9 * MEGABYTE)
    write_open(core, b"small", 10_000)
    core.filesystem.make_directory(ROOT, b"directory", 0o755, 0, 0)
    core.volume.store.engine = CappedEngine(core.volume.store.engine, 600_000)
    with pytest.raises(StoreFullError):
        core.filesystem.close()
    assert "the disk is full" in caplog.text
    core = Core(volume_directory)
    assert core.read(b"small") == b"\1" * 10_000
    names = {entry.name for entry in core.filesystem.list_directory(ROOT)}
    assert names == {b".", b"..", b"small", b"directory"}
    assert core.problems() == []
    core.filesystem.close()


def test_the_end_waits_for_room(volume_directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    core = Core(volume_directory, last_seconds=20)
    write_open(core, b"file", 3 * MEGABYTE)
    engine = CappedEngine(core.volume.store.engine, 300_000)
    core.volume.store.engine = engine

    def make_room() -> None:
        engine.room_bytes = 1 << 40

    timer = threading.Timer(0.3, make_room)
    timer.start()
    core.filesystem.close()
    timer.join()
    assert [record.levelno for record in caplog.records if "the disk is full" in record.message] == [logging.ERROR]
    core = Core(volume_directory)
    assert core.read(b"file") == b"\1" * (3 * MEGABYTE)
    core.filesystem.close()


def test_deleting_works_when_nothing_else_fits(volume_directory: Path) -> None:
    core = Core(volume_directory)
    core.put(b"kept", b"\1" * MEGABYTE, fsync=True)
    core.put(b"gone", b"\2" * MEGABYTE, fsync=True)
    core.volume.store.engine = CappedEngine(core.volume.store.engine, 200_000)
    core.files.room._looked_up = float("-inf")
    with pytest.raises(StoreFullError):
        core.put(b"more", b"\3" * MEGABYTE)
    core.filesystem.unlink(ROOT, b"gone")
    core.filesystem.sync()
    assert core.read(b"kept") == b"\1" * MEGABYTE
    core.crash()
    core = Core(volume_directory)
    assert {entry.name for entry in core.filesystem.list_directory(ROOT)} == {b".", b"..", b"kept"}
    assert core.problems() == []
    core.filesystem.close()
