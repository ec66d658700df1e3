"""Changes of who can open a volume: add, change and remove keys, back the header up and bring it back.

Each change proves first that a passphrase (or recovery key) opens a slot which is still there afterwards, and that the
key in it opens the database; so no change can lock everybody out, whatever somebody else wrote into the header. They
may run beside a live mount, which never looks at the header again, and beside each other: they take turns.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from dedupfs.crypto import keys, recovery
from dedupfs.crypto.keys import Keyring, ScryptCost, SlotKind
from dedupfs.errors import (
    DedupfsError,
    IntegrityError,
    StoreError,
    StoreNotFoundError,
    UsageError,
    WrongKeyError,
)
from dedupfs.storage import header as headers
from dedupfs.storage import records
from dedupfs.storage.engine import Engine
from dedupfs.storage.header import MAX_SLOTS, MAX_TOTAL_WORK, Header, Slot
from dedupfs.storage.header_copies import lock_keys, read_copies, write_everywhere
from dedupfs.storage.lmdb_engine import LmdbEngine

_RECORDS_TRIED = 100
"""So many records of each table are tried before a key is said not to be the one of a database."""

Show = Callable[[Slot, str], None]
"""Gets a slot and the text of its new recovery key before anything counts on it; raising calls the change off."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What became of the header, and whether anything had to be written."""

    header: Header
    changed: bool


def add_passphrase(
    directory: Path, passphrase: bytes, new: bytes, label: str = "", cost: ScryptCost | None = None
) -> Slot:
    """Add a slot for a new passphrase and return it.

    Raises:
        UsageError: the label or the passphrase cannot be taken, or there is no room for another slot.
        WrongKeyError, StoreError, IntegrityError: nothing has changed, unless the text says so.
    """
    _refuse_label(label)
    headers.refuse_passphrase(new)
    with _changing(directory, passphrase) as change:
        change.refuse_known(new)
        wrapped = keys.wrap(change.volume_key, new, change.header.volume_id, cost or ScryptCost())
        slot = Slot(change.header.next_number(), label, int(time.time()), wrapped)
        change.write((*change.header.slots, slot))
    return slot


def add_recovery_key(directory: Path, passphrase: bytes, show: Show, label: str = "") -> Slot:
    """Add a slot for a new recovery key and return it. Raises what `add_passphrase` raises."""
    _refuse_label(label)
    with _changing(directory, passphrase) as change:
        secret = recovery.new_secret()
        wrapped = keys.wrap_recovery(change.volume_key, secret, change.header.volume_id)
        slot = Slot(change.header.next_number(), label, int(time.time()), wrapped)
        change.refuse_slots((*change.header.slots, slot))
        show(slot, recovery.encode(secret))
        change.write((*change.header.slots, slot))
    return slot


def change_passphrase(
    directory: Path, passphrase: bytes, new: bytes, number: int | None = None, cost: ScryptCost | None = None
) -> Slot:
    """Give a slot another passphrase: the one that the given passphrase opens, or the one of this number.

    Raises:
        UsageError: there is no such slot, or it is one of a recovery key.
        WrongKeyError, StoreError, IntegrityError: nothing has changed, unless the text says so.
    """
    headers.refuse_passphrase(new)
    with _changing(directory, passphrase) as change:
        old = change.opened if number is None else change.slot(number)
        if old.key.kind is SlotKind.RECOVERY:
            raise UsageError(f"slot {old.number} is a recovery key; name the slot whose passphrase is to be changed")
        change.refuse_known(new)
        wrapped = keys.wrap(change.volume_key, new, change.header.volume_id, cost or ScryptCost())
        return change.exchange(replace(old, created_s=int(time.time()), key=wrapped))


def change_recovery_key(directory: Path, passphrase: bytes, number: int, show: Show) -> Slot:
    """Put a new recovery key in the place of the one in this slot. Raises what `change_passphrase` raises."""
    with _changing(directory, passphrase) as change:
        old = change.slot(number)
        if old.key.kind is not SlotKind.RECOVERY:
            raise UsageError(f"slot {number} is no recovery key")
        secret = recovery.new_secret()
        wrapped = keys.wrap_recovery(change.volume_key, secret, change.header.volume_id)
        slot = replace(old, created_s=int(time.time()), key=wrapped)
        show(slot, recovery.encode(secret))
        return change.exchange(slot)


