"""The header opens with the passphrase, survives damage by its backup, and no bytes in it raise anything unforeseen."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dedupfs.crypto import keys, recovery
from dedupfs.crypto.keys import KeySlot, ScryptCost, wrap
from dedupfs.errors import DedupfsError, FormatVersionError, IntegrityError, StoreNotFoundError, WrongKeyError
from dedupfs.storage import header as headers
from dedupfs.storage.header import (
    BACKUP_FILE,
    HEADER_FILE,
    MAX_SLOTS,
    Header,
    Slot,
    new_header,
    parse,
    read_header,
    serialise,
    write_header,
)
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
    path.write_bytes(as_text(fields))


def as_text(fields: Fields) -> bytes:
    """Write fields down as a header does, so that only what they say can be refused."""
    return (json.dumps({**fields, "checksum": checksum(fields)}, indent=2) + "\n").encode()


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
    second = Slot(2, "second", 0, wrap(key, b"second", header.volume_id, CHEAP))
    write_header(written, replace(header, slots=(*header.slots, second)))
    assert read_header(written).unlock(PASSPHRASE) == read_header(written).unlock(b"second") == key


def test_the_backup_is_alike_so_that_no_removed_slot_lives_on_in_it(written: Path) -> None:
    first = read_header(written)
    second = replace(first, revision=2)
    write_header(written, second)
    assert read_header(written) == second
    (written / HEADER_FILE).unlink()
    assert read_header(written) == second


@pytest.mark.parametrize("damaged", [None, HEADER_FILE, BACKUP_FILE])
def test_whenever_writing_is_cut_short_a_whole_header_is_there(
    written: Path, monkeypatch: pytest.MonkeyPatch, damaged: str | None
) -> None:
    old = read_header(written)
    new = replace(old, revision=2)
    if damaged is not None:
        (written / damaged).write_bytes(b"damaged")
    reached = 0
    for call in ("open", "fsync", "replace", "close"):
        original = getattr(os, call)
        for count in range(1, 20):
            left = count

            def crash(*arguments: Any, _call: Callable[..., Any] = original, **named: Any) -> Any:
                nonlocal left
                left -= 1
                if not left:
                    raise OSError("crashed")
                return _call(*arguments, **named)

            with monkeypatch.context() as patch:
                patch.setattr(os, call, crash)
                try:
                    write_header(written, new)
                except OSError:
                    reached += 1
                else:
                    break
            assert read_header(written) in (old, new)
    assert reached > 10
    assert read_header(written) == new


def test_header_and_backup_are_for_their_owner_only(written: Path) -> None:
    assert sorted(path.name for path in written.iterdir()) == [HEADER_FILE, BACKUP_FILE]
    assert all(path.stat().st_mode & 0o077 == 0 for path in written.iterdir())


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut short": lambda data: data[: len(data) // 2],
    "a digit changed": lambda data: data.replace(b'"r": 8', b'"r": 9'),
    "a digit of the version changed": lambda data: data.replace(
        b'"format_version": %d' % FORMAT_VERSION, b'"format_version": %d' % (FORMAT_VERSION + 1)
    ),
    "written in another way": lambda data: json.dumps(json.loads(data)).encode(),
    "said twice": lambda data: data.replace(b'"revision": 1,', b'"revision": 1,\n  "revision": 1,'),
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


@pytest.mark.parametrize("version", [0, 1, FORMAT_VERSION - 1, FORMAT_VERSION + 1, 10**6])
def test_an_unknown_format_version_is_told_and_no_older_backup_is_taken(written: Path, version: int) -> None:
    rewrite(written, lambda fields: fields.update(format_version=version))
    with pytest.raises(FormatVersionError, match=str(version)):
        read_header(written)


HOSTILE: dict[str, Callable[[Fields], object]] = {
    "no slots": lambda fields: fields.update(slots=[]),
    "many slots": lambda fields: fields.update(
        slots=[{**fields["slots"][0], "number": number} for number in range(1, MAX_SLOTS + 2)]
    ),
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
    "cost as a fraction": lambda fields: fields["slots"][0].update(n=1024.0),
    "cost as true": lambda fields: fields["slots"][0].update(p=True),
    "absurd cost in all": lambda fields: fields.update(
        slots=[{**fields["slots"][0], "number": number, "n": 2**19, "p": 4} for number in range(1, MAX_SLOTS + 1)]
    ),
    "one slot twice": lambda fields: fields.update(slots=fields["slots"] * 2),
    "another kind": lambda fields: fields["slots"][0].update(kind="recovery"),
    "unknown kind": lambda fields: fields["slots"][0].update(kind="fingerprint"),
    "more in a slot": lambda fields: fields["slots"][0].update(more=1),
    "more in the header": lambda fields: fields.update(more=1),
    "label that moves the cursor": lambda fields: fields["slots"][0].update(label="\x1b[2J"),
    "label over lines": lambda fields: fields["slots"][0].update(label="a\nb"),
    "label from right to left": lambda fields: fields["slots"][0].update(label="\u202eabc"),
    "half a character": lambda fields: fields["slots"][0].update(label="\ud800"),
    "long label": lambda fields: fields["slots"][0].update(label="a" * 65),
    "label as a number": lambda fields: fields["slots"][0].update(label=7),
    "slot zero": lambda fields: fields["slots"][0].update(number=0),
    "huge slot": lambda fields: fields["slots"][0].update(number=2**32),
    "year 10000": lambda fields: fields["slots"][0].update(created_s=253402300800),
    "before 1970": lambda fields: fields["slots"][0].update(created_s=-1),
    "no revision": lambda fields: fields.pop("revision"),
    "revision zero": lambda fields: fields.update(revision=0),
    "huge revision": lambda fields: fields.update(revision=2**32),
    "short id": lambda fields: fields.update(volume_id="00" * 15),
    "empty salt": lambda fields: fields["slots"][0].update(salt=""),
    "long salt": lambda fields: fields["slots"][0].update(salt="00" * 33),
    "short wrapped": lambda fields: fields["slots"][0].update(wrapped="00"),
    "salt in capitals": lambda fields: fields["slots"][0].update(salt="AB" * 32),
    "version as a fraction": lambda fields: fields.update(format_version=1.5),
    "no version": lambda fields: fields.pop("format_version"),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_hostile_fields_are_damage(written: Path, change: Callable[[Fields], object]) -> None:
    rewrite(without_backup(written), change)
    with pytest.raises(IntegrityError):
        read_header(written).unlock(PASSPHRASE)


def test_the_fields_that_are_made_hostile_are_sound_otherwise(written: Path, key: bytes) -> None:
    """What the tests above refuse is refused for what was changed in it, and not for how it was written."""
    rewrite(without_backup(written), lambda fields: fields["slots"][0].update(label="laptop \N{SNOWFLAKE}"))
    assert read_header(written).unlock(PASSPHRASE) == key
    assert read_header(written).slots[0].label == "laptop \N{SNOWFLAKE}"


@pytest.mark.parametrize("backup", [False, True])
@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "directory", "device"])
def test_what_is_no_file_is_damage_and_hangs_nobody(written: Path, key: bytes, kind: str, backup: bool) -> None:
    path = written / HEADER_FILE
    path.unlink()
    if kind == "link":
        path.symlink_to(BACKUP_FILE)
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    if backup:
        assert read_header(written).unlock(PASSPHRASE) == key
        return
    without_backup(written)
    with pytest.raises(IntegrityError, match="not a regular file"):
        read_header(written)


def test_nothing_is_written_through_a_link(written: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    victim = tmp_path_factory.mktemp("elsewhere") / "victim"
    victim.write_bytes(b"mine")
    for name in (HEADER_FILE, BACKUP_FILE, HEADER_FILE + ".new", BACKUP_FILE + ".new"):
        header = read_header(written)
        (written / name).unlink(missing_ok=True)
        (written / name).symlink_to(victim)
        write_header(written, header)
        assert victim.read_bytes() == b"mine"
        assert not (written / name).is_symlink()
        assert read_header(written) == header


def test_an_endless_file_is_read_no_further_than_a_header_is_long(tmp_path: Path) -> None:
    with (tmp_path / HEADER_FILE).open("wb") as file:
        file.truncate(1 << 40)
    started = time.monotonic()
    with pytest.raises(IntegrityError, match="too long"):
        read_header(tmp_path)
    assert time.monotonic() - started < 5


def test_all_slots_together_cost_no_more_than_one_may(key: bytes) -> None:
    """Whatever is accepted, a wrong passphrase is refused after a bounded amount of work."""
    slot = KeySlot(ScryptCost(2**17, 8, 1), bytes(32), bytes(73))
    most = ScryptCost.WORK_LIMIT // slot.cost.work if slot.cost else 0
    slots = tuple(Slot(number + 1, "", 0, slot) for number in range(most))
    assert Header(bytes(16), 1, slots).work == ScryptCost.WORK_LIMIT
    with pytest.raises(IntegrityError, match="too long"):
        Header(bytes(16), 1, (*slots, Slot(most + 1, "", 0, slot)))


# Recovery keys


def test_a_recovery_key_opens_in_whatever_form(key: bytes) -> None:
    secret = recovery.new_secret()
    header = new_header(key, PASSPHRASE, CHEAP, secret)
    text = recovery.encode(secret)
    for form in (text, text.lower(), text.replace("-", ""), text.replace("-", "\n"), f"  {text} "):
        slot, found = header.find(form.encode())
        assert (slot.number, found) == (2, key)
    assert header.unlock(PASSPHRASE) == key


def test_a_mistyped_recovery_key_is_told_from_one_of_another_volume(key: bytes) -> None:
    secret = recovery.new_secret()
    header = new_header(key, PASSPHRASE, CHEAP, secret)
    typed = recovery.encode(secret)
    wrong = typed[:-1] + ("0" if typed[-1] != "0" else "1")
    with pytest.raises(WrongKeyError, match=r"typing error in groups 13 to 16"):
        header.unlock(wrong.encode())
    with pytest.raises(WrongKeyError, match="another volume"):
        header.unlock(recovery.encode(recovery.new_secret()).encode())
    with pytest.raises(WrongKeyError, match=r"^wrong passphrase$"):
        header.unlock(b"wrong")


def test_a_passphrase_that_looks_like_a_mistyped_recovery_key_opens(key: bytes) -> None:
    passphrase = b"0123456789abcdef" * 4
    assert new_header(key, passphrase, CHEAP).unlock(passphrase) == key


# Properties

labels = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), max_size=64).filter(headers.is_label)
key_slots = st.builds(
    KeySlot,
    st.none() | st.builds(ScryptCost, st.sampled_from([2, 2**10, 2**17]), st.integers(2, 16), st.integers(1, 2)),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=keys.WRAPPED_BYTES, max_size=keys.WRAPPED_BYTES),
)
sound_headers = st.builds(
    Header,
    st.binary(min_size=16, max_size=16),
    st.integers(1, 2**32 - 1),
    st.lists(
        st.builds(Slot, st.integers(1, 2**32 - 1), labels, st.integers(0, 2**32 - 1), key_slots),
        min_size=1,
        max_size=4,
        unique_by=lambda slot: slot.number,
    ).map(tuple),
)


@given(sound_headers)
def test_what_is_written_is_read(header: Header) -> None:
    text = serialise(header)
    assert parse(text) == header
    assert len(text) < headers.MAX_HEADER_BYTES


def test_the_longest_header_is_short_enough() -> None:
    slot = KeySlot(ScryptCost(2**10, 8, 1), bytes(32), bytes(keys.WRAPPED_BYTES))
    slots = tuple(Slot(2**32 - 1 - number, "\U0001f600" * 64, 2**32 - 1, slot) for number in range(MAX_SLOTS))
    text = serialise(Header(bytes(16), 2**32 - 1, slots))
    assert len(text) * 3 // 2 < headers.MAX_HEADER_BYTES
    assert parse(text).slots == slots


@given(sound_headers, st.data())
def test_bytes_that_are_read_are_written_alike(header: Header, data: st.DataObject) -> None:
    """There is one text for a header: a changed byte is another header, which the checksum rules out, or damage."""
    text = bytearray(serialise(header))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 1))] = data.draw(st.binary(max_size=2))
    if bytes(text) == serialise(header):
        return
    with pytest.raises(IntegrityError):
        parse(bytes(text))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
slots = st.fixed_dictionaries(
    {
        "number": json_values | st.just(1),
        "kind": st.just("passphrase") | json_values,
        "label": st.just("") | json_values,
        "created_s": st.just(0) | json_values,
        "kdf": st.just("scrypt"),
        "n": json_values | st.sampled_from([2, 1024]),
        "r": json_values | st.just(1),
        "p": json_values | st.just(1),
        "salt": json_values | st.just("00" * 32),
        "wrapped": json_values | st.just("00" * 73),
    }
)
almost_headers = st.fixed_dictionaries(
    {
        "magic": st.just("dedupfs") | json_values,
        "format_version": st.just(FORMAT_VERSION) | json_values,
        "volume_id": st.just("00" * 16) | json_values,
        "revision": st.just(1) | json_values,
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
    (tmp_path / HEADER_FILE).write_bytes(as_text(fields))
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
    except IntegrityError:
        return
    assert found == read_header(written)


def test_a_header_says_nothing_of_the_volume(written: Path) -> None:
    fields = json.loads((written / HEADER_FILE).read_text())
    assert set(fields) == {"magic", "format_version", "volume_id", "revision", "slots", "checksum"}
    assert isinstance(read_header(written), Header)
