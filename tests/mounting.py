"""A volume mounted for real: the command line in processes of its own, as a user runs it.

`MountedVolume` owns the mount and ends it whatever happens: it unmounts, and kills only the process that it started.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dedupfs.cli import main
from dedupfs.model import Policy
from tests.volumes import PASSPHRASE, make_volume

ROOT = Path(__file__).parents[1]
PATIENCE_SECONDS = 60.0


def why_no_fuse() -> str | None:
    """Return why nothing can be mounted here, or None."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "no access to /dev/fuse"
    if not any(os.access(Path(folder) / "fusermount", os.X_OK) for folder in os.environ["PATH"].split(":")):
        return "fusermount is not installed"
    return None


def mark_fuse() -> list[pytest.MarkDecorator]:
    """Return the marks of a module that mounts: `pytestmark = mark_fuse()`."""
    reason = why_no_fuse()
    return [pytest.mark.fuse, pytest.mark.skipif(reason is not None, reason=reason or "")]


def dedupfs(
    *arguments: str | Path, environment: dict[str, str] | None = None, stdin: int = subprocess.DEVNULL
) -> subprocess.CompletedProcess[str]:
    """Run `dedupfs ARGUMENTS...` with the passphrase of the tests in its environment."""
    return subprocess.run(
        command_line(*arguments),
        env=with_passphrase() if environment is None else environment,
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def in_process(*arguments: str | Path) -> tuple[int, str, str]:
    """Run a command here, which is quicker; return its exit code, what it printed and what it said in error."""
    printed, said = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patched,
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(said),
    ):
        patched.setenv("DEDUPFS_PASSPHRASE", os.fsdecode(PASSPHRASE))
        code = main.main([str(argument) for argument in arguments])
    return code, printed.getvalue(), said.getvalue()


def command_line(*arguments: str | Path) -> list[str]:
    """Return the command that runs this checkout."""
    return [sys.executable, "-m", "dedupfs.cli.main", *map(str, arguments)]


def without_passphrase() -> dict[str, str]:
    """Return the environment with this checkout importable and no source of a passphrase."""
    environment = {name: value for name, value in os.environ.items() if name != "DEDUPFS_PASSPHRASE"}
    return environment | {"PYTHONPATH": str(ROOT)}


def with_passphrase(passphrase: bytes = PASSPHRASE) -> dict[str, str]:
    """Return the environment with the passphrase in it."""
    return without_passphrase() | {"DEDUPFS_PASSPHRASE": os.fsdecode(passphrase)}


class MountedVolume:
    """One volume and one mountpoint; the mount comes and goes."""

    def __init__(self, volume: Path, mountpoint: Path, log_file: Path) -> None:
        self.volume = volume
        self.path = mountpoint
        self.log_file = log_file
        self.expected_in_log: list[str] = []
        """Regular expressions for the lines that a test provokes; any other warning fails it."""
        self._pid: int | None = None
        self.path.mkdir(exist_ok=True)

    @property
    def pid(self) -> int:
        """The process that serves the mount."""
        assert self._pid is not None
        return self._pid

    def mount(self, *options: str) -> Path:
        """Mount and return the mountpoint."""
        done = dedupfs("mount", self.volume, self.path, "--log-file", self.log_file, *options)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        self.note_pid()
        return self.path

    def note_pid(self) -> None:
        """Learn which process serves a mount that somebody else has just made."""
        self._pid = int(os.getxattr(self.path, "user.dedupfs.pid"))

    def wait_until_mounted(self) -> None:
        """Return when a mount that somebody else started answers."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not os.path.ismount(self.path):
            assert time.monotonic() < deadline, "the mount does not come"
            time.sleep(0.05)

    def umount(self) -> None:
        """Unmount as a user does; returns when the volume is closed."""
        assert in_process("umount", self.path) == (0, "", "")
        assert not is_running(self.pid)
        self._pid = None

    def remount(self) -> Path:
        """Unmount and mount again."""
        self.umount()
        return self.mount()

    def kill(self, *, clear: bool = True) -> None:
        """Kill the process that serves the mount, as a crash would, and clear the mountpoint."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._wait_until_gone()
        self._pid = None
        if clear:
            self._detach()

    def settle(self) -> None:
        """Return when every decision has been made."""
        os.getxattr(self.path, "user.dedupfs.settle")

    def report(self, command: str, *arguments: str) -> Any:
        """Return what `dedupfs COMMAND VOLUME ARGUMENTS --json` says; it must succeed."""
        code, printed, said = in_process(command, self.volume, *arguments, "--json")
        assert (code, said) == (0, ""), printed
        return json.loads(printed)

    def assert_clean(self) -> None:
        """Have `check --data` prove the unmounted volume sound."""
        assert self.report("check", "--data")["problems"] == []

    def unexpected_messages(self) -> list[str]:
        """Return the lines of the mount's log that no test has announced."""
        if not self.log_file.exists():
            return []
        lines = self.log_file.read_text().splitlines()
        return [line for line in lines if not any(re.search(each, line) for each in self.expected_in_log)]

    def destroy(self) -> None:
        """Leave nothing mounted and nothing running."""
        self._detach()
        if self._pid is None:
            return
        deadline = time.monotonic() + PATIENCE_SECONDS
        while is_running(self.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        if is_running(self.pid):
            os.kill(self.pid, signal.SIGKILL)
            self._wait_until_gone()

    def _detach(self) -> None:
        """Clear the mountpoint, whatever is there."""
        command = ["umount", "--lazy"] if os.geteuid() == 0 else ["fusermount", "-u", "-z"]
        subprocess.run([*command, "--", str(self.path)], capture_output=True, check=False)

    def _wait_until_gone(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while is_running(self.pid):
            assert time.monotonic() < deadline, "the killed process is still there"
            time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether a process exists and has not ended; one that waits to be reaped has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextlib.contextmanager
def open_descriptor(path: Path, flags: int, mode: int = 0o644) -> Iterator[int]:
    """Open a file without any buffer of Python's, and close it at the end of the block."""
    descriptor = os.open(path, flags, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def sound_mount(
    folder: Path, policy: Policy = Policy.VERIFIED, prepare: Callable[[Path], None] = lambda _: None
) -> Iterator[MountedVolume]:
    """A new volume in a folder, mounted after `prepare`; sound at the end, with nothing unexpected in its log."""
    directory = make_volume(folder / "volume", policy)
    prepare(directory)
    mounted = MountedVolume(directory, folder / "mount", folder / "log")
    try:
        mounted.mount()
        yield mounted
        mounted.umount()
        mounted.assert_clean()
    finally:
        mounted.destroy()
    assert mounted.unexpected_messages() == []


def place_for(test: pytest.FixtureRequest, mounted: MountedVolume) -> Path:
    """Return an empty directory on a shared mount that no other test uses."""
    path = mounted.path / str(test.node.name)[:60]
    path.mkdir()
    return path
