"""`dedupfs export`: everything a volume holds, into an ordinary directory, without a mount."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
from pathlib import Path

from dedupfs.cli import copied, passphrase
from dedupfs.cli.mounts import refuse_mountpoint
from dedupfs.cli.progress import Progress
from dedupfs.errors import StoreError, UsageError
from dedupfs.filesystem.copy_out import CopyOut
from dedupfs.filesystem.memory import processors
from dedupfs.filesystem.opening import open_filesystem
from dedupfs.filesystem.process import prepare_process
from dedupfs.storage.volume import keep_writers_out, open_volume, unlock

_DESCRIPTION = """\
Copy everything that VOLUME holds into the directory DEST, which is made when it does not exist. Needs neither a mount
nor FUSE; the volume must not be mounted for writing, and is not changed.

Names, modes, times, extended attributes, hard links, symbolic links and holes are kept, and owners when run by root.
What cannot be read is named on standard error, one line each, and everything else is copied all the same; exit code 1
tells of it afterwards.

A file that is in DEST with the same size and time is taken to be the same: start the command again after it was
interrupted, and it goes on. A file that is there and differs is left alone and named, unless --force is given.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "export",
        help="copy everything out of a volume, without a mount",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("volume", metavar="VOLUME", type=Path, help="the volume's directory")
    parser.add_argument("destination", metavar="DEST", type=Path, help="the directory to fill")
    parser.add_argument("--force", action="store_true", help="replace files that are in DEST and differ")
    parser.add_argument(
        "--salvage",
        action="store_true",
        help="of a file that is damaged in places, write the rest, with zero bytes for what is lost, beside its place"
        " as NAME.damaged",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    passphrase.add_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Copy out."""
    directory: Path = options.volume.absolute()
    refuse_mountpoint(directory, "copy out of it as out of any directory, or unmount it and name the volume")
    destination: Path = options.destination.absolute()
    if destination.resolve().is_relative_to(directory.resolve()):
        raise UsageError(f"{destination} lies inside the volume")
    volume_key = unlock(directory, passphrase.read(options))
    prepare_process()
    # Beside a writer, a file that changes meanwhile would look like a damaged one.
    lock = keep_writers_out(directory)
    try:
        volume = open_volume(directory, volume_key, read_only=True, whatever_state=True)
        metadata, total = volume.metadata, volume.store.counters.get("logical_bytes", 0)
        workers = processors()
        filesystem = open_filesystem(volume, render_workers=workers)
        try:
            with Progress("exporting", "MB") as progress:
                done = CopyOut(
                    filesystem,
                    metadata,
                    os.fsencode(destination),
                    replace=options.force,
                    salvage=options.salvage,
                    workers=workers,
                    tell=copied.teller(progress),
                    progress=copied.bar(progress, total),
                ).run()
        except OSError as exc:
            raise StoreError(f"cannot write to {destination}: {exc.strerror}") from exc
        finally:
            filesystem.close()
    finally:
        if lock is not None:
            os.close(lock)
    _sync(destination)
    print(json.dumps(copied.as_json(done), indent=2) if options.json else copied.as_text(done, "exported"))
    return copied.exit_code(done)


def _sync(destination: Path) -> None:
    """Have everything on the disk: whoever has got it all out may be about to delete the volume. See syncfs(2)."""
    descriptor = os.open(destination, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
            number = ctypes.get_errno()
            raise StoreError(f"cannot write to {destination}: {os.strerror(number)}")
    finally:
        os.close(descriptor)
