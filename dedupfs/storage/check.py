"""Check: every record opens, every reference has its target, every count is right, every index agrees with its source.

Works on one snapshot, so it may run beside a live mount and sees the volume as of one commit. Nothing is changed.
With `data` every ciphertext is opened too, and every rendition is made and compared with its digest. Renditions are
made from the volume as it is then, after the snapshot is closed; one that has changed since is none of this check's.
"""

from __future__ import annotations

import stat
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from dedupfs.errors import DedupfsError, IntegrityError
from dedupfs.model import ChunkId, ClusterId, ContentId, InodeNo
from dedupfs.storage import records, similarity
from dedupfs.storage.contents import contributions
from dedupfs.storage.engine import Snapshot
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.records import (
    ChunkRefs,
    Cluster,
    ContentRefs,
    ContentState,
    Entry,
    Exact,
    Extent,
    Inode,
    Rendition,
    Table,
    number_key,
)
from dedupfs.storage.volume import Volume

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong; `content` and `inode` tell which files suffer, where that is known."""

    text: str
    content: ContentId | None = None
    inode: InodeNo | None = None


@dataclass(slots=True)
class Report:
    """What was found, and how much was looked at."""

    problems: list[Problem] = field(default_factory=list)
    records: int = 0
    chunks_opened: int = 0
    renditions_made: int = 0


def check(
    volume: Volume,
    *,
    data: bool = False,
    render: Callable[[Rendition], bytes] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Examine a volume.

    Args:
        data: open every chunk, and make every rendition where `render` is given.
        progress: called with chunks done and their total.
    Raises:
        IntegrityError: the database itself cannot be read.
    """
    with volume.store.engine.snapshot() as snapshot:
        run = _Check(volume, snapshot, progress)
        damaged = run.check(data=data)
    if data and render is not None:
        run.check_renditions(render, damaged)
    return run.report


