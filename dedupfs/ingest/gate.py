"""Gate: a number of bytes that is shared by what runs at once; whoever asks for more than is free waits.

Nobody is passed by a smaller one that came later, so that large ones get their turn. Those in a hurry go before all
others. Safe from any thread; nobody may wait here while holding a lock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Memory to be shared; only a number, nothing is allocated here."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self._used_bytes = 0
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._hurried: deque[object] = deque()

    @contextmanager
    def taken(self, size_bytes: int, *, hurry: bool = False) -> Iterator[None]:
        """Have so many bytes for the length of a block; all of them, and alone, where more is asked."""
        size_bytes = min(size_bytes, self.capacity_bytes)
        line = self._hurried if hurry else self._waiting
        ticket = object()
        with self._changed:
            line.append(ticket)
            try:
                self._changed.wait_for(lambda: self._may_pass(ticket, size_bytes))
                self._used_bytes += size_bytes
            finally:
                line.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._used_bytes -= size_bytes
                self._changed.notify_all()

    def _may_pass(self, ticket: object, size_bytes: int) -> bool:
        first = self._hurried[0] if self._hurried else self._waiting[0]
        return ticket is first and self._used_bytes + size_bytes <= self.capacity_bytes
