"""A state machine does the same in a mounted volume and in a plain directory: results and errors must be the same.

`pytest tests/mount/test_model.py --hypothesis-profile long` runs it for many minutes.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from dedupfs.model import Policy
from tests.conftest import examples
from tests.mounting import MountedVolume, mark_fuse, sound_mount

pytestmark = mark_fuse()

PATHS = st.sampled_from(["a", "b", "d", "d/a", "d/b", "e", "e/d", "a/x", "missing/a", "n" * 256])
FLAGS = st.sampled_from(
    [
        os.O_RDONLY,
        os.O_RDWR,
        os.O_WRONLY | os.O_APPEND,
        os.O_RDWR | os.O_CREAT,
        os.O_RDWR | os.O_CREAT | os.O_EXCL,
        os.O_RDWR | os.O_CREAT | os.O_TRUNC,
        os.O_RDONLY | os.O_DIRECTORY,
        os.O_RDONLY | os.O_NOFOLLOW,
    ]
)
OFFSETS = st.sampled_from([0, 1, 4096, 130_000, 262_200])
DATA = st.sampled_from([b"x", b"hello", bytes(4097), bytes(range(256)) * 600])
TARGETS = st.sampled_from(["a", "d", "missing", "../b", "a/x"])
XATTRS = st.sampled_from(["user.one", "user.two"])
MODES = st.sampled_from([0o600, 0o644, 0o4755, 0o2711, 0o1777, 0o000])

Action = Callable[["Side"], object]


class Side:
    """One of the two directories, with its open files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.open: dict[int, int] = {}

    def at(self, path: str) -> str:
        return f"{self.folder}/{path}"

    def outcome(self, action: Action) -> tuple[str, object]:
        try:
            return "done", action(self)
        except OSError as exc:
            return "refused", errno.errorcode[exc.errno or 0]

    def seen(self) -> dict[str, object]:
        """Return everything below: what it is, its mode, size, links, attributes and bytes."""
        found: dict[str, object] = {}
        for directory, below, files in os.walk(self.folder):
            for name in below + files:
                path = os.path.join(directory, name)
                found[os.path.relpath(path, self.folder)] = self.described(path)
        return found

    def described(self, path: str) -> object:
        info = os.lstat(path)
        if stat.S_ISLNK(info.st_mode):
            return "link", os.readlink(path)
        attributes = {name: os.getxattr(path, name) for name in sorted(os.listxattr(path)) if name.startswith("user.")}
        if stat.S_ISDIR(info.st_mode):
            return "directory", stat.S_IMODE(info.st_mode), info.st_nlink, attributes
        return "file", stat.S_IMODE(info.st_mode), info.st_nlink, attributes, Path(path).read_bytes()


