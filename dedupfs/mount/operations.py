"""The FUSE adapter: decodes what libfuse asks, calls FileSystem, and answers; the only user of fusepy.

libfuse's high-level interface speaks of paths, FileSystem of inodes: every operation resolves its path here. Paths
reach us as Latin-1 text, which keeps any byte sequence as it is. Called from libfuse's threads, several at once; this
class has no state of its own but the listings of open directories.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

from fuse import FUSE, FuseOSError, Operations, fuse_get_context

from dedupfs.errors import DedupfsError, NoAttributeError, NotPermittedError
from dedupfs.filesystem.filesystem import FileSystem
from dedupfs.filesystem.inodes import BLOCK_BYTES, Attributes
from dedupfs.model import InodeNo
from dedupfs.mount.errnos import errno_of
from dedupfs.mount.status import PID_XATTR, RESERVED_XATTRS, SETTLE_XATTR, VOLUME_XATTR, WAITING_XATTR
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.records import Entry

log = logging.getLogger(__name__)

ENCODING = "latin-1"
_UTIME_NOW = (1 << 30) - 1
_UTIME_OMIT = (1 << 30) - 2
_XATTR_CREATE = 1
_XATTR_REPLACE = 2


class Mount(FUSE):  # type: ignore[misc]
    """fusepy's loop, with the one callback whose arguments it would blur."""

    def utimens(self, path: bytes, times: Any) -> int:
        """Pass on UTIME_NOW and UTIME_OMIT, which fusepy folds into a number of nanoseconds."""
        pair = None
        if times:
            pair = tuple((spec.tv_sec, spec.tv_nsec) for spec in (times.contents.actime, times.contents.modtime))
        return cast("int", self.operations("utimens", path.decode(self.encoding), pair) or 0)


