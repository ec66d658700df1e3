"""After a power cut the volume is as it was at some moment since the last fsync, and nothing in it is half there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dedupfs.errors import EntryNotFoundError, IntegrityError, StoreError, StoreFullError
from dedupfs.storage.metadata import ROOT
from tests.filesystem.core import Core, rendition_of, sketch

PHOTO = sketch(7, width_px=400, size=300_000)
COPY = sketch(7, width_px=200, coarseness=3)


def after_a_crash(directory: Path, happens: Callable[[Core], None]) -> Core:
    """Let something happen, cut the power, and return the volume as the next mount finds it."""
    core = Core(directory)
    happens(core)
    core.crash()
    return Core(directory)


def names(core: Core) -> set[bytes]:
    return {entry.name for entry in core.filesystem.list_directory(ROOT)} - {b".", b".."}


def assert_sound(core: Core) -> None:
    try:
        assert core.problems() == []
    finally:
        core.filesystem.close()


def test_what_was_fsynced_is_there(volume_directory: Path) -> None:
    core = after_a_crash(volume_directory, lambda core: void(core.put(b"photo", PHOTO, fsync=True)))
    assert core.read(b"photo") == PHOTO
    assert_sound(core)


def test_a_new_file_that_was_not_stored_is_absent_under_every_name(volume_directory: Path) -> None:
    def happens(core: Core) -> None:
        with core.pool.held():  # type: ignore[attr-defined]
            number = core.put(b"photo", PHOTO)
            core.filesystem.link(number, ROOT, b"second")
            core.filesystem.rename(ROOT, b"photo", ROOT, b"renamed")
            core.filesystem.sync()
            core.volume.store.engine.apply = _power_off  # type: ignore[method-assign]

    core = after_a_crash(volume_directory, happens)
    assert names(core) == set()
    assert core.counter("files") == 0
    assert_sound(core)


def test_an_old_file_keeps_its_bytes_until_the_new_ones_are_stored(volume_directory: Path) -> None:
    def happens(core: Core) -> None:
        core.put(b"file", b"old" * 1000, fsync=True)
        handle = core.open(b"file", writable=True)
        core.filesystem.truncate(core.filesystem.lookup(ROOT, b"file"), 0)
        core.files.write(handle, 0, b"new")
        core.filesystem.sync()

    core = after_a_crash(volume_directory, happens)
    assert core.read(b"file") == b"old" * 1000
    assert_sound(core)


@pytest.mark.parametrize("data", [b"new", PHOTO], ids=["plain", "picture"])
def test_a_file_renamed_over_another_never_leaves_neither(volume_directory: Path, data: bytes) -> None:
    def happens(core: Core) -> None:
        core.put(b"file", b"old", fsync=True)
        with core.pool.held():  # type: ignore[attr-defined]
            core.put(b"file.new", data)
            core.filesystem.rename(ROOT, b"file.new", ROOT, b"file")
            core.filesystem.sync()
            core.volume.store.engine.apply = _power_off  # type: ignore[method-assign]

    core = after_a_crash(volume_directory, happens)
    assert names(core) == {b"file"}
    assert core.read(b"file") == data
    assert_sound(core)


def test_an_empty_file_renamed_over_another_while_it_is_open_is_there(volume_directory: Path) -> None:
    def happens(core: Core) -> None:
        core.put(b"name", b"old bytes")
        core.filesystem.settle()
        core.filesystem.create(ROOT, b"new", 0o644, 0, 0)
        core.filesystem.rename(ROOT, b"new", ROOT, b"name")
        core.volume.store.commit()

    core = after_a_crash(volume_directory, happens)
    assert names(core) == {b"name"}
    assert_sound(core)


def test_a_file_that_cannot_be_stored_takes_no_other_along(
    volume_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = Core(volume_directory)
    for name in (b"damaged", b"sound"):
        _, handle = core.filesystem.create(ROOT, name, 0o644, 0, 0)
        core.files.write(handle, 0, name)
    prepare_chunk = core.volume.contents.prepare_chunk

    def refuse(data: bytes) -> object:
        if data == b"damaged":
            raise IntegrityError("damaged")
        return prepare_chunk(data)

    monkeypatch.setattr(core.volume.contents, "prepare_chunk", refuse)
    with pytest.raises(IntegrityError):
        core.filesystem.close()
    core = Core(volume_directory)
    assert names(core) == {b"sound"}
    assert core.read(b"sound") == b"sound"
    assert_sound(core)


def test_a_removed_file_that_was_open_is_gone(volume_directory: Path) -> None:
    def happens(core: Core) -> None:
        core.put(b"file", b"bytes" * 1000, fsync=True)
        core.open(b"file")
        core.filesystem.unlink(ROOT, b"file")
        core.filesystem.sync()

    core = after_a_crash(volume_directory, happens)
    assert names(core) == set()
    assert core.counter("stored_bytes") == 0
    assert_sound(core)


def test_a_decision_that_was_not_taken_is_taken_by_the_next_mount(volume_directory: Path) -> None:
    def happens(core: Core) -> None:
        core.put(b"photo", PHOTO)
        core.filesystem.settle()
        _, handle = core.filesystem.create(ROOT, b"copy", 0o644, 0, 0)
        core.files.write(handle, 0, COPY)
        core.files.fsync(handle)

    core = after_a_crash(volume_directory, happens)
    assert core.volume.contents.undecided() or core.is_rendition(b"copy")
    core.filesystem.settle()
    assert core.read(b"copy") == rendition_of(COPY)
    assert_sound(core)


def test_nothing_is_written_where_only_reading_was_asked_for(volume_directory: Path) -> None:
    first = Core(volume_directory)
    first.put(b"photo", PHOTO)
    first.filesystem.close()
    before = (volume_directory / "data.mdb").read_bytes()
    core = Core(volume_directory, read_only=True)
    assert core.read(b"photo") == PHOTO
    with pytest.raises(StoreError):
        core.open(b"photo", writable=True)
    with pytest.raises(StoreError):
        core.put(b"new", b"bytes")
    core.filesystem.close()
    assert (volume_directory / "data.mdb").read_bytes() == before


def test_a_full_disk_refuses_bytes_and_keeps_the_rest(volume_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core = Core(volume_directory)
    core.put(b"kept", PHOTO, fsync=True)
    with monkeypatch.context() as patched:
        patched.setattr(core.volume.store.engine, "free_bytes", lambda: 0)
        core.files.room._looked_up = float("-inf")
        _, handle = core.filesystem.create(ROOT, b"refused", 0o644, 0, 0)
        with pytest.raises(StoreFullError):
            core.files.write(handle, 0, b"bytes")
        core.files.release(handle)
        core.filesystem.unlink(ROOT, b"refused")
    assert core.read(b"kept") == PHOTO
    with pytest.raises(EntryNotFoundError):
        core.read(b"refused")
    core.put(b"again", COPY)
    assert_sound(core)


def void(_: object) -> None:
    """Make a statement of an expression."""


def _power_off(changes: object) -> None:
    raise ConnectionAbortedError("the power is off")
