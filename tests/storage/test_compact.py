"""Compaction gives room back and nothing else: every way to fail, to stop or to crash leaves the volume as it was."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dedupfs.errors import IntegrityError, StoreError, StoreFullError, StoreLockedError
from dedupfs.storage import compact as compaction
from dedupfs.storage import header_copies
from dedupfs.storage.check import check
from dedupfs.storage.compact import FOLDER, Compacted, Disk
from dedupfs.storage.lmdb_engine import DATA_FILE, LOCK_FILE, LmdbEngine
from dedupfs.storage.report import Problem
from dedupfs.storage.volume import compact_volume, lock_directory, open_volume, unlock
from tests.conftest import PASSPHRASE, reopen
from tests.storage.tree import Tree, problems

TABLES = ("one", "two")
KEPT = {b"%03d" % number: random.Random(number).randbytes(3000) for number in range(60)}
LATER = {b"later": b"written after the compaction"}

READER = """
import sys
from pathlib import Path
from dedupfs.storage.lmdb_engine import LmdbEngine
engine = LmdbEngine(Path(sys.argv[1]), ("one", "two"), read_only=True)
while True:
    with engine.snapshot() as snapshot:
        print(len(list(snapshot.scan("one"))), flush=True)
    if not sys.stdin.readline():
        break
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A database of which a good part is free pages."""
    made = tmp_path / "database"
    made.mkdir()
    engine = LmdbEngine(made, TABLES, create=True)
    engine.apply([("two", b"large", bytes(1 << 20)), *(("one", key, value) for key, value in KEPT.items())])
    engine.apply([("two", b"large", None), ("two", b"small", b"value")])
    engine.close()
    return made


def content(directory: Path) -> dict[bytes, bytes]:
    """Return a table, read by a writer: it has to like the lock file too."""
    engine = LmdbEngine(directory, TABLES)
    try:
        with engine.snapshot() as snapshot:
            assert dict(snapshot.scan("two")) == {b"small": b"value"}
            return dict(snapshot.scan("one"))
    finally:
        engine.close()


def write(directory: Path, changes: dict[bytes, bytes]) -> None:
    engine = LmdbEngine(directory, TABLES)
    engine.apply(("one", key, value) for key, value in changes.items())
    engine.close()


def compact(directory: Path, disk: Disk | None = None, progress: Callable[[int, int], None] | None = None) -> Compacted:
    return compaction.compact(directory, TABLES, progress=progress or (lambda done, total: None), disk=disk or Disk())


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


class StepDisk(Disk):
    """Calls `before` with the number of each step and its name before the step is done."""

    def __init__(self, before: Callable[[int, str], None]) -> None:
        self.steps: list[str] = []
        self._before = before

    def __getattribute__(self, name: str) -> Any:
        step = super().__getattribute__(name)
        if name not in vars(Disk) or name.startswith("_"):
            return step

        def counted(*arguments: Any) -> Any:
            self.steps.append(name)
            self._before(len(self.steps), name)
            return step(*arguments)

        return counted


class PowerCutError(BaseException):
    """From here on nothing reaches the disk."""


# What it is for


def test_room_is_given_back_and_every_record_stays(directory: Path) -> None:
    before = os.stat(directory / DATA_FILE)
    compacted = compact(directory)
    after = os.stat(directory / DATA_FILE)
    assert compacted == Compacted(before.st_blocks * 512, after.st_blocks * 512)
    assert after.st_size < before.st_size - (1 << 20)
    assert content(directory) == KEPT
    assert names(directory) == [DATA_FILE, LOCK_FILE]
    write(directory, LATER)
    assert content(directory) == KEPT | LATER


def test_a_volume_is_sound_afterwards_and_its_files_are_whose_they_were(volume_directory: Path) -> None:
    volume = reopen(volume_directory)
    tree = Tree(volume)
    kept = random.Random(1).randbytes(300_000)
    tree.add(b"kept", kept)
    tree.add(b"removed", random.Random(2).randbytes(2_000_000))
    volume.store.commit()
    tree.remove(b"removed")
    inodes = tree.inodes
    volume.close()
    owned = [volume_directory / DATA_FILE, volume_directory / LOCK_FILE]
    for path in owned:
        path.chmod(0o640)
        if os.geteuid() == 0:
            os.chown(path, 4711, 4712)
    before = names(volume_directory), [path.stat()[:1] + path.stat()[4:6] for path in owned]
    examined: list[Problem] = []
    key = unlock(volume_directory, PASSPHRASE)
    compacted = compact_volume(volume_directory, key, lambda found: examined.extend(check(found).problems))
    assert examined == []
    assert compacted.after_bytes < compacted.before_bytes - 1_900_000
    assert (names(volume_directory), [path.stat()[:1] + path.stat()[4:6] for path in owned]) == before
    volume = reopen(volume_directory)
    tree.volume, tree.inodes = volume, inodes
    assert tree.read(b"kept") == kept
    assert problems(volume) == []
    volume.close()


def test_freed_chunks_are_used_again(volume_directory: Path) -> None:
    """240 files replaced one by one, four times what is there, end at 1.28 to 1.36 of the most that was live
    (eight runs); 3,000 replacements end at 1.33 and 1.36, and stand there from the first 600 on."""
    volume = reopen(volume_directory)
    tree, draw, most = Tree(volume), random.Random(5), 0
    for number in range(60):
        tree.add(b"%d" % number, draw.randbytes(draw.randint(50_000, 200_000)))
    for _ in range(240):
        name = draw.choice(sorted(tree.inodes))
        tree.remove(name)
        tree.add(name, draw.randbytes(draw.randint(50_000, 200_000)))
        volume.store.commit()
        most = max(most, volume.store.counters["stored_bytes"])
    assert volume.store.engine.allocated_bytes() < 1.5 * most
    volume.close()


# Others at work on the same volume


def test_one_that_is_mounted_is_left_alone(volume_directory: Path) -> None:
    key = unlock(volume_directory, PASSPHRASE)
    held = lock_directory(volume_directory)
    with pytest.raises(StoreLockedError):
        compact_volume(volume_directory, key, lambda volume: pytest.fail("it was opened"))
    os.close(held)


def test_neither_a_mount_nor_a_change_of_keys_comes_in_between(volume_directory: Path) -> None:
    key = unlock(volume_directory, PASSPHRASE)
    tried = []

    def intrude(done: int, total: int) -> None:
        with pytest.raises(StoreLockedError):
            open_volume(volume_directory, key)
        with pytest.raises(StoreLockedError), header_copies.lock_keys(volume_directory, patience_seconds=0):
            pass
        tried.append(done)

    compact_volume(volume_directory, key, lambda volume: None, progress=intrude)
    assert tried
    with header_copies.lock_keys(volume_directory, patience_seconds=0):
        reopen(volume_directory).close()


@pytest.fixture
def reader(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has the database open, and reads it once for each line it gets."""
    with start_reader(directory) as process:
        assert process.stdout is not None and process.stdout.readline() == f"{len(KEPT)}\n"
        yield process
        process.kill()


