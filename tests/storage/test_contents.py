"""Contents come, are shared, change the way they are kept and go, and take along what they held.

The `tree` fixture ends every test with a whole `check` of the volume, with data.
"""

from __future__ import annotations

import itertools
import os
import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedupfs.crypto.keys import Keyring
from dedupfs.errors import IntegrityError
from dedupfs.model import ChunkId, ContentId, Fingerprint
from dedupfs.storage import records
from dedupfs.storage.chunks import CHUNK_BYTES, Chunks
from dedupfs.storage.clusters import Clusters
from dedupfs.storage.contents import Contents, PreparedLayout
from dedupfs.storage.records import (
    BANDS,
    CHUNKS,
    CLUSTERS,
    ContentRefs,
    ContentState,
    Exact,
    Extent,
    Layout,
    Rendition,
    Table,
)
from dedupfs.storage.similarity import SimilarityIndex
from dedupfs.storage.store import Store
from dedupfs.storage.volume import Volume
from tests.storage.engines import MemoryEngine
from tests.storage.tree import Tree, problems

FINGERPRINT = Fingerprint(bytes(range(32)))


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


# Exact contents


@pytest.mark.parametrize("size", [1, 100, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 77])
def test_a_file_is_read_back(tree: Tree, size: int) -> None:
    data = noise(size)
    tree.add(b"a", data)
    assert tree.read(b"a") == data
    tree.volume.store.commit()
    assert tree.read(b"a") == data


def test_equal_files_are_one_content(tree: Tree) -> None:
    data = noise(CHUNK_BYTES + 5)
    content = tree.add(b"a", data)
    stored = tree.volume.store.counters["stored_bytes"]
    assert tree.add(b"b", data) == content
    assert tree.volume.contents.references(content) == ContentRefs(inodes=2)
    assert tree.volume.store.counters["stored_bytes"] == stored
    assert tree.volume.store.counters["exact_duplicates"] == 1
    tree.remove(b"a")
    assert tree.read(b"b") == data
    tree.remove(b"b")
    assert empty(tree)


def test_files_share_chunks(tree: Tree) -> None:
    data = noise(2 * CHUNK_BYTES)
    tree.add(b"a", data)
    tree.add(b"b", data[:CHUNK_BYTES])
    tree.add(b"c", data[CHUNK_BYTES:] * 3)
    assert tree.volume.store.counters["chunks"] == 2
    tree.remove(b"a")
    assert (tree.read(b"b"), tree.read(b"c")) == (data[:CHUNK_BYTES], data[CHUNK_BYTES:] * 3)
    tree.remove(b"b")
    assert tree.volume.store.counters["chunks"] == 1
    tree.remove(b"c")
    assert empty(tree)


def test_zero_bytes_need_no_chunk(tree: Tree) -> None:
    data = bytes(2 * CHUNK_BYTES) + noise(10) + bytes(CHUNK_BYTES)
    tree.add(b"holes", data)
    tree.add(b"all zero", bytes(5))
    assert tree.volume.store.counters["chunks"] == 1
    assert tree.read(b"holes") == data
    assert tree.read(b"all zero") == bytes(5)


def test_contents_of_equal_chunks_and_other_lengths_differ(tree: Tree) -> None:
    assert len({tree.add(b"%d" % size, bytes(size)) for size in (1, 2, 3)}) == 3


def test_cuts_keep_header_and_image_apart(tree: Tree) -> None:
    image = noise(CHUNK_BYTES + 1000)
    one, two = noise(50, 1) + image, noise(700, 2) + image
    tree.add(b"one", one, cuts=(50,))
    before = tree.volume.store.counters["chunks"]
    tree.add(b"two", two, cuts=(700,))
    assert tree.volume.store.counters["chunks"] == before + 1
    assert (tree.read(b"one"), tree.read(b"two")) == (one, two)


def test_pieces_are_cut_where_asked_and_at_every_full_chunk(tree: Tree) -> None:
    data = noise(3 * CHUNK_BYTES)
    layout = tree.volume.contents.describe(data, (0, 10, 10, CHUNK_BYTES, len(data), len(data) + 1))
    bounds = [(extent.offset, extent.end) for extent in layout.extents]
    starts = [0, 10, CHUNK_BYTES, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES]
    assert bounds == list(itertools.pairwise(starts))


