"""Open files and handles: what is kept in memory for an inode while somebody uses it, or until its bytes are stored.

Locks. `OpenFile.lock` guards the spool and is taken before the store's lock, never inside it. Everything else of an
open file (counts, flags, times, the generation) changes only under the store's lock.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from dedupfs.errors import BadHandleError
from dedupfs.filesystem.spool import Source, Spool
from dedupfs.model import ContentId, InodeNo


@dataclass(slots=True, eq=False)
class OpenFile:
    """One inode in use; all handles on it share this."""

    inode: InodeNo
    handles: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)
    spool: Spool | None = None
    """Holds what the file reads as, from the first write until the bytes are stored and nobody has it open."""
    source: Source | None = None
    """What is read when there is no spool; chosen at the first open, so that a reader never sees two versions."""
    content: ContentId | None = None
    """The stored content behind `source`; nothing may change the way it is stored meanwhile."""
    unsaved: bool = False
    """The spool holds bytes, or the record lacks times, that a crash would lose."""
    unsaved_since: float = 0.0
    """By the monotonic clock, while `unsaved`."""
    generation: int = 0
    """Grows with the first write after each save or submission; a decision about older bytes is void."""
    mtime_ns: int | None = None
    """Set while it differs from the record."""
    ctime_ns: int | None = None
    privileged: bool = True
    """It may have privileges that a write takes away; see Privileges."""
    queued: bool = False
    """Its bytes wait for a decision."""


@dataclass(slots=True, eq=False)
class Handle:
    """One successful open."""

    file: OpenFile
    readable: bool
    writable: bool
    keep_cache: bool
    """Whether pages that the kernel holds of this inode still are what a read would return."""


class HandleTable:
    """Numbers for handles; the store's lock guards it."""

    def __init__(self) -> None:
        self._handles: dict[int, Handle] = {}
        self._next = 1

    def __len__(self) -> int:
        return len(self._handles)

    def add(self, handle: Handle) -> int:
        """Return a fresh number for a handle."""
        number = self._next
        self._next += 1
        self._handles[number] = handle
        return number

    def get(self, number: int) -> Handle:
        """Return the handle. Raises BadHandleError."""
        try:
            return self._handles[number]
        except KeyError as exc:
            raise BadHandleError(f"no handle {number}") from exc

    def remove(self, number: int) -> Handle:
        """Forget the number and return its handle. Raises BadHandleError."""
        handle = self.get(number)
        del self._handles[number]
        return handle
