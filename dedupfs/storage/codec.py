"""How records are laid out: one pair of functions for each kind; `records` says what the fields mean.

All integers are big-endian. A record starts with a layout version byte. `decode_…` accepts exactly the bytes that
`encode_…` writes and raises IntegrityError on all others. Pure functions, any thread.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TypeVar

from dedupfs.errors import IntegrityError
from dedupfs.model import ChunkId, ClusterId, ContentId, Differences, Fingerprint, InodeNo, Policy
from dedupfs.storage.records import (
    DIGEST_BYTES,
    ChunkRefs,
    Cluster,
    Config,
    ContentRefs,
    ContentState,
    Entry,
    Exact,
    Extent,
    Inode,
    Layout,
    Rendition,
    Unfinished,
    Xattr,
)

_LAYOUT = 1
_KEPT_DECODED = 10_000
"""Inodes and entries that are kept as objects, which are never changed: one operation asks for the same few many times,
and a listing with attributes for all of them."""
_T = TypeVar("_T")


class _Writer:
    """Appends fields to a record."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[bytes] = [bytes([_LAYOUT])]

    def pack(self, layout: str, *values: int | float) -> _Writer:
        self._parts.append(struct.pack(layout, *values))
        return self

    def fixed(self, value: bytes, length: int = DIGEST_BYTES) -> _Writer:
        if len(value) != length:
            raise ValueError(f"a field of {length} bytes was given {len(value)}")
        self._parts.append(value)
        return self

    def blob(self, value: bytes) -> _Writer:
        self._parts.append(struct.pack(">I", len(value)))
        self._parts.append(value)
        return self

    def optional(self, value: bytes | None, length: int = DIGEST_BYTES) -> _Writer:
        return self.pack(">B", 0) if value is None else self.pack(">B", 1).fixed(value, length)

    def layout(self, layout: Layout) -> _Writer:
        self.pack(">QI", layout.size, len(layout.extents))
        self._parts.extend(struct.pack(">QI", extent.offset, extent.length) + extent.chunk for extent in layout.extents)
        return self

    def done(self) -> bytes:
        return b"".join(self._parts)


