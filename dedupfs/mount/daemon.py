"""The life of a mount: opening the volume, options, readiness and the end.

The order matters. The process has detached before (see `detaching`); it opens the volume and starts threads, neither of
which survives a fork, and then runs a session with the kernel. When that ends, because somebody unmounted or sent
SIGTERM, everything is settled and the volume closed.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

from dedupfs.filesystem.memory import Shares
from dedupfs.filesystem.opening import open_filesystem
from dedupfs.filesystem.process import prepare_process
from dedupfs.ingest.forkserver import ForkServer
from dedupfs.mount import ending
from dedupfs.mount.frequent import Frequent
from dedupfs.mount.greeting import MAX_TRANSFER_BYTES
from dedupfs.mount.idle import IdleWatch
from dedupfs.mount.operations import Operations
from dedupfs.mount.requests import Requests
from dedupfs.mount.session import Session
from dedupfs.storage.volume import keep_writers_out, open_volume

log = logging.getLogger(__name__)


def serve(
    directory: Path,
    volume_key: bytes,
    mountpoint: Path,
    *,
    read_only: bool,
    options: Mapping[str, str | bool],
    ready: Callable[[], None],
    memory: Shares,
    idle_seconds: float | None = None,
    server: ForkServer | None = None,
) -> None:
    """Open the volume, serve it until it is unmounted, and close it.

    Args:
        ready: called when the kernel has had its first answer.
        memory: how much of it the mount and its workers may take.
        idle_seconds: how long nobody may have used it before it unmounts itself; None for ever.
        server: where workers come from, if that has been started; it is closed in the end.
    Raises:
        StoreLockedError: somebody else writes to the volume.
        StoreError, IntegrityError: it cannot be opened, or its last changes could not be written.
        UsageError: libfuse refused to mount.
    """
    prepare_process()
    # The kernel keeps what it has read for good: a file that somebody changed would be cut off where it used to end.
    lock = keep_writers_out(directory) if read_only else None
    volume = open_volume(directory, volume_key, read_only=read_only, sizes=memory.store)
    # A damaged one is served for reading whatever was asked.
    read_only = volume.store.read_only
    filesystem = open_filesystem(volume, memory=memory, server=server)
    if not read_only:
        ending.note_begin(directory)
    operations = Operations(filesystem, os.fsencode(directory.resolve()), ready)
    idle: IdleWatch | None = None
    try:
        session = Session(
            Requests(operations),
            lambda descriptor: Frequent(operations, descriptor).answer,
            os.fsencode(mountpoint),
            _mount_options(read_only, options),
        )
        if idle_seconds is not None:
            idle = IdleWatch(
                os.fsencode(mountpoint),
                idle_seconds,
                last_used=lambda: operations.traffic.last_used,
                is_open=operations.is_open,
                settle=filesystem.settle,
            )
            idle.start()
        session.serve()
        if idle is not None:
            idle.stop()
    finally:
        # A second Ctrl-C must not end this while files are in memory only.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        operations.finish()
        filesystem.close()
        if lock is not None:
            os.close(lock)
        if not read_only:
            ending.note_good_end(directory)


def _mount_options(read_only: bool, options: Mapping[str, str | bool]) -> dict[str, str | bool]:
    chosen: dict[str, str | bool] = {
        "fsname": "dedupfs",
        "subtype": "dedupfs",
        # Without it the largest write is a page, at a tenth of the speed (measured: 45 against 520 MB/s).
        "big_writes": True,
        "max_read": str(MAX_TRANSFER_BYTES),
        "max_write": str(MAX_TRANSFER_BYTES),
        "default_permissions": True,
        "ro": read_only,
    }
    return {**chosen, **options}