class DedupfsOperations(Operations):  # type: ignore[misc]
    """What libfuse calls. Nothing but an OSError with a positive errno leaves `__call__`."""

    use_ns = True
    flag_utime_omit_ok = 1
    # With default_permissions the kernel checks access itself.
    access = None
    bmap = None
    ioctl = None

    def __init__(self, filesystem: FileSystem, volume: bytes, ready: Callable[[], None]) -> None:
        self._filesystem = filesystem
        self._files = filesystem.files
        self._ready = ready
        self._volume = volume
        self._listings: dict[int, list[Entry]] = {}
        self._next_listing = 1
        self._listings_lock = threading.Lock()

    def __call__(self, operation: str, *arguments: Any) -> Any:
        """Run one operation; in fusepy 3.0.1 anything but an OSError with a positive errno breaks its wrapper."""
        try:
            return getattr(self, operation)(*arguments)
        except DedupfsError as exc:
            number = errno_of(exc)
            if number is None:
                number = errno.EIO
                log.error("%s failed: %s", operation, exc)
            raise FuseOSError(number) from exc
        except OSError as exc:
            raise FuseOSError(exc.errno if exc.errno and exc.errno > 0 else errno.EIO) from exc
        except BaseException as exc:
            log.exception("%s failed in a way nobody foresaw", operation)
            raise FuseOSError(errno_of(exc) or errno.EIO) from exc

    def init(self, path: str) -> None:
        self._ready()

    # Names

    def mkdir(self, path: str, mode: int) -> None:
        parent, name = self._parent(path)
        self._filesystem.make_directory(parent, name, mode, *_caller())

    def mknod(self, path: str, mode: int, rdev: int) -> None:
        parent, name = self._parent(path)
        self._filesystem.make_node(parent, name, mode, *_caller(), rdev)

    def symlink(self, path: str, target: str) -> None:
        parent, name = self._parent(path)
        self._filesystem.make_link(parent, name, target.encode(ENCODING), *_caller())

    def readlink(self, path: str) -> str:
        return self._filesystem.read_link(self._inode(path)).decode(ENCODING)

    def link(self, path: str, source: str) -> None:
        parent, name = self._parent(path)
        self._filesystem.link(self._inode(source), parent, name)

    def unlink(self, path: str) -> None:
        self._filesystem.unlink(*self._parent(path))

    def rmdir(self, path: str) -> None:
        self._filesystem.remove_directory(*self._parent(path))

    def rename(self, old: str, new: str) -> None:
        self._filesystem.rename(*self._parent(old), *self._parent(new))

    def opendir(self, path: str) -> int:
        listing = self._filesystem.list_directory(self._inode(path))
        with self._listings_lock:
            number = self._next_listing
            self._next_listing += 1
            self._listings[number] = listing
        return number

    def readdir(self, path: str, number: int) -> Iterator[tuple[str, dict[str, int], int]]:
        for entry in self._listings[number]:
            yield entry.name.decode(ENCODING), {"st_ino": entry.inode, "st_mode": entry.type_bits}, 0

    def releasedir(self, path: str, number: int) -> None:
        with self._listings_lock:
            self._listings.pop(number, None)

    def fsyncdir(self, path: str, datasync: int, number: int) -> None:
        self._filesystem.sync()

    # Attributes

    def getattr(self, path: str, info: Any = None) -> dict[str, int]:
        number = self._inode(path) if info is None else self._files.handle(info.fh).file.inode
        return _stat(self._filesystem.attributes(number))

    def chmod(self, path: str, mode: int) -> None:
        self._filesystem.set_mode(self._inode(path), mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        self._filesystem.set_owner(self._inode(path), None if uid == -1 else uid, None if gid == -1 else gid)

    def utimens(self, path: str, times: tuple[tuple[int, int], tuple[int, int]] | None) -> None:
        now = (0, _UTIME_NOW)
        atime, mtime = (_nanoseconds(*each) for each in times or (now, now))
        self._filesystem.set_times(self._inode(path), atime, mtime)

    def truncate(self, path: str, size: int, info: Any = None) -> None:
        number = self._inode(path) if info is None else self._files.handle(info.fh).file.inode
        self._filesystem.truncate(number, size)

    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        number = self._inode(path)
        if name.startswith(RESERVED_XATTRS):
            return self._about_mount(number, name)
        return self._filesystem.get_xattr(number, name.encode(ENCODING))

    def listxattr(self, path: str) -> list[str]:
        return [name.decode(ENCODING) for name in self._filesystem.list_xattrs(self._inode(path))]

    def setxattr(self, path: str, name: str, value: bytes, options: int, position: int = 0) -> None:
        number = self._inode(path)
        if name.startswith(RESERVED_XATTRS):
            if number != ROOT or name != SETTLE_XATTR:
                raise NotPermittedError("attributes of this name are dedupfs's own")
            self._filesystem.settle()
            return
        create, replace = bool(options & _XATTR_CREATE), bool(options & _XATTR_REPLACE)
        self._filesystem.set_xattr(number, name.encode(ENCODING), value, create=create, replace=replace)

    def removexattr(self, path: str, name: str) -> None:
        self._filesystem.remove_xattr(self._inode(path), name.encode(ENCODING))

    def statfs(self, path: str) -> dict[str, int]:
        space = self._filesystem.space()
        # Each file takes at least a record; the count of inodes that are free is what the room allows.
        free = space.free_bytes // BLOCK_BYTES
        return {
            "f_bsize": BLOCK_BYTES,
            "f_frsize": BLOCK_BYTES,
            "f_blocks": space.total_bytes // BLOCK_BYTES,
            "f_bfree": free,
            "f_bavail": free,
            "f_files": space.files + free,
            "f_ffree": free,
            "f_favail": free,
            "f_namemax": 255,
        }

    # Files

    def create(self, path: str, mode: int, info: Any) -> int:
        parent, name = self._parent(path)
        _, info.fh = self._filesystem.create(parent, name, mode, *_caller())
        return 0

    def open(self, path: str, info: Any) -> int:
        access = info.flags & os.O_ACCMODE
        info.fh = self._files.open(
            self._inode(path),
            readable=access in (os.O_RDONLY, os.O_RDWR),
            writable=access in (os.O_WRONLY, os.O_RDWR),
            append=bool(info.flags & os.O_APPEND),
        )
        info.keep_cache = int(self._files.handle(info.fh).keep_cache)
        return 0

    def read(self, path: str, size: int, offset: int, info: Any) -> bytes:
        return self._files.read(info.fh, offset, size)

    def write(self, path: str, data: bytes, offset: int, info: Any) -> int:
        return self._files.write(info.fh, offset, data)

    def flush(self, path: str, info: Any) -> None:
        self._files.flush(info.fh)

    def fsync(self, path: str, datasync: int, info: Any) -> None:
        self._files.fsync(info.fh)

    def release(self, path: str, info: Any) -> None:
        self._files.release(info.fh)

    # Inside

    def _inode(self, path: str) -> InodeNo:
        number = ROOT
        for name in path.encode(ENCODING).split(b"/"):
            if name:
                number = self._filesystem.lookup(number, name)
        return number

    def _parent(self, path: str) -> tuple[InodeNo, bytes]:
        above, _, name = path.rpartition("/")
        return self._inode(above), name.encode(ENCODING)

    def _about_mount(self, number: InodeNo, name: str) -> bytes:
        if number == ROOT:
            if name == VOLUME_XATTR:
                return self._volume
            if name == PID_XATTR:
                return b"%d" % os.getpid()
            if name == WAITING_XATTR:
                return b"%d" % self._files.unsettled()
        raise NoAttributeError("no such attribute")


def _caller() -> tuple[int, int]:
    uid, gid, _ = fuse_get_context()
    return uid, gid


def _nanoseconds(seconds: int, nanoseconds: int) -> int | None:
    if nanoseconds == _UTIME_OMIT:
        return None
    if nanoseconds == _UTIME_NOW:
        return time.time_ns()
    return seconds * 1_000_000_000 + nanoseconds


def _stat(attributes: Attributes) -> dict[str, int]:
    device = attributes.rdev if stat.S_ISCHR(attributes.mode) or stat.S_ISBLK(attributes.mode) else 0
    return {
        "st_ino": attributes.inode,
        "st_mode": attributes.mode,
        "st_nlink": attributes.nlink,
        "st_uid": attributes.uid,
        "st_gid": attributes.gid,
        "st_rdev": device,
        "st_size": attributes.size,
        "st_blocks": attributes.blocks,
        "st_blksize": BLOCK_BYTES,
        "st_atime": attributes.atime_ns,
        "st_mtime": attributes.mtime_ns,
        "st_ctime": attributes.ctime_ns,
    }
