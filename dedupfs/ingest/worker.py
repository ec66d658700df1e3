"""The worker process: decodes, compares and encodes pictures, apart from the mount and its keys.

Started by `forkserver`, it takes jobs from the socket in the place of standard input, and answers there, until the
other side closes it. It never sees the volume, and limits its own memory, so that a bomb ends here.
"""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path

# The parts of scipy that jobs load when they first need them: here once for all workers.
import scipy.fftpack
import scipy.ndimage
import scipy.sparse  # noqa: F401

from dedupfs.errors import UndecodableError, UnfitPictureError, WorkerError
from dedupfs.ingest import forkserver, jobs, wire

MEMORY_LIMIT_BYTES = 3 << 30
"""Address space; a comparison at the pixel limit of `decode` needs about half of it."""
_NICENESS = 5
_OOM_SCORE = 500
"""Of 1000: as if it held half of the machine's memory."""
_JOBS = {
    "inspect": jobs.inspect,
    "fit": jobs.fit,
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
    while True:
        try:
            name, arguments = wire.read(requests)
        except WorkerError:
            return
        wire.write(answers, _answer(name, arguments))


def _volunteer() -> None:
    """Have the kernel end this process rather than the mount where memory runs out: only that holds unsaved files."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(f"{_OOM_SCORE}\n")


def _answer(name: str, arguments: list[object]) -> list[object]:
    try:
        return ["done", _JOBS[name](*arguments)]  # type: ignore[operator]
    except UnfitPictureError as exc:
        return ["unfit", str(exc)]
    except UndecodableError as exc:
        return ["undecodable", str(exc)]
    except MemoryError:
        return ["failed", "out of memory"]
    except Exception as exc:  # noqa: BLE001  Libraries raise anything over hostile bytes; the text goes back.
        return ["failed", f"{type(exc).__name__}: {exc}"]


if __name__ == "__main__":
    main()
