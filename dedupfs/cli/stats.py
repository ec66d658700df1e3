"""`dedupfs stats`: what is in a volume and what it saves."""

from __future__ import annotations

import argparse
import json
from typing import Any

from dedupfs.cli.exitcodes import DONE
from dedupfs.cli.opened import add_arguments, opened
from dedupfs.storage.records import FORMAT_VERSION
from dedupfs.storage.volume import Volume

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "stats",
        help="show what a volume holds and saves",
        description="Show what a volume holds and saves, as of its last commit. pictures counts files; clusters,"
        " representatives and renditions count distinct contents; exact_duplicates counts files whose bytes another"
        " file had before.",
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the statistics."""
    with opened(options) as found:
        figures = statistics(found.volume)
    print(json.dumps(figures, indent=2) if options.json else _as_text(figures))
    return DONE


def statistics(volume: Volume) -> dict[str, Any]:
    """Return the figures of a volume, in the order in which they are shown."""
    counters = volume.store.counters

    def count(name: str) -> int:
        return counters.get(name, 0)

    stored = count("stored_bytes")
    return {
        "label": volume.config.label,
        "policy": volume.config.policy.value,
        "format_version": FORMAT_VERSION,
        "files": count("files"),
        "directories": count("directories"),
        "logical_bytes": count("logical_bytes"),
        "stored_bytes": stored,
        "database_bytes": volume.store.engine.allocated_bytes(),
        "dedup_ratio": round(count("logical_bytes") / stored, 4) if stored else None,
        "chunks": count("chunks"),
        "pictures": count("pictures"),
        "clusters": count("clusters"),
        "representatives": count("clusters"),
        "renditions": count("renditions"),
        "bit_exact_renditions": count("bit_exact_renditions"),
        "exact_duplicates": count("exact_duplicates"),
        "undecided": count("undecided"),
        "undecodable": count("undecodable"),
    }


def human_bytes(count: float) -> str:
    """Return a number of bytes with a decimal unit, such as 12.3 MB."""
    for unit in _UNITS:
        if count < 1000 or unit == _UNITS[-1]:
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def _as_text(figures: dict[str, Any]) -> str:
    logical, stored = figures["logical_bytes"], figures["stored_bytes"]
    saved = logical - stored
    lines = [f"volume       {figures['label']}"] if figures["label"] else []
    lines += [
        f"policy       {figures['policy']}",
        f"files        {figures['files']} in {figures['directories']} directories, {human_bytes(logical)}",
        f"stored       {human_bytes(stored)} encrypted, {human_bytes(figures['database_bytes'])} on disk",
    ]
    if logical:
        lines.append(f"saved        {human_bytes(max(saved, 0))} ({100 * max(saved, 0) / logical:.1f} %)")
    lines += [
        f"pictures     {figures['pictures']} in {figures['clusters']} clusters",
        f"renditions   {figures['renditions']}, of which {figures['bit_exact_renditions']} are identical bit for bit",
        f"duplicates   {figures['exact_duplicates']} exact copies of other files",
    ]
    if figures["undecided"]:
        lines.append(f"undecided    {figures['undecided']} pictures, until the volume is next mounted")
    if figures["undecodable"]:
        lines.append(f"undecodable  {figures['undecodable']} files look like pictures and are not; stored exactly")
    return "\n".join(lines)
