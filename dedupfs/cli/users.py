"""Who uses a mount: the processes with something below it open, mapped, or as their working directory.

Read from /proc, without asking the mount anything. Another user's processes show themselves to root alone.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class User:
    """One process, and the first thing found that keeps the mount busy."""

    pid: int
    command: str
    uses: str
    """`works in PATH`, `has PATH open`, and so on; paths below the mountpoint, as in its listing."""


def users_of(mountpoint: Path) -> list[User]:
    """Return the processes that use the mount, by their numbers."""
    root = os.fsencode(os.path.realpath(mountpoint.parent)) + b"/" + os.fsencode(mountpoint.name)
    found = []
    for process in _PROC.iterdir():
        if not process.name.isdecimal() or int(process.name) == os.getpid():
            continue
        uses = _use(process, root)
        if uses is not None:
            found.append(User(int(process.name), _command(process), uses))
    return sorted(found, key=lambda user: user.pid)


def described(users: list[User]) -> str:
    """Return the processes in one line."""
    return ", ".join(f"{user.command} (process {user.pid}) {user.uses}" for user in users)


def _use(process: Path, root: bytes) -> str | None:
    for name, meaning in (("cwd", "works in {}"), ("root", "has {} for its root"), ("exe", "runs {}")):
        below = _below(_link(process / name), root)
        if below is not None:
            return meaning.format(below)
    try:
        for descriptor in (process / "fd").iterdir():
            below = _below(_link(descriptor), root)
            if below is not None:
                return f"has {below} open"
        for line in (process / "maps").read_bytes().splitlines():
            below = _below(line.split(b" ", 5)[-1].strip(), root)
            if below is not None:
                return f"has {below} mapped"
    except OSError:
        # It has ended, or belongs to somebody else.
        return None
    return None


def _link(path: Path) -> bytes:
    try:
        return os.readlink(os.fsencode(path))
    except OSError:
        return b""


def _below(path: bytes, root: bytes) -> str | None:
    """Return a path relative to the mountpoint, in printable characters, or None when it lies elsewhere."""
    if path == root:
        return "it"
    if not path.startswith(root + b"/"):
        return None
    text = path[len(root) + 1 :].decode(errors="backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _command(process: Path) -> str:
    with contextlib.suppress(OSError):
        return (process / "comm").read_text(errors="backslashreplace").strip()
    return "a process"
