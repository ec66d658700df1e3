"""Attributes: what `stat` reports, how times move, and what becomes of an inode without a name."""

from __future__ import annotations

import stat
import time
from dataclasses import dataclass, replace

from dedupfs.errors import IntegrityError, InvalidRequestError
from dedupfs.model import InodeNo
from dedupfs.storage.records import Inode
from dedupfs.storage.store import Transaction
from dedupfs.storage.volume import Volume

PERMISSION_BITS = 0o7777
BLOCK_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Attributes:
    """What the mount reports of an inode; times in nanoseconds, `blocks` in units of 512 bytes."""

    inode: InodeNo
    mode: int
    uid: int
    gid: int
    rdev: int
    nlink: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


class Inodes:
    """Inode records, with the rules of POSIX for their times and counts."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._metadata = volume.metadata

    def now_ns(self) -> int:
        """Return the time that changes are stamped with."""
        return time.time_ns()

    def make(
        self, transaction: Transaction, mode: int, uid: int, gid: int, *, rdev: int = 0, parent: InodeNo | None = None,
        target: bytes = b"",
    ) -> InodeNo:  # fmt: skip
        """Write a new inode of any type, with no name yet."""
        now = self.now_ns()
        size = len(target) if stat.S_ISLNK(mode) else 0
        nlink = 2 if stat.S_ISDIR(mode) else 1
        inode = Inode(mode, uid, gid, rdev, nlink, size, now, now, now, parent or InodeNo(0), None, target)
        self._count(transaction, inode, 1)
        return self._metadata.new_inode(transaction, inode)

    def change(self, transaction: Transaction, number: InodeNo, **fields: int) -> Inode:
        """Change some fields of an inode and stamp its ctime."""
        fields.setdefault("ctime_ns", self.now_ns())
        inode = replace(self._metadata.inode(number), **fields)  # type: ignore[arg-type]
        self._metadata.put_inode(transaction, number, inode)
        return inode

    def change_if_sound(self, transaction: Transaction, number: InodeNo, **fields: int) -> None:
        """Change an inode, unless it is damaged: its names come and go all the same."""
        try:
            self.change(transaction, number, **fields)
        except IntegrityError:
            self._metadata.forget_stand_in(number)

    def put_content(self, transaction: Transaction, number: InodeNo, inode: Inode) -> None:
        """Write an inode whose size may have changed, and keep the totals."""
        before = self._metadata.inode(number)
        if stat.S_ISREG(inode.mode):
            transaction.count("logical_bytes", inode.size - before.size)
        self._metadata.put_inode(transaction, number, inode)

    def touch_directory(self, transaction: Transaction, number: InodeNo, links: int = 0) -> None:
        """Stamp a directory whose entries changed and count subdirectories that came or went."""
        now = self.now_ns()
        directory = self._metadata.inode(number)
        self._metadata.put_inode(
            transaction, number, replace(directory, nlink=directory.nlink + links, mtime_ns=now, ctime_ns=now)
        )

    def delete(self, transaction: Transaction, number: InodeNo) -> None:
        """Remove an inode that has neither names nor handles, and let its content go."""
        inode = self._metadata.inode(number)
        if inode.content is not None:
            self._volume.contents.unlink(transaction, inode.content)
        self._count(transaction, inode, -1)
        self._metadata.delete_inode(transaction, number)

    @staticmethod
    def _count(transaction: Transaction, inode: Inode, sign: int) -> None:
        if stat.S_ISDIR(inode.mode):
            transaction.count("directories", sign)
        elif stat.S_ISREG(inode.mode):
            transaction.count("files", sign)
            transaction.count("logical_bytes", sign * inode.size)


def check_mode(mode: int) -> None:
    """Refuse types of inodes that do not exist. Raises InvalidRequestError."""
    if stat.S_IFMT(mode) not in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK):
        raise InvalidRequestError("no such type of file can be made")
