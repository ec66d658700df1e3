"""A spool is an array of bytes with a large base: whatever is written, cut and stored, it reads like one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedupfs.errors import IntegrityError
from dedupfs.filesystem import spool as spools
from dedupfs.filesystem.spool import EmptySource, LayoutSource, Spool
from dedupfs.model import ChunkId
from dedupfs.storage.chunks import PreparedChunk
from dedupfs.storage.contents import PreparedLayout
from dedupfs.storage.records import Extent, Layout

BLOCK = 16
"""Stands in for CHUNK_BYTES, so that few bytes make many blocks."""

MAX_SIZE = 5 * BLOCK


class PlainContents:
    """Chunks in a dictionary, in the clear."""

    def __init__(self) -> None:
        self.chunks: dict[ChunkId, bytes] = {}
        self.prepared = 0

    def prepare_chunk(self, data: bytes | bytearray | memoryview) -> PreparedChunk:
        plaintext = bytes(data)
        self.prepared += 1
        self.chunks[ChunkId(plaintext)] = plaintext
        return PreparedChunk(ChunkId(plaintext), plaintext, plaintext)

    def read(self, layout: Layout, offset: int, size: int) -> bytes:
        data = bytearray(layout.size)
        for extent in layout.extents:
            data[extent.offset : extent.end] = self.chunks[extent.chunk]
        return bytes(data[offset : offset + size])

    def cut(self, data: bytes, at: int) -> Layout:
        """Store bytes in chunks that begin anew at an offset, as a picture's do."""
        bounds = sorted({0, at, len(data)} | set(range(at, len(data), BLOCK)) | set(range(0, at, BLOCK)))
        pieces = [(start, data[start:stop]) for start, stop in pairwise(bounds)]
        for _, piece in pieces:
            self.chunks[ChunkId(piece)] = piece
        extents = tuple(Extent(start, len(piece), ChunkId(piece)) for start, piece in pieces if any(piece))
        return Layout(len(data), extents)


@dataclass(frozen=True)
class Write:
    offset: int
    data: bytes


@dataclass(frozen=True)
class Truncate:
    size: int


@dataclass(frozen=True)
class Clear:
    offset: int
    length: int


@dataclass(frozen=True)
class Save:
    pass


Step = Write | Truncate | Clear | Save
DATA = st.binary(min_size=1, max_size=3 * BLOCK) | st.integers(1, 3 * BLOCK).map(bytes)
STEPS = st.lists(
    st.builds(Write, st.integers(0, MAX_SIZE), DATA)
    | st.builds(Truncate, st.integers(0, MAX_SIZE))
    | st.builds(Clear, st.integers(0, MAX_SIZE), st.integers(1, MAX_SIZE))
    | st.just(Save()),
    max_size=12,
)


@pytest.fixture(autouse=True, scope="module")
def _small_blocks() -> object:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(spools, "CHUNK_BYTES", BLOCK)
        yield


@given(base=st.binary(max_size=MAX_SIZE), at=st.integers(0, MAX_SIZE), steps=STEPS)
def test_a_spool_reads_like_an_array(base: bytes, at: int, steps: list[Step]) -> None:
    contents = PlainContents()
    spool = Spool(LayoutSource(contents, contents.cut(base, min(at, len(base)))) if base else EmptySource())  # type: ignore[arg-type]
    wanted = bytearray(base)
    for step in steps:
        _apply(step, spool, wanted, contents)
        assert spool.size == len(wanted)
        assert spool.data() == wanted
        assert spool.memory_bytes % BLOCK == 0
    for offset in range(0, len(wanted) + 1, 7):
        assert spool.read(offset, 20) == wanted[offset : offset + 20]
    layout = _saved(spool, contents).layout
    assert layout.size == len(wanted)
    assert contents.read(layout, 0, layout.size) == wanted
    assert list(layout.extents) == sorted(layout.extents, key=lambda extent: extent.offset)
    assert all(one.end <= two.offset for one, two in pairwise(layout.extents))


def _apply(step: Step, spool: Spool, wanted: bytearray, contents: PlainContents) -> None:
    if isinstance(step, Write):
        spool.write(step.offset, step.data)
        if step.offset > len(wanted):
            wanted.extend(bytes(step.offset - len(wanted)))
        wanted[step.offset : step.offset + len(step.data)] = step.data
    elif isinstance(step, Truncate):
        spool.truncate(step.size)
        wanted[:] = wanted[: step.size] + bytes(max(0, step.size - len(wanted)))
    elif isinstance(step, Clear):
        spool.clear(step.offset, step.length)
        cleared = wanted[step.offset : step.offset + step.length]
        wanted[step.offset : step.offset + step.length] = bytes(len(cleared))
    else:
        spool.rebase(LayoutSource(contents, _saved(spool, contents).layout))  # type: ignore[arg-type]
        assert spool.memory_bytes == 0


def _saved(spool: Spool, contents: PlainContents) -> PreparedLayout:
    prepare: Callable[..., PreparedLayout] = spool.prepare
    return prepare(contents)


def test_only_what_was_written_is_sealed_again() -> None:
    contents = PlainContents()
    base = bytes(range(1, 81))
    spool = Spool(LayoutSource(contents, contents.cut(base, 0)))  # type: ignore[arg-type]
    spool.write(20, b"xx")
    prepared = _saved(spool, contents)
    assert contents.prepared == 1
    assert set(prepared.fresh) == {ChunkId(base[16:20] + b"xx" + base[22:32])}


def test_a_stretch_of_zero_bytes_takes_no_chunk() -> None:
    contents = PlainContents()
    spool = Spool(EmptySource())
    spool.write(0, bytes(5 * BLOCK))
    spool.truncate(100 * BLOCK)
    assert _saved(spool, contents) == PreparedLayout(Layout(100 * BLOCK, ()), {})


def test_clearing_costs_what_a_file_holds_and_not_what_it_is_long() -> None:
    contents = PlainContents()
    spool = Spool(LayoutSource(contents, contents.cut(bytes(range(1, 81)), 0)))  # type: ignore[arg-type]
    spool.truncate(1 << 50)
    spool.write(1 << 40, b"far")
    spool.clear(3, 1 << 50)
    assert spool.memory_bytes <= BLOCK
    assert spool.read(0, 80) == b"\1\2\3" + bytes(77)
    assert spool.read(1 << 40, 3) == bytes(3)
    layout = _saved(spool, contents).layout
    assert layout == Layout(1 << 50, (Extent(0, BLOCK, ChunkId(b"\1\2\3" + bytes(BLOCK - 3))),))


def test_a_cut_through_a_damaged_chunk_fails_at_once() -> None:
    """Otherwise the file could never be stored."""
    contents = PlainContents()
    layout = contents.cut(bytes(range(1, 81)), 0)
    del contents.chunks[layout.extents[2].chunk]
    spool = Spool(DamagedSource(contents, layout))  # type: ignore[arg-type]
    with pytest.raises(IntegrityError):
        spool.truncate(2 * BLOCK + 5)
    assert spool.size == 80
    spool.truncate(2 * BLOCK)
    assert _saved(spool, contents).layout.size == 2 * BLOCK


class DamagedSource(LayoutSource):
    """Tells of a missing chunk as a store does."""

    def read(self, offset: int, size: int) -> bytes:
        try:
            return super().read(offset, size)
        except KeyError as exc:
            raise IntegrityError("a chunk is missing") from exc
