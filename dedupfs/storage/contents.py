"""Contents: what a file's bytes are, immutable and counted, whatever the way in which they are kept.

A content's id names the bytes that were written. Its record says how they are kept, which may change during its life:
chunk by chunk, or as a rendition of another content. Inodes and renditions are counted apart; the content goes when
both counts are zero, and takes its chunks, its place in its cluster and its hold on a representative along.

A content whose record is damaged or missing is lost. It stays counted and cannot be read; files that rest on it can be
removed, and whoever writes the same bytes again brings it back for all of them, with the renditions that rest on it.
"""

from __future__ import annotations

import itertools
import logging
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from dedupfs.errors import IntegrityError
from dedupfs.model import ChunkId, ClusterId, ContentId
from dedupfs.storage import codec, records
from dedupfs.storage.chunks import CHUNK_BYTES, UNKNOWN_USERS, Chunks, PreparedChunk, stored_size
from dedupfs.storage.clusters import Clusters
from dedupfs.storage.plaintext_cache import PlaintextCache
from dedupfs.storage.records import ContentRefs, ContentState, Exact, Extent, Layout, Rendition
from dedupfs.storage.sizes import USUAL
from dedupfs.storage.store import Store, Transaction

log = logging.getLogger(__name__)

Content = Exact | Rendition


@dataclass(frozen=True, slots=True)
class PreparedLayout:
    """Bytes cut, sealed and identified, ready to be stored in a short transaction.

    `fresh` has the chunks to link; extents of the layout without one are in use already by the content it replaces.
    """

    layout: Layout
    fresh: dict[ChunkId, PreparedChunk]


