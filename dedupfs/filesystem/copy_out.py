"""CopyOut: the whole tree of a volume into an ordinary directory, past whatever is damaged.

Needs no mount. Files are read on several threads, because drawing renditions is what takes time; everything else
happens on the thread that calls `run`. A file gets its name when it is whole and has its times, so that what is there
with equal size and time need not be copied again. Directories get their modes and times last.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from dedupfs.errors import DedupfsError, IntegrityError, StoreFullError
from dedupfs.filesystem.copying import Copied, is_same_time
from dedupfs.filesystem.filesystem import FileSystem
from dedupfs.filesystem.inodes import Attributes
from dedupfs.filesystem.namespace import check_name
from dedupfs.model import InodeNo
from dedupfs.storage.chunks import CHUNK_BYTES
from dedupfs.storage.contents import is_zero
from dedupfs.storage.metadata import ROOT, Metadata

PIECE_BYTES = CHUNK_BYTES
"""So that a damaged chunk of a large file costs no more than itself."""
DAMAGED_SUFFIX = b".damaged"
_WAITING_PER_WORKER = 4
_OPEN_BITS = 0o700
"""A directory must be open to its owner while it is filled."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class _Item:
    """One name in the volume."""

    number: InodeNo
    attributes: Attributes
    path: bytes
    """Relative to the root of the volume."""
    target: bytes


@dataclass(slots=True)
class _Linked:
    """An inode with several names: where the first of them went, and the others."""

    made: bytes | None = None
    others: list[_Item] = field(default_factory=list)


