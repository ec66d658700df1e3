"""Fork server: a clean process that has imported what workers need, and forks them from there.

Importing numpy, scipy and Pillow takes half a second of a core. Here it is paid once and not for every worker, it can
be paid before the first picture comes, and the memory of the libraries is shared. The server is a fresh Python process
and no fork of the mount: neither it nor a worker ever holds keys or locks of the mount; its environment carries
nothing but what Python needs.

`ForkServer` is the mount's side, `serve` the other. They talk over one Unix socket, a request and an answer at a time:
a letter and, to fork, the worker's end of its own socket; the answer is a number. The server is the only parent of
workers, so it alone ends and reaps them, and a process id can never have come to mean another process.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable

from dedupfs.errors import WorkerStartError

_START_SECONDS = 60.0
_KEPT_ENVIRONMENT = ("PATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")
_MODULE = "dedupfs.ingest.worker"

_MESSAGE = struct.Struct("<ci")
"""A request: what to do, and to which process id. The answer comes in the same form, with a process id or 0."""
_READY, _FORK, _END, _DONE = b"r", b"f", b"e", b"d"
_PR_SET_PDEATHSIG = 1


class Child:
    """A worker process that has been forked: its id, and this side of its socket."""

    def __init__(self, server: ForkServer, pid: int, connection: socket.socket) -> None:
        self._server = server
        self.pid = pid
        self.connection = connection

    def is_alive(self) -> bool:
        """Whether the process may be given work: it runs, and says nothing unasked."""
        poller = select.poll()
        poller.register(self.connection, select.POLLIN)
        return not poller.poll(0)

    def kill(self) -> None:
        """End the process, and return when it is gone. May be called from another thread, and again."""
        self._server.end(self)


class ForkServer:
    """The process that workers are forked from; started when first needed, again after its death. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._is_ready = False
        self._children: set[Child] = set()

    def start(self) -> None:
        """Start the process, if it does not run yet, without waiting until it can fork. Raises WorkerStartError."""
        with self._lock:
            self._started()

    def fork(self) -> Child:
        """Return a new worker. Raises WorkerStartError."""
        ours, theirs = _socket_pair()
        with theirs, self._lock:
            try:
                pid = self._ask(_FORK, 0, theirs)
            except OSError:
                # It may have been ended for its memory; a fresh one gets one chance.
                self._stop()
                try:
                    pid = self._ask(_FORK, 0, theirs)
                except OSError as exc:
                    self._stop()
                    ours.close()
                    raise WorkerStartError("a worker process ended before it was ready") from exc
            except WorkerStartError:
                ours.close()
                raise
            if not pid:
                ours.close()
                raise WorkerStartError("no worker process could be started: fork failed")
            child = Child(self, pid, ours)
            self._children.add(child)
        return child

    def end(self, child: Child) -> None:
        """End a worker, if this has not been done, and return when it is gone."""
        with self._lock:
            if child not in self._children:
                return
            self._children.discard(child)
            try:
                self._ask(_END, child.pid)
            except (OSError, WorkerStartError):
                self._stop()

    def close(self) -> None:
        """End the process, and all workers with it."""
        with self._lock:
            self._stop()

    def _ask(self, what: bytes, pid: int, passed: socket.socket | None = None) -> int:
        control = self._started()
        if not self._is_ready:
            _receive(control)
            self._is_ready = True
        socket.send_fds(control, [_MESSAGE.pack(what, pid)], [] if passed is None else [passed.fileno()])
        return _receive(control)

    def _started(self) -> socket.socket:
        if self._control is not None:
            return self._control
        environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        # The same packages as here, wherever this process was started.
        environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in sys.path)
        # One job keeps one core busy; the pool decides how many run. Nor may there be threads when it forks.
        environment.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
        ours, theirs = _socket_pair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", _MODULE],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=environment,
                    cwd="/",
                )
            except OSError as exc:
                ours.close()
                raise WorkerStartError(f"no worker process could be started: {exc}") from exc
        ours.settimeout(_START_SECONDS)
        self._control = ours
        self._is_ready = False
        return ours

    def _stop(self) -> None:
        """Forget the process; workers end with it."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._children.clear()


def _socket_pair() -> tuple[socket.socket, socket.socket]:
    try:
        return socket.socketpair()
    except OSError as exc:
        raise WorkerStartError(f"no worker process could be started: {exc}") from exc


def _receive(control: socket.socket) -> int:
    """Return the number of an answer. Raises OSError when there will be none."""
    answer = control.recv(_MESSAGE.size, socket.MSG_WAITALL)
    if len(answer) != _MESSAGE.size:
        raise ConnectionResetError("the fork server has ended")
    number: int = _MESSAGE.unpack(answer)[1]
    return number


def serve(work: Callable[[], None]) -> None:
    """Fork a process that does the work for each request on standard input, until that ends.

    The work finds its own socket in the place of standard input; its standard output is nowhere.
    """
    # A core file would put pixels on the disk in the clear.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Ctrl-C in a terminal reaches the whole group; the mount decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What is there now is for good: a collection in a worker would copy its pages in vain.
    gc.freeze()
    control = socket.socket(fileno=0)
    control.sendall(_MESSAGE.pack(_READY, 0))
    server = os.getpid()
    while True:
        request, descriptors, _, _ = socket.recv_fds(control, _MESSAGE.size, 1)
        if len(request) != _MESSAGE.size:
            return
        what, pid = _MESSAGE.unpack(request)
        if what == _FORK:
            pid = _forked(server, descriptors[0], work)
            os.close(descriptors[0])
        else:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        control.sendall(_MESSAGE.pack(_DONE, pid))


def _forked(server: int, connection: int, work: Callable[[], None]) -> int:
    """Return the id of a new process, or 0 when there can be none."""
    try:
        pid = os.fork()
    except OSError:
        return 0
    if pid:
        return pid
    code = 1
    try:
        os.dup2(connection, 0)
        os.close(connection)
        # Nobody else could end a worker that hangs.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == server:
            with contextlib.suppress(SystemExit):
                work()
            code = 0
    finally:
        os._exit(code)
