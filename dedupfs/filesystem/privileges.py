"""Privileges: what makes a file run with more rights than its caller has, and goes when somebody changes the file.

The set-user-ID bit, the set-group-ID bit of a file that its group may execute, and capabilities. With the mount this is
agreed to be done here and not by the kernel, which would ask for capabilities before every write.
"""

from __future__ import annotations

import stat

from dedupfs.errors import IntegrityError
from dedupfs.filesystem.files import Files
from dedupfs.filesystem.handles import OpenFile
from dedupfs.filesystem.inodes import Inodes
from dedupfs.model import InodeNo
from dedupfs.storage.volume import Volume

CAPABILITY_XATTR = b"security.capability"


class Privileges:
    """The privileges of the files of one volume. Any thread."""

    def __init__(self, volume: Volume, inodes: Inodes, files: Files) -> None:
        self._store = volume.store
        self._metadata = volume.metadata
        self._inodes = inodes
        self._files = files

    def note(self, number: InodeNo) -> None:
        """Look at a file again before it is written to: it may have been given privileges; under the store's lock."""
        file = self._files.find(number)
        if file is not None:
            file.privileged = True

    def made(self, handle: int, mode: int) -> None:
        """Note that a handle is of a new file: it has no attributes yet; under the store's lock."""
        self._files.handle(handle).file.privileged = _without_bits(mode) != mode

    def before_write(self, handle: int, *, bits: bool) -> None:
        """Take away what a write through a handle takes; costs nothing where there is nothing to be taken.

        Args:
            bits: whether the writer may not keep the bits; capabilities always go.
        """
        file = self._files.handle(handle).file
        if file.privileged:
            self._before_write(file, bits=bits)

    def drop(self, number: InodeNo, *, bits: bool) -> None:
        """Take away the capabilities of an inode and, if `bits`, those bits."""
        with self._store.transaction() as transaction:
            inode = self._metadata.inode(number)
            if stat.S_ISDIR(inode.mode):
                # There the bits are about the files in it.
                return
            mode = _without_bits(inode.mode) if bits else inode.mode
            if self._has_capabilities(number):
                self._metadata.delete_xattr(transaction, number, CAPABILITY_XATTR)
            elif mode == inode.mode:
                return
            self._inodes.change(transaction, number, mode=mode)

    def _before_write(self, file: OpenFile, *, bits: bool) -> None:
        with self._store.lock:
            if not self._store.read_only:
                self.drop(file.inode, bits=bits)
                mode = self._metadata.inode(file.inode).mode
                file.privileged = _without_bits(mode) != mode

    def _has_capabilities(self, number: InodeNo) -> bool:
        try:
            return self._metadata.find_xattr(number, CAPABILITY_XATTR) is not None
        except IntegrityError:
            # Nobody can have them for what cannot be read.
            return False


def _without_bits(mode: int) -> int:
    if mode & stat.S_IXGRP:
        mode &= ~stat.S_ISGID
    return mode & ~stat.S_ISUID
