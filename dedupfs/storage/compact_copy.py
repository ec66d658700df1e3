"""The process that makes the copy for `compact`: writes the database without its free pages to standard output.

LMDB copies pages without looking whether they make sense, and cannot be stopped while it does. Here it takes nothing
along that matters: no key is known, nothing is written but the output, and whoever reads it can leave at any moment.
"""

from __future__ import annotations

import resource
import signal
import sys
from pathlib import Path

from dedupfs.errors import DedupfsError
from dedupfs.storage.lmdb_engine import LmdbEngine


def main() -> int:
    """Write the copy of the volume that is named on the command line; the exit code is 0 when it is whole."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # When nobody reads any more there is nothing left to do or to say.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        engine = LmdbEngine(Path(sys.argv[1]), (), read_only=True)
        engine.write_compacted(sys.stdout.fileno())
    except DedupfsError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
