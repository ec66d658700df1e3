"""`dedupfs report`: a page that shows what a volume holds as versions of what."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path

from dedupfs.cli.exitcodes import DONE
from dedupfs.cli.mounts import volume_of
from dedupfs.cli.opened import add_arguments, opened
from dedupfs.cli.page import file
from dedupfs.cli.page.build import Head, figures_of, page
from dedupfs.cli.progress import Progress
from dedupfs.cli.stats import human_bytes
from dedupfs.filesystem.groups import groups_of
from dedupfs.filesystem.statistics import statistics
from dedupfs.filesystem.survey import Survey
from dedupfs.ingest.renderer import Renderer
from dedupfs.ingest.workers import WorkerPool
from dedupfs.model import ContentId
from dedupfs.storage.records import Exact
from dedupfs.storage.volume import Volume


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "report",
        help="write a page that shows the copies in a volume side by side",
        description="Write one HTML file that shows, with thumbnails, which pictures are kept as versions of which,"
        " what was measured when they were compared, and what that saves. It needs no network. It holds thumbnails and"
        " names IN THE CLEAR: it is made readable for its owner alone, is never written into the volume's directory,"
        " and should be deleted after use.",
    )
    add_arguments(parser)
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="the page to write")
    parser.add_argument("--force", action="store_true", help="replace FILE where it exists")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the page."""
    directory, _ = volume_of(options.volume)
    file.refuse(options.output, force=options.force, volume=directory)
    with opened(options) as found:
        volume = found.volume
        groups = groups_of(Survey.of(volume))
        figures = statistics(volume)
        saved = sum(group.saved_bytes for group in groups)
        shown = figures_of(figures["files"], figures["logical_bytes"], saved, len(groups))
        if figures["undecided"]:
            shown["still undecided"] = f"{figures['undecided']:,}"
        head = Head(
            "What dedupfs saves",
            volume.config.label or directory.name,
            shown,
            figures["stored_bytes"],
        )
        pool = WorkerPool(len(os.sched_getaffinity(0)))
        try:
            with Progress("drawing") as progress:
                pieces = page(head, groups, _reader(volume, Renderer(volume.contents, pool)), pool, progress.show)
                file.write(options.output, pieces, force=options.force)
        finally:
            pool.close()
    if options.json:
        told = {"report": str(options.output), "groups": len(groups), "saved_bytes": saved}
        print(json.dumps(told, indent=2))
    else:
        print(f"{options.output} shows {len(groups)} groups, which save {human_bytes(saved)}, in the clear")
    return DONE


def _reader(volume: Volume, renderer: Renderer) -> Callable[[ContentId], bytes]:
    def read(content_id: ContentId) -> bytes:
        content = volume.contents.get(content_id)
        return volume.contents.read_all(content.layout) if isinstance(content, Exact) else renderer.render(content)

    return read
