"""How `export` and `import` tell of what they copied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dedupfs.cli.exitcodes import DONE, FAILED
from dedupfs.cli.names import printable
from dedupfs.cli.opened import shown
from dedupfs.cli.progress import Progress
from dedupfs.cli.stats import human_bytes
from dedupfs.filesystem.copying import Copied

_MEGABYTE = 1_000_000


def teller(progress: Progress) -> Callable[[bytes, str], None]:
    """Return what puts one line on standard error for each failure."""
    return lambda path, reason: progress.say(f"dedupfs: {printable(path)}: {reason}")


def bar(progress: Progress, total_bytes: int) -> Callable[[int], None]:
    """Return what shows how many bytes are done; made for `Progress("...", "MB")`."""
    total = -(-total_bytes // _MEGABYTE)
    return lambda done_bytes: progress.show(min(done_bytes // _MEGABYTE, total), total)


def exit_code(copied: Copied) -> int:
    """Return the exit code: damage or a failure is one, an attribute that the medium cannot hold is none."""
    return FAILED if copied.failures else DONE


def as_json(copied: Copied) -> dict[str, Any]:
    """Return the outcome as it is printed with --json."""
    return {
        "files": copied.files,
        "bytes": copied.file_bytes,
        "directories": copied.directories,
        "links": copied.links,
        "others": copied.others,
        "skipped": copied.skipped,
        "failures": [{"path": shown(path), "reason": reason} for path, reason in copied.failures],
        "without_attributes": [{"path": shown(path), "reason": reason} for path, reason in copied.left.items()],
    }


def as_text(copied: Copied, verb: str) -> str:
    """Return the outcome in a few lines."""
    lines = [f"{verb}   files {copied.files} ({human_bytes(copied.file_bytes)}), directories {copied.directories}"]
    if copied.links:
        lines.append(f"further names of a file   {copied.links}")
    if copied.others:
        lines.append(f"symbolic links, pipes, sockets and devices   {copied.others}")
    if copied.skipped:
        lines.append(f"there already, with the same size and time   {copied.skipped}")
    if copied.left:
        reasons = ", ".join(sorted(set(copied.left.values())))
        lines.append(f"there without all of their attributes   {len(copied.left)} ({reasons}); --json names them")
    if copied.failures:
        lines.append(f"not {verb}   {len(copied.failures)}, each named above")
    return "\n".join(lines)
