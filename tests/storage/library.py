"""A volume with one of everything, and the contradictions that can be planted in it."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace

from dedupfs.model import ChunkId, ClusterId, ContentId, Fingerprint, InodeNo
from dedupfs.storage import codec, records
from dedupfs.storage.metadata import POLICY_XATTR, ROOT
from dedupfs.storage.records import (
    ChunkRefs,
    Cluster,
    ContentRefs,
    ContentState,
    Entry,
    Exact,
    Extent,
    Inode,
    Layout,
    Xattr,
    number_key,
)
from dedupfs.storage.store import Transaction
from dedupfs.storage.volume import Volume
from tests.storage.tree import DIRECTORY_MODE, FILE_MODE, Tree

PLAIN = b"plain text " * 1000
PICTURE = random.Random(1).randbytes(9000)
COPY = random.Random(2).randbytes(8000)
FINGERPRINT = Fingerprint(bytes(range(32)))


@dataclass(frozen=True)
class Library:
    """A volume with one of everything; `tree` is the plain one, for this volume will not stay sound."""

    volume: Volume
    tree: Tree
    plain: ContentId
    picture: ContentId
    copy: ContentId
    undecided: ContentId
    cluster: ClusterId
    directory: InodeNo

    @property
    def plain_inode(self) -> InodeNo:
        return self.tree.inodes[b"plain"]

    def chunk(self, data: bytes) -> ChunkId:
        return self.volume.chunks.identify(data)

    def change_inode(self, transaction: Transaction, number: InodeNo, **changes: object) -> None:
        inode = replace(self.volume.metadata.inode(number), **changes)  # type: ignore[arg-type]
        self.volume.metadata.put_inode(transaction, number, inode)

    def change_content(self, transaction: Transaction, content_id: ContentId, **changes: object) -> None:
        content = replace(self.volume.contents.get(content_id), **changes)  # type: ignore[arg-type]
        transaction.put(records.CONTENTS, content_id, codec.encode_content(content))

    def change_cluster(self, transaction: Transaction, **changes: object) -> None:
        cluster = replace(self.volume.clusters.get(self.cluster), **changes)  # type: ignore[arg-type]
        transaction.put(records.CLUSTERS, number_key(self.cluster), codec.encode_cluster(cluster))


def make_library(volume: Volume) -> Library:
    """Store one of everything."""
    tree = Tree(volume)
    plain = tree.add(b"plain", PLAIN)
    tree.add(b"twin", PLAIN)
    picture, copy, undecided = (
        tree.add(b"picture", PICTURE),
        tree.add(b"copy", COPY),
        tree.add(b"undecided", b"undecided"),
    )
    cluster = tree.found_cluster(picture, FINGERPRINT)
    tree.make_rendition(copy, picture)
    tree.set_state(undecided, ContentState.UNDECIDED)
    metadata = volume.metadata
    with volume.store.transaction() as transaction:
        directory = metadata.new_inode(transaction, Inode(DIRECTORY_MODE, 0, 0, 0, 2, 0, 0, 0, 0, parent=ROOT))
        metadata.put_entry(transaction, ROOT, Entry(directory, stat.S_IFDIR, b"directory"))
        root = replace(metadata.inode(ROOT), nlink=3)
        metadata.put_inode(transaction, ROOT, root)
        metadata.put_xattr(transaction, directory, Xattr(b"user.a", b"1"))
        orphan = metadata.new_inode(transaction, Inode(FILE_MODE, 0, 0, 0, 0, 0, 0, 0, 0))
        metadata.set_orphan(transaction, orphan)
        fresh = metadata.new_inode(transaction, Inode(FILE_MODE, 0, 0, 0, 1, 0, 0, 0, 0))
        metadata.put_entry(transaction, ROOT, Entry(fresh, stat.S_IFREG, b"fresh"))
        metadata.set_unfinished(transaction, fresh, (metadata.entry_key(ROOT, b"fresh"),))
        transaction.count("files", 2)
        transaction.count("directories", 1)
    volume.configure(keep_originals_days=1)
    with volume.store.transaction() as transaction:
        volume.mix_policies(transaction)
        volume.pairs.part(transaction, plain, undecided)
    return Library(volume, tree, plain, picture, copy, undecided, cluster, directory)


# What can be planted

Plant = Callable[[Library, Transaction], object]
PLANTS: dict[str, tuple[str, Plant]] = {}


def plant(text: str) -> Callable[[Plant], Plant]:
    """Register a contradiction and a part of the report that must name it."""

    def register(planted: Plant) -> Plant:
        PLANTS[planted.__name__] = (text, planted)
        return planted

    return register


@plant("a directory entry has no inode")
def entry_without_inode(library: Library, transaction: Transaction) -> None:
    library.volume.metadata.put_entry(transaction, ROOT, Entry(InodeNo(99), stat.S_IFREG, b"ghost"))


@plant("a directory entry stands under another name")
def entry_under_another_name(library: Library, transaction: Transaction) -> None:
    entry = Entry(library.plain_inode, stat.S_IFREG, b"other name")
    transaction.put(records.ENTRIES, library.volume.metadata.entry_key(ROOT, b"plain"), codec.encode_entry(entry))


@plant("something that is no directory")
def entry_in_a_file(library: Library, transaction: Transaction) -> None:
    library.volume.metadata.put_entry(transaction, library.plain_inode, Entry(library.directory, stat.S_IFDIR, b"x"))


@plant("differ in type")
def entry_of_another_type(library: Library, transaction: Transaction) -> None:
    library.volume.metadata.put_entry(transaction, ROOT, Entry(library.plain_inode, stat.S_IFLNK, b"plain"))


@plant("does not know where it is")
def directory_with_another_parent(library: Library, transaction: Transaction) -> None:
    library.change_inode(transaction, library.directory, parent=library.directory)


@plant("below itself")
def directory_below_itself(library: Library, transaction: Transaction) -> None:
    library.volume.metadata.delete_entry(transaction, ROOT, b"directory")
    library.change_inode(transaction, ROOT, nlink=2)
    library.change_inode(transaction, library.directory, nlink=3, parent=library.directory)
    entry = Entry(library.directory, stat.S_IFDIR, b"directory")
    library.volume.metadata.put_entry(transaction, library.directory, entry)


@plant("has no name, or too many")
def inode_without_a_name(library: Library, transaction: Transaction) -> None:
    library.volume.metadata.delete_entry(transaction, ROOT, b"plain")
    library.change_inode(transaction, library.plain_inode, nlink=0)


@plant("has no name, or too many")
def orphan_with_a_name(library: Library, transaction: Transaction) -> None:
    library.volume.metadata.set_orphan(transaction, library.plain_inode)


@plant("has no name, or too many")
def directory_with_two_names(library: Library, transaction: Transaction) -> None:
    library.volume.metadata.put_entry(transaction, ROOT, Entry(library.directory, stat.S_IFDIR, b"second"))
    library.change_inode(transaction, ROOT, nlink=4)


@plant("counts 5 links and has 1")
def wrong_link_count(library: Library, transaction: Transaction) -> None:
    library.change_inode(transaction, library.plain_inode, nlink=5)


@plant("counts 2 links and has 3")
def wrong_link_count_of_a_directory(library: Library, transaction: Transaction) -> None:
    library.change_inode(transaction, ROOT, nlink=2)


@plant("the root directory is missing")
def no_root(library: Library, transaction: Transaction) -> None:
    transaction.delete(records.INODES, number_key(ROOT))


@plant("an inode to be removed is missing")
def orphan_without_an_inode(library: Library, transaction: Transaction) -> None:
    library.volume.metadata.set_orphan(transaction, InodeNo(99))


@plant("has lost its inode or a name")
def unfinished_without_an_inode(library: Library, transaction: Transaction) -> None:
    library.volume.metadata.set_unfinished(transaction, InodeNo(99), ())


@plant("has lost its inode or a name")
def unfinished_without_a_name(library: Library, transaction: Transaction) -> None:
    library.volume.metadata.set_unfinished(transaction, library.plain_inode, (bytes(24),))


@plant("an attribute belongs to no inode")
def attribute_without_an_inode(library: Library, transaction: Transaction) -> None:
    library.volume.metadata.put_xattr(transaction, InodeNo(99), Xattr(b"user.a", b"1"))


@plant("an attribute stands under another name")
def attribute_under_another_name(library: Library, transaction: Transaction) -> None:
    transaction.put(
        records.XATTRS, number_key(library.directory) + bytes(16), codec.encode_xattr(Xattr(b"user.b", b"1"))
    )


@plant("a file has a size and no content")
def size_without_a_content(library: Library, transaction: Transaction) -> None:
    library.change_inode(transaction, library.plain_inode, content=None)


@plant("no file has a content")
def directory_with_a_content(library: Library, transaction: Transaction) -> None:
    library.change_inode(transaction, library.directory, content=library.plain)


@plant("the content of a file is missing")
def file_of_a_missing_content(library: Library, transaction: Transaction) -> None:
    library.change_inode(transaction, library.plain_inode, content=ContentId(bytes(32)))


@plant("a file and its content differ in size")
def file_of_another_size(library: Library, transaction: Transaction) -> None:
    library.change_inode(transaction, library.plain_inode, size=1)


@plant("a content counts 7 files and has 2")
def wrong_count_of_files(library: Library, transaction: Transaction) -> None:
    refs = codec.encode_content_refs(ContentRefs(inodes=7))
    transaction.put(records.CONTENT_REFS, library.plain, refs)


@plant("a content counts 9 renditions and has 1")
def wrong_count_of_renditions(library: Library, transaction: Transaction) -> None:
    refs = codec.encode_content_refs(ContentRefs(inodes=1, renditions=9))
    transaction.put(records.CONTENT_REFS, library.picture, refs)


@plant("nobody counts them")
def content_without_a_count(library: Library, transaction: Transaction) -> None:
    transaction.delete(records.CONTENT_REFS, library.plain)


@plant("a count belongs to no content")
def count_without_a_content(library: Library, transaction: Transaction) -> None:
    transaction.put(records.CONTENT_REFS, bytes(32), codec.encode_content_refs(ContentRefs(1)))


@plant("undecided in one table")
def undecided_in_one_table(library: Library, transaction: Transaction) -> None:
    transaction.delete(records.UNDECIDED, library.undecided)


@plant("undecided in one table")
def decided_in_one_table(library: Library, transaction: Transaction) -> None:
    transaction.put(records.UNDECIDED, library.plain, codec.encode_mark())


@plant("an undecided content is missing")
def undecided_without_a_content(library: Library, transaction: Transaction) -> None:
    transaction.put(records.UNDECIDED, bytes(32), codec.encode_mark())


@plant("a content stands under another id")
def content_of_another_id(library: Library, transaction: Transaction) -> None:
    stored = library.volume.contents.get(library.plain)
    assert isinstance(stored, Exact)
    library.change_content(transaction, library.plain, layout=Layout(stored.layout.size + 1, stored.layout.extents))


@plant("a picture has no cluster")
def picture_without_a_cluster(library: Library, transaction: Transaction) -> None:
    library.change_content(transaction, library.plain, state=ContentState.PICTURE)


@plant("a picture has no cluster")
def cluster_of_something_else(library: Library, transaction: Transaction) -> None:
    library.change_content(transaction, library.picture, state=ContentState.PLAIN)


@plant("the picture it rests on is missing")
def rendition_of_something_missing(library: Library, transaction: Transaction) -> None:
    library.change_content(transaction, library.copy, representative=ContentId(bytes(32)))


@plant("not stored exactly")
def rendition_of_a_rendition(library: Library, transaction: Transaction) -> None:
    library.change_content(transaction, library.copy, representative=library.copy)


@plant("a picture of another cluster")
def rendition_of_another_cluster(library: Library, transaction: Transaction) -> None:
    library.change_content(transaction, library.copy, cluster=ClusterId(99))


@plant("do not know each other")
def picture_that_its_cluster_forgot(library: Library, transaction: Transaction) -> None:
    transaction.delete(records.MEMBERS, number_key(library.cluster) + library.copy)


@plant("do not know each other")
def member_that_is_no_picture(library: Library, transaction: Transaction) -> None:
    library.volume.clusters.add(transaction, library.cluster, library.plain)


@plant("is missing")
def cluster_that_is_missing(library: Library, transaction: Transaction) -> None:
    transaction.delete(records.CLUSTERS, number_key(library.cluster))


@plant("has lost its representative")
def cluster_without_its_representative(library: Library, transaction: Transaction) -> None:
    library.change_cluster(transaction, representative=library.plain)


@plant("is represented by a rendition")
def cluster_represented_by_a_rendition(library: Library, transaction: Transaction) -> None:
    library.change_cluster(transaction, representative=library.copy)


@plant("has lost its representative")
def cluster_of_nobody(library: Library, transaction: Transaction) -> None:
    record = codec.encode_cluster(Cluster(library.picture, None, b""))
    transaction.put(records.CLUSTERS, number_key(50), record)


@plant("is not indexed as it should be")
def cluster_that_cannot_be_found(library: Library, transaction: Transaction) -> None:
    library.volume.clusters.index.remove(transaction, library.cluster, FINGERPRINT)


@plant("is not indexed as it should be")
def index_of_a_cluster_that_is_gone(library: Library, transaction: Transaction) -> None:
    library.volume.clusters.index.add(transaction, ClusterId(99), FINGERPRINT)


@plant("is not indexed as it should be")
def index_with_another_fingerprint(library: Library, transaction: Transaction) -> None:
    token = library.volume.store.keys(records.BANDS)[0]
    transaction.put(records.BANDS, token, bytes(32))


@plant("a chunk counts 6 users and has 1")
def wrong_count_of_a_chunk(library: Library, transaction: Transaction) -> None:
    refs = library.volume.chunks.references(library.chunk(PICTURE))
    assert refs is not None
    transaction.put(
        records.CHUNK_REFS, library.chunk(PICTURE), codec.encode_chunk_refs(ChunkRefs(6, refs.stored_bytes))
    )


@plant("a chunk counts no users and has 1")
def chunk_without_a_count(library: Library, transaction: Transaction) -> None:
    transaction.delete(records.CHUNK_REFS, library.chunk(PICTURE))


@plant("a chunk counts 1 users and has 0")
def chunk_that_nobody_uses(library: Library, transaction: Transaction) -> None:
    library.volume.chunks.link(transaction, library.volume.chunks.prepare(b"nobody's"))


@plant("a chunk counts 0 users and has 0")
def chunk_that_nobody_counts(library: Library, transaction: Transaction) -> None:
    prepared = library.volume.chunks.prepare(b"nobody's")
    library.volume.chunks.link(transaction, prepared)
    transaction.put(records.CHUNK_REFS, prepared.id, codec.encode_chunk_refs(ChunkRefs(0, 256)))


@plant("a chunk counts no users and has 0")
def chunk_that_nobody_knows(library: Library, transaction: Transaction) -> None:
    transaction.put(records.CHUNKS, bytes(32), bytes(256))


@plant("a count belongs to no chunk")
def count_without_a_chunk(library: Library, transaction: Transaction) -> None:
    transaction.put(records.CHUNK_REFS, bytes(32), codec.encode_chunk_refs(ChunkRefs(1, 256)))


@plant("another length than was noted")
def chunk_of_another_length(library: Library, transaction: Transaction) -> None:
    transaction.put(records.CHUNK_REFS, library.chunk(PICTURE), codec.encode_chunk_refs(ChunkRefs(1, 256)))


@plant("a chunk is missing")
def chunk_that_is_missing(library: Library, transaction: Transaction) -> None:
    transaction.delete(records.CHUNKS, library.chunk(PICTURE))


@plant("a chunk is damaged")
def chunk_of_other_bytes(library: Library, transaction: Transaction) -> None:
    transaction.put(records.CHUNKS, library.chunk(PICTURE), os.urandom(12272))


@plant("cannot be read whole")
def extent_longer_than_its_chunk(library: Library, transaction: Transaction) -> None:
    """The record agrees with its id, as it would after a bug."""
    own = Layout(5000, (Extent(0, 5000, library.chunk(b"own metadata")),))
    library.change_content(transaction, library.copy, own=own)


@plant("the volume has lost its configuration")
def no_configuration(library: Library, transaction: Transaction) -> None:
    transaction.delete(records.VOLUME, b"config")


@plant("a record of the volume is damaged")
def configuration_that_cannot_be_read(library: Library, transaction: Transaction) -> None:
    transaction.put(records.VOLUME, b"config", b"\1garbage")


@plant("the volume does not know of any")
def policies_that_nobody_looks_for(library: Library, transaction: Transaction) -> None:
    library.volume.metadata.put_xattr(transaction, library.directory, Xattr(POLICY_XATTR, b"off"))
    transaction.delete(records.VOLUME, b"first_policy")


@plant("pictures have been split")
def pairs_that_nobody_looks_for(library: Library, transaction: Transaction) -> None:
    library.volume.pairs.part(transaction, library.plain, library.picture)
    transaction.delete(records.VOLUME, records.PAIRS_KEY)


@plant("the volume does not know of any")
def first_policy_that_cannot_be_read(library: Library, transaction: Transaction) -> None:
    transaction.put(records.VOLUME, b"first_policy", b"\1garbage")


@plant("a number would be given out a second time")
def inode_number_that_comes_again(library: Library, transaction: Transaction) -> None:
    transaction.put(records.VOLUME, b"next_inode", codec.encode_number(2))


@plant("a number would be given out a second time")
def cluster_number_that_comes_again(library: Library, transaction: Transaction) -> None:
    transaction.delete(records.VOLUME, b"next_cluster")


@plant("the volume counts 3 clusters and has 1")
def wrong_total(library: Library, transaction: Transaction) -> None:
    transaction.count("clusters", 2)


@plant("the volume counts 1 strange and has 0")
def total_of_nothing(library: Library, transaction: Transaction) -> None:
    transaction.count("strange", 1)
