"""Compaction: put a copy of the database without its free pages in the place of the database.

LMDB uses free pages again and never makes its file shorter. The copy is made by LMDB in a process of its own, which
can be ended at any moment and takes no more than itself along when a page is damaged. It is written into a folder
inside the volume, compared with the original record by record, and made durable; then two renames put it in its place.
Whatever happens before the last of them leaves the volume as it was; what a crash leaves in the folder is removed when
the volume is next opened for writing.

`lock.mdb`, where LMDB keeps its readers and the number of the last transaction, belongs to one `data.mdb`: with the
lock file of another, LMDB can take the wrong one of the two roots, which may be an empty one. So both are replaced, the
lock file first. In between nobody can open the environment, because the new lock file is held exclusively, as LMDB
itself holds it while it makes one. Who opened the old pair keeps both, and reads on what was there; the disk gets its
space back when the last of them has gone. A crash between the two renames would leave such a reader unknown to the next
writer; it may then fail to read, but nothing that is stored is at risk: an engine does not write under a lock file that
is not its own.

The caller holds the writer's lock and `header_copies.lock_keys`, so that nobody writes. Single-threaded.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from dedupfs.errors import IntegrityError, StoreError, StoreFullError
from dedupfs.storage.engine import Snapshot
from dedupfs.storage.lmdb_engine import DATA_FILE, LOCK_FILE, LmdbEngine

log = logging.getLogger(__name__)

FOLDER = "compacting"
"""Where the copy is made, inside the volume so that it is on the same disk."""
SPARE_BYTES = 1 << 20
"""Room for the folder, the lock file and what the disk itself needs; the copy is some pages from what is foretold."""
_BLOCK_BYTES = 1 << 20
_INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Compacted:
    """What the database took on the disk, and what it takes now."""

    before_bytes: int
    after_bytes: int


class Disk:
    """What compaction does to the disk, one method a step: after each of them the power may fail.

    Raises OSError.
    """

    def make_folder(self, path: Path) -> None:
        path.mkdir(mode=0o700)

    def create(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, descriptor: int, data: memoryview) -> int:
        return os.write(descriptor, data)

    def adopt(self, path: Path, model: os.stat_result) -> None:
        """Give a file the owner and the mode of another one."""
        info = os.stat(path)
        if (info.st_uid, info.st_gid) != (model.st_uid, model.st_gid):
            os.chown(path, model.st_uid, model.st_gid)
        os.chmod(path, stat.S_IMODE(model.st_mode))

    def sync(self, path: Path) -> None:
        """Make a file or a directory durable."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def replace(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def remove_folder(self, path: Path) -> None:
        path.rmdir()

    def room_bytes(self, path: Path) -> int:
        info = os.statvfs(path)
        return info.f_bavail * info.f_frsize


def remove_leftovers(directory: Path, disk: Disk) -> None:
    """Remove what a compaction that was cut off has left; to be called with the writer's lock. Raises OSError."""
    folder = directory / FOLDER
    if not os.path.lexists(folder):
        return
    for name in (DATA_FILE, LOCK_FILE):
        disk.remove(folder / name)
    disk.remove_folder(folder)


def compact(directory: Path, tables: Sequence[str], *, progress: Callable[[int, int], None], disk: Disk) -> Compacted:
    """Replace the database by a copy without free pages.

    Args:
        progress: called with bytes done and their total.
    Raises:
        StoreFullError: the disk has no room for the copy; the text says how much is missing.
        IntegrityError: the database cannot be copied, or the copy is not the same.
        StoreError: it failed otherwise.
    With each of these, and with an interruption, the volume is as it was; but for one StoreError whose text says so.
    """
    data = directory / DATA_FILE
    try:
        model = os.lstat(data)
        if not stat.S_ISREG(model.st_mode):
            raise StoreError(f"{data} is not a regular file; compact where it really is")
        # A folder that cannot be removed is in the way of the next one.
        remove_leftovers(directory, disk)
        with _folder(directory / FOLDER, disk) as folder:
            total_bytes = _copy(directory, folder / DATA_FILE, tables, progress, disk)
            copy = LmdbEngine(folder, tables, read_only=True)
            try:
                _compare(directory, copy, tables, lambda done: progress(total_bytes + done, 2 * total_bytes))
                _take_place(directory, folder, model, disk)
            finally:
                copy.close()
        return Compacted(model.st_blocks * 512, os.stat(data).st_blocks * 512)
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreFullError(f"no room for the compacted copy, nothing has changed: {exc.strerror}") from exc
        raise StoreError(f"cannot compact {directory}: {exc.strerror}") from exc


