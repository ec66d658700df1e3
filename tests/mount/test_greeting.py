"""What is agreed with the kernel in the first request, and what comes of it on a mount."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mounting import MountedVolume, mark_fuse, open_descriptor

try:
    from dedupfs.mount.greeting import MAX_TRANSFER_BYTES, completed, is_greeting
except OSError as missing:
    pytest.skip(f"libfuse is not installed: {missing}", allow_module_level=True)

pytestmark = mark_fuse()

MAX_PAGES, HANDLE_KILLPRIV_V2, BIG_WRITES = 1 << 22, 1 << 28, 1 << 5
NUMBER = 2


def first_request(flags: int, protocol: int = 7) -> memoryview:
    head = struct.pack("=IIQQIIII", 104, 26, NUMBER, 0, 0, 0, 0, 0)
    return memoryview(head + struct.pack("=IIII", protocol, 45, 131072, flags) + bytes(48))


def answer_of_libfuse() -> bytes:
    return struct.pack("=IiQ", 40, 0, NUMBER) + struct.pack("=IIIIHHI", 7, 19, 131072, BIG_WRITES, 12, 9, 131072)


def test_what_the_kernel_offers_is_taken() -> None:
    said = completed(first_request(0xFFFFFFFF), answer_of_libfuse())
    assert struct.unpack_from("=IiQ", said) == (len(said), 0, NUMBER)
    assert struct.unpack_from("=IIIIHHIIH", said, 16) == (
        7, 19, 131072, BIG_WRITES | MAX_PAGES | HANDLE_KILLPRIV_V2, 12, 9, MAX_TRANSFER_BYTES,
        0, MAX_TRANSFER_BYTES // os.sysconf("SC_PAGE_SIZE"),
    )  # fmt: skip
    assert len(said) == 16 + 64
    assert not any(said[16 + 30 :])


def test_without_larger_requests_those_of_libfuse_stay() -> None:
    said = completed(first_request(HANDLE_KILLPRIV_V2), answer_of_libfuse())
    assert struct.unpack_from("=IIIIHHIIH", said, 16) == (
        7, 19, 131072, BIG_WRITES | HANDLE_KILLPRIV_V2, 12, 9, 131072, 0, 0
    )  # fmt: skip


def test_an_old_kernel_gets_what_libfuse_has_said() -> None:
    assert completed(first_request(BIG_WRITES), answer_of_libfuse()) == answer_of_libfuse()


def test_a_kernel_of_another_protocol_hears_which_one_libfuse_knows() -> None:
    assert completed(first_request(0xFFFFFFFF, protocol=8), answer_of_libfuse()) == answer_of_libfuse()


def test_a_refusal_stays_one() -> None:
    refusal = struct.pack("=IiQ", 16, -71, NUMBER)
    assert completed(first_request(0xFFFFFFFF), refusal) == refusal


def test_the_first_request_is_known_by_its_kind() -> None:
    assert is_greeting(first_request(0))
    assert not is_greeting(memoryview(struct.pack("=IIQQIIII", 40, 1, NUMBER, 0, 0, 0, 0, 0)))


def requests_of(mounted: MountedVolume) -> int:
    return int(json.loads(os.getxattr(mounted.path, "user.dedupfs.status"))["requests"])


@contextmanager
def asked_meanwhile(mounted: MountedVolume) -> Iterator[list[int]]:
    """Give a list that has, after the block, how many requests the kernel had."""
    counted: list[int] = []
    before = requests_of(mounted)
    yield counted
    counted.append(requests_of(mounted) - before - 1)


def test_writing_takes_one_request_for_each_write(shared: MountedVolume, here: Path) -> None:
    with open_descriptor(here / "file", os.O_WRONLY | os.O_CREAT) as file:
        os.write(file, bytes(4096))
        with asked_meanwhile(shared) as requests:
            for _ in range(50):
                os.write(file, bytes(4096))
    assert requests[0] < 60


def test_long_writes_and_reads_take_few_requests(shared: MountedVolume, here: Path) -> None:
    data = os.urandom(16 * MAX_TRANSFER_BYTES)
    with open_descriptor(here / "file", os.O_RDWR | os.O_CREAT) as file:
        with asked_meanwhile(shared) as requests:
            os.write(file, data)
        assert requests[0] < 24
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        # As cp and cat say it; the kernel reads ahead twice as far then.
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        with asked_meanwhile(shared) as requests:
            assert os.pread(file, len(data), 0) == data
        assert requests[0] < 24
