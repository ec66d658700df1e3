"""Keys can be added, changed and removed without anybody being locked out, and a lost header comes back."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dedupfs.crypto import recovery
from dedupfs.crypto.keys import SlotKind
from dedupfs.errors import (
    FormatVersionError,
    IntegrityError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    StoreNotFoundError,
    UsageError,
    WrongKeyError,
)
from dedupfs.model import Policy
from dedupfs.storage import codec, header_copies, keyslots, records
from dedupfs.storage import header as headers
from dedupfs.storage.header import BACKUP_FILE, HEADER_FILE, Header, Slot, read_file, read_header, serialise
from dedupfs.storage.header_copies import lock_keys
from dedupfs.storage.keyslots import (
    add_passphrase,
    add_recovery_key,
    back_up,
    change_passphrase,
    change_recovery_key,
    remove_key,
    restore,
)
from dedupfs.storage.lmdb_engine import DATA_FILE, LmdbEngine
from dedupfs.storage.records import Config
from dedupfs.storage.volume import create_volume, open_volume, unlock
from tests.conftest import CHEAP, PASSPHRASE, reopen

SECOND = b"second passphrase"
SECRET = bytes(range(32))
RECOVERY = recovery.encode(SECRET).encode()


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyslots, "ScryptCost", lambda: CHEAP)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A volume with a passphrase in slot 1 and a recovery key in slot 2."""
    create_volume(tmp_path / "volume", PASSPHRASE, Config(Policy.OFF, ""), CHEAP, SECRET)
    return tmp_path / "volume"


def record(directory: Path) -> bytes | None:
    """Return the copy of the header in the database."""
    engine = LmdbEngine(directory, [table.name for table in records.TABLES], read_only=True)
    try:
        with engine.snapshot() as snapshot:
            return snapshot.get(records.HEADER.name, HEADER_FILE.encode())
    finally:
        engine.close()


def write_record(directory: Path, data: bytes | None) -> None:
    engine = LmdbEngine(directory, [table.name for table in records.TABLES])
    try:
        engine.apply([(records.HEADER.name, HEADER_FILE.encode(), data)])
    finally:
        engine.close()


def opens(directory: Path, passphrase: bytes) -> bool:
    """Whether a passphrase opens the volume; if so, it opens each copy of the header, and else none."""
    found = set()
    texts = [(directory / HEADER_FILE).read_bytes(), (directory / BACKUP_FILE).read_bytes(), record(directory)]
    for text in texts:
        assert text is not None
        try:
            key = headers.parse(text).unlock(passphrase)
        except WrongKeyError:
            found.add(False)
        else:
            found.add(True)
            open_volume(directory, key, read_only=True).close()
    assert len(found) == 1, "the copies of the header differ in what opens them"
    return found.pop()


def numbers(directory: Path) -> list[int]:
    return [slot.number for slot in read_header(directory).slots]


# Adding, changing, removing


def test_a_volume_opens_with_its_recovery_key(directory: Path) -> None:
    assert opens(directory, PASSPHRASE)
    assert opens(directory, RECOVERY)
    assert not opens(directory, SECOND)


@pytest.mark.parametrize("by", [PASSPHRASE, RECOVERY], ids=["passphrase", "recovery key"])
def test_an_added_passphrase_opens(directory: Path, by: bytes) -> None:
    slot = add_passphrase(directory, by, SECOND, "laptop")
    assert (slot.number, slot.label, slot.key.kind) == (3, "laptop", SlotKind.PASSPHRASE)
    assert opens(directory, PASSPHRASE) and opens(directory, SECOND) and opens(directory, RECOVERY)


def test_an_added_recovery_key_is_shown_before_it_counts(directory: Path) -> None:
    shown: list[str] = []

    def show(slot: Slot, text: str) -> None:
        assert numbers(directory) == [1, 2]
        shown.append(text)

    slot = add_recovery_key(directory, PASSPHRASE, show, "safe")
    assert (slot.number, slot.label, slot.key.kind) == (3, "safe", SlotKind.RECOVERY)
    assert opens(directory, shown[0].encode()) and opens(directory, RECOVERY)


@pytest.mark.parametrize("change", [False, True])
def test_a_recovery_key_that_cannot_be_shown_changes_nothing(directory: Path, change: bool) -> None:
    def show(slot: Slot, text: str) -> None:
        raise BrokenPipeError

    def run() -> Slot:
        if change:
            return change_recovery_key(directory, PASSPHRASE, 2, show)
        return add_recovery_key(directory, PASSPHRASE, show)

    before = (directory / HEADER_FILE).read_bytes()
    with pytest.raises(BrokenPipeError):
        run()
    assert (directory / HEADER_FILE).read_bytes() == before
    assert opens(directory, RECOVERY)


def test_a_changed_passphrase_replaces_the_old_one_everywhere(directory: Path) -> None:
    slot = change_passphrase(directory, PASSPHRASE, SECOND)
    assert slot.number == 1
    assert opens(directory, SECOND) and not opens(directory, PASSPHRASE)


def test_a_forgotten_passphrase_is_changed_with_the_recovery_key(directory: Path) -> None:
    with pytest.raises(UsageError, match="slot 2 is a recovery key"):
        change_passphrase(directory, RECOVERY, SECOND)
    change_passphrase(directory, RECOVERY, SECOND, 1)
    assert opens(directory, SECOND) and not opens(directory, PASSPHRASE)


def test_a_changed_recovery_key_replaces_the_old_one(directory: Path) -> None:
    shown: list[str] = []
    change_recovery_key(directory, RECOVERY, 2, lambda slot, text: shown.append(text))
    assert opens(directory, shown[0].encode()) and not opens(directory, RECOVERY)
    with pytest.raises(UsageError):
        change_recovery_key(directory, PASSPHRASE, 1, lambda slot, text: None)


@pytest.mark.parametrize("removed", [1, PASSPHRASE], ids=["by number", "by what opens it"])
def test_a_removed_passphrase_opens_no_copy(directory: Path, removed: int | bytes) -> None:
    add_passphrase(directory, PASSPHRASE, SECOND)
    assert remove_key(directory, SECOND, removed).number == 1
    assert numbers(directory) == [2, 3]
    assert not opens(directory, PASSPHRASE)
    assert opens(directory, SECOND)


def test_a_removed_recovery_key_opens_no_copy(directory: Path) -> None:
    remove_key(directory, PASSPHRASE, RECOVERY)
    assert not opens(directory, RECOVERY)


def test_the_last_passphrase_stays_even_beside_a_recovery_key(directory: Path) -> None:
    for by in (PASSPHRASE, RECOVERY):
        with pytest.raises(UsageError, match="last"):
            remove_key(directory, by, 1)
    remove_key(directory, PASSPHRASE, 2)
    with pytest.raises(UsageError, match="last"):
        remove_key(directory, PASSPHRASE, 1)
    assert opens(directory, PASSPHRASE)


def test_nobody_removes_the_only_slot_that_is_known_to_open(directory: Path) -> None:
    """Somebody may have forgotten the others, or somebody hostile may have invented them."""
    add_passphrase(directory, PASSPHRASE, SECOND)
    with pytest.raises(UsageError, match="stays"):
        remove_key(directory, SECOND, 3)
    with pytest.raises(UsageError, match="stays"):
        remove_key(directory, SECOND, SECOND)
    assert opens(directory, SECOND)


@pytest.mark.parametrize(
    "change",
    [
        lambda directory, by: add_passphrase(directory, by, b"third"),
        lambda directory, by: add_recovery_key(directory, by, lambda slot, text: pytest.fail("shown")),
        lambda directory, by: change_passphrase(directory, by, b"third"),
        lambda directory, by: change_recovery_key(directory, by, 2, lambda slot, text: pytest.fail("shown")),
        lambda directory, by: remove_key(directory, by, 2),
        lambda directory, by: restore(directory, by),
    ],
    ids=["add", "add recovery", "change", "change recovery", "remove", "restore"],
)
def test_a_wrong_passphrase_changes_nothing(directory: Path, change: Callable[[Path, bytes], object]) -> None:
    before = (directory / HEADER_FILE).read_bytes()
    with pytest.raises(WrongKeyError):
        change(directory, b"wrong")
    assert (directory / HEADER_FILE).read_bytes() == before == record(directory)


def test_requests_that_make_no_sense(directory: Path) -> None:
    before = (directory / HEADER_FILE).read_bytes()
    for nonsense in (
        lambda: add_passphrase(directory, PASSPHRASE, PASSPHRASE),
        lambda: add_passphrase(directory, PASSPHRASE, RECOVERY.lower()),
        lambda: add_passphrase(directory, PASSPHRASE, SECOND, "two\nlines"),
        lambda: add_passphrase(directory, PASSPHRASE, SECOND, "a" * 65),
        lambda: change_passphrase(directory, PASSPHRASE, PASSPHRASE),
        lambda: change_passphrase(directory, PASSPHRASE, SECOND, 7),
        lambda: remove_key(directory, PASSPHRASE, 7),
    ):
        with pytest.raises(UsageError):
            nonsense()
    with pytest.raises(WrongKeyError, match="nothing to remove"):
        remove_key(directory, PASSPHRASE, b"unknown")
    assert (directory / HEADER_FILE).read_bytes() == before


def test_a_recovery_key_is_no_passphrase_of_a_new_volume(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="recovery key"):
        create_volume(tmp_path / "volume", RECOVERY, Config(Policy.OFF, ""), CHEAP)
    assert not (tmp_path / "volume").exists()


def test_there_is_an_end_to_the_slots(directory: Path) -> None:
    header = read_header(directory)
    many = tuple(replace(header.slots[1], number=number) for number in range(2, headers.MAX_SLOTS + 1))
    full = replace(header, slots=(header.slots[0], *many))
    headers.write_header(directory, full)
    for add in (
        lambda: add_passphrase(directory, PASSPHRASE, SECOND),
        lambda: add_recovery_key(directory, PASSPHRASE, lambda slot, text: pytest.fail("shown")),
    ):
        with pytest.raises(UsageError, match="as many keys"):
            add()
    assert read_header(directory) == full


# Crashes and full disks: the file is replaced first, the others follow


class Crash(BaseException):
    """The end of the process, as far as the code under test can tell."""


def crashing(original: Callable[..., Any], at: int, failure: BaseException) -> tuple[Callable[..., Any], list[int]]:
    left = [at]

    def call(*arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise failure
        return original(*arguments, **named)

    return call, left


POINTS = (("replace_file", 1), ("replace_file", 2), ("write_record", 1))


@pytest.mark.parametrize("point", POINTS, ids=str)
@pytest.mark.parametrize(
    "failure",
    [Crash(), OSError(errno.ENOSPC, "No space left on device"), StoreFullError("full")],
    ids=["crash", "os", "db"],
)
def test_a_change_that_is_cut_short_is_made_or_not_and_made_whole_later(
    directory: Path, monkeypatch: pytest.MonkeyPatch, point: tuple[str, int], failure: BaseException
) -> None:
    add_passphrase(directory, PASSPHRASE, SECOND)
    name, at = point
    module: Any = headers if name == "replace_file" else header_copies
    call, _ = crashing(getattr(module, name), at, failure)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, call)
        with pytest.raises((Crash, StoreError)) as told:
            remove_key(directory, SECOND, 1)
    made = point != ("replace_file", 1)
    if not isinstance(failure, Crash):
        assert ("the change is made" in str(told.value)) == made
    assert read_header(directory).unlock(SECOND)
    assert (numbers(directory) == [2, 3]) == made
    # The next mount for writing brings the copies up to date.
    open_volume(directory, unlock(directory, SECOND)).close()
    assert opens(directory, PASSPHRASE) != made
    assert opens(directory, SECOND)


def test_restore_finishes_a_change_that_was_cut_short(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_passphrase(directory, PASSPHRASE, SECOND)
    with monkeypatch.context() as patch:
        patch.setattr(header_copies, "write_record", crashing(header_copies.write_record, 1, Crash())[0])
        with pytest.raises(Crash):
            remove_key(directory, SECOND, 1)
    assert restore(directory, SECOND).changed
    assert not opens(directory, PASSPHRASE)
    assert not restore(directory, SECOND).changed


def test_a_mount_renews_copies_that_are_lost_or_damaged(directory: Path) -> None:
    header = read_header(directory)
    for damage in (
        lambda: (directory / BACKUP_FILE).unlink(),
        lambda: (directory / BACKUP_FILE).write_bytes(b"damaged"),
        lambda: (directory / HEADER_FILE).write_bytes(b"damaged"),
        lambda: write_record(directory, None),
        lambda: write_record(directory, b"damaged"),
    ):
        damage()
        key = unlock(directory, PASSPHRASE)
        open_volume(directory, key, read_only=True).close()
        open_volume(directory, key).close()
        assert read_file(directory / HEADER_FILE) == read_file(directory / BACKUP_FILE) == header
        assert record(directory) == serialise(header)


def test_a_mount_leaves_a_later_copy_alone_and_says_so(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody has put an old volume.json back: what it does not know must not be forgotten."""
    old = (directory / HEADER_FILE).read_bytes()
    add_passphrase(directory, PASSPHRASE, SECOND)
    later = (directory / HEADER_FILE).read_bytes()
    (directory / HEADER_FILE).write_bytes(old)
    with caplog.at_level(logging.WARNING):
        reopen(directory).close()
    assert "header restore" in caplog.text
    assert record(directory) == (directory / BACKUP_FILE).read_bytes() == later
    with pytest.raises(StoreError, match="header restore"):
        remove_key(directory, PASSPHRASE, 2)
    assert restore(directory, PASSPHRASE).changed
    assert opens(directory, SECOND)


def test_copies_that_cannot_be_renewed_keep_nobody_from_mounting(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (directory / BACKUP_FILE).unlink()
    (directory / BACKUP_FILE).mkdir()
    with caplog.at_level(logging.WARNING):
        reopen(directory).close()
    assert "cannot be renewed" in caplog.text


# At once


def add_in_a_process(directory: Path, passphrase: bytes) -> None:
    add_passphrase(directory, PASSPHRASE, passphrase, cost=CHEAP)


def test_keys_added_at_once_and_beside_a_mount_are_all_there(directory: Path) -> None:
    volume = reopen(directory)
    context = multiprocessing.get_context("spawn")
    passphrases = [b"passphrase %d" % number for number in range(4)]
    processes = [context.Process(target=add_in_a_process, args=(directory, passphrase)) for passphrase in passphrases]
    for process in processes:
        process.start()
    for number in range(50):
        with volume.store.transaction() as transaction:
            transaction.put(records.ORPHANS, number.to_bytes(8, "big"), codec.encode_mark())
        volume.store.commit()
    for process in processes:
        process.join()
    with volume.store.transaction() as transaction:
        transaction.put(records.ORPHANS, bytes(8), codec.encode_mark())
    volume.close()
    assert [process.exitcode for process in processes] == [0] * 4
    assert len(numbers(directory)) == 6
    assert all(opens(directory, passphrase) for passphrase in passphrases)
    reader = reopen(directory, read_only=True)
    assert len(reader.store.keys(records.ORPHANS)) == 50
    reader.close()


def test_a_command_that_does_not_let_go_is_not_waited_for_for_ever(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lock_keys(directory):
        with pytest.raises(StoreLockedError, match="another command"), lock_keys(directory, patience_seconds=0.1):
            pytest.fail("locked twice")
        # A mount does not wait at all.
        reopen(directory).close()
    with lock_keys(directory, patience_seconds=0):
        pass


def test_the_lock_is_that_of_the_database_that_is_there(directory: Path) -> None:
    """Whoever puts another file in its place holds the lock of the old one; who waited for that takes the new one's."""
    with lock_keys(directory):
        shutil.copy(directory / DATA_FILE, directory / "copy")
        os.replace(directory / "copy", directory / DATA_FILE)
        with lock_keys(directory, patience_seconds=0):
            pass


# Losing the header


@pytest.mark.parametrize("passphrase", [PASSPHRASE, RECOVERY], ids=["passphrase", "recovery key"])
def test_a_volume_of_which_only_the_database_is_left_comes_back(directory: Path, passphrase: bytes) -> None:
    header = read_header(directory)
    for path in directory.iterdir():
        if path.name != DATA_FILE:
            path.unlink()
    with pytest.raises(StoreNotFoundError, match="header restore"):
        unlock(directory, passphrase)
    with pytest.raises(WrongKeyError):
        restore(directory, b"wrong")
    restored = restore(directory, passphrase)
    assert restored.changed
    assert restored.header == read_header(directory) == header
    assert opens(directory, PASSPHRASE) and opens(directory, RECOVERY)


def test_the_database_holds_the_keys_of_today(directory: Path) -> None:
    add_passphrase(directory, PASSPHRASE, SECOND)
    remove_key(directory, SECOND, 1)
    (directory / HEADER_FILE).unlink()
    (directory / BACKUP_FILE).unlink()
    with pytest.raises(WrongKeyError):
        restore(directory, PASSPHRASE)
    restore(directory, SECOND)
    assert opens(directory, RECOVERY)


def test_a_damaged_header_tells_the_way_back(directory: Path) -> None:
    (directory / HEADER_FILE).write_bytes(b"damaged")
    (directory / BACKUP_FILE).write_bytes(b"damaged")
    with pytest.raises(IntegrityError, match="header restore"):
        unlock(directory, PASSPHRASE)
    restore(directory, RECOVERY)
    assert opens(directory, PASSPHRASE)


def test_a_header_that_somebody_made_up_does_not_stand_in_the_way(directory: Path, tmp_path: Path) -> None:
    create_volume(tmp_path / "other", SECOND, Config(Policy.OFF, ""), CHEAP)
    invented = replace(read_header(tmp_path / "other"), revision=1000)
    headers.write_header(directory, invented)
    with pytest.raises(WrongKeyError):
        unlock(directory, PASSPHRASE)
    with pytest.raises(IntegrityError, match="another database"):
        change_passphrase(directory, SECOND, b"third")
    with pytest.raises(UsageError, match="another volume"):
        restore(directory, SECOND)
    assert read_header(directory) == invented
    restore(directory, PASSPHRASE)
    assert opens(directory, PASSPHRASE) and opens(directory, RECOVERY)


def test_a_revision_that_somebody_made_up_does_not_stand_in_the_way(directory: Path) -> None:
    header = read_header(directory)
    slots = tuple(replace(slot, key=replace(slot.key, salt=bytes(32))) for slot in header.slots)
    headers.write_header(directory, replace(header, revision=headers.MAX_NUMBER, slots=slots))
    restore(directory, RECOVERY)
    assert read_header(directory).slots == header.slots
    assert opens(directory, PASSPHRASE)


def test_a_volume_without_any_sound_header(directory: Path) -> None:
    (directory / HEADER_FILE).unlink()
    (directory / BACKUP_FILE).write_bytes(b"damaged")
    write_record(directory, b"damaged")
    with pytest.raises(StoreNotFoundError):
        restore(directory, PASSPHRASE)


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_what_is_no_volume(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    for command in (restore, lambda directory, by: add_passphrase(directory, by, SECOND)):
        with pytest.raises(StoreNotFoundError):
            command(tmp_path / name, PASSPHRASE)
    assert list((tmp_path / "empty").iterdir()) == []


def test_another_format_is_not_written_over(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = read_header(directory)
    with monkeypatch.context() as patch:
        patch.setattr(headers, "FORMAT_VERSION", records.FORMAT_VERSION + 1)
        headers.write_header(directory, header)
    before = (directory / HEADER_FILE).read_bytes()
    for command in (restore, lambda directory, by: add_passphrase(directory, by, SECOND)):
        with pytest.raises(FormatVersionError):
            command(directory, PASSPHRASE)
    assert (directory / HEADER_FILE).read_bytes() == before


# Backups in a file


def test_a_backup_comes_back_as_the_latest(directory: Path, tmp_path: Path) -> None:
    file = tmp_path / "backup"
    assert back_up(directory, file) == read_header(directory)
    assert file.stat().st_mode & 0o077 == 0
    change_passphrase(directory, PASSPHRASE, SECOND)
    restored = restore(directory, PASSPHRASE, file)
    assert restored.changed
    assert restored.header.revision == 3
    assert opens(directory, PASSPHRASE) and not opens(directory, SECOND)
    assert not restore(directory, PASSPHRASE, file).changed


def test_a_backup_overwrites_nothing(directory: Path, tmp_path: Path) -> None:
    for place in (tmp_path, directory / HEADER_FILE, tmp_path / "no" / "file"):
        with pytest.raises(UsageError):
            back_up(directory, place)
    assert opens(directory, PASSPHRASE)


def test_the_backup_of_another_volume_is_refused(directory: Path, tmp_path: Path) -> None:
    create_volume(tmp_path / "other", PASSPHRASE, Config(Policy.OFF, ""), CHEAP)
    back_up(tmp_path / "other", tmp_path / "backup")
    before = (directory / HEADER_FILE).read_bytes()
    with pytest.raises(UsageError, match="another volume"):
        restore(directory, PASSPHRASE, tmp_path / "backup")
    assert (directory / HEADER_FILE).read_bytes() == before


def test_a_backup_that_does_not_open_or_is_none_is_refused(directory: Path, tmp_path: Path) -> None:
    back_up(directory, tmp_path / "backup")
    (tmp_path / "other").write_bytes(b"{}")
    (tmp_path / "link").symlink_to("backup")
    before = (directory / HEADER_FILE).read_bytes()
    for name, failure in (
        ("backup", WrongKeyError),
        ("link", WrongKeyError),
        ("other", IntegrityError),
        ("no", UsageError),
    ):
        with pytest.raises(failure):
            restore(directory, b"wrong", tmp_path / name)
    assert (directory / HEADER_FILE).read_bytes() == before


def test_a_database_with_damaged_records_still_tells_its_key(directory: Path, tmp_path: Path) -> None:
    back_up(directory, tmp_path / "backup")
    engine = LmdbEngine(directory, [table.name for table in records.TABLES])
    engine.apply([(records.VOLUME.name, b"aaa%d" % number, b"damaged") for number in range(20)])
    engine.close()
    (directory / HEADER_FILE).unlink()
    assert isinstance(restore(directory, RECOVERY, tmp_path / "backup").header, Header)
    assert opens(directory, PASSPHRASE)
