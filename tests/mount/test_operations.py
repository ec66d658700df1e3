"""The adapter over a FileSystem that fails as it is told: every request gets one reply, an errno or an answer."""

from __future__ import annotations

import ctypes
import errno
import logging
from typing import Any

import pytest

from dedupfs import errors
from dedupfs.filesystem.filesystem import Space
from dedupfs.filesystem.inodes import Attributes
from dedupfs.model import InodeNo
from dedupfs.mount import errnos
from dedupfs.mount.operations import Changes, Operations
from tests.mounting import why_no_fuse

try:
    from dedupfs.mount import libfuse
    from dedupfs.mount.requests import Requests
except OSError as missing:
    pytest.skip(f"libfuse is not installed: {missing}", allow_module_level=True)

REQUEST = 4711
ALL_CHANGES = (1 << 6) - 1

WANTED = {
    errors.EntryNotFoundError: errno.ENOENT,
    errors.StaleInodeError: errno.ESTALE,
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
    errors.InUseError: errno.EBUSY,
    errors.StoreFullError: errno.ENOSPC,
    errors.StoreReadOnlyError: errno.EROFS,
    MemoryError: errno.ENOMEM,
}


class Replies:
    """What left for libfuse, in place of libfuse."""

    def __init__(self, patched: pytest.MonkeyPatch) -> None:
        self.sent: list[tuple[Any, ...]] = []
        self.undeliverable = False
        for name in vars(libfuse):
            if name.startswith("reply_"):
                patched.setattr(libfuse, name, self._recorder(name.removeprefix("reply_")))
        context = libfuse.Context(uid=1000, gid=100)
        patched.setattr(libfuse, "request_context", lambda request: ctypes.pointer(context))

    def _recorder(self, kind: str) -> Any:
        def record(request: int, *values: Any) -> int:
            assert request == REQUEST
            self.sent.append((kind, *values))
            return -errno.ENOENT if self.undeliverable else 0

        return record

    def only(self) -> tuple[Any, ...]:
        """Return the one reply that was sent."""
        (reply,) = self.sent
        return reply


@pytest.fixture
def replies(monkeypatch: pytest.MonkeyPatch) -> Replies:
    return Replies(monkeypatch)


class Failing:
    """Whatever is asked of it raises."""

    def __init__(self, exc: BaseException) -> None:
        self._exc = exc
        self.files = self.privileges = self

    def __getattr__(self, name: str) -> Any:
        def fail(*_: object, **__: object) -> None:
            raise self._exc

        return fail


def requests(filesystem: object) -> Requests:
    return Requests(Operations(filesystem, b"/volume", lambda: None))  # type: ignore[arg-type]


def refused(replies: Replies, exc: BaseException, operation: str = "getattr", *arguments: object) -> int:
    """Return the errno with which a request is answered when FileSystem raises."""
    getattr(requests(Failing(exc)), operation)(REQUEST, *(arguments or (7, None)))
    kind, number = replies.only()
    assert kind == "err"
    assert number > 0
    return int(number)


