"""The worker process: decodes, compares and encodes pictures, apart from the mount and its keys.

Started by `forkserver`, it takes jobs from the socket in the place of standard input, and answers there, until the
other side closes it. It never sees the volume, and limits its own memory, so that a bomb ends here: for good, and for
each job by what that is allowed to take.
"""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path
from typing import BinaryIO

# The parts of scipy that jobs load when they first need them: here once for all workers.
import scipy.fftpack
import scipy.ndimage
import scipy.sparse  # noqa: F401

from dedupfs.errors import MemoryShortError, UndecodableError, UnfitPictureError, WorkerError
from dedupfs.ingest import footprint, forkserver, jobs, wire
from dedupfs.ingest.decode import give_back

MEMORY_LIMIT_BYTES = 3 << 30
"""Address space; a comparison at the pixel limit of `decode` needs about half of it."""
_LEEWAY, _LEEWAY_BYTES = 1.5, 96 << 20
"""How far a job may go beyond what it is allowed: what it takes is an estimate. The stacks of the threads that decode
AVIF are 150 MB which nobody touches."""
_NICENESS = 5
_OOM_SCORE = 500
"""Of 1000: as if it held half of the machine's memory."""
_JOBS = {
    "inspect": jobs.inspect,
    "fit": jobs.fit,
    "is_made_from": jobs.is_made_from,
    "look": jobs.look,
    "render": jobs.render,
    "thumbnail": jobs.draw_thumbnail,
}


def main() -> None:
    """Fork workers until the mount wants no more."""
    forkserver.serve(work)


def work() -> None:
    """Serve until the socket ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    _volunteer()
    os.nice(_NICENESS)
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(0), "wb")
    with contextlib.suppress(WorkerError):
        while True:
            _serve_one(requests, answers)


def _serve_one(requests: BinaryIO, answers: BinaryIO) -> None:
    """Take a job and answer. Raises WorkerError at the end of the requests."""
    name, arguments, allowed_bytes = wire.read(requests)
    _limit(allowed_bytes)
    with footprint.allowed(allowed_bytes):
        answer = _answer(name, arguments)
    if allowed_bytes is None or allowed_bytes > footprint.SMALL_BYTES:
        # With the answer the memory is somebody else's; a worker kept 100 MB of a finished comparison to itself.
        del arguments
        give_back()
    wire.write(answers, answer)


def _limit(allowed_bytes: int | None) -> None:
    """Have the kernel refuse memory to a job that takes much more than it said; None limits nothing."""
    limit = resource.RLIM_INFINITY
    if allowed_bytes is not None:
        data_pages = int(Path("/proc/self/statm").read_text().split()[5])
        limit = data_pages * resource.getpagesize() + int(allowed_bytes * _LEEWAY) + _LEEWAY_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))


def _volunteer() -> None:
    """Have the kernel end this process rather than the mount where memory runs out: only that holds unsaved files."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(f"{_OOM_SCORE}\n")


def _answer(name: str, arguments: list[object]) -> list[object]:
    try:
        return ["done", _JOBS[name](*arguments)]  # type: ignore[operator]
    except MemoryShortError as exc:
        return ["large", exc.needed_bytes]
    except UnfitPictureError as exc:
        return ["unfit", str(exc)]
    except UndecodableError as exc:
        return ["undecodable", str(exc)]
    except MemoryError:
        if footprint.is_limited():
            # It said too little.
            return ["short", None]
        return ["failed", "out of memory"]
    except Exception as exc:  # noqa: BLE001  Libraries raise anything over hostile bytes; the text goes back.
        return ["failed", f"{type(exc).__name__}: {exc}"]


if __name__ == "__main__":
    main()