@pytest.mark.parametrize("cuts", [(), (7,), (7, 5000)])
def test_describe_foretells_prepare(tree: Tree, cuts: tuple[int, ...]) -> None:
    data = noise(CHUNK_BYTES + 9) + bytes(CHUNK_BYTES)
    assert tree.volume.contents.describe(data, cuts) == tree.volume.contents.prepare(data, cuts).layout


@pytest.mark.parametrize("cuts", [(), (7,), (7, 5000)])
def test_what_was_described_is_not_digested_again(
    tree: Tree, cuts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = tree.volume.contents
    data = noise(CHUNK_BYTES + 9) + bytes(CHUNK_BYTES) + noise(9)
    described = contents.describe(data, cuts)
    wanted = contents.prepare(data, cuts)
    monkeypatch.setattr(Chunks, "identify", lambda *_: pytest.fail("a chunk is digested a second time"))
    assert contents.prepare(data, cuts, described) == wanted


def test_a_content_without_a_count_hinders_nobody(tree: Tree) -> None:
    content = tree.add(b"a", b"text")
    tree.remove(b"a")
    with tree.volume.store.transaction() as transaction:
        tree.volume.contents.unlink(transaction, content)


# Reading


@st.composite
def sparse_files(draw: st.DrawFn) -> list[tuple[int, bytes]]:
    """Gaps and pieces, one after the other."""
    return draw(st.lists(st.tuples(st.integers(0, 20), st.binary(max_size=20)), min_size=1, max_size=6))


@given(sparse_files(), st.integers(0, 20), st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=8))
def test_reads_are_slices(pieces: list[tuple[int, bytes]], tail: int, reads: list[tuple[int, int]]) -> None:
    contents = contents_in_memory()
    whole = bytearray()
    extents = []
    with contents._store.transaction() as transaction:
        for gap, data in pieces:
            whole += bytes(gap)
            if data:
                prepared = contents.prepare_chunk(data)
                contents._chunks.link(transaction, prepared)
                extents.append(Extent(len(whole), len(data), prepared.id))
            whole += data
    whole += bytes(tail)
    layout = Layout(len(whole), tuple(extents))
    assert contents.read_all(layout) == whole
    for offset, size in reads:
        assert contents.read(layout, offset, size) == whole[offset : offset + size]
    contents._store.close()


def test_reads_across_full_chunks_are_slices(tree: Tree) -> None:
    data = noise(3 * CHUNK_BYTES + 100)
    tree.add(b"a", data)
    layout = tree.volume.contents.describe(data)
    for offset in (0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 5, len(data) - 1, len(data), len(data) + 1):
        for size in (0, 1, 131072, CHUNK_BYTES + 2, len(data)):
            assert tree.volume.contents.read(layout, offset, size) == data[offset : offset + size]


def test_a_chunk_shorter_than_its_extent_is_damage(tree: Tree) -> None:
    tree.add(b"a", b"text")
    chunk = tree.volume.chunks.identify(b"text")
    with pytest.raises(IntegrityError):
        tree.volume.contents.read_all(Layout(5, (Extent(0, 5, chunk),)))


def test_a_missing_content_is_damage(tree: Tree) -> None:
    content = tree.add(b"a", b"text")
    tree.remove(b"a")
    assert tree.volume.contents.find(content) is None
    with pytest.raises(IntegrityError):
        tree.volume.contents.get(content)


# The steps of a file that is being written


def test_a_growing_file_leaves_its_earlier_states_behind(tree: Tree) -> None:
    data = noise(5 * CHUNK_BYTES)
    tree.add(b"a", data[:CHUNK_BYTES])
    for chunks in range(2, 6):
        tree.write(b"a", data[: chunks * CHUNK_BYTES])
        assert problems(tree.volume) == []
    assert tree.read(b"a") == data
    assert len(tree.volume.store.keys(records.CONTENTS)) == 1
    tree.remove(b"a")
    assert empty(tree)


def test_a_state_may_repeat_and_drop_chunks(tree: Tree) -> None:
    a, b = noise(CHUNK_BYTES, 1), noise(CHUNK_BYTES, 2)
    tree.add(b"f", a)
    for data in (a + a + b, b + a, a + b + b, b, a):
        tree.write(b"f", data)
        assert tree.read(b"f") == data
        assert problems(tree.volume) == []
    assert tree.volume.store.counters["chunks"] == 1


