"""The progress line: what is left, on a terminal only."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import sys
import termios
import time

import pytest

from dedupfs.cli.progress import Progress, duration


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0 s"), (89.4, "89 s"), (90, "2 min"), (5370, "1 h 30 min"), (5300, "88 min"), (12_000, "3 h 20 min")],
)
def test_a_duration_is_told_as_people_do(seconds: float, told: str) -> None:
    assert duration(seconds) == told


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_is_told_how_much_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _Terminal()
    monkeypatch.setattr(sys, "stderr", seen)
    now = iter([100.0, 160.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    with Progress("importing", "MB") as shown:
        shown.show(10, 100)
    assert "importing [###" in seen.getvalue()
    assert "10 of 100 MB, about 9 min left" in seen.getvalue()


def test_a_terminal_is_told_of_a_wait_whose_end_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _Terminal()
    monkeypatch.setattr(sys, "stderr", seen)
    now = iter([100.0, 100.5, 112.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    with Progress("closing") as shown:
        shown.wait()
        assert seen.getvalue() == ""
        shown.wait()
    assert "closing, for 12 s so far" in seen.getvalue()
    assert seen.getvalue().endswith("\r\x1b[K")


def test_a_pipe_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", seen)
    with Progress("importing") as shown:
        shown.show(10, 100)
        shown._started -= 60
        shown.wait()
    assert seen.getvalue() == ""


@pytest.mark.parametrize("columns", [8, 20, 40, 60, 200])
def test_the_line_never_wraps(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """A line that is longer than the terminal is wide is not drawn over, and fills the screen line by line."""
    reader, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(terminal, "w") as seen:
        monkeypatch.setattr(sys, "stderr", seen)
        shown = Progress("settling")
        shown.show(1, 3)
        drawn = os.read(reader, 1000).decode().removeprefix("\r\x1b[K")
    os.close(reader)
    assert drawn.startswith("settlin")
    assert len(drawn) < columns
    if columns >= 40:
        assert "#" in drawn
        assert drawn.endswith("1 of 3")
