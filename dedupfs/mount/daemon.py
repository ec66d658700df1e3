"""The life of a mount: detaching, options, readiness and the end.

The order matters. The process detaches first, then opens the volume and starts threads (neither survives a fork), then
runs a session with the kernel. The parent waits until the kernel has had its first answer and reports how that went.
When the session ends, because somebody unmounted or sent SIGTERM, everything is settled and the volume closed.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from dedupfs.errors import DedupfsError, UsageError
from dedupfs.filesystem.memory import Shares
from dedupfs.filesystem.opening import open_filesystem
from dedupfs.filesystem.process import prepare_process
from dedupfs.mount import ending
from dedupfs.mount.frequent import Frequent
from dedupfs.mount.greeting import MAX_TRANSFER_BYTES
from dedupfs.mount.idle import IdleWatch
from dedupfs.mount.operations import Operations
from dedupfs.mount.requests import Requests
from dedupfs.mount.session import Session
from dedupfs.storage.volume import keep_writers_out, open_volume

log = logging.getLogger(__name__)

_READY = b"ready"


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
) -> None:
    """Open the volume, serve it until it is unmounted, and close it.

    Args:
        ready: called when the kernel has had its first answer.
        memory: how much of it the mount and its workers may take.
        idle_seconds: how long nobody may have used it before it unmounts itself; None for ever.
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
    filesystem = open_filesystem(volume, memory=memory)
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


def detach(run: Callable[[Callable[[], None]], None], exit_code_of: Callable[[DedupfsError], int]) -> tuple[int, str]:
    """Run a function in a process of its own and return once it is ready, or has failed.

    The function gets a callback to be called when it is ready; what it raises before that becomes the message.
    Returns the exit code and the message: 0 and nothing when it is ready.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _run_detached(run, exit_code_of, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    if said == _READY:
        return 0, ""
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) or 1, said.decode(errors="replace")


def check_mountpoint(mountpoint: Path) -> None:
    """Raise UsageError unless something can be mounted there without hiding anything."""
    try:
        if not mountpoint.is_dir():
            raise UsageError(f"{mountpoint} is not a directory")
        if any(mountpoint.iterdir()):
            raise UsageError(f"{mountpoint} is not empty; mounting there would hide what it holds")
    except OSError as exc:
        raise UsageError(f"cannot mount at {mountpoint}: {exc.strerror}") from exc


def _run_detached(
    run: Callable[[Callable[[], None]], None], exit_code_of: Callable[[DedupfsError], int], writing: int
) -> None:
    """The child's side of `detach`; never returns."""
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)

    def say(text: bytes) -> None:
        nonlocal writing
        if writing >= 0:
            os.write(writing, text)
            os.close(writing)
            writing = -1

    code = 1
    try:
        run(lambda: say(_READY))
        code = 0
    except DedupfsError as exc:
        code = exit_code_of(exc)
        log.error("%s", exc)
        say(str(exc).encode())
    except BaseException as exc:
        log.exception("the mount ended in a way nobody foresaw")
        say(f"unforeseen: {type(exc).__name__}: {exc}".encode())
    finally:
        logging.shutdown()
        sys.stdout = sys.stderr = None
        os._exit(code)


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
