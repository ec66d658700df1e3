"""Originals: the exact bytes of pictures that became renditions a short while ago, in memory and nowhere else.

People copy in any order, and a better version often follows its copies at once. Every copy is then compared with the
new representative; with its exact bytes at hand that comparison is with the truth, without them it can only be with the
rendition, and differences add up. Safe from any thread.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from dedupfs.model import ContentId

LIMIT_BYTES = 64 << 20


class Originals:
    """The latest originals, up to a number of bytes."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._size_bytes = 0
        self._held: OrderedDict[ContentId, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, content: ContentId, data: bytes) -> None:
        """Keep the exact bytes of a content, at the cost of those that have been here longest."""
        with self._lock:
            if content not in self._held:
                self._size_bytes += len(data)
            self._held[content] = data
            self._held.move_to_end(content)
            while self._size_bytes > self._limit_bytes:
                self._size_bytes -= len(self._held.popitem(last=False)[1])

    def get(self, content: ContentId) -> bytes | None:
        """Return the exact bytes of a content, or None when they are gone."""
        with self._lock:
            return self._held.get(content)
