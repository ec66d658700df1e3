"""What is done to a volume before it serves: a root where there is none, and order after a crash."""

from __future__ import annotations

import logging
import stat

from dedupfs.errors import EntryNotFoundError
from dedupfs.filesystem.inodes import Inodes
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
            assert number == ROOT


def has_root(volume: Volume) -> bool:
    """Whether the volume has a root directory; one that was never mounted has none."""
    try:
        volume.metadata.inode(ROOT)
    except EntryNotFoundError:
        return False
    return True


def recover(volume: Volume, inodes: Inodes) -> None:
    """Remove files that never had their bytes stored, with their names, and files that had lost their names."""
    metadata = volume.metadata
    for number, unfinished in metadata.all_unfinished():
        with volume.store.transaction() as transaction:
            for key in unfinished.entry_keys:
                transaction.delete(records.ENTRIES, key)
            inodes.delete(transaction, number)
        log.info("inode %d had not been stored when the volume was last in use; it is gone", number)
    for number in metadata.orphans():
        with volume.store.transaction() as transaction:
            inodes.delete(transaction, number)
