"""The thumbnails of a page: drawn by worker processes, a block at a time, so that memory never holds them all."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Iterator, Sequence

from dedupfs.errors import DedupfsError, WorkerStartError
from dedupfs.ingest.groups import Group, Kept, Version
from dedupfs.ingest.parallel import in_parallel
from dedupfs.ingest.workers import WorkerPool
from dedupfs.model import ContentId

log = logging.getLogger(__name__)

PER_BLOCK = 64
_SIDES = ((1_000, 384), (5_000, 256))
"""Up to so many thumbnails, so many pixels for the longer side: a page should stay below 50 MB."""
_SMALLEST_SIDE_PX = 176
_MAX_BYTES = 1 << 20


def wanted(groups: Sequence[Group]) -> list[ContentId]:
    """Return the pictures to be drawn in the order of the page, each once; what is known to be none is left out."""
    found: dict[ContentId, None] = {}
    for group in groups:
        files: list[Kept | Version] = [group.kept, *group.versions]
        for file in files:
            if file.look is not None:
                found[file.content] = None
    return list(found)


def side_px(count: int) -> int:
    """Return the longer side of each of so many thumbnails."""
    return next((side for limit, side in _SIDES if count <= limit), _SMALLEST_SIDE_PX)


def blocks(
    contents: Sequence[ContentId],
    read: Callable[[ContentId], bytes],
    pool: WorkerPool,
    progress: Callable[[int, int], None],
) -> Iterator[list[str]]:
    """Yield the thumbnails in base64, PER_BLOCK at a time; an empty text where none could be drawn.

    `read` returns a whole file or raises a DedupfsError. Raises WorkerStartError.
    """
    side = side_px(len(contents))
    for start in range(0, len(contents), PER_BLOCK):
        some = contents[start : start + PER_BLOCK]
        drawn = [""] * len(some)

        def draw(at: int, some: Sequence[ContentId] = some, drawn: list[str] = drawn) -> None:
            try:
                picture = pool.call("thumbnail", read(some[at]), side)
                # A worker reads hostile pictures, and is not believed either.
                if isinstance(picture, bytes) and len(picture) <= _MAX_BYTES:
                    drawn[at] = base64.b64encode(picture).decode("ascii")
            except WorkerStartError:
                raise
            except DedupfsError as exc:
                log.info("a thumbnail could not be drawn: %s", exc)

        def show(done: int, _: int, start: int = start) -> None:
            progress(start + done, len(contents))

        in_parallel(draw, range(len(some)), pool.workers, show)
        yield drawn