class _Reader:
    """Takes fields off a record; any misfit is an IntegrityError."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        if self.unpack(">B")[0] != _LAYOUT:
            raise IntegrityError("a record has an unknown layout version")

    def take(self, length: int) -> bytes:
        end = self._at + length
        if end > len(self._data):
            raise IntegrityError("a record is cut short")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def unpack(self, layout: str) -> tuple[int, ...]:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))

    def fixed(self, length: int = DIGEST_BYTES) -> bytes:
        return self.take(length)

    def blob(self) -> bytes:
        return self.take(self.unpack(">I")[0])

    def flag(self) -> bool:
        (value,) = self.unpack(">B")
        if value > 1:
            raise IntegrityError("a record holds a truth value that is neither true nor false")
        return bool(value)

    def optional(self, length: int = DIGEST_BYTES) -> bytes | None:
        return self.fixed(length) if self.flag() else None

    def layout(self) -> Layout:
        size, count = self.unpack(">QI")
        raw = self.take(count * (12 + DIGEST_BYTES))
        extents = []
        end = 0
        for offset, length, chunk in struct.iter_unpack(f">QI{DIGEST_BYTES}s", raw):
            if offset < end or length == 0 or offset + length > size:
                raise IntegrityError("a record describes chunks out of order")
            end = offset + length
            extents.append(Extent(offset, length, ChunkId(chunk)))
        return Layout(size, tuple(extents))

    def done(self) -> None:
        if self._at != len(self._data):
            raise IntegrityError("a record holds more than its layout")


def encode_layout(layout: Layout) -> bytes:
    """Return the canonical description of a layout; content ids are made from it."""
    return _Writer().layout(layout).done()


def encode_content(content: Exact | Rendition) -> bytes:
    """Encode a record of `contents`: how a content is stored is one closed set of kinds."""
    if isinstance(content, Exact):
        return _Writer().pack(">BBQ", 1, content.state, content.cluster or 0).layout(content.layout).done()
    d = content.differences
    return (
        _Writer()
        .pack(">BQQ", 2, content.size, content.cluster)
        .fixed(content.representative)
        .blob(content.recipe)
        .layout(content.own)
        .fixed(content.digest)
        .blob(content.sketch)
        .blob(content.codecs)
        .pack(">5d", d.fine_luma, d.fine_chroma, d.coarse_luma, d.coarse_chroma, d.alpha)
        .pack(">HB", content.distance_bits, content.bit_exact)
        .done()
    )


def decode_content(data: bytes) -> Exact | Rendition:
    """Decode a record of `contents`. Raises IntegrityError."""

    def decode(reader: _Reader) -> Exact | Rendition:
        (kind,) = reader.unpack(">B")
        if kind == 1:
            state, cluster = reader.unpack(">BQ")
            return Exact(reader.layout(), _state(state), ClusterId(cluster) if cluster else None)
        if kind != 2:
            raise IntegrityError("a content is stored in an unknown way")
        size, cluster = reader.unpack(">QQ")
        representative = ContentId(reader.fixed())
        recipe, own = reader.blob(), reader.layout()
        digest, sketch, codecs = reader.fixed(), reader.blob(), reader.blob()
        differences = Differences(*struct.unpack(">5d", reader.take(40)))
        (distance_bits,) = reader.unpack(">H")
        return Rendition(
            size,
            ClusterId(cluster),
            representative,
            recipe,
            own,
            digest,
            sketch,
            codecs,
            differences,
            distance_bits,
            reader.flag(),
        )

    return _decode(data, decode)


def encode_content_refs(refs: ContentRefs) -> bytes:
    """Encode a record of `content_refs`."""
    return _Writer().pack(">QQ", refs.inodes, refs.renditions).done()


def decode_content_refs(data: bytes) -> ContentRefs:
    """Decode a record of `content_refs`. Raises IntegrityError."""
    return _decode(data, lambda reader: ContentRefs(*reader.unpack(">QQ")))


def encode_chunk_refs(refs: ChunkRefs) -> bytes:
    """Encode a record of `chunk_refs`."""
    return _Writer().pack(">QI", refs.extents, refs.stored_bytes).done()


def decode_chunk_refs(data: bytes) -> ChunkRefs:
    """Decode a record of `chunk_refs`. Raises IntegrityError."""
    return _decode(data, lambda reader: ChunkRefs(*reader.unpack(">QI")))


def encode_cluster(cluster: Cluster) -> bytes:
    """Encode a record of `clusters`."""
    return _Writer().fixed(cluster.representative).optional(cluster.fingerprint).blob(cluster.facts).done()


def decode_cluster(data: bytes) -> Cluster:
    """Decode a record of `clusters`. Raises IntegrityError."""

    def decode(reader: _Reader) -> Cluster:
        representative, fingerprint = ContentId(reader.fixed()), reader.optional()
        return Cluster(representative, None if fingerprint is None else Fingerprint(fingerprint), reader.blob())

    return _decode(data, decode)


_INODE = ">IIIQIQqqqQ"


def encode_inode(inode: Inode) -> bytes:
    """Encode a record of `inodes`."""
    return (
        _Writer()
        .pack(
            _INODE,
            inode.mode,
            inode.uid,
            inode.gid,
            inode.rdev,
            inode.nlink,
            inode.size,
            inode.atime_ns,
            inode.mtime_ns,
            inode.ctime_ns,
            inode.parent,
        )
        .optional(inode.content)
        .blob(inode.target)
        .done()
    )


@lru_cache(_KEPT_DECODED)
def decode_inode(data: bytes) -> Inode:
    """Decode a record of `inodes`. Raises IntegrityError."""

    def decode(reader: _Reader) -> Inode:
        mode, uid, gid, rdev, nlink, size, atime_ns, mtime_ns, ctime_ns, parent = reader.unpack(_INODE)
        content = reader.optional()
        return Inode(
            mode,
            uid,
            gid,
            rdev,
            nlink,
            size,
            atime_ns,
            mtime_ns,
            ctime_ns,
            parent=InodeNo(parent),
            content=None if content is None else ContentId(content),
            target=reader.blob(),
        )

    return _decode(data, decode)


def encode_entry(entry: Entry) -> bytes:
    """Encode a record of `entries`."""
    return _Writer().pack(">QI", entry.inode, entry.type_bits).blob(entry.name).done()


@lru_cache(_KEPT_DECODED)
def decode_entry(data: bytes) -> Entry:
    """Decode a record of `entries`. Raises IntegrityError."""

    def decode(reader: _Reader) -> Entry:
        inode, type_bits = reader.unpack(">QI")
        return Entry(InodeNo(inode), type_bits, reader.blob())

    return _decode(data, decode)


def encode_xattr(xattr: Xattr) -> bytes:
    """Encode a record of `xattrs`."""
    return _Writer().blob(xattr.name).blob(xattr.value).done()


def decode_xattr(data: bytes) -> Xattr:
    """Decode a record of `xattrs`. Raises IntegrityError."""
    return _decode(data, lambda reader: Xattr(reader.blob(), reader.blob()))


def encode_unfinished(unfinished: Unfinished) -> bytes:
    """Encode a record of `unfinished`."""
    writer = _Writer().pack(">I", len(unfinished.entry_keys))
    for key in unfinished.entry_keys:
        writer.blob(key)
    return writer.done()


def decode_unfinished(data: bytes) -> Unfinished:
    """Decode a record of `unfinished`. Raises IntegrityError."""

    def decode(reader: _Reader) -> Unfinished:
        (count,) = reader.unpack(">I")
        return Unfinished(tuple(reader.blob() for _ in range(count)))

    return _decode(data, decode)


def encode_number(number: int) -> bytes:
    """Encode a count, or the next free number."""
    return _Writer().pack(">Q", number).done()


def decode_number(data: bytes) -> int:
    """Decode a count, or the next free number. Raises IntegrityError."""
    return _decode(data, lambda reader: reader.unpack(">Q")[0])


def encode_mark() -> bytes:
    """Encode a record that only has to be there."""
    return _Writer().done()


def decode_mark(data: bytes) -> None:
    """Check a record that only has to be there. Raises IntegrityError."""
    _decode(data, lambda reader: None)


def encode_config(config: Config) -> bytes:
    """Encode the volume's configuration."""
    return _Writer().blob(config.policy.value.encode()).blob(config.label.encode()).done()


