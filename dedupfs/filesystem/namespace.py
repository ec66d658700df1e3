"""The directory tree: names come, move and go; what happens to the inodes behind them follows from that.

Every method that changes something runs inside the caller's transaction and returns the inodes that lost a name, so
that the caller can let go of those nobody has open.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, replace

from dedupfs.errors import (
    EntryExistsError,
    EntryNotFoundError,
    InvalidRequestError,
    IsDirectoryError,
    NameTooLongError,
    NotDirectoryError,
    NotEmptyError,
    NotPermittedError,
    TooManyLinksError,
)
from dedupfs.filesystem.inodes import Inodes
from dedupfs.filesystem.whereabouts import Whereabouts
from dedupfs.model import InodeNo
from dedupfs.storage.kept import DIRECTORY_NAME
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.records import Entry, Inode
from dedupfs.storage.store import Transaction
from dedupfs.storage.volume import Volume

NAME_MAX_BYTES = 255
LINK_TARGET_MAX_BYTES = 4095
LINK_MAX = 65_000


@dataclass(frozen=True, slots=True)
class Lost:
    """An inode that has lost a name: how many it has left."""

    inode: InodeNo
    nlink: int


class Namespace:
    """Lookup and change of directory entries."""

    def __init__(self, volume: Volume, inodes: Inodes, whereabouts: Whereabouts | None = None) -> None:
        """`whereabouts`, where there is one, is told of every name that leads to an inode."""
        self._volume = volume
        self._metadata = volume.metadata
        self._inodes = inodes
        self._whereabouts = whereabouts

    def lookup(self, parent: InodeNo, name: bytes) -> InodeNo:
        """Return the inode of a name. Raises EntryNotFoundError, NotDirectoryError or NameTooLongError."""
        check_name(name)
        if name == b".":
            return parent
        entry = self._find(parent, name)
        if entry is None:
            if not stat.S_ISDIR(self._metadata.inode(parent).mode):
                raise NotDirectoryError("not a directory")
            raise EntryNotFoundError("no such entry")
        self._found(entry.inode, parent, name)
        return entry.inode

    def enter(self, transaction: Transaction, parent: InodeNo, name: bytes, inode: InodeNo) -> None:
        """Give a new inode its first name. Raises EntryExistsError and what `lookup` raises."""
        self.check_free(parent, name)
        mode = self._metadata.inode(inode).mode
        self._metadata.put_entry(transaction, parent, Entry(inode, stat.S_IFMT(mode), name))
        self._found(inode, parent, name)
        self._inodes.touch_directory(transaction, parent, links=int(stat.S_ISDIR(mode)))

    def link(self, transaction: Transaction, inode: InodeNo, parent: InodeNo, name: bytes) -> None:
        """Give an inode one more name. Raises NotPermittedError for directories, TooManyLinksError, and as `enter`."""
        record = self._metadata.inode(inode)
        if stat.S_ISDIR(record.mode):
            raise NotPermittedError("a directory can have one name only")
        if record.nlink >= LINK_MAX:
            raise TooManyLinksError(f"an inode can have {LINK_MAX} names")
        if not record.nlink:
            raise EntryNotFoundError("the file has been removed")
        self.enter(transaction, parent, name, inode)
        self._inodes.change(transaction, inode, nlink=record.nlink + 1)
        self._note_unfinished(transaction, inode, gained=(parent, name))

    def unlink(self, transaction: Transaction, parent: InodeNo, name: bytes) -> Lost:
        """Take a name off anything but a directory."""
        entry = self._entry(parent, name)
        if stat.S_ISDIR(entry.type_bits):
            raise IsDirectoryError("is a directory")
        self._metadata.delete_entry(transaction, parent, name)
        self._inodes.touch_directory(transaction, parent)
        return self._lose_name(transaction, entry.inode, parent, name)

    def rmdir(self, transaction: Transaction, parent: InodeNo, name: bytes) -> Lost:
        """Remove an empty directory."""
        if name == b".":
            raise InvalidRequestError("a directory cannot be removed by the name .")
        entry = self._entry(parent, name)
        self._check_empty(entry)
        self._metadata.delete_entry(transaction, parent, name)
        self._inodes.touch_directory(transaction, parent, links=-1)
        return Lost(entry.inode, 0)

    def rename(
        self, transaction: Transaction, parent: InodeNo, name: bytes, new_parent: InodeNo, new_name: bytes
    ) -> Lost | None:
        """Move an entry, over an existing one too, and return what the target's inode has lost.

        Two names of one inode are left alone, as POSIX asks.
        """
        for each in (name, new_name):
            if each in (b".", b".."):
                raise InvalidRequestError("the names . and .. cannot be moved")
        entry = self._entry(parent, name)
        is_directory = stat.S_ISDIR(entry.type_bits)
        if is_directory:
            self._check_not_below(entry.inode, new_parent)
        self._check_directory(new_parent)
        check_name(new_name)
        _refuse_hidden(new_parent, new_name)
        target = self._find(new_parent, new_name)
        lost = None
        if target is not None:
            if target.inode == entry.inode:
                return None
            if stat.S_ISDIR(target.type_bits):
                if not is_directory:
                    raise IsDirectoryError("a directory cannot be replaced by a file")
                self._check_empty(target)
                self._inodes.touch_directory(transaction, new_parent, links=-1)
                lost = Lost(target.inode, 0)
            elif is_directory:
                raise NotDirectoryError("a file cannot be replaced by a directory")
            else:
                lost = self._lose_name(transaction, target.inode, new_parent, new_name)
        self._metadata.delete_entry(transaction, parent, name)
        self._metadata.put_entry(transaction, new_parent, replace(entry, name=new_name))
        self._found(entry.inode, new_parent, new_name)
        moved_links = int(is_directory)
        self._inodes.touch_directory(transaction, parent, links=-moved_links)
        self._inodes.touch_directory(transaction, new_parent, links=moved_links)
        if is_directory:
            self._inodes.change(transaction, entry.inode, parent=new_parent)
        else:
            self._inodes.change_if_sound(transaction, entry.inode)
            self._note_unfinished(transaction, entry.inode, gained=(new_parent, new_name), lost=(parent, name))
        return lost

    def list(self, directory: InodeNo) -> list[Entry]:
        """Return the entries of a directory without . and .., in a stable order."""
        entries = self._metadata.entries(directory)
        return [entry for entry in entries if not is_hidden(directory, entry.name)] if directory == ROOT else entries

    def hidden_directories(self, directory: InodeNo) -> int:
        """Return how many directories in one are not shown."""
        return int(directory == ROOT and self._volume.kept.directory() is not None)

    def parent_of(self, directory: InodeNo) -> InodeNo:
        """Return the directory above; the root is its own."""
        return self._metadata.inode(directory).parent or ROOT

    def check_free(self, parent: InodeNo, name: bytes) -> None:
        """Raise unless a new entry of this name can be made in the directory."""
        self._check_directory(parent)
        check_name(name)
        _refuse_hidden(parent, name)
        if name in (b".", b"..") or self._find(parent, name) is not None:
            raise EntryExistsError("the name is taken")

    def _found(self, number: InodeNo, parent: InodeNo, name: bytes) -> None:
        if self._whereabouts is not None:
            self._whereabouts.note(number, parent, name)

    def _entry(self, parent: InodeNo, name: bytes) -> Entry:
        self._check_directory(parent)
        check_name(name)
        entry = self._find(parent, name)
        if entry is None:
            raise EntryNotFoundError("no such entry")
        return entry

    def _find(self, parent: InodeNo, name: bytes) -> Entry | None:
        return None if is_hidden(parent, name) else self._metadata.find_entry(parent, name)

    def _check_directory(self, number: InodeNo) -> Inode:
        inode = self._metadata.inode(number)
        if not stat.S_ISDIR(inode.mode):
            raise NotDirectoryError("not a directory")
        if not inode.nlink:
            raise EntryNotFoundError("the directory has been removed")
        return inode

    def _check_empty(self, entry: Entry) -> None:
        if not stat.S_ISDIR(entry.type_bits):
            raise NotDirectoryError("not a directory")
        if self._metadata.entries(entry.inode):
            raise NotEmptyError("the directory is not empty")

    def _check_not_below(self, moved: InodeNo, new_parent: InodeNo) -> None:
        above = new_parent
        while above not in (ROOT, InodeNo(0)):
            if above == moved:
                raise InvalidRequestError("a directory cannot be moved below itself")
            above = self._metadata.inode(above).parent

    def _lose_name(self, transaction: Transaction, inode: InodeNo, parent: InodeNo, name: bytes) -> Lost:
        record = self._metadata.inode_or_stand_in(inode)
        self._inodes.change_if_sound(transaction, inode, nlink=record.nlink - 1)
        self._note_unfinished(transaction, inode, lost=(parent, name))
        return Lost(inode, record.nlink - 1)

    def _note_unfinished(
        self,
        transaction: Transaction,
        inode: InodeNo,
        gained: tuple[InodeNo, bytes] | None = None,
        lost: tuple[InodeNo, bytes] | None = None,
    ) -> None:
        """Keep track of where a file without stored bytes can be found, so that it can vanish whole in a crash."""
        unfinished = self._metadata.unfinished(inode)
        if unfinished is None:
            return
        keys = list(unfinished.entry_keys)
        if lost is not None:
            keys.remove(self._metadata.entry_key(*lost))
        if gained is not None:
            keys.append(self._metadata.entry_key(*gained))
        self._metadata.set_unfinished(transaction, inode, tuple(keys))


def is_hidden(parent: InodeNo, name: bytes) -> bool:
    """Whether a name is that of the directory that holds kept originals."""
    return parent == ROOT and name == DIRECTORY_NAME


def _refuse_hidden(parent: InodeNo, name: bytes) -> None:
    if is_hidden(parent, name):
        raise NotPermittedError("dedupfs has a directory of this name, which is not shown")


def check_name(name: bytes) -> None:
    """Raise NameTooLongError or InvalidRequestError for what cannot be a name."""
    if len(name) > NAME_MAX_BYTES:
        raise NameTooLongError(f"a name has at most {NAME_MAX_BYTES} bytes")
    if not name or b"/" in name or b"\0" in name:
        raise InvalidRequestError("not a name")
