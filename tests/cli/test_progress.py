"""The progress line: what is left, on a terminal only."""

from __future__ import annotations

import io
import sys
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


def test_a_pipe_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", seen)
    with Progress("importing") as shown:
        shown.show(10, 100)
    assert seen.getvalue() == ""
