"""FileSubject: a closed file as the ingest pipeline sees it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dedupfs.filesystem.handles import OpenFile
from dedupfs.model import ContentId, Policy
from dedupfs.storage.store import Transaction
from dedupfs.storage.volume import Volume

if TYPE_CHECKING:
    from dedupfs.filesystem.files import Files


class FileSubject:
    """The bytes of a file as they were when it was submitted; void as soon as they change."""

    def __init__(self, files: Files, volume: Volume, file: OpenFile) -> None:
        self._files = files
        self._volume = volume
        self._file = file
        self._generation = file.generation

    @property
    def size_bytes(self) -> int:
        """How long the file is now."""
        spool = self._file.spool
        return 0 if spool is None else spool.size

    def data(self) -> bytes | None:
        """Return the bytes, or None when the file has changed or gone."""
        file = self._file
        with file.lock:
            if not self.is_current():
                return None
            spool = file.spool
            return self._files.loaded(spool) if spool is not None else None

    def policy(self, data: bytes) -> Policy:
        """Return the policy for the file where it is now."""
        return self._files.policies.of_file(self._file.inode)

    def is_current(self) -> bool:
        """Whether the bytes still are what the file holds."""
        return self._file.generation == self._generation

    def adopt(self, transaction: Transaction, content: ContentId) -> None:
        """Let the inode rest on the content, which has just been stored in the same transaction."""
        metadata, contents = self._volume.metadata, self._volume.contents
        inode = metadata.inode(self._file.inode)
        if inode.content != content:
            contents.link(transaction, content)
            if inode.content is not None:
                contents.unlink(transaction, inode.content)
        if self._file.unsaved:
            inode = self._files.store_attributes(inode, self._file)
        self._files.inodes.put_content(transaction, self._file.inode, replace(inode, content=content))
        metadata.set_unfinished(transaction, self._file.inode, None)

    def settled(self, content: ContentId) -> None:
        """Note, after the transaction, that the file is stored."""
        self._files.settled(self._file, content)

    def failed(self) -> None:
        """Leave the bytes in memory, to be stored when there is room."""
        with self._volume.store.lock:
            # Otherwise other bytes of the file may be queued by now.
            if self.is_current():
                self._file.queued = False
