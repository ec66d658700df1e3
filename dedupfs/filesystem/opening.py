"""From an open volume to its FileSystem: the pipeline and the worker processes below it, wired in one place."""

from __future__ import annotations

from dedupfs.filesystem.filesystem import FileSystem
from dedupfs.filesystem.memory import Shares, shares_of
from dedupfs.ingest.forkserver import ForkServer
from dedupfs.ingest.gate import Gate
from dedupfs.ingest.originals import Originals
from dedupfs.ingest.pipeline import Pipeline
from dedupfs.ingest.renderer import Renderer
from dedupfs.ingest.workers import WorkerPool
from dedupfs.model import Policy
from dedupfs.storage.volume import Volume

_RENDER_WORKERS = 1


def open_filesystem(
    volume: Volume,
    *,
    memory: Shares | None = None,
    render_workers: int = _RENDER_WORKERS,
    server: ForkServer | None = None,
) -> FileSystem:
    """Return the files of a volume; closing them closes the volume, and so does a failure here.

    Args:
        memory: how much of it the parts may take; the default of a mount where not given.
        render_workers: how many renditions can be drawn at once.
        server: where workers come from, if that has been started; where none is likely to be needed it ends here.
    Raises:
        StoreError, IntegrityError: the volume cannot be brought into order.
    """
    shares = shares_of(readers=render_workers) if memory is None else memory
    jobs = Gate(shares.jobs)
    render_pool = WorkerPool(render_workers, server=server, memory=jobs, is_for_readers=True)
    renderer = Renderer(volume.contents, render_pool, cache_bytes=shares.renditions)
    pool = WorkerPool(shares.workers, beside=render_pool, memory=jobs)
    if not volume.store.read_only and volume.config.policy is not Policy.OFF:
        pool.prepare()
    elif server is not None:
        server.close()
    pipeline = Pipeline(volume, pool, renderer, originals=Originals(shares.originals), decisions=Gate(shares.decisions))
    try:
        filesystem = FileSystem(volume, pipeline, renderer, spool_budget_bytes=shares.spools, memory_bytes=shares.total)
        renderer.tell_of_other_libraries()
        return filesystem
    except BaseException:
        render_pool.close()
        volume.close()
        raise
