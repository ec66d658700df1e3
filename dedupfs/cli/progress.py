"""A progress line on a terminal, and nothing anywhere else."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from types import TracebackType

_WIDTH = 30
_COLUMNS = 80
"""Of a terminal that does not say how wide it is."""


class Progress:
    """One line on standard error that counts up to a total which may grow."""

    def __init__(self, what: str, unit: str = "") -> None:
        self._what = what
        self._unit = f" {unit}" if unit else ""
        self._shown = sys.stderr.isatty()
        self._started = time.monotonic()
        self._drawn = False

    def __enter__(self) -> Progress:
        return self

    def show(self, done: int, total: int) -> None:
        """Draw the state; the time left is what the rest takes at the speed so far."""
        if not self._shown or not total:
            return
        elapsed = time.monotonic() - self._started
        left = f", about {duration(elapsed / done * (total - done))} left" if done and elapsed > 1 else ""
        line = _fitted(self._what, done, total, f" {done} of {total}{self._unit}{left}", _columns())
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        self._drawn = True

    def wait(self) -> None:
        """Draw for how long this has been going on, where nobody knows how much is left; not at once."""
        elapsed = time.monotonic() - self._started
        if self._shown and elapsed > 1:
            print(f"\r\x1b[K{self._what}, for {duration(elapsed)} so far", end="", file=sys.stderr, flush=True)
            self._drawn = True

    def say(self, line: str) -> None:
        """Put a line on standard error, above the progress."""
        print(f"\r\x1b[K{line}" if self._drawn else line, file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawn:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _fitted(what: str, done: int, total: int, figures: str, columns: int) -> str:
    """Return the line, with a bar as long as there is room for: a line that wraps is never drawn over."""
    width = min(_WIDTH, columns - 1 - len(what) - len(" []") - len(figures))
    if width < 1:
        return f"{what}{figures}"[: columns - 1]
    filled = width * done // total
    return f"{what} [{'#' * filled}{'.' * (width - filled)}]{figures}"


def _columns() -> int:
    with contextlib.suppress(OSError):
        # A terminal that does not know says 0.
        return os.get_terminal_size(sys.stderr.fileno()).columns or _COLUMNS
    return _COLUMNS


def duration(seconds: float) -> str:
    """Return a time as a person would tell it, such as 40 s, 25 min or 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
