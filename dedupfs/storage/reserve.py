"""Reserve: blocks of the disk behind the end of the database file, set aside before they are needed.

When others have filled the disk to the last byte, commits go on there: a deleted file gives nothing back before the
commit after the next. And what has been accepted to be stored finds its room there, whoever fills the disk meanwhile.
Knows nothing of what is in the file. Any thread.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

_SHARE = 50
_MIN_BYTES = 1 << 20
_MAX_BYTES = 4 << 20
"""For deletions a fiftieth of the disk, within these bounds, is kept; each takes 17 pages (measured with 400 files)."""
_STEPS_BYTES = (64 << 20, 8 << 20, 0)
"""So much more is set aside at once for what waits, where the disk has it: to be given blocks of a file that is being
written to means to wait for that, 5 ms on average while a library was copied in, and whoever asks holds locks."""
_FALLOC_FL_KEEP_SIZE = 1


class Reserve:
    """What is set aside behind the end of one file."""

    def __init__(self, path: Path) -> None:
        self._path = os.path.realpath(path)
        info = os.statvfs(os.path.dirname(self._path))
        self._kept_bytes = min(max(info.f_blocks * info.f_frsize // _SHARE, _MIN_BYTES), _MAX_BYTES)
        self._lock = threading.Lock()
        """Guards the rest: where the file ends, how far blocks are set aside, and whether the disk can do that."""
        self._end_bytes = 0
        self._reserved_to = 0
        self._is_possible = True

    @property
    def ahead_bytes(self) -> int:
        """What is set aside."""
        return max(0, self._reserved_to - self._end_bytes)

    @property
    def spare_bytes(self) -> int:
        """What is set aside for more than deletions."""
        return max(0, self.ahead_bytes - self._kept_bytes)

    @property
    def is_large(self) -> bool:
        """Whether it is worth while to give something back."""
        return self.ahead_bytes > 2 * self._kept_bytes

    def keep(self) -> None:
        """Set blocks aside for deletions, unless there still are enough; where the disk is full, ask another time."""
        with self._lock:
            self._end_bytes = os.stat(self._path).st_size
            is_enough = self.ahead_bytes >= self._kept_bytes // 2
        if not is_enough:
            self.take(self._kept_bytes)

    def shortage(self, size_bytes: int) -> int:
        """Set room for so many bytes aside, beside that for deletions; return 0, or what is wanted and not there."""
        # What waits takes new pages at the end of the file, unless it finds enough of them side by side.
        wanted = size_bytes + self._kept_bytes // 2
        if self.ahead_bytes >= wanted or any(self.take(wanted + step) for step in _STEPS_BYTES):
            return 0
        return wanted

    def take(self, size_bytes: int) -> bool:
        """Have so many bytes set aside behind the end; False where the disk has not so many.

        Where the disk cannot set blocks aside, this finds nothing wrong.
        """
        with self._lock:
            if not self._is_possible:
                return True
            try:
                with _opened(self._path) as descriptor:
                    self._end_bytes = os.fstat(descriptor).st_size
                    failure = _allocate(descriptor, self._end_bytes, size_bytes)
            except OSError:
                log.debug("nothing could be set aside on the disk", exc_info=True)
                return True
            if failure in (errno.ENOSPC, errno.EDQUOT):
                return False
            if failure:
                self._is_possible = False
            else:
                self._reserved_to = max(self._reserved_to, self._end_bytes + size_bytes)
            return True

    def give_back(self) -> None:
        """Free everything behind the end, while nobody makes the file longer. Raises OSError."""
        with self._lock, _opened(self._path) as descriptor:
            # Without a change of the size, this frees the blocks behind the end.
            os.ftruncate(descriptor, os.fstat(descriptor).st_size)
            self._reserved_to = 0


@contextmanager
def _opened(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _allocate(descriptor: int, offset: int, size_bytes: int) -> int:
    """Have the disk set blocks aside without a change of the file's size; return an errno, or 0."""
    fallocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate64", None)
    if fallocate is None:
        return errno.EOPNOTSUPP
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return ctypes.get_errno() if fallocate(descriptor, _FALLOC_FL_KEEP_SIZE, offset, size_bytes) else 0
