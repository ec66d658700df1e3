"""`dedupfs import`: ordinary files and directories into a volume, without a mount."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from dedupfs.cli import copied, passphrase
from dedupfs.cli.mounts import refuse_mountpoint
from dedupfs.cli.progress import Progress
from dedupfs.cli.stats import human_bytes
from dedupfs.errors import StoreFullError, StoreReadOnlyError
from dedupfs.filesystem.copy_in import CopyIn, total_bytes
from dedupfs.filesystem.memory import processors
from dedupfs.filesystem.opening import open_filesystem
from dedupfs.filesystem.process import prepare_process
from dedupfs.storage.volume import open_volume, unlock

_PICTURES_PER_PROCESSOR = 2
"""So many are read ahead of the decisions."""
_DESCRIPTION = """\
Copy files and directories into VOLUME, which must not be mounted. The outcome is that of `cp -a` into the mount:
names, modes, times, owners, extended attributes and hard links are kept, and each picture is compared with those that
are there. It is meant for the first load of a large library, and needs neither a mount nor FUSE.

As with rsync, a SOURCE without a slash at its end goes into the volume under its own name; with one, its contents do:

  dedupfs import ~/Pictures  VOLUME      makes Pictures/2024/beach.jpg
  dedupfs import ~/Pictures/ VOLUME      makes 2024/beach.jpg

A file that is in the volume with the same size and time is taken to be the same: start the command again after it was
interrupted, and it goes on. A file that is there and differs is left alone and named, unless --force is given. What
cannot be read is named, one line each, and the rest is copied all the same; exit code 1 tells of it. The directory of
the volume itself is left out, should it lie below a SOURCE.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "import",
        help="copy files into a volume, without a mount",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sources", metavar="SOURCE", nargs="+", help="a file, or a directory")
    parser.add_argument("volume", metavar="VOLUME", type=Path, help="the volume's directory")
    parser.add_argument("--force", action="store_true", help="replace files that are in the volume and differ")
    parser.add_argument("--json", action="store_true", help="print JSON")
    passphrase.add_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Copy in."""
    directory: Path = options.volume.absolute()
    refuse_mountpoint(directory, "copy into it as into any directory, or unmount it and name the volume")
    sources = [os.fsencode(source) for source in options.sources]
    volume_key = unlock(directory, passphrase.read(options))
    prepare_process()
    volume = open_volume(directory, volume_key)
    if volume.store.read_only:
        volume.close()
        raise StoreReadOnlyError(f"{directory} is damaged and can only be read; see `dedupfs check --repair`")
    filesystem = open_filesystem(volume)
    try:
        before = volume.store.counters.get("stored_bytes", 0)
        with Progress("importing", "MB") as progress:
            total = total_bytes(sources) if sys.stderr.isatty() else 0
            done = CopyIn(
                filesystem,
                os.fsencode(directory),
                replace=options.force,
                waiting=_PICTURES_PER_PROCESSOR * processors(),
                tell=copied.teller(progress),
                progress=copied.bar(progress, total),
            ).run(sources)
        filesystem.settle()
        stored = volume.store.counters.get("stored_bytes", 0) - before
    except StoreFullError as exc:
        raise StoreFullError(f"{exc}; start again to go on from here") from exc
    finally:
        filesystem.close()
    if options.json:
        answer: dict[str, Any] = copied.as_json(done) | {"stored_bytes": stored}
        print(json.dumps(answer, indent=2))
    else:
        print(copied.as_text(done, "imported"))
        print(f"the volume has grown by {human_bytes(max(stored, 0))} of ciphertext")
    return copied.exit_code(done)
