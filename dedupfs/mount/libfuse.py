"""libfuse 2's low-level interface, declared beside fusepy's high-level one; the only importer of fusepy.

The low-level interface speaks of inodes, as the kernel and FileSystem do. Through the high-level one, which fusepy
wraps, a removed file that is open lives on under a hidden name, two names of one inode are two files to the kernel (so
that nothing about them may be cached), and every request resolves its path again. fusepy finds and loads the library
and knows the structures that both interfaces share.

Nothing here has a state. Layouts and constants are those of libfuse 2.9's fuse_lowlevel.h and fuse_common.h.
"""

from __future__ import annotations

import ctypes
import platform
import struct
from ctypes import (
    CFUNCTYPE,
    POINTER,
    c_char_p,
    c_double,
    c_int,
    c_size_t,
    c_ssize_t,
    c_uint,
    c_uint64,
    c_ulong,
    c_void_p,
)
from typing import Any

import fuse

_STAT_BYTES = {"x86_64": 144, "aarch64": 128, "ppc64le": 144}
"""sizeof(struct stat) of glibc; fusepy leaves out what is reserved at its end, which counts inside other structures."""

Statvfs = fuse.c_statvfs
FileInfo = fuse.fuse_file_info


class Stat(fuse.c_stat):  # type: ignore[misc]
    """struct stat, to its full length."""

    _fields_ = (("reserved", ctypes.c_byte * (_STAT_BYTES.get(platform.machine(), 144) - ctypes.sizeof(fuse.c_stat))),)


class EntryParam(ctypes.Structure):
    """struct fuse_entry_param: an inode that a name leads to."""

    _fields_ = [
        ("ino", c_ulong),
        ("generation", c_ulong),
        ("attr", Stat),
        ("attr_timeout", c_double),
        ("entry_timeout", c_double),
    ]


class Context(ctypes.Structure):
    """struct fuse_ctx: who asks."""

    _fields_ = [("uid", c_uint), ("gid", c_uint), ("pid", c_int), ("umask", c_uint)]


class Connection(ctypes.Structure):
    """The beginning of struct fuse_conn_info: what the kernel is able to do, and what is wanted of it."""

    _fields_ = [
        ("proto_major", c_uint),
        ("proto_minor", c_uint),
        ("async_read", c_uint),
        ("max_write", c_uint),
        ("max_readahead", c_uint),
        ("capable", c_uint),
        ("want", c_uint),
    ]


CAN_EXPORT = 1 << 4
"""FUSE_CAP_EXPORT_SUPPORT: lookup answers for . and .., so that the kernel finds inodes again that it has forgotten."""


class Piece(ctypes.Structure):
    """struct iovec, of bytes to be read from anywhere."""

    _fields_ = [("start", c_void_p), ("length", c_size_t)]


SEND = CFUNCTYPE(c_int, c_void_p, POINTER(Piece), c_size_t)
"""Gets a channel, and the pieces of an answer with their number; returns 0 or a negative errno."""


class ChannelOperations(ctypes.Structure):
    """struct fuse_chan_ops, for a channel that is only answered on."""

    _fields_ = [("receive", c_void_p), ("send", SEND), ("destroy", c_void_p)]


class ForgetData(ctypes.Structure):
    """struct fuse_forget_data."""

    _fields_ = [("ino", c_uint64), ("nlookup", c_uint64)]


class Args(ctypes.Structure):
    """struct fuse_args."""

    _fields_ = [("argc", c_int), ("argv", POINTER(c_char_p)), ("allocated", c_int)]


SET_MODE, SET_UID, SET_GID, SET_SIZE, SET_ATIME, SET_MTIME = (1 << bit for bit in range(6))
SET_ATIME_NOW, SET_MTIME_NOW = 1 << 7, 1 << 8

_REQUEST, _INODE, _OFFSET, _MODE, _INFO = c_void_p, c_ulong, ctypes.c_longlong, c_uint, c_void_p