def start_reader(directory: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", READER, str(directory)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_reader_keeps_what_it_has_open_beside_a_new_writer(directory: Path, reader: subprocess.Popen[str]) -> None:
    assert reader.stdin is not None and reader.stdout is not None
    compact(directory)
    for number in range(5):
        write(directory, {b"%d" % number: bytes(1 << 16)})
        reader.stdin.write("again\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == f"{len(KEPT)}\n"
    assert len(content(directory)) == len(KEPT) + 5


def test_nobody_gets_in_between_the_two_files(directory: Path) -> None:
    """Who opens the database while they are replaced waits, and sees both new ones."""
    newcomers: list[subprocess.Popen[str]] = []

    def come(number: int, name: str) -> None:
        if name == "replace":
            newcomers.append(start_reader(directory))
            if len(newcomers) == 2:
                with pytest.raises(subprocess.TimeoutExpired):
                    newcomers[1].wait(0.5)
                assert newcomers[1].stdout is not None
                os.set_blocking(newcomers[1].stdout.fileno(), False)
                assert os.listdir(directory / FOLDER) == [DATA_FILE]
                with pytest.raises(BlockingIOError):
                    os.read(newcomers[1].stdout.fileno(), 1)
                os.set_blocking(newcomers[1].stdout.fileno(), True)

    compact(directory, StepDisk(come))
    write(directory, LATER)
    for newcomer in newcomers:
        printed, _ = newcomer.communicate("", timeout=30)
        assert printed in (f"{len(KEPT)}\n", f"{len(KEPT) + 1}\n")
    assert len(newcomers) == 2
    assert content(directory) == KEPT | LATER


# Failures


def test_whatever_fails_leaves_the_database_as_it_was_or_compacted(directory: Path) -> None:
    """Every step fails once; but for the last ones, which only clean up, that is told."""
    whole = StepDisk(lambda number, name: None)
    compact(directory, whole)
    for number in range(1, len(whole.steps) + 1):
        # Kept open, so that its number is not given to another file.
        before = os.open(directory / DATA_FILE, os.O_RDONLY)

        def fail(step: int, name: str, number: int = number) -> None:
            if step == number:
                raise OSError(errno.EIO, "Input/output error")

        disk = StepDisk(fail)
        told = None
        try:
            compact(directory, disk)
        except StoreError as exc:
            told = str(exc)
        replaced = not os.path.samestat(os.stat(directory / DATA_FILE), os.fstat(before))
        os.close(before)
        steps, failed = disk.steps, whole.steps[number - 1]
        assert steps[:number] == whole.steps[:number]
        assert replaced == (steps[: number - 1].count("replace") == 2)
        assert (told is None) == (replaced and failed != "sync")
        assert content(directory) == KEPT
        assert "remove" in failed or names(directory) == [DATA_FILE, LOCK_FILE]
        compaction.remove_leftovers(directory, Disk())
    compact(directory)
    assert names(directory) == [DATA_FILE, LOCK_FILE]


def test_a_crash_at_any_step_loses_nothing_and_leaves_nothing_for_long(directory: Path) -> None:
    whole = StepDisk(lambda number, name: None)
    compact(directory, whole)
    for number in range(1, len(whole.steps) + 1):

        def cut(step: int, name: str, number: int = number) -> None:
            if step >= number:
                raise PowerCutError

        with pytest.raises(PowerCutError):
            compact(directory, StepDisk(cut))
        compaction.remove_leftovers(directory, Disk())
        assert content(directory) == KEPT
        assert names(directory) == [DATA_FILE, LOCK_FILE]


def test_an_interruption_leaves_nothing_behind(directory: Path) -> None:
    before = (directory / DATA_FILE).read_bytes()

    for share in (0.0, 0.6, 0.75):

        def interrupt(done: int, total: int, share: float = share) -> None:
            if done >= total * share:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            compact(directory, progress=interrupt)
        assert names(directory) == [DATA_FILE, LOCK_FILE]
        assert (directory / DATA_FILE).read_bytes() == before
    compact(directory)


def test_leftovers_go_when_the_volume_is_opened_for_writing(volume_directory: Path) -> None:
    folder = volume_directory / FOLDER
    folder.mkdir()
    (folder / DATA_FILE).write_bytes(b"half a copy")
    reopen(volume_directory, read_only=True).close()
    assert folder.exists()
    reopen(volume_directory).close()
    assert not folder.exists()


def test_what_is_no_leftover_is_not_removed(volume_directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    (volume_directory / FOLDER).mkdir()
    (volume_directory / FOLDER / "photo.jpg").write_bytes(b"photo")
    reopen(volume_directory).close()
    assert "cannot be removed" in caplog.text
    with pytest.raises(StoreError):
        compact_volume(volume_directory, unlock(volume_directory, PASSPHRASE), lambda volume: None)
    assert (volume_directory / FOLDER / "photo.jpg").read_bytes() == b"photo"


class CrampedDisk(Disk):
    """Says that it has so much room, whatever it has."""

    def __init__(self, room_bytes: int) -> None:
        self.room = room_bytes

    def room_bytes(self, path: Path) -> int:
        return self.room


def test_too_little_room_is_told_before_anything_is_written(directory: Path) -> None:
    with pytest.raises(StoreFullError, match=r"copy of 0\.3 MB first, .* has 0\.[34] MB too little room"):
        compact(directory, CrampedDisk(compaction.SPARE_BYTES - 100_000))
    assert names(directory) == [DATA_FILE, LOCK_FILE]
    compact(directory, CrampedDisk(2 * compaction.SPARE_BYTES))


def test_a_disk_that_fills_up_in_the_middle(directory: Path) -> None:
    def fill(number: int, name: str) -> None:
        if name == "write":
            raise OSError(errno.ENOSPC, "No space left on device")

    before = (directory / DATA_FILE).read_bytes()
    with pytest.raises(StoreFullError, match="nothing has changed"):
        compact(directory, StepDisk(fill))
    assert (directory / DATA_FILE).read_bytes() == before
    assert names(directory) == [DATA_FILE, LOCK_FILE]


class LyingDisk(Disk):
    """Writes something else than it was given."""

    def __init__(self, wanted: bytes) -> None:
        self._wanted = wanted
        self.lied = False

    def write(self, descriptor: int, data: memoryview) -> int:
        at = bytes(data).find(self._wanted)
        if at >= 0:
            self.lied = True
            return os.write(descriptor, bytes(data[:at]) + b"!" + bytes(data[at + 1 :]))
        return os.write(descriptor, data)


def test_a_copy_that_differs_never_takes_the_place(directory: Path) -> None:
    before = (directory / DATA_FILE).read_bytes()
    disk = LyingDisk(KEPT[b"031"][:50])
    with pytest.raises(IntegrityError, match="differs"):
        compact(directory, disk)
    assert disk.lied
    assert (directory / DATA_FILE).read_bytes() == before
    assert names(directory) == [DATA_FILE, LOCK_FILE]


def test_a_damaged_page_takes_the_copying_process_along_and_nothing_else(directory: Path) -> None:
    data = bytearray((directory / DATA_FILE).read_bytes())
    at = data.rfind(KEPT[b"031"][:50]) // 4096 * 4096
    data[at : at + 4096] = bytes(4096)
    (directory / DATA_FILE).write_bytes(data)
    with pytest.raises(IntegrityError, match="cannot be copied"):
        compact(directory)
    assert (directory / DATA_FILE).read_bytes() == data
    assert names(directory) == [DATA_FILE, LOCK_FILE]


def test_a_link_in_the_place_of_the_database_is_not_replaced(directory: Path, tmp_path: Path) -> None:
    (directory / DATA_FILE).rename(tmp_path / DATA_FILE)
    (directory / DATA_FILE).symlink_to(tmp_path / DATA_FILE)
    with pytest.raises(StoreError, match="not a regular file"):
        compact(directory)
    assert content(directory) == KEPT
