"""`dedupfs stats --watch`: the numbers again and again, with what happens in between."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from dedupfs.cli.progress import duration

Figures = dict[str, Any]


def watch(look: Callable[[], Figures], seconds: float, *, as_json: bool, as_text: Callable[[Figures], str]) -> None:
    """Show figures until interrupted: in place on a terminal, otherwise one block, or one line of JSON, each time.

    Raises what `look` raises: the mount may go.
    """
    is_terminal = sys.stdout.isatty() and not as_json
    before: Figures | None = None
    shown_lines = 0
    due = time.monotonic()
    try:
        while True:
            figures = look() | {"time": round(time.time(), 3)}
            figures |= rates(before, figures)
            if as_json:
                print(json.dumps(figures), flush=True)
            else:
                text = as_text(figures) + live_text(figures)
                # Up to the first line of what is there, and away with it.
                print((f"\x1b[{shown_lines}F\x1b[J" if is_terminal and shown_lines else "") + text, flush=True)
                shown_lines = text.count("\n") + 1
            before = figures
            due = max(due + seconds, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
    except KeyboardInterrupt:
        # That is how one stops watching.
        return


def rates(before: Figures | None, now: Figures) -> Figures:
    """Return what has happened each second since the figures before, as far as both are of one live mount."""
    if before is None or "mounted_seconds" not in before or before["pid"] != now["pid"]:
        return {}
    elapsed = now["mounted_seconds"] - before["mounted_seconds"]
    if elapsed <= 0:
        return {}
    return {
        f"{name}_per_second": round((now[name] - before[name]) / elapsed, 1)
        for name in ("requests", "read_bytes", "written_bytes")
    }


def live_text(figures: Figures) -> str:
    """Return the lines that only a live mount can fill."""
    if "mounted_seconds" not in figures:
        return ""
    lines = [
        f"waiting      {figures['waiting']} files, {figures['waiting_bytes'] / 1e6:.1f} MB in memory",
        f"open         {figures['open_files']} files; {figures['free_bytes'] / 1e9:.1f} GB free on the disk",
    ]
    if "requests_per_second" in figures:
        lines.append(
            f"traffic      {figures['read_bytes_per_second'] / 1e6:.1f} MB/s read,"
            f" {figures['written_bytes_per_second'] / 1e6:.1f} MB/s written,"
            f" {figures['requests_per_second']:.0f} requests/s"
        )
    else:
        lines.append(
            f"traffic      {figures['read_bytes'] / 1e6:.1f} MB read, {figures['written_bytes'] / 1e6:.1f} MB written"
            f" in {duration(figures['mounted_seconds'])}"
        )
    return "\n" + "\n".join(lines)
