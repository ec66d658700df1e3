"""`dedupfs check`: prove a volume sound, or say what is wrong and which files suffer."""

from __future__ import annotations

import argparse
import json
from typing import Any

from dedupfs.cli.exitcodes import DONE, FAILED
from dedupfs.cli.opened import add_arguments, opened, shown
from dedupfs.cli.progress import Progress
from dedupfs.errors import DedupfsError
from dedupfs.filesystem.survey import Survey
from dedupfs.ingest.renderer import Renderer
from dedupfs.ingest.workers import WorkerPool
from dedupfs.model import ContentId, InodeNo
from dedupfs.storage.check import Report, check
from dedupfs.storage.volume import Volume


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "check",
        help="prove a volume sound",
        description="Open every record and verify every count and every reference. Changes nothing; exit code 1 when"
        " damage is found.",
    )
    add_arguments(parser, mountpoint=False)
    parser.add_argument("--data", action="store_true", help="open every ciphertext and make every rendition too")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Examine the volume."""
    with opened(options) as found, Progress("checking") as progress:
        renderer = Renderer(found.volume.contents, WorkerPool(1))
        try:
            report = check(found.volume, data=options.data, render=renderer.render, progress=progress.show)
        finally:
            renderer.close()
        damage = _described(found.volume, report) if report.problems else []
    if options.json:
        print(json.dumps(_as_json(report, damage), indent=2))
    else:
        print(_as_text(report, damage, opened_data=options.data))
    return FAILED if report.problems else DONE


def _described(volume: Volume, report: Report) -> list[dict[str, Any]]:
    """Name the paths that suffer, as far as the tree can still be walked."""
    by_content: dict[ContentId, list[str]] = {}
    by_inode: dict[InodeNo, list[str]] = {}
    try:
        for content, files in Survey.of(volume).by_content.items():
            for file in files:
                by_content.setdefault(content, []).append(shown(file.path))
                by_inode.setdefault(file.number, []).append(shown(file.path))
    except DedupfsError:
        # A damaged directory hides what is below it; the problem itself has been reported.
        pass
    return [
        {
            "problem": problem.text,
            "paths": sorted(
                {
                    *(by_content.get(problem.content, []) if problem.content is not None else []),
                    *(by_inode.get(problem.inode, []) if problem.inode is not None else []),
                }
            ),
        }
        for problem in report.problems
    ]


def _as_json(report: Report, damage: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "clean": not report.problems,
        "records": report.records,
        "chunks_opened": report.chunks_opened,
        "renditions_made": report.renditions_made,
        "problems": damage,
    }


def _as_text(report: Report, damage: list[dict[str, Any]], *, opened_data: bool) -> str:
    looked_at = f"{report.records} records"
    if opened_data:
        looked_at += f", {report.chunks_opened} chunks and {report.renditions_made} renditions"
    lines = []
    for problem in damage:
        lines.append(problem["problem"])
        lines += [f"  {path}" for path in problem["paths"]]
    lines.append(f"{looked_at}: " + (f"{len(damage)} problems" if damage else "clean"))
    return "\n".join(lines)
