"""`dedupfs key`: who can open a volume - passphrases and recovery keys, each in a slot of its own."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dedupfs.cli import passphrase
from dedupfs.cli.exitcodes import DONE
from dedupfs.cli.mounts import volume_of
from dedupfs.cli.recovery_key import introduce
from dedupfs.crypto.keys import SlotKind
from dedupfs.storage import keyslots
from dedupfs.storage.header import Slot, read_header

_DESCRIPTION = """\
Passphrases and recovery keys, each in a numbered slot; any of them opens the volume. They can be changed while the
volume is mounted.

A slot that was removed still opens copies of volume.json from before, such as those in backups: it is the same volume
key. Whoever may have had both the passphrase and such a copy can read the volume for ever; copy the files into a new
one then.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and those below it."""
    parser = commands.add_parser(
        "key",
        help="add, change, remove and list passphrases and recovery keys",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    adding = actions.add_parser(
        "add",
        help="add a passphrase, or a recovery key",
        description="Add a passphrase beside those that the volume has, which is asked for after one of them. With"
        " --recovery a new recovery key is made instead and printed, alone on standard output, this once.",
    )
    _add_volume(adding)
    adding.add_argument("--recovery", action="store_true", help="make a recovery key")
    adding.add_argument(
        "--label", metavar="TEXT", default="", help="what to call it; anybody who has the volume sees it"
    )
    passphrase.add_arguments(adding)
    passphrase.add_arguments(adding, "new")
    adding.set_defaults(run=_add)

    changing = actions.add_parser(
        "change",
        help="replace a passphrase, or a recovery key",
        description="Give the slot that the passphrase opens another passphrase; or SLOT, whichever slot the passphrase"
        " opens, so that a forgotten one can be replaced with the recovery key. A SLOT with a recovery key gets a new"
        " one, which is printed, alone on standard output, this once.",
    )
    _add_volume(changing)
    changing.add_argument("slot", metavar="SLOT", type=int, nargs="?", help="the number of the slot")
    passphrase.add_arguments(changing)
    passphrase.add_arguments(changing, "new")
    changing.set_defaults(run=_change)

    removing = actions.add_parser(
        "remove",
        help="remove a passphrase, or a recovery key",
        description="Remove SLOT, or the slot that the old passphrase (or recovery key) opens. The passphrase asked for"
        " besides must open a slot that stays, and the last slot with a passphrase stays in any case.",
    )
    _add_volume(removing)
    removing.add_argument("slot", metavar="SLOT", type=int, nargs="?", help="the number of the slot")
    passphrase.add_arguments(removing)
    passphrase.add_arguments(removing, "old")
    removing.set_defaults(run=_remove)

    listing = actions.add_parser(
        "list",
        help="list the slots; needs no passphrase",
        description="List the slots. This needs no passphrase, and so proves nothing of what is listed.",
    )
    _add_volume(listing)
    listing.set_defaults(run=_list)


def _add_volume(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("volume", metavar="VOLUME", type=Path, help="the volume's directory, or its mountpoint")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add(options: argparse.Namespace) -> int:
    directory, _ = volume_of(options.volume)
    secret = passphrase.read(options)
    if options.recovery:
        keyslots.add_recovery_key(directory, secret, _shown(options), options.label)
    else:
        slot = keyslots.add_passphrase(directory, secret, _new(options), options.label)
        _tell(options, slot, f"slot {slot.number} opens with the new passphrase")
    return DONE


def _change(options: argparse.Namespace) -> int:
    directory, _ = volume_of(options.volume)
    secret = passphrase.read(options)
    slots = {slot.number: slot for slot in read_header(directory).slots}
    if options.slot in slots and slots[options.slot].key.kind is SlotKind.RECOVERY:
        keyslots.change_recovery_key(directory, secret, options.slot, _shown(options))
    else:
        slot = keyslots.change_passphrase(directory, secret, _new(options), options.slot)
        _tell(options, slot, f"slot {slot.number} opens with the new passphrase, and no longer with the old one")
    return DONE


def _remove(options: argparse.Namespace) -> int:
    directory, _ = volume_of(options.volume)
    removed: int | bytes
    if options.slot is not None:
        removed = options.slot
    else:
        removed = passphrase.read_other(options, "old", twice=False, prompt="Passphrase to remove")
    secret = passphrase.read(options, prompt="A passphrase that stays")
    slot = keyslots.remove_key(directory, secret, removed)
    _tell(options, slot, f"slot {slot.number} ({slot.key.kind.value}) is gone")
    return DONE


def _list(options: argparse.Namespace) -> int:
    directory, _ = volume_of(options.volume)
    slots = read_header(directory).slots
    if options.json:
        print(json.dumps([_as_json(slot) for slot in slots], indent=2))
    else:
        print("slot  kind        created     label")
        for slot in slots:
            day = _as_json(slot)["created"][:10]
            print(f"{slot.number:4}  {slot.key.kind.value:10}  {day}  {slot.label}".rstrip())
    return DONE


def _new(options: argparse.Namespace) -> bytes:
    return passphrase.read_other(options, "new", twice=True, prompt="New passphrase")


def _tell(options: argparse.Namespace, slot: Slot, text: str) -> None:
    print(json.dumps(_as_json(slot), indent=2) if options.json else text)


def _as_json(slot: Slot) -> dict[str, Any]:
    created = datetime.fromtimestamp(slot.created_s, UTC).isoformat().replace("+00:00", "Z")
    return {"slot": slot.number, "kind": slot.key.kind.value, "label": slot.label, "created": created}


def _shown(options: argparse.Namespace) -> keyslots.Show:
    """Return what prints a new recovery key; it is out before a slot depends on it."""

    def show(slot: Slot, text: str) -> None:
        if options.json:
            print(json.dumps({**_as_json(slot), "recovery_key": text}, indent=2))
        else:
            introduce(f"Slot {slot.number} gets a new recovery key.")
            print(text)
        sys.stdout.flush()

    return show
