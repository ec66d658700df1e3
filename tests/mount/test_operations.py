"""The adapter over a FileSystem that fails as it is told: an errno or an answer leaves it, and nothing else."""

from __future__ import annotations

import errno
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from dedupfs import errors
from dedupfs.filesystem.inodes import Attributes
from dedupfs.model import InodeNo
from dedupfs.mount import errnos
from tests.mounting import why_no_fuse

try:
    from fuse import FuseOSError

    from dedupfs.mount.operations import DedupfsOperations
except OSError as missing:
    pytest.skip(f"libfuse is not installed: {missing}", allow_module_level=True)

UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2

WANTED = {
    errors.EntryNotFoundError: errno.ENOENT,
    errors.EntryExistsError: errno.EEXIST,
    errors.NotEmptyError: errno.ENOTEMPTY,
    errors.NotDirectoryError: errno.ENOTDIR,
    errors.IsDirectoryError: errno.EISDIR,
    errors.BadHandleError: errno.EBADF,
    errors.NameTooLongError: errno.ENAMETOOLONG,
    errors.TooManyLinksError: errno.EMLINK,
    errors.NoAttributeError: errno.ENODATA,
    errors.InvalidRequestError: errno.EINVAL,
    errors.NotPermittedError: errno.EPERM,
    errors.NotSupportedError: errno.EOPNOTSUPP,
    errors.FileTooLargeError: errno.EFBIG,
    errors.AttributeTooLargeError: errno.E2BIG,
    errors.StoreFullError: errno.ENOSPC,
    errors.StoreReadOnlyError: errno.EROFS,
    MemoryError: errno.ENOMEM,
}


class Failing:
    """Whatever is asked of it raises."""

    def __init__(self, exc: BaseException) -> None:
        self._exc = exc
        self.files = self

    def __getattr__(self, name: str) -> Any:
        def fail(*_: object, **__: object) -> None:
            raise self._exc

        return fail


def operations(filesystem: object) -> DedupfsOperations:
    return DedupfsOperations(filesystem, b"/volume", lambda: None)  # type: ignore[arg-type]


def refused(exc: BaseException, operation: str = "getattr", *arguments: object) -> int:
    """Return the errno with which an operation answers when FileSystem raises."""
    with pytest.raises(FuseOSError) as caught:
        operations(Failing(exc))(operation, *(arguments or ("/file",)))
    assert caught.value.errno > 0
    return int(caught.value.errno)


@pytest.mark.parametrize(("kind", "wanted"), WANTED.items(), ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_foreseen_exception_becomes_its_errno(
    kind: type[Exception], wanted: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert refused(kind("text")) == wanted
    assert kind is MemoryError or not caplog.records


def test_no_exception_of_posix_is_forgotten() -> None:
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type)}
    for kind in kinds:
        if issubclass(kind, errors.NamespaceError) and kind is not errors.NamespaceError:
            assert errnos.errno_of(kind("")) == WANTED[kind]


@pytest.mark.parametrize(
    "exc",
    [
        errors.IntegrityError("damage"),
        errors.StoreError("broken"),
        errors.WorkerError("gone"),
        OSError(),
        OSError("no number"),
        OSError(-5, "a negative number"),
        ValueError("a bug"),
        SystemExit(3),
        KeyboardInterrupt(),
        AssertionError(),
    ],
    ids=repr,
)
def test_anything_else_becomes_an_input_output_error(exc: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    assert refused(exc) == errno.EIO


def test_what_nobody_foresaw_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    refused(ValueError("a bug"))
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.levelno == logging.ERROR


def test_damage_is_logged_without_a_name(caplog: pytest.LogCaptureFixture) -> None:
    refused(errors.IntegrityError("a chunk is damaged"), "getattr", "/secret name")
    (record,) = caplog.records
    assert "a chunk is damaged" in record.getMessage()
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("readlink", ("/a",)),
        ("link", ("/a", "/b")),
        ("unlink", ("/a",)),
        ("rmdir", ("/a",)),
        ("rename", ("/a", "/b")),
        ("opendir", ("/a",)),
        ("fsyncdir", ("/a", 0, 1)),
        ("chmod", ("/a", 0o644)),
        ("chown", ("/a", 1, 1)),
        ("utimens", ("/a", None)),
        ("truncate", ("/a", 1)),
        ("getxattr", ("/a", "user.x")),
        ("listxattr", ("/a",)),
        ("setxattr", ("/a", "user.x", b"", 0)),
        ("removexattr", ("/a", "user.x")),
        ("statfs", ("/",)),
        ("open", ("/a", SimpleNamespace(flags=0, fh=0))),
        ("read", ("/a", 1, 0, SimpleNamespace(fh=1))),
        ("write", ("/a", b"x", 0, SimpleNamespace(fh=1))),
        ("flush", ("/a", SimpleNamespace(fh=1))),
        ("fsync", ("/a", 0, SimpleNamespace(fh=1))),
        ("release", ("/a", SimpleNamespace(fh=1))),
    ],
)
def test_every_operation_passes_errors_on(operation: str, arguments: tuple[object, ...]) -> None:
    assert refused(errors.StoreFullError("full"), operation, *arguments) == errno.ENOSPC


