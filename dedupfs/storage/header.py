"""`volume.json`: the format version, the volume's id and its key slots; the only file a passphrase can be tried on.

This module owns its layout, the file and the copy beside it, `volume.json.bak`, which is read when the first is missing
or damaged; a third copy is in the database, see `header_copies`. Each file is replaced atomically. A checksum tells
damage from a wrong passphrase; the slots themselves are authenticated. Nothing in a header can be trusted before one of
its slots has opened: it is bounded in length, in the number of its slots and in the work that trying all of them takes,
and there is only one way to write down the same header.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dedupfs.crypto import keys, recovery
from dedupfs.crypto.keys import KeySlot, ScryptCost, SlotKind
from dedupfs.errors import FormatVersionError, IntegrityError, StoreNotFoundError, UsageError, WrongKeyError
from dedupfs.storage.lmdb_engine import DATA_FILE
from dedupfs.storage.records import FORMAT_VERSION

log = logging.getLogger(__name__)

HEADER_FILE = "volume.json"
BACKUP_FILE = "volume.json.bak"
VOLUME_ID_BYTES = 16
MAX_HEADER_BYTES = 1 << 16
"""A header with MAX_SLOTS slots of the longest labels takes less than two thirds of it."""
MAX_SLOTS = 32
MAX_LABEL_CHARACTERS = 64
MAX_TOTAL_WORK = ScryptCost.WORK_LIMIT
"""Largest sum of n * r * p over all slots: sixteen slots of the default cost. Trying a wrong passphrase on headers at
this limit, of few dear slots and of many cheap ones, took 5.8 to 8.9 s of processor time and at most 566 MiB."""
_MAGIC = "dedupfs"
MAX_NUMBER = 2**32 - 1
"""No slot number, revision or second in a header is larger; honest ones stay far below it."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A key slot and what a person knows it by."""

    number: int
    label: str
    created_s: int
    """Seconds since 1970."""
    key: KeySlot

    def __post_init__(self) -> None:
        # What the label says is printed on terminals.
        if not is_label(self.label) or not 0 < self.number <= MAX_NUMBER or not 0 <= self.created_s <= MAX_NUMBER:
            raise IntegrityError(f"{HEADER_FILE} is damaged: a key slot is described by nonsense")


@dataclass(frozen=True, slots=True)
class Header:
    """What a volume says about itself in the clear. Raises IntegrityError where that is absurd."""

    volume_id: bytes
    revision: int
    """Grows with every change, so that of two sound copies the later one is known."""
    slots: tuple[Slot, ...]

    def __post_init__(self) -> None:
        if len(self.volume_id) != VOLUME_ID_BYTES or not 0 < self.revision <= MAX_NUMBER:
            raise IntegrityError(f"{HEADER_FILE} is damaged: it describes no volume")
        if not 0 < len(self.slots) <= MAX_SLOTS or len({slot.number for slot in self.slots}) != len(self.slots):
            raise IntegrityError(f"{HEADER_FILE} is damaged: it has no slots, too many, or one twice")
        if self.work > MAX_TOTAL_WORK:
            raise IntegrityError(f"{HEADER_FILE} is damaged: trying its key slots would take too long")

    @property
    def work(self) -> int:
        """What the time of trying a wrong passphrase grows with."""
        return sum(slot.key.cost.work for slot in self.slots if slot.key.cost is not None)

    def find(self, passphrase: bytes) -> tuple[Slot, bytes]:
        """Return the slot that opens with a passphrase, or with the text of a recovery key, and the volume key.

        Raises:
            WrongKeyError: no slot does; the text tells of typing errors where it looks like a recovery key.
            StoreError: there is not enough memory to find out.
        """
        secret = recovery.decode(passphrase)
        for slot in self.slots:
            # The text of a recovery key is never made a passphrase, so one trial each is enough.
            if (slot.key.kind is SlotKind.RECOVERY) != (secret is not None):
                continue
            try:
                return slot, keys.unwrap(slot.key, passphrase if secret is None else secret, self.volume_id)
            except WrongKeyError:
                continue
        if secret is not None:
            raise WrongKeyError("the recovery key is without a typing error, but it opens another volume or no longer")
        complaint = recovery.complaint(passphrase)
        raise WrongKeyError(
            "wrong passphrase" if complaint is None else f"wrong passphrase; or, as a recovery key, {complaint}"
        )

    def unlock(self, passphrase: bytes) -> bytes:
        """Return the volume key. Raises what `find` raises."""
        return self.find(passphrase)[1]

    def next_number(self) -> int:
        """Return the number for a new slot."""
        return 1 + max(slot.number for slot in self.slots)


def is_label(text: str) -> bool:
    """Whether a text can be the label of a slot: one short line without control characters."""
    return len(text) <= MAX_LABEL_CHARACTERS and text.isprintable()


def refuse_passphrase(new: bytes) -> None:
    """Raise UsageError for a passphrase that is the text of a recovery key: it would be taken for one."""
    if recovery.decode(new) is not None:
        raise UsageError("a passphrase cannot be the text of a recovery key; choose another one")


def new_header(volume_key: bytes, passphrase: bytes, cost: ScryptCost, recovery_secret: bytes | None = None) -> Header:
    """Return the header of a new volume: a slot for the passphrase, and one for the recovery key if there is one."""
    volume_id, now = os.urandom(VOLUME_ID_BYTES), int(time.time())
    slots = [Slot(1, "", now, keys.wrap(volume_key, passphrase, volume_id, cost))]
    if recovery_secret is not None:
        slots.append(Slot(2, "", now, keys.wrap_recovery(volume_key, recovery_secret, volume_id)))
    return Header(volume_id, 1, tuple(slots))


