"""The header opens with the passphrase, survives damage by its backup, and no bytes in it raise anything unforeseen."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dedupfs.crypto.keys import wrap
from dedupfs.errors import DedupfsError, FormatVersionError, IntegrityError, StoreNotFoundError, WrongKeyError
from dedupfs.storage import header as headers
from dedupfs.storage.header import BACKUP_FILE, HEADER_FILE, Header, new_header, read_header, write_header
from dedupfs.storage.records import FORMAT_VERSION
from tests.conftest import CHEAP, PASSPHRASE

Fields = dict[str, Any]


@pytest.fixture
def written(tmp_path: Path, key: bytes) -> Path:
    """A directory with a header and its backup."""
    write_header(tmp_path, new_header(key, PASSPHRASE, CHEAP))
    return tmp_path


def rewrite(directory: Path, change: Callable[[Fields], object], *, backup: bool = False) -> None:
    """Change fields of a header and put the right checksum on them, as somebody hostile would."""
    path = directory / (BACKUP_FILE if backup else HEADER_FILE)
    fields = json.loads(path.read_text())
    del fields["checksum"]
    change(fields)
    path.write_text(json.dumps({**fields, "checksum": checksum(fields)}))


def checksum(fields: Fields) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def without_backup(directory: Path) -> Path:
    (directory / BACKUP_FILE).unlink()
    return directory


def test_round_trip(written: Path, key: bytes) -> None:
    assert read_header(written).unlock(PASSPHRASE) == key
    assert read_header(written) == read_header(written)


def test_a_wrong_passphrase_is_told_from_damage(written: Path) -> None:
    with pytest.raises(WrongKeyError):
        read_header(written).unlock(b"wrong")


def test_every_slot_opens(written: Path, key: bytes) -> None:
    header = read_header(written)
    second = wrap(key, b"second", header.volume_id, CHEAP)
    write_header(written, replace(header, slots=(*header.slots, second)))
    assert read_header(written).unlock(PASSPHRASE) == read_header(written).unlock(b"second") == key


def test_the_previous_header_is_kept(written: Path) -> None:
    first = read_header(written)
    second = replace(first, volume_id=b"2" * 16)
    write_header(written, second)
    assert read_header(written) == second
    (written / HEADER_FILE).unlink()
    assert read_header(written) == first


def test_header_and_backup_are_for_their_owner_only(written: Path) -> None:
    assert sorted(path.name for path in written.iterdir()) == [HEADER_FILE, BACKUP_FILE]
    assert all(path.stat().st_mode & 0o077 == 0 for path in written.iterdir())


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut short": lambda data: data[: len(data) // 2],
    "a digit changed": lambda data: data.replace(b'"r": 8', b'"r": 9'),
    "a salt changed": lambda data: data.replace(b'"salt": "', b'"salt": "00'),
    "no text": lambda data: b"\xff\xfe" + data,
    "not an object": lambda data: b"[1, 2, 3]",
    "deep": lambda data: b"[" * 100_000,
    "long": lambda data: data + b" " * (1 << 20),
    "other file": lambda data: b'{"name": "something"}',
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_header_is_replaced_by_its_backup(
    written: Path, key: bytes, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    path = written / HEADER_FILE
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert read_header(written).unlock(PASSPHRASE) == key
    assert BACKUP_FILE in caplog.text


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("backup", ["missing", "damaged"])
def test_a_damaged_header_without_a_sound_backup_is_damage(
    written: Path, damage: Callable[[bytes], bytes], backup: str
) -> None:
    path = written / HEADER_FILE
    path.write_bytes(damage(path.read_bytes()))
    if backup == "missing":
        without_backup(written)
    else:
        (written / BACKUP_FILE).write_bytes(b"{}")
    with pytest.raises(IntegrityError):
        read_header(written)


def test_a_missing_header_is_replaced_by_its_backup(written: Path, key: bytes) -> None:
    (written / HEADER_FILE).unlink()
    assert read_header(written).unlock(PASSPHRASE) == key


def test_no_header_at_all_is_no_volume(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "missing"):
        with pytest.raises(StoreNotFoundError):
            read_header(directory)


def test_writing_over_a_damaged_header_keeps_the_sound_backup_until_the_end(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = read_header(written)
    (written / HEADER_FILE).write_bytes(b"damaged")
    replace_file, count = headers._replace, 0

    def crash_at_the_second(path: Path, data: bytes) -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise OSError("crashed")
        replace_file(path, data)

    monkeypatch.setattr(headers, "_replace", crash_at_the_second)
    with pytest.raises(OSError, match="crashed"):
        write_header(written, header)
    monkeypatch.undo()
    assert read_header(written) == header
    write_header(written, header)
    (written / HEADER_FILE).unlink()
    assert read_header(written) == header


@pytest.mark.parametrize("version", [0, FORMAT_VERSION + 1, 10**6])
def test_an_unknown_format_version_is_told_and_no_older_backup_is_taken(written: Path, version: int) -> None:
    rewrite(written, lambda fields: fields.update(format_version=version))
    with pytest.raises(FormatVersionError, match=str(version)):
        read_header(written)


HOSTILE: dict[str, Callable[[Fields], object]] = {
    "no slots": lambda fields: fields.update(slots=[]),
    "many slots": lambda fields: fields.update(slots=fields["slots"] * 65),
    "slots as text": lambda fields: fields.update(slots="abc"),
    "slots as a number": lambda fields: fields.update(slots=3),
    "slots by name": lambda fields: fields.update(slots={"a": 1}),
    "another kdf": lambda fields: fields["slots"][0].update(kdf="md5"),
    "salt as a number": lambda fields: fields["slots"][0].update(salt=7),
    "salt of letters": lambda fields: fields["slots"][0].update(salt="xyz"),
    "no cost": lambda fields: fields["slots"][0].pop("n"),
    "cost of a list": lambda fields: fields["slots"][0].update(n=[]),
    "infinite cost": lambda fields: fields["slots"][0].update(n=float("inf")),
    "no number": lambda fields: fields["slots"][0].update(n=float("nan")),
    "negative cost": lambda fields: fields["slots"][0].update(r=-8),
    "absurd cost": lambda fields: fields["slots"][0].update(n=2**40),
    "cost that scrypt refuses": lambda fields: fields["slots"][0].update(n=2**17, r=1),
    "lanes that scrypt refuses": lambda fields: fields["slots"][0].update(n=2, r=2**22, p=2),
    "id of letters": lambda fields: fields.update(volume_id="no hex"),
    "id as a list": lambda fields: fields.update(volume_id=[1]),
    "another magic": lambda fields: fields.update(magic="other"),
    "version as text": lambda fields: fields.update(format_version="1"),
    "version as a fraction": lambda fields: fields.update(format_version=1.5),
    "no version": lambda fields: fields.pop("format_version"),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_hostile_fields_are_damage(written: Path, change: Callable[[Fields], object]) -> None:
    rewrite(without_backup(written), change)
    with pytest.raises(IntegrityError):
        read_header(written).unlock(PASSPHRASE)


@pytest.mark.parametrize("field", ["salt", "wrapped"])
@pytest.mark.parametrize("value", ["", "00"])
def test_a_slot_without_substance_does_not_open(written: Path, field: str, value: str) -> None:
    rewrite(without_backup(written), lambda fields: fields["slots"][0].update({field: value}))
    with pytest.raises(WrongKeyError):
        read_header(written).unlock(PASSPHRASE)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
slots = st.fixed_dictionaries(
    {
        "kdf": st.just("scrypt"),
        "n": json_values | st.sampled_from([2, 1024]),
        "r": json_values | st.just(1),
        "p": json_values | st.just(1),
        "salt": json_values | st.just("00"),
        "wrapped": json_values | st.just("00" * 41),
    }
)
almost_headers = st.fixed_dictionaries(
    {
        "magic": st.just("dedupfs") | json_values,
        "format_version": st.just(1) | json_values,
        "volume_id": st.just("00" * 16) | json_values,
        "slots": st.lists(slots, max_size=2) | json_values,
    }
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
@example(data=b'{"checksum": 1}')
@example(data=b"\xef\xbb\xbf{}")
@example(data=b"9" * 5000)
def test_arbitrary_bytes_raise_our_errors_only(tmp_path: Path, data: bytes) -> None:
    (tmp_path / HEADER_FILE).write_bytes(data)
    with pytest.raises(DedupfsError):
        read_header(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(fields=almost_headers)
def test_arbitrary_fields_raise_our_errors_only(tmp_path: Path, fields: Fields) -> None:
    (tmp_path / HEADER_FILE).write_text(json.dumps({**fields, "checksum": checksum(fields)}))
    with pytest.raises(DedupfsError):
        read_header(tmp_path).unlock(PASSPHRASE)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_changed_byte_never_gives_another_header(written: Path, at: int, value: int) -> None:
    sound = (written / BACKUP_FILE).read_bytes()
    changed = bytearray(sound)
    changed[at % len(sound)] = value
    alone = written / "alone"
    alone.mkdir(exist_ok=True)
    (alone / HEADER_FILE).write_bytes(changed)
    try:
        found = read_header(alone)
    except (IntegrityError, FormatVersionError):
        return
    assert found == read_header(written)


def test_a_header_says_nothing_of_the_volume(written: Path) -> None:
    fields = json.loads((written / HEADER_FILE).read_text())
    assert set(fields) == {"magic", "format_version", "volume_id", "slots", "checksum"}
    assert isinstance(read_header(written), Header)
