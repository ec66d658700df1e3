"""Greeting: the first request, in which the kernel says what it is able to do and hears what is wanted of it.

libfuse 2 answers it and keeps what was agreed, but knows nothing of what came after protocol 7.19. So its answer goes
into a channel that leads nowhere, is completed here, and is sent to the kernel then:

- Requests of up to MAX_TRANSFER_BYTES instead of 128 KiB (FUSE_MAX_PAGES, Linux 4.20).
- What a write takes from a file, its set-user-ID bit and its capabilities, is taken here (FUSE_HANDLE_KILLPRIV_V2,
  Linux 5.11). Otherwise the kernel asks for `security.capability` before each write; now it does when it has learned of
  the file, and remembers what it heard.

An older kernel offers neither and gets libfuse's answer as it is. Layouts are those of linux/fuse.h.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from typing import Any

from dedupfs.mount import libfuse

MAX_TRANSFER_BYTES = 256 << 10
"""The largest request of the kernel: what 128 KiB cost in requests is halved, and 1 MiB was no faster (copying in 173,
206 and 203 MB/s, in one run) while every thread that waits for requests has room for one."""
_PAGE_BYTES = mmap.PAGESIZE
REQUEST_BYTES = MAX_TRANSFER_BYTES + _PAGE_BYTES
"""The longest request, with what comes before the bytes that are to be written."""
_REQUEST_HEAD_BYTES = 40
_INIT = 26
_PROTOCOL = 7
_ANSWER = struct.Struct("=IiQ")  # length, negative errno, number of the request
_OFFERED = struct.Struct("=IIII")  # protocol, its minor version, read-ahead, flags
_AGREED = struct.Struct("=IIIIHHI")  # the same, requests in the background and when they are too many, longest write
_AGREED_SINCE = struct.Struct("=IHHII24x")  # granularity of times, pages of a request, and what is left at zero
_MAX_PAGES = 1 << 22
_HANDLE_KILLPRIV_V2 = 1 << 28


def is_greeting(request: memoryview) -> bool:
    """Whether a request is the first one of a connection."""
    return libfuse.kind_of(request) == _INIT


def greet(session: Any, request: Any, length: int, descriptor: int) -> None:
    """Answer the first request.

    Args:
        session: of libfuse.
        request: a ctypes array that begins with the request.
        descriptor: where the kernel takes answers.

    Raises:
        OSError: the kernel does not take this one.
    """
    answer: list[bytes] = []

    def catch(channel: int, pieces: Any, count: int) -> int:
        answer.append(b"".join(ctypes.string_at(piece.start, piece.length) for piece in pieces[:count]))
        return 0

    operations = libfuse.ChannelOperations(send=libfuse.SEND(catch))
    nowhere = libfuse.chan_new(ctypes.byref(operations), -1, REQUEST_BYTES, None)
    libfuse.session_process(session, request, length, nowhere)
    libfuse.chan_destroy(nowhere)
    os.write(descriptor, completed(memoryview(request)[:length].cast("B"), b"".join(answer)))


def completed(request: memoryview, answer: bytes) -> bytes:
    """Return libfuse's answer to the first request with what the kernel offers beyond it."""
    protocol, *_, offered = _OFFERED.unpack_from(request, _REQUEST_HEAD_BYTES)
    # To a later protocol libfuse only says which one it knows, and the kernel begins anew.
    wanted = offered & (_MAX_PAGES | _HANDLE_KILLPRIV_V2) if protocol == _PROTOCOL else 0
    _, failure, number = _ANSWER.unpack_from(answer)
    if failure or not wanted:
        return answer
    *versions, flags, most, too_many, max_write = _AGREED.unpack_from(answer, _ANSWER.size)
    pages = 0
    if wanted & _MAX_PAGES:
        pages, max_write = MAX_TRANSFER_BYTES // _PAGE_BYTES, MAX_TRANSFER_BYTES
    agreed = _AGREED.pack(*versions, flags | wanted, most, too_many, max_write) + _AGREED_SINCE.pack(0, pages, 0, 0, 0)
    return _ANSWER.pack(_ANSWER.size + len(agreed), 0, number) + agreed
