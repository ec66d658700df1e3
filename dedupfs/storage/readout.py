"""Readout: everything in a volume that can be read as of one snapshot, what cannot, and the paths by which files go.

Records are of two sorts. The sources say what nothing else tells: inodes, names, attributes, how contents are kept, and
clusters. Everything else follows from them (`derived`), so that it can be proved, and made anew where it is damaged.
Both `check` and `repair` start from here; nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from dedupfs.crypto.keys import NAME_TOKEN_BYTES
from dedupfs.errors import IntegrityError
from dedupfs.model import ChunkId, ClusterId, ContentId, InodeNo
from dedupfs.storage import codec, records
from dedupfs.storage.engine import Snapshot
from dedupfs.storage.metadata import POLICY_XATTR, ROOT
from dedupfs.storage.records import (
    DIGEST_BYTES,
    ChunkRefs,
    Cluster,
    ContentRefs,
    Entry,
    Exact,
    Extent,
    Inode,
    Rendition,
    Table,
    Unfinished,
)
from dedupfs.storage.volume import FIRST_POLICY_KEY, Volume

_T = TypeVar("_T")

_NUMBER_BYTES = 8
_KEY_BYTES = {
    records.INODES: _NUMBER_BYTES,
    records.ENTRIES: _NUMBER_BYTES + NAME_TOKEN_BYTES,
    records.XATTRS: _NUMBER_BYTES + NAME_TOKEN_BYTES,
    records.ORPHANS: _NUMBER_BYTES,
    records.UNFINISHED: _NUMBER_BYTES,
    records.CONTENTS: DIGEST_BYTES,
    records.CONTENT_REFS: DIGEST_BYTES,
    records.CHUNK_REFS: DIGEST_BYTES,
    records.CLUSTERS: _NUMBER_BYTES,
    records.MEMBERS: _NUMBER_BYTES + DIGEST_BYTES,
    records.UNDECIDED: DIGEST_BYTES,
}


@dataclass(frozen=True, slots=True)
class DamagedRecord:
    """A record that does not open, or whose key cannot be one of its table."""

    table: Table
    key: bytes
    reason: str


@dataclass(slots=True)
class Sources:
    """The records that nothing else tells, by their keys."""

    inodes: dict[InodeNo, Inode] = field(default_factory=dict)
    entries: dict[bytes, Entry] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    """Names alone: values may be long, and nobody here needs them."""
    orphans: set[InodeNo] = field(default_factory=set)
    unfinished: dict[InodeNo, Unfinished] = field(default_factory=dict)
    contents: dict[ContentId, Exact | Rendition] = field(default_factory=dict)
    clusters: dict[ClusterId, Cluster] = field(default_factory=dict)

    def copy(self) -> Sources:
        """Return another one that can be changed apart from this."""
        return Sources(
            dict(self.inodes),
            dict(self.entries),
            dict(self.xattrs),
            set(self.orphans),
            dict(self.unfinished),
            dict(self.contents),
            dict(self.clusters),
        )

    def extents(self) -> Iterator[tuple[ContentId, Extent]]:
        """Yield every place that names a chunk."""
        for content_id, content in self.contents.items():
            for extent in layout_of(content).extents:
                yield content_id, extent


@dataclass(slots=True)
class Readout:
    """The tables of a volume. Chunks are told by their stored lengths; `unopened` are those that were tried in vain."""

    sources: Sources = field(default_factory=Sources)
    volume: dict[bytes, bytes] = field(default_factory=dict)
    content_refs: dict[ContentId, ContentRefs] = field(default_factory=dict)
    chunk_refs: dict[ChunkId, ChunkRefs] = field(default_factory=dict)
    members: set[tuple[ClusterId, ContentId]] = field(default_factory=set)
    undecided: set[ContentId] = field(default_factory=set)
    bands: dict[bytes, bytes] = field(default_factory=dict)
    chunk_bytes: dict[ChunkId, int] = field(default_factory=dict)
    unopened: set[ChunkId] = field(default_factory=set)
    lengths: dict[ChunkId, int] = field(default_factory=dict)
    """Bytes of the chunks that were opened."""
    damaged: list[DamagedRecord] = field(default_factory=list)
    disordered: set[str] = field(default_factory=set)
    """Tables in which records are not found where they stand: the database is damaged below the records."""
    records: int = 0
    chunks_opened: int = 0

    @property
    def is_new(self) -> bool:
        """Whether nothing was ever stored; the first mount makes the root directory."""
        holds = (self.sources.inodes, self.sources.entries, self.sources.contents, self.chunk_bytes, self.content_refs)
        return not any(holds) and all(record.table is records.VOLUME for record in self.damaged)


def read_out(volume: Volume, snapshot: Snapshot, *, open_chunks: bool, progress: Callable[[int, int], None]) -> Readout:
    """Read all tables, and with `open_chunks` open every chunk. Raises IntegrityError when the database is unreadable.

    Args:
        progress: called with chunks looked at and their total.
    """
    reading = _Reading(volume, snapshot)
    out, sources = reading.out, reading.out.sources
    out.volume = dict(reading.rows(records.VOLUME, lambda data: data))
    sources.inodes = {InodeNo(number(key)): inode for key, inode in reading.rows(records.INODES, codec.decode_inode)}
    sources.entries = dict(reading.rows(records.ENTRIES, codec.decode_entry))
    sources.xattrs = {key: xattr.name for key, xattr in reading.rows(records.XATTRS, codec.decode_xattr)}
    sources.orphans = {InodeNo(number(key)) for key, _ in reading.rows(records.ORPHANS, codec.decode_mark)}
    sources.unfinished = {
        InodeNo(number(key)): record for key, record in reading.rows(records.UNFINISHED, codec.decode_unfinished)
    }
    sources.contents = {
        ContentId(key): content for key, content in reading.rows(records.CONTENTS, codec.decode_content)
    }
    sources.clusters = {
        ClusterId(number(key)): cluster for key, cluster in reading.rows(records.CLUSTERS, codec.decode_cluster)
    }
    out.content_refs = {
        ContentId(key): refs for key, refs in reading.rows(records.CONTENT_REFS, codec.decode_content_refs)
    }
    out.chunk_refs = {ChunkId(key): refs for key, refs in reading.rows(records.CHUNK_REFS, codec.decode_chunk_refs)}
    out.members = {
        (ClusterId(number(key[:_NUMBER_BYTES])), ContentId(key[_NUMBER_BYTES:]))
        for key, _ in reading.rows(records.MEMBERS, codec.decode_mark)
    }
    out.undecided = {ContentId(key) for key, _ in reading.rows(records.UNDECIDED, codec.decode_mark)}
    out.bands = dict(reading.scan(records.BANDS))
    out.records += len(out.bands)
    reading.chunks(open_them=open_chunks, progress=progress)
    return out


class _Reading:
    """One pass over one snapshot."""

    def __init__(self, volume: Volume, snapshot: Snapshot) -> None:
        self.out = Readout()
        self._volume = volume
        self._snapshot = snapshot

    def scan(self, table: Table) -> Iterator[tuple[bytes, bytes]]:
        """Yield the stored rows of a table, as far as they go, and note whether each is found by its key.

        Keys must ascend to the end, and a look-up by key must lead to the same place as going through all.
        """
        previous = b""
        try:
            for key, value in self._snapshot.scan(table.name):
                if key <= previous or self._snapshot.get(table.name, key) != value:
                    self.out.disordered.add(table.name)
                previous = key
                yield key, value
        except IntegrityError:
            self.out.disordered.add(table.name)

    def rows(self, table: Table, decode: Callable[[bytes], _T]) -> Iterator[tuple[bytes, _T]]:
        """Yield the records that open; note the others."""
        keyring, length = self._volume.store.keyring, _KEY_BYTES.get(table)
        for key, sealed in self.scan(table):
            self.out.records += 1
            try:
                if length is not None and len(key) != length:
                    raise IntegrityError("its key has the wrong length")
                value = decode(keyring.open_record(records.place(table, key), sealed))
            except IntegrityError as exc:
                self.out.damaged.append(DamagedRecord(table, key, str(exc)))
                continue
            yield key, value

    def chunks(self, *, open_them: bool, progress: Callable[[int, int], None]) -> None:
        out = self.out
        for key, sealed in self.scan(records.CHUNKS):
            chunk = ChunkId(key)
            out.records += 1
            out.chunk_bytes[chunk] = len(sealed)
            if open_them:
                out.chunks_opened += 1
                if not self._opens(chunk, sealed):
                    out.unopened.add(chunk)
            progress(len(out.chunk_bytes), len(out.chunk_refs))

    def _opens(self, chunk: ChunkId, sealed: bytes) -> bool:
        try:
            plaintext = self._volume.chunks.open_sealed(chunk, sealed)
        except IntegrityError:
            return False
        self.out.lengths[chunk] = len(plaintext)
        return self._volume.chunks.identify(plaintext) == chunk


class Paths:
    """By which paths inodes and contents go, as far as names can still be read.

    What has no name, or is below something without one, begins with `#` and a number: the name that it gets in
    lost+found.
    """

    def __init__(self, sources: Sources) -> None:
        self._names: dict[InodeNo, list[tuple[InodeNo, bytes]]] = {}
        self._below: dict[InodeNo, list[InodeNo]] = {}
        self._users: dict[ContentId, list[InodeNo]] = {}
        for key, entry in sources.entries.items():
            parent = InodeNo(number(key[:_NUMBER_BYTES]))
            self._names.setdefault(entry.inode, []).append((parent, entry.name))
            self._below.setdefault(parent, []).append(entry.inode)
        for user, inode in sources.inodes.items():
            if inode.content is not None:
                self._users.setdefault(inode.content, []).append(user)

    def of_inode(self, inode: InodeNo) -> list[bytes]:
        """Return all paths of an inode, in their order."""
        if inode == ROOT:
            return [b"/"]
        names = self._names.get(inode)
        return sorted(self.of_name(*name) for name in names) if names else [b"#%d" % inode]

    def of_name(self, parent: InodeNo, name: bytes) -> bytes:
        """Return the path of a name in a directory."""
        parts = [name]
        seen: set[InodeNo] = set()
        while parent != ROOT:
            above = self._names.get(parent)
            if not above or parent in seen:
                parts.append(b"#%d" % parent)
                break
            seen.add(parent)
            parent, part = above[0]
            parts.append(part)
        return b"/".join(reversed(parts))

    def of_content(self, content: ContentId) -> list[bytes]:
        """Return all paths of all files that hold a content, in their order."""
        return sorted(path for user in self._users.get(content, ()) for path in self.of_inode(user))

    def below(self, directory: InodeNo) -> list[bytes]:
        """Return the paths of everything below a directory, in their order."""
        found: set[InodeNo] = set()
        waiting = [directory]
        while waiting:
            for inode in self._below.get(waiting.pop(), ()):
                if inode not in found and inode != directory:
                    found.add(inode)
                    waiting.append(inode)
        return sorted(path for inode in found for path in self.of_inode(inode))


def number(key: bytes) -> int:
    """Return the number that a key, or the first part of one, stands for."""
    return int.from_bytes(key[:_NUMBER_BYTES], "big")


def has_first_policy(readout: Readout) -> bool:
    """Whether the volume knows that it has policies for single directories, where there are any."""
    stored = readout.volume.get(FIRST_POLICY_KEY)
    try:
        if stored is not None:
            codec.decode_policy(stored)
            return True
    except IntegrityError:
        return False
    is_damaged = any(record.key == FIRST_POLICY_KEY for record in readout.damaged if record.table is records.VOLUME)
    return not is_damaged and POLICY_XATTR not in readout.sources.xattrs.values()


def pair_keys(readout: Readout) -> list[bytes]:
    """Return the keys of all pairs in the table `volume`, of damaged ones too: a pair is nothing but its key."""
    damaged = (record.key for record in readout.damaged if record.table is records.VOLUME)
    return sorted(key for key in {*readout.volume, *damaged} if key.startswith(records.PAIR_PREFIX))


def counts_pairs(readout: Readout) -> bool:
    """Whether the volume knows that it has pairs, where there are any."""
    try:
        return not pair_keys(readout) or codec.decode_number(readout.volume[records.PAIRS_KEY]) > 0
    except (KeyError, IntegrityError):
        return False


def layout_of(content: Exact | Rendition) -> records.Layout:
    """Return the chunks of a content: all its bytes, or a rendition's own metadata."""
    return content.layout if isinstance(content, Exact) else content.own


def size_of(content: Exact | Rendition) -> int:
    """Return how many bytes are read of a content."""
    return content.layout.size if isinstance(content, Exact) else content.size


def resting(contents: Mapping[ContentId, Exact | Rendition]) -> dict[ContentId, list[ContentId]]:
    """Return the renditions that rest on each representative."""
    found: dict[ContentId, list[ContentId]] = {}
    for content_id, content in contents.items():
        if isinstance(content, Rendition):
            found.setdefault(content.representative, []).append(content_id)
    return found
