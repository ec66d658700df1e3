"""`dedupfs init`: make a volume."""

from __future__ import annotations

import argparse
from pathlib import Path

from dedupfs.cli import passphrase
from dedupfs.cli.exitcodes import DONE
from dedupfs.model import Policy
from dedupfs.storage.records import Config
from dedupfs.storage.volume import create_volume


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "init",
        help="make a volume",
        description="Make a volume in a new or empty directory. There is no way to read it without its passphrase.",
    )
    parser.add_argument("volume", metavar="VOLUME", type=Path, help="the directory to make")
    parser.add_argument(
        "--dedup",
        choices=[policy.value for policy in Policy],
        default=Policy.VERIFIED.value,
        help="what may be kept as a reference: verified (default) where the bytes that will be read back were compared"
        " with the picture and look the same everywhere; perceptual where fingerprint and aspect ratio agree;"
        " off for exact copies only",
    )
    parser.add_argument("--label", metavar="TEXT", default="", help="a name for the volume, kept encrypted inside it")
    passphrase.add_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Make the volume."""
    secret = passphrase.read(options, twice=True)
    create_volume(options.volume, secret, Config(Policy(options.dedup), options.label))
    print(f"{options.volume} is ready; keep its passphrase safe, nothing can replace it")
    return DONE
