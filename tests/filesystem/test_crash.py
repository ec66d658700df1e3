"""After a power cut the volume is as it was at some moment since the last fsync, and nothing in it is half there."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from crashtest_core import torn
from crashtest_ledger import Kind, Ledger, Operation, Seen, is_kept
from crashtest_workload import pictures
from PIL import Image

from dedupfs.errors import EntryNotFoundError, IntegrityError, StoreError, StoreFullError
from dedupfs.filesystem import files as open_files
from dedupfs.model import Policy
from dedupfs.storage.metadata import ROOT
from tests.filesystem.core import Core, SketchPool, rendition_of, sketch

PHOTO = sketch(7, width_px=400, size=300_000)
COPY = sketch(7, width_px=200, coarseness=3)


def after_a_crash(directory: Path, happens: Callable[[Core], None]) -> Core:
    """Let something happen, cut the power, and return the volume as the next mount finds it."""
    core = Core(directory)
    happens(core)
    core.crash()
    return Core(directory)


def names(core: Core) -> set[bytes]:
    return {entry.name for entry in core.filesystem.list_directory(ROOT)} - {b".", b".."}


def assert_sound(core: Core) -> None:
    try:
        assert core.problems() == []
    finally:
        core.filesystem.close()


def test_what_was_fsynced_is_there(volume_directory: Path) -> None:
    core = after_a_crash(volume_directory, lambda core: void(core.put(b"photo", PHOTO, fsync=True)))
    assert core.read(b"photo") == PHOTO
    assert_sound(core)


def test_a_new_file_that_was_not_stored_is_absent_under_every_name(volume_directory: Path) -> None:
    def happens(core: Core) -> None:
        with core.pool.held():  # type: ignore[attr-defined]
            number = core.put(b"photo", PHOTO)
            core.filesystem.link(number, ROOT, b"second")
            core.filesystem.rename(ROOT, b"photo", ROOT, b"renamed")
            core.filesystem.sync()
            core.volume.store.engine.apply = _power_off  # type: ignore[method-assign]

    core = after_a_crash(volume_directory, happens)
    assert names(core) == set()
    assert core.counter("files") == 0
    assert_sound(core)


def test_an_old_file_keeps_its_bytes_until_the_new_ones_are_stored(volume_directory: Path) -> None:
    def happens(core: Core) -> None:
        core.put(b"file", b"old" * 1000, fsync=True)
        handle = core.open(b"file", writable=True)
        core.filesystem.truncate(core.filesystem.lookup(ROOT, b"file"), 0)
        core.files.write(handle, 0, b"new")
        core.filesystem.sync()

    core = after_a_crash(volume_directory, happens)
    assert core.read(b"file") == b"old" * 1000
    assert_sound(core)


@pytest.mark.parametrize("data", [b"new", PHOTO], ids=["plain", "picture"])
def test_a_file_renamed_over_another_never_leaves_neither(volume_directory: Path, data: bytes) -> None:
    def happens(core: Core) -> None:
        core.put(b"file", b"old", fsync=True)
        with core.pool.held():  # type: ignore[attr-defined]
            core.put(b"file.new", data)
            core.filesystem.rename(ROOT, b"file.new", ROOT, b"file")
            core.filesystem.sync()
            core.volume.store.engine.apply = _power_off  # type: ignore[method-assign]

    core = after_a_crash(volume_directory, happens)
    assert names(core) == {b"file"}
    assert core.read(b"file") == data
    assert_sound(core)


def test_an_empty_file_renamed_over_another_while_it_is_open_is_there(volume_directory: Path) -> None:
    def happens(core: Core) -> None:
        core.put(b"name", b"old bytes")
        core.filesystem.settle()
        core.filesystem.create(ROOT, b"new", 0o644, 0, 0)
        core.filesystem.rename(ROOT, b"new", ROOT, b"name")
        core.volume.store.commit()

    core = after_a_crash(volume_directory, happens)
    assert names(core) == {b"name"}
    assert_sound(core)


def test_an_empty_file_that_stays_open_is_there_once_all_is_settled(volume_directory: Path) -> None:
    """A log file, say."""

    def happens(core: Core) -> None:
        core.filesystem.create(ROOT, b"log", 0o644, 0, 0)
        core.filesystem.settle()

    core = after_a_crash(volume_directory, happens)
    assert names(core) == {b"log"}
    assert_sound(core)


def refuse_to_store(damaged: bytes, core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a core fail whenever a chunk of these bytes is to be stored."""
    prepare_chunk = core.volume.contents.prepare_chunk

    def refuse(data: bytes) -> object:
        if data == damaged:
            raise IntegrityError("damaged")
        return prepare_chunk(data)

    monkeypatch.setattr(core.volume.contents, "prepare_chunk", refuse)


