"""`dedupfs header`: keep a copy of volume.json, and bring it back."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from dedupfs.cli import passphrase
from dedupfs.cli.exitcodes import DONE
from dedupfs.cli.mounts import volume_of
from dedupfs.storage import keyslots
from dedupfs.storage.header import HEADER_FILE, Header


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and those below it."""
    parser = commands.add_parser(
        "header",
        help="back up and restore volume.json",
        description=f"{HEADER_FILE} holds the key slots; nothing opens without it. A second copy is kept beside it"
        " and a third inside the database, so a backup is only needed against the loss of everything.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    backing_up = actions.add_parser(
        "backup",
        help="write a copy to a file; needs no passphrase",
        description="Write a copy of the header to FILE, which must not exist. It opens with the passphrases of today:"
        " one that is removed later still opens the volume with this copy.",
    )
    _add_volume(backing_up)
    backing_up.add_argument("file", metavar="FILE", type=Path, help="the file to write")
    backing_up.set_defaults(run=_back_up)

    restoring = actions.add_parser(
        "restore",
        help="bring volume.json back from a file, or from the volume itself",
        description="Put the header in FILE in the place of the one that the volume has; without FILE, the latest of"
        " the volume's own copies that opens, be it the one in the database. It has to open with the passphrase or"
        " recovery key, and to open the database. Passphrases added or removed since FILE was written are as they were"
        " then.",
    )
    _add_volume(restoring)
    restoring.add_argument("file", metavar="FILE", type=Path, nargs="?", help="a file that `header backup` wrote")
    passphrase.add_arguments(restoring)
    restoring.set_defaults(run=_restore)


def _add_volume(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("volume", metavar="VOLUME", type=Path, help="the volume's directory, or its mountpoint")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _back_up(options: argparse.Namespace) -> int:
    directory, _ = volume_of(options.volume)
    header = keyslots.back_up(directory, options.file)
    _tell(options, header, changed=True, text=f"{options.file} holds the header with {_slots(header)}")
    return DONE


def _restore(options: argparse.Namespace) -> int:
    directory, _ = volume_of(options.volume)
    restored = keyslots.restore(directory, passphrase.read(options), options.file)
    state = "is restored" if restored.changed else "is sound, and so are its copies; nothing was changed"
    _tell(options, restored.header, changed=restored.changed, text=f"the header with {_slots(restored.header)} {state}")
    return DONE


def _slots(header: Header) -> str:
    count = len(header.slots)
    return f"{count} key slot" + ("s" if count != 1 else "")


def _tell(options: argparse.Namespace, header: Header, *, changed: bool, text: str) -> None:
    if options.json:
        print(json.dumps({"changed": changed, "revision": header.revision, "slots": len(header.slots)}, indent=2))
    else:
        print(text)
