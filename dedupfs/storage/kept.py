"""Kept originals: the exact bytes of files that became renditions, for as long as they may be wanted back.

They are ordinary files in a directory of their own below the root, which a mount does not show: named by the content
that they are the original of, with the time until which they are kept as their time of modification. So everything that
counts, checks, repairs, compacts and salvages files takes care of them, in every version of the program. Their contents
are cut in a way of their own (see `ingest.apart`), which no other file shares.

Changes happen inside the caller's transaction.
"""

from __future__ import annotations

import logging
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from dedupfs.errors import EntryNotFoundError, IntegrityError
from dedupfs.model import ContentId, InodeNo
from dedupfs.storage.contents import Contents, PreparedLayout
from dedupfs.storage.metadata import ROOT, Metadata
from dedupfs.storage.records import DIGEST_BYTES, Entry, Exact, Inode
from dedupfs.storage.store import Store, Transaction

log = logging.getLogger(__name__)

DIRECTORY_NAME = b".dedupfs-originals"
"""In the root; no file can be made there under this name."""
_DIRECTORY_MODE = stat.S_IFDIR | 0o700
_FILE_MODE = stat.S_IFREG | 0o400


@dataclass(frozen=True, slots=True)
class Kept:
    """One original: the content that it belongs to, and the file that holds it."""

    content: ContentId
    number: InodeNo
    inode: Inode

    @property
    def until_ns(self) -> int:
        """When it goes, in nanoseconds since 1970."""
        return self.inode.mtime_ns


@dataclass(frozen=True, slots=True)
class KeptTotals:
    """How many originals there are, their bytes, and when the first and the last of them go, None without any.

    `directories` is 1 once there has been one.
    """

    files: int
    size_bytes: int
    first_until_ns: int | None
    last_until_ns: int | None
    directories: int


class KeptOriginals:
    """The originals of one volume; the store's lock guards the totals."""

    def __init__(self, store: Store, metadata: Metadata, contents: Contents) -> None:
        self._store = store
        self._metadata = metadata
        self._contents = contents
        self._totals: KeptTotals | None = None

    def directory(self) -> InodeNo | None:
        """Return the directory that holds them, None before the first or where damage hides it."""
        try:
            return self._directory()
        except IntegrityError as exc:
            log.debug("kept originals cannot be found: %s", exc)
            return None

    def find(self, content: ContentId) -> Kept | None:
        """Return the original of a content, or None. Raises IntegrityError where its record is damaged."""
        directory = self._directory()
        entry = None if directory is None else self._metadata.find_entry(directory, _name(content))
        if entry is None:
            return None
        return Kept(content, entry.inode, self._metadata.inode(entry.inode))

    def read(self, kept: Kept) -> bytes:
        """Return the bytes of an original. Raises IntegrityError when they are damaged."""
        stored = None if kept.inode.content is None else self._contents.get(kept.inode.content)
        if not isinstance(stored, Exact):
            raise IntegrityError("an original is not stored exactly")
        return self._contents.read_all(stored.layout)

    def put(self, transaction: Transaction, content: ContentId, original: PreparedLayout, until_ns: int) -> None:
        """Keep the original of a content until then; one that is kept already stays, for longer if that is later."""
        kept = self.find(content)
        self._totals = None
        if kept is not None:
            later = replace(kept.inode, mtime_ns=max(kept.until_ns, until_ns))
            self._metadata.put_inode(transaction, kept.number, later)
            return
        directory = self._directory()
        if directory is None:
            directory = self._make_directory(transaction)
        held = self._contents.store_exact(transaction, original)
        self._contents.link(transaction, held)
        size = original.layout.size
        now_ns = time.time_ns()
        inode = Inode(_FILE_MODE, 0, 0, 0, 1, size, now_ns, until_ns, now_ns, content=held)
        number = self._metadata.new_inode(transaction, inode)
        self._metadata.put_entry(transaction, directory, Entry(number, stat.S_IFREG, _name(content)))
        transaction.count("files", 1)
        transaction.count("logical_bytes", size)

    def remove(self, transaction: Transaction, kept: Kept) -> None:
        """Let an original go."""
        directory = self.directory()
        if directory is None:
            return
        self._totals = None
        self._metadata.delete_entry(transaction, directory, _name(kept.content))
        self._metadata.delete_inode(transaction, kept.number)
        if kept.inode.content is not None:
            self._contents.unlink(transaction, kept.inode.content)
        transaction.count("files", -1)
        transaction.count("logical_bytes", -kept.inode.size)

    def all(self) -> Iterator[Kept]:
        """Yield every original that can be read, in no order."""
        directory = self.directory()
        for entry in [] if directory is None else self._metadata.entries(directory):
            try:
                content = bytes.fromhex(entry.name.decode("ascii"))
                inode = self._metadata.inode(entry.inode)
            except (ValueError, IntegrityError, EntryNotFoundError):
                # `check` tells of it.
                continue
            if len(content) == DIGEST_BYTES:
                yield Kept(ContentId(content), entry.inode, inode)

    def totals(self) -> KeptTotals:
        """Return the sums."""
        with self._store.lock:
            if self._totals is None or self._store.read_only:
                kept = list(self.all())
                self._totals = KeptTotals(
                    len(kept),
                    sum(each.inode.size for each in kept),
                    min((each.until_ns for each in kept), default=None),
                    max((each.until_ns for each in kept), default=None),
                    int(self.directory() is not None),
                )
            return self._totals

    def _directory(self) -> InodeNo | None:
        entry = self._metadata.find_entry(ROOT, DIRECTORY_NAME)
        return None if entry is None or not stat.S_ISDIR(entry.type_bits) else entry.inode

    def _make_directory(self, transaction: Transaction) -> InodeNo:
        now_ns = time.time_ns()
        inode = Inode(_DIRECTORY_MODE, 0, 0, 0, 2, 0, now_ns, now_ns, now_ns, parent=ROOT)
        number = self._metadata.new_inode(transaction, inode)
        self._metadata.put_entry(transaction, ROOT, Entry(number, stat.S_IFDIR, DIRECTORY_NAME))
        root = self._metadata.inode(ROOT)
        self._metadata.put_inode(transaction, ROOT, replace(root, nlink=root.nlink + 1))
        transaction.count("directories", 1)
        return number


def _name(content: ContentId) -> bytes:
    return content.hex().encode("ascii")
