"""A volume opened for reading by a command, whether it is named by its directory or by its mountpoint."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dedupfs.cli import passphrase
from dedupfs.cli.mounts import volume_of

if TYPE_CHECKING:
    from dedupfs.storage.volume import Volume


@dataclass(frozen=True, slots=True)
class Opened:
    """The volume, and the mountpoint by which it was named."""

    volume: Volume
    mountpoint: Path | None


def add_arguments(parser: argparse.ArgumentParser, *, mountpoint: bool = True, optional: bool = False) -> None:
    """Add the argument that names the volume, the sources of its passphrase, and --json."""
    meaning = "the volume's directory, or its mountpoint" if mountpoint else "the volume's directory"
    parser.add_argument("volume", metavar="VOLUME", type=Path, nargs="?" if optional else None, help=meaning)
    parser.add_argument("--json", action="store_true", help="print JSON")
    passphrase.add_arguments(parser)


@contextmanager
def opened(
    options: argparse.Namespace,
    *,
    read_only: bool = True,
    whatever_state: bool = False,
    first: Callable[[Path, bytes], None] = lambda directory, volume_key: None,
) -> Iterator[Opened]:
    """Open the volume, for reading unless told otherwise; see `open_volume`.

    `first` is called with the directory and the volume key.
    """
    # Some commands can do without a volume: a live mount tells them what they want.
    from dedupfs.storage.volume import open_volume, unlock

    directory, mountpoint = volume_of(options.volume)
    volume_key = unlock(directory, passphrase.read(options))
    first(directory, volume_key)
    volume = open_volume(directory, volume_key, read_only=read_only, whatever_state=whatever_state)
    try:
        yield Opened(volume, mountpoint)
    finally:
        volume.close()


def shown(path: bytes) -> str:
    """Return a path as text that JSON and terminals can hold; bytes that are no UTF-8 become escapes."""
    return path.decode(errors="backslashreplace")
