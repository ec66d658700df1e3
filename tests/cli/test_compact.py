"""`dedupfs compact` as a person meets it: what it prints, how it ends, and that it leaves alone what it should."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from dedupfs.cli.progress import Progress
from dedupfs.storage import records
from dedupfs.storage.lmdb_engine import DATA_FILE
from dedupfs.storage.volume import lock_directory
from tests.conftest import reopen
from tests.mounting import in_process
from tests.storage.tree import Tree


@pytest.fixture
def volume_with_room(volume_directory: Path) -> Path:
    """A volume of which most has been removed."""
    volume = reopen(volume_directory)
    tree = Tree(volume)
    tree.add(b"kept", random.Random(1).randbytes(1_500_000))
    tree.add(b"removed", random.Random(2).randbytes(3_000_000))
    volume.store.commit()
    tree.remove(b"removed")
    volume.close()
    return volume_directory


def state(directory: Path) -> dict[str, Any]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "lock.mdb"}


def test_it_says_what_it_gave_back(volume_with_room: Path) -> None:
    before = (volume_with_room / DATA_FILE).stat().st_blocks * 512
    code, printed, said = in_process("compact", volume_with_room, "--json")
    after = (volume_with_room / DATA_FILE).stat().st_blocks * 512
    assert (code, said) == (0, "")
    assert json.loads(printed) == {"before_bytes": before, "after_bytes": after, "freed_bytes": before - after}
    assert before - after > 2_900_000
    code, printed, said = in_process("compact", volume_with_room)
    assert (code, printed, said) == (0, "1.5 MB on disk before, 1.5 MB now\n", "")
    code, printed, said = in_process("check", volume_with_room, "--data")
    assert (code, said) == (0, "")


def test_a_volume_in_use_is_left_alone(volume_with_room: Path) -> None:
    held = lock_directory(volume_with_room)
    before = state(volume_with_room)
    code, printed, said = in_process("compact", volume_with_room)
    os.close(held)
    assert (code, printed) == (4, "")
    assert "is in use by process" in said
    assert state(volume_with_room) == before


def test_a_damaged_volume_is_left_alone(volume_with_room: Path) -> None:
    volume = reopen(volume_with_room)
    with volume.store.engine.snapshot() as snapshot:
        chunk = next(key for key, _ in snapshot.scan(records.CHUNKS.name))
    volume.store.engine.apply([(records.CHUNKS.name, chunk, None)])
    volume.close()
    before = state(volume_with_room)
    code, printed, said = in_process("compact", volume_with_room)
    assert (code, printed, said.count("\n")) == (1, "", 1)
    assert f"nothing was changed; `dedupfs check {volume_with_room}` tells what is damaged" in said
    assert state(volume_with_room) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_it_and_changes_nothing(
    volume_with_room: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def kill(progress: Progress, done: int, total: int) -> None:
        # The first half is the copy itself, the second its comparison; both have begun when this comes.
        if total and 2 * done > total:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Progress, "show", kill)
    before = state(volume_with_room)
    assert in_process("compact", volume_with_room) == (130, "", "dedupfs: interrupted\n")
    assert state(volume_with_room) == before
    monkeypatch.undo()
    assert in_process("compact", volume_with_room)[0] == 0
