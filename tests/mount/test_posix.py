"""The operations of POSIX, through the kernel: a mount behaves like any local folder."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import stat
import subprocess
import time
from pathlib import Path

import pytest

from tests.mounting import MountedVolume, mark_fuse, open_descriptor

pytestmark = mark_fuse()

BLOCK = 64 << 10


def names(directory: Path) -> set[str]:
    """Return what is in a directory."""
    return {path.name for path in directory.iterdir()}


# Reading and writing


def test_writing_at_any_offset(here: Path) -> None:
    path = here / "file"
    wanted = bytearray(300_000)
    with open_descriptor(path, os.O_RDWR | os.O_CREAT) as file:
        writes = ((299_990, b"behind all."), (0, b"first"), (262_100, bytes(range(256))), (70_000, b"x" * 9))
        for offset, data in writes:
            os.pwrite(file, data, offset)
            if offset + len(data) > len(wanted):
                wanted.extend(bytes(offset + len(data) - len(wanted)))
            wanted[offset : offset + len(data)] = data
        assert os.pread(file, 400_000, 0) == wanted
    assert path.read_bytes() == wanted
    assert path.stat().st_size == len(wanted)


def test_a_sparse_file_takes_no_room(here: Path, shared: MountedVolume) -> None:
    path = here / "sparse"
    size = 5 << 30
    with open_descriptor(path, os.O_RDWR | os.O_CREAT) as file:
        os.pwrite(file, b"middle", size // 2)
        os.ftruncate(file, size)
        assert os.pread(file, 10, size // 2 - 2) == b"\0\0middle\0\0"
    with open_descriptor(path, os.O_RDONLY) as file:
        assert os.pread(file, 10, size // 2 - 2) == b"\0\0middle\0\0"
        assert os.pread(file, 10, size - 4) == bytes(4)
        assert os.pread(file, 10, size) == b""
    assert path.stat().st_size == size
    assert (shared.volume / "data.mdb").stat().st_blocks * 512 < 50 << 20


def test_appending_ignores_the_offset(here: Path) -> None:
    path = here / "log"
    path.write_bytes(b"one\n")
    with open_descriptor(path, os.O_WRONLY | os.O_APPEND) as file, path.open("ab", buffering=0) as other:
        os.write(file, b"two\n")
        other.write(b"three\n")
        os.pwrite(file, b"four\n", 0)
    assert path.read_bytes() == b"one\ntwo\nthree\nfour\n"


def test_cutting_and_growing(here: Path) -> None:
    path = here / "file"
    data = os.urandom(600_000)
    path.write_bytes(data)
    os.truncate(path, 270_000)
    os.truncate(path, 500_000)
    assert path.read_bytes() == data[:270_000] + bytes(230_000)
    with open_descriptor(path, os.O_WRONLY | os.O_TRUNC):
        assert path.stat().st_size == 0
    assert path.read_bytes() == b""


@pytest.mark.parametrize("flags", [mmap.MAP_SHARED, mmap.MAP_PRIVATE], ids=["shared", "private"])
def test_mapped_memory(here: Path, flags: int) -> None:
    path = here / "file"
    data = os.urandom(200_000)
    path.write_bytes(data)
    with open_descriptor(path, os.O_RDWR) as file, mmap.mmap(file, len(data), flags) as mapped:
        assert mapped[100_000:100_100] == data[100_000:100_100]
        mapped[150_000:150_005] = b"write"
        mapped.flush()
    wanted = data[:150_000] + b"write" + data[150_005:] if flags == mmap.MAP_SHARED else data
    assert path.read_bytes() == wanted


def test_two_descriptors_see_each_other(here: Path) -> None:
    path = here / "file"
    with open_descriptor(path, os.O_RDWR | os.O_CREAT) as one, open_descriptor(path, os.O_RDONLY) as two:
        os.pwrite(one, b"hello", 3)
        assert os.pread(two, 100, 0) == b"\0\0\0hello"
        assert os.fstat(two).st_size == 8


def test_access_modes_hold(here: Path) -> None:
    path = here / "file"
    path.write_bytes(b"bytes")
    with open_descriptor(path, os.O_RDONLY) as file, pytest.raises(OSError, match="Bad file descriptor"):
        os.write(file, b"x")
    with open_descriptor(path, os.O_WRONLY) as file, pytest.raises(OSError, match="Bad file descriptor"):
        os.read(file, 1)
    assert path.read_bytes() == b"bytes"


# Names


def test_renaming_over_a_file(here: Path) -> None:
    (here / "old").write_bytes(b"old")
    (here / "new").write_bytes(b"new")
    with open_descriptor(here / "old", os.O_RDONLY) as replaced:
        os.rename(here / "new", here / "old")
        assert os.read(replaced, 10) == b"old"
    assert (here / "old").read_bytes() == b"new"
    assert names(here) == {"old"}


def test_renaming_directories(here: Path) -> None:
    (here / "a" / "b").mkdir(parents=True)
    (here / "a" / "b" / "file").write_bytes(b"bytes")
    (here / "empty").mkdir()
    (here / "full").mkdir()
    (here / "full" / "file").touch()
    with pytest.raises(OSError, match="Invalid argument"):
        os.rename(here / "a", here / "a" / "b" / "c")
    with pytest.raises(OSError, match="Directory not empty"):
        os.rename(here / "a", here / "full")
    with pytest.raises(IsADirectoryError):
        os.rename(here / "full" / "file", here / "empty")
    with pytest.raises(NotADirectoryError):
        os.rename(here / "a", here / "full" / "file")
    os.rename(here / "a", here / "empty")
    assert (here / "empty" / "b" / "file").read_bytes() == b"bytes"
    os.rename(here / "empty" / "b", here / "b")
    assert (here / "empty").stat().st_nlink == 2
    assert (here / "b" / ".." / "full").is_dir()
    assert here.stat().st_nlink == 5


def test_a_removed_file_lives_while_it_is_open(here: Path) -> None:
    path = here / "file"
    with open_descriptor(path, os.O_RDWR | os.O_CREAT) as file:
        os.write(file, b"before")
        path.unlink()
        assert names(here) == set()
        os.write(file, b" after")
        assert os.pread(file, 100, 0) == b"before after"
        assert os.fstat(file).st_size == 12
        os.ftruncate(file, 3)
        os.fsync(file)
        assert os.pread(file, 100, 0) == b"bef"
        path.write_bytes(b"another")
        assert os.pread(file, 100, 0) == b"bef"
    assert path.read_bytes() == b"another"
    path.unlink()
    here.rmdir()


def test_hard_links(here: Path) -> None:
    one, two = here / "one", here / "two"
    one.write_bytes(b"bytes")
    os.link(one, two)
    assert one.stat().st_ino == two.stat().st_ino
    assert (one.stat().st_nlink, two.stat().st_nlink) == (2, 2)
    two.write_bytes(b"changed by the other name")
    assert one.read_bytes() == b"changed by the other name"
    one.unlink()
    assert two.stat().st_nlink == 1
    assert two.read_bytes() == b"changed by the other name"
    with pytest.raises(FileExistsError):
        os.link(two, two)
    with pytest.raises(PermissionError):
        os.link(here, here / "directory")


def test_symbolic_links(here: Path) -> None:
    target = "über/../" + "x" * 200
    (here / "link").symlink_to(target)
    assert (here / "link").readlink() == Path(target)
    status = (here / "link").lstat()
    assert stat.S_ISLNK(status.st_mode)
    assert status.st_size == len(os.fsencode(target))
    (here / "file").write_bytes(b"bytes")
    (here / "good").symlink_to("file")
    assert (here / "good").read_bytes() == b"bytes"
    os.utime(here / "good", ns=(5, 6), follow_symlinks=False)
    assert (here / "good").lstat().st_mtime_ns == 6
    assert (here / "file").stat().st_mtime_ns != 6


def test_any_bytes_are_a_name(here: Path) -> None:
    wanted = {
        bytes(range(1, 47)),
        bytes(range(48, 256)),
        b"\xff\xfe\x80",
        b"\n",
        b" ",
        b"...",
        "ä".encode(),
        "a\u0308".encode(),
        b"n" * 255,
    }
    for name in wanted:
        with open_descriptor(Path(os.fsdecode(os.fsencode(here) + b"/" + name)), os.O_WRONLY | os.O_CREAT) as file:
            os.write(file, name)
    assert set(os.listdir(os.fsencode(here))) == wanted
    for name in wanted:
        assert Path(os.fsdecode(os.fsencode(here) + b"/" + name)).read_bytes() == name
    with pytest.raises(OSError, match="File name too long"):
        (here / ("n" * 256)).touch()


def test_a_directory_of_three_thousand(here: Path) -> None:
    wanted = {f"{number:04}" for number in range(3000)}
    for name in wanted:
        os.mknod(here / name, 0o644 | stat.S_IFREG)
    assert names(here) == wanted
    with os.scandir(here) as listing:
        entry = next(listing)
        assert entry.inode() == (here / entry.name).stat().st_ino
        assert entry.is_file(follow_symlinks=False)
    with pytest.raises(OSError, match="Directory not empty"):
        here.rmdir()
    for name in wanted:
        (here / name).unlink()
    assert names(here) == set()


def test_pipes_and_sockets_and_devices_are_kept(here: Path) -> None:
    os.mkfifo(here / "pipe")
    os.mknod(here / "socket", stat.S_IFSOCK | 0o600)
    assert stat.S_ISFIFO((here / "pipe").lstat().st_mode)
    assert stat.S_ISSOCK((here / "socket").lstat().st_mode)
    if os.geteuid() == 0:
        os.mknod(here / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        assert (here / "null").lstat().st_rdev == os.makedev(1, 3)


# Attributes


def test_modes_and_owners(here: Path) -> None:
    path = here / "file"
    path.touch(0o600)
    for mode in (0o4755, 0o000, 0o1777, 0o640):
        path.chmod(mode)
        assert stat.S_IMODE(path.stat().st_mode) == mode
    if os.geteuid() == 0:
        os.chown(path, 1234, -1)
        os.chown(path, -1, 4321)
        assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)


def test_a_directory_can_hand_its_group_down(here: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can choose any group")
    os.chown(here, 0, 4321)
    here.chmod(0o2755)
    (here / "below").mkdir()
    (here / "file").touch()
    assert ((here / "below").stat().st_gid, (here / "file").stat().st_gid) == (4321, 4321)
    assert (here / "below").stat().st_mode & stat.S_ISGID


def test_times_to_the_nanosecond(here: Path) -> None:
    path = here / "file"
    path.write_bytes(b"bytes")
    for times in ((1, 999_999_999), (1_600_000_000_123_456_789, 4_000_000_000_000_000_001), (-1_000_000_001, 0)):
        os.utime(path, ns=times)
        assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == times


def test_one_time_alone(here: Path) -> None:
    """UTIME_OMIT and UTIME_NOW, as `touch -a` and `touch -m` use them."""
    path = here / "file"
    path.touch()
    os.utime(path, ns=(5, 6))
    before = time.time_ns()
    assert os.system(f"touch -a {path}") == 0
    assert (path.stat().st_atime_ns >= before - 10_000_000, path.stat().st_mtime_ns) == (True, 6)
    os.utime(path, ns=(5, 6))
    assert os.system(f"touch -m {path}") == 0
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns >= before - 10_000_000) == (5, True)
    assert os.system(f"touch -m -d @7.000000008 {path}") == 0
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (5, 7_000_000_008)


def test_changes_move_the_times(here: Path) -> None:
    path = here / "file"
    path.write_bytes(b"bytes")
    os.utime(path, ns=(5, 5))
    os.utime(here, ns=(5, 5))
    changed = path.stat().st_ctime_ns
    path.chmod(0o600)
    assert path.stat().st_ctime_ns > changed
    assert path.stat().st_mtime_ns == 5
    with path.open("ab") as file:
        file.write(b"more")
    assert path.stat().st_mtime_ns > 5
    assert here.stat().st_mtime_ns == 5
    (here / "other").touch()
    assert here.stat().st_mtime_ns > 5


def test_extended_attributes(here: Path) -> None:
    path = here / "file"
    path.touch()
    os.setxattr(path, "user.one", b"1", os.XATTR_CREATE)
    with pytest.raises(FileExistsError):
        os.setxattr(path, "user.one", b"2", os.XATTR_CREATE)
    with pytest.raises(OSError, match="No data available"):
        os.setxattr(path, "user.two", b"2", os.XATTR_REPLACE)
    os.setxattr(path, "user.one", bytes(range(256)), os.XATTR_REPLACE)
    os.setxattr(path, "user.empty", b"")
    assert os.getxattr(path, "user.one") == bytes(range(256))
    assert os.getxattr(path, "user.empty") == b""
    assert set(os.listxattr(path)) == {"user.one", "user.empty"}
    os.removexattr(path, "user.one")
    for missing in (lambda: os.getxattr(path, "user.one"), lambda: os.removexattr(path, "user.one")):
        with pytest.raises(OSError, match="No data available"):
            missing()
    with pytest.raises(OSError) as refused:  # noqa: PT011  The errno is asked for below.
        os.setxattr(path, "user.big", bytes(65537))
    assert refused.value.errno in (errno.E2BIG, errno.ENOSPC, errno.ERANGE)


def test_the_mounts_own_attributes_cannot_be_set(here: Path) -> None:
    (here / "file").touch()
    with pytest.raises(PermissionError):
        os.setxattr(here / "file", "user.dedupfs.settle", b"")
    assert os.listxattr(here) == []


def test_the_policy_of_a_directory_is_set_and_asked_for_by_name(here: Path) -> None:
    (here / "file").touch()
    os.setxattr(here, "user.dedupfs.policy", b"off")
    assert os.getxattr(here, "user.dedupfs.policy") == b"off"
    assert os.getxattr(here / "file", "user.dedupfs.kind") == b"plain"
    for path, value, number in ((here, b"loose", errno.EINVAL), (here / "file", b"off", errno.EPERM)):
        with pytest.raises(OSError) as refused:  # noqa: PT011  The errno is asked for below.
            os.setxattr(path, "user.dedupfs.policy", value)
        assert refused.value.errno == number
    assert os.listxattr(here) == os.listxattr(here / "file") == []
    os.removexattr(here, "user.dedupfs.policy")
    with pytest.raises(OSError, match="No data available"):
        os.getxattr(here, "user.dedupfs.policy")


@pytest.mark.parametrize("command", [["cp", "-a"], ["rsync", "-aHAX", "--delete"]], ids=["cp", "rsync"])
def test_copying_tools_leave_policies_alone(command: list[str], here: Path, tmp_path: Path) -> None:
    """`rsync -X` removes attributes that it sees and that the source does not have."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(b"bytes")
    os.setxattr(source / "file", "user.note", b"a note")
    inside, back = here / "inside", tmp_path / "back"
    inside.mkdir()
    os.setxattr(inside, "user.dedupfs.policy", b"off")
    for folder, target in ((source, inside), (source, inside), (inside, back)):
        subprocess.run([*command, f"{folder}/.", str(target)], check=True)
    assert os.getxattr(inside, "user.dedupfs.policy") == b"off"
    assert os.getxattr(back / "file", "user.note") == b"a note"
    assert os.listxattr(back) == []