def remove_key(directory: Path, passphrase: bytes, removed: int | bytes) -> Slot:
    """Remove a slot, by its number or by what opens it, and return what it was.

    The passphrase must open a slot that stays. The last slot of a passphrase stays in any case: a recovery key is for
    the day on which everything else is lost, and nobody should be down to it without having lost anything.
    Raises:
        UsageError: there is no such slot, or it has to stay.
        WrongKeyError, StoreError, IntegrityError: nothing has changed, unless the text says so.
    """
    with _changing(directory, passphrase) as change:
        slot = change.slot(removed) if isinstance(removed, int) else change.slot_of(removed)
        rest = tuple(other for other in change.header.slots if other is not slot)
        if all(other.key.kind is SlotKind.RECOVERY for other in rest):
            raise UsageError(f"slot {slot.number} is the last with a passphrase; add another one before")
        if slot is change.opened:
            # The same passphrase may be in another slot, too.
            try:
                replace(change.header, slots=rest).find(passphrase)
            except WrongKeyError as exc:
                raise UsageError(
                    f"the passphrase given opens slot {slot.number} itself; give one that opens a slot which stays"
                ) from exc
        change.write(rest)
    return slot


def back_up(directory: Path, file: Path) -> Header:
    """Write the header to a new file and return it.

    Raises:
        UsageError: the file exists, or cannot be written.
        StoreError, IntegrityError: there is no sound header.
    """
    header = headers.read_header(directory)
    try:
        headers.write_new_file(file, headers.serialise(header))
    except OSError as exc:
        raise UsageError(f"cannot write the header to {file}: {exc.strerror}") from exc
    return header


def restore(directory: Path, passphrase: bytes, file: Path | None = None) -> Restored:
    """Bring the header back from a file, or else from the latest of its copies that opens.

    It has to open with the passphrase or recovery key, and its volume key has to open the database. All three places
    hold it afterwards, as the latest revision.
    Raises:
        UsageError: the file cannot be read, or is a header of another volume.
        StoreNotFoundError: there is no sound copy.
        WrongKeyError, StoreError, IntegrityError: nothing has changed, unless the text says so.
    """
    given = None if file is None else _read_given(file)
    with contextlib.suppress(StoreNotFoundError, IntegrityError):
        # A volume of another format is told from a damaged one before its database is opened.
        headers.read_header(directory)
    with lock_keys(directory), _engine(directory) as engine:
        copies = read_copies(directory, engine)
        header = _first_that_opens([given] if given is not None else copies.all(), engine, passphrase)
        current = copies.file
        if current is not None and copies.agree() and replace(header, revision=current.revision) == current:
            return Restored(current, changed=False)
        later = [copy.revision for copy in copies.all() if copy.volume_id == header.volume_id and copy != header]
        if max(later, default=0) >= header.revision:
            # Somebody hostile may have left no revision above that of a copy; all of them are written over anyway.
            header = replace(header, revision=min(max(later) + 1, headers.MAX_NUMBER))
        write_everywhere(directory, engine, header)
        return Restored(header, changed=True)


