"""Turns: one thread receives requests for as long as it is quick, and another takes over when it is not.

Requests mostly come one after the other, and are answered in Python. If every thread waits for them, the kernel wakes
the next one each time, on another processor, and where that thread and the one before (with something left to be done)
both want the interpreter lock, they put each other to sleep. Creating a small file took 1.3 ms of processor time with
16 threads that waited, and 0.8 ms with one. But one alone would leave everybody waiting for a commit, or for a picture
to be drawn.

So the one that has the turn gives it up before a request that is known to take long, and a watcher takes it away after
TAKEOVER_SECONDS with one request. The watcher sleeps while nothing is asked. Safe from any thread; that `busy` and
`requests` of a turn change without a lock relies on the interpreter's.
"""

from __future__ import annotations

import threading

TAKEOVER_SECONDS = 0.005
"""With one request a thread is through in 0.02 to 1 ms; to sync a disk or to read from a slow one takes longer."""
_IDLE_ROUNDS = 40
"""After so many of these times without a request the watcher sleeps."""


class Turn:
    """From when a thread begins to receive requests until another one does."""

    __slots__ = ("busy", "requests")

    def __init__(self) -> None:
        self.busy = False
        self.requests = 0


class Turns:
    """Of the threads of one session."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._current: Turn | None = None
        self._ended = False
        self._awake = threading.Event()
        self._sleeping = False
        self._watcher = threading.Thread(target=self._watch, name="turns", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._watcher.start()

    def take(self) -> Turn | None:
        """Return when it is the caller's turn, or with None at the end."""
        with self._condition:
            self._condition.wait_for(lambda: self._current is None or self._ended)
            if self._ended:
                return None
            self._current = Turn()
            return self._current

    def lasts(self, turn: Turn) -> bool:
        """Whether the turn is still the caller's."""
        return self._current is turn

    def begin(self, turn: Turn) -> None:
        """Note that a request has come."""
        turn.requests += 1
        turn.busy = True
        # The watcher looks whether somebody is busy after it has said that it sleeps, so that one of both sees it.
        if self._sleeping:
            self._awake.set()

    def give_up(self, turn: Turn) -> None:
        """Let another thread receive, unless one does already."""
        with self._condition:
            if self._current is turn:
                self._current = None
                self._condition.notify()

    def end(self) -> None:
        """Let nobody receive any more."""
        with self._condition:
            self._ended = True
            self._condition.notify_all()
        self._awake.set()
        if self._watcher.is_alive():
            self._watcher.join()

    def _watch(self) -> None:
        seen: tuple[Turn | None, int] = (None, 0)
        idle = 0
        while not self._ended:
            turn = self._current
            now = (turn, turn.requests if turn is not None else 0)
            if turn is not None and turn.busy and now == seen:
                self.give_up(turn)
            idle = idle + 1 if now == seen else 0
            seen = now
            if idle < _IDLE_ROUNDS:
                self._awake.wait(TAKEOVER_SECONDS)
                continue
            self._sleeping = True
            turn = self._current
            if turn is None or not turn.busy:
                self._awake.wait()
            self._sleeping = False
            self._awake.clear()
            idle = 0
