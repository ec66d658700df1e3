"""Requests answered straight from the kernel's format: one answer each, with what was asked for or an errno."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from dedupfs import errors
from dedupfs.mount.operations import Operations

try:
    from dedupfs.mount.frequent import Frequent
except OSError as missing:
    pytest.skip(f"libfuse is not installed: {missing}", allow_module_level=True)

READ, WRITE, RELEASE, GETXATTR, LOOKUP = 15, 16, 18, 22, 1
NUMBER = 4711


class Recording:
    """A FileSystem with one file, inode 7, open under handle 5."""

    def __init__(self) -> None:
        self.files = self.privileges = self
        self.calls: list[tuple[object, ...]] = []
        self.failure: BaseException | None = None
        self.waiting = 1 << 20

    def _note(self, *call: object) -> None:
        self.calls.append(call)
        if self.failure is not None:
            raise self.failure

    def read(self, handle: int, offset: int, size: int) -> bytes:
        self._note("read", handle, offset, size)
        return b"some bytes"[:size]

    def before_write(self, handle: int, *, bits: bool) -> None:
        self._note("before write", handle, bits)

    def write(self, handle: int, offset: int, data: memoryview) -> int:
        self._note("write", handle, offset, bytes(data))
        return len(data)

    def waiting_bytes(self, handle: int) -> int:
        return self.waiting

    def release(self, handle: int) -> None:
        self._note("release", handle)

    def get_xattr(self, number: int, name: bytes) -> bytes:
        self._note("get_xattr", number, name)
        if name != b"user.x":
            raise errors.NoAttributeError("no such attribute")
        return b"value"


class Kernel:
    """The other end of a session."""

    def __init__(self) -> None:
        self.filesystem = Recording()
        self.operations = Operations(self.filesystem, b"/volume", lambda: None)  # type: ignore[arg-type]
        self._reading, self._writing = os.pipe()
        self._answer = Frequent(self.operations, self._writing).answer

    def send(self, kind: int, body: bytes) -> bool:
        header = struct.pack("=IIQQIIII", 40 + len(body), kind, NUMBER, 7, 1000, 100, 1, 0)
        return self._answer(memoryview(header + body))

    def ask(self, kind: int, body: bytes) -> tuple[int, bytes]:
        """Return the errno and the body of the one answer."""
        assert self.send(kind, body)
        answer = os.read(self._reading, 1 << 16)
        length, error, number = struct.unpack_from("=IiQ", answer)
        assert (length, number) == (len(answer), NUMBER)
        assert error <= 0
        return -error, answer[16:]

    def close(self) -> None:
        self.operations.finish()
        for descriptor in (self._reading, self._writing):
            os.close(descriptor)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    yield made
    made.close()


def transfer(offset: int, size: int, data: bytes = b"", flags: int = 0) -> bytes:
    return struct.pack("=QQIIQII", 5, offset, size, flags, 0, 0, 0) + data


def attribute(name: bytes, room: int) -> bytes:
    return struct.pack("=II", room, 0) + name + b"\0"


CLOSING = struct.pack("=QIIQ", 5, 0, 0, 0)
ALL = [
    (READ, transfer(0, 10)),
    (WRITE, transfer(0, 3, b"abc")),
    (GETXATTR, attribute(b"user.x", 0)),
]


def test_bytes_are_read(kernel: Kernel) -> None:
    assert kernel.ask(READ, transfer(1 << 40, 4)) == (0, b"some")
    assert kernel.filesystem.calls == [("read", 5, 1 << 40, 4)]
    assert kernel.operations.traffic.figures()["read_bytes"] == 4


def test_bytes_are_written_and_no_more_than_were_sent(kernel: Kernel) -> None:
    assert kernel.ask(WRITE, transfer(1 << 40, 3, b"abcdef")) == (0, struct.pack("=II", 3, 0))
    assert kernel.filesystem.calls == [("before write", 5, False), ("write", 5, 1 << 40, b"abc")]
    assert kernel.operations.traffic.figures()["written_bytes"] == 3


def test_the_kernel_says_who_may_not_keep_a_set_user_bit(kernel: Kernel) -> None:
    kernel.ask(WRITE, transfer(0, 1, b"a", flags=1 << 2))
    assert kernel.filesystem.calls[0] == ("before write", 5, True)


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_file_is_closed_and_nobody_waits_for_it(size: int, kernel: Kernel) -> None:
    kernel.filesystem.waiting = size
    kernel.filesystem.failure = errors.StoreFullError("full")
    assert kernel.ask(RELEASE, CLOSING) == (0, b"")
    kernel.operations.finish()
    assert kernel.filesystem.calls == [("release", 5)]


@pytest.mark.parametrize(
    ("room", "wanted"), [(0, (0, struct.pack("=II", 5, 0))), (4, (errno.ERANGE, b"")), (5, (0, b"value"))]
)
def test_the_size_of_an_attribute_is_told_and_kept_to(room: int, wanted: tuple[int, bytes], kernel: Kernel) -> None:
    assert kernel.ask(GETXATTR, attribute(b"user.x", room)) == wanted
    assert kernel.filesystem.calls == [("get_xattr", 7, b"user.x")]


def test_an_attribute_that_is_not_there(kernel: Kernel) -> None:
    assert kernel.ask(GETXATTR, attribute(b"user.y", 0)) == (errno.ENODATA, b"")


def test_ls_asks_for_a_label_only_once_if_it_hears_that_there_are_none(kernel: Kernel) -> None:
    assert kernel.ask(GETXATTR, attribute(b"security.selinux", 255)) == (errno.EOPNOTSUPP, b"")


@pytest.mark.parametrize(
    ("failure", "wanted"),
    [
        (errors.StoreFullError("full"), errno.ENOSPC),
        (errors.BadHandleError("none"), errno.EBADF),
        (errors.IntegrityError("damage"), errno.EIO),
        (ValueError("a bug"), errno.EIO),
        (SystemExit(3), errno.EIO),
    ],
    ids=repr,
)
@pytest.mark.parametrize(("kind", "body"), ALL, ids=["read", "write", "getxattr"])
def test_every_request_passes_errors_on(
    failure: BaseException, wanted: int, kind: int, body: bytes, kernel: Kernel
) -> None:
    kernel.filesystem.failure = failure
    assert kernel.ask(kind, body) == (wanted, b"")


@pytest.mark.parametrize(("kind", "body"), ALL, ids=["read", "write", "getxattr"])
def test_a_request_that_is_cut_short_is_refused(kind: int, body: bytes, kernel: Kernel) -> None:
    assert kernel.ask(kind, body[:4]) == (errno.EIO, b"")
    assert not kernel.filesystem.calls


def test_everything_else_is_left_to_libfuse(kernel: Kernel) -> None:
    assert not kernel.send(LOOKUP, b"a\0")


def test_an_answer_that_nobody_takes_is_no_failure(kernel: Kernel, monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setattr("dedupfs.mount.libfuse.send", lambda *_: errno.ENOENT)
    assert kernel.send(READ, transfer(0, 10))
    assert not caplog.records