# In the order of struct fuse_lowlevel_ops, with the types of their arguments.
_OPERATIONS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("init", (c_void_p, c_void_p)),
    ("destroy", (c_void_p,)),
    ("lookup", (_REQUEST, _INODE, c_char_p)),
    ("forget", (_REQUEST, _INODE, c_ulong)),
    ("getattr", (_REQUEST, _INODE, _INFO)),
    ("setattr", (_REQUEST, _INODE, c_void_p, c_int, _INFO)),
    ("readlink", (_REQUEST, _INODE)),
    ("mknod", (_REQUEST, _INODE, c_char_p, _MODE, fuse.c_dev_t)),
    ("mkdir", (_REQUEST, _INODE, c_char_p, _MODE)),
    ("unlink", (_REQUEST, _INODE, c_char_p)),
    ("rmdir", (_REQUEST, _INODE, c_char_p)),
    ("symlink", (_REQUEST, c_char_p, _INODE, c_char_p)),
    ("rename", (_REQUEST, _INODE, c_char_p, _INODE, c_char_p)),
    ("link", (_REQUEST, _INODE, _INODE, c_char_p)),
    ("open", (_REQUEST, _INODE, _INFO)),
    ("read", (_REQUEST, _INODE, c_size_t, _OFFSET, _INFO)),
    ("write", (_REQUEST, _INODE, c_void_p, c_size_t, _OFFSET, _INFO)),
    ("flush", (_REQUEST, _INODE, _INFO)),
    ("release", (_REQUEST, _INODE, _INFO)),
    ("fsync", (_REQUEST, _INODE, c_int, _INFO)),
    ("opendir", (_REQUEST, _INODE, _INFO)),
    ("readdir", (_REQUEST, _INODE, c_size_t, _OFFSET, _INFO)),
    ("releasedir", (_REQUEST, _INODE, _INFO)),
    ("fsyncdir", (_REQUEST, _INODE, c_int, _INFO)),
    ("statfs", (_REQUEST, _INODE)),
    ("setxattr", (_REQUEST, _INODE, c_char_p, c_void_p, c_size_t, c_int)),
    ("getxattr", (_REQUEST, _INODE, c_char_p, c_size_t)),
    ("listxattr", (_REQUEST, _INODE, c_size_t)),
    ("removexattr", (_REQUEST, _INODE, c_char_p)),
    ("access", (_REQUEST, _INODE, c_int)),
    ("create", (_REQUEST, _INODE, c_char_p, _MODE, _INFO)),
    ("getlk", (_REQUEST, _INODE, _INFO, c_void_p)),
    ("setlk", (_REQUEST, _INODE, _INFO, c_void_p, c_int)),
    ("bmap", (_REQUEST, _INODE, c_size_t, c_uint64)),
    ("ioctl", (_REQUEST, _INODE, c_int, c_void_p, _INFO, c_uint, c_void_p, c_size_t, c_size_t)),
    ("poll", (_REQUEST, _INODE, _INFO, c_void_p)),
    ("write_buf", (_REQUEST, _INODE, c_void_p, _OFFSET, _INFO)),
    ("retrieve_reply", (_REQUEST, c_void_p, _INODE, _OFFSET, c_void_p)),
    ("forget_multi", (_REQUEST, c_size_t, POINTER(ForgetData))),
    ("flock", (_REQUEST, _INODE, _INFO, c_int)),
    ("fallocate", (_REQUEST, _INODE, c_int, _OFFSET, _OFFSET, _INFO)),
)


class LowLevelOperations(ctypes.Structure):
    """struct fuse_lowlevel_ops; what stays NULL is answered with ENOSYS, or by the kernel itself."""

    _fields_ = [(name, CFUNCTYPE(None, *arguments)) for name, arguments in _OPERATIONS]


def operations_table(handlers: object) -> LowLevelOperations:
    """Return the table with those operations for which `handlers` has a method of the name.

    It has to be kept as long as libfuse may call it.
    """
    table = LowLevelOperations()
    for name, arguments in _OPERATIONS:
        handler = getattr(handlers, name, None)
        if handler is not None:
            setattr(table, name, CFUNCTYPE(None, *arguments)(handler))
    return table


