"""A gate for transactions of LMDB, which must not be open while its map grows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Many together, or one alone; the one waits for the many and keeps newcomers out.

    Whoever is inside must not enter again: somebody may be waiting to be alone.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._condition = threading.Condition(self._lock)
        self._inside = 0
        self._closed = False

    def enter(self) -> None:
        """Be inside together with others until `leave`."""
        with self._lock:
            while self._closed:
                self._condition.wait()
            self._inside += 1

    def leave(self) -> None:
        """End what `enter` began."""
        with self._lock:
            self._inside -= 1
            if self._closed and not self._inside:
                self._condition.notify_all()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Be inside together with others for a block."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be inside alone."""
        with self._condition:
            self._condition.wait_for(lambda: not self._closed)
            self._closed = True
            self._condition.wait_for(lambda: not self._inside)
        try:
            yield
        finally:
            with self._condition:
                self._closed = False
                self._condition.notify_all()