class _Check:
    """One run over one snapshot."""

    def __init__(self, volume: Volume, snapshot: Snapshot, progress: Callable[[int, int], None]) -> None:
        self._volume = volume
        self._keyring = volume.store.keyring
        self._snapshot = snapshot
        self._progress = progress
        self.report = Report()
        self._totals: Counter[str] = Counter()
        self._inodes: dict[InodeNo, Inode] = {}
        self._contents: dict[ContentId, Exact | Rendition] = {}
        self._content_refs: dict[ContentId, ContentRefs] = {}
        self._chunk_refs: dict[ChunkId, ChunkRefs] = {}
        self._clusters: dict[ClusterId, Cluster] = {}
        self._lengths: dict[ChunkId, int] = {}

    def check(self, *, data: bool) -> set[ChunkId]:
        """Examine the snapshot and return the chunks that are missing or do not open."""
        self._inodes = {InodeNo(_number(key)): inode for key, inode in self._read(records.INODES, records.decode_inode)}
        self._contents = {
            ContentId(key): content for key, content in self._read(records.CONTENTS, records.decode_content)
        }
        self._content_refs = {
            ContentId(key): refs for key, refs in self._read(records.CONTENT_REFS, records.decode_content_refs)
        }
        self._chunk_refs = {
            ChunkId(key): refs for key, refs in self._read(records.CHUNK_REFS, records.decode_chunk_refs)
        }
        self._clusters = {
            ClusterId(_number(key)): cluster for key, cluster in self._read(records.CLUSTERS, records.decode_cluster)
        }
        self._check_tree()
        self._check_inode_contents()
        self._check_contents()
        damaged = self._check_chunks(open_them=data)
        self._check_clusters()
        self._check_bands()
        self._check_volume_records()
        self._blame(damaged)
        return damaged

    # Reading

    def _read(self, table: Table, decode: Callable[[bytes], _T]) -> Iterator[tuple[bytes, _T]]:
        for key, sealed in self._snapshot.scan(table.name):
            self.report.records += 1
            try:
                yield key, decode(self._keyring.open_record(records.place(table, key), sealed))
            except IntegrityError as exc:
                content = ContentId(key) if table in (records.CONTENTS, records.CONTENT_REFS) else None
                inode = InodeNo(_number(key[:8])) if table in (records.INODES, records.XATTRS) else None
                self._problem(f"a record of {table.name} is damaged: {exc}", content, inode)

    def _problem(self, text: str, content: ContentId | None = None, inode: InodeNo | None = None) -> None:
        self.report.problems.append(Problem(text, content, inode))

    # Names and inodes

    def _check_tree(self) -> None:
        names: Counter[InodeNo] = Counter()
        subdirectories: dict[InodeNo, list[InodeNo]] = defaultdict(list)
        entries: dict[bytes, Entry] = {}
        for key, entry in self._read(records.ENTRIES, records.decode_entry):
            parent = InodeNo(_number(key[:8]))
            entries[key] = entry
            names[entry.inode] += 1
            if key != self._volume.metadata.entry_key(parent, entry.name):
                self._problem("a directory entry stands under another name", inode=entry.inode)
            above, inode = self._inodes.get(parent), self._inodes.get(entry.inode)
            if above is None or not stat.S_ISDIR(above.mode):
                self._problem("a directory entry stands in something that is no directory", inode=entry.inode)
            if inode is None:
                self._problem("a directory entry has no inode", inode=entry.inode)
                continue
            if stat.S_IFMT(inode.mode) != entry.type_bits:
                self._problem("a directory entry and its inode differ in type", inode=entry.inode)
            if stat.S_ISDIR(inode.mode):
                subdirectories[parent].append(entry.inode)
                if inode.parent != parent:
                    self._problem("a directory does not know where it is", inode=entry.inode)
        orphans = {InodeNo(_number(key)) for key, _ in self._read(records.ORPHANS, records.decode_mark)}
        unfinished = dict(self._read(records.UNFINISHED, records.decode_unfinished))
        for key, record in unfinished.items():
            if InodeNo(_number(key)) not in self._inodes or not set(record.entry_keys) <= entries.keys():
                self._problem("a file that is not stored yet has lost its inode or a name")
        for number in orphans - self._inodes.keys():
            self._problem("an inode to be removed is missing", inode=number)
        for key, xattr in self._read(records.XATTRS, records.decode_xattr):
            if InodeNo(_number(key[:8])) not in self._inodes:
                self._problem("an attribute belongs to no inode")
            elif key[8:] != self._keyring.name_token(b"xattr" + key[:8], xattr.name):
                self._problem("an attribute stands under another name", inode=InodeNo(_number(key[:8])))
        if self._inodes and ROOT not in self._inodes:
            self._problem("the root directory is missing")
        for number, inode in self._inodes.items():
            self._count_inode(inode)
            if stat.S_ISDIR(inode.mode):
                wanted, named = 2 + len(subdirectories[number]), names[number] == (0 if number == ROOT else 1)
            else:
                wanted, named = names[number], bool(names[number]) != (number in orphans)
            if inode.nlink != wanted:
                self._problem(f"an inode counts {inode.nlink} links and has {wanted}", inode=number)
            if not named:
                self._problem("an inode has no name, or too many", inode=number)
        self._check_loops(subdirectories)

    def _check_loops(self, subdirectories: Mapping[InodeNo, list[InodeNo]]) -> None:
        lost = {number for number, inode in self._inodes.items() if stat.S_ISDIR(inode.mode)}
        waiting = list(lost - {number for below in subdirectories.values() for number in below})
        while waiting:
            number = waiting.pop()
            lost.discard(number)
            waiting += [below for below in subdirectories.get(number, ()) if below in lost]
        for number in lost:
            self._problem("a directory is below itself", inode=number)

    def _count_inode(self, inode: Inode) -> None:
        if stat.S_ISDIR(inode.mode):
            self._totals["directories"] += 1
        elif stat.S_ISREG(inode.mode):
            self._totals["files"] += 1
            self._totals["logical_bytes"] += inode.size

    def _check_inode_contents(self) -> None:
        users: Counter[ContentId] = Counter()
        for number, inode in self._inodes.items():
            if not stat.S_ISREG(inode.mode):
                if inode.content is not None:
                    self._problem("something that is no file has a content", inode.content, number)
                continue
            if inode.content is None:
                if inode.size:
                    self._problem("a file has a size and no content", inode=number)
                continue
            users[inode.content] += 1
            content = self._contents.get(inode.content)
            if content is None:
                self._problem("the content of a file is missing", inode.content, number)
            elif _size(content) != inode.size:
                self._problem("a file and its content differ in size", inode.content, number)
        for content_id, refs in self._content_refs.items():
            if refs.inodes != users[content_id]:
                self._problem(f"a content counts {refs.inodes} files and has {users[content_id]}", content_id)

    # Contents and chunks

    def _check_contents(self) -> None:
        resting: Counter[ContentId] = Counter()
        undecided = {ContentId(key) for key, _ in self._read(records.UNDECIDED, records.decode_mark)}
        for content_id, content in self._contents.items():
            refs = self._content_refs.get(content_id)
            if refs is None or refs == ContentRefs():
                self._problem("a content has no users", content_id)
            else:
                self._totals.update(contributions(content, refs))
            if (isinstance(content, Exact) and content.state is ContentState.UNDECIDED) != (content_id in undecided):
                self._problem("a content is undecided in one table and not in the other", content_id)
            if isinstance(content, Exact):
                if self._volume.contents.identify(content.layout) != content_id:
                    self._problem("a content stands under another id", content_id)
                if (content.state is ContentState.PICTURE) != (content.cluster is not None):
                    self._problem("a picture has no cluster, or a cluster holds something else", content_id)
                continue
            resting[content.representative] += 1
            representative = self._contents.get(content.representative)
            if not isinstance(representative, Exact):
                self._problem("a rendition rests on something that is not stored exactly", content_id)
            elif representative.cluster != content.cluster:
                self._problem("a rendition rests on a picture of another cluster", content_id)
        for content_id, refs in self._content_refs.items():
            if content_id not in self._contents:
                self._problem("a count belongs to no content", content_id)
            if refs.renditions != resting[content_id]:
                self._problem(
                    f"a content counts {refs.renditions} renditions and has {resting[content_id]}", content_id
                )
        for content_id in undecided - self._contents.keys():
            self._problem("an undecided content is missing", content_id)

    def _check_chunks(self, *, open_them: bool) -> set[ChunkId]:
        """Return the chunks that are missing or do not open."""
        named = Counter(extent.chunk for _, extent in self._extents())
        damaged = set(named)
        for key, sealed in self._snapshot.scan(records.CHUNKS.name):
            chunk = ChunkId(key)
            self.report.records += 1
            self._totals["chunks"] += 1
            self._totals["stored_bytes"] += len(sealed)
            refs = self._chunk_refs.get(chunk)
            if refs is None or refs.extents != named[chunk] or not refs.extents:
                self._problem(f"a chunk counts {refs.extents if refs else 'no'} users and has {named[chunk]}")
            elif refs.stored_bytes != len(sealed):
                self._problem("a chunk has another length than was noted")
            if not open_them or self._opens(chunk, sealed):
                damaged.discard(chunk)
            self.report.chunks_opened += open_them
            self._progress(self._totals["chunks"], len(self._chunk_refs))
        for chunk in damaged & named.keys():
            if self._snapshot.get(records.CHUNKS.name, chunk) is None:
                self._problem("a chunk is missing")
            else:
                self._problem("a chunk is damaged")
        for chunk in self._chunk_refs.keys() - named.keys():
            if self._snapshot.get(records.CHUNKS.name, chunk) is None:
                self._problem("a count belongs to no chunk")
        return damaged

    def _opens(self, chunk: ChunkId, sealed: bytes) -> bool:
        try:
            plaintext = self._volume.chunks.open_sealed(chunk, sealed)
        except IntegrityError:
            return False
        self._lengths[chunk] = len(plaintext)
        return self._volume.chunks.identify(plaintext) == chunk

    def _extents(self) -> Iterator[tuple[ContentId, Extent]]:
        for content_id, content in self._contents.items():
            layout = content.layout if isinstance(content, Exact) else content.own
            for extent in layout.extents:
                yield content_id, extent

    def _blame(self, damaged: set[ChunkId]) -> None:
        """Name the contents that suffer from damaged chunks, and the renditions that rest on those."""
        hit = {
            content_id
            for content_id, extent in self._extents()
            if extent.chunk in damaged or self._lengths.get(extent.chunk, extent.length) != extent.length
        }
        for content_id in hit:
            self._problem("a file cannot be read whole", content_id)
        for content_id, content in self._contents.items():
            if isinstance(content, Rendition) and content.representative in hit and content_id not in hit:
                self._problem("a file cannot be read: the picture it rests on is damaged", content_id)

    def check_renditions(self, render: Callable[[Rendition], bytes], damaged: set[ChunkId]) -> None:
        """Make every rendition that does not rest on damaged chunks."""
        broken = {content_id for content_id, extent in self._extents() if extent.chunk in damaged}
        renditions = [
            (content_id, content)
            for content_id, content in self._contents.items()
            if isinstance(content, Rendition) and content_id not in broken and content.representative not in broken
        ]
        for number, (content_id, content) in enumerate(renditions):
            try:
                render(content)
            except DedupfsError as exc:
                if self._volume.contents.find(content_id) == content:
                    self._problem(f"a file cannot be read: {exc}", content_id)
            self.report.renditions_made += 1
            self._progress(number + 1, len(renditions))

    # Clusters and their index

    def _check_clusters(self) -> None:
        members = {
            (ClusterId(_number(key[:8])), ContentId(key[8:]))
            for key, _ in self._read(records.MEMBERS, records.decode_mark)
        }
        wanted = {
            (content.cluster, content_id)
            for content_id, content in self._contents.items()
            if content.cluster is not None
        }
        for _, content_id in members ^ wanted:
            self._problem("a picture and its cluster do not know each other", content_id)
        for number, cluster in self._clusters.items():
            self._totals["clusters"] += 1
            if (number, cluster.representative) not in members:
                self._problem(f"cluster {number} has lost its representative", cluster.representative)
            elif not isinstance(self._contents.get(cluster.representative), Exact):
                self._problem(f"cluster {number} is represented by a rendition", cluster.representative)
        for number in {cluster for cluster, _ in members} - self._clusters.keys():
            self._problem(f"cluster {number} is missing")

    def _check_bands(self) -> None:
        wanted = {
            token + number_key(number): similarity.mask(self._keyring, number, cluster.fingerprint)
            for number, cluster in self._clusters.items()
            if cluster.fingerprint is not None
            for token in similarity.tokens(self._keyring, cluster.fingerprint)
        }
        stored = dict(self._snapshot.scan(records.BANDS.name))
        self.report.records += len(stored)
        if stored != wanted:
            wrong = {key[8:] for key in stored.keys() | wanted.keys() if stored.get(key) != wanted.get(key)}
            for key in wrong:
                self._problem(f"cluster {_number(key)} is not indexed as it should be")

    def _check_volume_records(self) -> None:
        found: dict[bytes, bytes] = dict(self._read(records.VOLUME, lambda data: data))
        try:
            records.decode_config(found[b"config"])
            counters = records.decode_counters(found[b"counters"]) if b"counters" in found else {}
            next_inode = records.decode_number(found[b"next_inode"]) if b"next_inode" in found else 1
            next_cluster = records.decode_number(found[b"next_cluster"]) if b"next_cluster" in found else 1
        except KeyError:
            self._problem("the volume has lost its configuration")
            return
        except IntegrityError as exc:
            self._problem(f"a record of the volume is damaged: {exc}")
            return
        if max(self._inodes, default=0) >= next_inode or max(self._clusters, default=0) >= next_cluster:
            self._problem("a number would be given out a second time")
        for name in sorted(counters.keys() | self._totals.keys()):
            if counters.get(name, 0) != self._totals[name]:
                self._problem(f"the volume counts {counters.get(name, 0)} {name} and has {self._totals[name]}")


def _number(key: bytes) -> int:
    return int.from_bytes(key, "big")


def _size(content: Exact | Rendition) -> int:
    return content.layout.size if isinstance(content, Exact) else content.size
