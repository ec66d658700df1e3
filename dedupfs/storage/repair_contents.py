"""Contents and clusters put in order: what is readable keeps or finds a file, what is not waits for its bytes.

A file is never removed because its bytes are damaged. It keeps its name and size and fails to read; its content stays
counted, and is whole again, for every file and rendition that names it, as soon as the same bytes are written again.
"""

from __future__ import annotations

import stat
from collections import Counter
from dataclasses import replace

from dedupfs.crypto.keys import Keyring
from dedupfs.model import ClusterId, ContentId, Policy
from dedupfs.storage import codec, records
from dedupfs.storage.mending import Mending
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.readout import layout_of, resting, size_of
from dedupfs.storage.records import DIGEST_BYTES, Cluster, ContentState, Exact, Inode, Rendition

LOST = ContentId(bytes(DIGEST_BYTES))
"""What a file names whose own content is not known any more: no content has this id, so the file fails to read."""

_RESCUED_MODE = stat.S_IFREG | 0o600


def mend_contents(mending: Mending) -> None:
    """Put contents, what inodes say of them, and clusters in order; what nobody names gets an inode without a name."""
    _say_what_is_lost(mending)
    _mend_ids(mending)
    _drop_chains(mending)
    _mend_inodes(mending)
    _rescue(mending)
    _mend_clusters(mending, _mend_pictures(mending))


def _say_what_is_lost(mending: Mending) -> None:
    for record in mending.old.damaged:
        if record.table is records.CONTENTS:
            mending.mended(
                "the damaged record of a content is dropped; its files wait for their bytes",
                mending.paths.of_content(ContentId(record.key)),
            )


def _mend_ids(mending: Mending) -> None:
    """Let every exact content stand under its id, and everybody who names it follow."""
    contents = mending.new.contents
    moved: dict[ContentId, ContentId] = {}
    for content_id, content in list(contents.items()):
        if isinstance(content, Exact):
            right = _identify(mending.keyring, content.layout)
            if right != content_id:
                contents.setdefault(right, content)
                del contents[content_id]
                moved[content_id] = right
                mending.mended("a content is put under its id", mending.paths.of_content(content_id))
    if not moved:
        return
    for number, inode in mending.new.inodes.items():
        if inode.content in moved:
            mending.new.inodes[number] = replace(inode, content=moved[inode.content])
    for content_id, content in contents.items():
        if isinstance(content, Rendition) and content.representative in moved:
            contents[content_id] = replace(content, representative=moved[content.representative])
    for cluster, record in mending.new.clusters.items():
        if record.representative in moved:
            mending.new.clusters[cluster] = replace(record, representative=moved[record.representative])


def _identify(keyring: Keyring, layout: records.Layout) -> ContentId:
    return ContentId(keyring.content_id(codec.encode_layout(layout)))


def _drop_chains(mending: Mending) -> None:
    """Give up renditions of renditions: the picture that they were made from is not there any more."""
    contents = mending.new.contents
    chained = [
        content_id
        for content_id, content in contents.items()
        if isinstance(content, Rendition) and isinstance(contents.get(content.representative), Rendition)
    ]
    for content_id in chained:
        del contents[content_id]
        mending.gone(
            "the picture that a file was drawn from is gone; the file waits for its bytes",
            mending.paths.of_content(content_id),
        )


def _mend_inodes(mending: Mending) -> None:
    for number, inode in mending.new.inodes.items():
        mended = inode
        content = mending.new.contents.get(inode.content) if inode.content is not None else None
        if not stat.S_ISREG(inode.mode):
            mended = replace(inode, content=None)
            if inode.content is not None:
                mending.mended("what is no file has no content any more", mending.paths.of_inode(number))
        elif inode.content is None and inode.size:
            mended = replace(inode, content=LOST)
            mending.gone(
                "nothing tells what is in a file; it waits to be written again", mending.paths.of_inode(number)
            )
        elif content is not None and size_of(content) != inode.size:
            mended = replace(inode, size=size_of(content))
            mending.mended("the size of a file is what its bytes are", mending.paths.of_inode(number))
        mending.new.inodes[number] = mended