@pytest.mark.parametrize(("kind", "wanted"), WANTED.items(), ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_foreseen_exception_becomes_its_errno(
    kind: type[Exception], wanted: int, replies: Replies, caplog: pytest.LogCaptureFixture
) -> None:
    assert refused(replies, kind("text")) == wanted
    assert not caplog.records


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
def test_anything_else_becomes_an_input_output_error(exc: BaseException, replies: Replies) -> None:
    assert refused(replies, exc) == errno.EIO


def test_what_nobody_foresaw_is_logged_with_its_traceback(replies: Replies, caplog: pytest.LogCaptureFixture) -> None:
    refused(replies, ValueError("a bug"))
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.levelno == logging.ERROR


def test_damage_is_logged_without_a_name(replies: Replies, caplog: pytest.LogCaptureFixture) -> None:
    refused(replies, errors.IntegrityError("a chunk is damaged"), "unlink", 1, b"secret name")
    (record,) = caplog.records
    assert "a chunk is damaged" in record.getMessage()
    assert "secret" not in caplog.text


INFO = libfuse.FileInfo(fh=1)
STAT = libfuse.Stat()


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("lookup", (1, b"a")),
        ("getattr", (7, None)),
        ("setattr", (7, ctypes.addressof(STAT), ALL_CHANGES, None)),
        ("readlink", (7,)),
        ("mknod", (1, b"a", 0o100644, 0)),
        ("mkdir", (1, b"a", 0o755)),
        ("unlink", (1, b"a")),
        ("rmdir", (1, b"a")),
        ("symlink", (b"target", 1, b"a")),
        ("rename", (1, b"a", 1, b"b")),
        ("link", (7, 1, b"b")),
        ("open", (7, ctypes.addressof(INFO))),
        ("fsync", (7, 0, ctypes.addressof(INFO))),
        ("opendir", (1, ctypes.addressof(INFO))),
        ("readdir", (1, 4096, 0, ctypes.addressof(INFO))),
        ("fsyncdir", (1, 0, ctypes.addressof(INFO))),
        ("statfs", (1,)),
        ("setxattr", (7, b"user.x", None, 0, 0)),
        ("listxattr", (7, 0)),
        ("removexattr", (7, b"user.x")),
        ("create", (1, b"a", 0o644, ctypes.addressof(INFO))),
        ("fallocate", (7, 0, 0, 1, ctypes.addressof(INFO))),
    ],
)
def test_every_operation_passes_errors_on(operation: str, arguments: tuple[object, ...], replies: Replies) -> None:
    assert refused(replies, errors.StoreFullError("full"), operation, *arguments) == errno.ENOSPC


