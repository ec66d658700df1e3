"""Memory: one number for a mount and its workers together, and who may hold how much of it.

Everything that grows with what is written or read is here by name; each gets its share when the volume is opened and
keeps within it by itself: caches let go of what was used longest ago, writers store what waits, jobs wait for one
another, and a picture that is too large to be compared is kept as it was written. What is counted is anonymous memory:
the pages of the database are the kernel's, which takes them back when it needs them.

Beyond the shares there is what no bound can be put on: the bytes of a rendition stay while somebody has it open, a
rendition that needs more than all jobs together is drawn all the same, and bookkeeping of some hundred bytes for each
inode that the kernel knows.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from dedupfs.errors import UsageError
from dedupfs.storage.sizes import StoreSizes

MB = 1_000_000
DEFAULT_BYTES = 512 * MB
LEAST_BYTES = 256 * MB
"""With less there would be next to nothing left for jobs: half of this is there before anything is done."""

_MOUNT_BYTES = 75 * MB
"""The mount itself with nothing in its shares, and the holes in its heap. With 50 for that, pictures of 60 megapixels
and 1 GB beside them came to 509 of 512, of which the mount had 145, and 168 at another moment."""
_SERVER_BYTES = 20 * MB
"""The fork server, whose pages the workers share."""
_WORKER_BYTES = 15 * MB
"""A worker between two jobs, besides what it shares; measured as PSS, 12 to 22."""
_WORKERS_SHARE = 0.2
"""Of everything, for workers between two jobs: a machine with many processors has fewer of them than processors."""

_WAITING_COPIES = 1.5
"""Changes that are not on the disk yet, and LMDB's pages of those that are being written."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Bytes, but for `workers`.

    Attributes:
        total: what all of this stays within.
        spools: written files that wait to be stored or decided about.
        store: changes on their way to the disk, and records and chunks that were read last.
        decisions: copies of pictures in the mount while they are decided about.
        originals: exact bytes of pictures that have just become renditions.
        renditions: renditions that were drawn last.
        jobs: what workers decode and encode, all together.
        workers: how many processes decide about pictures at once.
    """

    total: int
    spools: int
    store: StoreSizes
    decisions: int
    originals: int
    renditions: int
    jobs: int
    workers: int


def shares_of(total_bytes: int = DEFAULT_BYTES, *, readers: int = 1, wanted_workers: int | None = None) -> Shares:
    """Divide the memory of one mount.

    Args:
        readers: workers that draw renditions.
        wanted_workers: workers that decide about pictures, at most; as many as there are processors where not given.
    Raises:
        UsageError: so little memory is not enough.
    """
    if total_bytes < LEAST_BYTES:
        raise UsageError(f"memory={total_bytes} is too little: a mount needs at least {LEAST_BYTES // MB}M")
    wanted = processors() if wanted_workers is None else wanted_workers
    workers = max(1, min(wanted, int(total_bytes * _WORKERS_SHARE) // _WORKER_BYTES - readers))
    rest = total_bytes - _MOUNT_BYTES - _SERVER_BYTES - (workers + readers) * _WORKER_BYTES

    def part(share: float, most_mb: int) -> int:
        return min(int(rest * share), most_mb * MB)

    spools, waiting = part(0.05, 200), part(0.035, 64)
    records, plaintexts = part(0.01, 20), part(0.02, 32)
    decisions = part(0.035, 400)
    originals, renditions = part(0.01, 64), part(0.015, 64)
    held = spools + int(_WAITING_COPIES * waiting) + records + plaintexts + decisions + originals + renditions
    return Shares(
        total_bytes,
        spools,
        StoreSizes(waiting, records, plaintexts),
        decisions,
        originals,
        renditions,
        max(0, rest - held),
        workers,
    )


def processors() -> int:
    """Return how many processors this process may use."""
    return max(1, len(os.sched_getaffinity(0)))
