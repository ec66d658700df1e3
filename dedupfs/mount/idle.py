"""IdleWatch: unmounts when nobody has asked for anything for long and nobody has anything open.

It never ends the session itself. It settles everything first and then asks the kernel to unmount as a user would; the
kernel refuses while anything below the mountpoint is in use, a working directory too, and nothing happens then. After
the kernel has agreed, the session ends by itself, as after any other unmount.
"""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable

from dedupfs.errors import DedupfsError
from dedupfs.mount.status import PID_XATTR

log = logging.getLogger(__name__)


class IdleWatch:
    """A thread that looks now and then whether the mount is still used."""

    def __init__(
        self,
        mountpoint: bytes,
        idle_seconds: float,
        *,
        last_used: Callable[[], float],
        is_open: Callable[[], bool],
        settle: Callable[[], None],
    ) -> None:
        """Prepare.

        Args:
            last_used: returns when somebody last used it, by the monotonic clock.
            is_open: whether somebody has something open.
            settle: returns when everything is decided and durable; may raise DedupfsError.
        """
        self._mountpoint = mountpoint
        self._idle_seconds = idle_seconds
        self._last_used = last_used
        self._is_open = is_open
        self._settle = settle
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="idle", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End the watch; an attempt to unmount that is under way is waited for."""
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        since = time.monotonic()
        while not self._stopping.wait(max(0.0, since + self._idle_seconds - time.monotonic())):
            since = max(since, self._last_used())
            if self._is_open():
                since = time.monotonic()
            elif time.monotonic() - since >= self._idle_seconds:
                if self._end():
                    return
                since = time.monotonic()

    def _end(self) -> bool:
        """Return whether the mount has gone."""
        try:
            self._settle()
        except DedupfsError as exc:
            log.warning("the mount is idle and stays, because not everything could be stored: %s", exc)
            return False
        if not self._is_on_top():
            # Somebody has mounted something over it, and that would go instead.
            return False
        as_root = os.geteuid() == 0
        command = [b"umount", b"-i", b"--"] if as_root else [b"fusermount", b"-u", b"--"]
        done = subprocess.run([*command, self._mountpoint], capture_output=True, check=False)
        if done.returncode:
            log.info("the mount is idle and stays: %s", os.fsdecode(done.stderr).strip())
            return False
        log.info("the mount was idle and is gone")
        return True

    def _is_on_top(self) -> bool:
        try:
            return os.getxattr(self._mountpoint, PID_XATTR) == b"%d" % os.getpid()
        except OSError:
            return False
