"""The plaintexts of chunks that were read last, up to a number of bytes; never on disk. Safe from any thread.

A chunk that several threads want at once is opened by the first of them, and the others wait for it: the kernel asks
for both halves of one together.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from dedupfs.model import ChunkId


class PlaintextCache:
    """The plaintexts used last, up to a number of bytes; never on disk."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._size_bytes = 0
        self._held: OrderedDict[ChunkId, memoryview] = OrderedDict()
        self._loading: dict[ChunkId, _Loading] = {}
        self._lock = threading.Lock()

    def get(self, chunk: ChunkId, load: Callable[[ChunkId], memoryview]) -> memoryview:
        """Return a plaintext: one that is held, or what `load` returns; raises what that raises."""
        with self._lock:
            found = self._held.get(chunk)
            if found is not None:
                self._held.move_to_end(chunk)
                return found
            others = self._loading.get(chunk)
            if others is None:
                mine = self._loading[chunk] = _Loading()
                mine.done.acquire()
        if others is not None:
            with others.done:
                if others.plaintext is not None:
                    return others.plaintext
            # It failed there; what is wrong is for each to find out.
            return load(chunk)
        try:
            mine.plaintext = load(chunk)
        finally:
            with self._lock:
                del self._loading[chunk]
                if mine.plaintext is not None:
                    self._hold(chunk, mine.plaintext)
            mine.done.release()
        return mine.plaintext

    def _hold(self, chunk: ChunkId, plaintext: memoryview) -> None:
        """Hold a plaintext, and let go of those that were used longest ago."""
        self._held[chunk] = plaintext
        self._size_bytes += len(plaintext)
        while self._size_bytes > self._limit_bytes:
            self._size_bytes -= len(self._held.popitem(last=False)[1])


class _Loading:
    """A chunk that a thread is opening; that thread has `done` from before others see this until it is through."""

    __slots__ = ("done", "plaintext")

    def __init__(self) -> None:
        self.done = threading.Lock()
        self.plaintext: memoryview | None = None