def test_a_state_that_another_file_shares_stays_for_it(tree: Tree) -> None:
    tree.add(b"a", b"first")
    tree.add(b"b", b"first")
    tree.write(b"a", b"second")
    assert (tree.read(b"a"), tree.read(b"b")) == (b"second", b"first")
    tree.write(b"b", b"second")
    assert tree.volume.store.counters["exact_duplicates"] == 1
    assert len(tree.volume.store.keys(records.CONTENTS)) == 1


def test_a_step_that_changes_nothing_counts_nothing(tree: Tree) -> None:
    content = tree.add(b"a", b"text")
    assert tree.write(b"a", b"text") == content
    assert tree.volume.contents.references(content) == ContentRefs(inodes=1)


def test_a_picture_that_is_written_to_leaves_its_cluster(tree: Tree) -> None:
    tree.found_cluster(tree.add(b"a", b"picture"), FINGERPRINT)
    tree.write(b"a", b"something else")
    assert tree.volume.store.keys(CLUSTERS) == tree.volume.store.keys(BANDS) == []


@pytest.mark.parametrize("how", ["a second file", "the same file", "a longer file", "store_exact"])
def test_writing_the_same_bytes_again_heals_them(tree: Tree, how: str) -> None:
    data = noise(CHUNK_BYTES)
    tree.add(b"a", data)
    chunk = tree.volume.chunks.identify(data)
    damage(tree, chunk)
    if how == "a second file":
        tree.add(b"b", b"other")
        tree.write(b"b", data)
    elif how == "the same file":
        tree.write(b"a", data)
    elif how == "a longer file":
        tree.write(b"a", data + b"more")
    else:
        tree.add(b"b", data)
    tree.volume.store.commit()
    assert tree.volume.chunks.read(chunk) == data


# States


def test_an_undecided_content_is_listed_until_it_is_decided(tree: Tree) -> None:
    content = tree.add(b"a", b"picture")
    tree.set_state(content, ContentState.UNDECIDED)
    assert tree.volume.contents.undecided() == [content]
    assert tree.volume.store.counters["undecided"] == 1
    assert problems(tree.volume) == []
    tree.set_state(content, ContentState.UNDECODABLE)
    assert tree.volume.contents.undecided() == []
    counters = tree.volume.store.counters
    assert (counters["undecided"], counters["undecodable"]) == (0, 1)


def test_an_undecided_content_that_goes_is_no_longer_listed(tree: Tree) -> None:
    tree.set_state(tree.add(b"a", b"picture"), ContentState.UNDECIDED)
    tree.remove(b"a")
    assert tree.volume.contents.undecided() == []


# Clusters and renditions


def test_a_rendition_gives_up_its_bytes_and_holds_its_representative(tree: Tree) -> None:
    base, copy = tree.add(b"base", noise(5000, 1)), tree.add(b"copy", noise(6000, 2))
    tree.found_cluster(base, FINGERPRINT)
    tree.make_rendition(copy, base)
    assert problems(tree.volume) == []
    stored = tree.volume.contents.get(copy)
    assert isinstance(stored, Rendition) and tree.volume.contents.read_all(stored.own) == b"own metadata"
    assert tree.volume.contents.references(base) == ContentRefs(inodes=1, renditions=1)
    assert len(tree.volume.store.keys(CHUNKS)) == 2
    counters = tree.volume.store.counters
    assert [counters[name] for name in ("pictures", "clusters", "renditions", "bit_exact_renditions")] == [2, 1, 1, 1]
    tree.remove(b"base")
    assert problems(tree.volume) == []
    assert tree.volume.contents.references(base) == ContentRefs(renditions=1)
    tree.remove(b"copy")
    assert empty(tree)


def test_the_representative_may_go_after_its_last_rendition(tree: Tree) -> None:
    base, copy = tree.add(b"base", noise(5000, 1)), tree.add(b"copy", noise(6000, 2))
    tree.found_cluster(base, FINGERPRINT)
    tree.make_rendition(copy, base)
    tree.remove(b"copy")
    assert tree.volume.contents.references(base) == ContentRefs(inodes=1)
    assert problems(tree.volume) == []
    tree.remove(b"base")
    assert empty(tree)


