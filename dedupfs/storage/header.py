"""`volume.json`: the format version, the volume's id and its key slots; the only file a passphrase can be tried on.

It is replaced atomically and the previous one is kept as `volume.json.bak`, which is read when the first is missing or
damaged. A checksum tells damage from a wrong passphrase; the slots themselves are authenticated.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dedupfs.crypto import keys
from dedupfs.crypto.keys import KeySlot, ScryptCost
from dedupfs.errors import FormatVersionError, IntegrityError, StoreNotFoundError, WrongKeyError
from dedupfs.storage.records import FORMAT_VERSION

log = logging.getLogger(__name__)

HEADER_FILE = "volume.json"
BACKUP_FILE = "volume.json.bak"
_MAGIC = "dedupfs"
_MAX_HEADER_BYTES = 1 << 20
_MAX_SLOTS = 64
VOLUME_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class Header:
    """What a volume says about itself in the clear."""

    volume_id: bytes
    slots: tuple[KeySlot, ...]

    def unlock(self, passphrase: bytes) -> bytes:
        """Return the volume key. Raises WrongKeyError when no slot opens."""
        for slot in self.slots:
            try:
                return keys.unwrap(slot, passphrase, self.volume_id)
            except WrongKeyError:
                continue
        raise WrongKeyError("wrong passphrase")


def new_header(volume_key: bytes, passphrase: bytes, cost: ScryptCost) -> Header:
    """Return the header of a new volume with one slot."""
    volume_id = os.urandom(VOLUME_ID_BYTES)
    return Header(volume_id, (keys.wrap(volume_key, passphrase, volume_id, cost),))


def read_header(directory: Path) -> Header:
    """Read the header, or its backup where the header is missing or damaged.

    Raises:
        StoreNotFoundError: there is neither.
        FormatVersionError: it is of a format this version does not know.
        IntegrityError: both are damaged.
    """
    try:
        return _parse(_read(directory / HEADER_FILE))
    except (StoreNotFoundError, IntegrityError) as exc:
        try:
            header = _parse(_read(directory / BACKUP_FILE))
        except (StoreNotFoundError, IntegrityError):
            raise exc from None
        log.warning("%s; using %s", exc, BACKUP_FILE)
        return header


def write_header(directory: Path, header: Header) -> None:
    """Write the header so that at every moment a whole one is there, and keep the previous one if it is whole.

    Raises OSError; the header is the previous one or the new one then.
    """
    path, backup = directory / HEADER_FILE, directory / BACKUP_FILE
    try:
        previous = _read(path)
        _parse(previous)
    except (StoreNotFoundError, IntegrityError):
        # What is damaged must not take the place of a backup that is not.
        _replace(path, _serialise(header))
        _replace(backup, _serialise(header))
    else:
        _replace(backup, previous)
        _replace(path, _serialise(header))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_HEADER_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise StoreNotFoundError(f"{path.parent} is not a dedupfs volume: it has no {path.name}") from exc
    except OSError as exc:
        raise StoreNotFoundError(f"cannot read {path}: {exc.strerror}") from exc
    if len(data) > _MAX_HEADER_BYTES:
        raise IntegrityError(f"{path.name} is damaged: it is far too long")
    return data


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _serialise(header: Header) -> bytes:
    fields: dict[str, Any] = {
        "magic": _MAGIC,
        "format_version": FORMAT_VERSION,
        "volume_id": header.volume_id.hex(),
        "slots": [
            {
                "kdf": "scrypt",
                "n": slot.cost.n,
                "r": slot.cost.r,
                "p": slot.cost.p,
                "salt": slot.salt.hex(),
                "wrapped": slot.wrapped.hex(),
            }
            for slot in header.slots
        ],
    }
    return (json.dumps({**fields, "checksum": _checksum(fields)}, indent=2) + "\n").encode()


def _parse(data: bytes) -> Header:
    try:
        fields = json.loads(data)
        checksum = fields.pop("checksum")
        magic, version = fields["magic"], fields["format_version"]
        if magic != _MAGIC or not isinstance(version, int):
            raise IntegrityError(f"{HEADER_FILE} is damaged: it is no header of a dedupfs volume")
        if version != FORMAT_VERSION:
            raise FormatVersionError(
                f"the volume has format version {version}; this dedupfs knows version {FORMAT_VERSION}"
            )
        if checksum != _checksum(fields):
            raise IntegrityError(f"{HEADER_FILE} is damaged: its checksum does not match")
        slots = fields["slots"]
        if not 0 < len(slots) <= _MAX_SLOTS or any(slot["kdf"] != "scrypt" for slot in slots):
            raise IntegrityError(f"{HEADER_FILE} is damaged: its key slots are not readable")
        return Header(
            bytes.fromhex(fields["volume_id"]),
            tuple(
                KeySlot(
                    ScryptCost(int(slot["n"]), int(slot["r"]), int(slot["p"])),
                    bytes.fromhex(slot["salt"]),
                    bytes.fromhex(slot["wrapped"]),
                )
                for slot in slots
            ),
        )
    except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError) as exc:
        raise IntegrityError(f"{HEADER_FILE} is damaged: it cannot be read") from exc


def _checksum(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