def _declared(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(library, name)
    function.restype, function.argtypes = result, list(arguments)
    return function


_waiting = fuse._libfuse  # noqa: SLF001
"""Calls through it let other Python threads run."""
_quick = ctypes.PyDLL(_waiting._name)  # noqa: SLF001
"""Calls through it keep the interpreter lock: for a short system call, giving it up costs more than it helps."""

mount = _declared(_waiting, "fuse_mount", c_void_p, c_char_p, POINTER(Args))
unmount = _declared(_waiting, "fuse_unmount", None, c_char_p, c_void_p)
lowlevel_new = _declared(
    _waiting, "fuse_lowlevel_new", c_void_p, POINTER(Args), POINTER(LowLevelOperations), c_size_t, c_void_p
)
opt_free_args = _declared(_waiting, "fuse_opt_free_args", None, POINTER(Args))
session_add_chan = _declared(_waiting, "fuse_session_add_chan", None, c_void_p, c_void_p)
session_remove_chan = _declared(_waiting, "fuse_session_remove_chan", None, c_void_p)
session_destroy = _declared(_waiting, "fuse_session_destroy", None, c_void_p)
session_exit = _declared(_waiting, "fuse_session_exit", None, c_void_p)
session_exited = _declared(_quick, "fuse_session_exited", c_int, c_void_p)
session_process = _declared(_quick, "fuse_session_process", None, c_void_p, c_void_p, c_size_t, c_void_p)
chan_recv = _declared(_waiting, "fuse_chan_recv", c_int, POINTER(c_void_p), c_void_p, c_size_t)
chan_new = _declared(_quick, "fuse_chan_new", c_void_p, POINTER(ChannelOperations), c_int, c_size_t, c_void_p)
chan_destroy = _declared(_quick, "fuse_chan_destroy", None, c_void_p)
chan_fd = _declared(_quick, "fuse_chan_fd", c_int, c_void_p)

_writev = _declared(ctypes.PyDLL(None, use_errno=True), "writev", c_ssize_t, c_int, c_void_p, c_int)

request_context = _declared(_quick, "fuse_req_ctx", POINTER(Context), _REQUEST)
reply_err = _declared(_quick, "fuse_reply_err", c_int, _REQUEST, c_int)
reply_none = _declared(_quick, "fuse_reply_none", None, _REQUEST)
reply_entry = _declared(_quick, "fuse_reply_entry", c_int, _REQUEST, POINTER(EntryParam))
reply_create = _declared(_quick, "fuse_reply_create", c_int, _REQUEST, POINTER(EntryParam), _INFO)
reply_attr = _declared(_quick, "fuse_reply_attr", c_int, _REQUEST, POINTER(Stat), c_double)
reply_readlink = _declared(_quick, "fuse_reply_readlink", c_int, _REQUEST, c_char_p)
reply_open = _declared(_quick, "fuse_reply_open", c_int, _REQUEST, _INFO)
reply_buf = _declared(_quick, "fuse_reply_buf", c_int, _REQUEST, c_char_p, c_size_t)
reply_statfs = _declared(_quick, "fuse_reply_statfs", c_int, _REQUEST, POINTER(Statvfs))
reply_xattr = _declared(_quick, "fuse_reply_xattr", c_int, _REQUEST, c_size_t)
add_direntry = _declared(
    _quick, "fuse_add_direntry", c_size_t, _REQUEST, c_void_p, c_size_t, c_char_p, POINTER(Stat), _OFFSET
)


def argument_vector(program: bytes, options: list[bytes]) -> Args:
    """Return an argument vector as libfuse parses it: the program's name, then `-o` options."""
    words = [program] + [word for option in options for word in (b"-o", option)]
    return Args(len(words), (c_char_p * (len(words) + 1))(*words, None), 0)


_KIND = struct.Struct("=4xI")


def kind_of(request: memoryview) -> int:
    """Return the number of the operation that a request, as it came from the kernel, is about."""
    kind: int = _KIND.unpack_from(request)[0]
    return kind


class _Piece(ctypes.Structure):
    """struct iovec."""

    _fields_ = [("start", c_char_p), ("length", c_size_t)]


_TwoPieces = _Piece * 2


def send(descriptor: int, head: bytes, body: bytes) -> int:
    """Write two pieces to the kernel at one go, as os.writev does, but without giving up the interpreter lock.

    Returns 0 or an errno.
    """
    pieces = _TwoPieces(_Piece(head, len(head)), _Piece(body, len(body)))
    return 0 if _writev(descriptor, pieces, 2) >= 0 else ctypes.get_errno()


_TIMES = (("st_atimespec", 0), ("st_mtimespec", 1), ("st_ctimespec", 2))


def fill_times(target: Stat, *times_ns: int) -> None:
    """Set atime, mtime and ctime."""
    for name, index in _TIMES:
        spec = getattr(target, name)
        spec.tv_sec, spec.tv_nsec = divmod(times_ns[index], 1_000_000_000)
