"""The operations of a mount: what the kernel asks, in plain values, answered by FileSystem.

Knows nothing of libfuse: `requests` decodes what comes from there, calls a method here, and sends its result or the
errno of its exception. Called from several threads at once; the state here is the listings of open directories, and
inodes that have lost their last name while the kernel still knows them: somebody may be on the way from the name to the
inode. Files stay until it forgets them, of directories the last attributes do.
"""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from dedupfs.errors import (
    DedupfsError,
    EntryNotFoundError,
    NoAttributeError,
    NotPermittedError,
    NotSupportedError,
    StaleInodeError,
)
from dedupfs.filesystem.filesystem import FileSystem, Space
from dedupfs.filesystem.inodes import Attributes
from dedupfs.filesystem.xattrs import RESERVED_XATTRS
from dedupfs.model import InodeNo
from dedupfs.mount.closing import Closer
from dedupfs.mount.status import (
    OF_MOUNT,
    PID_XATTR,
    RESTORE_XATTR,
    SETTLE_XATTR,
    SPLIT_XATTR,
    STATUS_XATTR,
    VOLUME_XATTR,
    WAITING_XATTR,
)
from dedupfs.mount.traffic import Traffic
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.records import Entry

_LABEL_XATTR = b"security.selinux"
"""Where the kernel itself gives labels to the files of a mount, as it does with SELinux, it never asks for it."""
SMALL_BYTES = 64 << 10
"""Files with no more bytes to be stored are closed at once: that takes about as long as two requests."""
_XATTR_CREATE = 1
_XATTR_REPLACE = 2
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 0x01, 0x02, 0x10
"""Of fallocate(2); a hole is always punched with the first."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Changes:
    """Attributes to be set; None leaves one alone. Times in nanoseconds.

    `privileged` says that whoever asks may cut a file that keeps its set-user-ID bit.
    """

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    privileged: bool = False

    @property
    def is_none(self) -> bool:
        """Whether nothing is to be set: the kernel has privileges taken from a file, no more."""
        return self == Changes(privileged=self.privileged)


class Operations:
    """One method for each operation of the kernel; each raises what FileSystem raises."""

    def __init__(self, filesystem: FileSystem, volume: bytes, ready: Callable[[], None]) -> None:
        """`volume` is the directory of the volume, `ready` is called when the kernel has asked for the first time."""
        self.traffic = Traffic()
        self._filesystem = filesystem
        self._files = filesystem.files
        self._closer = Closer(self._files.release)
        self._ready = ready
        self._volume = volume
        self._listings: dict[int, list[Entry]] = {}
        self._next_listing = 1
        self._gone: dict[InodeNo, Attributes] = {}
        self._held: set[InodeNo] = set()
        self._lock = threading.Lock()

    def is_open(self) -> bool:
        """Whether somebody has a file or a directory open."""
        return bool(self._listings) or self._files.open_handles() > 0

    def init(self) -> None:
        """The kernel is there."""
        self._ready()

    # Names

    def lookup(self, parent: InodeNo, name: bytes) -> Attributes | None:
        """Return the attributes of what a name leads to, or None when there is no such name."""
        try:
            return self._filesystem.attributes_of(parent, name)
        except StaleInodeError:
            raise
        except EntryNotFoundError:
            return None

    def forget(self, number: InodeNo) -> None:
        """The kernel drops an inode."""
        if self._gone or self._held:
            with self._lock:
                self._gone.pop(number, None)
                was_held = number in self._held
                self._held.discard(number)
            if was_held:
                self._files.let_loose(number)

    def finish(self) -> None:
        """The kernel is gone: close and forget what it has left."""
        self._closer.stop()
        for number in list(self._held):
            self.forget(number)

    def mkdir(self, parent: InodeNo, name: bytes, mode: int, caller: Caller) -> Attributes:
        """Make a directory."""
        return self._filesystem.attributes(self._filesystem.make_directory(parent, name, mode, caller.uid, caller.gid))

    def mknod(self, parent: InodeNo, name: bytes, mode: int, rdev: int, caller: Caller) -> Attributes:
        """Make an empty file, a pipe, a socket or a device."""
        return self._filesystem.attributes(self._filesystem.make_node(parent, name, mode, caller.uid, caller.gid, rdev))

    def symlink(self, parent: InodeNo, name: bytes, target: bytes, caller: Caller) -> Attributes:
        """Make a symbolic link."""
        return self._filesystem.attributes(self._filesystem.make_link(parent, name, target, caller.uid, caller.gid))

    def readlink(self, number: InodeNo) -> bytes:
        """Return what a symbolic link points at."""
        return self._filesystem.read_link(number)

    def link(self, number: InodeNo, parent: InodeNo, name: bytes) -> Attributes:
        """Give an inode one more name."""
        self._filesystem.link(number, parent, name)
        return self._filesystem.attributes(number)

    def unlink(self, parent: InodeNo, name: bytes) -> None:
        """Take a name off anything but a directory."""
        with self._holding(parent, name):
            self._filesystem.unlink(parent, name)

    def rmdir(self, parent: InodeNo, name: bytes) -> None:
        """Remove an empty directory."""
        self._remember(self._filesystem.remove_directory(parent, name))

    def rename(self, parent: InodeNo, name: bytes, new_parent: InodeNo, new_name: bytes) -> None:
        """Move an entry, replacing a target."""
        with self._holding(new_parent, new_name):
            self._remember(self._filesystem.rename(parent, name, new_parent, new_name))

    def opendir(self, number: InodeNo) -> int:
        """Open a directory and return the handle."""
        listing = [] if number in self._gone else self._filesystem.list_directory(number)
        with self._lock:
            handle = self._next_listing
            self._next_listing += 1
            self._listings[handle] = listing
        return handle

    def readdir(self, number: InodeNo, handle: int, offset: int) -> list[Entry]:
        """Return the entries from an index on; reading from the beginning again shows the directory as it is now."""
        if not offset:
            try:
                self._listings[handle] = self._filesystem.list_directory(number)
            except EntryNotFoundError:
                # A directory that has been removed while it is open is empty.
                self._listings[handle] = []
        return self._listings[handle][offset:]

    def releasedir(self, handle: int) -> None:
        """Close a directory."""
        with self._lock:
            self._listings.pop(handle, None)

    def fsyncdir(self) -> None:
        """Make every finished operation durable."""
        self._filesystem.sync()

    # Attributes

    def getattr(self, number: InodeNo) -> Attributes:
        """Return the attributes of an inode, or its last ones after it has gone."""
        try:
            return self._filesystem.attributes(number)
        except StaleInodeError:
            gone = self._gone.get(number)
            if gone is None:
                raise
            return gone

    def setattr(self, number: InodeNo, changes: Changes) -> Attributes:
        """Change attributes and return all of them."""
        if changes.uid is not None or changes.gid is not None:
            self._filesystem.privileges.drop(number, bits=True)
        elif changes.size is not None or changes.is_none:
            self._filesystem.privileges.drop(number, bits=not changes.privileged)
        if changes.size is not None:
            self._filesystem.truncate(number, changes.size)
        self._filesystem.set_attributes(
            number,
            mode=changes.mode,
            uid=changes.uid,
            gid=changes.gid,
            atime_ns=changes.atime_ns,
            mtime_ns=changes.mtime_ns,
        )
        return self._filesystem.attributes(number)

    def getxattr(self, number: InodeNo, name: bytes) -> bytes:
        """Return an extended attribute."""
        if name in OF_MOUNT:
            return self._about_mount(number, name)
        try:
            return self._filesystem.get_xattr(number, name)
        except NoAttributeError:
            if name == _LABEL_XATTR:
                # `ls -l` asks for it, file by file, until it hears that this file system has no such thing.
                raise NotSupportedError("no labels here") from None
            raise

    def listxattr(self, number: InodeNo) -> list[bytes]:
        """Return the names of extended attributes.

        Those of dedupfs are left out: what is listed, `rsync -X` removes where the source has it not, and the policy of
        a directory must survive that.
        """
        return [name for name in self._filesystem.list_xattrs(number) if not name.startswith(RESERVED_XATTRS)]

    def setxattr(self, number: InodeNo, name: bytes, value: bytes, flags: int) -> None:
        """Set an extended attribute."""
        if name in OF_MOUNT:
            raise NotPermittedError("attributes of this name are dedupfs's own")
        if name == RESTORE_XATTR:
            self._filesystem.restore(number)
            return
        if name == SPLIT_XATTR:
            self._filesystem.split(number)
            return
        create, replace_it = bool(flags & _XATTR_CREATE), bool(flags & _XATTR_REPLACE)
        self._filesystem.set_xattr(number, name, value, create=create, replace=replace_it)

    def removexattr(self, number: InodeNo, name: bytes) -> None:
        """Remove an extended attribute."""
        self._filesystem.remove_xattr(number, name)

    def statfs(self) -> Space:
        """Return the room on the medium."""
        return self._filesystem.space()

    # Files

    def create(self, parent: InodeNo, name: bytes, mode: int, caller: Caller) -> tuple[Attributes, int]:
        """Make a file and open it; return its attributes and the handle."""
        number, handle = self._filesystem.create(parent, name, mode, caller.uid, caller.gid)
        return self._filesystem.attributes(number), handle

    def open(self, number: InodeNo, flags: int) -> tuple[int, bool]:
        """Open a file; return the handle and whether the kernel's pages of it still are what a read would return."""
        access = flags & os.O_ACCMODE
        handle = self._files.open(
            number, readable=access in (os.O_RDONLY, os.O_RDWR), writable=access in (os.O_WRONLY, os.O_RDWR)
        )
        return handle, self._files.handle(handle).keep_cache

    def read(self, handle: int, offset: int, size: int) -> bytes:
        """Return up to `size` bytes."""
        data = self._files.read(handle, offset, size)
        self.traffic.has_read(len(data))
        return data

    def write(self, handle: int, offset: int, data: bytes | memoryview, *, privileged: bool = True) -> int:
        """Write, and return the number of bytes. Whoever is not privileged may not keep a set-user-ID bit there."""
        self._filesystem.privileges.before_write(handle, bits=not privileged)
        written = self._files.write(handle, offset, data)
        self.traffic.has_written(written)
        return written

    def fallocate(self, handle: int, mode: int, offset: int, length: int, *, privileged: bool) -> None:
        """Make room for bytes to come, or zero bytes of what is there; `privileged` as in `write`."""
        if mode & ~(_KEEP_SIZE | _PUNCH_HOLE | _ZERO_RANGE):
            raise NotSupportedError("a file cannot lose or gain bytes in its middle here")
        self._filesystem.privileges.before_write(handle, bits=not privileged)
        clear = bool(mode & (_PUNCH_HOLE | _ZERO_RANGE))
        self._files.allocate(handle, offset, length, clear=clear, keep_size=bool(mode & _KEEP_SIZE))

    def fsync(self, handle: int) -> None:
        """Make a file durable."""
        self._files.fsync(handle)

    def release(self, handle: int) -> None:
        """Have a handle closed; nobody waits for that."""
        if self._files.waiting_bytes(handle) <= SMALL_BYTES:
            self._closer.close_now(handle)
        else:
            self._closer.put(handle)

    # Inside

    @contextmanager
    def _holding(self, parent: InodeNo, name: bytes) -> Iterator[None]:
        """Keep the file that is about to lose this name until the kernel forgets it, if that is its last one."""
        try:
            number = self._filesystem.lookup(parent, name)
            held = self._files.hold(number)
        except DedupfsError:
            # There is nothing to be held; what follows says why, where that matters.
            held = False
        try:
            yield
        finally:
            if held:
                with self._lock:
                    self._held.add(number)
                if self._filesystem.attributes(number).nlink:
                    self.forget(number)

    def _remember(self, gone: Attributes | None) -> None:
        """Keep the last attributes of a directory until the kernel forgets it: somebody may work in it."""
        if gone is not None and stat.S_ISDIR(gone.mode):
            with self._lock:
                self._gone[gone.inode] = replace(gone, nlink=0)

    def _status(self) -> bytes:
        figures: dict[str, Any] = {"pid": os.getpid(), **self.traffic.figures(), **self._filesystem.figures()}
        return json.dumps(figures).encode()

    def _about_mount(self, number: InodeNo, name: bytes) -> bytes:
        if number == ROOT:
            if name == VOLUME_XATTR:
                return self._volume
            if name == PID_XATTR:
                return b"%d" % os.getpid()
            if name == WAITING_XATTR:
                return b"%d" % self._files.unsettled()
            if name == STATUS_XATTR:
                return self._status()
            if name == SETTLE_XATTR:
                self._closer.wait()
                self._filesystem.settle()
                return b""
        raise NoAttributeError("no such attribute")


def device_of(attributes: Attributes) -> int:
    """Return the device number that is told of an inode: 0 for all but devices."""
    return attributes.rdev if stat.S_ISCHR(attributes.mode) or stat.S_ISBLK(attributes.mode) else 0