def _rescue(mending: Mending) -> None:
    """Give contents whose files are gone an inode, or drop those of which nothing is left."""
    contents, inodes = mending.new.contents, mending.new.inodes
    users = {inode.content for inode in inodes.values()}
    rests = resting(contents)
    root = inodes.get(ROOT)
    uid, gid = (root.uid, root.gid) if root is not None else (0, 0)
    for content_id, content in sorted(contents.items()):
        refs = mending.old.content_refs.get(content_id)
        if content_id in users or (content_id in rests and refs is not None and not refs.inodes):
            # Of a picture whose own file was removed on purpose, its renditions are left.
            continue
        chunks = [extent.chunk for extent in layout_of(content).extents]
        if chunks and content_id not in rests and not any(chunk in mending.old.chunk_bytes for chunk in chunks):
            del contents[content_id]
            mending.gone("a content that no file names has lost all its bytes")
            continue
        number = mending.fresh_inode()
        size = size_of(content)
        now = mending.now_ns
        inodes[number] = Inode(_RESCUED_MODE, uid, gid, 0, 1, size, now, now, now, content=content_id)
        mending.mended(f"{size} bytes that no file names any more get the inode {number}", [b"#%d" % number])


# Pictures and clusters


def _mend_pictures(mending: Mending) -> set[ClusterId]:
    """Bring renditions and their representatives into one cluster, one representative each; return the clusters."""
    contents, clusters = mending.new.contents, mending.new.clusters
    rests = resting(contents)
    claimed: set[ClusterId] = set()

    def known_first(representative: ContentId) -> tuple[bool, ContentId]:
        cluster = _cluster_of(mending, representative, rests[representative])
        record = clusters.get(cluster)
        return record is None or record.representative != representative, representative

    for representative in sorted(rests, key=known_first):
        renditions = rests[representative]
        cluster = _cluster_of(mending, representative, renditions)
        if not cluster or cluster in claimed:
            cluster = mending.fresh_cluster()
        claimed.add(cluster)
        stored = contents.get(representative)
        if isinstance(stored, Exact) and (stored.state, stored.cluster) != (ContentState.PICTURE, cluster):
            contents[representative] = replace(stored, state=ContentState.PICTURE, cluster=cluster)
            mending.mended("a picture is put into its cluster", mending.paths.of_content(representative))
        for content_id in renditions:
            rendition = contents[content_id]
            if rendition.cluster != cluster:
                contents[content_id] = replace(rendition, cluster=cluster)
                mending.mended("a rendition is put into its cluster", mending.paths.of_content(content_id))
        record = clusters.get(cluster)
        if record is None:
            clusters[cluster] = Cluster(representative, None, b"")
            mending.mended(f"cluster {cluster} is made anew; no further copies of its picture will be recognised")
        elif record.representative != representative:
            clusters[cluster] = replace(record, representative=representative)
            mending.mended(f"cluster {cluster} is represented by the picture that others rest on")
    for content_id, content in contents.items():
        if isinstance(content, Exact) and content_id not in rests:
            contents[content_id] = _state_mended(mending, content_id, content)
    return claimed


def _cluster_of(mending: Mending, representative: ContentId, renditions: list[ContentId]) -> ClusterId:
    stored = mending.new.contents.get(representative)
    if stored is not None and stored.cluster is not None:
        return stored.cluster
    named = Counter(content.cluster for content in map(mending.new.contents.__getitem__, renditions))
    for cluster, _ in named.most_common():
        record = mending.new.clusters.get(cluster) if cluster is not None else None
        if cluster is not None and record is not None and record.representative == representative:
            return cluster
    return named.most_common(1)[0][0] or ClusterId(0)


def _state_mended(mending: Mending, content_id: ContentId, content: Exact) -> Exact:
    """Return an exact content on which nothing rests as it should be."""
    if content.cluster is not None and content.cluster in mending.new.clusters:
        if content.state is ContentState.PICTURE:
            return content
        mended = replace(content, state=ContentState.PICTURE)
    elif content.state is ContentState.PICTURE:
        # The next mount decides about it anew, and finds it a cluster.
        again = ContentState.PLAIN if mending.policy is Policy.OFF else ContentState.UNDECIDED
        mended = replace(content, state=again, cluster=None)
    elif content.cluster is not None:
        mended = replace(content, cluster=None)
    else:
        return content
    mending.mended("a picture and its cluster agree again", mending.paths.of_content(content_id))
    return mended


def _mend_clusters(mending: Mending, rested_on: set[ClusterId]) -> None:
    """Drop other clusters that hold no picture, and give those that have lost their representative another one."""
    members: dict[ClusterId, list[ContentId]] = {}
    for content_id, content in mending.new.contents.items():
        if content.cluster is not None:
            members.setdefault(content.cluster, []).append(content_id)
    for cluster, record in list(mending.new.clusters.items()):
        if cluster in rested_on:
            continue
        pictures = members.get(cluster, [])
        if not pictures:
            del mending.new.clusters[cluster]
            mending.mended(f"cluster {cluster} holds no picture any more and is dropped")
        elif record.representative not in pictures:
            mending.new.clusters[cluster] = replace(record, representative=min(pictures))
            mending.mended(f"cluster {cluster} gets another representative", mending.paths.of_content(min(pictures)))
