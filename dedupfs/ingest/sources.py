"""Sources: ordinary files outside any volume, found and read without leaving a trace.

Reads only, and where the system allows it without touching the time of last access. Follows no symbolic links. Names
are bytes. Pure functions, any thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from dedupfs.errors import SourceError

_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """A regular file as it was found; a file of several hard links is found once."""

    path: bytes
    size: int


def walk(folders: Iterable[bytes], unreadable: Callable[[bytes], None]) -> Iterator[Source]:
    """Yield every regular file below the folders, and those that are named themselves, each once, in order of names.

    `unreadable` is told of directories that cannot be listed.
    """
    seen: set[tuple[int, int]] = set()
    for folder in folders:
        try:
            # What is named on the command line may be a link to a folder; what lies below it may not.
            found = os.stat(folder)
        except OSError:
            unreadable(folder)
            continue
        if stat.S_ISDIR(found.st_mode):
            yield from _below(folder, found, seen, unreadable)
        elif stat.S_ISREG(found.st_mode):
            yield from _once(folder, found, seen)


def _below(
    folder: bytes, found: os.stat_result, seen: set[tuple[int, int]], unreadable: Callable[[bytes], None]
) -> Iterator[Source]:
    waiting = [(folder, found)]
    while waiting:
        directory, found = waiting.pop()
        if (found.st_dev, found.st_ino) in seen:
            continue
        seen.add((found.st_dev, found.st_ino))
        try:
            with os.scandir(directory) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except OSError:
            unreadable(directory)
            continue
        below = []
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:
                unreadable(entry.path)
                continue
            if stat.S_ISDIR(found.st_mode):
                below.append((entry.path, found))
            elif stat.S_ISREG(found.st_mode):
                yield from _once(entry.path, found, seen)
        waiting += reversed(below)


def _once(path: bytes, found: os.stat_result, seen: set[tuple[int, int]]) -> Iterator[Source]:
    if found.st_nlink > 1:
        if (found.st_dev, found.st_ino) in seen:
            return
        seen.add((found.st_dev, found.st_ino))
    yield Source(path, found.st_size)


def read(path: bytes, limit_bytes: int, wanted: Callable[[bytes, int], bool], head_bytes: int) -> bytes | None:
    """Return the bytes of a file, or None when `wanted` turns it down by its first bytes and its size.

    Raises:
        SourceError: it cannot be read, or grows past the limit while it is.
    """
    with _opened(path) as descriptor:
        head = _exactly(descriptor, head_bytes)
        size = os.fstat(descriptor).st_size
        if not wanted(head, size):
            return None
        parts = [head]
        left = limit_bytes - len(head)
        while len(head) == head_bytes and (part := _exactly(descriptor, _READ_BYTES)):
            parts.append(part)
            left -= len(part)
            if left < 0:
                raise SourceError("it grew while it was read")
        return b"".join(parts)


def digest(path: bytes) -> bytes:
    """Return the SHA-256 of a file of any size. Raises SourceError."""
    state = hashlib.sha256()
    with _opened(path) as descriptor:
        while part := os.read(descriptor, _READ_BYTES):
            state.update(part)
    return state.digest()


@contextlib.contextmanager
def _opened(path: bytes) -> Iterator[int]:
    # Should something else take the file's place, opening a pipe must not wait and a link must not lead elsewhere.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        try:
            descriptor = os.open(path, flags | os.O_NOATIME)
        except PermissionError:
            # Only the owner may leave the time of last access alone.
            descriptor = os.open(path, flags)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise SourceError("it is no regular file any more")
            yield descriptor
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise SourceError(exc.strerror or "it cannot be read") from exc


def _exactly(descriptor: int, size: int) -> bytes:
    """Read up to `size` bytes, fewer only at the end of the file."""
    parts = []
    while size and (part := os.read(descriptor, size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
