"""Other users of the machine: permissions are those of any local folder, once the mount lets others in."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mounting import MountedVolume, mark_fuse, open_descriptor
from tests.volumes import make_volume

pytestmark = [*mark_fuse(), pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")]

ALICE, BOB, GROUP = 61001, 61002, 61100
CAPABILITY = "security.capability"
MAY_BIND = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
"""CAP_NET_BIND_SERVICE as vfs_cap_data, permitted and effective."""


@contextmanager
def user(uid: int, gid: int = GROUP) -> Iterator[None]:
    """Be somebody else for a while, as far as files are concerned."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@pytest.fixture(scope="module")
def shared() -> Iterator[MountedVolume]:
    # pytest's own temporary folders are closed to other users.
    folder = Path(tempfile.mkdtemp(prefix="dedupfs-test-"))
    folder.chmod(0o755)
    mounted = MountedVolume(make_volume(folder / "volume"), folder / "mount", folder / "log")
    try:
        mounted.mount("-o", "allow_other")
        yield mounted
        mounted.umount()
        mounted.assert_clean()
    finally:
        mounted.destroy()
        shutil.rmtree(folder)
    assert mounted.unexpected_messages() == []


@pytest.fixture
def here(shared: MountedVolume, request: pytest.FixtureRequest) -> Path:
    """An empty directory on the mount that everybody may write to."""
    path = shared.path / str(request.node.name)[:60]
    path.mkdir()
    path.chmod(0o777)
    return path


def test_the_root_belongs_to_whoever_made_it(shared: MountedVolume) -> None:
    assert shared.path.stat().st_uid == os.getuid()


def test_what_one_makes_is_ones_own(here: Path) -> None:
    with user(ALICE):
        (here / "file").write_bytes(b"private")
        (here / "file").chmod(0o600)
    status = (here / "file").stat()
    assert (status.st_uid, status.st_gid) == (ALICE, GROUP)
    with user(BOB):
        with pytest.raises(PermissionError):
            (here / "file").read_bytes()
        with pytest.raises(PermissionError):
            (here / "file").chmod(0o666)
        with pytest.raises(PermissionError):
            os.chown(here / "file", BOB, -1)
        with pytest.raises(PermissionError):
            os.utime(here / "file", ns=(1, 1))


def test_a_group_shares(here: Path) -> None:
    with user(ALICE):
        (here / "file").write_bytes(b"for the group")
        (here / "file").chmod(0o640)
    with user(BOB):
        assert (here / "file").read_bytes() == b"for the group"
    with user(BOB, 61999), pytest.raises(PermissionError):
        (here / "file").read_bytes()


def test_a_directory_without_x_hides_what_is_in_it(here: Path) -> None:
    with user(ALICE):
        (here / "directory").mkdir(mode=0o700)
        (here / "directory" / "file").write_bytes(b"")
    with user(BOB):
        with pytest.raises(PermissionError):
            (here / "directory" / "file").stat()
        with pytest.raises(PermissionError):
            os.listdir(here / "directory")


def test_in_a_sticky_directory_only_the_owner_removes(here: Path) -> None:
    here.chmod(0o1777)
    with user(ALICE):
        (here / "file").write_bytes(b"")
    with user(BOB):
        with pytest.raises(PermissionError):
            (here / "file").unlink()
        with pytest.raises(PermissionError):
            (here / "file").rename(here / "other")
    with user(ALICE):
        (here / "file").unlink()


def test_a_write_takes_the_set_user_bit_away(here: Path) -> None:
    with user(ALICE):
        (here / "file").write_bytes(b"program")
        (here / "file").chmod(0o6755)
    (here / "file").chmod(0o6777)
    with user(BOB), open_descriptor(here / "file", os.O_WRONLY) as file:
        os.write(file, b"other")
    assert (here / "file").stat().st_mode & (stat.S_ISUID | stat.S_ISGID) == 0


def test_each_write_takes_what_has_been_given_since_the_last(here: Path) -> None:
    (here / "file").write_bytes(b"program")
    (here / "file").chmod(0o777)
    with open_descriptor(here / "file", os.O_WRONLY) as file:
        for _ in range(2):
            (here / "file").chmod(0o6777)
            os.setxattr(here / "file", CAPABILITY, MAY_BIND)
            with user(BOB):
                os.write(file, b"other")
            assert (here / "file").stat().st_mode & 0o7777 == 0o777
            assert os.listxattr(here / "file") == []


