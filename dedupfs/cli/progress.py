"""A progress line on a terminal, and nothing anywhere else."""

from __future__ import annotations

import sys
import time
from types import TracebackType

_WIDTH = 30


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
        filled = _WIDTH * done // total
        elapsed = time.monotonic() - self._started
        left = f", about {duration(elapsed / done * (total - done))} left" if done and elapsed > 1 else ""
        bar = "#" * filled + "." * (_WIDTH - filled)
        print(f"\r\x1b[K{self._what} [{bar}] {done} of {total}{self._unit}{left}", end="", file=sys.stderr, flush=True)
        self._drawn = True

    def say(self, line: str) -> None:
        """Put a line on standard error, above the progress."""
        print(f"\r\x1b[K{line}" if self._drawn else line, file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawn:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Return a time as a person would tell it, such as 40 s, 25 min or 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
