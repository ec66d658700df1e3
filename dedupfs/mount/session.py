"""Session: one connection to the kernel, from the mount to its end.

A fixed number of threads take requests, one at a time for as long as it is quick (`turns`); it waits in the kernel
outside the interpreter lock. Each runs the handlers of one request, so that there are never more requests in memory
than threads. The thread that calls `serve` only waits for the end, and takes the signals.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import mmap
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from dedupfs.errors import UsageError
from dedupfs.mount import libfuse
from dedupfs.mount.greeting import REQUEST_BYTES, greet, is_greeting
from dedupfs.mount.turns import Turn, Turns

log = logging.getLogger(__name__)

THREADS = 16
"""So many requests are worked on at once, and more of them wait in the kernel. Some take long (a commit, a picture to
be drawn), so there are more threads than processors."""
_SLOW = frozenset({12, 20, 21, 30, 45})
"""Operations that may wait for a disk or for decisions: rename, fsync, setxattr, fsyncdir, rename2."""
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_WAKE = signal.SIGUSR1
_WAKE_SECONDS = 0.05
_SAID_BYTES = 4096


class Session:
    """A mounted connection; `serve` may be called once."""

    def __init__(
        self,
        handlers: object,
        frequent: Callable[[int], Callable[[memoryview], bool]],
        mountpoint: bytes,
        options: Mapping[str, str | bool],
    ) -> None:
        """Mount.

        Args:
            handlers: has a method for every operation of libfuse's low-level interface that is to be answered.
            frequent: gets the descriptor of the connection and returns what is asked first about each request, as it
                came; it tells whether it has answered.
            options: of `mount -o`; True for those without a value, False for those to be left out.

        Raises:
            UsageError: libfuse refused, or fusermount did; with what they said.
        """
        self._mountpoint = mountpoint
        self._table = libfuse.operations_table(handlers)
        self._ended = threading.Event()
        self._turns = Turns()
        self._receiving: set[int] = set()
        words = libfuse.argument_vector(
            b"dedupfs", [_option(name, value) for name, value in options.items() if value is not False]
        )
        # Each takes its own options out of the vector; what is left in the end is known to neither.
        with _standard_error() as said:
            self._channel = libfuse.mount(mountpoint, ctypes.byref(words))
            if not self._channel:
                raise UsageError(f"cannot mount at {os.fsdecode(mountpoint)}: {said() or 'libfuse refused'}")
            self._session = libfuse.lowlevel_new(
                ctypes.byref(words), ctypes.byref(self._table), ctypes.sizeof(self._table), None
            )
            libfuse.opt_free_args(ctypes.byref(words))
            if not self._session:
                libfuse.unmount(mountpoint, self._channel)
                reason = said() or "libfuse does not know an option"
                raise UsageError(f"cannot mount at {os.fsdecode(mountpoint)}: {reason}")
        libfuse.session_add_chan(self._session, self._channel)
        self._answer = frequent(libfuse.chan_fd(self._channel))

    def serve(self) -> None:
        """Answer requests until somebody unmounts or a signal asks for the end; runs on the main thread."""
        previous = {number: signal.signal(number, self._on_signal) for number in _ENDING}
        previous[_WAKE] = signal.signal(_WAKE, lambda number, frame: None)
        threads = [threading.Thread(target=self._work, name=f"fuse-{number}", daemon=True) for number in range(THREADS)]
        try:
            self._greet()
            self._turns.start()
            for thread in threads:
                thread.start()
            self._ended.wait()
            libfuse.session_exit(self._session)
            self._turns.end()
            for thread in threads:
                while thread.is_alive():
                    # Only a thread that waits for a request may be interrupted: others are in the middle of one.
                    if thread.ident in self._receiving:
                        signal.pthread_kill(thread.ident, _WAKE)
                    thread.join(_WAKE_SECONDS)
        finally:
            self._turns.end()
            libfuse.session_remove_chan(self._channel)
            libfuse.unmount(self._mountpoint, self._channel)
            libfuse.session_destroy(self._session)
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._ended.set()

    def _greet(self) -> None:
        """Answer the first request, before which the kernel has no other."""
        buffer, view = _room()
        channel = ctypes.c_void_p(self._channel)
        while not self._ended.is_set():
            received = libfuse.chan_recv(ctypes.byref(channel), buffer, REQUEST_BYTES)
            if received > 0 and is_greeting(view):
                greet(self._session, buffer, received, libfuse.chan_fd(self._channel))
                return
            if received not in (-errno.EINTR, -errno.EAGAIN):
                log.error("the kernel does not begin: %s", os.strerror(max(0, -received)))
                self._ended.set()

    def _work(self) -> None:
        buffer, view = _room()
        while (turn := self._turns.take()) is not None:
            try:
                self._receive(turn, buffer, view)
            finally:
                # Whatever happens to this thread, somebody has to go on.
                self._turns.give_up(turn)

    def _receive(self, turn: Turn, buffer: ctypes.Array[ctypes.c_char], view: memoryview) -> None:
        """Answer requests for the length of a turn."""
        channel = ctypes.c_void_p(self._channel)
        me = threading.get_ident()
        while self._turns.lasts(turn) and not libfuse.session_exited(self._session):
            self._receiving.add(me)
            received = libfuse.chan_recv(ctypes.byref(channel), buffer, REQUEST_BYTES)
            self._receiving.discard(me)
            if received > 0:
                self._turns.begin(turn)
                if libfuse.kind_of(view) in _SLOW:
                    self._turns.give_up(turn)
                if not self._answer(view[:received]):
                    libfuse.session_process(self._session, buffer, received, channel)
                turn.busy = False
            elif received not in (-errno.EINTR, -errno.EAGAIN, 0):
                log.error("the kernel gives no more requests: %s", os.strerror(-received))
                self._ended.set()
                return
        if libfuse.session_exited(self._session):
            self._ended.set()


@contextmanager
def _standard_error() -> Iterator[Callable[[], str]]:
    """Catch what C code and its child processes write there; the callable returns their last line, without its author.

    libfuse and fusermount tell nobody else why they refuse, and a mount in the background has no terminal.
    """
    caught, kept = os.memfd_create("said"), os.dup(2)
    os.dup2(caught, 2)

    def said() -> str:
        text = os.pread(caught, _SAID_BYTES, 0).decode(errors="replace").strip()
        return re.sub(r"^\S*fuse\w*: ", "", text.splitlines()[-1]) if text else ""

    try:
        yield said
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(caught)


def _option(name: str, value: str | bool) -> bytes:
    return os.fsencode(name if value is True else f"{name}={value}")


def _room() -> tuple[ctypes.Array[ctypes.c_char], memoryview]:
    """Return a buffer for a request, twice; what it never holds takes no memory."""
    view = memoryview(mmap.mmap(-1, REQUEST_BYTES))
    return (ctypes.c_char * REQUEST_BYTES).from_buffer(view), view
