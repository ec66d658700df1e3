"""Detaching: what `dedupfs mount` does before it serves, in the process that somebody waits for.

It leaves all work to a child: that reads the header, opens the volume and serves it. So the libraries of the workers,
which the child has loaded in a third process, are there sooner. The parent waits until the kernel has had its first
answer and reports how that went. Imports nothing that takes long.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from dedupfs.errors import DedupfsError, UsageError

log = logging.getLogger(__name__)

_READY = b"ready"


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
    try:
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read()
    except KeyboardInterrupt:
        # Ctrl-C does not reach a session of its own.
        os.kill(child, signal.SIGTERM)
        raise
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
