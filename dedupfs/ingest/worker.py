"""The worker process: decodes, compares and encodes pictures, apart from the mount and its keys.

Started by `workers`, it takes jobs from standard input and answers on standard output until the input ends. It never
sees the volume, and limits its own memory, so that a bomb ends here.
"""

from __future__ import annotations

import os
import resource
import signal

from dedupfs.errors import UndecodableError, UnfitPictureError, WorkerError
from dedupfs.ingest import jobs, wire

MEMORY_LIMIT_BYTES = 3 << 30
"""Address space; a comparison at the pixel limit of `decode` needs about half of it."""
_NICENESS = 5
_JOBS = {
    "inspect": jobs.inspect,
    "fit": jobs.fit,
    "look": jobs.look,
    "render": jobs.render,
    "thumbnail": jobs.draw_thumbnail,
}


def main() -> None:
    """Serve until standard input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    # A core file would put pixels on the disk in the clear.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(_NICENESS)
    # Ctrl-C in a terminal reaches the whole group; the mount decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    # Whatever a library prints must not end up between the answers.
    os.dup2(2, 1)
    wire.write(answers, "ready")
    while True:
        try:
            name, arguments = wire.read(requests)
        except WorkerError:
            return
        wire.write(answers, _answer(name, arguments))


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
