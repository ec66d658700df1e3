"""Check: every record opens, every reference has its target, every count is right, every index agrees with its source,
and the header is the same in its three places.

Works on one snapshot, so it may run beside a live mount and sees the volume as of one commit. Nothing is changed.
With `data` every ciphertext is opened too, and every rendition is made and compared with its digest. Renditions are
made from the volume as it is then, after the snapshot is closed; one that has changed since is none of this check's.

A problem is mendable when `repair` can restore order without the bytes that are lost. The others are files that cannot
be read: they stay, with their names and sizes, until the same bytes are written again.
"""

from __future__ import annotations

import stat
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping

from dedupfs.errors import DedupfsError, IntegrityError, StoreError
from dedupfs.model import ChunkId, ContentId, InodeNo
from dedupfs.storage import codec, header_copies, records
from dedupfs.storage.derived import Derived, derive, is_undecided
from dedupfs.storage.header import HEADER_FILE
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.readout import (
    DamagedRecord,
    Readout,
    counts_pairs,
    has_first_policy,
    number,
    read_out,
    resting,
    size_of,
)
from dedupfs.storage.records import ContentRefs, ContentState, Exact, Inode, Rendition
from dedupfs.storage.report import Problem, Report
from dedupfs.storage.volume import Volume

NAME_MAX_BYTES = 255


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
        readout = read_out(volume, snapshot, open_chunks=data, progress=progress)
    run = _Check(volume, readout)
    damaged = run.check()
    if data and render is not None:
        run.check_renditions(render, damaged, progress)
    return run.report