class Contents:
    """The tables `contents`, `content_refs` and `undecided`."""

    def __init__(
        self, store: Store, chunks: Chunks, clusters: Clusters, plaintext_bytes: int = USUAL.plaintexts
    ) -> None:
        self._store = store
        self._chunks = chunks
        self._clusters = clusters
        self._cache = PlaintextCache(plaintext_bytes)

    # Reading

    def get(self, content_id: ContentId) -> Content:
        """Return how a content is kept. Raises IntegrityError when it is missing."""
        found = self.find(content_id)
        if found is None:
            raise IntegrityError("a content is missing")
        return found

    def find(self, content_id: ContentId) -> Content | None:
        """Return how a content is kept, or None when there is no such content."""
        stored = self._store.get(records.CONTENTS, content_id)
        return codec.decode_content(stored) if stored else None

    def sound(self, content_id: ContentId) -> Content | None:
        """Return how a content is kept, or None when there is no such content or it is lost."""
        try:
            return self.find(content_id)
        except IntegrityError as exc:
            log.error("the record of a content is damaged; it is lost until its bytes are written again: %s", exc)
            return None

    def is_awaited(self, content_id: ContentId) -> bool:
        """Whether a picture is lost that renditions rest on."""
        return self.references(content_id).renditions > 0 and self.sound(content_id) is None

    def references(self, content_id: ContentId) -> ContentRefs:
        """Return who rests on the content: too many where that cannot be read, so that it stays."""
        try:
            # Between the two looks nobody may store the content.
            with self._store.lock:
                stored = self._store.get(records.CONTENT_REFS, content_id)
                if stored is not None:
                    return codec.decode_content_refs(stored)
                if self._store.get(records.CONTENTS, content_id) is None:
                    return ContentRefs()
        except IntegrityError:
            pass
        log.error("the count of a content is damaged; it stays until `dedupfs check --repair`")
        return ContentRefs(UNKNOWN_USERS, UNKNOWN_USERS)

    def some(self, count: int) -> list[Content]:
        """Return so many contents that are stored, or all; as ids are digests, the first are as good as any."""
        found: list[Content] = []
        with self._store.engine.snapshot() as snapshot:
            for key, sealed in islice(snapshot.scan(records.CONTENTS.name), count):
                try:
                    opened = self._store.keyring.open_record(records.place(records.CONTENTS, key), sealed)
                    found.append(codec.decode_content(opened))
                except IntegrityError:
                    # Whoever asks for it hears of it.
                    continue
        return found

    def undecided(self) -> list[ContentId]:
        """Return the pictures whose deduplication is still to be decided."""
        return [ContentId(key) for key in self._store.keys(records.UNDECIDED)]

    def read(self, layout: Layout, offset: int, size: int) -> bytes:
        """Return up to `size` bytes; shorter only at the end. Raises IntegrityError for damaged chunks."""
        end = min(offset + size, layout.size)
        if offset >= end:
            return b""
        extents = layout.extents
        at = max(bisect_right(extents, offset, key=lambda extent: extent.offset) - 1, 0)
        parts: list[bytes | memoryview] = []
        while offset < end:
            while at < len(extents) and extents[at].end <= offset:
                at += 1
            if at == len(extents) or extents[at].offset >= end:
                parts.append(bytes(end - offset))
                break
            extent = extents[at]
            if extent.offset > offset:
                parts.append(bytes(extent.offset - offset))
                offset = extent.offset
            stop = min(extent.end, end)
            plaintext = self._plaintext(extent)
            parts.append(plaintext[offset - extent.offset : stop - extent.offset])
            offset = stop
        return b"".join(parts)

    def read_all(self, layout: Layout) -> bytes:
        """Return all bytes of a layout."""
        return self.read(layout, 0, layout.size)

    def _plaintext(self, extent: Extent) -> memoryview:
        plaintext = self._cache.get(extent.chunk, self._chunks.read)
        if len(plaintext) != extent.length:
            raise IntegrityError("a chunk has another length than its extent")
        return plaintext

    # Preparing, outside any transaction

    def describe(self, data: bytes, cuts: Sequence[int] = ()) -> Layout:
        """Return the layout that `prepare` would give these bytes, without sealing anything."""
        extents = (
            Extent(offset, len(piece), self._chunks.identify(piece))
            for offset, piece in _pieces(data, cuts)
            if not is_zero(piece)
        )
        return Layout(len(data), tuple(extents))

    def prepare(self, data: bytes, cuts: Sequence[int] = (), described: Layout | None = None) -> PreparedLayout:
        """Cut bytes at the given offsets and at every CHUNK_BYTES after one, and seal what is new.

        `described` is what `describe` has returned for the same arguments, so that nothing is digested twice.
        """
        known = {} if described is None else {extent.offset: extent.chunk for extent in described.extents}
        extents: list[Extent] = []
        fresh: dict[ChunkId, PreparedChunk] = {}
        for offset, piece in _pieces(data, cuts):
            if not is_zero(piece):
                prepared = self._chunks.prepare(piece, known.get(offset))
                fresh[prepared.id] = prepared
                extents.append(Extent(offset, len(piece), prepared.id))
        return PreparedLayout(Layout(len(data), tuple(extents)), fresh)

    def prepare_chunk(self, data: bytes | bytearray) -> PreparedChunk:
        """Seal one chunk of a layout that the caller puts together; it must stay as it is until that is stored."""
        return self._chunks.prepare(data)

    def identify(self, layout: Layout) -> ContentId:
        """Return the id that a content of this layout has."""
        return ContentId(self._store.keyring.content_id(codec.encode_layout(layout)))

    # Changing, inside the caller's transaction

    def store_exact(
        self, transaction: Transaction, prepared: PreparedLayout, state: ContentState = ContentState.PLAIN
    ) -> ContentId:
        """Make sure that the content exists, without counting a user; the caller links it in the same transaction.

        What is there already keeps its way of being stored and its state.
        """
        content_id = self.identify(prepared.layout)
        found = self.sound(content_id)
        if found is not None:
            self._heal(transaction, prepared, is_named=isinstance(found, Exact))
            return content_id
        content = Exact(prepared.layout, state)
        refs = self.references(content_id)
        cluster = self._clusters.represented_by(content_id) if refs.renditions else None
        if cluster is not None:
            # It was lost, and has been missed: renditions rest on it.
            content = Exact(prepared.layout, ContentState.PICTURE, cluster)
            self._clusters.add(transaction, cluster, content_id)
        self._link_chunks(transaction, prepared)
        self._write(transaction, content_id, content, refs)
        return content_id

    def succeed(self, transaction: Transaction, old_id: ContentId | None, prepared: PreparedLayout) -> ContentId:
        """Store the next state of a file that is still being written, counted for its inode in place of the old one.

        Chunks that both states name need no counting when the old one has no other user, which keeps a large file's
        steps cheap.
        """
        content_id = self.identify(prepared.layout)
        if content_id == old_id:
            return self.store_exact(transaction, prepared)
        old = None if old_id is None else self.sound(old_id)
        sole_user = (
            isinstance(old, Exact)
            and old.state is ContentState.PLAIN
            and old_id is not None
            and self.references(old_id) == ContentRefs(inodes=1)
        )
        if not sole_user or self.references(content_id) != ContentRefs():
            self.store_exact(transaction, prepared)
            self.link(transaction, content_id)
            if old_id is not None:
                self.unlink(transaction, old_id)
            return content_id
        assert isinstance(old, Exact) and old_id is not None
        before = Counter(extent.chunk for extent in old.layout.extents)
        after = Counter(extent.chunk for extent in prepared.layout.extents)
        for chunk, times in (after - before).items():
            self._link_chunk(transaction, prepared, chunk, times)
        for chunk, times in (before - after).items():
            for _ in range(times):
                self._chunks.unlink(transaction, chunk)
        self._heal(transaction, prepared)
        self._drop(transaction, old_id, old, ContentRefs(inodes=1))
        self._write(transaction, content_id, Exact(prepared.layout, ContentState.PLAIN), ContentRefs(inodes=1))
        return content_id

    def link(self, transaction: Transaction, content_id: ContentId) -> None:
        """Count one more inode."""
        refs = self.references(content_id)
        self._recount(transaction, content_id, replace(refs, inodes=refs.inodes + 1))

    def unlink(self, transaction: Transaction, content_id: ContentId) -> None:
        """Count one inode less and drop the content with its last user."""
        refs = self.references(content_id)
        if not refs.inodes:
            log.error("a content that was in use has no count")
            return
        self._recount(transaction, content_id, replace(refs, inodes=refs.inodes - 1))

    def set_state(self, transaction: Transaction, content_id: ContentId, state: ContentState) -> None:
        """Note what is known of a content that is stored exactly and belongs to no cluster."""
        content = self.get(content_id)
        assert isinstance(content, Exact)
        self._rewrite(transaction, content_id, replace(content, state=state))

    def join(self, transaction: Transaction, content_id: ContentId, cluster: ClusterId) -> None:
        """Note that a content that is stored exactly is a picture of the cluster."""
        content = self.get(content_id)
        assert isinstance(content, Exact)
        self._leave(transaction, content_id, content)
        self._rewrite(transaction, content_id, replace(content, state=ContentState.PICTURE, cluster=cluster))
        self._clusters.add(transaction, cluster, content_id)

    def become_rendition(
        self, transaction: Transaction, content_id: ContentId, rendition: Rendition, own: PreparedLayout
    ) -> None:
        """Keep a content as a rendition from now on; its exact bytes, where it had any, are given up.

        The content may be new. The representative must be stored exactly: a member is always one step from it.
        """
        if not isinstance(self.get(rendition.representative), Exact) or rendition.representative == content_id:
            raise IntegrityError("a rendition may only rest on another picture that is stored exactly")
        if self.references(content_id).renditions:
            raise IntegrityError("a picture that others rest on cannot become a rendition")
        old = self.sound(content_id)
        self._link_chunks(transaction, own)
        self._hold(transaction, rendition.representative, 1)
        if old is None:
            self._write(transaction, content_id, rendition, self.references(content_id))
        else:
            self._leave(transaction, content_id, old)
            self._rewrite(transaction, content_id, rendition)
            self._give_up(transaction, old)
        self._clusters.add(transaction, rendition.cluster, content_id)

    def become_exact(self, transaction: Transaction, content_id: ContentId, prepared: PreparedLayout) -> None:
        """Keep a rendition bit for bit again, from its exact bytes, outside any cluster.

        A content that is kept so already is healed and stays where it is: others may rest on it.
        """
        old = self.get(content_id)
        if isinstance(old, Exact):
            self._heal(transaction, prepared)
            return
        self._link_chunks(transaction, prepared)
        self._leave(transaction, content_id, old)
        self._rewrite(transaction, content_id, Exact(prepared.layout, ContentState.PLAIN))
        self._give_up(transaction, old)

    # Inside

    def _recount(self, transaction: Transaction, content_id: ContentId, refs: ContentRefs) -> None:
        content = self.sound(content_id)
        if content is None:
            if refs != ContentRefs():
                transaction.put(records.CONTENT_REFS, content_id, codec.encode_content_refs(refs))
            else:
                self._erase(transaction, content_id)
            return
        before = self.references(content_id)
        if refs != ContentRefs():
            _tally(transaction, content, before, -1)
            _tally(transaction, content, refs, 1)
            transaction.put(records.CONTENT_REFS, content_id, codec.encode_content_refs(refs))
            return
        self._leave(transaction, content_id, content)
        self._drop(transaction, content_id, content, before)
        self._give_up(transaction, content)

    def _hold(self, transaction: Transaction, content_id: ContentId, delta: int) -> None:
        refs = self.references(content_id)
        self._recount(transaction, content_id, replace(refs, renditions=refs.renditions + delta))

    def _rewrite(self, transaction: Transaction, content_id: ContentId, content: Content) -> None:
        refs = self.references(content_id)
        _tally(transaction, self.get(content_id), refs, -1)
        self._write(transaction, content_id, content, refs)

    def _write(self, transaction: Transaction, content_id: ContentId, content: Content, refs: ContentRefs) -> None:
        _tally(transaction, content, refs, 1)
        transaction.put(records.CONTENTS, content_id, codec.encode_content(content))
        transaction.put(records.CONTENT_REFS, content_id, codec.encode_content_refs(refs))
        if isinstance(content, Exact) and content.state is ContentState.UNDECIDED:
            transaction.put(records.UNDECIDED, content_id, codec.encode_mark())
        else:
            transaction.delete(records.UNDECIDED, content_id)

    def _drop(self, transaction: Transaction, content_id: ContentId, content: Content, refs: ContentRefs) -> None:
        _tally(transaction, content, refs, -1)
        self._erase(transaction, content_id)

    @staticmethod
    def _erase(transaction: Transaction, content_id: ContentId) -> None:
        for table in (records.CONTENTS, records.CONTENT_REFS, records.UNDECIDED):
            transaction.delete(table, content_id)

    def _leave(self, transaction: Transaction, content_id: ContentId, content: Content) -> None:
        if content.cluster is not None:
            self._clusters.remove(transaction, content.cluster, content_id)

    def _give_up(self, transaction: Transaction, content: Content) -> None:
        layout = content.layout if isinstance(content, Exact) else content.own
        for extent in layout.extents:
            self._chunks.unlink(transaction, extent.chunk)
        if isinstance(content, Rendition):
            lost = self.sound(content.representative) is None
            self._hold(transaction, content.representative, -1)
            if lost and not self.references(content.representative).renditions:
                # Nobody waits for it in this cluster any more.
                self._clusters.remove(transaction, content.cluster, content.representative)

    def _link_chunks(self, transaction: Transaction, prepared: PreparedLayout) -> None:
        for chunk, times in Counter(extent.chunk for extent in prepared.layout.extents).items():
            self._link_chunk(transaction, prepared, chunk, times)

    def _link_chunk(self, transaction: Transaction, prepared: PreparedLayout, chunk: ChunkId, times: int) -> None:
        for _ in range(times):
            if chunk in prepared.fresh:
                self._chunks.link(transaction, prepared.fresh[chunk])
            else:
                self._chunks.link_again(transaction, chunk)

    def _heal(self, transaction: Transaction, prepared: PreparedLayout, *, is_named: bool = False) -> None:
        """Put fresh ciphertexts in the place of damaged ones that the content, or any other, rests on."""
        for chunk in prepared.fresh.values():
            self._chunks.heal(transaction, chunk, is_named=is_named)


