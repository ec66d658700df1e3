"""`dedupfs stats`: what is in a volume and what it saves."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dedupfs.cli import passphrase
from dedupfs.cli.exitcodes import DONE
from dedupfs.cli.live import live_figures
from dedupfs.cli.mounts import is_mounted
from dedupfs.cli.names import visible
from dedupfs.cli.opened import add_arguments
from dedupfs.cli.watch import live_text, watch
from dedupfs.errors import StoreError

_WATCH_SECONDS = 2.0
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "stats",
        help="show what a volume holds and saves",
        description="Show what a volume holds and saves, as of its last commit. pictures counts files; clusters,"
        " representatives and renditions count distinct contents; exact_duplicates counts files whose bytes another"
        " file had before. A live mount, named by its MOUNTPOINT, answers itself: without a passphrase, as of now, and"
        " also tells what waits and what was read and written.",
    )
    add_arguments(parser)
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        type=_seconds,
        nargs="?",
        const=_WATCH_SECONDS,
        help="show them again every SECONDS (2) until interrupted; of a live mount also how much is read and written"
        " meanwhile. With --json, one line each time",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the statistics."""
    look = _eye(options)
    if options.watch is not None:
        watch(look, options.watch, as_json=options.json, as_text=_as_text)
        return DONE
    figures = look()
    print(json.dumps(figures, indent=2) if options.json else _as_text(figures) + live_text(figures))
    return DONE


def _eye(options: argparse.Namespace) -> Callable[[], dict[str, Any]]:
    """Return what looks at the volume, or at the mount; the passphrase is asked for once at most."""
    place: Path = options.volume.absolute()
    if is_mounted(place):

        def ask() -> dict[str, Any]:
            figures = live_figures(place)
            if figures is None:
                raise StoreError(f"{place} is not mounted any more")
            return figures

        return ask
    from dedupfs.filesystem.statistics import statistics
    from dedupfs.storage.volume import open_volume, unlock

    volume_key = unlock(place, passphrase.read(options))

    def look() -> dict[str, Any]:
        volume = open_volume(place, volume_key, read_only=True)
        try:
            return {"label": volume.config.label, **statistics(volume)}
        finally:
            volume.close()

    return look


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"not a number of seconds: {text} (VOLUME comes before --watch)")
    return seconds


def human_bytes(count: float) -> str:
    """Return a number of bytes with a decimal unit, such as 12.3 MB."""
    for unit in _UNITS:
        if count < 1000 or unit == _UNITS[-1]:
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def day(seconds: int) -> str:
    """Return the local date of a time in seconds since 1970."""
    return time.strftime("%Y-%m-%d", time.localtime(seconds))


def _as_text(figures: dict[str, Any]) -> str:
    logical, stored = figures["logical_bytes"], figures["stored_bytes"]
    saved = logical - stored
    lines = [f"volume       {visible(figures['label'])}"] if figures.get("label") else []
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
        until = "which will be looked at again" if "waiting" in figures else "until the volume is next mounted"
        lines.append(f"undecided    {figures['undecided']} pictures, {until}")
    if figures["originals"]:
        waiting = f"{figures['originals']} of renditions, {human_bytes(figures['original_bytes'])}"
        first, last = (day(figures[name]) for name in ("originals_until_s", "originals_last_until_s"))
        lines.append(f"originals    {waiting}, until {first}" + (f" to {last}" if last != first else ""))
    if figures["undecodable"]:
        lines.append(f"undecodable  {figures['undecodable']} files look like pictures and are not; stored exactly")
    return "\n".join(lines)
