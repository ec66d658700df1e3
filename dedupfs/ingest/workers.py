"""Worker processes: run picture jobs where a crash, a hang or a bomb costs one job and nothing else.

Workers come from a fork server, which is a fresh Python process, so that they hold neither keys nor locks of the mount
(see `forkserver`). A worker that fails is replaced before the next job. A pool may be used from any thread; a call
waits for a free worker, and where pools share a gate, for the memory that its job takes.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import Any

from dedupfs.errors import MemoryShortError, UndecodableError, UnfitPictureError, WorkerError, WorkerStartError
from dedupfs.ingest import wire
from dedupfs.ingest.footprint import SMALL_BYTES
from dedupfs.ingest.forkserver import ForkServer
from dedupfs.ingest.gate import Gate

JOB_SECONDS = 60.0
"""Longest time for one job; the largest pictures that are compared at all take a few seconds."""
_ATTEMPTS = 2
"""A job whose worker ended or failed is tried once more in a fresh one: the kernel ends processes for the memory that
others took, too, and what earlier jobs have left in a worker may leave too little for this one. A job that took too
long is not, as that would take as long again."""


class WorkerPool:
    """A fixed number of worker processes, started when first needed."""

    def __init__(
        self,
        workers: int,
        *,
        job_seconds: float = JOB_SECONDS,
        beside: WorkerPool | None = None,
        server: ForkServer | None = None,
        memory: Gate | None = None,
        is_for_readers: bool = False,
    ) -> None:
        """Make a pool without any process yet.

        Args:
            beside: a pool that is closed later, to share its fork server.
            server: a fork server of its own, which it closes; it makes one where neither is given.
            memory: what jobs of this pool share with those of others; without one they take what they need.
            is_for_readers: its jobs go before all others, and are never turned down for the memory they take.
        """
        self._memory = memory
        self._is_for_readers = is_for_readers
        self._job_seconds = job_seconds
        self.server: ForkServer = (server or ForkServer()) if beside is None else beside.server
        self._owns_server = beside is None
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        self._closed = False
        self._workers = workers
        for _ in range(workers):
            self._idle.put(None)

    @property
    def workers(self) -> int:
        """The number of jobs that can run at once."""
        return self._workers

    def prepare(self) -> None:
        """Have the libraries of the workers loaded in the background, so that the first job does not wait for that."""
        with contextlib.suppress(WorkerStartError):  # The first job will say so.
            self.server.start()

    def call(self, job: str, *arguments: object) -> Any:
        """Run a job of `worker` and return its result.

        Raises:
            UnfitPictureError, UndecodableError: as the job did.
            MemoryShortError: it takes more memory than all jobs together may take.
            WorkerError: it failed in any other way, in two workers, or took too long.
            WorkerStartError: no worker can be started; this says nothing about the job.
        """
        lent = [self._idle.get()]
        try:
            verdict, value = self._in_turn(lent, [job, list(arguments)])
        finally:
            self._idle.put(lent[0])
        if verdict == "unfit":
            raise UnfitPictureError(value)
        if verdict == "undecodable":
            raise UndecodableError(value)
        return value

    def _in_turn(self, lent: list[_Worker | None], request: list[object]) -> tuple[str, Any]:
        """Run a job when there is memory for it: first with what every job may take, then with what it asks for."""
        if self._memory is None:
            return self._run(lent, [*request, None])
        size_bytes = SMALL_BYTES
        while True:
            allowed_bytes = None if self._is_for_readers and size_bytes > SMALL_BYTES else size_bytes
            with self._memory.taken(size_bytes, hurry=self._is_for_readers):
                verdict, value = self._run(lent, [*request, allowed_bytes])
            if verdict == "short":
                # Headers do not tell everything: it is run again with more, where nothing is left of earlier jobs.
                self._give_up(lent)
                value = max(size_bytes + 1, min(2 * size_bytes, self._memory.capacity_bytes))
            elif verdict != "large":
                return verdict, value
            if not isinstance(value, int) or value <= size_bytes:
                raise WorkerError("a worker asked for no more memory than it had")
            if value > self._memory.capacity_bytes and not self._is_for_readers:
                raise MemoryShortError(value, self._memory.capacity_bytes)
            size_bytes = value

    @staticmethod
    def _give_up(lent: list[_Worker | None]) -> None:
        if lent[0] is not None:
            lent[0].kill()
            lent[0] = None

    def _run(self, lent: list[_Worker | None], request: list[object]) -> tuple[str, Any]:
        """Run a job on the worker in `lent`, which is replaced there when it is not to be trusted any more."""
        for attempt in range(_ATTEMPTS):
            if self._closed:
                raise WorkerError("the workers have been stopped")
            worker = lent[0]
            if worker is not None and not worker.is_alive():
                # The kernel may have ended it for its memory; the job that comes next is not to blame.
                worker.kill()
                worker = None
            if worker is None:
                lent[0] = None
                worker = lent[0] = _Worker(self.server)
            try:
                return worker.run(request, self._job_seconds)
            except BaseException as exc:
                # What it may still say would be taken for the answer to the next job.
                worker.kill()
                lent[0] = None
                if worker.is_overdue or not isinstance(exc, WorkerError) or attempt + 1 == _ATTEMPTS:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def close(self) -> None:
        """Stop every worker; jobs under way are waited for."""
        self._closed = True
        workers = [self._idle.get() for _ in range(self._workers)]
        for worker in workers:
            if worker is not None:
                worker.kill()
            self._idle.put(None)
        if self._owns_server:
            self.server.close()


class _Worker:
    """One process. `is_overdue` once it has been killed for taking too long, if only just after its answer."""

    def __init__(self, server: ForkServer) -> None:
        self.is_overdue = False
        self._child = server.fork()
        self._requests = self._child.connection.makefile("wb")
        self._answers = self._child.connection.makefile("rb")

    def is_alive(self) -> bool:
        return not self.is_overdue and self._child.is_alive()

    def run(self, request: list[object], seconds: float) -> tuple[str, Any]:
        answer = self._exchange(request, seconds)
        try:
            verdict, value = answer
        except (TypeError, ValueError) as exc:
            raise WorkerError("a worker process gave an answer that makes no sense") from exc
        if verdict not in ("done", "unfit", "undecodable", "large", "short"):
            raise WorkerError(str(value))
        return verdict, value

    def _exchange(self, request: object, seconds: float) -> Any:
        """Send a request and wait for the answer; a process that takes too long is killed."""
        watchdog = threading.Timer(seconds, self._end)
        watchdog.daemon = True
        watchdog.start()
        try:
            wire.write(self._requests, request)
            return wire.read(self._answers)
        except (OSError, ValueError) as exc:
            raise WorkerError("the worker process ended") from exc
        finally:
            watchdog.cancel()
            # From here on it is certain whether the process was killed, so that the next job gets no dying one.
            watchdog.join()

    def _end(self) -> None:
        self.is_overdue = True
        self._child.kill()

    def kill(self) -> None:
        self._child.kill()
        for stream in (self._requests, self._answers, self._child.connection):
            # What could not be sent cannot be flushed either.
            with contextlib.suppress(OSError):
                stream.close()
