"""`dedupfs scan`: what dedupfs would make of ordinary folders, before anybody trusts it with them."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dedupfs.cli.exitcodes import DONE, FAILED
from dedupfs.cli.groups import as_json, describe
from dedupfs.cli.names import printable
from dedupfs.cli.opened import shown
from dedupfs.cli.page import file as files
from dedupfs.cli.page.build import Head, figures_of, page
from dedupfs.cli.progress import Progress
from dedupfs.cli.stats import human_bytes
from dedupfs.errors import UsageError
from dedupfs.ingest.groups import CopyKind, Group, shares
from dedupfs.ingest.scan import Scan, Totals
from dedupfs.ingest.workers import WorkerPool
from dedupfs.model import Policy

_SHOWN_GROUPS = 10
_KINDS = {
    CopyKind.EXACT: "exact copies",
    CopyKind.METADATA: "same image, other metadata",
    CopyKind.RECOMPRESSED: "recompressed",
    CopyKind.RESIZED: "resized",
    CopyKind.CONVERTED: "converted to another format",
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "scan",
        help="say what dedupfs would save in ordinary folders; needs no volume and writes nothing",
        description="Read ordinary folders, take every decision that copying them into a volume would lead to, and say"
        " what that would save: by kind of copy, and which files would be kept as versions of which. Needs no volume"
        " and no mount, writes nothing and follows no symbolic links. Pieces that files have in common which are no"
        " pictures and not equal as a whole are not counted.",
    )
    parser.add_argument("folders", metavar="FOLDER", nargs="+", help="a folder, or a single file")
    parser.add_argument(
        "--dedup",
        choices=[policy.value for policy in Policy],
        default=Policy.VERIFIED.value,
        help="the policy to scan under, see `dedupfs init --help`; verified if not given",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help=f"list everything, not only the first {_SHOWN_GROUPS} groups and copies of each",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with all groups")
    parser.add_argument(
        "--report",
        metavar="FILE",
        type=Path,
        help="write a page with thumbnails and names in the clear, too; it needs no network. Mode 0600",
    )
    parser.add_argument("--force", action="store_true", help="replace FILE where it exists")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Scan the folders. Exit code 1 when something in them could not be read."""
    folders = [os.fsencode(folder) for folder in options.folders]
    for folder in folders:
        if not os.path.exists(folder):
            raise UsageError(f"there is no {printable(folder)}")
    if options.report is not None:
        files.refuse(options.report, force=options.force)
    pool = WorkerPool(len(os.sched_getaffinity(0)))
    scan = Scan(pool, Policy(options.dedup))
    try:
        with Progress("scanning") as progress:
            scan.run(folders, progress.show)
        groups = scan.groups()
        # Before the page: what took hours to find out must not be lost with it.
        if options.json:
            print(json.dumps(_as_json(scan, groups), indent=2))
        else:
            print(_as_text(scan.totals(), groups, sys.maxsize if options.all else _SHOWN_GROUPS))
        sys.stdout.flush()
        if options.report is not None:
            with Progress("drawing") as progress:
                pieces = page(_head(scan, groups, folders), groups, scan.bytes_of, pool, progress.show)
                files.write(options.report, pieces, force=options.force)
    finally:
        pool.close()
    if scan.unreadable:
        first = printable(scan.unreadable[0])
        print(f"dedupfs: {len(scan.unreadable)} could not be read, such as {first}", file=sys.stderr)
        return FAILED
    return DONE


def _head(scan: Scan, groups: Sequence[Group], folders: Sequence[bytes]) -> Head:
    totals = scan.totals()
    saved = sum(group.saved_bytes for group in groups)
    return Head(
        "What dedupfs would save",
        ", ".join(map(printable, folders)),
        figures_of(totals.files, totals.size_bytes, saved, len(groups)),
        totals.stored_bytes,
    )


def _as_json(scan: Scan, groups: Sequence[Group]) -> dict[str, Any]:
    totals = scan.totals()
    return {
        "policy": scan.policy.value,
        "files": totals.files,
        "logical_bytes": totals.size_bytes,
        "stored_bytes": totals.stored_bytes,
        "saved_bytes": sum(group.saved_bytes for group in groups),
        "pictures": totals.pictures,
        "clusters": totals.clusters,
        "undecodable": totals.undecodable,
        "unreadable": [shown(path) for path in scan.unreadable],
        "kinds": {
            kind.value: {"files": share.files, "saved_bytes": share.saved_bytes}
            for kind, share in shares(groups).items()
        },
        "groups": [as_json(group) for group in groups],
    }


def _as_text(totals: Totals, groups: Sequence[Group], limit: int) -> str:
    lines = []
    for group in groups[:limit]:
        lines.append(f"{describe(group.kept)}, saves {human_bytes(group.saved_bytes)}")
        lines += [f"  {describe(version)}" for version in group.versions[:limit]]
        if len(group.versions) > limit:
            lines.append(f"  and {len(group.versions) - limit} more copies")
    if len(groups) > limit:
        lines.append(f"and {len(groups) - limit} more groups; --all lists them")
    if groups:
        lines.append("")
    saved = sum(group.saved_bytes for group in groups)
    share = f" ({100 * saved / totals.size_bytes:.1f} %)" if totals.size_bytes else ""
    lines += [
        f"files       {totals.files}, {human_bytes(totals.size_bytes)}",
        f"pictures    {totals.pictures}, of which {totals.clusters} would be kept as they are",
        f"saved       {human_bytes(saved)}{share}; {human_bytes(totals.stored_bytes)} would be stored",
    ]
    for kind, part in shares(groups).items():
        if part.files:
            lines.append(f"  {_KINDS[kind]:<28} {part.files:>7} files {human_bytes(part.saved_bytes):>10}")
    if totals.undecodable:
        lines.append(f"undecodable {totals.undecodable} files look like pictures and are not")
    return "\n".join(lines)
