"""Closer: closes files on threads of its own.

Closing a file means to seal and store it. The kernel does not wait for that; but were it done where requests are
answered, the program that goes on writing would wait. So others do that work, and what they are behind with is bounded
by the memory that written bytes may take. A small file is closed where that was asked for: storing it is Python from
end to end, which two threads at once do no faster, and they would be in each other's way.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

_THREADS = 1 if len(os.sched_getaffinity(0)) < 4 else 2
"""Nearly half of the work holds the interpreter lock, and one thread seals 700 MB a second."""


class Closer:
    """Handles that wait to be closed. Safe from any thread."""

    def __init__(self, close: Callable[[int], None]) -> None:
        self._close = close
        self._queue: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._condition = threading.Condition()
        self._waiting = 0
        self._threads = [threading.Thread(target=self._work, name="closer", daemon=True) for _ in range(_THREADS)]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """How many handles are not closed yet."""
        return self._waiting

    def close_now(self, handle: int) -> None:
        """Close a handle on the calling thread."""
        try:
            self._close(handle)
        except Exception:
            log.exception("a file could not be closed")

    def put(self, handle: int) -> None:
        """Have a handle closed."""
        with self._condition:
            self._waiting += 1
        self._queue.put(handle)

    def wait(self) -> None:
        """Return when nothing waits."""
        with self._condition:
            self._condition.wait_for(lambda: not self._waiting)

    def stop(self) -> None:
        """Close what waits, and end the threads."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (handle := self._queue.get()) is not None:
            self.close_now(handle)
            with self._condition:
                self._waiting -= 1
                self._condition.notify_all()
