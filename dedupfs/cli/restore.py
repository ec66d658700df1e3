"""`dedupfs restore`: the very bytes that were written, for files that have become renditions."""

from __future__ import annotations

import argparse

from dedupfs.cli import undoing
from dedupfs.cli.undoing import Undoing
from dedupfs.filesystem.filesystem import FileSystem
from dedupfs.mount.status import RESTORE_XATTR


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "restore",
        help="bring back the exact bytes of files, while they are kept",
        description="Let files hold the very bytes that were written, for good, with all files of the same bytes. Their"
        " originals must still be kept, see `init --keep-originals` and `config`. What is stored as it was written is"
        " left as it is.",
    )
    undoing.add_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Restore the files."""
    return undoing.run(options, Undoing(RESTORE_XATTR, FileSystem.restore, "restored"))
