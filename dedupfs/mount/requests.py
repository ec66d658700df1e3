"""Requests: from libfuse's callbacks to Operations and back.

Every callback gets exactly one reply: the result of a method of Operations, or the errno of what it raised. Nothing is
ever raised into libfuse. Names are bytes all the way. One object serves all threads; it has no state.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import logging
import os
import time
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, cast

from dedupfs.filesystem.inodes import BLOCK_BYTES, Attributes
from dedupfs.model import InodeNo
from dedupfs.mount import libfuse
from dedupfs.mount.errnos import errno_after
from dedupfs.mount.operations import Caller, Changes, Operations, device_of

log = logging.getLogger(__name__)

CACHE_SECONDS = float(1 << 30)
"""How long the kernel may keep names and attributes: nobody else changes them, it knows what it has changed itself, and
it has one object for each inode, whatever its names."""
NAME_MAX_BYTES = 255
_GENERATION = 1
"""Inode numbers are never used twice."""

_P = ParamSpec("_P")


def _answered(
    handler: Callable[Concatenate[Requests, int, _P], None],
) -> Callable[Concatenate[Requests, int, _P], None]:
    """Answer with an errno when the handler raises; anything that nobody foresaw is logged and becomes EIO."""

    @functools.wraps(handler)
    def answered(self: Requests, request: int, *arguments: _P.args, **keywords: _P.kwargs) -> None:
        self.note(handler.__name__)
        try:
            handler(self, request, *arguments, **keywords)
        except BaseException as exc:  # noqa: BLE001 -- what is raised here would be lost, and the caller would hang
            libfuse.reply_err(request, errno_after(handler.__name__, exc))

    return cast("Callable[Concatenate[Requests, int, _P], None]", answered)


class Requests:
    """libfuse's low-level operations, but for what `frequent` answers; a method's name is that of its operation.

    `flush` is left out: bytes are stored at the last close, and once the kernel has heard that there is no such
    operation, closing a descriptor takes one request less.
    """

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self.note = operations.traffic.asked

    def init(self, userdata: int, connection: int) -> None:
        agreed = libfuse.Connection.from_address(connection)
        # A client of an NFS server names a file by its inode for as long as it likes.
        agreed.want |= agreed.capable & libfuse.CAN_EXPORT
        self._operations.init()

    # Names

    @_answered
    def lookup(self, request: int, parent: int, name: bytes) -> None:
        found = self._operations.lookup(InodeNo(parent), name)
        if found is None:
            # Inode 0 is a name that is known not to exist.
            libfuse.reply_entry(request, libfuse.EntryParam(entry_timeout=CACHE_SECONDS))
        else:
            libfuse.reply_entry(request, _entry(found))

    def forget(self, request: int, number: int, lookups: int) -> None:
        self._operations.forget(InodeNo(number))
        libfuse.reply_none(request)

    def forget_multi(self, request: int, count: int, forgotten: Any) -> None:
        for index in range(count):
            self._operations.forget(InodeNo(forgotten[index].ino))
        libfuse.reply_none(request)

    @_answered
    def mkdir(self, request: int, parent: int, name: bytes, mode: int) -> None:
        libfuse.reply_entry(request, _entry(self._operations.mkdir(InodeNo(parent), name, mode, _caller(request))))

    @_answered
    def mknod(self, request: int, parent: int, name: bytes, mode: int, rdev: int) -> None:
        made = self._operations.mknod(InodeNo(parent), name, mode, rdev, _caller(request))
        libfuse.reply_entry(request, _entry(made))

    @_answered
    def symlink(self, request: int, target: bytes, parent: int, name: bytes) -> None:
        made = self._operations.symlink(InodeNo(parent), name, target, _caller(request))
        libfuse.reply_entry(request, _entry(made))

    @_answered
    def readlink(self, request: int, number: int) -> None:
        libfuse.reply_readlink(request, self._operations.readlink(InodeNo(number)))

    @_answered
    def link(self, request: int, number: int, parent: int, name: bytes) -> None:
        libfuse.reply_entry(request, _entry(self._operations.link(InodeNo(number), InodeNo(parent), name)))

    @_answered
    def unlink(self, request: int, parent: int, name: bytes) -> None:
        self._operations.unlink(InodeNo(parent), name)
        libfuse.reply_err(request, 0)

    @_answered
    def rmdir(self, request: int, parent: int, name: bytes) -> None:
        self._operations.rmdir(InodeNo(parent), name)
        libfuse.reply_err(request, 0)

    @_answered
    def rename(self, request: int, parent: int, name: bytes, new_parent: int, new_name: bytes) -> None:
        self._operations.rename(InodeNo(parent), name, InodeNo(new_parent), new_name)
        libfuse.reply_err(request, 0)

    @_answered
    def opendir(self, request: int, number: int, info: int) -> None:
        libfuse.FileInfo.from_address(info).fh = self._operations.opendir(InodeNo(number))
        libfuse.reply_open(request, info)

    @_answered
    def readdir(self, request: int, number: int, size: int, offset: int, info: int) -> None:
        handle = libfuse.FileInfo.from_address(info).fh
        buffer = ctypes.create_string_buffer(size)
        start, used = ctypes.addressof(buffer), 0
        attributes = libfuse.Stat()
        for index, entry in enumerate(self._operations.readdir(InodeNo(number), handle, offset), offset + 1):
            attributes.st_ino, attributes.st_mode = entry.inode, entry.type_bits
            taken = libfuse.add_direntry(request, start + used, size - used, entry.name, attributes, index)
            if taken > size - used:
                break
            used += taken
        libfuse.reply_buf(request, buffer.raw[:used], used)

    @_answered
    def releasedir(self, request: int, number: int, info: int) -> None:
        self._operations.releasedir(libfuse.FileInfo.from_address(info).fh)
        libfuse.reply_err(request, 0)

    @_answered
    def fsyncdir(self, request: int, number: int, datasync: int, info: int) -> None:
        self._operations.fsyncdir()
        libfuse.reply_err(request, 0)

    # Attributes

    @_answered
    def getattr(self, request: int, number: int, info: int | None) -> None:
        libfuse.reply_attr(request, _stat(self._operations.getattr(InodeNo(number))), CACHE_SECONDS)

    @_answered
    def setattr(self, request: int, number: int, wanted: int, which: int, info: int | None) -> None:
        changes = _changes(libfuse.Stat.from_address(wanted), which, privileged=_is_privileged(_caller(request)))
        libfuse.reply_attr(request, _stat(self._operations.setattr(InodeNo(number), changes)), CACHE_SECONDS)

    @_answered
    def listxattr(self, request: int, number: int, size: int) -> None:
        names = self._operations.listxattr(InodeNo(number))
        _reply_sized(request, b"".join(name + b"\0" for name in names), size)

    @_answered
    def setxattr(self, request: int, number: int, name: bytes, value: int | None, size: int, flags: int) -> None:
        self._operations.setxattr(InodeNo(number), name, ctypes.string_at(value, size) if value else b"", flags)
        libfuse.reply_err(request, 0)

    @_answered
    def removexattr(self, request: int, number: int, name: bytes) -> None:
        self._operations.removexattr(InodeNo(number), name)
        libfuse.reply_err(request, 0)

    @_answered
    def statfs(self, request: int, number: int) -> None:
        space = self._operations.statfs()
        # Each file takes at least a record; the count of inodes that are free is what the room allows.
        free = space.free_bytes // BLOCK_BYTES
        told = libfuse.Statvfs(
            f_bsize=BLOCK_BYTES,
            f_frsize=BLOCK_BYTES,
            f_blocks=space.total_bytes // BLOCK_BYTES,
            f_bfree=free,
            f_bavail=free,
            f_files=space.files + free,
            f_ffree=free,
            f_favail=free,
            f_namemax=NAME_MAX_BYTES,
        )
        libfuse.reply_statfs(request, told)

    # Files

    @_answered
    def create(self, request: int, parent: int, name: bytes, mode: int, info: int) -> None:
        attributes, handle = self._operations.create(InodeNo(parent), name, mode, _caller(request))
        libfuse.FileInfo.from_address(info).fh = handle
        if libfuse.reply_create(request, _entry(attributes), info):
            self._operations.release(handle)

    @_answered
    def open(self, request: int, number: int, info: int) -> None:
        opened = libfuse.FileInfo.from_address(info)
        handle, keep_pages = self._operations.open(InodeNo(number), opened.flags)
        opened.fh, opened.keep_cache = handle, keep_pages
        if libfuse.reply_open(request, info):
            # The caller was interrupted and does not know of the handle.
            self._operations.release(handle)

    @_answered
    def fallocate(self, request: int, number: int, mode: int, offset: int, length: int, info: int) -> None:
        privileged = _is_privileged(_caller(request))
        handle = libfuse.FileInfo.from_address(info).fh
        self._operations.fallocate(handle, mode, offset, length, privileged=privileged)
        libfuse.reply_err(request, 0)

    @_answered
    def fsync(self, request: int, number: int, datasync: int, info: int) -> None:
        self._operations.fsync(libfuse.FileInfo.from_address(info).fh)
        libfuse.reply_err(request, 0)


def _caller(request: int) -> Caller:
    context = libfuse.request_context(request).contents
    return Caller(context.uid, context.gid)


def _is_privileged(caller: Caller) -> bool:
    """Whether somebody may change a file that keeps its set-user-ID bit.

    libfuse does not pass on what the kernel says of that, and only root has the capability without being given it.
    """
    return caller.uid == 0


def _stat(attributes: Attributes) -> libfuse.Stat:
    told = libfuse.Stat(
        st_ino=attributes.inode,
        st_mode=attributes.mode,
        st_nlink=attributes.nlink,
        st_uid=attributes.uid,
        st_gid=attributes.gid,
        st_rdev=device_of(attributes),
        st_size=attributes.size,
        st_blocks=attributes.blocks,
        st_blksize=BLOCK_BYTES,
    )
    libfuse.fill_times(told, attributes.atime_ns, attributes.mtime_ns, attributes.ctime_ns)
    return told


def _entry(attributes: Attributes) -> libfuse.EntryParam:
    return libfuse.EntryParam(attributes.inode, _GENERATION, _stat(attributes), CACHE_SECONDS, CACHE_SECONDS)


def _changes(wanted: libfuse.Stat, which: int, *, privileged: bool) -> Changes:
    def chosen(flag: int, value: int) -> int | None:
        return value if which & flag else None

    def time_ns(flag: int, now_flag: int, spec: Any) -> int | None:
        if which & now_flag:
            return time.time_ns()
        return cast("int", spec.tv_sec * 1_000_000_000 + spec.tv_nsec) if which & flag else None

    return Changes(
        mode=chosen(libfuse.SET_MODE, wanted.st_mode),
        uid=chosen(libfuse.SET_UID, wanted.st_uid),
        gid=chosen(libfuse.SET_GID, wanted.st_gid),
        size=chosen(libfuse.SET_SIZE, wanted.st_size),
        atime_ns=time_ns(libfuse.SET_ATIME, libfuse.SET_ATIME_NOW, wanted.st_atimespec),
        mtime_ns=time_ns(libfuse.SET_MTIME, libfuse.SET_MTIME_NOW, wanted.st_mtimespec),
        privileged=privileged,
    )


def _reply_sized(request: int, value: bytes, size: int) -> None:
    """Answer a question for a value: with its length when no room for it was offered."""
    if not size:
        libfuse.reply_xattr(request, len(value))
    elif len(value) > size:
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
    else:
        libfuse.reply_buf(request, value, len(value))
