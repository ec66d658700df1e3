"""Derived: what follows from the sources of a volume, table by table. `check` compares it, `repair` stores it.

A content whose record is gone is lost, and stays counted while files or renditions name it: it is there again as soon
as its bytes are written again, for everything that waited for it. A lost picture that renditions rest on stays a member
of its cluster for the same reason.
"""

from __future__ import annotations

import stat
from collections import Counter
from dataclasses import dataclass

from dedupfs.crypto.keys import Keyring
from dedupfs.model import ChunkId, ClusterId, ContentId
from dedupfs.storage import similarity
from dedupfs.storage.chunks import stored_size
from dedupfs.storage.contents import contributions
from dedupfs.storage.readout import Sources, resting
from dedupfs.storage.records import ChunkRefs, ContentRefs, ContentState, Exact, number_key


@dataclass(frozen=True, slots=True)
class Derived:
    """Tables and totals that could be made anew at any time."""

    content_refs: dict[ContentId, ContentRefs]
    chunk_refs: dict[ChunkId, ChunkRefs]
    members: set[tuple[ClusterId, ContentId]]
    undecided: set[ContentId]
    bands: dict[bytes, bytes]
    counters: dict[str, int]


def derive(sources: Sources, keyring: Keyring) -> Derived:
    """Work out everything that follows."""
    content_refs = _content_refs(sources)
    chunk_refs = _chunk_refs(sources)
    return Derived(
        content_refs,
        chunk_refs,
        _members(sources),
        {content_id for content_id, content in sources.contents.items() if is_undecided(content)},
        {
            token + number_key(cluster): similarity.mask(keyring, cluster, record.fingerprint)
            for cluster, record in sources.clusters.items()
            if record.fingerprint is not None
            for token in similarity.tokens(keyring, record.fingerprint)
        },
        _counters(sources, content_refs, chunk_refs),
    )


def is_undecided(content: object) -> bool:
    """Whether a content waits for its decision."""
    return isinstance(content, Exact) and content.state is ContentState.UNDECIDED


def _content_refs(sources: Sources) -> dict[ContentId, ContentRefs]:
    users = Counter(
        inode.content for inode in sources.inodes.values() if inode.content is not None and stat.S_ISREG(inode.mode)
    )
    renditions = {content_id: len(found) for content_id, found in resting(sources.contents).items()}
    return {
        content_id: ContentRefs(users[content_id], renditions.get(content_id, 0))
        for content_id in sources.contents.keys() | users.keys() | renditions.keys()
    }


def _chunk_refs(sources: Sources) -> dict[ChunkId, ChunkRefs]:
    extents: Counter[ChunkId] = Counter()
    lengths: dict[ChunkId, int] = {}
    for _, extent in sources.extents():
        extents[extent.chunk] += 1
        lengths[extent.chunk] = max(lengths.get(extent.chunk, 0), extent.length)
    return {chunk: ChunkRefs(count, stored_size(lengths[chunk])) for chunk, count in extents.items()}


def _members(sources: Sources) -> set[tuple[ClusterId, ContentId]]:
    members = {
        (content.cluster, content_id) for content_id, content in sources.contents.items() if content.cluster is not None
    }
    lost = resting(sources.contents).keys() - sources.contents.keys()
    return members | {
        (cluster, record.representative)
        for cluster, record in sources.clusters.items()
        if record.representative in lost
    }


def _counters(
    sources: Sources, content_refs: dict[ContentId, ContentRefs], chunk_refs: dict[ChunkId, ChunkRefs]
) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for inode in sources.inodes.values():
        if stat.S_ISDIR(inode.mode):
            totals["directories"] += 1
        elif stat.S_ISREG(inode.mode):
            totals["files"] += 1
            totals["logical_bytes"] += inode.size
    for content_id, content in sources.contents.items():
        totals.update(contributions(content, content_refs[content_id]))
    totals["chunks"] = len(chunk_refs)
    totals["stored_bytes"] = sum(refs.stored_bytes for refs in chunk_refs.values())
    totals["clusters"] = len(sources.clusters)
    return dict(totals)