class Recording:
    """A FileSystem that knows one file, `/ä`, and notes what is asked."""

    def __init__(self) -> None:
        self.files = self
        self.calls: list[tuple[object, ...]] = []

    def lookup(self, parent: int, name: bytes) -> InodeNo:
        if (parent, name) != (1, "ä".encode()):
            raise errors.EntryNotFoundError("no such entry")
        return InodeNo(7)

    def attributes(self, number: int) -> Attributes:
        return Attributes(InodeNo(number), 0o100644, 1, 2, 9, 3, 5000, 16, 10, 11, 12)

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **keywords: self.calls.append((name, *arguments, *keywords.values()))


PATH = "/" + "ä".encode().decode("latin-1")


def test_names_pass_byte_for_byte() -> None:
    assert operations(Recording())("getattr", PATH)["st_ino"] == 7
    assert operations(Recording())("getattr", "/")["st_ino"] == 1


def test_attributes_are_told_as_stat_does() -> None:
    told = operations(Recording())("getattr", PATH)
    assert (told["st_size"], told["st_blocks"], told["st_nlink"], told["st_mode"]) == (5000, 16, 3, 0o100644)
    assert (told["st_atime"], told["st_mtime"], told["st_ctime"]) == (10, 11, 12)
    assert told["st_rdev"] == 0, "only devices have a device number"


@pytest.mark.parametrize(
    ("times", "wanted"),
    [
        (((1, 2), (3, 4)), (1_000_000_002, 3_000_000_004)),
        (((0, UTIME_OMIT), (3, 4)), (None, 3_000_000_004)),
        (((1, 2), (0, UTIME_OMIT)), (1_000_000_002, None)),
        (((0, UTIME_OMIT), (0, UTIME_OMIT)), (None, None)),
        (((-1, 5), (0, 0)), (-999_999_995, 0)),
    ],
)
def test_times(times: tuple[tuple[int, int], tuple[int, int]], wanted: tuple[int | None, int | None]) -> None:
    filesystem = Recording()
    operations(filesystem)("utimens", PATH, times)
    assert filesystem.calls == [("set_times", 7, *wanted)]


@pytest.mark.parametrize("times", [None, ((0, UTIME_NOW), (0, UTIME_NOW))])
def test_the_time_now(times: tuple[tuple[int, int], tuple[int, int]] | None) -> None:
    filesystem = Recording()
    operations(filesystem)("utimens", PATH, times)
    ((_, _, atime_ns, mtime_ns),) = filesystem.calls
    assert isinstance(atime_ns, int)
    assert isinstance(mtime_ns, int)
    assert atime_ns > 10**18
    assert mtime_ns > 10**18


@pytest.mark.parametrize(
    ("flags", "wanted"), [(0, (False, False)), (1, (True, False)), (2, (False, True))], ids=["any", "create", "replace"]
)
def test_flags_of_extended_attributes(flags: int, wanted: tuple[bool, bool]) -> None:
    filesystem = Recording()
    operations(filesystem)("setxattr", PATH, "user.x", b"value", flags)
    assert filesystem.calls == [("set_xattr", 7, b"user.x", b"value", *wanted)]


def test_owners_can_be_set_one_by_one() -> None:
    filesystem = Recording()
    operations(filesystem)("chown", PATH, 5, -1)
    operations(filesystem)("chown", PATH, -1, 6)
    assert filesystem.calls == [("set_owner", 7, 5, None), ("set_owner", 7, None, 6)]


def test_the_mounts_own_attributes() -> None:
    asked = operations(Recording())
    assert asked("getxattr", "/", "user.dedupfs.volume") == b"/volume"
    assert int(asked("getxattr", "/", "user.dedupfs.pid")) > 0
    with pytest.raises(FuseOSError) as elsewhere:
        asked("getxattr", PATH, "user.dedupfs.volume")
    assert elsewhere.value.errno == errno.ENODATA
    with pytest.raises(FuseOSError) as forbidden:
        asked("setxattr", PATH, "user.dedupfs.settle", b"", 0)
    assert forbidden.value.errno == errno.EPERM


def test_the_reason_for_skipping_mounts_is_told() -> None:
    reason = why_no_fuse()
    assert reason is None or reason
