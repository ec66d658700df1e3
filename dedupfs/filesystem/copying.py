"""What copying a tree into a volume and out of it have in common: the outcome, and when a file is there already."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

_COARSEST_NS = 2_000_000_000
_FINEST_COARSE_NS = 10_000_000
"""Times on memory cards are cut to two seconds (FAT) or to hundredths (exFAT)."""


@dataclass(slots=True)
class Copied:
    """What became of a run; `count`, `count_file` and `leave` may be called from any thread."""

    tell: Callable[[bytes, str], None]
    files: int = 0
    file_bytes: int = 0
    """Of these files."""
    directories: int = 0
    links: int = 0
    others: int = 0
    skipped: int = 0
    """There already."""
    done_bytes: int = 0
    """Of files that were copied, passed over, or could not be read."""
    failures: list[tuple[bytes, str]] = field(default_factory=list)
    left: dict[bytes, str] = field(default_factory=dict)
    """Files that are there without an owner, a mode or an attribute that they had, and why."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str) -> None:
        """Add one to `directories`, `links`, `others` or `skipped`."""
        with self._lock:
            setattr(self, what, getattr(self, what) + 1)

    def count_file(self, size: int) -> None:
        """Add a file of so many bytes."""
        with self._lock:
            self.files += 1
            self.file_bytes += size

    def fail(self, path: bytes, reason: str) -> None:
        """Note something that is not there, and tell of it."""
        self.failures.append((path, reason))
        self.tell(path, reason)

    def leave(self, path: bytes, reason: str) -> None:
        """Note something that is there but not in every respect."""
        with self._lock:
            self.left.setdefault(path, reason)


def is_same_time(mtime_ns: int, there: os.stat_result) -> bool:
    """Whether a file's time is the given one, as far as its medium can hold it."""
    behind_ns = mtime_ns - there.st_mtime_ns
    return behind_ns == 0 or (there.st_mtime_ns % _FINEST_COARSE_NS == 0 and 0 < behind_ns < _COARSEST_NS)