class Losing:
    """Notes of which inodes privileges are taken, and whether the bits among them are."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, bool]] = []

    def drop(self, number: int, *, bits: bool) -> None:
        self.calls.append((number, bits))


class Recording:
    """A FileSystem that knows one file, `ä`, and notes what is asked."""

    def __init__(self) -> None:
        self.files = self
        self.privileges = Losing()
        self.calls: list[tuple[object, ...]] = []
        self.nlink = 3

    def lookup(self, parent: int, name: bytes) -> InodeNo:
        if (parent, name) != (1, "ä".encode()):
            raise errors.EntryNotFoundError("no such entry")
        return InodeNo(7)

    def attributes_of(self, parent: int, name: bytes) -> Attributes:
        return self.attributes(self.lookup(parent, name))

    def attributes(self, number: int) -> Attributes:
        if number != 7:
            raise errors.StaleInodeError("gone")
        return Attributes(InodeNo(number), 0o100644, 1, 2, 9, self.nlink, 5000, 16, 10, 11, 12_000_000_013)

    def hold(self, number: int) -> bool:
        self.calls.append(("hold", number))
        return True

    def unlink(self, parent: int, name: bytes) -> None:
        self.calls.append(("unlink", name))
        self.nlink -= 1

    def remove_directory(self, parent: int, name: bytes) -> Attributes:
        return Attributes(InodeNo(8), 0o040755, 1, 2, 0, 2, 77, 1, 1, 1, 1)

    def space(self) -> Space:
        return Space(total_bytes=8192, free_bytes=4096, files=3)

    def create(self, *_: object) -> tuple[InodeNo, int]:
        return InodeNo(7), 5

    def waiting_bytes(self, handle: int) -> int:
        return 0

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **keywords: self.calls.append((name, *arguments, *keywords.values()))


def test_names_pass_byte_for_byte_and_lead_to_what_stat_tells(replies: Replies) -> None:
    requests(Recording()).lookup(REQUEST, 1, "ä".encode())
    _, entry = replies.only()
    told = entry.attr
    assert entry.ino == told.st_ino == 7
    assert entry.generation != 0
    assert (told.st_size, told.st_blocks, told.st_nlink, told.st_mode) == (5000, 16, 3, 0o100644)
    assert (told.st_atimespec.tv_nsec, told.st_mtimespec.tv_nsec) == (10, 11)
    assert (told.st_ctimespec.tv_sec, told.st_ctimespec.tv_nsec) == (12, 13)
    assert told.st_rdev == 0, "only devices have a device number"


def test_the_kernel_may_remember_that_a_name_leads_nowhere(replies: Replies) -> None:
    requests(Recording()).lookup(REQUEST, 1, b"other")
    kind, entry = replies.only()
    assert (kind, entry.ino) == ("entry", 0)
    assert entry.entry_timeout > 1000


@pytest.mark.usefixtures("replies")
def test_a_file_that_loses_its_last_name_stays_until_the_kernel_forgets_it() -> None:
    filesystem = Recording()
    filesystem.nlink = 1
    asked = requests(filesystem)
    asked.unlink(REQUEST, 1, "ä".encode())
    assert filesystem.calls == [("hold", 7), ("unlink", "ä".encode())]
    asked.forget(REQUEST, 9, 1)
    asked.forget(REQUEST, 7, 1)
    asked.forget(REQUEST, 7, 1)
    assert filesystem.calls[2:] == [("let_loose", 7)]


@pytest.mark.usefixtures("replies")
def test_a_file_that_keeps_a_name_is_let_loose_at_once() -> None:
    filesystem = Recording()
    requests(filesystem).unlink(REQUEST, 1, "ä".encode())
    assert filesystem.calls == [("hold", 7), ("unlink", "ä".encode()), ("let_loose", 7)]


@pytest.mark.usefixtures("replies")
def test_what_the_kernel_did_not_forget_is_let_loose_at_the_end() -> None:
    filesystem = Recording()
    filesystem.nlink = 1
    operations = Operations(filesystem, b"/volume", lambda: None)  # type: ignore[arg-type]
    operations.unlink(InodeNo(1), "ä".encode())
    operations.finish()
    assert filesystem.calls[2:] == [("let_loose", 7)]


def test_the_last_attributes_of_a_directory_are_told_until_the_kernel_forgets_it(replies: Replies) -> None:
    asked = requests(Recording())
    asked.rmdir(REQUEST, 1, b"name")
    asked.getattr(REQUEST, 8, None)
    asked.forget(REQUEST, 8, 1)
    asked.getattr(REQUEST, 8, None)
    _, (kind, told, _), _, last = replies.sent
    assert (kind, told.st_size, told.st_nlink) == ("attr", 77, 0)
    assert last == ("err", errno.ESTALE)


def test_only_what_is_asked_is_changed() -> None:
    filesystem = Recording()
    asked = Operations(filesystem, b"/volume", lambda: None)  # type: ignore[arg-type]
    asked.setattr(InodeNo(7), Changes(uid=5))
    asked.setattr(InodeNo(7), Changes(size=0, mtime_ns=-1))
    assert filesystem.calls == [
        ("set_attributes", 7, None, 5, None, None, None),
        ("truncate", 7, 0),
        ("set_attributes", 7, None, None, None, None, -1),
    ]


@pytest.mark.parametrize(
    ("changes", "lost"),
    [
        (Changes(mode=0o4755), []),
        (Changes(mtime_ns=1), []),
        (Changes(uid=5, privileged=True), [(7, True)]),
        (Changes(gid=5, mode=0o4755), [(7, True)]),
        (Changes(size=0), [(7, True)]),
        (Changes(size=0, privileged=True), [(7, False)]),
        (Changes(), [(7, True)]),
        (Changes(privileged=True), [(7, False)]),
    ],
    ids=repr,
)
def test_who_changes_a_file_takes_its_privileges(changes: Changes, lost: list[tuple[int, bool]]) -> None:
    filesystem = Recording()
    Operations(filesystem, b"/volume", lambda: None).setattr(InodeNo(7), changes)  # type: ignore[arg-type]
    assert filesystem.privileges.calls == lost


def changed(which: int, **fields: int) -> tuple[object, ...]:
    """Return what reaches FileSystem of a request to set attributes."""
    filesystem = Recording()
    wanted = libfuse.Stat(st_mode=0o600, st_uid=5, st_gid=6)
    libfuse.fill_times(wanted, fields.get("atime_ns", 0), fields.get("mtime_ns", 0), 0)
    requests(filesystem).setattr(REQUEST, 7, ctypes.addressof(wanted), which, None)
    (call,) = filesystem.calls
    return call[2:]


@pytest.mark.usefixtures("replies")
def test_flags_say_what_is_changed() -> None:
    assert changed(libfuse.SET_MODE) == (0o600, None, None, None, None)
    assert changed(libfuse.SET_UID) == (None, 5, None, None, None)
    assert changed(libfuse.SET_GID) == (None, None, 6, None, None)
    assert changed(libfuse.SET_ATIME, atime_ns=1_000_000_002) == (None, None, None, 1_000_000_002, None)
    assert changed(libfuse.SET_MTIME, mtime_ns=-999_999_995) == (None, None, None, None, -999_999_995)


@pytest.mark.usefixtures("replies")
def test_the_time_now() -> None:
    *_, atime_ns, mtime_ns = changed(
        libfuse.SET_ATIME | libfuse.SET_ATIME_NOW | libfuse.SET_MTIME | libfuse.SET_MTIME_NOW
    )
    assert isinstance(atime_ns, int)
    assert isinstance(mtime_ns, int)
    assert atime_ns > 10**18
    assert mtime_ns > 10**18


@pytest.mark.parametrize(
    ("flags", "wanted"), [(0, (False, False)), (1, (True, False)), (2, (False, True))], ids=["any", "create", "replace"]
)
@pytest.mark.usefixtures("replies")
def test_flags_of_extended_attributes(flags: int, wanted: tuple[bool, bool]) -> None:
    filesystem = Recording()
    value = ctypes.create_string_buffer(b"value")
    requests(filesystem).setxattr(REQUEST, 7, b"user.x", ctypes.addressof(value), 5, flags)
    assert filesystem.calls == [("set_xattr", 7, b"user.x", b"value", *wanted)]


def test_room_is_told_in_blocks(replies: Replies) -> None:
    requests(Recording()).statfs(REQUEST, 1)
    _, told = replies.only()
    assert (told.f_blocks, told.f_bfree, told.f_files, told.f_namemax) == (2, 1, 4, 255)


def test_a_handle_that_nobody_learned_of_is_closed(replies: Replies) -> None:
    filesystem = Recording()
    replies.undeliverable = True
    operations = Operations(filesystem, b"/volume", lambda: None)  # type: ignore[arg-type]
    Requests(operations).create(REQUEST, 1, b"a", 0o644, ctypes.addressof(INFO))
    operations.finish()
    assert filesystem.calls == [("release", 5)]


@pytest.mark.parametrize("mode", [0x08, 0x20, 0x40], ids=["collapse", "insert", "unshare"])
def test_room_cannot_be_made_in_the_middle(mode: int, replies: Replies) -> None:
    requests(Recording()).fallocate(REQUEST, 7, mode, 0, 1, ctypes.addressof(INFO))
    assert replies.only() == ("err", errno.EOPNOTSUPP)


def test_the_mounts_own_attributes() -> None:
    asked = Operations(Recording(), b"/volume", lambda: None)  # type: ignore[arg-type]
    assert asked.getxattr(InodeNo(1), b"user.dedupfs.volume") == b"/volume"
    assert int(asked.getxattr(InodeNo(1), b"user.dedupfs.pid")) > 0
    with pytest.raises(errors.NoAttributeError):
        asked.getxattr(InodeNo(7), b"user.dedupfs.volume")
    with pytest.raises(errors.NotPermittedError):
        asked.setxattr(InodeNo(7), b"user.dedupfs.settle", b"", 0)


def test_the_reason_for_skipping_mounts_is_told() -> None:
    reason = why_no_fuse()
    assert reason is None or reason
