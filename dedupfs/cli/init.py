"""`dedupfs init`: make a volume."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from dedupfs.cli import passphrase
from dedupfs.cli.config import days
from dedupfs.cli.exitcodes import DONE
from dedupfs.cli.recovery_key import introduce
from dedupfs.crypto import recovery
from dedupfs.model import Policy
from dedupfs.storage.records import Config
from dedupfs.storage.volume import create_volume


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "init",
        help="make a volume",
        description="Make a volume in a new or empty directory, and print a recovery key: it opens the volume wherever"
        " the passphrase is asked for, and is shown this once. Standard output holds the key alone. There is no way to"
        " read the volume without its passphrase or its recovery key.",
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
    parser.add_argument(
        "--keep-originals",
        metavar="DAYS",
        default="0",
        help="keep the exact bytes of files that become renditions for so long, for `dedupfs restore`; 0 (default) for"
        " not at all",
    )
    parser.add_argument("--label", metavar="TEXT", default="", help="a name for the volume, kept encrypted inside it")
    parser.add_argument("--no-recovery-key", action="store_true", help="make none; `dedupfs key add` can later")
    parser.add_argument("--json", action="store_true", help="print JSON")
    passphrase.add_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Make the volume."""
    keep_originals_days = days(options.keep_originals)
    secret = None if options.no_recovery_key else recovery.new_secret()
    create_volume(
        options.volume,
        passphrase.read(options, twice=True),
        Config(Policy(options.dedup), options.label),
        recovery_secret=secret,
        keep_originals_days=keep_originals_days,
    )
    text = None if secret is None else recovery.encode(secret)
    if options.json:
        print(json.dumps({"volume": str(options.volume), "recovery_key": text}, indent=2))
    elif text is None:
        print(f"{options.volume} is ready; keep its passphrase safe, nothing can replace it")
    else:
        introduce(f"{options.volume} is ready.")
        print(text)
    return DONE
