"""From an open volume to its FileSystem: the pipeline and the worker processes below it, wired in one place."""

from __future__ import annotations

import os

from dedupfs.filesystem.filesystem import FileSystem
from dedupfs.ingest.pipeline import Pipeline
from dedupfs.ingest.renderer import Renderer
from dedupfs.ingest.workers import WorkerPool
from dedupfs.model import Policy
from dedupfs.storage.volume import Volume

_RENDER_WORKERS = 1


def open_filesystem(volume: Volume, *, render_workers: int = _RENDER_WORKERS) -> FileSystem:
    """Return the files of a volume; closing them closes the volume, and so does a failure here.

    Args:
        render_workers: how many renditions can be drawn at once.
    Raises:
        StoreError, IntegrityError: the volume cannot be brought into order.
    """
    render_pool = WorkerPool(render_workers)
    renderer = Renderer(volume.contents, render_pool)
    pool = WorkerPool(processors(), beside=render_pool)
    if not volume.store.read_only and volume.config.policy is not Policy.OFF:
        pool.prepare()
    pipeline = Pipeline(volume, pool, renderer)
    try:
        filesystem = FileSystem(volume, pipeline, renderer)
        renderer.tell_of_other_libraries()
        return filesystem
    except BaseException:
        render_pool.close()
        volume.close()
        raise


def processors() -> int:
    """Return how many processors this process may use."""
    return max(1, len(os.sched_getaffinity(0)))