def test_a_rendition_can_be_new(tree: Tree) -> None:
    base = tree.add(b"base", noise(5000))
    tree.found_cluster(base, FINGERPRINT)
    contents = tree.volume.contents
    copy = contents.identify(contents.describe(b"never stored"))
    own = contents.prepare(b"")
    with tree.volume.store.transaction() as transaction:
        contents.become_rendition(transaction, copy, tree.rendition(base, base), own)
        tree.enter(transaction, b"copy", copy, 5000)
    assert contents.references(copy) == ContentRefs(inodes=1)


def test_renditions_do_not_chain(tree: Tree) -> None:
    base, copy, other = (tree.add(name, noise(5000, len(name))) for name in (b"a", b"bb", b"ccc"))
    tree.found_cluster(base, FINGERPRINT)
    tree.make_rendition(copy, base)
    with pytest.raises(IntegrityError):
        tree.make_rendition(other, copy)
    with pytest.raises(IntegrityError):
        tree.make_rendition(base, base)
    tree.found_cluster(other, None)
    with pytest.raises(IntegrityError):
        tree.make_rendition(base, other)


def test_promotion_moves_a_whole_cluster(tree: Tree) -> None:
    """As ingest does it: a new cluster, every member at one step from the newcomer, the old representative last."""
    old, copy, new = (tree.add(name, noise(5000, len(name))) for name in (b"a", b"bb", b"ccc"))
    first = tree.found_cluster(old, FINGERPRINT)
    tree.make_rendition(copy, old)
    with tree.volume.store.transaction():
        second = tree.found_cluster(new, FINGERPRINT)
        for member in (copy, old):
            tree.make_rendition(member, new)
    assert tree.volume.clusters.find(first) is None
    assert set(tree.volume.clusters.members(second)) == {old, copy, new}
    assert tree.volume.contents.references(new) == ContentRefs(inodes=1, renditions=2)
    assert tree.volume.clusters.index.lookup(FINGERPRINT) == [(second, 0)]


def test_the_heir_of_a_representative_is_a_picture_stored_exactly(tree: Tree) -> None:
    """The same coded image under other metadata joins the cluster and stays when the representative goes."""
    image = noise(5000)
    base = tree.add(b"base", b"head 1" + image, cuts=(6,))
    twins = [tree.add(name, name + image, cuts=(6,)) for name in (b"head 2", b"head 3")]
    cluster = tree.found_cluster(base, FINGERPRINT)
    with tree.volume.store.transaction() as transaction:
        for twin in twins:
            tree.volume.contents.join(transaction, twin, cluster)
    tree.remove(b"base")
    heir = tree.volume.clusters.get(cluster).representative
    assert heir == min(twins)
    assert problems(tree.volume) == []
    assert tree.volume.clusters.index.lookup(FINGERPRINT) == [(cluster, 0)]
    tree.remove(b"head 2")
    tree.remove(b"head 3")
    assert empty(tree)


def test_a_rendition_becomes_exact_again(tree: Tree) -> None:
    data = noise(6000, 2)
    base, copy = tree.add(b"base", noise(5000, 1)), tree.add(b"copy", data)
    tree.found_cluster(base, FINGERPRINT)
    tree.make_rendition(copy, base)
    with tree.volume.store.transaction() as transaction:
        tree.volume.contents.become_exact(transaction, copy, tree.volume.contents.prepare(data))
    assert tree.read(b"copy") == data
    assert tree.volume.contents.references(base) == ContentRefs(inodes=1)
    assert tree.volume.contents.get(copy) == Exact(tree.volume.contents.describe(data), ContentState.PLAIN)


def test_a_representative_that_becomes_exact_again_is_healed_and_stays(tree: Tree) -> None:
    data = noise(5000, 1)
    base, copy = tree.add(b"base", data), tree.add(b"copy", noise(6000, 2))
    cluster = tree.found_cluster(base, FINGERPRINT)
    tree.make_rendition(copy, base)
    damage(tree, tree.volume.chunks.identify(data))
    with tree.volume.store.transaction() as transaction:
        tree.volume.contents.become_exact(transaction, base, tree.volume.contents.prepare(data))
    assert tree.volume.clusters.get(cluster).representative == base


# Whole lives


