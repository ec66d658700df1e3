"""`dedupfs compact`: give the room that removed files have left in a volume back to the disk."""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from dedupfs.cli import passphrase
from dedupfs.cli.exitcodes import DONE
from dedupfs.cli.mounts import volume_of
from dedupfs.cli.opened import add_arguments
from dedupfs.cli.progress import Progress
from dedupfs.cli.stats import human_bytes
from dedupfs.errors import IntegrityError
from dedupfs.storage.check import check
from dedupfs.storage.volume import Volume, compact_volume, unlock

_MB = 1_000_000
_ENDING = (signal.SIGTERM, signal.SIGHUP)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "compact",
        help="give free room inside a volume back to the disk",
        description="What is removed leaves room inside the volume, which later files use; the volume itself stays as"
        " large as it once was. This writes a copy without that room beside the database, compares the two and puts"
        " the copy in its place. It needs as much free room on the disk as the volume has data, and says how much is"
        " missing. The volume must not be mounted; a read-only mount may stay, keeps the old file, and its room, until"
        " it is unmounted. Can be interrupted at any time: the volume is as it was then. A damaged volume is left"
        " alone.",
    )
    add_arguments(parser, mountpoint=False)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Compact the volume and print what that gave back."""
    directory, _ = volume_of(options.volume)

    def examine(volume: Volume) -> None:
        with Progress("checking") as checking:
            problems = check(volume, progress=checking.show).problems
        if problems:
            raise IntegrityError(f"the volume is damaged ({len(problems)} problems)")

    volume_key = unlock(directory, passphrase.read(options))
    with _terminable(), Progress("compacting, MB:") as compacting:
        try:
            compacted = compact_volume(
                directory,
                volume_key,
                examine,
                progress=lambda done, total: compacting.show(done // _MB, total // _MB),
            )
        except IntegrityError as exc:
            hint = f"nothing was changed; `dedupfs check {directory}` tells what is damaged"
            raise IntegrityError(f"{exc}; {hint}") from exc
    before, after = compacted.before_bytes, compacted.after_bytes
    if options.json:
        print(json.dumps({"before_bytes": before, "after_bytes": after, "freed_bytes": before - after}, indent=2))
    else:
        print(f"{human_bytes(before)} on disk before, {human_bytes(after)} now")
    return DONE


@contextmanager
def _terminable() -> Iterator[None]:
    """Let a signal that asks for the end do what Ctrl-C does, so that nothing is left behind."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