def test_a_file_that_cannot_be_stored_takes_no_other_along(
    volume_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = Core(volume_directory)
    for name in (b"damaged", b"sound"):
        _, handle = core.filesystem.create(ROOT, name, 0o644, 0, 0)
        core.files.write(handle, 0, name)
    refuse_to_store(b"damaged", core, monkeypatch)
    with pytest.raises(IntegrityError):
        core.filesystem.close()
    core = Core(volume_directory)
    assert names(core) == {b"sound"}
    assert core.read(b"sound") == b"sound"
    assert_sound(core)


def test_a_file_that_cannot_be_stored_keeps_nobody_from_writing_another(
    volume_directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    core = Core(volume_directory, budget_bytes=0)
    damaged, handle = core.filesystem.create(ROOT, b"damaged", 0o644, 0, 0)
    core.files.write(handle, 0, b"damaged")
    refuse_to_store(b"damaged", core, monkeypatch)
    core.put(b"sound", b"sound")
    core.filesystem.sync()
    assert core.read(b"sound") == b"sound"
    assert f"inode {damaged} could not be stored yet: damaged" in caplog.text
    monkeypatch.undo()
    core.filesystem.close()


@pytest.mark.parametrize("order", ["remove and rename", "set aside, rename and remove"])
def test_a_file_that_is_removed_for_another_never_leaves_neither(volume_directory: Path, order: str) -> None:
    """Programs that do not rename over a file remove it first, and give its name to the new one."""

    def happens(core: Core) -> None:
        core.put(b"photo", PHOTO)
        core.filesystem.settle()
        _, handle = core.filesystem.create(ROOT, b"new", 0o644, 0, 0)
        core.files.write(handle, 0, COPY)
        if order == "remove and rename":
            core.filesystem.unlink(ROOT, b"photo")
            core.filesystem.rename(ROOT, b"new", ROOT, b"photo")
        else:
            core.filesystem.rename(ROOT, b"photo", ROOT, b"old")
            core.filesystem.rename(ROOT, b"new", ROOT, b"photo")
            core.filesystem.unlink(ROOT, b"old")
        core.filesystem.sync()

    core = after_a_crash(volume_directory, happens)
    assert names(core) == {b"photo"}
    assert core.read(b"photo") in (COPY, rendition_of(COPY))
    assert_sound(core)


def test_what_is_removed_makes_no_other_folder_store_what_waits(core_of_crashes: Core) -> None:
    folder = core_of_crashes.filesystem.make_directory(ROOT, b"folder", 0o755, 0, 0)
    core_of_crashes.put(b"photo", PHOTO)
    core_of_crashes.filesystem.settle()
    number, handle = core_of_crashes.filesystem.create(folder, b"new", 0o644, 0, 0)
    core_of_crashes.files.write(handle, 0, COPY)
    core_of_crashes.filesystem.unlink(ROOT, b"photo")
    assert core_of_crashes.volume.metadata.inode(number).content is None
    core_of_crashes.files.release(handle)


@pytest.fixture
def core_of_crashes(volume_directory: Path) -> Iterator[Core]:
    core = Core(volume_directory)
    yield core
    core.filesystem.close()


def test_what_waits_is_stored_in_time_whatever_happened_before(
    volume_directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Memory may be short for a moment, and nobody else stores a file that stays open."""
    monkeypatch.setattr(open_files, "_TEND_SECONDS", 0.01)
    monkeypatch.setattr(open_files, "UNSAVED_MAX_SECONDS", 0.0)
    core = Core(volume_directory)
    prepare_chunk, failed = core.volume.contents.prepare_chunk, threading.Event()

    def fail(data: bytes) -> object:
        failed.set()
        raise MemoryError

    monkeypatch.setattr(core.volume.contents, "prepare_chunk", fail)
    number, handle = core.filesystem.create(ROOT, b"file", 0o644, 0, 0)
    core.files.write(handle, 0, b"bytes")
    assert failed.wait(20)
    monkeypatch.setattr(core.volume.contents, "prepare_chunk", prepare_chunk)
    deadline = time.monotonic() + 20
    while core.volume.metadata.inode(number).content is None:
        assert time.monotonic() < deadline, "it is never stored"
        time.sleep(0.01)
    core.files.release(handle)
    core.filesystem.close()
    assert f"inode {number} could not be stored" in caplog.text


def test_what_waits_is_stored_in_time_while_the_end_waits_for_decisions(
    volume_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that shuts down kills what takes too long, and decisions may."""
    monkeypatch.setattr(open_files, "_TEND_SECONDS", 0.01)
    pool = SketchPool()
    core = Core(volume_directory, pool)
    with pool.held():
        core.put(b"photo", PHOTO)
        assert pool.asked.wait(20)
        end = threading.Thread(target=core.filesystem.close)
        end.start()
        monkeypatch.setattr(open_files, "UNSAVED_MAX_SECONDS", 0.0)
        deadline = time.monotonic() + 5
        while not core.volume.contents.undecided() and time.monotonic() < deadline:
            time.sleep(0.01)
        stored = core.volume.contents.undecided()
    end.join(20)
    assert stored, "it is in memory alone"
    core = Core(volume_directory)
    assert core.read(b"photo") == PHOTO and not core.volume.contents.undecided()
    assert_sound(core)


def test_a_removed_file_that_was_open_is_gone(volume_directory: Path) -> None:
    def happens(core: Core) -> None:
        core.put(b"file", b"bytes" * 1000, fsync=True)
        core.open(b"file")
        core.filesystem.unlink(ROOT, b"file")
        core.filesystem.sync()

    core = after_a_crash(volume_directory, happens)
    assert names(core) == set()
    assert core.counter("stored_bytes") == 0
    assert_sound(core)


def test_a_decision_that_was_not_taken_is_taken_by_the_next_mount(volume_directory: Path) -> None:
    def happens(core: Core) -> None:
        core.put(b"photo", PHOTO)
        core.filesystem.settle()
        _, handle = core.filesystem.create(ROOT, b"copy", 0o644, 0, 0)
        core.files.write(handle, 0, COPY)
        core.files.fsync(handle)

    core = after_a_crash(volume_directory, happens)
    assert core.volume.contents.undecided() or core.is_rendition(b"copy")
    core.filesystem.settle()
    assert core.read(b"copy") == rendition_of(COPY)
    assert_sound(core)


def test_nothing_is_written_where_only_reading_was_asked_for(volume_directory: Path) -> None:
    first = Core(volume_directory)
    first.put(b"photo", PHOTO)
    first.filesystem.close()
    before = (volume_directory / "data.mdb").read_bytes()
    core = Core(volume_directory, read_only=True)
    assert core.read(b"photo") == PHOTO
    with pytest.raises(StoreError):
        core.open(b"photo", writable=True)
    with pytest.raises(StoreError):
        core.put(b"new", b"bytes")
    core.filesystem.close()
    assert (volume_directory / "data.mdb").read_bytes() == before


def test_a_full_disk_refuses_bytes_and_keeps_the_rest(volume_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core = Core(volume_directory)
    core.put(b"kept", PHOTO, fsync=True)
    with monkeypatch.context() as patched:
        patched.setattr(core.volume.store.engine, "free_bytes", lambda: 0)
        core.files.room._looked_up = float("-inf")
        _, handle = core.filesystem.create(ROOT, b"refused", 0o644, 0, 0)
        with pytest.raises(StoreFullError):
            core.files.write(handle, 0, b"bytes")
        core.files.release(handle)
        core.filesystem.unlink(ROOT, b"refused")
    assert core.read(b"kept") == PHOTO
    with pytest.raises(EntryNotFoundError):
        core.read(b"refused")
    core.put(b"again", COPY)
    assert_sound(core)


# scripts/crashtest, which kills processes


def test_nothing_is_lost_at_any_commit_of_a_workload(tmp_path: Path) -> None:
    """A short run of the script: each commit of a workload with the power cut in it and killed around it."""
    script = Path(__file__).parents[2] / "scripts" / "crashtest.py"
    arguments = ["--mode", "commits", "--rounds", "60", "--steps", "9", "--seed", "short", "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, script, *arguments, "--json"],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    summary = json.loads(done.stdout)
    assert (summary["rounds"], summary["losses"]) == ({"commits": 60}, [])
    assert list(tmp_path.iterdir()) == []


NEW, OLD, HALF = b"new bytes", b"old bytes", b"new by"


def ledger_of(*operations: Operation, ended: int) -> Ledger:
    """Return the notes of operations that began, of which so many ended, in a folder with one file."""
    ledger = Ledger({"old": (1, OLD)})
    for number, operation in enumerate(operations):
        ledger.note(operation, ended=number < ended)
    return ledger


def seen(**files: bytes) -> dict[str, Seen]:
    """Return files as they are found, each an inode of its own."""
    return {name: Seen(number, data) for number, (name, data) in enumerate(files.items())}


WRITE = Operation(Kind.WRITE, "new", data=NEW)
FSYNC = Operation(Kind.FSYNC, "new")
RENAME = Operation(Kind.RENAME, "new", "old")


@pytest.mark.parametrize(
    ("operations", "ended", "allowed", "losses"),
    [
        ([WRITE], 1, [{"old": OLD}, {"old": OLD, "new": NEW}], [{}, {"old": OLD, "new": HALF}, {"old": NEW}]),
        ([WRITE, FSYNC], 2, [{"old": OLD, "new": NEW}], [{"old": OLD}, {"old": OLD, "new": b""}]),
        ([WRITE, FSYNC], 1, [{"old": OLD}, {"old": OLD, "new": NEW}], [{"old": OLD, "new": b""}]),
        ([WRITE, RENAME], 1, [{"old": OLD}, {"old": OLD, "new": NEW}, {"old": NEW}], [{}, {"new": NEW}, {"old": b""}]),
        ([WRITE, RENAME, FSYNC], 2, [{"old": OLD}, {"old": NEW}], [{}, {"new": NEW}]),
        ([Operation(Kind.WRITE, "old", data=NEW)], 1, [{"old": OLD}, {"old": NEW}, {"old": b""}], [{}, {"old": HALF}]),
        ([Operation(Kind.UNLINK, "old"), Operation(Kind.SYNC)], 2, [{}], [{"old": OLD}]),
        ([Operation(Kind.LINK, "old", "two")], 1, [{"old": OLD}], [{"two": OLD}, {"old": OLD, "two": OLD}]),
    ],
)
def test_the_ledger_tells_a_crash_from_a_loss(
    operations: list[Operation], ended: int, allowed: list[dict[str, bytes]], losses: list[dict[str, bytes]]
) -> None:
    """A test of crashes that finds nothing wrong proves nothing unless it can."""
    for files in allowed:
        assert ledger_of(*operations, ended=ended).explain(seen(**files)) is not None, files
    for files in losses:
        assert ledger_of(*operations, ended=ended).explain(seen(**files)) is None, files


def test_two_names_of_one_file_stay_two_names_of_one_file() -> None:
    ledger = ledger_of(Operation(Kind.LINK, "old", "two"), ended=1)
    assert ledger.explain({"old": Seen(5, OLD), "two": Seen(5, OLD)}) is not None


def test_the_ledger_asks_of_each_policy_what_it_promises() -> None:
    """A small red patch is another picture, but hardly another fingerprint; a photo of something else is both."""
    plain, patched, strange = (Image.open(io.BytesIO(pictures()[number])) for number in (0, 5, 6))
    drawn = []
    for picture in (plain, patched, strange.resize(plain.size)):
        out = io.BytesIO()
        picture.resize((100, 75)).save(out, "BMP")
        drawn.append(out.getvalue())
    written, read, other = drawn
    assert not is_kept(written, read)
    assert is_kept(written, read, Policy.PERCEPTUAL)
    assert not is_kept(written, other, Policy.PERCEPTUAL)


def test_a_torn_commit_has_the_old_root_and_some_of_the_new_pages() -> None:
    before, after = bytes(4096 * 8), b"\1" * (4096 * 9)
    images = [torn(before, after, str(seed)) for seed in range(30)]
    assert all(image[: 2 * 4096] == before[: 2 * 4096] for image in images)
    assert len(set(images)) > 20
    assert {len(image) for image in images} == {len(before), len(after)}
    assert any(sum(image) % 4096 > 0 for image in images), "no page was ever torn"


def void(_: object) -> None:
    """Make a statement of an expression."""


def _power_off(changes: object) -> None:
    raise ConnectionAbortedError("the power is off")
