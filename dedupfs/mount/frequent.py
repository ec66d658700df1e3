"""Frequent requests, answered straight from the kernel's own format, past libfuse.

Reading, writing and what a write asks for beside it (the kernel looks for `security.capability` first) carry nearly all
of a copy. Through libfuse each of them is a call into C, a callback into Python with its arguments converted one by
one, a copy of the bytes that were written, and another call into C with the answer. Here a request is unpacked where
the kernel has put it, what is written is read from there, and the answer is one system call.

The layouts are those of linux/fuse.h, protocol 7.9 (Linux 2.6.24) and later, in the byte order of the machine. libfuse
need not know of these requests: when one of them is interrupted it answers the kernel that it may ask again, and the
request runs to its end, as it would anyway. One object serves all threads; it has no state.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
from collections.abc import Callable

from dedupfs.model import InodeNo
from dedupfs.mount import libfuse
from dedupfs.mount.errnos import errno_after
from dedupfs.mount.operations import Operations

log = logging.getLogger(__name__)

_REQUEST = struct.Struct("=IIQQIIII")  # length, operation, own number, inode, uid, gid, pid, unused
_ANSWER = struct.Struct("=IiQ")  # length, negative errno, number of the request
_TRANSFER = struct.Struct("=QQIIQII")  # of read and write: handle, offset, size, flags, lock owner, open flags, unused
_HANDLE = struct.Struct("=Q")  # what release begins with
_SIZE = struct.Struct("=II")  # of getxattr: room offered, unused; of the answers to it and to write: a length, unused
_KILL_BITS = 1 << 2
"""In the flags of a write (FUSE_WRITE_KILL_SUIDGID): the writer may not keep a set-user-ID bit."""
_READ, _WRITE, _RELEASE, _GETXATTR = 15, 16, 18, 22


class Frequent:
    """Answers what it knows, on the descriptor of one session."""

    def __init__(self, operations: Operations, descriptor: int) -> None:
        self._operations = operations
        self._descriptor = descriptor
        self._handlers: dict[int, tuple[str, Callable[[int, memoryview], bytes]]] = {
            _READ: ("read", self._read),
            _WRITE: ("write", self._write),
            _RELEASE: ("release", self._release),
            _GETXATTR: ("getxattr", self._getxattr),
        }

    def answer(self, request: memoryview) -> bool:
        """Answer a request as it came from the kernel; False leaves it to libfuse. Nothing is ever raised."""
        _, kind, own_number, inode, *_ = _REQUEST.unpack_from(request)
        known = self._handlers.get(kind)
        if known is None:
            return False
        name, handler = known
        self._operations.traffic.asked(name)
        try:
            number, body = 0, handler(inode, request[_REQUEST.size :])
        except BaseException as exc:  # noqa: BLE001 -- what is raised here would be lost, and the caller would hang
            number, body = errno_after(name, exc), b""
        failure = libfuse.send(self._descriptor, _ANSWER.pack(_ANSWER.size + len(body), -number, own_number), body)
        # Whoever asked was killed meanwhile, or the mount has been ended by force.
        if failure not in (0, errno.ENOENT, errno.ENODEV):
            log.error("the kernel does not take an answer to %s: %s", name, os.strerror(failure))
        return True

    def _read(self, inode: int, body: memoryview) -> bytes:
        handle, offset, size, *_ = _TRANSFER.unpack_from(body)
        return self._operations.read(handle, offset, size)

    def _write(self, inode: int, body: memoryview) -> bytes:
        handle, offset, size, flags, *_ = _TRANSFER.unpack_from(body)
        data = body[_TRANSFER.size : _TRANSFER.size + size]
        written = self._operations.write(handle, offset, data, privileged=not flags & _KILL_BITS)
        return _SIZE.pack(written, 0)

    def _release(self, inode: int, body: memoryview) -> bytes:
        self._operations.release(*_HANDLE.unpack_from(body))
        return b""

    def _getxattr(self, inode: int, body: memoryview) -> bytes:
        room, _ = _SIZE.unpack_from(body)
        # The name ends with a zero byte, and so does the request.
        value = self._operations.getxattr(InodeNo(inode), bytes(body[_SIZE.size :]).rstrip(b"\0"))
        if not room:
            return _SIZE.pack(len(value), 0)
        if len(value) > room:
            raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
        return value
