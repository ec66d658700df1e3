"""CopyIn: ordinary files and directories into a volume, without a mount, with the result that `cp -a` into one has.

Everything goes through FileSystem, so pictures are decided about as they are under a mount; but no more of them wait
than are being decided about, so that a near-duplicate hardly ever reaches the disk. A file that a crash could leave
with half its bytes, or that takes the place of another, is written under a name of its own first. One thread.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from dedupfs.errors import (
    DedupfsError,
    EntryExistsError,
    EntryNotFoundError,
    InvalidRequestError,
    NotPermittedError,
    NotSupportedError,
    StoreFullError,
    TooManyLinksError,
)
from dedupfs.filesystem.copying import Copied
from dedupfs.filesystem.files import STEP_BYTES
from dedupfs.filesystem.filesystem import FileSystem
from dedupfs.filesystem.inodes import Attributes
from dedupfs.filesystem.xattrs import RESERVED_XATTRS
from dedupfs.model import InodeNo
from dedupfs.storage.metadata import POLICY_XATTR, ROOT

PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Item:
    """One name among the sources, and the place it gets."""

    source: bytes
    status: os.stat_result
    parent: InodeNo
    name: bytes


class CopyIn:
    """One run; `run` may be called once."""

    def __init__(
        self,
        filesystem: FileSystem,
        volume: bytes,
        *,
        replace: bool,
        waiting: int,
        tell: Callable[[bytes, str], None] = lambda path, reason: None,
        progress: Callable[[int], None] = lambda done_bytes: None,
    ) -> None:
        """Prepare.

        Args:
            volume: the volume's directory, which is left out where it lies among the sources.
            replace: whether files that were there before and differ may be overwritten.
            waiting: how many pictures may wait for their decision.
            tell: called with the path and the reason for everything that cannot be copied.
            progress: called with the bytes done so far.
        """
        self._filesystem = filesystem
        self._volume = os.stat(volume)
        self._replace = replace
        self._pictures_waiting = waiting
        self._progress = progress
        self._is_root = os.geteuid() == 0
        self._groups = {os.getegid(), *os.getgroups()}
        self._linked: dict[tuple[int, int], InodeNo] = {}
        self._made: set[InodeNo] = set()
        """Made by this run, so that no other source of the same name may replace it."""
        self._directories: list[tuple[bytes, os.stat_result, InodeNo]] = []
        self._copied = Copied(tell)

    def run(self, sources: Sequence[bytes]) -> Copied:
        """Copy everything that can be read; call `FileSystem.settle` afterwards.

        Raises:
            StoreFullError: the disk with the volume is full; what was stored stays.
        """
        for source in sources:
            for item in self._walk(source):
                self._attempt(item)
        for source, status, number in reversed(self._directories):
            try:
                self._set_attributes(source, status, number)
            except DedupfsError as exc:
                self._fail(source, exc)
        return self._copied

    # The tree

    def _walk(self, source: bytes) -> Iterator[_Item]:
        """Make the directories, and yield everything else."""
        waiting: list[tuple[bytes, InodeNo]] = []
        try:
            if is_contents(source):
                self._begin(source, os.stat(source), ROOT)
                waiting.append((source, ROOT))
            else:
                first = _Item(source, os.lstat(source), ROOT, os.path.basename(source))
                if not stat.S_ISDIR(first.status.st_mode):
                    yield first
                    return
                self._enter(first, waiting)
        except OSError as exc:
            self._fail(source, exc)
        while waiting:
            directory, number = waiting.pop()
            try:
                names = sorted(os.listdir(directory))
            except OSError as exc:
                self._fail(directory, exc)
                continue
            for name in names:
                path = os.path.join(directory, name)
                try:
                    item = _Item(path, os.lstat(path), number, name)
                except OSError as exc:
                    self._fail(path, exc)
                    continue
                if stat.S_ISDIR(item.status.st_mode):
                    self._enter(item, waiting)
                else:
                    yield item

    def _enter(self, item: _Item, waiting: list[tuple[bytes, InodeNo]]) -> None:
        if os.path.samestat(item.status, self._volume):
            return
        try:
            there = self._find(item)
            if there is None:
                number = self._filesystem.make_directory(item.parent, item.name, 0o700, *self._owner(item.status))
            elif stat.S_ISDIR(there.mode):
                number = there.inode
            else:
                raise EntryExistsError("the volume has a file of this name")
        except StoreFullError:
            raise
        except DedupfsError as exc:
            self._fail(item.source, exc)
            return
        self._copied.count("directories")
        self._begin(item.source, item.status, number)
        waiting.append((item.source, number))

    def _begin(self, source: bytes, status: os.stat_result, number: InodeNo) -> None:
        """Note a directory whose attributes come last, but for the policy, which what is below it goes by."""
        self._directories.append((source, status, number))
        for name, value in self._read_xattrs(source):
            if name == POLICY_XATTR:
                with contextlib.suppress(InvalidRequestError):
                    self._filesystem.set_xattr(number, name, value)

    def _find(self, item: _Item) -> Attributes | None:
        """Return what has the item's name in the volume."""
        try:
            return self._filesystem.attributes(self._filesystem.lookup(item.parent, item.name))
        except EntryNotFoundError:
            return None

    # Files

    def _attempt(self, item: _Item) -> None:
        """Copy one item; a failure is noted, unless it is one of the volume as a whole."""
        try:
            if stat.S_ISREG(item.status.st_mode):
                self._copy_file(item)
            else:
                self._copy_other(item)
        except StoreFullError:
            raise
        except (DedupfsError, OSError) as exc:
            self._fail(item.source, exc)
        if stat.S_ISREG(item.status.st_mode):
            self._copied.done_bytes += item.status.st_size
            self._progress(self._copied.done_bytes)

    def _copy_file(self, item: _Item) -> None:
        there = self._find(item)
        identity = (item.status.st_dev, item.status.st_ino)
        if there is not None and _is_same(there, item.status):
            self._copied.count("skipped")
            if item.status.st_nlink > 1:
                self._linked.setdefault(identity, there.inode)
            return
        self._check_place(there)
        number = self._linked.get(identity) if item.status.st_nlink > 1 else None
        if number is not None and there is None:
            try:
                self._filesystem.link(number, item.parent, item.name)
                self._copied.count("links")
                return
            except TooManyLinksError:
                pass
        self._filesystem.files.wait_for_decisions(self._pictures_waiting)
        number = self._write_file(item, in_steps=there is not None or item.status.st_size > STEP_BYTES)
        if item.status.st_nlink > 1:
            self._linked[identity] = number
        self._made.add(number)
        self._copied.count_file(item.status.st_size)

    def _write_file(self, item: _Item, *, in_steps: bool) -> InodeNo:
        """Write a file and return its inode; `in_steps` if it may not have its name before it is whole."""
        filesystem = self._filesystem
        name = _passing_name(item.name) if in_steps else item.name
        if in_steps:
            with contextlib.suppress(EntryNotFoundError):
                # From a run that was killed.
                filesystem.unlink(item.parent, name)
        # What has become a pipe meanwhile must not hold this up.
        descriptor = os.open(item.source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            number, handle = filesystem.create(item.parent, name, 0o600, *self._owner(item.status))
            try:
                for offset, piece in _pieces(descriptor):
                    filesystem.files.write(handle, offset, piece)
                if filesystem.attributes(number).size != item.status.st_size:
                    filesystem.truncate(number, item.status.st_size)
                if not _is_unchanged(item.status, os.fstat(descriptor)):
                    raise OSError(errno.EBUSY, "it changed while it was read; import it again")
                self._set_attributes(item.source, item.status, number)
                if in_steps:
                    filesystem.rename(item.parent, name, item.parent, item.name)
            except BaseException:
                # Its last close would store what is there so far.
                filesystem.unlink(item.parent, name)
                raise
            finally:
                filesystem.files.release(handle)
        finally:
            os.close(descriptor)
        return number

    def _copy_other(self, item: _Item) -> None:
        """Make a symbolic link, a pipe, a socket or a device."""
        filesystem, mode = self._filesystem, item.status.st_mode
        target = os.readlink(item.source) if stat.S_ISLNK(mode) else b""
        there = self._find(item)
        if there is not None:
            is_same_type = stat.S_IFMT(there.mode) == stat.S_IFMT(mode)
            if is_same_type and (not target or filesystem.read_link(there.inode) == target):
                self._copied.count("skipped")
                return
            self._check_place(there)
            filesystem.unlink(item.parent, item.name)
        owner = self._owner(item.status)
        if target:
            number = filesystem.make_link(item.parent, item.name, target, *owner)
        else:
            number = filesystem.make_node(item.parent, item.name, mode, *owner, item.status.st_rdev)
        self._made.add(number)
        self._set_attributes(item.source, item.status, number)
        self._copied.count("others")

    # Attributes

    def _owner(self, status: os.stat_result) -> tuple[int, int]:
        """Return the owner that `cp -a` could give."""
        if self._is_root:
            return status.st_uid, status.st_gid
        return os.geteuid(), status.st_gid if status.st_gid in self._groups else os.getegid()

    def _set_attributes(self, source: bytes, status: os.stat_result, number: InodeNo) -> None:
        for name, value in self._read_xattrs(source):
            try:
                self._filesystem.set_xattr(number, name, value)
            except (NotSupportedError, NotPermittedError, InvalidRequestError) as exc:
                self._copied.leave(source, str(exc))
        uid, gid = self._owner(status)
        self._filesystem.set_attributes(
            number,
            mode=None if stat.S_ISLNK(status.st_mode) else stat.S_IMODE(status.st_mode),
            uid=uid,
            gid=gid,
            atime_ns=status.st_atime_ns,
            mtime_ns=status.st_mtime_ns,
        )

    def _read_xattrs(self, source: bytes) -> Iterator[tuple[bytes, bytes]]:
        try:
            for name in map(os.fsencode, os.listxattr(source, follow_symlinks=source.endswith(b"/"))):
                if name == POLICY_XATTR or not name.startswith(RESERVED_XATTRS):
                    yield name, os.getxattr(source, name, follow_symlinks=source.endswith(b"/"))
        except OSError as exc:
            if exc.errno not in (errno.ENOTSUP, errno.ENODATA):
                self._copied.leave(source, exc.strerror or str(exc))

    # Outcome

    def _check_place(self, there: Attributes | None) -> None:
        if there is None:
            return
        if stat.S_ISDIR(there.mode):
            raise EntryExistsError("the volume has a directory of this name")
        if there.inode in self._made:
            raise EntryExistsError("another source of this name has just been copied")
        if not self._replace:
            raise EntryExistsError("is in the volume already and differs; --force replaces it")

    def _fail(self, source: bytes, exc: DedupfsError | OSError) -> None:
        self._copied.fail(source, (exc.strerror if isinstance(exc, OSError) else None) or str(exc))


def is_contents(source: bytes) -> bool:
    """Whether a source stands for what is in a directory, and not for the directory: it ends in a slash, or a dot."""
    return os.path.basename(source) in (b"", b".", b"..")


def total_bytes(sources: Sequence[bytes]) -> int:
    """Return how many bytes there are to be read, as far as can be told."""
    total = 0
    for source in sources:
        with contextlib.suppress(OSError):
            total += os.lstat(source).st_size if stat.S_ISREG(os.lstat(source).st_mode) else 0
        for directory, _, names in os.walk(source):
            for name in names:
                with contextlib.suppress(OSError):
                    status = os.lstat(os.path.join(directory, name))
                    total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total


def _pieces(descriptor: int) -> Iterator[tuple[int, bytes]]:
    """Yield what a file holds, by its offset, without its holes."""
    offset = 0
    while True:
        try:
            offset = os.lseek(descriptor, offset, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:
                return
            # This medium knows of no holes.
        piece = os.pread(descriptor, PIECE_BYTES, offset)
        if not piece:
            return
        yield offset, piece
        offset += len(piece)


def _passing_name(name: bytes) -> bytes:
    """Return the name of a file while it is being written: the same in every run, so that none stays behind."""
    return b".dedupfs-import-" + hashlib.sha256(name).hexdigest()[:32].encode()


def _is_same(there: Attributes, status: os.stat_result) -> bool:
    same = (there.size, there.mtime_ns) == (status.st_size, status.st_mtime_ns)
    return stat.S_ISREG(there.mode) and same


def _is_unchanged(before: os.stat_result, now: os.stat_result) -> bool:
    return os.path.samestat(before, now) and (before.st_size, before.st_mtime_ns) == (now.st_size, now.st_mtime_ns)
