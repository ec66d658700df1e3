"""A volume in a temporary folder, driven through the command line only, and gone at the end whatever happens.

Owns the temporary folder, the mount and the process behind it; used by demo.py and evaluate.py. Single-threaded.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

# The command installed beside this interpreter, as a user runs it.
DEDUPFS = str(Path(sys.executable).parent / "dedupfs")

GRACE_SECONDS = 2.0


class CommandError(Exception):
    """A dedupfs command (or cp) ended with another exit code than 0; its text is what the command said."""


class ThrowawayVolume:
    """One volume under a random passphrase, its mountpoint, and the commands that work on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.volume = folder / "volume"
        self.mountpoint = folder / "mount"
        self.mountpoint.mkdir()
        self.passphrase = secrets.token_urlsafe(24)
        self._environment = {**os.environ, "DEDUPFS_PASSPHRASE": self.passphrase}

    def run(self, *arguments: str | Path) -> str:
        """Run `dedupfs ARGUMENTS...` and return what it printed."""
        return _run([DEDUPFS, *map(str, arguments)], self._environment)

    def report(self, command: str) -> Any:
        """Return what `dedupfs COMMAND VOLUME --json` says."""
        return json.loads(self.run(command, self.volume, "--json"))

    def init(self, policy: str) -> None:
        self.run("init", self.volume, "--dedup", policy)

    @contextlib.contextmanager
    def mounted(self, *options: str) -> Iterator[Path]:
        """Mount for the length of a `with` block. After an error in it the mount is left to `destroy`."""
        self.run("mount", self.volume, self.mountpoint, *options)
        yield self.mountpoint
        self.unmount()

    def unmount(self) -> None:
        self.run("umount", self.mountpoint)

    def memory(self) -> dict[str, int]:
        """Return what /proc says in bytes of the memory of the process that serves the mount, by its names."""
        pid = (self.volume / "mounted").read_text().strip()
        fields = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return {words[0].rstrip(":"): int(words[1]) * 1024 for words in fields if words[-1] == "kB"}

    def destroy(self) -> None:
        """Unmount, end the process that served the mount, and remove every file."""
        _detach(self.mountpoint)
        # Nobody will read this volume again, so what the server still has in hand is not waited for.
        _end_processes_naming(self.folder)
        # A `dedupfs mount` that was still starting may have mounted in between.
        _detach(self.mountpoint)
        # A server that was just ended may have been creating files: the removal may need a second try.
        for _ in range(3):
            shutil.rmtree(self.folder, ignore_errors=True)
            if not self.folder.exists():
                return
            time.sleep(0.2)
        print(f"could not remove {self.folder}", file=sys.stderr)


@contextlib.contextmanager
def throwaway_volume(purpose: str) -> Iterator[ThrowawayVolume]:
    """Give a new volume (not yet initialised) in a temporary folder, and destroy it at the end.

    Ctrl-C, SIGTERM and SIGHUP end the block as an exception would, so that they clean up too.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"dedupfs-{purpose}-"))
    volume = ThrowawayVolume(folder)
    previous = {number: signal.signal(number, _exit_on_signal) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield volume
    finally:
        # A second Ctrl-C must not stop the cleaning.
        previous[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        volume.destroy()
        for number, handler in previous.items():
            signal.signal(number, handler)


def copy(arguments: Sequence[str | Path | bytes], cwd: Path | None = None) -> None:
    """Run plain `cp` with these arguments."""
    _run(["cp", *arguments], dict(os.environ), cwd)


def _run(command: Sequence[str | Path | bytes], environment: dict[str, str], cwd: Path | None = None) -> str:
    # DEVNULL: a passphrase prompt must fail instead of waiting for an answer nobody sees.
    done = subprocess.run(
        command,
        env=environment,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
    )
    if done.returncode != 0:
        said = done.stderr.strip() or done.stdout.strip() or "nothing"
        words = " ".join(Path(os.fsdecode(word)).name for word in command[:2])
        raise CommandError(f"{words} failed with exit code {done.returncode} and said: {said}")
    return done.stdout


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _detach(mountpoint: Path) -> None:
    # Not os.path.ismount: it asks the mount itself, which does not answer when its server is dead.
    escaped = str(mountpoint).replace("\\", r"\134").replace(" ", r"\040")
    if any(line.split(" ")[1] == escaped for line in Path("/proc/mounts").read_text().splitlines()):
        subprocess.run(["fusermount", "-u", "-z", str(mountpoint)], check=False, stderr=subprocess.DEVNULL)


def _end_processes_naming(folder: Path) -> None:
    """End the processes whose command line names a path in this folder: the mount and its workers."""
    deadline = time.monotonic() + GRACE_SECONDS
    while pids := _processes_naming(folder):
        number = signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if time.monotonic() > deadline + GRACE_SECONDS:
            print(f"processes {pids} do not end", file=sys.stderr)
            return
        time.sleep(0.1)


def _processes_naming(folder: Path) -> list[int]:
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if any(word.startswith(os.fsencode(folder) + b"/") for word in words):
                    pids.append(int(entry.name))
    return pids
