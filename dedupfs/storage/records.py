"""The on-disk format: every table, every key and every record; how a record is laid out says `codec`.

Tables marked `sealed` hold records sealed by `crypto.aead` with (format version, table, key) as associated data; the
others hold bytes that are ciphertext or masked already, or the header, which is in the clear.

What refers to what, in the order in which it is written, so that a reference never dangles:
chunk <- content (or a rendition's own metadata) <- member <- cluster <- inode <- directory entry.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from dedupfs.model import ChunkId, ClusterId, ContentId, Differences, Fingerprint, InodeNo, Policy

FORMAT_VERSION = 4
DIGEST_BYTES = 32
"""Length of chunk ids, content ids, fingerprints and rendition digests."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A named table of the engine; each exists once, so that tables are compared and found by identity.

    `group_bytes` is the length of the key prefix that is asked for as a whole (all entries of one directory, all
    clusters of one token); it is 0 where no such question exists.
    """

    name: str
    group_bytes: int
    sealed: bool


VOLUME = Table("volume", 0, sealed=True)
"""Names to single records: `config`, `counters`, `next_inode`, `next_cluster`; and, once files of one volume are under
different policies, `first_policy`, the one that all of them were under until then. `keep_originals` is a number of
days, without it none. PAIR_PREFIX and a keyed digest of two content ids (16) -> nothing: those are never kept as
versions of one another; `pairs` is how many of these were made."""
PAIR_PREFIX = b"pair:"
PAIRS_KEY = b"pairs"
INODES = Table("inodes", 0, sealed=True)
"""inode (8) -> Inode."""
ENTRIES = Table("entries", 8, sealed=True)
"""parent inode (8), keyed digest of the name (16) -> Entry."""
XATTRS = Table("xattrs", 8, sealed=True)
"""inode (8), keyed digest of the name (16) -> Xattr."""
ORPHANS = Table("orphans", 0, sealed=True)
"""inode (8) without a name that was still open -> nothing; removed when the volume is next opened for writing."""
UNFINISHED = Table("unfinished", 0, sealed=True)
"""inode (8) of a new file whose bytes have not been stored -> Unfinished; such a file vanishes in a crash."""
CONTENTS = Table("contents", 0, sealed=True)
"""content id (32) -> Exact or Rendition."""
CONTENT_REFS = Table("content_refs", 0, sealed=True)
"""content id (32) -> ContentRefs."""
CHUNKS = Table("chunks", 0, sealed=False)
"""chunk id (32) -> sealed chunk."""
CHUNK_REFS = Table("chunk_refs", 0, sealed=True)
"""chunk id (32) -> ChunkRefs."""
CLUSTERS = Table("clusters", 0, sealed=True)
"""cluster (8) -> Cluster."""
MEMBERS = Table("members", 8, sealed=True)
"""cluster (8), content id (32) -> nothing; every picture content, the representative too."""
BANDS = Table("bands", 8, sealed=False)
"""token of a fingerprint's band (8), cluster (8) -> masked fingerprint (32)."""
UNDECIDED = Table("undecided", 0, sealed=True)
"""content id (32) of a picture stored exactly while its deduplication is still to be decided -> nothing."""

HEADER = Table("header", 0, sealed=False)
"""`volume.json` -> its bytes: a copy that can be read before any key is known, for when the file is lost."""

TABLES = (
    VOLUME,
    INODES,
    ENTRIES,
    XATTRS,
    ORPHANS,
    UNFINISHED,
    CONTENTS,
    CONTENT_REFS,
    CHUNKS,
    CHUNK_REFS,
    CLUSTERS,
    MEMBERS,
    BANDS,
    UNDECIDED,
    HEADER,
)


def place(table: Table, key: bytes) -> bytes:
    """Associated data of a sealed record: it opens nowhere else."""
    return b"dedupfs record %d %s\0" % (FORMAT_VERSION, table.name.encode()) + key


def number_key(number: int) -> bytes:
    """Key of an inode or a cluster."""
    return number.to_bytes(8, "big")


class ContentState(enum.IntEnum):
    """What is known of the bytes of a content that is stored exactly."""

    PLAIN = 0
    UNDECIDED = 1
    PICTURE = 2
    UNDECODABLE = 3


@dataclass(frozen=True, slots=True)
class Extent:
    """`length` bytes at `offset` are the plaintext of one chunk; what no extent covers is zero bytes."""

    offset: int
    length: int
    chunk: ChunkId

    @property
    def end(self) -> int:
        """Offset of the first byte behind the extent."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class Layout:
    """Bytes as chunks: ascending extents that do not overlap, and the size."""

    size: int
    extents: tuple[Extent, ...]


@dataclass(frozen=True, slots=True)
class Exact:
    """A content stored bit for bit."""

    layout: Layout
    state: ContentState
    cluster: ClusterId | None = None
    """The cluster it belongs to when it is a picture."""


@dataclass(frozen=True, slots=True)
class Rendition:
    """A content that is made anew from the bytes of another one when it is read."""

    size: int
    cluster: ClusterId
    representative: ContentId
    recipe: bytes
    own: Layout
    """The member's own metadata, stored as chunks."""
    digest: bytes
    """SHA-256 of the rendition."""
    sketch: bytes
    """What it looks like (ingest.sketch), to recognise it when other libraries make it with other bytes."""
    codecs: bytes
    """Names and versions of the libraries that made it, to be named in messages."""
    differences: Differences
    distance_bits: int
    bit_exact: bool


@dataclass(frozen=True, slots=True)
class ContentRefs:
    """Who rests on a content; it goes when nobody does."""

    inodes: int = 0
    renditions: int = 0


@dataclass(frozen=True, slots=True)
class ChunkRefs:
    """How many extents name a chunk, and the length of its stored value."""

    extents: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class Cluster:
    """Pictures that look the same: the one that is kept, and how it is found."""

    representative: ContentId
    fingerprint: Fingerprint | None
    facts: bytes
    """ingest.facts.PictureFacts of the representative, in its own encoding."""


@dataclass(frozen=True, slots=True)
class Inode:
    """Attributes of a file, directory, link or device. Times are integer nanoseconds."""

    mode: int
    uid: int
    gid: int
    rdev: int
    nlink: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    parent: InodeNo = InodeNo(0)
    """The directory that holds this directory; 0 for everything that is not a directory."""
    content: ContentId | None = None
    """None for an empty file."""
    target: bytes = b""
    """What a symbolic link points at."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a directory."""

    inode: InodeNo
    type_bits: int
    """The file type bits of st_mode, so that a listing needs no inode."""
    name: bytes


@dataclass(frozen=True, slots=True)
class Xattr:
    """One extended attribute."""

    name: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Unfinished:
    """Where a file whose bytes are not stored yet can be found: keys in `entries`."""

    entry_keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Config:
    """What was chosen when the volume was made."""

    policy: Policy
    label: str
