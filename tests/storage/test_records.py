"""A record decodes to what was encoded, and no two encodings mean the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedupfs.errors import IntegrityError
from dedupfs.model import ChunkId, ClusterId, ContentId, Differences, Fingerprint, InodeNo, Policy
from dedupfs.storage import codec, records
from dedupfs.storage.records import (
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

u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
i64 = st.integers(-(2**63), 2**63 - 1)
digests = st.binary(min_size=32, max_size=32)
blobs = st.binary(max_size=40)
levels = st.floats(allow_nan=False)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    end = 0
    extents = []
    for gap, length in draw(st.lists(st.tuples(st.integers(0, 2**40), st.integers(1, 2**32 - 1)), max_size=4)):
        extents.append(Extent(end + gap, length, ChunkId(draw(digests))))
        end += gap + length
    return Layout(end + draw(st.integers(0, 2**40)), tuple(extents))


exact = st.builds(Exact, layouts(), st.sampled_from(ContentState), st.none() | st.integers(1, 2**64 - 1).map(ClusterId))
renditions = st.builds(
    Rendition,
    size=u64,
    cluster=u64.map(ClusterId),
    representative=digests.map(ContentId),
    recipe=blobs,
    own=layouts(),
    digest=digests,
    sketch=blobs,
    codecs=blobs,
    differences=st.builds(Differences, levels, levels, levels, levels, levels),
    distance_bits=u16,
    bit_exact=st.booleans(),
)
inodes = st.builds(
    Inode,
    mode=u32,
    uid=u32,
    gid=u32,
    rdev=u64,
    nlink=u32,
    size=u64,
    atime_ns=i64,
    mtime_ns=i64,
    ctime_ns=i64,
    parent=u64.map(InodeNo),
    content=st.none() | digests.map(ContentId),
    target=blobs,
)


@dataclass(frozen=True)
class Kind:
    """One kind of record."""

    values: st.SearchStrategy[Any]
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


KINDS: Mapping[str, Kind] = {
    "exact": Kind(exact, codec.encode_content, codec.decode_content),
    "rendition": Kind(renditions, codec.encode_content, codec.decode_content),
    "content refs": Kind(st.builds(ContentRefs, u64, u64), codec.encode_content_refs, codec.decode_content_refs),
    "chunk refs": Kind(st.builds(ChunkRefs, u64, u32), codec.encode_chunk_refs, codec.decode_chunk_refs),
    "cluster": Kind(
        st.builds(Cluster, digests.map(ContentId), st.none() | digests.map(Fingerprint), blobs),
        codec.encode_cluster,
        codec.decode_cluster,
    ),
    "inode": Kind(inodes, codec.encode_inode, codec.decode_inode),
    "entry": Kind(st.builds(Entry, u64.map(InodeNo), u32, blobs), codec.encode_entry, codec.decode_entry),
    "xattr": Kind(st.builds(Xattr, blobs, blobs), codec.encode_xattr, codec.decode_xattr),
    "unfinished": Kind(
        st.builds(Unfinished, st.lists(blobs, max_size=4).map(tuple)),
        codec.encode_unfinished,
        codec.decode_unfinished,
    ),
    "number": Kind(u64, codec.encode_number, codec.decode_number),
    "mark": Kind(st.none(), lambda _: codec.encode_mark(), codec.decode_mark),
    "config": Kind(
        st.builds(Config, st.sampled_from(Policy), st.text(max_size=20)), codec.encode_config, codec.decode_config
    ),
    "counters": Kind(
        st.dictionaries(st.text(max_size=8), i64, max_size=5), codec.encode_counters, codec.decode_counters
    ),
}

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@every_kind
@given(data=st.data())
def test_decodes_to_what_was_encoded(kind: Kind, data: st.DataObject) -> None:
    value = data.draw(kind.values)
    encoded = kind.encode(value)
    assert kind.decode(encoded) == value


@every_kind
@given(data=st.data())
def test_changed_bytes_re_encode_identically_or_are_damage(kind: Kind, data: st.DataObject) -> None:
    """Start from a record, so that the change is not always in the first byte."""
    encoded = bytearray(kind.encode(data.draw(kind.values)))
    for at in data.draw(st.lists(st.integers(0, len(encoded) - 1), min_size=1, max_size=3)):
        encoded[at] = data.draw(st.integers(0, 255))
    unambiguous(kind, bytes(encoded))


@every_kind
@given(data=st.binary(max_size=120))
def test_arbitrary_bytes_re_encode_identically_or_are_damage(kind: Kind, data: bytes) -> None:
    unambiguous(kind, data)
    unambiguous(kind, b"\1" + data)


@every_kind
@given(data=st.data())
def test_a_record_cut_short_or_continued_is_damage(kind: Kind, data: st.DataObject) -> None:
    encoded = kind.encode(data.draw(kind.values))
    for wrong in (encoded[: data.draw(st.integers(0, len(encoded) - 1))], encoded + data.draw(st.binary(min_size=1))):
        with pytest.raises(IntegrityError):
            kind.decode(wrong)


def unambiguous(kind: Kind, encoded: bytes) -> None:
    try:
        value = kind.decode(encoded)
    except IntegrityError:
        return
    assert kind.encode(value) == encoded


@pytest.mark.parametrize(
    "extents",
    [
        [(0, 0)],
        [(0, 10), (5, 10)],
        [(50, 10), (0, 10)],
        [(0, 101)],
        [(95, 10)],
    ],
    ids=["empty", "overlapping", "descending", "longer than the whole", "past the end"],
)
def test_extents_that_make_no_sense_are_damage(extents: list[tuple[int, int]]) -> None:
    layout = Layout(100, tuple(Extent(offset, length, ChunkId(bytes(32))) for offset, length in extents))
    with pytest.raises(IntegrityError):
        codec.decode_content(codec.encode_content(Exact(layout, ContentState.PLAIN)))


def test_totals_out_of_order_are_damage() -> None:
    one = codec.encode_counters({"a": 1})[5:]
    two = codec.encode_counters({"b": 2})[5:]
    head = codec.encode_counters({"a": 1, "b": 2})[:5]
    assert codec.decode_counters(head + one + two) == {"a": 1, "b": 2}
    for wrong in (head + two + one, head + one + one):
        with pytest.raises(IntegrityError):
            codec.decode_counters(wrong)


def test_every_place_is_another() -> None:
    tables = records.TABLES
    places = {records.place(table, key) for table in tables for key in (b"", b"\0", b"a", b"a\0")}
    assert len(places) == 4 * len(tables)
    assert len({table.name for table in tables}) == len(tables)


def test_numbers_sort_as_their_keys() -> None:
    numbers = [0, 1, 255, 256, 2**32, 2**64 - 1]
    assert sorted(numbers, key=records.number_key) == numbers


GOLDEN = {
    "exact": (
        Exact(Layout(300, (Extent(10, 5, ChunkId(b"c" * 32)),)), ContentState.PICTURE, ClusterId(7)),
        "01010200000000000000070000" + "00000000012c00000001000000000000000a00000005" + "63" * 32,
    ),
    "content refs": (ContentRefs(3, 2), "0100000000000000030000000000000002"),
    "chunk refs": (ChunkRefs(3, 4080), "01000000000000000300000ff0"),
    "cluster": (
        Cluster(ContentId(b"r" * 32), Fingerprint(b"f" * 32), b"facts"),
        "01" + "72" * 32 + "01" + "66" * 32 + "00000005" + b"facts".hex(),
    ),
    "entry": (Entry(InodeNo(9), 0o100000, b"a.jpg"), "0100000000000000090000800000000005" + b"a.jpg".hex()),
    "config": (
        Config(Policy.VERIFIED, "album"),
        "0100000008" + b"verified".hex() + "00000005" + b"album".hex(),
    ),
    "counters": ({"files": -1}, "010000000100000005" + b"files".hex() + "ff" * 8),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_layouts_are_what_older_volumes_hold(name: str) -> None:
    value, encoded = GOLDEN[name]
    assert KINDS[name].encode(value).hex() == encoded
