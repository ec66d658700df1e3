"""Rounds of scripts/crashtest on a real mount: it is killed at a random moment while several people work in it.

Each round goes on where the last one was: mount, compare everything with what a crash may leave, let some people work,
each in a folder of their own, while `cp` copies photos in, kill the process, and let `check --data` look at the rest. A
kill keeps what the kernel has in its page cache; for a disk that loses it see crashtest_core.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from crashtest_commits import PASSPHRASE, Round, make_volume, problems_of
from crashtest_ledger import Kind, Ledger, Operation, Seen, is_kept
from crashtest_workload import PHOTOS, Workload

from dedupfs.errors import DedupfsError
from dedupfs.model import Policy

PEOPLE = 3
ROUNDS_PER_VOLUME = 10
"""A volume is made anew after so many crashes."""
KILL_SECONDS = (0.05, 2.5)
"""The mount is killed so long after the work began."""
_PATIENCE_SECONDS = 120.0
_SETTLE_XATTR = "user.dedupfs.settle"
_PID_XATTR = "user.dedupfs.pid"


@dataclass(slots=True)
class Person:
    """One folder, who works in it, and what may be in it."""

    folder: str
    workload: Workload
    state: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=lambda: Ledger({}))
    failure: str | None = None


def rounds(folder: Path, seed: str, policy: Policy, number: int) -> Iterator[Round]:
    """Kill a mount so many times; yield round by round."""
    at = 0
    while at < number:
        below = folder / f"{at}"
        below.mkdir()
        test = _Test(below, f"{seed} {at}", policy)
        try:
            for _ in range(min(ROUNDS_PER_VOLUME, number - at)):
                problems = test.crash(at)
                yield Round(f"{policy.value} {seed}: killed mount {at}", problems)
                at += 1
                if problems:
                    # What follows from a loss is no other loss.
                    break
        finally:
            test.clear()
            shutil.rmtree(below, ignore_errors=True)


class _Test:
    """One volume, mounted again and again."""

    def __init__(self, folder: Path, seed: str, policy: Policy) -> None:
        self._volume = folder / "volume"
        self._mountpoint = folder / "mount"
        self._mountpoint.mkdir()
        self._log = folder / "log"
        self._seed = seed
        self._policy = policy
        self._choice = random.Random(seed)
        self._key = make_volume(self._volume, policy)
        self._pid: int | None = None
        self._people: list[Person] = []
        self._mount()
        for number in range(PEOPLE):
            name = f"person {number}"
            (self._mountpoint / name).mkdir()
            self._people.append(Person(name, Workload(f"{seed} {name}")))
        (self._mountpoint / "copies").mkdir()
        _sync(self._mountpoint)

    def crash(self, number: int) -> list[str]:
        """Work, kill, mount again, and return what is wrong."""
        for person in self._people:
            names = {name: inode for name, (inode, _) in person.state.items()}
            person.workload = Workload(f"{self._seed} {person.folder} {number}", names)
            person.ledger = Ledger(person.state, self._policy)
        self._work_until_killed()
        problems = [person.failure for person in self._people if person.failure]
        try:
            problems += [f"at once: {text}" for text in problems_of(self._volume, self._key)]
            self._mount()
            problems += self._compare("after the crash")
            os.getxattr(self._mountpoint, _SETTLE_XATTR)
            problems += self._compare("when all is decided")
            problems += [f"in the end: {text}" for text in problems_of(self._volume, self._key, decided=True)]
        except (OSError, DedupfsError, subprocess.SubprocessError) as exc:
            problems.append(f"{type(exc).__name__}: {exc}")
        problems += self._log_lines()
        return problems

    def clear(self) -> None:
        """Leave nothing mounted and nothing running."""
        self._detach()
        if self._pid is not None:
            _kill(self._pid)
            self._pid = None

    # Inside

    def _mount(self) -> None:
        command = [sys.executable, "-m", "dedupfs.cli.main", "mount", str(self._volume), str(self._mountpoint)]
        done = subprocess.run(
            [*command, "--log-file", str(self._log)],
            env=os.environ | {"DEDUPFS_PASSPHRASE": PASSPHRASE.decode()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_SECONDS,
            check=False,
        )
        if done.returncode:
            raise OSError(f"mount failed with exit code {done.returncode}: {done.stderr.strip()}")
        self._pid = int(os.getxattr(self._mountpoint, _PID_XATTR))

    def _work_until_killed(self) -> None:
        assert self._pid is not None
        root = os.open(self._mountpoint, os.O_RDONLY | os.O_DIRECTORY)
        stop = threading.Event()
        threads = [threading.Thread(target=_work, args=(person, root, stop)) for person in self._people]
        copying = subprocess.Popen(
            ["cp", "-a", *sorted(PHOTOS.glob("*.jpg")), self._mountpoint / "copies"], stderr=subprocess.DEVNULL
        )
        for thread in threads:
            thread.start()
        time.sleep(self._choice.uniform(*KILL_SECONDS))
        _kill(self._pid)
        self._pid = None
        stop.set()
        for thread in threads:
            thread.join()
        copying.wait()
        os.close(root)
        self._detach()

    def _compare(self, when: str) -> list[str]:
        problems = []
        for person in self._people:
            found = _read_all(self._mountpoint / person.folder)
            state = person.ledger.explain(found)
            if state is None:
                problems.append(f"{when} {person.folder} is in no allowed state: {person.ledger.describe(found)}")
            else:
                person.state = state
        for photo in PHOTOS.glob("*.jpg"):
            copy = self._mountpoint / "copies" / photo.name
            if not copy.exists() or not copy.stat().st_size:
                continue
            if not is_kept(photo.read_bytes(), copy.read_bytes(), self._policy):
                problems.append(f"{when} the copy of {photo.name} is neither whole nor empty nor absent")
        return problems

    def _log_lines(self) -> list[str]:
        if not self._log.exists():
            return []
        lines = self._log.read_text().splitlines()
        self._log.unlink()
        return [f"the mount logged: {line}" for line in lines[:3]]

    def _detach(self) -> None:
        command = ["umount", "--lazy"] if os.geteuid() == 0 else ["fusermount", "-u", "-z"]
        subprocess.run([*command, "--", self._mountpoint], capture_output=True, check=False)


def _work(person: Person, root: int, stop: threading.Event) -> None:
    """Do operations until the mount is gone, and note each."""
    folder = os.open(person.folder, os.O_RDONLY | os.O_DIRECTORY, dir_fd=root)
    hands = MountFolder(folder)
    try:
        while not stop.is_set():
            operation = person.workload.next()
            if operation.kind is Kind.SETTLE:
                # It stores what others have half written, as sync(2) does, and nobody's ledger knows of the others.
                operation = Operation(Kind.SYNC)
            base: list[bytes] = []
            try:
                hands.perform(operation, base.append)
            except OSError as exc:
                person.ledger.note(operation, ended=False, base=base[0] if base else None)
                # A mount that has gone answers nothing else.
                time.sleep(0.2)
                if not stop.is_set():
                    person.failure = f"{operation.kind} of {operation.name} failed: {exc}"
                return
            person.ledger.note(operation, ended=True, base=base[0] if base else None)
    finally:
        hands.let_go()
        with contextlib.suppress(OSError):
            os.close(folder)


class MountFolder:
    """Does the operations of a workload in a folder that is open, so that nothing lands below a mount that has gone."""

    def __init__(self, folder: int) -> None:
        self._folder = folder
        self._held: int | None = None

    def perform(self, operation: Operation, keep: Callable[[bytes], None]) -> None:
        """Do it; `keep` gets what a file reads as before something of it is changed."""
        name, other, folder = operation.name, operation.other, self._folder
        match operation.kind:
            case Kind.WRITE:
                with self._opened(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:
                    _write_all(file, operation.data, 0)
            case Kind.EDIT | Kind.TRUNCATE:
                with self._opened(name, os.O_RDWR) as file:
                    keep(_read_whole(file))
                    if operation.kind is Kind.EDIT:
                        _write_all(file, operation.data, operation.offset)
                    else:
                        os.ftruncate(file, operation.offset)
            case Kind.RENAME:
                os.rename(name, other, src_dir_fd=folder, dst_dir_fd=folder)
            case Kind.LINK:
                os.link(name, other, src_dir_fd=folder, dst_dir_fd=folder)
            case Kind.UNLINK:
                os.unlink(name, dir_fd=folder)
            case Kind.HOLD:
                self.let_go()
                self._held = os.open(name, os.O_RDONLY, dir_fd=folder)
                os.pread(self._held, 1, 0)
            case Kind.FSYNC:
                with self._opened(name, os.O_RDONLY) as file:
                    os.fsync(file)
            case _:
                os.fsync(folder)

    def let_go(self) -> None:
        """Close the file that is held."""
        if self._held is not None:
            with contextlib.suppress(OSError):
                os.close(self._held)
            self._held = None

    @contextlib.contextmanager
    def _opened(self, name: str, flags: int) -> Iterator[int]:
        file = os.open(name, flags, 0o644, dir_fd=self._folder)
        try:
            yield file
        finally:
            os.close(file)


def _write_all(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view = view[written:]
        offset += written


def _read_whole(file: int) -> bytes:
    data = b""
    while part := os.pread(file, 1 << 20, len(data)):
        data += part
    return data


def _read_all(folder: Path) -> dict[str, Seen]:
    return {path.name: Seen(path.stat().st_ino, path.read_bytes()) for path in folder.iterdir()}


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _kill(pid: int) -> None:
    """Kill a process that is not a child of this one and wait until it has gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while _is_running(pid):
        if time.monotonic() > deadline:
            raise TimeoutError("the killed mount does not end")
        time.sleep(0.01)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
