"""`dedupfs metrics`: the numbers of a volume in the text format of Prometheus."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dedupfs.cli import passphrase
from dedupfs.cli.exitcodes import DONE
from dedupfs.cli.live import live_figures
from dedupfs.cli.opened import opened

_GAUGE, _COUNTER = "gauge", "counter"
_METRICS = (
    ("files", _GAUGE, "Names of regular files count once for each file."),
    ("directories", _GAUGE, "Directories."),
    ("logical_bytes", _GAUGE, "Sum of the sizes of all files."),
    ("stored_bytes", _GAUGE, "Ciphertext of their bytes."),
    ("database_bytes", _GAUGE, "Disk space of the database."),
    ("chunks", _GAUGE, "Pieces of files that are stored."),
    ("pictures", _GAUGE, "Files that are pictures."),
    ("clusters", _GAUGE, "Groups of pictures that look the same."),
    ("renditions", _GAUGE, "Contents that are drawn from another picture."),
    ("bit_exact_renditions", _GAUGE, "Renditions that are identical with what was written."),
    ("exact_duplicates", _GAUGE, "Files whose bytes another file had before."),
    ("undecided", _GAUGE, "Pictures that are stored and not compared yet."),
    ("undecodable", _GAUGE, "Contents that look like pictures and are not."),
    ("originals", _GAUGE, "Exact bytes of renditions that are kept for a while."),
    ("original_bytes", _GAUGE, "Their bytes, before encryption."),
    ("originals_until_s", _GAUGE, "When the first of them goes, in seconds since 1970."),
    ("originals_last_until_s", _GAUGE, "When the last of them goes."),
    ("keep_originals_days", _GAUGE, "For how many days new ones are kept."),
    ("free_bytes", _GAUGE, "Room on the disk of the volume."),
    ("waiting", _GAUGE, "Files that wait to be decided about or stored."),
    ("waiting_bytes", _GAUGE, "Written bytes in memory."),
    ("open_files", _GAUGE, "Open handles."),
    ("mounted_seconds", _GAUGE, "How long the volume has been mounted."),
    ("requests", _COUNTER, "Requests of the kernel since then."),
    ("read_bytes", _COUNTER, "Bytes read since then."),
    ("written_bytes", _COUNTER, "Bytes written since then."),
)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "metrics",
        help="print numbers for Prometheus",
        description="Print the numbers of a volume in the text format of Prometheus, for the textfile collector of its"
        " node_exporter. A live mount answers by its MOUNTPOINT without a passphrase, and tells of its traffic too;"
        " by the volume's directory the numbers are those of the last commit. `stats --json` has the same as JSON.",
    )
    parser.add_argument("volume", metavar="VOLUME", type=Path, help="the volume's directory, or its mountpoint")
    passphrase.add_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the metrics."""
    place: Path = options.volume.absolute()
    figures = live_figures(place)
    is_up = figures is not None
    if figures is None:
        from dedupfs.filesystem.statistics import statistics

        with opened(options) as found:
            figures = statistics(found.volume)
    print(as_text({**figures, "mounted": int(is_up)}, place), end="")
    return DONE


def as_text(figures: dict[str, Any], place: Path) -> str:
    """Return figures in the exposition format, labelled with the place by which the volume was named."""
    escaped = str(place).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    label = '{volume="' + escaped.encode(errors="backslashreplace").decode() + '"}'
    lines = []
    for name, kind, meaning in (("mounted", _GAUGE, "Whether a live mount has answered."), *_METRICS):
        value = figures.get(name)
        if value is None:
            continue
        full = f"dedupfs_{name}" + ("_total" if kind == _COUNTER else "")
        lines += [f"# HELP {full} {meaning}", f"# TYPE {full} {kind}", f"{full}{label} {value}"]
    return "\n".join(lines) + "\n"