def test_many_random_lives_leave_a_sound_volume(tree: Tree) -> None:
    """Files come, change, become renditions and go in random order; the volume is sound at every tenth step."""
    rng = random.Random(7)
    pool = [noise(size, size) for size in (1, 300, 5000, CHUNK_BYTES, CHUNK_BYTES + 7)]
    clock = 0
    for step in range(150):
        clock += 1
        name = b"%d" % rng.randrange(8)
        if name not in tree.inodes:
            tree.add(name, rng.choice(pool) + rng.choice(pool), cuts=(rng.randrange(400),))
            continue
        content = tree.volume.metadata.inode(tree.inodes[name]).content
        assert content is not None
        action = rng.randrange(4)
        if action == 0:
            tree.remove(name)
        elif action == 1:
            tree.write(name, rng.choice(pool) + rng.choice(pool))
        else:
            decide(tree, rng, content)
        if step % 10 == 0:
            assert problems(tree.volume) == []
    for name in list(tree.inodes):
        tree.remove(name)
    assert empty(tree)


def decide(tree: Tree, rng: random.Random, content: ContentId) -> None:
    """Make a content that is no picture yet a cluster of its own or a rendition of another picture."""
    stored = tree.volume.contents.get(content)
    if stored.cluster is not None:
        return
    representatives = [tree.volume.clusters.get(cluster).representative for cluster in tree.volume.clusters.all()]
    if representatives and rng.random() < 0.7:
        tree.make_rendition(content, rng.choice(representatives), own=rng.choice([b"", b"own", b"other"]))
    else:
        tree.found_cluster(content, Fingerprint(rng.randbytes(32)))


def test_a_layout_put_together_by_the_caller(tree: Tree) -> None:
    """As large files are stored: chunks that are in use already are named without their bytes."""
    contents = tree.volume.contents
    tree.add(b"a", noise(CHUNK_BYTES, 1))
    known = contents.describe(noise(CHUNK_BYTES, 1)).extents[0]
    more = contents.prepare_chunk(bytearray(noise(100, 2)))
    layout = Layout(CHUNK_BYTES + 300, (known, Extent(CHUNK_BYTES + 200, 100, more.id)))
    old = tree.volume.metadata.inode(tree.inodes[b"a"]).content
    with tree.volume.store.transaction() as transaction:
        new = contents.succeed(transaction, old, PreparedLayout(layout, {more.id: more}))
        contents.link(transaction, new)
        contents.unlink(transaction, new)
    assert contents.read_all(layout) == noise(CHUNK_BYTES, 1) + bytes(200) + noise(100, 2)
    with tree.volume.store.transaction() as transaction:
        contents.succeed(transaction, new, contents.prepare(noise(CHUNK_BYTES, 1)))


def damage(tree: Tree, chunk: ChunkId) -> None:
    """Replace the stored ciphertext of a chunk."""
    tree.volume.store.commit()
    sealed = tree.volume.store.get(CHUNKS, chunk)
    assert sealed is not None
    tree.volume.store.engine.apply([(CHUNKS.name, chunk, os.urandom(len(sealed)))])


def empty(tree: Tree) -> bool:
    """Whether nothing is left of any content."""
    tables = [table for table in records.TABLES if table.name not in ("volume", "header", "inodes", "entries")]
    totals = {name: total for name, total in tree.volume.store.counters.items() if total and name != "directories"}
    return totals == {} and all(tree.volume.store.keys(table) == [] for table in tables)


def contents_in_memory() -> Contents:
    engine = MemoryEngine(table.name for table in records.TABLES)
    store = Store(engine, Keyring(bytes(32)), group_seconds=3600)
    return Contents(store, Chunks(store), Clusters(store, SimilarityIndex(store)))


def test_a_content_that_is_being_stored_is_not_taken_for_damaged(
    volume: Volume, tree: Tree, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody stores it between the two looks at a content that is not there yet."""
    contents, store = volume.contents, volume.store
    prepared = contents.prepare(b"bytes of a new file")
    content_id = contents.identify(prepared.layout)
    get = store.get

    def store_it() -> None:
        with store.transaction() as transaction:
            contents.store_exact(transaction, prepared)
            contents.link(transaction, content_id)

    other = threading.Thread(target=store_it)

    def get_and_let_others_in(table: Table, key: bytes) -> bytes | None:
        found = get(table, key)
        if table is records.CONTENT_REFS and threading.current_thread() is not other and not other.ident:
            other.start()
            other.join(0.2)
        return found

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(store, "get", get_and_let_others_in)
        assert contents.references(content_id) == ContentRefs()
    other.join()
    assert contents.references(content_id) == ContentRefs(inodes=1)
    assert caplog.records == []
    with store.transaction() as transaction:
        contents.unlink(transaction, content_id)