def read_header(directory: Path) -> Header:
    """Read the header, or its backup where the header is missing or damaged.

    Raises:
        StoreNotFoundError: there is neither.
        FormatVersionError: it is of a format this version does not know.
        IntegrityError: both are damaged.
    """
    try:
        return read_file(directory / HEADER_FILE)
    except (StoreNotFoundError, IntegrityError) as exc:
        try:
            header = read_file(directory / BACKUP_FILE)
        except (StoreNotFoundError, IntegrityError):
            # Path.exists() raises where the directory may not be searched.
            if not os.path.exists(directory / DATA_FILE):
                raise exc from None
            way_out = f"{exc}; `dedupfs header restore {directory}` can bring it back"
            raise type(exc)(way_out) from None
        log.warning("%s; using %s", exc, BACKUP_FILE)
        return header


def read_file(path: Path) -> Header:
    """Read a header from a file. Raises StoreNotFoundError, FormatVersionError or IntegrityError."""
    return parse(_read(path), path.name)


def write_header(directory: Path, header: Header) -> None:
    """Write the header and its backup so that at every moment a whole header is there.

    Both are the new one in the end: a slot that was taken out must not live on in the backup. Raises OSError.
    """
    replace_file(directory / HEADER_FILE, serialise(header))
    replace_file(directory / BACKUP_FILE, serialise(header))


def replace_file(path: Path, data: bytes) -> None:
    """Replace a file so that it holds the old bytes or the new ones, and return when the new ones are durable.

    Raises OSError; the file holds the old bytes then, or the new ones that may not be durable yet.
    """
    temporary = path.with_name(path.name + ".new")
    # Whatever has that name, a link above all, must not be written through.
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    write_new_file(temporary, data)
    try:
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def write_new_file(path: Path, data: bytes) -> None:
    """Write a file that must not exist, for its owner only and durably. Raises OSError, and leaves nothing then."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        _sync_directory(path.parent)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def serialise(header: Header) -> bytes:
    """Return the one text that stands for a header."""
    fields: dict[str, Any] = {
        "magic": _MAGIC,
        "format_version": FORMAT_VERSION,
        "volume_id": header.volume_id.hex(),
        "revision": header.revision,
        "slots": [_slot_fields(slot) for slot in header.slots],
    }
    return (json.dumps({**fields, "checksum": _checksum(fields)}, indent=2) + "\n").encode()


def parse(data: bytes, name: str = HEADER_FILE) -> Header:
    """Return the header that a text stands for; `name` is what the errors call it.

    Raises:
        FormatVersionError: it is of a format this version does not know.
        IntegrityError: it is not what `serialise` writes.
    """
    if len(data) > MAX_HEADER_BYTES:
        raise IntegrityError(f"{name} is damaged: it is far too long")
    try:
        fields = json.loads(data)
        checksum = fields.pop("checksum")
        magic, version = fields["magic"], fields["format_version"]
        if magic != _MAGIC or type(version) is not int:
            raise IntegrityError(f"{name} is damaged: it is no header of a dedupfs volume")
        # Magic, version and checksum are the same in every format, so that a changed digit is no other format.
        if checksum != _checksum(fields):
            raise IntegrityError(f"{name} is damaged: its checksum does not match")
        if version != FORMAT_VERSION:
            raise FormatVersionError(
                f"the volume has format version {version}; this dedupfs knows version {FORMAT_VERSION}"
            )
        if len(fields["slots"]) > MAX_SLOTS:
            raise IntegrityError(f"{name} is damaged: it has too many key slots")
        slots = tuple(_slot(slot) for slot in fields["slots"])
        header = Header(bytes.fromhex(fields["volume_id"]), _integer(fields["revision"]), slots)
    except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError) as exc:
        raise IntegrityError(f"{name} is damaged: it cannot be read") from exc
    if serialise(header) != data:
        raise IntegrityError(f"{name} is damaged: it says more than a header does")
    return header


def _slot_fields(slot: Slot) -> dict[str, Any]:
    cost = slot.key.cost
    return {
        "number": slot.number,
        "kind": slot.key.kind.value,
        "label": slot.label,
        "created_s": slot.created_s,
        **({"kdf": "hkdf-sha256"} if cost is None else {"kdf": "scrypt", "n": cost.n, "r": cost.r, "p": cost.p}),
        "salt": slot.key.salt.hex(),
        "wrapped": slot.key.wrapped.hex(),
    }


def _slot(fields: dict[str, Any]) -> Slot:
    cost = None
    if SlotKind(fields["kind"]) is SlotKind.PASSPHRASE:
        cost = ScryptCost(_integer(fields["n"]), _integer(fields["r"]), _integer(fields["p"]))
    key = KeySlot(cost, bytes.fromhex(fields["salt"]), bytes.fromhex(fields["wrapped"]))
    if not isinstance(fields["label"], str):
        raise TypeError("a label is not text")
    return Slot(_integer(fields["number"]), fields["label"], _integer(fields["created_s"]), key)


def _integer(value: object) -> int:
    if type(value) is not int:
        raise TypeError("a number is none")
    return value


def _checksum(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> bytes:
    try:
        # Neither a pipe that nobody writes to may stop us here, nor a link lead somewhere else.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                with open(descriptor, "rb", closefd=False) as file:
                    return file.read(MAX_HEADER_BYTES + 1)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise StoreNotFoundError(f"{path.parent} is not a dedupfs volume: it has no {path.name}") from exc
    except OSError as exc:
        if exc.errno not in (errno.ELOOP, errno.ENXIO):
            raise StoreNotFoundError(f"cannot read {path}: {exc.strerror}") from exc
    raise IntegrityError(f"{path.name} is damaged: it is not a regular file")


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
