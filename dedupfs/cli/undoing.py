"""What `restore` and `split` have in common: files named by their paths, on mounts or in a volume without one."""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dedupfs.cli import passphrase
from dedupfs.cli.exitcodes import DONE, FAILED
from dedupfs.cli.mounts import mountpoint_above, refuse_mountpoint
from dedupfs.cli.names import printable
from dedupfs.errors import DedupfsError, InUseError, NoAttributeError, NotPermittedError, StoreReadOnlyError, UsageError
from dedupfs.filesystem.filesystem import FileSystem
from dedupfs.filesystem.opening import open_filesystem
from dedupfs.model import InodeNo
from dedupfs.mount.status import SETTLE_XATTR
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.volume import open_volume, unlock

_SAID = {
    errno.EBUSY: "it, or a file of the same bytes, is open",
    errno.ENODATA: "its original is not kept any more, or never was",
    errno.EPERM: "it is no file, or not yours",
    errno.EROFS: "the volume is mounted for reading only",
    errno.EIO: "its bytes, or those of the picture it rests on, are damaged",
}
_RAISED = {
    InUseError: errno.EBUSY,
    NoAttributeError: errno.ENODATA,
    NotPermittedError: errno.EPERM,
    StoreReadOnlyError: errno.EROFS,
}


@dataclass(frozen=True, slots=True)
class Undoing:
    """One way to undo: the attribute by which a mount is told, what does it without one, and its past tense."""

    xattr: bytes
    call: Callable[[FileSystem, InodeNo], None]
    done: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the paths, and the volume where it is not mounted."""
    parser.add_argument("paths", metavar="PATH", nargs="+", help="a file below a mountpoint, or with --volume in it")
    parser.add_argument("--volume", metavar="VOLUME", type=Path, help="the directory of a volume that is not mounted")
    parser.add_argument("--json", action="store_true", help="print JSON")
    passphrase.add_arguments(parser)


def run(options: argparse.Namespace, undoing: Undoing) -> int:
    """Undo for every path; a failure keeps none of the others from being done."""
    paths = [os.fsencode(path) for path in options.paths]
    outcome: dict[bytes, str | None]
    if options.volume is None:
        outcome = {path: _by_mount(path, undoing) for path in _settled(paths)}
    else:
        with _opened(options) as filesystem:
            outcome = {path: _by_path(filesystem, path, undoing) for path in paths}
    failed = {path: reason for path, reason in outcome.items() if reason is not None}
    if options.json:
        listed = [
            {"path": printable(path), "done": reason is None, "error": reason} for path, reason in outcome.items()
        ]
        print(json.dumps(listed, indent=2))
    else:
        for path, reason in failed.items():
            print(f"dedupfs: {printable(path)}: {reason}", file=sys.stderr)
        print(f"{undoing.done} {len(outcome) - len(failed)} of {len(outcome)} files")
    return FAILED if failed else DONE


def _settled(paths: list[bytes]) -> Iterable[bytes]:
    """Have every mount settled on which there are paths, so that none of them still waits; return the paths."""
    mountpoints = set()
    for path in paths:
        mountpoint = mountpoint_above(Path(os.fsdecode(path)).absolute())
        if mountpoint is None:
            raise UsageError(f"{printable(path)} is below no mountpoint of dedupfs; mount its volume, or name --volume")
        mountpoints.add(mountpoint)
    for mountpoint in mountpoints:
        try:
            os.getxattr(mountpoint, SETTLE_XATTR)
        except OSError as exc:
            if exc.errno not in (errno.EPERM, errno.EACCES):
                raise UsageError(f"the mount at {mountpoint} does not answer: {exc.strerror}") from exc
    return paths


def _by_mount(path: bytes, undoing: Undoing) -> str | None:
    """Return None when it is done, or the reason why it is not."""
    try:
        os.setxattr(path, undoing.xattr, b"", follow_symlinks=False)
    except OSError as exc:
        return _SAID.get(exc.errno or 0, exc.strerror or str(exc))
    return None


def _by_path(filesystem: FileSystem, path: bytes, undoing: Undoing) -> str | None:
    number = ROOT
    try:
        for name in path.split(b"/"):
            if name:
                number = filesystem.lookup(number, name)
        undoing.call(filesystem, number)
    except DedupfsError as exc:
        return _SAID.get(_RAISED.get(type(exc), 0), str(exc))
    return None


@contextmanager
def _opened(options: argparse.Namespace) -> Iterator[FileSystem]:
    directory: Path = options.volume.absolute()
    refuse_mountpoint(directory, "without --volume, paths below it are enough")
    volume_key = unlock(directory, passphrase.read(options))
    filesystem = open_filesystem(open_volume(directory, volume_key))
    try:
        filesystem.settle()
        yield filesystem
    finally:
        filesystem.close()