class Comparison(RuleBasedStateMachine):
    """Every rule is one call of the system, in both directories."""

    mounted: ClassVar[MountedVolume]
    plain: ClassVar[Path]
    number: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).number += 1
        name = f"run {self.number}"
        self.sides = [Side(self.plain / name), Side(self.mounted.path / name)]
        for side in self.sides:
            (side.folder / "d").mkdir(parents=True)
            (side.folder / "d" / "a").write_bytes(b"something to begin with")
        self.handles = 0
        self.remounts = 0

    def teardown(self) -> None:
        for side in self.sides:
            for descriptor in side.open.values():
                os.close(descriptor)
            shutil.rmtree(side.folder)

    def both(self, action: Action) -> tuple[str, object]:
        plain, mounted = (side.outcome(action) for side in self.sides)
        assert mounted == plain
        return plain

    # Files

    @rule(path=PATHS, flags=FLAGS)
    def open_file(self, path: str, flags: int) -> None:
        number = self.handles

        def action(side: Side) -> None:
            side.open[number] = os.open(side.at(path), flags, 0o640)

        if self.both(action)[0] == "done":
            self.handles += 1

    @precondition(lambda self: self.sides[0].open)
    @rule(data=st.data(), written=DATA, offset=OFFSETS)
    def write(self, data: st.DataObject, written: bytes, offset: int) -> None:
        number = self.drawn(data)
        self.both(lambda side: os.pwrite(side.open[number], written, offset))

    @precondition(lambda self: self.sides[0].open)
    @rule(data=st.data(), size=OFFSETS)
    def cut(self, data: st.DataObject, size: int) -> None:
        number = self.drawn(data)
        self.both(lambda side: os.ftruncate(side.open[number], size))

    @precondition(lambda self: self.sides[0].open)
    @rule(data=st.data(), size=OFFSETS, offset=OFFSETS)
    def read(self, data: st.DataObject, size: int, offset: int) -> None:
        number = self.drawn(data)
        self.both(lambda side: os.pread(side.open[number], size, offset))

    @precondition(lambda self: self.sides[0].open)
    @rule(data=st.data())
    def describe(self, data: st.DataObject) -> None:
        """Of a file that has lost all its names, too."""
        number = self.drawn(data)

        def action(side: Side) -> tuple[int, int, int]:
            info = os.fstat(side.open[number])
            return info.st_mode, info.st_nlink, 0 if stat.S_ISDIR(info.st_mode) else info.st_size

        self.both(action)

    @precondition(lambda self: self.sides[0].open)
    @rule(data=st.data())
    def fsync(self, data: st.DataObject) -> None:
        number = self.drawn(data)
        self.both(lambda side: os.fsync(side.open[number]))

    @precondition(lambda self: self.sides[0].open)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        number = self.drawn(data)
        self.both(lambda side: os.close(side.open.pop(number)))

    @rule(path=PATHS, size=OFFSETS)
    def truncate(self, path: str, size: int) -> None:
        self.both(lambda side: os.truncate(side.at(path), size))

    def drawn(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.sides[0].open)))

    # Names

    @rule(path=PATHS)
    def make_directory(self, path: str) -> None:
        self.both(lambda side: os.mkdir(side.at(path), 0o750))

    @rule(path=PATHS)
    def remove_directory(self, path: str) -> None:
        self.both(lambda side: os.rmdir(side.at(path)))

    @rule(path=PATHS)
    def unlink(self, path: str) -> None:
        self.both(lambda side: os.unlink(side.at(path)))

    @rule(path=PATHS, new=PATHS)
    def rename(self, path: str, new: str) -> None:
        self.both(lambda side: os.rename(side.at(path), side.at(new)))

    @rule(path=PATHS, new=PATHS)
    def link(self, path: str, new: str) -> None:
        self.both(lambda side: os.link(side.at(path), side.at(new), follow_symlinks=False))

    @rule(path=PATHS, aim=TARGETS)
    def make_link(self, path: str, aim: str) -> None:
        self.both(lambda side: os.symlink(aim, side.at(path)))

    @rule(path=PATHS)
    def list_directory(self, path: str) -> None:
        self.both(lambda side: sorted(os.listdir(side.at(path))))

    # Attributes

    @rule(path=PATHS, mode=MODES)
    def set_mode(self, path: str, mode: int) -> None:
        self.both(lambda side: os.chmod(side.at(path), mode))

    @rule(path=PATHS, seconds=st.sampled_from([0, 1, 1_700_000_000]), rest_ns=st.sampled_from([0, 1, 999_999_999]))
    def set_times(self, path: str, seconds: int, rest_ns: int) -> None:
        time_ns = seconds * 1_000_000_000 + rest_ns

        def action(side: Side) -> tuple[int, int]:
            os.utime(side.at(path), ns=(time_ns, time_ns))
            info = os.stat(side.at(path))
            return info.st_atime_ns, info.st_mtime_ns

        self.both(action)

    @rule(path=PATHS, name=XATTRS, value=DATA, flags=st.sampled_from([0, os.XATTR_CREATE, os.XATTR_REPLACE]))
    def set_xattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        self.both(lambda side: os.setxattr(side.at(path), name, value[:1000], flags))

    @rule(path=PATHS, name=XATTRS)
    def remove_xattr(self, path: str, name: str) -> None:
        self.both(lambda side: os.removexattr(side.at(path), name))

    # The whole

    @precondition(lambda self: not self.sides[0].open and not self.remounts)
    @rule()
    def remount(self) -> None:
        """Once a run: it takes as long as everything else."""
        self.mounted.remount()
        self.remounts += 1

    @invariant()
    def agree(self) -> None:
        plain, mounted = (side.seen() for side in self.sides)
        assert mounted == plain


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[MountedVolume]:
    with sound_mount(tmp_path, Policy.OFF) as mounted:
        yield mounted


def test_a_mounted_volume_does_what_a_plain_directory_does(volume: MountedVolume) -> None:
    with tempfile.TemporaryDirectory(prefix="dedupfs-test-") as plain:
        try:
            os.setxattr(plain, "user.probe", b"")
        except OSError:
            pytest.skip("the plain directory has no extended attributes to compare with")
        os.removexattr(plain, "user.probe")
        Comparison.mounted, Comparison.plain = volume, Path(plain)
        run_state_machine_as_test(
            Comparison,
            settings=settings(
                max_examples=examples(4),
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )
