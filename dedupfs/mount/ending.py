"""How a mount ended, for whoever waits for that and is not its parent.

While a mount that writes is alive, and after it ended with something unstored, its volume holds a file with the number
of its process; it is removed when the last commit is on the disk. Its absence afterwards is the proof of a good end,
whatever else may have happened to the process.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)

_NAME = "mounted"


def note_begin(directory: Path) -> None:
    """Note that this process serves the volume and may hold what is not stored yet."""
    try:
        (directory / _NAME).write_text(f"{os.getpid()}\n")
    except OSError as exc:
        # A full disk must not keep anybody from mounting, in order to delete something.
        log.warning("it cannot be noted that the volume is mounted: %s", exc.strerror)


def note_good_end(directory: Path) -> None:
    """Note that everything is stored; the next mount may have made its own note by now."""
    if ended_badly(directory, os.getpid()):
        with contextlib.suppress(FileNotFoundError):
            (directory / _NAME).unlink()


def ended_badly(directory: Path, pid: int) -> bool:
    """Whether the mount that this process served has ended with something unstored."""
    try:
        return (directory / _NAME).read_text().strip() == str(pid)
    except OSError:
        return False
