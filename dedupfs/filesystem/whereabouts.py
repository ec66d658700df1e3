"""Whereabouts: from an inode back to its names, and from a content to a file that holds it.

No record leads that way. The names by which files were looked up last are remembered and proved right before they
count; what is not remembered is found by looking at all of them. Any thread.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator

from dedupfs.errors import EntryNotFoundError, IntegrityError
from dedupfs.model import ClusterId, ContentId, InodeNo
from dedupfs.storage import codec, records
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.volume import Volume

_REMEMBERED = 20_000
"""Names by which files were looked up last: about 5 MB."""
_LOOK_AGAIN_SECONDS = 10.0
"""Files that hold representatives are looked for no more often: it takes about a second with 80,000 files."""

Name = tuple[InodeNo, bytes]
"""A directory and the name of an entry in it."""


class Whereabouts:
    """Names of the inodes of one volume."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._store = volume.store
        self._metadata = volume.metadata
        self._names: OrderedDict[InodeNo, Name] = OrderedDict()
        self._holders: dict[ContentId, InodeNo] = {}
        self._holder_names: dict[InodeNo, Name] = {}
        self._looked_at: float | None = None
        self._lock = threading.Lock()

    def note(self, number: InodeNo, parent: InodeNo, name: bytes) -> None:
        """Remember by which name an inode was found."""
        with self._lock:
            self._names[number] = (parent, name)
            self._names.move_to_end(number)
            if len(self._names) > _REMEMBERED:
                self._names.popitem(last=False)

    def directory_of(self, number: InodeNo) -> InodeNo | None:
        """Return a directory that holds a file, the one in which it was last looked up if it still is there.

        None when it has no name any more.
        """
        name = self._name_of(number)
        return None if name is None else name[0]

    def is_known_in(self, number: InodeNo, directory: InodeNo) -> bool:
        """Whether a file is in a directory by the name under which it was last looked up; looks at no other name."""
        name = self._names.get(number)
        return name is not None and name[0] == directory and self._remembered(number) is not None

    def above(self, directory: InodeNo) -> Iterator[InodeNo]:
        """Yield a directory and those above it, up to the root. Raises IntegrityError where that is damaged."""
        seen = set()
        while directory not in seen:
            yield directory
            if directory == ROOT:
                return
            seen.add(directory)
            directory = self._metadata.inode(directory).parent
        raise IntegrityError("a directory is below itself")

    def path_of_file(self, number: InodeNo) -> bytes | None:
        """Return a path of a file, or None when it has no name any more."""
        name = self._name_of(number)
        try:
            return None if name is None else self.path_of(name)
        except EntryNotFoundError:
            return None

    def path_of_representative(self, cluster: ClusterId) -> bytes | None:
        """Return a path of the picture that a cluster is kept as, or None when no file that is known of holds it.

        A file that was renamed or stored in the last moments may not be known of yet.
        """
        record = self._volume.clusters.find(cluster)
        if record is None:
            return None
        path = self._path_of_holder(record.representative)
        if path is None and self._look_for_representatives():
            path = self._path_of_holder(record.representative)
        return path

    def path_of(self, name: Name) -> bytes:
        """Return the path of an entry, relative to the root. Raises IntegrityError, EntryNotFoundError."""
        parent, last = name
        above = [self._name_of_directory(directory) for directory in self.above(parent) if directory != ROOT]
        return b"/".join([*reversed(above), last])

    def _name_of_directory(self, number: InodeNo) -> bytes:
        name = self._remembered(number)
        if name is not None:
            return name[1]
        parent = self._metadata.inode(number).parent
        for entry in self._metadata.entries(parent):
            if entry.inode == number:
                self.note(number, parent, entry.name)
                return entry.name
        raise EntryNotFoundError("the directory has been removed")

    def _path_of_holder(self, content: ContentId) -> bytes | None:
        number = self._holders.get(content)
        if number is None:
            return None
        try:
            if self._metadata.inode(number).content != content:
                return None
            name = self._remembered(number) or self._proved(number, self._holder_names.get(number))
            return None if name is None else self.path_of(name)
        except EntryNotFoundError:
            return None

    def _name_of(self, number: InodeNo) -> Name | None:
        name = self._remembered(number)
        if name is not None:
            return name
        for key, entry in self._entries():
            if entry.inode == number:
                name = (InodeNo(int.from_bytes(key[:8], "big")), entry.name)
                self.note(number, *name)
                return name
        return None

    def _remembered(self, number: InodeNo) -> Name | None:
        return self._proved(number, self._names.get(number))

    def _proved(self, number: InodeNo, name: Name | None) -> Name | None:
        if name is None:
            return None
        try:
            entry = self._metadata.find_entry(*name)
        except IntegrityError:
            return None
        return name if entry is not None and entry.inode == number else None

    def _look_for_representatives(self) -> bool:
        """Find a file for every picture that others rest on; False when that was done a moment ago."""
        now = time.monotonic()
        with self._lock:
            if self._looked_at is not None and now - self._looked_at < _LOOK_AGAIN_SECONDS:
                return False
            self._looked_at = now
        wanted = set(self._representatives())
        holders: dict[ContentId, InodeNo] = {}
        for key, value in self._store.scan(records.INODES, damaged=_pass_over):
            content = codec.decode_inode(value).content
            if content in wanted and content is not None:
                holders[content] = InodeNo(int.from_bytes(key, "big"))
        numbers = set(holders.values())
        names = {
            entry.inode: (InodeNo(int.from_bytes(key[:8], "big")), entry.name)
            for key, entry in self._entries()
            if entry.inode in numbers
        }
        self._holders, self._holder_names = holders, names
        return True

    def _representatives(self) -> Iterator[ContentId]:
        for key, value in self._store.scan(records.CLUSTERS, damaged=_pass_over):
            cluster = ClusterId(int.from_bytes(key, "big"))
            if len(self._volume.clusters.members(cluster)) > 1:
                yield codec.decode_cluster(value).representative

    def _entries(self) -> Iterator[tuple[bytes, records.Entry]]:
        for key, value in self._store.scan(records.ENTRIES, damaged=_pass_over):
            yield key, codec.decode_entry(value)


def _pass_over(key: bytes, exc: IntegrityError) -> None:
    """A damaged record leads nowhere; `check` tells of it."""