class CopyOut:
    """One run; `run` may be called once."""

    def __init__(
        self,
        filesystem: FileSystem,
        metadata: Metadata,
        destination: bytes,
        *,
        replace: bool,
        salvage: bool = False,
        workers: int,
        tell: Callable[[bytes, str], None] = lambda path, reason: None,
        progress: Callable[[int], None] = lambda done_bytes: None,
    ) -> None:
        """Prepare.

        Args:
            metadata: of the same volume; it knows which records had to be left out.
            destination: a directory, made when it does not exist.
            replace: whether files that are there and differ may be overwritten.
            salvage: whether of a file that is damaged in places the rest is copied, with DAMAGED_SUFFIX to its name.
            workers: how many files are read at once.
            tell: called with the path and the reason for everything that cannot be copied.
            progress: called with the bytes done so far.
        """
        self._filesystem = filesystem
        self._metadata = metadata
        self._destination = destination
        self._replace = replace
        self._salvage = salvage
        self._workers = workers
        self._progress = progress
        self._is_root = os.geteuid() == 0
        self._directories: list[_Item] = []
        self._linked: dict[InodeNo, _Linked] = {}
        self._waiting: deque[tuple[_Item, Future[bool]]] = deque()
        self._copied = Copied(tell)

    def run(self) -> Copied:
        """Copy everything that can be read.

        Raises:
            StoreFullError: the disk with the destination is full; what is there already is whole.
            OSError: the destination cannot be made.
        """
        with ThreadPoolExecutor(self._workers) as pool:
            try:
                for item in self._walk():
                    if stat.S_ISREG(item.attributes.mode):
                        self._start(pool, item)
                    else:
                        self._attempt(item, self._copy_other)
                while self._waiting:
                    self._finish_oldest()
            except BaseException:
                for _, future in self._waiting:
                    future.cancel()
                raise
        for linked in self._linked.values():
            self._link(linked)
        for directory in reversed(self._directories):
            self._attempt(directory, self._finish_directory)
        return self._copied

    # The tree

    def _walk(self) -> Iterator[_Item]:
        """Make the directories, and yield everything else."""
        is_new = not os.path.lexists(self._destination)
        os.makedirs(self._destination, exist_ok=True)
        root = _Item(ROOT, self._filesystem.attributes(ROOT), b"", self._destination)
        if is_new:
            self._directories.append(root)
        waiting = [root]
        while waiting:
            directory = waiting.pop()
            for item in self._listed(directory):
                if not stat.S_ISDIR(item.attributes.mode):
                    yield item
                elif self._attempt(item, self._make_directory):
                    self._directories.append(item)
                    waiting.append(item)

    def _listed(self, directory: _Item) -> Iterator[_Item]:
        try:
            entries = self._filesystem.list_directory(directory.number)[2:]
        except DedupfsError as exc:
            self._copied.fail(directory.path or b".", f"cannot be listed: {exc}")
            return
        lost = self._metadata.left_out(directory.number)
        if lost:
            self._copied.fail(directory.path or b".", f"{lost} of its names cannot be read")
        for entry in entries:
            path = directory.path + b"/" + entry.name if directory.path else entry.name
            try:
                check_name(entry.name)
                if entry.name in (b".", b".."):
                    raise IntegrityError("not a name")
                if self._metadata.unfinished(entry.inode) is not None:
                    # It was being written when its process died, and goes with the next mount.
                    continue
                attributes = self._filesystem.attributes(entry.inode)
            except DedupfsError as exc:
                self._copied.fail(path, str(exc))
                continue
            yield _Item(entry.inode, attributes, path, os.path.join(directory.target, entry.name))

    def _make_directory(self, item: _Item) -> bool:
        there = _lstat(item.target)
        if there is not None and stat.S_ISDIR(there.st_mode):
            if there.st_mode & _OPEN_BITS != _OPEN_BITS:
                os.chmod(item.target, stat.S_IMODE(there.st_mode) | _OPEN_BITS)
        else:
            if there is not None:
                self._may_replace()
                os.unlink(item.target)
            os.mkdir(item.target, _OPEN_BITS)
        self._copied.count("directories")
        return True

    def _finish_directory(self, item: _Item) -> bool:
        if self._metadata.has_stand_in(item.number):
            raise IntegrityError("its owner, mode and times are lost")
        self._set_attributes(item, item.target)
        return True

    # Files

    def _start(self, pool: ThreadPoolExecutor, item: _Item) -> None:
        if item.attributes.nlink > 1:
            linked = self._linked.get(item.number)
            if linked is not None:
                linked.others.append(item)
                return
            self._linked[item.number] = _Linked()
        if len(self._waiting) >= self._workers * _WAITING_PER_WORKER:
            self._finish_oldest()
        self._waiting.append((item, pool.submit(self._copy_file, item)))

    def _finish_oldest(self) -> None:
        item, future = self._waiting.popleft()
        if self._attempt(item, lambda _: future.result()) and item.number in self._linked:
            self._linked[item.number].made = item.target

    def _copy_file(self, item: _Item) -> bool:
        """Return whether the file is there; on a thread of the pool."""
        if self._is_there(item):
            return True
        temporary = os.path.join(os.path.dirname(item.target), b".dedupfs-export-%d.part" % item.number)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                lost_bytes = self._copy_bytes(item, descriptor)
            finally:
                os.close(descriptor)
            self._set_attributes(item, temporary)
            final = item.target + (DAMAGED_SUFFIX if lost_bytes else b"")
            there = _lstat(final) if lost_bytes else None
            if there is not None and there.st_size != item.attributes.size:
                self._may_replace()
            os.rename(temporary, final)
            if lost_bytes:
                what = f"{lost_bytes} of its {item.attributes.size} bytes are lost"
                raise IntegrityError(f"{what}; the rest is in NAME{DAMAGED_SUFFIX.decode()}, with zero bytes for them")
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        self._copied.count_file(item.attributes.size)
        return True

    def _copy_bytes(self, item: _Item, descriptor: int) -> int:
        """Copy what a file holds and return how many bytes of it are lost, of those that are to be salvaged."""
        files, size = self._filesystem.files, item.attributes.size
        handle = files.open(item.number, readable=True, writable=False)
        lost_bytes = offset = 0
        try:
            while offset < size:
                try:
                    piece = files.read(handle, offset, PIECE_BYTES)
                except IntegrityError:
                    lost_bytes += min(PIECE_BYTES, size - offset)
                    # A file of which nothing is left is not worth a name.
                    if not self._salvage or lost_bytes == size:
                        raise
                    offset += PIECE_BYTES
                    continue
                if not piece:
                    raise IntegrityError(f"it holds {offset} bytes and should hold {size}")
                # What reads as zero bytes becomes a hole, as it is in the volume.
                if not is_zero(piece):
                    _write(descriptor, offset, piece)
                offset += len(piece)
        finally:
            files.release(handle)
        os.ftruncate(descriptor, size)
        return lost_bytes

    def _is_there(self, item: _Item) -> bool:
        """Whether the file need not be copied. Raises FileExistsError when it would replace something else."""
        there = _lstat(item.target)
        if there is None:
            return False
        is_file = stat.S_ISREG(there.st_mode)
        if is_file and there.st_size == item.attributes.size and is_same_time(item.attributes.mtime_ns, there):
            self._copied.count("skipped")
            return True
        self._may_replace()
        return False

    def _link(self, linked: _Linked) -> None:
        """Give a file its other names; where the medium has no links, each becomes a file of its own."""
        for item in linked.others:
            made = linked.made

            def link(item: _Item, made: bytes | None = made) -> bool:
                if made is None:
                    raise IntegrityError("it cannot be read under its other name either")
                if self._is_there(item):
                    return True
                try:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(item.target)
                    os.link(made, item.target, follow_symlinks=False)
                    self._copied.count("links")
                    return True
                except OSError as exc:
                    if exc.errno not in (errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                        raise
                return self._copy_file(item)

            self._attempt(item, link)

    def _copy_other(self, item: _Item) -> bool:
        """Make a symbolic link, a pipe, a socket or a device."""
        target_of_link = self._filesystem.read_link(item.number) if stat.S_ISLNK(item.attributes.mode) else b""
        there = _lstat(item.target)
        if there is not None:
            same_type = stat.S_IFMT(there.st_mode) == stat.S_IFMT(item.attributes.mode)
            if same_type and (not target_of_link or os.readlink(item.target) == target_of_link):
                self._copied.count("skipped")
                return True
            self._may_replace()
            os.unlink(item.target)
        if target_of_link:
            os.symlink(target_of_link, item.target)
        else:
            os.mknod(item.target, stat.S_IFMT(item.attributes.mode) | 0o600, item.attributes.rdev)
        self._set_attributes(item, item.target)
        self._copied.count("others")
        return True

    # Attributes

    def _set_attributes(self, item: _Item, target: bytes) -> None:
        """Set owner, extended attributes, mode and times, in the order in which none undoes another."""
        attributes = item.attributes
        if self._is_root:
            self._keep(item, lambda: os.chown(target, attributes.uid, attributes.gid, follow_symlinks=False))
        for name in self._filesystem.list_xattrs(item.number):
            value = self._filesystem.get_xattr(item.number, name)
            self._keep(item, lambda: os.setxattr(target, name, value, follow_symlinks=False))  # noqa: B023 -- at once
        if self._metadata.left_out(item.number) and not stat.S_ISDIR(attributes.mode):
            self._copied.leave(item.path, "an extended attribute is damaged")
        if not stat.S_ISLNK(attributes.mode):
            self._keep(item, lambda: os.chmod(target, stat.S_IMODE(attributes.mode)))
        os.utime(target, ns=(attributes.atime_ns, attributes.mtime_ns), follow_symlinks=False)

    def _keep(self, item: _Item, set_it: Callable[[], None]) -> None:
        """Set something that the medium may not have; what it refuses is noted."""
        try:
            set_it()
        except OSError as exc:
            if exc.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.E2BIG):
                raise
            self._copied.leave(item.path, os.strerror(exc.errno))

    # Outcome

    def _attempt(self, item: _Item, copy: Callable[[_Item], bool]) -> bool:
        """Copy one item and return whether it is there; a failure is noted, and the next one is looked at."""
        try:
            copy(item)
        except DedupfsError as exc:
            self._copied.fail(item.path, str(exc))
            return False
        except OSError as exc:
            if exc.errno in _NO_ROOM:
                raise StoreFullError("no space left at the destination; start again to go on from here") from exc
            self._copied.fail(item.path or b".", exc.strerror or str(exc))
            return False
        finally:
            if stat.S_ISREG(item.attributes.mode):
                self._copied.done_bytes += item.attributes.size
                self._progress(self._copied.done_bytes)
        return True

    def _may_replace(self) -> None:
        if not self._replace:
            raise FileExistsError(errno.EEXIST, "is there already and differs; --force replaces it")


def _lstat(path: bytes) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def _write(descriptor: int, offset: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
