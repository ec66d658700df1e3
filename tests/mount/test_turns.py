"""Who receives requests: one thread while it is quick, another when it is not, and nobody at the end."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from dedupfs.mount.turns import Turn, Turns
from tests.ingest.drawing import encoded, photo
from tests.mounting import MountedVolume, in_process, mark_fuse

PATIENCE_SECONDS = 20.0


@pytest.fixture
def turns() -> Iterator[Turns]:
    made = Turns()
    made.start()
    yield made
    made.end()


class Waiting:
    """A thread that waits for its turn."""

    def __init__(self, turns: Turns) -> None:
        self.turn: Turn | None = None
        self._thread = threading.Thread(target=self._take, args=(turns,), daemon=True)
        self._thread.start()

    def _take(self, turns: Turns) -> None:
        self.turn = turns.take()

    def is_through(self, seconds: float = PATIENCE_SECONDS) -> bool:
        self._thread.join(seconds)
        return not self._thread.is_alive()


def first(turns: Turns) -> Turn:
    turn = turns.take()
    assert turn is not None
    return turn


def test_whoever_has_the_turn_keeps_it(turns: Turns) -> None:
    turn = first(turns)
    other = Waiting(turns)
    for _ in range(50):
        turns.begin(turn)
        turn.busy = False
        time.sleep(0.001)
    assert turns.lasts(turn)
    assert not other.is_through(0.0)


def test_who_only_waits_for_a_request_keeps_it_too(turns: Turns) -> None:
    turn = first(turns)
    turns.begin(turn)
    turn.busy = False
    assert not Waiting(turns).is_through(0.4)
    assert turns.lasts(turn)


def test_it_is_given_up(turns: Turns) -> None:
    turn = first(turns)
    other = Waiting(turns)
    turns.give_up(turn)
    assert other.is_through()
    assert other.turn is not None
    assert turns.lasts(other.turn)
    assert not turns.lasts(turn)


def test_one_who_has_lost_it_cannot_give_up_that_of_another(turns: Turns) -> None:
    turn = first(turns)
    turns.give_up(turn)
    other = first(turns)
    turns.give_up(turn)
    assert turns.lasts(other)


@pytest.mark.parametrize("idle_seconds", [0.0, 0.5])
def test_it_is_taken_from_who_is_stuck_with_a_request(turns: Turns, idle_seconds: float) -> None:
    turn = first(turns)
    # Long enough for the watcher to fall asleep.
    time.sleep(idle_seconds)
    waiting = [Waiting(turns) for _ in range(3)]
    turns.begin(turn)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not all(each.is_through(0.001) for each in waiting):
        assert time.monotonic() < deadline
        # Whoever has got it is stuck too.
        for each in waiting:
            if each.turn is not None and not each.turn.busy:
                turns.begin(each.turn)
    assert not turns.lasts(turn)


def test_who_was_stuck_gets_it_again_when_nobody_else_is_there(turns: Turns) -> None:
    turn = first(turns)
    turns.begin(turn)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while turns.lasts(turn):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert turns.lasts(first(turns))


def test_the_end_lets_everybody_go() -> None:
    turns = Turns()
    turns.start()
    first(turns)
    waiting = [Waiting(turns) for _ in range(3)]
    turns.end()
    assert all(each.is_through() for each in waiting)
    assert [each.turn for each in waiting] == [None] * 3
    assert turns.take() is None


def below(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that these have."""
    children = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [each for child in children for each in below(child)]


@contextmanager
def stopped_workers(mounted: MountedVolume) -> Iterator[None]:
    """Let the workers of a mount do nothing for a while."""
    stopped = below(mounted.pid)
    assert stopped
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


class TestOnAMount:
    """A picture that takes long to be drawn, or to be decided about."""

    pytestmark = mark_fuse()

    def test_who_reads_it_keeps_nobody_else_waiting(self, mounted: MountedVolume) -> None:
        original = encoded(photo(3, (800, 600)), quality=92)
        copy = encoded(Image.open(io.BytesIO(original)), quality=70)
        for name, data in (("original.jpg", original), ("copy.jpg", copy), ("notes", b"text")):
            (mounted.path / name).write_bytes(data)
            mounted.settle()
        path = mounted.remount()
        assert os.getxattr(path / "copy.jpg", "user.dedupfs.kind") == b"rendition"
        read: list[bytes] = []
        reader = threading.Thread(target=lambda: read.append((path / "copy.jpg").read_bytes()), daemon=True)
        with stopped_workers(mounted):
            reader.start()
            for _ in range(20):
                assert (path / "notes").read_bytes() == b"text"
                (path / "notes").chmod(0o600)
            assert reader.is_alive()
        reader.join(PATIENCE_SECONDS)
        assert read == [copy]

    def test_who_waits_for_all_decisions_keeps_nobody_else_waiting(self, mounted: MountedVolume) -> None:
        """`umount` does, for minutes sometimes, and the kernel locks a directory while an attribute of it is set."""
        (mounted.path / "notes").write_bytes(b"text")
        mounted.settle()
        settling = threading.Thread(target=mounted.settle, daemon=True)
        done: list[str] = []

        def use() -> None:
            (mounted.path / "more").write_bytes(b"more")
            assert {"notes", "more"} <= set(os.listdir(mounted.path))
            report = in_process("stats", mounted.path, "--json")
            assert report[0] == 0
            done.append(report[1])

        user = threading.Thread(target=use, daemon=True)
        with stopped_workers(mounted):
            (mounted.path / "photo.jpg").write_bytes(encoded(photo(3, (800, 600)), quality=92))
            settling.start()
            settling.join(1.0)
            user.start()
            user.join(PATIENCE_SECONDS)
            assert done
            assert json.loads(done[0])["waiting"] == 1
            assert settling.is_alive()
        settling.join(PATIENCE_SECONDS)
        assert not settling.is_alive()
