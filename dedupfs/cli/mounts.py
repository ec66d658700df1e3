"""From a mountpoint to the volume behind it, through the attributes that a mount answers on its root."""

from __future__ import annotations

import os
from pathlib import Path

from dedupfs.errors import UsageError
from dedupfs.mount.status import VOLUME_XATTR

_FILESYSTEM_TYPE = b"fuse.dedupfs"


def is_mounted(mountpoint: Path) -> bool:
    """Whether the kernel has a dedupfs mount there, alive or not."""
    wanted = os.path.realpath(mountpoint.parent) + "/" + mountpoint.name
    return any(each in (wanted, str(mountpoint)) for each in _mountpoints())


def mountpoint_above(path: Path) -> Path | None:
    """Return the dedupfs mountpoint below which a file lies, whose last name may be that of a link."""
    place = Path(os.path.realpath(path.parent)) / path.name
    above = [Path(each) for each in _mountpoints() if place.is_relative_to(each)]
    return max(above, key=lambda each: len(each.parts), default=None)


def refuse_mountpoint(place: Path, instead: str) -> None:
    """Raise UsageError for a mountpoint, where the directory of a volume is needed."""
    if is_mounted(place):
        raise UsageError(f"{place} is a mountpoint; {instead}")


def refuse_mounted(mountpoint: Path) -> None:
    """Raise UsageError where something of dedupfs is mounted already."""
    if not is_mounted(mountpoint):
        return
    volume = mount_status(mountpoint, VOLUME_XATTR)
    if volume is None:
        raise UsageError(f"a mount at {mountpoint} does not answer any more; dedupfs umount clears it away")
    raise UsageError(f"{volume} is mounted at {mountpoint} already")


def whereabouts_of(place: Path) -> str:
    """Return where a volume is mounted, as the end of a sentence that says it is in use; empty if nowhere."""
    place = place.absolute()
    if is_mounted(place):
        return f", mounted at {place}"
    directory = os.path.realpath(place)
    found = [each for each in _mountpoints() if mount_status(Path(each), VOLUME_XATTR) == directory]
    return f", mounted at {found[0]}" if found else ""


def _mountpoints() -> list[str]:
    """Return every place where the kernel has a dedupfs mount, alive or not."""
    # Other people's mountpoints may have any name, in no encoding, so this stays with bytes.
    lines = (line.split(b" ") for line in Path("/proc/self/mounts").read_bytes().split(b"\n"))
    return [_unescaped(fields[1]) for fields in lines if _FILESYSTEM_TYPE in fields[2:3]]


def mount_status(mountpoint: Path, name: bytes) -> str | None:
    """Return what a live mount answers, or None when there is none."""
    if not is_mounted(mountpoint):
        return None
    try:
        return os.fsdecode(os.getxattr(mountpoint, name))
    except OSError:
        return None


def volume_of(place: Path) -> tuple[Path, Path | None]:
    """Return the directory of a volume that is named by itself or by its mountpoint, and the mountpoint.

    What a live mount has finished is committed first, so that a reader of the volume sees it.
    Raises:
        UsageError: the process behind the mount does not answer.
    """
    place = place.absolute()
    if not is_mounted(place):
        return place, None
    volume = mount_status(place, VOLUME_XATTR)
    if volume is None:
        raise UsageError(f"the mount at {place} does not answer; dedupfs umount clears it away")
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return Path(volume), place


def _unescaped(field: bytes) -> str:
    return os.fsdecode(field.decode("unicode_escape").encode("latin-1"))
