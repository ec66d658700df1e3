"""What holds of files while they are open: without a name, under several names, mapped, locked, with holes."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mounting import MountedVolume, mark_fuse, open_descriptor

pytestmark = mark_fuse()

KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE = 0x01, 0x02, 0x08, 0x10
CHUNK = 256 << 10


# Without a name


def test_a_file_without_a_name_is_a_file_like_any_other(here: Path) -> None:
    path = here / "file"
    path.write_bytes(b"bytes")
    with open_descriptor(path, os.O_RDWR) as file:
        path.unlink()
        assert os.listdir(here) == []
        assert os.fstat(file).st_nlink == 0
        os.fchmod(file, 0o600)
        os.utime(file, ns=(5, 6))
        os.setxattr(file, "user.note", b"gone soon")
        os.pwrite(file, b"more bytes", 3)
        os.fsync(file)
        status = os.fstat(file)
        assert (status.st_mode & 0o777, status.st_atime_ns, status.st_size) == (0o600, 5, 13)
        assert os.getxattr(file, "user.note") == b"gone soon"
        assert os.pread(file, 100, 0) == b"bytmore bytes"
        here.rmdir()
        assert os.pread(file, 3, 0) == b"byt"


def test_a_replaced_file_is_read_to_its_end(here: Path) -> None:
    old, new = here / "old", here / "new"
    old.write_bytes(b"old")
    new.write_bytes(b"new")
    with open_descriptor(old, os.O_RDONLY) as file:
        new.rename(old)
        assert os.fstat(file).st_nlink == 0
        assert os.pread(file, 10, 0) == b"old"
    assert old.read_bytes() == b"new"


def test_a_name_that_is_replaced_all_the_time_is_always_there(here: Path) -> None:
    path = here / "file"
    path.write_bytes(b"first")
    script = f"""
import os
for number in range(300):
    with open({str(here / "new")!r}, "wb") as file:
        file.write(b"%d" % number)
    os.rename({str(here / "new")!r}, {str(path)!r})
"""
    with subprocess.Popen([sys.executable, "-c", script]) as writer:
        while writer.poll() is None:
            assert path.read_bytes()
            assert path.stat().st_nlink in (0, 1)
    assert writer.returncode == 0
    assert path.read_bytes() == b"299"


def test_a_removed_directory_is_empty_and_closed_to_new_entries(here: Path) -> None:
    directory = here / "directory"
    directory.mkdir()
    with open_descriptor(directory, os.O_RDONLY | os.O_DIRECTORY) as opened:
        directory.rmdir()
        assert os.fstat(opened).st_nlink == 0
        assert os.listdir(opened) == []
        with pytest.raises(FileNotFoundError):
            os.mkdir("below", dir_fd=opened)


# Under several names


def test_names_of_one_file_share_everything_at_once(here: Path) -> None:
    one, two = here / "one", here / "two"
    one.write_bytes(b"first bytes")
    os.link(one, two)
    assert one.read_bytes() == two.read_bytes() == b"first bytes"
    with open_descriptor(two, os.O_WRONLY) as file:
        os.pwrite(file, b"other", 0)
        assert one.read_bytes() == b"other bytes"
        os.ftruncate(file, 5)
        assert one.stat().st_size == 5
    two.chmod(0o640)
    assert one.stat().st_mode & 0o777 == 0o640
    with open_descriptor(one, os.O_RDWR) as file, mmap.mmap(file, 5) as mapped:
        two.write_bytes(b"third")
        assert mapped[:] == b"third"


def test_appending_through_a_mapping_and_a_descriptor(here: Path) -> None:
    path = here / "file"
    path.write_bytes(b"0123456789")
    with open_descriptor(path, os.O_RDWR | os.O_APPEND) as file:
        with mmap.mmap(file, 10) as mapped:
            mapped[:3] = b"abc"
            mapped.flush()
        os.write(file, b"end")
    assert path.read_bytes() == b"abc3456789end"


# Locks


@pytest.mark.parametrize("lock", ["flock", "lockf"])
def test_processes_lock_each_other_out(here: Path, lock: str) -> None:
    path = here / "file"
    path.write_bytes(b"")
    script = f"""
import fcntl, sys
with open({str(path)!r}, "r+b") as file:
    try:
        fcntl.{lock}(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(9)
"""
    with path.open("r+b") as file:
        getattr(fcntl, lock)(file, fcntl.LOCK_EX)
        assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
        getattr(fcntl, lock)(file, fcntl.LOCK_UN)
        assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# Holes and room


def fallocate(file: int, mode: int, offset: int, length: int) -> None:
    """Python's os has posix_fallocate alone, which knows no modes."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(file, mode, ctypes.c_long(offset), ctypes.c_long(length)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def test_room_for_a_file_is_made_in_advance(here: Path, shared: MountedVolume) -> None:
    with open_descriptor(here / "file", os.O_RDWR | os.O_CREAT) as file:
        os.write(file, b"bytes")
        fallocate(file, KEEP_SIZE, 0, 1 << 20)
        assert os.fstat(file).st_size == 5
        os.posix_fallocate(file, 0, 1 << 20)
        assert os.fstat(file).st_size == 1 << 20
        assert os.pread(file, 10, 0) == b"bytes" + bytes(5)
        room = os.statvfs(shared.path)
        with pytest.raises(OSError, match="No space left"):
            fallocate(file, 0, 0, room.f_blocks * room.f_frsize * 2)


@pytest.mark.parametrize("stored", [False, True], ids=["in memory", "stored"])
def test_holes_are_punched(here: Path, stored: bool) -> None:
    wanted = bytearray(os.urandom(4 * CHUNK + 1000))
    with open_descriptor(here / "file", os.O_RDWR | os.O_CREAT) as file:
        os.write(file, wanted)
        if stored:
            os.fsync(file)
        for offset, length in ((10, 20), (CHUNK - 5, CHUNK + 10), (3 * CHUNK, CHUNK), (4 * CHUNK + 500, CHUNK)):
            fallocate(file, PUNCH_HOLE | KEEP_SIZE, offset, length)
            end = min(offset + length, len(wanted))
            wanted[offset:end] = bytes(end - offset)
        assert os.pread(file, len(wanted) + 1, 0) == wanted
        fallocate(file, ZERO_RANGE, len(wanted) - 10, 30)
        wanted[-10:] = bytes(30)
    assert (here / "file").read_bytes() == wanted


def test_bytes_cannot_be_taken_out_of_the_middle(here: Path) -> None:
    with open_descriptor(here / "file", os.O_RDWR | os.O_CREAT) as file:
        os.write(file, bytes(8192))
        with pytest.raises(OSError, match="not supported"):
            fallocate(file, COLLAPSE_RANGE, 0, 4096)


def test_a_search_for_holes_finds_that_all_is_data(here: Path) -> None:
    with open_descriptor(here / "file", os.O_RDWR | os.O_CREAT) as file:
        os.ftruncate(file, 1 << 20)
        os.pwrite(file, b"x", 500_000)
        assert os.lseek(file, 0, os.SEEK_DATA) == 0
        assert os.lseek(file, 0, os.SEEK_HOLE) == 1 << 20
        with pytest.raises(OSError, match="No such device or address") as past:
            os.lseek(file, 1 << 20, os.SEEK_DATA)
        assert past.value.errno == errno.ENXIO
