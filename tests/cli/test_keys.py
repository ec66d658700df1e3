"""The commands that change who can open a volume, as people and scripts give them."""

from __future__ import annotations

import json
import os
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dedupfs.cli import passphrase as passphrases
from dedupfs.cli.main import main
from dedupfs.crypto import recovery
from dedupfs.storage import keyslots
from dedupfs.storage import volume as volumes
from dedupfs.storage.header import read_header
from tests.cli.test_commands import fails, on_a_terminal, prints
from tests.conftest import CHEAP, PASSPHRASE
from tests.mounting import MountedVolume, dedupfs, mark_fuse, without_passphrase

FUSE, NEEDS_FUSE = mark_fuse()
NEW = "new passphrase"


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Key slots cost nothing in commands that run here; DEDUPFS_PASSPHRASE opens the volume."""
    monkeypatch.setattr(volumes, "ScryptCost", lambda: CHEAP)
    monkeypatch.setattr(keyslots, "ScryptCost", lambda: CHEAP)
    monkeypatch.setenv(passphrases.ENVIRONMENT_VARIABLE, os.fsdecode(PASSPHRASE))


@pytest.fixture
def new_file(tmp_path: Path) -> Path:
    file = tmp_path / "new passphrase"
    file.touch(0o600)
    file.write_text(NEW + "\n")
    return file


def slots(capsys: pytest.CaptureFixture[str], volume: Path) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(prints(capsys, "key", "list", volume, "--json"))
    return listed


def opens(capsys: pytest.CaptureFixture[str], volume: Path, passphrase: str) -> bool:
    code = main(["stats", str(volume), "--passphrase-command", f"printf '%s' '{passphrase}'"])
    capsys.readouterr()
    return code == 0


# init


def test_what_init_prints_opens_the_volume_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volume, file = tmp_path / "volume", tmp_path / "key"
    file.touch(0o600)
    file.write_text(prints(capsys, "init", volume))
    prints(capsys, "stats", volume, "--passphrase-file", file)
    file.write_text(file.read_text().replace("-", "\n").lower())
    prints(capsys, "stats", volume, "--passphrase-file", file)
    assert opens(capsys, volume, file.read_text())


def test_init_without_a_recovery_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volume = tmp_path / "volume"
    assert str(volume) in prints(capsys, "init", volume, "--no-recovery-key")
    assert [slot["kind"] for slot in slots(capsys, volume)] == ["passphrase"]
    made = json.loads(prints(capsys, "init", tmp_path / "other", "--no-recovery-key", "--json"))
    assert made == {"volume": str(tmp_path / "other"), "recovery_key": None}


def test_init_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = json.loads(prints(capsys, "init", tmp_path / "volume", "--json"))
    assert made["volume"] == str(tmp_path / "volume")
    assert opens(capsys, tmp_path / "volume", made["recovery_key"])


def test_init_tells_a_person_what_the_recovery_key_is(tmp_path: Path) -> None:
    code, shown = on_a_terminal([b"one", b"one"], "init", tmp_path / "volume")
    assert code == 0
    assert b"recovery key" in shown
    assert recovery.decode(shown.splitlines()[-1]) is not None


# key


def test_slots_are_listed_without_a_passphrase(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prints(capsys, "init", tmp_path / "volume")
    monkeypatch.delenv(passphrases.ENVIRONMENT_VARIABLE)
    listed = slots(capsys, tmp_path / "volume")
    assert [(slot["slot"], slot["kind"], slot["label"]) for slot in listed] == [
        (1, "passphrase", ""),
        (2, "recovery", ""),
    ]
    age = datetime.now(UTC) - datetime.fromisoformat(listed[0]["created"])
    assert timedelta(0) <= age < timedelta(minutes=5)
    text = prints(capsys, "key", "list", tmp_path / "volume")
    assert text.splitlines()[1] == f"   1  passphrase  {listed[0]['created'][:10]}"


def test_a_passphrase_is_added_changed_and_removed(
    volume_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], new_file: Path
) -> None:
    volume = volume_directory
    prints(capsys, "key", "add", volume, "--new-passphrase-file", new_file, "--label", "laptop")
    assert opens(capsys, volume, NEW) and opens(capsys, volume, PASSPHRASE.decode())
    assert [slot["label"] for slot in slots(capsys, volume)] == ["", "laptop"]
    as_new = ("--passphrase-file", new_file)
    prints(capsys, "key", "change", volume, *as_new, "--new-passphrase-command", "echo newer")
    assert opens(capsys, volume, "newer") and not opens(capsys, volume, NEW)
    removed = json.loads(prints(capsys, "key", "remove", volume, "2", "--json"))
    assert (removed["slot"], removed["label"]) == (2, "laptop")
    assert not opens(capsys, volume, "newer")
    assert "last" in fails(capsys, "key", "remove", volume, "1")[1]


def test_a_slot_is_removed_by_what_opens_it(
    volume_directory: Path, capsys: pytest.CaptureFixture[str], new_file: Path
) -> None:
    prints(capsys, "key", "add", volume_directory, "--new-passphrase-file", new_file)
    code, said = fails(capsys, "key", "remove", volume_directory, "--old-passphrase-command", "echo wrong")
    assert code == 3
    assert "nothing to remove" in said
    prints(capsys, "key", "remove", volume_directory, "--old-passphrase-file", new_file)
    assert not opens(capsys, volume_directory, NEW)


def test_recovery_keys_on_demand(volume_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = prints(capsys, "key", "add", volume_directory, "--recovery", "--label", "safe")
    assert opens(capsys, volume_directory, first)
    second = prints(capsys, "key", "change", volume_directory, "2")
    assert opens(capsys, volume_directory, second) and not opens(capsys, volume_directory, first)
    third = json.loads(prints(capsys, "key", "change", volume_directory, "2", "--json"))
    assert (third["slot"], third["kind"], third["label"]) == (2, "recovery", "safe")
    assert opens(capsys, volume_directory, third["recovery_key"])
    prints(capsys, "key", "remove", volume_directory, "2")
    assert not opens(capsys, volume_directory, third["recovery_key"])


def test_a_forgotten_passphrase_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str], new_file: Path) -> None:
    volume, paper = tmp_path / "volume", tmp_path / "paper"
    paper.touch(0o600)
    paper.write_text(prints(capsys, "init", volume))
    by = ("--passphrase-file", paper, "--new-passphrase-file", new_file)
    assert fails(capsys, "key", "change", volume, *by)[0] == 2
    prints(capsys, "key", "change", volume, "1", *by)
    assert opens(capsys, volume, NEW) and not opens(capsys, volume, PASSPHRASE.decode())


def test_a_mistyped_recovery_key_is_a_wrong_passphrase_with_a_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = prints(capsys, "init", tmp_path / "volume").strip()
    typed = ("0" if text[0] != "0" else "1") + text[1:]
    code, said = fails(capsys, "stats", tmp_path / "volume", "--passphrase-command", f"echo {typed}")
    assert code == 3
    assert "groups 1 to 4" in said


@pytest.mark.parametrize(
    "arguments", [["add"], ["change"], ["remove"], ["add", "--recovery", "--label", "a\nb"], ["remove", "7"]]
)
def test_without_a_source_or_sense_it_is_a_usage_error(volume_directory: Path, arguments: list[str]) -> None:
    action, *rest = arguments
    before = (volume_directory / "volume.json").read_bytes()
    environment = without_passphrase() | {"DEDUPFS_PASSPHRASE": os.fsdecode(PASSPHRASE)}
    done = dedupfs("key", action, volume_directory, *rest, environment=environment)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert (volume_directory / "volume.json").read_bytes() == before


def test_a_new_passphrase_is_asked_for_twice_after_the_old_one(volume_directory: Path) -> None:
    answers = [PASSPHRASE, b"one", b"another"]
    code, shown = on_a_terminal(answers, "key", "add", volume_directory)
    assert (code, b"New passphrase again: " in shown, b"differ" in shown) == (2, True, True)
    code, shown = on_a_terminal([PASSPHRASE, b"one", b"one"], "key", "add", volume_directory)
    assert code == 0, shown
    code, shown = on_a_terminal([b"one", PASSPHRASE], "key", "remove", volume_directory)
    assert code == 0, shown
    assert shown.startswith(b"Passphrase to remove: ")
    assert len(read_header(volume_directory).slots) == 1


def test_a_pipe_that_stays_open_gives_a_passphrase(
    volume_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    descriptor = os.open(tmp_path / "pipe", os.O_RDWR)
    try:
        os.write(descriptor, PASSPHRASE + b"\n")
        started = time.monotonic()
        prints(capsys, "stats", volume_directory, "--passphrase-file", tmp_path / "pipe")
        assert time.monotonic() - started < 30
    finally:
        os.close(descriptor)


# header


def test_a_header_is_backed_up_and_restored(
    volume_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], new_file: Path
) -> None:
    volume, file = volume_directory, tmp_path / "backup"
    prints(capsys, "header", "backup", volume, file)
    assert fails(capsys, "header", "backup", volume, file)[0] == 2
    prints(capsys, "key", "change", volume, "--new-passphrase-file", new_file)
    restored = json.loads(prints(capsys, "header", "restore", volume, file, "--json"))
    assert restored == {"changed": True, "revision": 3, "slots": 1}
    assert opens(capsys, volume, PASSPHRASE.decode())


@FUSE
@NEEDS_FUSE
def test_with_nothing_but_the_database_and_the_recovery_key_nothing_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole way: photos in a mounted volume, keys changed while it is mounted, everything else lost."""
    volume, paper = tmp_path / "volume", tmp_path / "paper"
    prints(capsys, "init", volume, "--no-recovery-key")
    mounted = MountedVolume(volume, tmp_path / "mount", tmp_path / "log")
    try:
        mounted.mount()
        (mounted.path / "before").write_bytes(b"before")
        paper.touch(0o600)
        paper.write_text(prints(capsys, "key", "add", mounted.path, "--recovery"))
        (mounted.path / "after").write_bytes(b"after")
        mounted.umount()
        (tmp_path / "rescued").mkdir()
        shutil.copy(volume / "data.mdb", tmp_path / "rescued" / "data.mdb")
        shutil.rmtree(volume)
        os.rename(tmp_path / "rescued", volume)
        code, said = fails(capsys, "stats", volume)
        assert code == 5
        assert "header restore" in said
        prints(capsys, "header", "restore", volume, "--passphrase-file", paper)
        assert json.loads(prints(capsys, "check", volume, "--data", "--json"))["clean"]
        mounted.mount()
        assert (mounted.path / "before").read_bytes() == b"before"
        assert (mounted.path / "after").read_bytes() == b"after"
        mounted.umount()
    finally:
        mounted.destroy()
    assert mounted.unexpected_messages() == []


@pytest.mark.parametrize("kind", ["deep", "huge number", "no text", "pipe", "directory", "link", "long"])
def test_a_hostile_header_is_one_line(volume_directory: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    header = volume_directory / "volume.json"
    header.unlink()
    (volume_directory / "volume.json.bak").unlink()
    texts = {
        "deep": b"[" * 60_000,
        "huge number": b'{"checksum": ' + b"9" * 60_000 + b"}",
        "no text": b"\xff\xfe\x00\xd8" * 100,
        "long": b" " * (1 << 22),
    }
    if kind in texts:
        header.write_bytes(texts[kind])
    elif kind == "pipe":
        os.mkfifo(header)
    elif kind == "directory":
        header.mkdir()
    else:
        header.symlink_to("/dev/zero")
    for command in (["stats"], ["key", "list"], ["key", "add", "--recovery"]):
        assert "damaged" in fails(capsys, *command, volume_directory)[1]
