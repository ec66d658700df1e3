"""`dedupfs check`: prove a volume sound, or say what is wrong and which files suffer, and mend it when told to."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dedupfs.cli.exitcodes import DONE, FAILED
from dedupfs.cli.names import printable
from dedupfs.cli.opened import add_arguments, opened, shown
from dedupfs.cli.progress import Progress
from dedupfs.errors import UsageError
from dedupfs.ingest.renderer import Renderer, made_elsewhere
from dedupfs.ingest.workers import WorkerPool
from dedupfs.storage import repair
from dedupfs.storage.check import check
from dedupfs.storage.lmdb_salvage import DAMAGED_FILE, Salvage
from dedupfs.storage.mending import Plan
from dedupfs.storage.report import Report
from dedupfs.storage.volume import Volume, rebuild_database

_DESCRIPTION = """\
Open every record and verify every count and every reference; name the files that suffer. Changes nothing, unless told
to repair.

--repair restores order: counts, links, clusters and the similarity index are made anew, what has lost its name goes
into /lost+found as # and its number, and what is beyond hope is dropped and named. A file whose bytes are damaged is
never removed: it keeps its name and size, fails to read where it is damaged, and is whole again, under all its names
and for all versions that rest on it, as soon as the same bytes are copied into the volume. Keep a copy of the volume's
directory before you repair it. Where the database is damaged below its records, what is left goes into a new one first.

exit code 0: the volume is sound. 1: damage was found; after --repair, that something is gone or a file cannot be read.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "check",
        help="prove a volume sound, or repair it",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser, mountpoint=False)
    parser.add_argument("--data", action="store_true", help="open every ciphertext and make every rendition too")
    parser.add_argument("--repair", action="store_true", help="restore order; the volume must not be mounted")
    parser.add_argument("--dry-run", action="store_true", help="with --repair: say what would be done, and do nothing")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Examine the volume, and mend it when told to."""
    if options.dry_run and not options.repair:
        raise UsageError("--dry-run goes with --repair")
    read_only = options.dry_run or not options.repair
    salvaged: list[Salvage] = []

    def rebuild(directory: Path, volume_key: bytes) -> None:
        done = None if read_only else rebuild_database(directory, volume_key)
        if done is not None:
            salvaged.append(done)

    with opened(options, read_only=read_only, whatever_state=True, first=rebuild) as found:
        report = _examined(found.volume, data=options.data)
        plan = repair.plan(found.volume, report.readout) if options.repair else None
        if plan is not None and salvaged:
            statements = plan.mended if salvaged[0].is_latest else plan.gone
            statements[_rebuilt(salvaged[0])] = []
        if plan is not None and plan.does_something and not options.dry_run:
            with Progress("repairing") as progress:
                repair.apply(found.volume, plan, progress.show)
            report = _examined_again(found.volume, report)
    if options.json:
        print(json.dumps(_as_json(report, plan), indent=2))
    else:
        print(_as_text(report, plan, opened_data=options.data, dry_run=options.dry_run))
    return FAILED if report.problems or (plan is not None and plan.gone) else DONE


def _rebuilt(done: Salvage) -> str:
    if not done.is_latest:
        return (
            f"the database is made anew with {done.records} records as of the latest commit that was found; its root"
            f" was lost, and what was done after that is gone; the damaged one is kept as {DAMAGED_FILE}"
        )
    lost = f" and something is missing in {len(done.gaps)} places" if done.gaps else ""
    return f"the database is made anew with {done.records} records{lost}; the damaged one is kept as {DAMAGED_FILE}"


def _examined(volume: Volume, *, data: bool) -> Report:
    renderer = Renderer(volume.contents, WorkerPool(1))
    try:
        with Progress("checking") as progress:
            return check(volume, data=data, render=renderer.render, progress=progress.show)
    finally:
        renderer.close()


def _examined_again(volume: Volume, before: Report) -> Report:
    """Check what was repaired; which ciphertexts do not open is known already."""
    report = check(volume)
    known = set(report.problems)
    contents = report.readout.sources.contents
    report.problems += [
        problem
        for problem in before.problems
        if not problem.mendable and problem not in known and problem.content in contents
    ]
    report.readout.chunks_opened = before.chunks_opened
    report.renditions_made = before.renditions_made
    return report


def _as_json(report: Report, plan: Plan | None) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "clean": not report.problems,
        "records": report.records,
        "chunks_opened": report.chunks_opened,
        "renditions_made": report.renditions_made,
        "problems": [
            {
                "problem": problem.text,
                "paths": [shown(path) for path in report.paths(problem)],
                "mendable": problem.mendable,
            }
            for problem in report.problems
        ],
        "unreadable": [shown(path) for path in report.unreadable()],
        "made_elsewhere": made_elsewhere(report.readout.sources.contents.values()),
    }
    if plan is not None:
        for name, statements in (("mended", plan.mended), ("gone", plan.gone)):
            answer[name] = [
                {"what": text, "paths": [shown(path) for path in paths]} for text, paths in statements.items()
            ]
    return answer


def _as_text(report: Report, plan: Plan | None, *, opened_data: bool, dry_run: bool) -> str:
    lines = []
    if plan is not None:
        lines += _stated("would be mended:" if dry_run else "mended:", plan.mended)
        lines += _stated("would be gone:" if dry_run else "gone:", plan.gone)
        if lines:
            lines.append("before that:" if dry_run else "after that:")
    found: dict[str, list[bytes]] = {}
    for problem in report.problems:
        found.setdefault(problem.text, []).extend(report.paths(problem))
    lines += _listed(found)
    looked_at = f"{report.records} records"
    if opened_data:
        looked_at += f", {report.chunks_opened} chunks and {report.renditions_made} renditions"
    lines.append(f"{looked_at}: " + (f"{len(report.problems)} problems" if report.problems else "clean"))
    elsewhere = made_elsewhere(report.readout.sources.contents.values())
    if elsewhere is not None and not opened_data:
        lines.append(f"{elsewhere}; --data tells whether all of them can still be drawn")
    unreadable = report.unreadable()
    if unreadable:
        still = f"{len(unreadable)} files cannot be read whole until the same bytes are copied into the volume again:"
        lines += _listed({still: unreadable})
    mendable = sum(problem.mendable for problem in report.problems)
    if mendable and (plan is None or dry_run):
        lines.append(f"`dedupfs check --repair` mends {mendable} of the problems")
    return "\n".join(lines)


def _stated(title: str, statements: Mapping[str, Sequence[bytes]]) -> list[str]:
    lines = _listed(statements)
    return [title, *(f"  {line}" for line in lines)] if lines else []


def _listed(statements: Mapping[str, Sequence[bytes]]) -> list[str]:
    lines = []
    for text, paths in statements.items():
        lines.append(text)
        lines += [f"  {printable(path)}" for path in sorted(set(paths))]
    return lines