class _Change:
    """A header that was opened by somebody entitled to, under the lock and with its database at hand."""

    def __init__(self, directory: Path, engine: Engine, header: Header, opened: Slot, volume_key: bytes) -> None:
        self.header = header
        self.opened = opened
        self.volume_key = volume_key
        self._directory = directory
        self._engine = engine

    def slot(self, number: int) -> Slot:
        """Return the slot of this number. Raises UsageError."""
        for slot in self.header.slots:
            if slot.number == number:
                return slot
        raise UsageError(f"there is no slot {number}; `dedupfs key list` shows them")

    def slot_of(self, passphrase: bytes) -> Slot:
        """Return the slot that opens with this. Raises WrongKeyError."""
        try:
            return self.header.find(passphrase)[0]
        except WrongKeyError as exc:
            raise WrongKeyError(f"nothing to remove: {exc}") from exc

    def refuse_known(self, new: bytes) -> None:
        """Raise UsageError when a slot opens with the new passphrase already: removing one would not revoke it."""
        try:
            slot, _ = self.header.find(new)
        except WrongKeyError:
            return
        raise UsageError(f"slot {slot.number} opens with this passphrase already")

    def refuse_slots(self, slots: tuple[Slot, ...]) -> None:
        """Raise UsageError when these are more than a header takes."""
        work = sum(slot.key.cost.work for slot in slots if slot.key.cost is not None)
        if len(slots) > MAX_SLOTS or work > MAX_TOTAL_WORK:
            raise UsageError("the volume has as many keys as it can have; remove one before")

    def exchange(self, slot: Slot) -> Slot:
        """Put a slot in the place of the one with its number, write, and return it."""
        self.write(tuple(slot if other.number == slot.number else other for other in self.header.slots))
        return slot

    def write(self, slots: tuple[Slot, ...]) -> None:
        """Make these the slots of the volume. Raises UsageError, StoreError."""
        self.refuse_slots(slots)
        header = replace(self.header, revision=self.header.revision + 1, slots=slots)
        write_everywhere(self._directory, self._engine, header)


@contextlib.contextmanager
def _changing(directory: Path, passphrase: bytes) -> Iterator[_Change]:
    """Take the lock, open the header with the passphrase, and see that it belongs to the database."""
    with lock_keys(directory):
        header = headers.read_header(directory)
        with _engine(directory) as engine:
            yield _opened_change(directory, engine, header, passphrase)


def _opened_change(directory: Path, engine: Engine, header: Header, passphrase: bytes) -> _Change:
    if any(copy.revision > header.revision for copy in read_copies(directory, engine).all()):
        raise StoreError(
            f"the header is older than a copy of it: `dedupfs header restore {directory}` brings the later one back"
        )
    opened, volume_key = header.find(passphrase)
    if not _opens_database(engine, volume_key):
        raise IntegrityError(f"the header belongs to another database; see `dedupfs header restore {directory}`")
    return _Change(directory, engine, header, opened, volume_key)


@contextlib.contextmanager
def _engine(directory: Path) -> Iterator[LmdbEngine]:
    engine = LmdbEngine(directory, [table.name for table in records.TABLES])
    try:
        yield engine
    finally:
        engine.close()


def _first_that_opens(candidates: list[Header], engine: Engine, passphrase: bytes) -> Header:
    refusal: DedupfsError = StoreNotFoundError("no sound copy of the header is left")
    for header in candidates:
        try:
            volume_key = header.unlock(passphrase)
        except WrongKeyError as exc:
            # That one opened with another database says more.
            refusal = refusal if isinstance(refusal, UsageError) else exc
            continue
        if _opens_database(engine, volume_key):
            return header
        refusal = UsageError("the header opens, but it is the one of another volume")
    raise refusal


def _opens_database(engine: Engine, volume_key: bytes) -> bool:
    """Whether the key opens a record; more than one is tried, as some may be damaged."""
    keyring = Keyring(volume_key)
    with engine.snapshot() as snapshot:
        for table in records.TABLES:
            if not table.sealed:
                continue
            for tried, (key, sealed) in enumerate(snapshot.scan(table.name)):
                if tried == _RECORDS_TRIED:
                    break
                try:
                    keyring.open_record(records.place(table, key), sealed)
                except IntegrityError:
                    continue
                return True
    return False


def _read_given(file: Path) -> Header:
    try:
        return headers.read_file(file.resolve())
    except StoreNotFoundError as exc:
        raise UsageError(f"there is no header to be read in {file}") from exc


def _refuse_label(label: str) -> None:
    if not headers.is_label(label):
        raise UsageError(f"a label is one line of at most {headers.MAX_LABEL_CHARACTERS} characters")