def test_the_room_is_that_of_the_disk(here: Path, shared: MountedVolume) -> None:
    mounted, disk = os.statvfs(here), os.statvfs(shared.volume)
    assert mounted.f_blocks * mounted.f_frsize == pytest.approx(disk.f_blocks * disk.f_frsize, rel=0.01)
    assert mounted.f_bavail * mounted.f_frsize == pytest.approx(disk.f_bavail * disk.f_frsize, rel=0.1)
    assert mounted.f_namemax == 255
    assert mounted.f_ffree > 0


# Everything once more after the volume was closed and opened


def test_everything_is_there_after_a_remount(mounted: MountedVolume) -> None:
    path = mounted.path
    (path / "directory").mkdir(mode=0o750)
    (path / "directory" / "file").write_bytes(b"bytes" * 100_000)
    os.link(path / "directory" / "file", path / "second name")
    (path / "link").symlink_to("directory/file")
    os.mkfifo(path / "pipe")
    os.setxattr(path / "directory", "user.note", b"a note")
    (path / "gone").write_bytes(b"gone")
    (path / "gone").unlink()
    for each in ("directory/file", "directory", "."):
        os.utime(path / each, ns=(3, 4))

    fields = ("mode", "nlink", "size", "mtime_ns", "ctime_ns", "ino")

    def everything() -> dict[str, tuple[object, ...]]:
        return {
            str(each.relative_to(path)): (
                *(getattr(each.lstat(), f"st_{field}") for field in fields),
                os.listxattr(each, follow_symlinks=False),
            )
            for each in (path, *path.rglob("*"))
        }

    before = everything()
    assert before.keys() == {".", "directory", "directory/file", "second name", "link", "pipe"}
    mounted.remount()
    assert everything() == before
    assert (path / "link").read_bytes() == b"bytes" * 100_000
    mounted.umount()
    mounted.assert_clean()
