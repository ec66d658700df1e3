"""Whether the medium can take more: asked at every write, looked up now and then."""

from __future__ import annotations

import time

from dedupfs.errors import StoreFullError
from dedupfs.storage.store import Store

_RESERVE_SHARE = 50
_RESERVE_MIN_BYTES = 1 << 20
_RESERVE_MAX_BYTES = 32 << 20
"""A fiftieth of the medium, within these bounds, is left to metadata, so that deleting works when it is full."""
_COMMIT_BYTES = 256 << 10
"""Pages that a commit takes besides the bytes of files."""
_FRESH_SECONDS = 0.5
_FRESH_BYTES = 8 << 20


class Room:
    """The room on the medium of one volume. Safe from any thread; a stale figure is corrected by the next look."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._looked_up = float("-inf")
        self._free_bytes = 0
        self._total_bytes = 0
        self._granted_bytes = 0

    def check(self, wanted_bytes: int, spooled_bytes: int) -> None:
        """Raise StoreFullError unless so many bytes fit, with all that waits in memory, beside the reserve.

        Called without any lock: it may have to wait for a commit.
        """
        self._granted_bytes += wanted_bytes
        if time.monotonic() - self._looked_up > _FRESH_SECONDS or self._granted_bytes > _FRESH_BYTES:
            self._look_up()
            self._granted_bytes = wanted_bytes
        if not self._fits(self._granted_bytes + spooled_bytes):
            self._look_up()
            if not self._fits(wanted_bytes + spooled_bytes) and self._store.waiting_bytes:
                # What was deleted since the last commit gives its room back with the next.
                self._store.commit()
                self._look_up()
            if not self._fits(wanted_bytes + spooled_bytes):
                raise StoreFullError("no space left on the disk that holds the volume")

    def check_last(self, wanted_bytes: int) -> None:
        """Raise StoreFullError unless so many bytes fit when the reserve is used too: to store what was accepted."""
        self._look_up()
        if self._free_bytes - self._store.waiting_bytes < wanted_bytes + _COMMIT_BYTES:
            raise StoreFullError("no space left on the disk that holds the volume")

    def total_and_free(self) -> tuple[int, int]:
        """Return the size of the medium and what is free on it, in bytes."""
        self._look_up()
        return self._total_bytes, self._free_bytes

    def _fits(self, bytes_: int) -> bool:
        reserve = min(max(self._total_bytes // _RESERVE_SHARE, _RESERVE_MIN_BYTES), _RESERVE_MAX_BYTES)
        return self._free_bytes - self._store.waiting_bytes - bytes_ >= reserve

    def _look_up(self) -> None:
        self._free_bytes = self._store.engine.free_bytes()
        self._total_bytes = self._store.engine.total_bytes()
        self._looked_up = time.monotonic()
        self._granted_bytes = 0