def test_what_a_file_is_made_with_goes_with_the_first_write(here: Path) -> None:
    previous = os.umask(0)
    try:
        with user(BOB), open_descriptor(here / "file", os.O_WRONLY | os.O_CREAT, 0o6777) as file:
            assert (here / "file").stat().st_mode & 0o7777 == 0o6777
            os.write(file, b"program")
    finally:
        os.umask(previous)
    assert (here / "file").stat().st_mode & 0o7777 == 0o777


def test_a_new_file_loses_what_it_is_given_before_the_first_write(here: Path) -> None:
    with open_descriptor(here / "file", os.O_WRONLY | os.O_CREAT) as file:
        os.setxattr(file, CAPABILITY, MAY_BIND)
        os.write(file, b"program")
    assert os.listxattr(here / "file") == []


def test_who_may_give_a_set_user_bit_writes_and_keeps_it_but_no_capabilities(here: Path) -> None:
    (here / "file").write_bytes(b"program")
    (here / "file").chmod(0o6755)
    os.setxattr(here / "file", CAPABILITY, MAY_BIND)
    with (here / "file").open("r+b") as file:
        file.write(b"other")
    assert (here / "file").stat().st_mode & 0o7777 == 0o6755
    assert os.listxattr(here / "file") == []


@pytest.mark.parametrize("how", ["cut", "emptied", "room", "nobody new"])
def test_other_changes_take_privileges_too(here: Path, how: str) -> None:
    with user(BOB):
        (here / "file").write_bytes(b"program")
    (here / "file").chmod(0o6777)
    os.setxattr(here / "file", CAPABILITY, MAY_BIND)
    with user(BOB), open_descriptor(here / "file", os.O_WRONLY | (os.O_TRUNC if how == "emptied" else 0)) as file:
        if how == "cut":
            os.ftruncate(file, 3)
        elif how == "room":
            os.posix_fallocate(file, 0, 100)
        elif how == "nobody new":
            os.chown(file, -1, -1)
    assert (here / "file").stat().st_mode & 0o7777 == 0o777
    assert os.listxattr(here / "file") == []


def test_a_new_group_takes_the_bits_of_a_pipe_and_leaves_those_of_a_directory(here: Path) -> None:
    os.mkfifo(here / "pipe")
    (here / "directory").mkdir()
    for name, left in (("pipe", 0o777), ("directory", 0o6777)):
        os.chown(here / name, ALICE, ALICE)
        (here / name).chmod(0o6777)
        os.chown(here / name, ALICE, BOB)
        assert (here / name).stat().st_mode & 0o7777 == left, name


def test_a_set_group_bit_that_means_something_else_stays(here: Path) -> None:
    (here / "file").write_bytes(b"text")
    (here / "file").chmod(0o2666)
    with user(BOB), open_descriptor(here / "file", os.O_WRONLY) as file:
        os.write(file, b"other")
    assert (here / "file").stat().st_mode & 0o7777 == 0o2666


def test_a_directory_keeps_its_bits_with_a_new_owner(here: Path) -> None:
    here.chmod(0o3777)
    os.chown(here, ALICE, GROUP)
    assert here.stat().st_mode & 0o7777 == 0o3777


def test_a_new_owner_takes_the_set_user_bit_away(here: Path) -> None:
    with user(ALICE):
        (here / "file").write_bytes(b"program")
        (here / "file").chmod(0o6755)
        os.chown(here / "file", -1, GROUP)
    assert (here / "file").stat().st_mode & (stat.S_ISUID | stat.S_ISGID) == 0


def test_the_umask_counts(here: Path) -> None:
    previous = os.umask(0o077)
    try:
        with user(ALICE):
            (here / "file").touch()
            (here / "directory").mkdir()
    finally:
        os.umask(previous)
    assert (here / "file").stat().st_mode & 0o777 == 0o600
    assert (here / "directory").stat().st_mode & 0o777 == 0o700