@contextmanager
def _folder(folder: Path, disk: Disk) -> Iterator[Path]:
    """Make the folder and remove it in the end, whatever is left in it."""
    try:
        disk.make_folder(folder)
        yield folder
    finally:
        try:
            remove_leftovers(folder.parent, disk)
        except OSError as exc:
            log.warning("%s is left behind until the volume is next mounted: %s", folder, exc.strerror)


def _copy(
    directory: Path, target: Path, tables: Sequence[str], progress: Callable[[int, int], None], disk: Disk
) -> int:
    """Have a process write the copy and return its length."""
    engine = LmdbEngine(directory, tables, read_only=True)
    try:
        live_bytes = engine.live_bytes()
    finally:
        engine.close()
    missing = live_bytes + SPARE_BYTES - disk.room_bytes(directory)
    if missing > 0:
        raise StoreFullError(
            f"compacting writes a copy of {live_bytes / 1e6:.1f} MB first, and the disk that holds the volume has"
            f" {missing / 1e6:.1f} MB too little room for it"
        )
    done = 0
    descriptor = disk.create(target)
    try:
        for block in _compacted(directory):
            view = memoryview(block)
            while view:
                view = view[disk.write(descriptor, view) :]
            done += len(block)
            progress(done, 2 * max(done, live_bytes))
    finally:
        os.close(descriptor)
    disk.sync(target)
    return done


def _compacted(directory: Path) -> Iterator[bytes]:
    """Yield the copy as the process writes it. Raises IntegrityError when it cannot."""
    # The same packages as here; and an interruption is for this process to act on, not for that one.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path)}
    with subprocess.Popen(
        [sys.executable, "-m", "dedupfs.storage.compact_copy", str(directory.absolute())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd="/",
        start_new_session=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            while block := process.stdout.read(_BLOCK_BYTES):
                yield block
            said = process.stderr.read().decode(errors="replace").strip()
            if process.wait():
                reason = said.splitlines()[-1] if said else f"the copying process ended with {process.returncode}"
                raise IntegrityError(f"the database cannot be copied: {reason}")
        finally:
            process.kill()


def _compare(directory: Path, copy: LmdbEngine, tables: Sequence[str], progress: Callable[[int], None]) -> None:
    """Raise IntegrityError unless the copy holds the same records as the database."""
    done = 0
    original = LmdbEngine(directory, tables, read_only=True)
    try:
        with original.snapshot() as before, copy.snapshot() as after:
            for size_bytes in _compared(before, after, tables):
                done += size_bytes
                progress(done)
    finally:
        original.close()


def _compared(before: Snapshot, after: Snapshot, tables: Sequence[str]) -> Iterator[int]:
    for table in tables:
        for one, other in zip_longest(before.scan(table), after.scan(table)):
            if one is None or one != other:
                raise IntegrityError(f"the copy differs from the database in the table {table}, and was thrown away")
            yield len(one[0]) + len(one[1])


def _take_place(directory: Path, folder: Path, model: os.stat_result, disk: Disk) -> None:
    """Put the copy, whose environment is open in this process, in the place of the database."""
    lock_model = os.stat(directory / LOCK_FILE)
    with _uninterrupted():
        disk.adopt(folder / DATA_FILE, model)
        disk.adopt(folder / LOCK_FILE, lock_model)
        disk.sync(folder / DATA_FILE)
        disk.sync(folder)
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
        try:
            # LMDB lets nobody in whom it finds unable to share this byte, and waits until it can be.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
            disk.replace(folder / LOCK_FILE, directory / LOCK_FILE)
            try:
                disk.replace(folder / DATA_FILE, directory / DATA_FILE)
            except OSError:
                # What opens the database that stays has to make a lock file for it.
                disk.remove(directory / LOCK_FILE)
                raise
        finally:
            os.close(descriptor)
        try:
            disk.sync(directory)
        except OSError as exc:
            # Both files are whole, so that either is right after a crash; but then nobody may rely on the new one yet.
            raise StoreError(f"the database is compacted, but may not be on the disk yet: {exc.strerror}") from exc


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let signals wait for the end of a short block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTIONS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
