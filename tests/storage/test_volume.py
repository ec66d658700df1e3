"""A volume is made whole or not at all, opens with its passphrase, and has one writer."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dedupfs.errors import (
    IntegrityError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    StoreNotFoundError,
    StoreReadOnlyError,
    UsageError,
    WrongKeyError,
)
from dedupfs.model import Policy
from dedupfs.storage import header as headers
from dedupfs.storage.header import BACKUP_FILE, HEADER_FILE
from dedupfs.storage.lmdb_engine import DATA_FILE
from dedupfs.storage.records import INODES, VOLUME, Config
from dedupfs.storage.store import Store
from dedupfs.storage.volume import Volume, create_volume, keep_writers_out, lock_directory, open_volume, unlock
from tests.conftest import CHEAP, PASSPHRASE, reopen

CONFIG = Config(Policy.OFF, "Fotos 2016 \N{SNOWFLAKE}")


def committers() -> int:
    return sum(thread.name == "committer" for thread in threading.enumerate())


@pytest.mark.parametrize("policy", Policy)
def test_what_was_chosen_is_kept(tmp_path: Path, policy: Policy) -> None:
    create_volume(tmp_path / "new", PASSPHRASE, Config(policy, CONFIG.label), CHEAP)
    volume = reopen(tmp_path / "new")
    assert volume.config == Config(policy, CONFIG.label)
    volume.close()


def test_a_volume_is_four_files_for_its_owner_only(volume_directory: Path) -> None:
    assert sorted(path.name for path in volume_directory.iterdir()) == [
        DATA_FILE,
        "lock.mdb",
        HEADER_FILE,
        BACKUP_FILE,
    ]
    assert volume_directory.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in volume_directory.iterdir())


def test_an_empty_directory_becomes_a_volume(tmp_path: Path) -> None:
    create_volume(tmp_path, PASSPHRASE, CONFIG, CHEAP)
    reopen(tmp_path).close()


def test_a_directory_that_holds_something_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"photo")
    with pytest.raises(UsageError):
        create_volume(tmp_path, PASSPHRASE, CONFIG, CHEAP)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]
    assert (tmp_path / "photo.jpg").read_bytes() == b"photo"


def test_a_volume_is_not_made_over_another(volume_directory: Path) -> None:
    with pytest.raises(UsageError):
        create_volume(volume_directory, b"other", CONFIG, CHEAP)
    reopen(volume_directory).close()


def test_a_place_that_cannot_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for directory in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError):
            create_volume(directory, PASSPHRASE, CONFIG, CHEAP)


def test_a_label_that_is_no_text_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        create_volume(tmp_path / "volume", PASSPHRASE, Config(Policy.OFF, "\udcff"), CHEAP)
    assert not (tmp_path / "volume").exists()


@pytest.mark.parametrize("existed", [True, False])
@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), StoreFullError),
        (StoreError("no"), StoreError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["full", "failed", "interrupted"],
)
@pytest.mark.parametrize("where", ["header", "commit"])
def test_a_failure_leaves_nothing_behind(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    existed: bool,
    failure: BaseException,
    told: type[BaseException],
    where: str,
) -> None:
    def fail(*_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            raise failure

    directory = tmp_path / "volume"
    if existed:
        directory.mkdir()
    before = committers()
    if where == "header":
        monkeypatch.setattr(headers, "write_header", fail)
    else:
        monkeypatch.setattr(Store, "commit", fail)
    with pytest.raises(told):
        create_volume(directory, PASSPHRASE, CONFIG, CHEAP)
    monkeypatch.undo()
    assert directory.exists() == existed
    assert not existed or list(directory.iterdir()) == []
    assert committers() == before
    create_volume(directory, PASSPHRASE, CONFIG, CHEAP)


# Opening


def test_a_wrong_passphrase_does_not_open(volume_directory: Path) -> None:
    with pytest.raises(WrongKeyError):
        unlock(volume_directory, b"wrong")


def test_what_is_no_volume_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for directory in (tmp_path, tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(StoreNotFoundError):
            unlock(directory, PASSPHRASE)
    with pytest.raises(StoreError):
        open_volume(tmp_path / "missing", bytes(32))


def test_a_volume_without_its_database_is_damage(volume_directory: Path) -> None:
    (volume_directory / DATA_FILE).unlink()
    with pytest.raises(IntegrityError):
        reopen(volume_directory)
    assert not (volume_directory / DATA_FILE).exists()


def test_the_key_of_another_volume_is_damage_and_lets_go_of_everything(volume_directory: Path) -> None:
    before = committers()
    with pytest.raises(IntegrityError):
        open_volume(volume_directory, bytes(32))
    assert committers() == before
    reopen(volume_directory).close()


def test_a_volume_without_its_configuration_is_damage_and_lets_go_of_everything(volume: Volume) -> None:
    with volume.store.transaction() as transaction:
        transaction.delete(VOLUME, b"config")
    volume.store.commit()
    directory = volume.directory
    volume.close()
    before = committers()
    with pytest.raises(IntegrityError):
        reopen(directory)
    assert committers() == before
    os.close(lock_directory(directory))


def test_a_reader_reads_and_changes_nothing(volume_directory: Path) -> None:
    data = (volume_directory / DATA_FILE).read_bytes()
    reader = reopen(volume_directory, read_only=True)
    with pytest.raises(StoreReadOnlyError), reader.store.transaction() as transaction:
        transaction.put(INODES, b"key", b"value")
    reader.close()
    assert (volume_directory / DATA_FILE).read_bytes() == data


# One writer


def test_a_second_writer_is_told_who_the_first_is(volume: Volume) -> None:
    with pytest.raises(StoreLockedError, match=rf"process {os.getpid()} \("):
        lock_directory(volume.directory)


def test_a_writer_in_another_process_is_named(volume_directory: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from dedupfs.storage.volume import lock_directory\n"
        "lock_directory(Path(sys.argv[1])); print('locked', flush=True); input()"
    )
    command = [sys.executable, "-c", program, str(volume_directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "locked\n"
        with pytest.raises(StoreLockedError, match=rf"process {holder.pid} \(python"):
            reopen(volume_directory)
        reopen(volume_directory, read_only=True).close()
        holder.communicate("\n", timeout=30)
    reopen(volume_directory).close()


def test_readers_keep_out_writers_and_not_each_other(volume_directory: Path) -> None:
    readers = [keep_writers_out(volume_directory) for _ in range(2)]
    with pytest.raises(StoreLockedError, match=rf"process {os.getpid()} \("):
        reopen(volume_directory)
    for reader in readers:
        assert reader is not None
        os.close(reader)
    volume = reopen(volume_directory)
    with pytest.raises(StoreLockedError):
        keep_writers_out(volume_directory)
    volume.close()


def test_the_lock_goes_with_the_volume(volume_directory: Path) -> None:
    for _ in range(2):
        reopen(volume_directory).close()


def test_a_disk_without_locks_is_no_other_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StoreError, match="No locks") as told:
        lock_directory(tmp_path)
    assert not isinstance(told.value, StoreLockedError)
    assert keep_writers_out(tmp_path) is None