def decode_config(data: bytes) -> Config:
    """Decode the volume's configuration. Raises IntegrityError."""

    def decode(reader: _Reader) -> Config:
        try:
            return Config(Policy(reader.blob().decode()), reader.blob().decode())
        except ValueError as exc:
            raise IntegrityError("the volume's configuration is not readable") from exc

    return _decode(data, decode)


def encode_policy(policy: Policy) -> bytes:
    """Encode the name of a policy."""
    return _Writer().blob(policy.value.encode()).done()


def decode_policy(data: bytes) -> Policy:
    """Decode the name of a policy. Raises IntegrityError."""

    def decode(reader: _Reader) -> Policy:
        try:
            return Policy(reader.blob().decode())
        except ValueError as exc:
            raise IntegrityError("there is no such policy") from exc

    return _decode(data, decode)


def encode_counters(counters: Mapping[str, int]) -> bytes:
    """Encode the running totals, in the order of their names."""
    writer = _Writer().pack(">I", len(counters))
    for name, value in sorted(counters.items()):
        writer.blob(name.encode()).pack(">q", value)
    return writer.done()


def decode_counters(data: bytes) -> dict[str, int]:
    """Decode the running totals. Raises IntegrityError."""

    def decode(reader: _Reader) -> dict[str, int]:
        (count,) = reader.unpack(">I")
        counters: dict[str, int] = {}
        previous = ""
        for number in range(count):
            try:
                name = reader.blob().decode()
            except ValueError as exc:
                raise IntegrityError("the name of a running total is not readable") from exc
            if number and name <= previous:
                raise IntegrityError("the running totals are out of order")
            (counters[name],) = reader.unpack(">q")
            previous = name
        return counters

    return _decode(data, decode)


def _state(value: int) -> ContentState:
    try:
        return ContentState(value)
    except ValueError as exc:
        raise IntegrityError("a content is in an unknown state") from exc


def _decode(data: bytes, decode: Callable[[_Reader], _T]) -> _T:
    reader = _Reader(data)
    value = decode(reader)
    reader.done()
    return value
