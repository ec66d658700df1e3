"""FileSystem: one method per POSIX operation, on inodes and handles; knows nothing of FUSE.

Names and attributes are here; extended attributes are the business of `xattrs`, the bytes of files that of `files`.
Every operation is one transaction of the store, so that it happens as a whole or not at all. A new file whose bytes are
not stored yet is noted as unfinished, so that a crash leaves it whole or absent; an old one keeps its old bytes until
the new ones are stored.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from dataclasses import dataclass
from typing import Any

from dedupfs.errors import (
    DedupfsError,
    IntegrityError,
    InvalidRequestError,
    NameTooLongError,
    NotDirectoryError,
    StaleInodeError,
    StoreError,
    StoreFullError,
)
from dedupfs.filesystem.files import SPOOL_BUDGET_BYTES, Files
from dedupfs.filesystem.inodes import BLOCK_BYTES, PERMISSION_BITS, Attributes, Inodes, check_mode
from dedupfs.filesystem.memory import DEFAULT_BYTES
from dedupfs.filesystem.namespace import LINK_TARGET_MAX_BYTES, Lost, Namespace
from dedupfs.filesystem.policies import Policies
from dedupfs.filesystem.privileges import Privileges
from dedupfs.filesystem.recovery import has_root, make_root, recover
from dedupfs.filesystem.statistics import statistics
from dedupfs.filesystem.undo import Undo
from dedupfs.filesystem.whereabouts import Whereabouts
from dedupfs.filesystem.xattrs import Xattrs
from dedupfs.ingest.pipeline import Pipeline
from dedupfs.ingest.renderer import Renderer
from dedupfs.model import InodeNo
from dedupfs.storage.records import Entry
from dedupfs.storage.store import Transaction
from dedupfs.storage.volume import Volume

log = logging.getLogger(__name__)

LAST_SECONDS = 30.0
"""How long an unmount waits for room on a full disk before it gives up what is in memory alone."""
_LAST_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Space:
    """What `statfs` reports, in bytes and inodes."""

    total_bytes: int
    free_bytes: int
    files: int


class FileSystem:
    """The files of one volume."""

    def __init__(
        self,
        volume: Volume,
        pipeline: Pipeline,
        renderer: Renderer,
        *,
        spool_budget_bytes: int = SPOOL_BUDGET_BYTES,
        memory_bytes: int = DEFAULT_BYTES,
        last_seconds: float = LAST_SECONDS,
    ) -> None:
        """Bring the volume into order after a crash, make a root where there is none, and go on with what is undecided.

        Raises:
            StoreError, IntegrityError: the volume cannot be brought into order.
        """
        self._last_seconds = last_seconds
        self._memory_bytes = memory_bytes
        self._volume = volume
        self._store = volume.store
        self._metadata = volume.metadata
        self._contents = volume.contents
        self._pipeline = pipeline
        self._renderer = renderer
        self._inodes = Inodes(volume)
        self._whereabouts = whereabouts = Whereabouts(volume)
        self._names = Namespace(volume, self._inodes, whereabouts)
        policies = Policies(volume, whereabouts)
        self.files = Files(volume, self._inodes, pipeline, renderer, policies, spool_budget_bytes)
        self._undo = Undo(volume, self._inodes, self.files, pipeline, renderer)
        self.privileges = Privileges(volume, self._inodes, self.files)
        self._xattrs = Xattrs(volume, self._inodes, self.files, self.privileges, whereabouts)
        if not self._store.read_only:
            self._metadata.mend_numbers()
            make_root(volume, self._inodes, os.getuid(), os.getgid())
            recover(volume, self._inodes)
            pipeline.start(self.files.content_in_use)
            self.files.start(self._undo.expire_now_and_then)
        elif not has_root(volume):
            raise StoreError("the volume has never been mounted for writing and holds nothing to be read")

    # Names

    def lookup(self, parent: InodeNo, name: bytes) -> InodeNo:
        """Return the inode of a name; `.` of any inode, not only of a directory, is that inode.

        Raises EntryNotFoundError, NotDirectoryError, NameTooLongError, StaleInodeError.
        """
        if name == b".":
            self._metadata.inode(parent)
            return parent
        if name == b"..":
            return self._names.parent_of(parent)
        return self._names.lookup(parent, name)

    def attributes_of(self, parent: InodeNo, name: bytes) -> Attributes:
        """Return the attributes of what a name leads to. Raises what `lookup` raises."""
        with self._store.lock:
            number = self.lookup(parent, name)
            try:
                return self.attributes(number)
            except StaleInodeError:
                # The name is still there, so damage has taken the inode.
                self._metadata.note_lost(number)
                return self.attributes(number)

    def list_directory(self, directory: InodeNo) -> list[Entry]:
        """Return the entries of a directory, with . and .. first."""
        with self._store.lock:
            if not stat.S_ISDIR(self._metadata.inode(directory).mode):
                raise NotDirectoryError("not a directory")
            dots = [Entry(directory, stat.S_IFDIR, b"."), Entry(self._names.parent_of(directory), stat.S_IFDIR, b"..")]
            return dots + self._names.list(directory)

    def make_directory(self, parent: InodeNo, name: bytes, mode: int, uid: int, gid: int) -> InodeNo:
        """Make a directory and return its inode."""
        with self._store.transaction() as transaction:
            self._names.check_free(parent, name)
            above = self._metadata.inode(parent)
            inherited = above.mode & stat.S_ISGID
            number = self._inodes.make(
                transaction,
                stat.S_IFDIR | mode & PERMISSION_BITS | inherited,
                uid,
                above.gid if inherited else gid,
                parent=parent,
            )
            self._names.enter(transaction, parent, name, number)
            return number

    def make_node(self, parent: InodeNo, name: bytes, mode: int, uid: int, gid: int, rdev: int = 0) -> InodeNo:
        """Make an empty file, a pipe, a socket or a device and return its inode."""
        return self._make(parent, name, mode, uid, gid, rdev=rdev)

    def make_link(self, parent: InodeNo, name: bytes, target: bytes, uid: int, gid: int) -> InodeNo:
        """Make a symbolic link and return its inode."""
        if len(target) > LINK_TARGET_MAX_BYTES:
            raise NameTooLongError(f"the target of a link has at most {LINK_TARGET_MAX_BYTES} bytes")
        return self._make(parent, name, stat.S_IFLNK | 0o777, uid, gid, target=target)

    def read_link(self, number: InodeNo) -> bytes:
        """Return what a symbolic link points at. Raises InvalidRequestError for anything else."""
        inode = self._metadata.inode(number)
        if not stat.S_ISLNK(inode.mode):
            raise InvalidRequestError("not a symbolic link")
        return inode.target

    def link(self, number: InodeNo, parent: InodeNo, name: bytes) -> None:
        """Give an inode one more name."""
        with self._store.transaction() as transaction:
            self._names.link(transaction, number, parent, name)

    def unlink(self, parent: InodeNo, name: bytes) -> None:
        """Take a name off anything but a directory; the inode goes with its last name and handle."""
        self._save_beside(parent, name)
        with self._store.transaction() as transaction:
            self._let_go(transaction, self._names.unlink(transaction, parent, name))

    def remove_directory(self, parent: InodeNo, name: bytes) -> Attributes | None:
        """Remove an empty directory and return its last attributes."""
        with self._store.transaction() as transaction:
            return self._let_go(transaction, self._names.rmdir(transaction, parent, name))

    def rename(self, parent: InodeNo, name: bytes, new_parent: InodeNo, new_name: bytes) -> Attributes | None:
        """Move an entry, replacing a target; whatever happens, one of the two files is there whole.

        Returns the last attributes of an inode that has no name left.
        """
        source = self._metadata.find_entry(parent, name)
        if source is not None and self._metadata.find_entry(new_parent, new_name) is not None:
            # Replacing a file by bytes that are in memory alone would leave neither after a crash.
            self.files.save_now(source.inode)
        with self._store.transaction() as transaction:
            lost = self._names.rename(transaction, parent, name, new_parent, new_name)
            if parent != new_parent:
                transaction.afterwards(self.files.reconsider)
            return self._let_go(transaction, lost) if lost is not None else None

    # Attributes

    def attributes(self, number: InodeNo) -> Attributes:
        """Return the attributes of an inode. Raises EntryNotFoundError."""
        with self._store.lock:
            inode = self._metadata.inode_or_stand_in(number)
            links = inode.nlink - self._names.hidden_directories(number)
            size, mtime_ns, ctime_ns = inode.size, inode.mtime_ns, inode.ctime_ns
            file = self.files.find(number)
            if file is not None and file.spool is not None:
                size = file.spool.size
                mtime_ns = file.mtime_ns if file.mtime_ns is not None else mtime_ns
                ctime_ns = max(ctime_ns, file.ctime_ns or 0)
        return Attributes(
            number,
            inode.mode,
            inode.uid,
            inode.gid,
            inode.rdev,
            links,
            size,
            -(-size // BLOCK_BYTES) * (BLOCK_BYTES // 512),
            inode.atime_ns,
            mtime_ns,
            ctime_ns,
        )

    def set_mode(self, number: InodeNo, mode: int) -> None:
        """Set the permission bits."""
        with self._store.transaction() as transaction:
            kind = stat.S_IFMT(self._metadata.inode(number).mode)
            self._inodes.change(transaction, number, mode=kind | mode & PERMISSION_BITS)
            self.privileges.note(number)

    def set_owner(self, number: InodeNo, uid: int | None, gid: int | None) -> None:
        """Set owner and group; None leaves one alone."""
        fields = {name: value for name, value in (("uid", uid), ("gid", gid)) if value is not None}
        with self._store.transaction() as transaction:
            self._inodes.change(transaction, number, **fields)

    def set_times(self, number: InodeNo, atime_ns: int | None, mtime_ns: int | None) -> None:
        """Set times; None leaves one alone. The mtime of bytes that are not stored yet is stored with them."""
        fields = {}
        if atime_ns is not None:
            fields["atime_ns"] = atime_ns
        with self._store.transaction() as transaction:
            file = self.files.find(number)
            if mtime_ns is not None:
                if file is not None and file.unsaved:
                    file.mtime_ns = mtime_ns
                else:
                    fields["mtime_ns"] = mtime_ns
            self._inodes.change(transaction, number, **fields)

    def set_attributes(
        self,
        number: InodeNo,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
    ) -> None:
        """Set several attributes at once; None leaves one alone."""
        with self._store.transaction():
            if uid is not None or gid is not None:
                self.set_owner(number, uid, gid)
            if mode is not None:
                self.set_mode(number, mode)
            if atime_ns is not None or mtime_ns is not None:
                self.set_times(number, atime_ns, mtime_ns)

    def truncate(self, number: InodeNo, size: int) -> None:
        """Cut a file, or let it grow with zero bytes."""
        self.files.truncate(number, size)

    # Extended attributes

    def get_xattr(self, number: InodeNo, name: bytes) -> bytes:
        """See Xattrs."""
        return self._xattrs.get(number, name)

    def list_xattrs(self, number: InodeNo) -> list[bytes]:
        """See Xattrs."""
        return self._xattrs.list(number)

    def set_xattr(
        self, number: InodeNo, name: bytes, value: bytes, *, create: bool = False, replace: bool = False
    ) -> None:
        """See Xattrs."""
        self._xattrs.set(number, name, value, create=create, replace=replace)

    def remove_xattr(self, number: InodeNo, name: bytes) -> None:
        """See Xattrs."""
        self._xattrs.remove(number, name)

    # Undoing

    def restore(self, number: InodeNo) -> None:
        """Let a file hold the very bytes that were written; see Undo."""
        self._undo.restore(number)

    def split(self, number: InodeNo) -> None:
        """Give a file a stored picture of its own; see Undo."""
        self._undo.split(number)

    # Files

    def create(self, parent: InodeNo, name: bytes, mode: int, uid: int, gid: int) -> tuple[InodeNo, int]:
        """Make a file and open it for reading and writing; return its inode and the handle."""
        with self._store.transaction() as transaction:
            number = self._make(parent, name, stat.S_IFREG | mode & PERMISSION_BITS, uid, gid)
            self._metadata.set_unfinished(transaction, number, (self._metadata.entry_key(parent, name),))
            handle = self.files.open(number, readable=True, writable=True)
            self.privileges.made(handle, mode)
            return number, handle

    def sync(self) -> None:
        """Return when every finished operation is durable; bytes of files still undecided or open are not included."""
        self._store.commit()

    def space(self) -> Space:
        """Return the room on the medium."""
        counters = self._store.counters
        total, free = self.files.room.total_and_free()
        return Space(total, free, counters.get("files", 0) + counters.get("directories", 0))

    def figures(self) -> dict[str, Any]:
        """Return what the volume holds, what waits in memory, and the room that is left, in numbers."""
        return {
            "label": self._volume.config.label,
            **statistics(self._volume),
            "read_only": self._store.read_only,
            "free_bytes": self.space().free_bytes,
            "waiting": self.files.unsettled(),
            "waiting_bytes": self.files.spooled_bytes,
            "memory_limit_bytes": self._memory_bytes,
            "open_files": self.files.open_handles(),
        }

    def settle(self) -> None:
        """Return when every closed file is decided and everything is durable. Raises StoreFullError, StoreError."""
        self.files.settle()
        if not self._store.read_only:
            self._undo.expire()

    def close(self) -> None:
        """Settle, stop and close the volume; whatever fails, the volume is closed. Raises what `settle` raises.

        While the disk is full it stores what fits and waits a while for more room: what is in memory alone is lost
        afterwards.
        """
        try:
            # Decisions may take long, and until then what waits for one is still stored in time.
            self._settle_at_last()
        finally:
            self.files.stop()
            self._pipeline.close()
            self._renderer.close()
            self._volume.close()

    # Inside

    def _save_beside(self, parent: InodeNo, name: bytes) -> None:
        """Store what waits in a directory before a file there loses its last name.

        Programs replace a file by removing it and giving its name to another, too; if that were in memory alone, a
        crash would leave neither.
        """
        unsaved = self.files.unsaved()
        if not unsaved:
            return
        try:
            number = self._names.lookup(parent, name)
            inode = self._metadata.inode(number)
            if inode.content is None or inode.nlink > 1:
                return
            for other in unsaved:
                if other != number and self._whereabouts.is_known_in(other, parent):
                    self.files.save_now(other)
        except DedupfsError as exc:
            # Removing works where the disk is full, and whatever is damaged.
            log.debug("what waits beside a file to be removed cannot be stored: %s", exc)

    def _let_go(self, transaction: Transaction, lost: Lost) -> Attributes | None:
        """Remove an inode that has lost its last name, unless somebody has it open."""
        if lost.nlink:
            return None
        try:
            last = self.attributes(lost.inode)
        except (IntegrityError, StaleInodeError):
            # It is damaged or lost, and what it holds is not known: a repair finds that in nobody's use.
            return None
        if stat.S_ISDIR(last.mode):
            self._inodes.delete(transaction, lost.inode)
        else:
            self.files.let_go(lost)
        return last

    def _settle_at_last(self) -> None:
        try:
            self.settle()
            return
        except StoreFullError:
            log.error(
                "the disk is full; what was not stored yet is lost unless there is room in %.0f s", self._last_seconds
            )
        deadline = time.monotonic() + self._last_seconds
        while True:
            try:
                self.settle()
                return
            except StoreFullError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_LAST_PAUSE_SECONDS)

    def _make(
        self, parent: InodeNo, name: bytes, mode: int, uid: int, gid: int, *, rdev: int = 0, target: bytes = b""
    ) -> InodeNo:
        if not stat.S_ISLNK(mode):
            check_mode(mode)
        with self._store.transaction() as transaction:
            self._names.check_free(parent, name)
            above = self._metadata.inode(parent)
            group = above.gid if above.mode & stat.S_ISGID else gid
            number = self._inodes.make(transaction, mode, uid, group, rdev=rdev, target=target)
            self._names.enter(transaction, parent, name, number)
            return number
