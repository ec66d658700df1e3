"""What is done to a volume before it serves: a root where there is none, and order after a crash."""

from __future__ import annotations

import logging
import stat
from collections.abc import Sequence

from dedupfs.errors import EntryNotFoundError, IntegrityError
from dedupfs.filesystem.inodes import Inodes
from dedupfs.model import InodeNo
from dedupfs.storage import records
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.volume import Volume

log = logging.getLogger(__name__)

_ROOT_MODE = 0o755


def make_root(volume: Volume, inodes: Inodes, uid: int = 0, gid: int = 0) -> None:
    """Make the root directory of a volume that has none."""
    if not has_root(volume):
        with volume.store.transaction() as transaction:
            number = inodes.make(transaction, stat.S_IFDIR | _ROOT_MODE, uid, gid)
            if number != ROOT:
                raise IntegrityError("the root directory is missing; `dedupfs check --repair` makes a new one")


def has_root(volume: Volume) -> bool:
    """Whether the volume has a root directory; one that was never mounted has none."""
    try:
        volume.metadata.inode(ROOT)
    except EntryNotFoundError:
        return False
    return True


def recover(volume: Volume, inodes: Inodes) -> None:
    """Remove files that never had their bytes stored, with their names, and files that had lost their names.

    What is damaged about them keeps nobody from the rest.
    """
    metadata = volume.metadata
    for number, unfinished in metadata.all_unfinished():
        if _remove(volume, inodes, number, unfinished.entry_keys):
            log.info("inode %d had not been stored when the volume was last in use; it is gone", number)
    for number in metadata.orphans():
        _remove(volume, inodes, number)


def _remove(volume: Volume, inodes: Inodes, number: InodeNo, entry_keys: Sequence[bytes] = ()) -> bool:
    try:
        with volume.store.transaction() as transaction:
            for key in entry_keys:
                transaction.delete(records.ENTRIES, key)
            inodes.delete(transaction, number)
    except (IntegrityError, EntryNotFoundError) as exc:
        log.error("inode %d is to be removed and cannot be until `dedupfs check --repair`: %s", number, exc)
        return False
    return True