def _pieces(data: bytes, cuts: Sequence[int]) -> Iterator[tuple[int, memoryview]]:
    view = memoryview(data)
    for start, stop in _spans(len(data), cuts):
        yield start, view[start:stop]


def _spans(size: int, cuts: Sequence[int]) -> Iterator[tuple[int, int]]:
    bounds = sorted({0, *(cut for cut in cuts if 0 < cut < size), size})
    for start, stop in itertools.pairwise(bounds):
        for offset in range(start, stop, CHUNK_BYTES):
            yield offset, min(offset + CHUNK_BYTES, stop)


def size_in_chunks(size: int, cuts: Sequence[int] = ()) -> int:
    """Return what so many bytes, cut like this, take in the database when no part of them is stored yet."""
    return sum(stored_size(stop - start) for start, stop in _spans(size, cuts))


def is_zero(data: bytes | bytearray | memoryview) -> bool:
    """Whether all bytes are zero; such a stretch is a hole and needs no chunk."""
    return data[0] == 0 and bytes(data) == bytes(len(data))


def contributions(content: Content, refs: ContentRefs) -> dict[str, int]:
    """Return what one content adds to the running totals of the volume."""
    picture = isinstance(content, Rendition) or content.state is ContentState.PICTURE
    return {
        "pictures": refs.inodes if picture else 0,
        "renditions": int(isinstance(content, Rendition)),
        "bit_exact_renditions": int(isinstance(content, Rendition) and content.bit_exact),
        "exact_duplicates": max(0, refs.inodes - 1),
        "undecided": int(isinstance(content, Exact) and content.state is ContentState.UNDECIDED),
        "undecodable": refs.inodes if isinstance(content, Exact) and content.state is ContentState.UNDECODABLE else 0,
    }


def _tally(transaction: Transaction, content: Content, refs: ContentRefs, sign: int) -> None:
    if refs.inodes >= UNKNOWN_USERS // 2:
        # Of a damaged count only its changes are known.
        refs = ContentRefs(refs.inodes - UNKNOWN_USERS, refs.renditions)
    for name, amount in contributions(content, refs).items():
        transaction.count(name, sign * amount)
