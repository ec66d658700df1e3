"""`dedupfs split`: pictures that are no versions of one another after all."""

from __future__ import annotations

import argparse

from dedupfs.cli import undoing
from dedupfs.cli.undoing import Undoing
from dedupfs.filesystem.filesystem import FileSystem
from dedupfs.mount.status import SPLIT_XATTR


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "split",
        help="give pictures a stored picture of their own, for good",
        description="Let pictures that are kept as versions of another one be pictures of their own: with the bytes"
        " that were written while those are kept, and with what they read as otherwise. The two are never merged again,"
        " even if they are removed and come back.",
    )
    undoing.add_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Split the files."""
    return undoing.run(options, Undoing(SPLIT_XATTR, FileSystem.split, "split"))
