"""Traffic: what has been asked of a mount so far. Counting needs no lock: each thread has numbers of its own."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

_IDLE_OPERATIONS = frozenset({"statfs", "getxattr"})
"""What desktops and watchers ask of a mount that nobody uses: how full it is, and how it fares."""


@dataclass(slots=True)
class _Counts:
    requests: int = 0
    read_bytes: int = 0
    written_bytes: int = 0


class Traffic:
    """The requests and bytes of one mount."""

    def __init__(self) -> None:
        self.started = self.last_used = time.monotonic()
        """By the monotonic clock; the second is when somebody last used the mount."""
        self._by_thread: dict[int, _Counts] = {}

    def asked(self, operation: str) -> None:
        """Count a request."""
        self._mine().requests += 1
        if operation not in _IDLE_OPERATIONS:
            self.last_used = time.monotonic()

    def has_read(self, count: int) -> None:
        """Count bytes that somebody has read."""
        self._mine().read_bytes += count

    def has_written(self, count: int) -> None:
        """Count bytes that somebody has written."""
        self._mine().written_bytes += count

    def figures(self) -> dict[str, float]:
        """Return the sums, and for how long they have been gathered."""
        counts = list(self._by_thread.values())
        return {
            "mounted_seconds": round(time.monotonic() - self.started, 3),
            "requests": sum(each.requests for each in counts),
            "read_bytes": sum(each.read_bytes for each in counts),
            "written_bytes": sum(each.written_bytes for each in counts),
        }

    def _mine(self) -> _Counts:
        me = threading.get_ident()
        counts = self._by_thread.get(me)
        if counts is None:
            counts = self._by_thread[me] = _Counts()
        return counts
