"""The plaintexts of chunks that were read last, up to a number of bytes; never on disk. Safe from any thread."""

from __future__ import annotations

import threading
from collections import OrderedDict

from dedupfs.model import ChunkId


class PlaintextCache:
    """The plaintexts used last, up to a number of bytes; never on disk."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._size_bytes = 0
        self._held: OrderedDict[ChunkId, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, chunk: ChunkId) -> bytes | None:
        """Return a plaintext that is held, or None."""
        with self._lock:
            found = self._held.get(chunk)
            if found is not None:
                self._held.move_to_end(chunk)
            return found

    def put(self, chunk: ChunkId, plaintext: bytes) -> None:
        """Hold a plaintext, and let go of those that were used longest ago."""
        with self._lock:
            if chunk not in self._held:
                self._held[chunk] = plaintext
                self._size_bytes += len(plaintext)
            while self._size_bytes > self._limit_bytes:
                self._size_bytes -= len(self._held.popitem(last=False)[1])
