"""File systems to be timed: dedupfs, plain folders and other encrypting file systems, behind one interface.

Each lives in a folder of its own and is driven through its own command line. Single-threaded.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

DEDUPFS = str(Path(sys.executable).parent / "dedupfs")
PASSPHRASE = "a passphrase for measuring"


class System(Protocol):
    """A file system that can be made, mounted and unmounted."""

    @property
    def name(self) -> str:
        """What it is called in the table."""

    def make(self, folder: Path) -> None:
        """Make an empty one below an empty folder."""

    def mount(self, folder: Path) -> Path:
        """Mount and return where files go."""

    def unmount(self, folder: Path) -> None:
        """Return when everything that was written is safe."""

    def stored_bytes(self, folder: Path) -> int:
        """Return what it takes on the disk, unmounted."""


@dataclass(frozen=True, slots=True)
class Dedupfs:
    """This project, with one policy."""

    policy: str

    @property
    def name(self) -> str:
        return f"dedupfs {self.policy}"

    def make(self, folder: Path) -> None:
        (folder / "clear").mkdir()
        _run(DEDUPFS, "init", folder / "cipher", "--dedup", self.policy)

    def mount(self, folder: Path) -> Path:
        _run(DEDUPFS, "mount", folder / "cipher", folder / "clear")
        return folder / "clear"

    def unmount(self, folder: Path) -> None:
        _run(DEDUPFS, "umount", folder / "clear")

    def stored_bytes(self, folder: Path) -> int:
        return disk_bytes(folder / "cipher")


@dataclass(frozen=True, slots=True)
class Plain:
    """The file system below, to know what the disk can do."""

    name: str = "plain"

    def make(self, folder: Path) -> None:
        (folder / "clear").mkdir()

    def mount(self, folder: Path) -> Path:
        return folder / "clear"

    def unmount(self, folder: Path) -> None:
        _run("sync", "-f", folder)

    def stored_bytes(self, folder: Path) -> int:
        return disk_bytes(folder / "clear")


@dataclass(frozen=True, slots=True)
class Peer:
    """A file system that keeps a file for a file in a folder of ciphertexts."""

    name: str
    make_command: tuple[str, ...]
    mount_command: tuple[str, ...]

    def make(self, folder: Path) -> None:
        (folder / "clear").mkdir()
        (folder / "cipher").mkdir()
        (folder / "passphrase").write_text(PASSPHRASE + "\n")
        if self.make_command:
            _run(*self._filled(self.make_command, folder))

    def mount(self, folder: Path) -> Path:
        _run(*self._filled(self.mount_command, folder))
        return folder / "clear"

    def unmount(self, folder: Path) -> None:
        _run("fusermount", "-u", folder / "clear")
        _run("sync", "-f", folder)

    def stored_bytes(self, folder: Path) -> int:
        return disk_bytes(folder / "cipher")

    @staticmethod
    def _filled(command: tuple[str, ...], folder: Path) -> list[str]:
        return [word.replace("FOLDER", str(folder)) for word in command]


PEERS = (
    Peer(
        "gocryptfs",
        ("gocryptfs", "-init", "-q", "-passfile", "FOLDER/passphrase", "FOLDER/cipher"),
        ("gocryptfs", "-q", "-passfile", "FOLDER/passphrase", "FOLDER/cipher", "FOLDER/clear"),
    ),
    Peer(
        "cryfs",
        (),
        ("sh", "-c", "CRYFS_FRONTEND=noninteractive cryfs FOLDER/cipher FOLDER/clear <FOLDER/passphrase"),
    ),
    Peer(
        "encfs",
        (),
        ("sh", "-c", "encfs --standard --stdinpass FOLDER/cipher FOLDER/clear <FOLDER/passphrase"),
    ),
)


def installed_peers() -> list[Peer]:
    """Return those that this machine has."""
    return [peer for peer in PEERS if shutil.which(peer.name) is not None]


def disk_bytes(folder: Path) -> int:
    """Return what the files below take on the disk."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))


def _run(*command: str | Path) -> None:
    done = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, "DEDUPFS_PASSPHRASE": PASSPHRASE},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise SystemExit(f"bench: {command[0]} failed with exit code {done.returncode} and said: {said}")
