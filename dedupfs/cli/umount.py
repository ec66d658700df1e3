"""`dedupfs umount`: settle everything, unmount, and wait until the volume is closed."""

from __future__ import annotations

import argparse
import os
import select
import subprocess
import threading
import time
from pathlib import Path

from dedupfs.cli.exitcodes import DONE
from dedupfs.cli.mounts import is_mounted, mount_status, mountpoint_above
from dedupfs.cli.progress import Progress
from dedupfs.errors import StoreError, UsageError
from dedupfs.mount.ending import ended_badly
from dedupfs.mount.status import PID_XATTR, SETTLE_XATTR, VOLUME_XATTR, WAITING_XATTR

_POLL_SECONDS = 0.2


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "umount",
        help="unmount, when everything is stored",
        description="Decide about every picture, store everything, unmount, and return when the volume is closed:"
        " `dedupfs stats` is final then. If something cannot be stored, nothing is unmounted; if that"
        " happens to what somebody wrote at the last moment, the exit code is 1. A mount that is in use stays, and the"
        " processes that use it are named, as far as you may see them.",
    )
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", type=Path)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Unmount."""
    mountpoint: Path = options.mountpoint.absolute()
    pid = mount_status(mountpoint, PID_XATTR)
    if pid is None:
        if is_mounted(mountpoint):
            # The process behind it is gone; only the kernel's side is left to clear.
            _unmount(mountpoint)
            return DONE
        above = mountpoint_above(mountpoint)
        hint = "" if above is None else f"; it lies below the mountpoint {above}"
        raise UsageError(f"nothing of dedupfs is mounted at {mountpoint}{hint}")
    volume = mount_status(mountpoint, VOLUME_XATTR)
    try:
        process = os.pidfd_open(int(pid))
    except ProcessLookupError:
        process = None
    try:
        _settle(mountpoint)
        _unmount(mountpoint)
        if process is not None:
            with Progress("closing") as progress:
                while not select.select([process], [], [], _POLL_SECONDS)[0]:
                    progress.wait()
            if volume is not None and ended_badly(Path(volume), int(pid)):
                raise StoreError(f"{mountpoint} is unmounted, but its last changes could not be stored; see its log")
    finally:
        if process is not None:
            os.close(process)
    return DONE


def _settle(mountpoint: Path) -> None:
    """Have the mount store everything, with a progress bar. Raises StoreError when it cannot."""
    failures: list[OSError] = []

    def order() -> None:
        try:
            os.getxattr(mountpoint, SETTLE_XATTR)
        except OSError as exc:
            failures.append(exc)

    thread = threading.Thread(target=order, daemon=True)
    thread.start()
    most = 0
    with Progress("settling") as progress:
        while thread.is_alive():
            waiting = int(mount_status(mountpoint, WAITING_XATTR) or 0)
            most = max(most, waiting)
            if waiting:
                progress.show(most - waiting, most)
            else:
                # What is decided is still to be committed; after mounting a large volume that waits for a check of it.
                progress.wait()
            thread.join(_POLL_SECONDS)
    if failures:
        raise StoreError(f"{mountpoint} stays mounted, not everything could be stored: {failures[0].strerror}")


def _unmount(mountpoint: Path) -> None:
    """Detach from the tree. Raises StoreError when somebody uses it."""
    command = ["umount", "--", str(mountpoint)] if os.geteuid() == 0 else ["fusermount", "-u", "--", str(mountpoint)]
    for attempt in range(3):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not done.returncode:
            return
        # A file manager or an indexer often lets go a moment later.
        time.sleep(_POLL_SECONDS * (attempt + 1))
    # What it needs takes a fifth of the time that this command takes to begin.
    from dedupfs.cli.users import described, users_of

    users = users_of(mountpoint)
    if users:
        raise StoreError(f"cannot unmount {mountpoint}, it is busy: {described(users)}")
    raise StoreError(f"cannot unmount {mountpoint}: {(done.stderr.strip() or 'it is busy').splitlines()[-1]}")