class _Check:
    """One run over what was read."""

    def __init__(self, volume: Volume, readout: Readout) -> None:
        self._volume = volume
        self._keyring = volume.store.keyring
        self._readout = readout
        self._sources = readout.sources
        self._derived: Derived = derive(readout.sources, self._keyring)
        self.report = Report(readout)

    def check(self) -> set[ChunkId]:
        """Compare everything and return the chunks that are missing or do not open."""
        for table in sorted(self._readout.disordered):
            self._problem(f"the database is damaged below its records: {table} is out of order or ends early")
        for record in self._readout.damaged:
            self._check_damaged(record)
        self._check_tree()
        self._check_inode_contents()
        self._check_contents()
        damaged = self._check_chunks()
        self._check_clusters()
        self._check_bands()
        self._check_volume_records()
        self._check_header()
        self._blame(damaged)
        return damaged

    def _problem(
        self,
        text: str,
        content: ContentId | None = None,
        inode: InodeNo | None = None,
        directory: InodeNo | None = None,
        *,
        mendable: bool = True,
    ) -> None:
        self.report.problems.append(Problem(text, content, inode, directory, mendable))

    def _check_damaged(self, record: DamagedRecord) -> None:
        table, key = record.table, record.key
        content = inode = directory = None
        if table in (records.CONTENTS, records.CONTENT_REFS, records.UNDECIDED):
            content = ContentId(key)
        elif table in (records.INODES, records.XATTRS, records.ORPHANS, records.UNFINISHED):
            inode = InodeNo(number(key))
        elif table is records.MEMBERS:
            content = ContentId(key[8:])
        elif table is records.ENTRIES:
            directory = InodeNo(number(key))
        self._problem(f"a record of {table.name} is damaged: {record.reason}", content, inode, directory)

    # Names and inodes

    def _check_tree(self) -> None:
        inodes = self._sources.inodes
        names: Counter[InodeNo] = Counter()
        subdirectories: dict[InodeNo, list[InodeNo]] = defaultdict(list)
        missing: set[InodeNo] = set()
        for key, entry in self._sources.entries.items():
            parent = InodeNo(number(key))
            names[entry.inode] += 1
            if key != self._volume.metadata.entry_key(parent, entry.name):
                self._problem("a directory entry stands under another name", inode=entry.inode)
            if not is_name(entry.name):
                self._problem("a directory entry has a name that cannot be one", inode=entry.inode)
            above, inode = inodes.get(parent), inodes.get(entry.inode)
            if above is None:
                missing.add(parent)
            elif not stat.S_ISDIR(above.mode):
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
        for directory in missing:
            self._problem("a directory is gone from above its entries", inode=directory)
        self._check_marks()
        if ROOT not in inodes and not self._readout.is_new:
            self._problem("the root directory is missing", inode=ROOT)
        elif ROOT in inodes and not stat.S_ISDIR(inodes[ROOT].mode):
            self._problem("the root directory is no directory", inode=ROOT)
        for inode_number, inode in inodes.items():
            self._check_links(inode_number, inode, names[inode_number], len(subdirectories[inode_number]))
        self._check_loops(subdirectories)

    def _check_marks(self) -> None:
        sources = self._sources
        for inode_number, record in sources.unfinished.items():
            inode = sources.inodes.get(inode_number)
            if inode is None or not set(record.entry_keys) <= sources.entries.keys():
                self._problem("a file that is not stored yet has lost its inode or a name", inode=inode_number)
            elif inode.content is not None:
                self._problem("a file that is stored counts as not stored yet", inode=inode_number)
            elif any(sources.entries[key].inode != inode_number for key in record.entry_keys):
                self._problem("a file that is not stored yet claims the name of another", inode=inode_number)
        for inode_number in sources.orphans - sources.inodes.keys():
            self._problem("an inode to be removed is missing", inode=inode_number)
        for key, name in sources.xattrs.items():
            if InodeNo(number(key)) not in sources.inodes:
                self._problem("an attribute belongs to no inode")
            elif key[8:] != self._keyring.name_token(b"xattr" + key[:8], name):
                self._problem("an attribute stands under another name", inode=InodeNo(number(key)))

    def _check_links(self, inode_number: InodeNo, inode: Inode, names: int, subdirectories: int) -> None:
        if stat.S_ISDIR(inode.mode):
            wanted, named = 2 + subdirectories, names == (0 if inode_number == ROOT else 1)
        else:
            wanted, named = names, bool(names) != (inode_number in self._sources.orphans)
        if inode.nlink != wanted:
            self._problem(f"an inode counts {inode.nlink} links and has {wanted}", inode=inode_number)
        if not named:
            self._problem("an inode has no name, or too many", inode=inode_number)

    def _check_loops(self, subdirectories: Mapping[InodeNo, list[InodeNo]]) -> None:
        lost = {inode_number for inode_number, inode in self._sources.inodes.items() if stat.S_ISDIR(inode.mode)}
        waiting = list(lost - {inode_number for below in subdirectories.values() for inode_number in below})
        waiting += [inode_number for inode_number in subdirectories if inode_number not in self._sources.inodes]
        while waiting:
            inode_number = waiting.pop()
            lost.discard(inode_number)
            waiting += [below for below in subdirectories.get(inode_number, ()) if below in lost]
        for inode_number in lost:
            self._problem("a directory is below itself", inode=inode_number)

    def _check_inode_contents(self) -> None:
        for inode_number, inode in self._sources.inodes.items():
            if not stat.S_ISREG(inode.mode):
                if inode.content is not None:
                    self._problem("something that is no file has a content", inode.content, inode_number)
                continue
            if inode.content is None:
                if inode.size:
                    self._problem("a file has a size and no content", inode=inode_number)
                continue
            content = self._sources.contents.get(inode.content)
            if content is None:
                self._problem("the content of a file is missing", inode=inode_number, mendable=False)
            elif size_of(content) != inode.size:
                self._problem("a file and its content differ in size", inode.content, inode_number)

    # Contents and chunks

    def _check_contents(self) -> None:
        contents, undecided = self._sources.contents, self._readout.undecided
        for content_id, content in contents.items():
            if is_undecided(content) != (content_id in undecided):
                self._problem("a content is undecided in one table and not in the other", content_id)
            if isinstance(content, Exact):
                self._check_exact(content_id, content)
            else:
                self._check_rendition(content_id, content)
        for content_id in undecided - contents.keys():
            self._problem("an undecided content is missing", content_id)
        self._check_content_refs()

    def _check_exact(self, content_id: ContentId, content: Exact) -> None:
        if self._volume.contents.identify(content.layout) != content_id:
            self._problem("a content stands under another id", content_id)
        if (content.state is ContentState.PICTURE) != (content.cluster is not None):
            self._problem("a picture has no cluster, or a cluster holds something else", content_id)

    def _check_rendition(self, content_id: ContentId, content: Rendition) -> None:
        representative = self._sources.contents.get(content.representative)
        if representative is None:
            self._problem("a file cannot be read: the picture it rests on is missing", content_id, mendable=False)
            cluster = self._sources.clusters.get(content.cluster)
            if cluster is None or cluster.representative != content.representative:
                self._problem("a rendition waits for a picture that no cluster knows", content_id)
        elif not isinstance(representative, Exact):
            self._problem("a rendition rests on something that is not stored exactly", content_id)
        elif representative.cluster != content.cluster:
            self._problem("a rendition rests on a picture of another cluster", content_id)

    def _check_content_refs(self) -> None:
        stored, wanted = self._readout.content_refs, self._derived.content_refs
        for content_id in stored.keys() | wanted.keys():
            noted, found = stored.get(content_id), wanted.get(content_id, ContentRefs())
            if content_id in self._sources.contents and (noted in (None, ContentRefs()) or found == ContentRefs()):
                self._problem("a content has no users, or nobody counts them", content_id)
            elif noted is not None and content_id not in wanted:
                self._problem("a count belongs to no content", content_id)
            elif noted is None:
                self._problem("nobody counts who waits for a content that is missing", content_id)
            if noted is None:
                continue
            if noted.inodes != found.inodes:
                self._problem(f"a content counts {noted.inodes} files and has {found.inodes}", content_id)
            if noted.renditions != found.renditions:
                self._problem(f"a content counts {noted.renditions} renditions and has {found.renditions}", content_id)

    def _check_chunks(self) -> set[ChunkId]:
        """Return the chunks in use that are missing or do not open."""
        readout, wanted = self._readout, self._derived.chunk_refs
        damaged: set[ChunkId] = set()
        for chunk, refs in wanted.items():
            noted = readout.chunk_refs.get(chunk)
            if noted is None or noted.extents != refs.extents:
                counted = noted.extents if noted else "no"
                self._problem(f"a chunk counts {counted} users and has {refs.extents}")
            elif noted.stored_bytes != refs.stored_bytes:
                self._problem("a chunk has another length than was noted")
            if chunk not in readout.chunk_bytes:
                damaged.add(chunk)
                self._problem("a chunk is missing", mendable=False)
            elif readout.chunk_bytes[chunk] != refs.stored_bytes or chunk in readout.unopened:
                damaged.add(chunk)
                self._problem("a chunk is damaged", mendable=False)
        for chunk in readout.chunk_bytes.keys() - wanted.keys():
            noted = readout.chunk_refs.get(chunk)
            self._problem(f"a chunk counts {noted.extents if noted else 'no'} users and has 0")
        for _ in readout.chunk_refs.keys() - wanted.keys() - readout.chunk_bytes.keys():
            self._problem("a count belongs to no chunk")
        return damaged

    def _blame(self, damaged: set[ChunkId]) -> None:
        """Name the contents that suffer from damaged chunks, and the renditions that rest on those."""
        lengths = self._readout.lengths
        hit = {
            content_id
            for content_id, extent in self._sources.extents()
            if extent.chunk in damaged or lengths.get(extent.chunk, extent.length) != extent.length
        }
        for content_id in hit:
            self._problem("a file cannot be read whole", content_id, mendable=False)
        for representative, renditions in resting(self._sources.contents).items():
            if representative in hit:
                for content_id in set(renditions) - hit:
                    self._problem(
                        "a file cannot be read: the picture it rests on is damaged", content_id, mendable=False
                    )

    def check_renditions(
        self, render: Callable[[Rendition], bytes], damaged: set[ChunkId], progress: Callable[[int, int], None]
    ) -> None:
        """Make every rendition that does not rest on damaged chunks."""
        contents = self._sources.contents
        broken = {content_id for content_id, extent in self._sources.extents() if extent.chunk in damaged}
        renditions = [
            (content_id, content)
            for content_id, content in contents.items()
            if isinstance(content, Rendition)
            and content_id not in broken
            and content.representative not in broken
            and isinstance(contents.get(content.representative), Exact)
        ]
        for count, (content_id, content) in enumerate(renditions):
            try:
                render(content)
            except DedupfsError as exc:
                if self._is_still(content_id, content):
                    self._problem(f"a file cannot be read: {exc}", content_id, mendable=False)
            self.report.renditions_made += 1
            progress(count + 1, len(renditions))

    def _is_still(self, content_id: ContentId, content: Rendition) -> bool:
        try:
            return self._volume.contents.find(content_id) == content
        except IntegrityError:
            return True

    # Clusters and their index

    def _check_clusters(self) -> None:
        sources, wanted, stored = self._sources, self._derived.members, self._readout.members
        for _, content_id in stored ^ wanted:
            self._problem("a picture and its cluster do not know each other", content_id)
        for cluster, record in sources.clusters.items():
            if (cluster, record.representative) not in wanted:
                self._problem(f"cluster {cluster} has lost its representative", record.representative)
            elif isinstance(sources.contents.get(record.representative), Rendition):
                self._problem(f"cluster {cluster} is represented by a rendition", record.representative)
        for cluster in {cluster for cluster, _ in stored | wanted} - sources.clusters.keys():
            self._problem(f"cluster {cluster} is missing")

    def _check_bands(self) -> None:
        stored, wanted = self._readout.bands, self._derived.bands
        if stored != wanted:
            wrong = {key[8:] for key in stored.keys() | wanted.keys() if stored.get(key) != wanted.get(key)}
            for key in wrong:
                self._problem(f"cluster {number(key)} is not indexed as it should be")

    def _check_volume_records(self) -> None:
        found = self._readout.volume
        damaged = {record.key for record in self._readout.damaged if record.table is records.VOLUME}
        if b"config" not in found and b"config" not in damaged:
            self._problem("the volume has lost its configuration")
        try:
            if b"config" in found:
                codec.decode_config(found[b"config"])
            counters = codec.decode_counters(found[b"counters"]) if b"counters" in found else {}
            next_inode = codec.decode_number(found[b"next_inode"]) if b"next_inode" in found else 1
            next_cluster = codec.decode_number(found[b"next_cluster"]) if b"next_cluster" in found else 1
        except IntegrityError as exc:
            self._problem(f"a record of the volume is damaged: {exc}")
            return
        if not has_first_policy(self._readout):
            self._problem("directories have policies, and the volume does not know of any")
        if not counts_pairs(self._readout):
            self._problem("pictures have been split, and the volume does not know of any")
        inodes, clusters = self._sources.inodes, self._sources.clusters
        if max(inodes, default=0) >= next_inode or max(clusters, default=0) >= next_cluster:
            self._problem("a number would be given out a second time")
        totals = self._derived.counters
        for name in sorted(counters.keys() | totals.keys()):
            if counters.get(name, 0) != totals.get(name, 0):
                self._problem(f"the volume counts {counters.get(name, 0)} {name} and has {totals.get(name, 0)}")

    def _check_header(self) -> None:
        try:
            copies = header_copies.examine(self._volume.directory, self._volume.store.engine)
        except StoreError as exc:
            self._problem(f"the copies of {HEADER_FILE} cannot be compared: {exc}", mendable=False)
            return
        trouble = copies.trouble()
        if trouble is not None:
            self._problem(trouble, mendable=False)
        else:
            for text in copies.differing():
                self._problem(text)


def is_name(name: bytes) -> bool:
    """Whether something can be the name of a directory entry."""
    return 0 < len(name) <= NAME_MAX_BYTES and name not in (b".", b"..") and b"/" not in name and b"\0" not in name
