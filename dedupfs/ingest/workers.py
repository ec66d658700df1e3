"""Worker processes: run picture jobs where a crash, a hang or a bomb costs one job and nothing else.

Workers are fresh Python processes, not forks of the mount, so they hold neither its keys nor its locks; their
environment carries nothing but what Python needs. A worker that fails is replaced before the next job. A pool may be
used from any thread; a call waits for a free worker.
"""

from __future__ import annotations

import logging
import os
import queue
import subprocess
import sys
import threading
from typing import Any, BinaryIO, cast

from dedupfs.errors import UndecodableError, UnfitPictureError, WorkerError, WorkerStartError
from dedupfs.ingest import wire

log = logging.getLogger(__name__)

JOB_SECONDS = 60.0
"""Longest time for one job; the largest pictures that are compared at all take a few seconds."""
_START_SECONDS = 60.0
_ATTEMPTS = 2
"""A job whose worker ended is tried once more in a fresh one: the kernel ends processes for the memory that others
took, too. A job that took too long is not, as that would take as long again."""
_KEPT_ENVIRONMENT = ("PATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")


class WorkerPool:
    """A fixed number of worker processes, started when first needed."""

    def __init__(self, workers: int, *, job_seconds: float = JOB_SECONDS) -> None:
        self._job_seconds = job_seconds
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        self._closed = False
        self._workers = workers
        for _ in range(workers):
            self._idle.put(None)

    @property
    def workers(self) -> int:
        """The number of jobs that can run at once."""
        return self._workers

    def call(self, job: str, *arguments: object) -> Any:
        """Run a job of `worker` and return its result.

        Raises:
            UnfitPictureError, UndecodableError: as the job did.
            WorkerError: it failed in any other way, or took too long.
            WorkerStartError: no worker can be started; this says nothing about the job.
        """
        worker = self._idle.get()
        try:
            for attempt in range(_ATTEMPTS):
                if self._closed:
                    raise WorkerError("the workers have been stopped")
                if worker is not None and not worker.is_alive():
                    # The kernel may have ended it for its memory; the job that comes next is not to blame.
                    worker.kill()
                    worker = None
                if worker is None:
                    worker = _Worker()
                try:
                    verdict, value = worker.run(job, arguments, self._job_seconds)
                    break
                except BaseException as exc:
                    # What it may still say would be taken for the answer to the next job.
                    worker.kill()
                    final = worker.is_overdue or not isinstance(exc, WorkerError) or attempt + 1 == _ATTEMPTS
                    worker = None
                    if final:
                        raise
        finally:
            self._idle.put(worker)
        if verdict == "done":
            return value
        if verdict == "unfit":
            raise UnfitPictureError(value)
        if verdict == "undecodable":
            raise UndecodableError(value)
        raise WorkerError(str(value))

    def close(self) -> None:
        """Stop every worker; jobs under way are waited for."""
        self._closed = True
        workers = [self._idle.get() for _ in range(self._workers)]
        for worker in workers:
            if worker is not None:
                worker.kill()
            self._idle.put(None)


class _Worker:
    """One process. `is_overdue` once it has been killed for taking too long, if only just after its answer."""

    def __init__(self) -> None:
        self.is_overdue = False
        environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        # The same packages as here, wherever this process was started.
        environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in sys.path)
        # One job keeps one core busy; the pool decides how many run.
        environment.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dedupfs.ingest.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                cwd="/",
            )
        except OSError as exc:
            raise WorkerStartError(f"no worker process could be started: {exc}") from exc
        try:
            self._exchange(None, _START_SECONDS)
        except WorkerError as exc:
            self.kill()
            raise WorkerStartError("a worker process ended before it was ready") from exc

    def is_alive(self) -> bool:
        return not self.is_overdue and self._process.poll() is None

    def run(self, job: str, arguments: tuple[object, ...], seconds: float) -> tuple[str, Any]:
        answer = self._exchange([job, list(arguments)], seconds)
        try:
            verdict, value = answer
        except (TypeError, ValueError) as exc:
            raise WorkerError("a worker process gave an answer that makes no sense") from exc
        return verdict, value

    def _exchange(self, request: object, seconds: float) -> Any:
        """Send a request, if there is one, and wait for an answer; a process that takes too long is killed."""
        watchdog = threading.Timer(seconds, self._end)
        watchdog.daemon = True
        watchdog.start()
        try:
            if request is not None:
                wire.write(cast("BinaryIO", self._process.stdin), request)
            return wire.read(cast("BinaryIO", self._process.stdout))
        except (OSError, ValueError) as exc:
            raise WorkerError("the worker process ended") from exc
        finally:
            watchdog.cancel()
            # From here on it is certain whether the process was killed, so that the next job gets no dying one.
            watchdog.join()

    def _end(self) -> None:
        self.is_overdue = True
        self._process.kill()

    def kill(self) -> None:
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    log.debug("a pipe to a worker was broken already", exc_info=True)
        self._process.wait()
