"""Files, handles and decisions about pictures: whoever has a file open reads exact bytes, and nothing that was written
is lost, whatever is decided at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from crashtest_core import InlinePool

from dedupfs.errors import IntegrityError
from dedupfs.filesystem import files
from dedupfs.filesystem.handles import OpenFile
from dedupfs.filesystem.subject import FileSubject
from dedupfs.ingest.settlement import Newcomer
from dedupfs.storage import records
from dedupfs.storage.contents import PreparedLayout
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.records import ContentState, Exact
from tests.filesystem.core import BROKEN_SCENE, CRASHING_SCENE, Core, SketchPool, rendition_of, sketch
from tests.ingest.drawing import encoded, photo

PHOTO = sketch(7, width_px=400, size=300_000)
COPY = sketch(7, width_px=200, coarseness=3)


def test_a_copy_becomes_a_rendition(core: Core) -> None:
    core.put(b"photo", PHOTO)
    core.filesystem.settle()
    core.put(b"copy", COPY)
    core.filesystem.settle()
    assert core.is_rendition(b"copy")
    assert core.read(b"copy") == rendition_of(COPY)
    assert core.read(b"photo") == PHOTO


def test_a_better_picture_takes_over_the_cluster(core: Core) -> None:
    core.put(b"copy", COPY)
    core.filesystem.settle()
    core.put(b"photo", PHOTO)
    core.filesystem.settle()
    assert core.is_rendition(b"copy")
    assert not core.is_rendition(b"photo")
    assert core.counter("clusters") == 1
    assert core.read(b"photo") == PHOTO


# Neither fits the other, and both fit the photo.
COPIES = {b"small": sketch(7, width_px=200, coarseness=1), b"coarse": sketch(7, width_px=300, coarseness=3)}


def test_an_original_that_comes_last_takes_all_its_copies(core: Core) -> None:
    for name, data in COPIES.items():
        core.put(name, data)
        core.filesystem.settle()
    assert core.counter("clusters") == 2
    core.put(b"photo", PHOTO)
    core.filesystem.settle()
    assert core.counter("clusters") == 1
    assert core.read(b"photo") == PHOTO
    for name, data in COPIES.items():
        assert core.is_rendition(name)
        assert core.read(name) == rendition_of(data)
    assert core.problems() == []


def test_an_original_that_comes_last_unites_no_pictures_that_were_split(core: Core) -> None:
    for name, data in COPIES.items():
        core.put(name, data)
        core.filesystem.settle()
    one, other = (core.volume.metadata.inode(core.filesystem.lookup(ROOT, name)).content for name in COPIES)
    assert one is not None and other is not None
    with core.volume.store.transaction() as transaction:
        core.volume.pairs.part(transaction, one, other)
    core.put(b"photo", PHOTO)
    core.filesystem.settle()
    assert core.counter("clusters") == 2
    assert sorted(map(core.is_rendition, COPIES)) == [False, True]
    assert core.problems() == []


@pytest.mark.parametrize("photo_first", [True, False])
def test_bytes_that_were_fsynced_before_the_close_are_decided_about_too(core: Core, photo_first: bool) -> None:
    """rsync --fsync, editors and mail programs do that with every file."""
    files = [(b"photo", PHOTO), (b"copy", COPY)]
    for name, data in files if photo_first else reversed(files):
        core.put(name, data, fsync=True)
        core.filesystem.settle()
    assert core.counter("undecided") == 0
    assert core.is_rendition(b"copy")


def test_a_picture_that_is_tagged_in_place_stays_in_its_cluster(volume_directory: Path) -> None:
    """`exiftool -overwrite_original_in_place` does that. The file is the only one that holds its cluster."""
    core = Core(volume_directory, InlinePool())
    picture = encoded(photo(1, (200, 150)), quality=90)
    core.put(b"photo", picture)
    core.filesystem.settle()
    tagged = picture[:2] + b"\xff\xfe\x00\x08tagged" + picture[2:]
    core.edit(b"photo", 0, tagged)
    core.filesystem.settle()
    assert core.read(b"photo") == tagged
    assert core.counter("clusters") == 1
    assert core.problems() == []
    core.filesystem.close()


def test_a_picture_saved_by_the_memory_budget_is_decided_about_too(volume_directory: Path) -> None:
    core = Core(volume_directory, budget_bytes=0)
    try:
        handles = []
        for number in range(4):
            _, handle = core.filesystem.create(ROOT, b"%d" % number, 0o644, 0, 0)
            core.files.write(handle, 0, sketch(10 + number))
            handles.append(handle)
        core.files.write(handles[-1], 0, sketch(13)[:10])
        for handle in handles:
            core.files.release(handle)
        assert core.problems() == []
        assert core.counter("undecided") == 0
        assert core.counter("pictures") == 4
    finally:
        core.filesystem.close()


def test_a_write_waits_for_a_decision_instead_of_storing_what_waits_undecided(
    volume_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_DECISION_PAUSE_SECONDS", 20.0)
    monkeypatch.setattr(files, "_MOST_PAUSE_SECONDS", 20.0)
    pool = SketchPool()
    core = Core(volume_directory, pool, budget_bytes=5000)
    try:
        core.put(b"first", sketch(10))
        core.filesystem.settle()
        # A decision has ended, so another one is to be expected.
        saved: list[object] = []
        monkeypatch.setattr(core.files, "_save", saved.append)
        with pool.held():
            core.put(b"second", sketch(11))
            writer = threading.Thread(target=core.put, args=(b"third", sketch(12)))
            writer.start()
            assert pool.asked.wait(20)
        writer.join()
        core.pipeline.wait_idle()
        assert saved == []
        assert core.counter("pictures") == 3
        assert core.problems() == []
    finally:
        core.filesystem.close()


def test_a_write_waits_for_no_decision_that_takes_long(volume_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_DECISION_PAUSE_SECONDS", 0.0)
    pool = SketchPool()
    core = Core(volume_directory, pool, budget_bytes=5000)
    try:
        with pool.held():
            core.put(b"first", sketch(10))
            core.put(b"second", sketch(11))
            assert core.counter("undecided") == 1
        core.filesystem.settle()
        assert core.counter("undecided") == 0
        assert core.counter("pictures") == 2
    finally:
        core.filesystem.close()


def test_open_pictures_stay_within_the_memory_budget(volume_directory: Path) -> None:
    """What is stored leaves the memory, is read from the store, and can be written on, kept as a rendition or not."""
    budget = 4 << 20
    core = Core(volume_directory, budget_bytes=budget)
    try:
        expected, handles = {}, {}
        for number in range(6):
            name = b"%d" % number
            expected[name] = bytearray(sketch(10 + number, size=2 << 20))
            _, handles[name] = core.filesystem.create(ROOT, name, 0o644, 0, 0)
            core.files.write(handles[name], 0, bytes(expected[name]))
            assert core.files.spooled_bytes <= budget + (2 << 20)
        for name, handle in handles.items():
            assert core.files.read(handle, 0, 3 << 20) == expected[name]
            core.files.write(handle, 1 << 20, b"more")
            expected[name][1 << 20 : (1 << 20) + 4] = b"more"
            assert core.files.read(handle, 0, 3 << 20) == expected[name]
            core.files.release(handle)
        core.filesystem.settle()
        assert {name: core.read(name) for name in expected} == expected
        assert core.counter("undecided") == 0
        assert core.problems() == []
    finally:
        core.filesystem.close()


def test_a_picture_saved_because_it_waited_long_is_decided_about_too(core: Core, pool: SketchPool) -> None:
    core.put(b"photo", PHOTO)
    core.filesystem.settle()
    with pool.held():
        core.put(b"copy", COPY)
        core.files._save_what_waits(0.0)
        assert core.volume.contents.undecided()
    core.filesystem.settle()
    assert core.is_rendition(b"copy")
    assert core.files.find(core.filesystem.lookup(ROOT, b"copy")) is None


@pytest.mark.parametrize("change", ["edit", "remove"])
def test_a_picture_saved_early_and_changed_since_is_not_decided_back(core: Core, pool: SketchPool, change: str) -> None:
    """Its bytes left memory while its decision was under way, and came back as another open file."""
    core.put(b"photo", PHOTO)
    core.filesystem.settle()
    with pool.held():
        core.put(b"copy", COPY)
        assert pool.asked.wait(5)
        core.files._save_what_waits(0.0)
        if change == "edit":
            core.edit(b"copy", 0, b"other bytes")
        else:
            core.filesystem.unlink(ROOT, b"copy")
    core.filesystem.settle()
    if change == "edit":
        assert core.read(b"copy") == b"other bytes" + COPY[11:]
    else:
        assert core.counter("files") == 1


def test_writing_during_a_decision_makes_it_void(core: Core, pool: SketchPool) -> None:
    core.put(b"photo", PHOTO)
    core.filesystem.settle()
    with pool.held():
        core.put(b"copy", COPY)
        assert pool.asked.wait(5)
        handle = core.open(b"copy", writable=True)
        core.files.write(handle, 100, b"edited")
    core.pipeline.wait_idle()
    edited = COPY[:100] + b"edited" + COPY[106:]
    assert core.files.read(handle, 0, 10_000) == edited
    core.files.release(handle)
    core.filesystem.settle()
    assert core.read(b"copy") == edited


def test_appending_during_a_decision_keeps_both(core: Core, pool: SketchPool) -> None:
    with pool.held():
        core.put(b"photo", PHOTO)
        assert pool.asked.wait(5)
        number = core.filesystem.lookup(ROOT, b"photo")
        core.filesystem.truncate(number, len(PHOTO) + 3)
    core.filesystem.settle()
    assert core.read(b"photo") == PHOTO + bytes(3)
    assert core.filesystem.attributes(number).size == len(PHOTO) + 3


def test_a_reader_sees_exact_bytes_until_it_closes(core: Core, pool: SketchPool) -> None:
    core.put(b"photo", PHOTO)
    core.filesystem.settle()
    with pool.held():
        core.put(b"copy", COPY)
        handle = core.open(b"copy")
        first = core.files.read(handle, 0, 100)
    core.pipeline.wait_idle()
    assert first + core.files.read(handle, 100, 10_000) == COPY
    core.files.release(handle)
    core.filesystem.settle()
    assert core.read(b"copy") == rendition_of(COPY)


def test_a_stored_picture_is_not_replaced_while_somebody_reads_it(core: Core) -> None:
    core.put(b"copy", COPY)
    core.filesystem.settle()
    handle = core.open(b"copy")
    first = core.files.read(handle, 0, 100)
    core.put(b"photo", PHOTO)
    core.filesystem.settle()
    assert not core.is_rendition(b"copy")
    assert first + core.files.read(handle, 100, 10_000) == COPY
    core.files.release(handle)
    core.filesystem.settle()
    assert core.is_rendition(b"copy")


def test_other_readers_do_not_cause_work_over_and_over(core: Core, pool: SketchPool) -> None:
    core.put(b"copy", COPY)
    core.put(b"other", b"text")
    core.filesystem.settle()
    handle = core.open(b"copy")
    core.put(b"photo", PHOTO)
    core.filesystem.settle()
    asked = len(pool.calls)
    for _ in range(5):
        core.read(b"other")
    core.pipeline.wait_idle()
    assert len(pool.calls) == asked
    core.files.release(handle)


def test_the_kernel_may_keep_pages_only_of_what_is_read_again(core: Core, pool: SketchPool) -> None:
    def keeps(name: bytes) -> bool:
        handle = core.open(name)
        try:
            return core.files.handle(handle).keep_cache
        finally:
            core.files.release(handle)

    core.put(b"photo", PHOTO)
    core.filesystem.settle()
    assert [keeps(b"photo") for _ in range(3)] == [False, True, True]
    with pool.held():
        core.put(b"copy", COPY)
        reader = core.open(b"copy")
    core.pipeline.wait_idle()
    assert core.is_rendition(b"copy")
    # The decision has been stored, yet whoever opens the file beside the first reader is still given exact bytes.
    assert not keeps(b"copy")
    core.files.release(reader)
    assert not keeps(b"copy"), "pages of the exact bytes would be mixed with the rendition"
    assert keeps(b"copy")
    core.edit(b"photo", 5, b"other")
    assert not keeps(b"photo")


def test_pages_of_bytes_written_over_their_own_rendition_are_not_kept(core: Core) -> None:
    """The kernel holds what was written, whereas the same content as before, a rendition, is what is read."""
    core.put(b"photo", PHOTO)
    core.filesystem.settle()
    core.put(b"copy", COPY)
    core.filesystem.settle()
    assert core.read(b"copy") == rendition_of(COPY)
    core.edit(b"copy", 0, COPY)
    core.filesystem.settle()
    handle = core.open(b"copy")
    assert core.files.read(handle, 0, 1 << 20) == rendition_of(COPY)
    assert not core.files.handle(handle).keep_cache
    core.files.release(handle)


def test_the_mtime_set_before_the_decision_stays(core: Core, pool: SketchPool) -> None:
    core.put(b"photo", PHOTO)
    with pool.held():
        number = core.put(b"copy", COPY)
        core.filesystem.set_times(number, 5, 7)
        assert core.filesystem.attributes(number).mtime_ns == 7
    core.filesystem.settle()
    attributes = core.filesystem.attributes(number)
    assert (attributes.atime_ns, attributes.mtime_ns, attributes.size) == (5, 7, len(COPY))


def test_the_mtime_set_while_a_file_is_being_stored_stays(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cp -a` sets times on a file that is still open; the budget may be storing it just then."""
    number, handle = core.filesystem.create(ROOT, b"a", 0o644, 0, 0)
    core.files.write(handle, 0, b"bytes")
    store = core.volume.store
    with monkeypatch.context() as patched:
        patched.setattr(
            store,
            "lock",
            _BusyLock(store.lock, lambda: core.filesystem.set_times(number, None, 7)),
        )
        core.files.fsync(handle)
    core.files.release(handle)
    assert core.filesystem.attributes(number).mtime_ns == 7


class _BusyLock:
    """A lock whose next owner does something whenever it becomes free; for use on one thread."""

    def __init__(self, lock: Any, next_owner: Callable[[], None]) -> None:
        self._lock = lock
        self._next_owner = next_owner
        self._depth = 0
        self._is_next = False

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        self._lock.release()
        if not self._depth and not self._is_next:
            self._is_next = True
            self._next_owner()
            self._is_next = False


def test_cutting_a_file_gives_its_memory_back(core: Core) -> None:
    _, handle = core.filesystem.create(ROOT, b"a", 0o644, 0, 0)
    core.files.write(handle, 0, bytes(range(256)) * 4096)
    core.filesystem.truncate(core.filesystem.lookup(ROOT, b"a"), 0)
    core.files.release(handle)
    assert core.files._spooled_bytes == 0


def test_a_file_removed_while_it_is_being_stored_harms_nobody(
    core: Core, pool: SketchPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget stores other files on behalf of a writer, who must not be told of what became of those."""
    prepare = core.volume.contents.prepare

    def removed_meanwhile(*arguments: Any) -> PreparedLayout:
        if core.volume.metadata.find_entry(ROOT, b"gone") is not None:
            core.filesystem.unlink(ROOT, b"gone")
        return prepare(*arguments)

    with pool.held():
        number = core.put(b"gone", PHOTO)
        file = core.files.find(number)
        assert file is not None
        monkeypatch.setattr(core.volume.contents, "prepare", removed_meanwhile)
        core.files._save_if_unsaved(file)
    core.filesystem.settle()
    assert core.counter("files") == 0


def test_a_decision_while_a_file_is_being_stored_leaves_no_hold_on_it(
    core: Core, pool: SketchPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = core.volume.contents.prepare

    def decided_meanwhile(*arguments: Any) -> PreparedLayout:
        if threading.current_thread() is threading.main_thread():
            release.close()
            core.pipeline.wait_idle()
        return prepare(*arguments)

    with ExitStack() as release:
        release.enter_context(pool.held())
        core.put(b"photo", PHOTO)
        assert pool.asked.wait(5)
        monkeypatch.setattr(core.volume.contents, "prepare", decided_meanwhile)
        core.files._save_what_waits(0.0)
    content = core.content(b"photo")
    assert isinstance(content, Exact)
    assert content.state is ContentState.PICTURE
    assert not core.files.content_in_use(core.volume.contents.identify(content.layout))


@pytest.mark.parametrize("scene", [BROKEN_SCENE, CRASHING_SCENE])
def test_what_cannot_be_decoded_is_kept_exactly(volume_directory: Path, scene: int) -> None:
    core = Core(volume_directory)
    try:
        core.put(b"broken", sketch(scene))
        assert core.problems() == []
        assert core.read(b"broken") == sketch(scene)
        assert core.counter("undecodable") == 1
    finally:
        core.filesystem.close()


def test_an_edited_picture_is_considered_anew(core: Core) -> None:
    core.put(b"photo", PHOTO)
    core.put(b"copy", sketch(8, width_px=200, coarseness=3))
    core.filesystem.settle()
    assert not core.is_rendition(b"copy")
    core.edit(b"copy", 0, COPY)
    core.filesystem.settle()
    assert core.is_rendition(b"copy")
    core.edit(b"copy", 0, b"no picture")
    core.filesystem.settle()
    assert core.read(b"copy") == b"no picture" + rendition_of(COPY)[10:]
    assert core.counter("renditions") == 0


def test_removing_every_file_leaves_nothing(core: Core) -> None:
    for name, data in ((b"photo", PHOTO), (b"copy", COPY), (b"again", PHOTO), (b"text", b"text")):
        core.put(name, data)
    core.filesystem.settle()
    for name in (b"photo", b"text", b"copy", b"again"):
        core.filesystem.unlink(ROOT, name)
    core.filesystem.settle()
    for counter in ("files", "logical_bytes", "stored_bytes", "chunks", "clusters", "pictures", "renditions"):
        assert core.counter(counter) == 0, counter


def without_cache(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every read of a chunk go to the store."""
    monkeypatch.setattr(core.volume.contents._cache, "_hold", lambda chunk, plaintext: None)


def test_an_open_file_that_becomes_a_picture_outlives_its_old_chunks(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download that fills in its first bytes last is saved as a plain file first, cut elsewhere than a picture."""
    without_cache(core, monkeypatch)
    monkeypatch.setattr(core.pipeline, "cuts", lambda data, policy: (100,))
    picture = sketch(9, size=900_000)
    _, handle = core.filesystem.create(ROOT, b"download", 0o644, 0, 0)
    core.files.write(handle, 4, picture[4:])
    core.files.fsync(handle)
    core.files.write(handle, 0, picture[:4])
    core.files.fsync(handle)
    assert core.files.read(handle, 0, 1 << 20) == picture
    core.files.write(handle, 500_000, b"more")
    core.files.release(handle)
    core.filesystem.settle()
    assert core.read(b"download") == picture[:500_000] + b"more" + picture[500_004:]


def test_a_reader_that_came_before_the_decision_outlives_the_old_chunks(
    core: Core, pool: SketchPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_cache(core, monkeypatch)
    core.put(b"photo", PHOTO)
    copy, other = (sketch(scene, width_px=200, coarseness=3, size=600_000) for scene in (7, 8))
    core.put(b"copy", other[:300_000] + copy[300_000:])
    core.filesystem.settle()
    with pool.held():
        core.edit(b"copy", 0, copy[:300_000])
        assert pool.asked.wait(5)
        handle = core.open(b"copy")
    core.pipeline.wait_idle()
    assert core.is_rendition(b"copy")
    assert core.files.read(handle, 0, 1 << 20) == copy
    core.files.release(handle)


def test_a_read_outlives_the_chunks_that_a_writer_replaces_meanwhile(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_cache(core, monkeypatch)
    core.put(b"photo", PHOTO)
    core.filesystem.settle()
    reader, writer = core.open(b"photo"), core.open(b"photo", writable=True)
    read = core.volume.contents.read

    def and_write(*arguments: Any) -> bytes:
        monkeypatch.setattr(core.volume.contents, "read", read)
        core.files.write(writer, 0, PHOTO[::-1])
        core.files.fsync(writer)
        return read(*arguments)

    monkeypatch.setattr(core.volume.contents, "read", and_write)
    assert core.files.read(reader, 0, 1 << 20) == PHOTO[::-1]
    core.files.release(reader)
    core.files.release(writer)


def test_a_picture_that_only_renditions_held_goes_when_a_better_one_takes_over(core: Core) -> None:
    core.put(b"photo", PHOTO)
    core.filesystem.settle()
    core.put(b"copy", COPY)
    core.filesystem.settle()
    core.filesystem.unlink(ROOT, b"photo")
    core.put(b"better", sketch(7, width_px=800, size=500_000))
    core.filesystem.settle()
    assert core.is_rendition(b"copy")
    assert core.problems() == []
    core.filesystem.unlink(ROOT, b"better")
    core.filesystem.unlink(ROOT, b"copy")
    assert core.counter("chunks") == 0


def test_the_failure_of_older_bytes_does_not_touch_newer_ones(core: Core, pool: SketchPool) -> None:
    with pool.held():
        core.put(b"photo", PHOTO)
        assert pool.asked.wait(5)
        file = core.files.find(core.filesystem.lookup(ROOT, b"photo"))
        assert file is not None
        older = FileSubject(core.files, core.volume, file)
        core.edit(b"photo", 50, b"first")
        newer = FileSubject(core.files, core.volume, file)
        older.failed()
        handle = core.open(b"photo", writable=True)
        core.files.write(handle, 60, b"second")
        assert not newer.is_current()
        core.files.release(handle)


def test_a_decision_stored_at_the_very_moment_of_a_write_does_not_swallow_it(
    core: Core, pool: SketchPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = threading.get_ident()
    armed: list[Callable[[], None]] = []

    class SlowlyRead(OpenFile):
        """Lets a decision come in just before the flag is read."""

        def __getattribute__(self, name: str) -> Any:
            if name == "queued" and armed and threading.get_ident() == writer:
                armed.pop()()
            return super().__getattribute__(name)

    monkeypatch.setattr("dedupfs.filesystem.files.OpenFile", SlowlyRead)
    with ExitStack() as stack:
        stack.enter_context(pool.held())
        core.put(b"photo", PHOTO)
        assert pool.asked.wait(5)
        handle = core.open(b"photo", writable=True)

        def decide() -> None:
            stack.close()
            with core.pipeline._condition:
                core.pipeline._condition.wait_for(lambda: not core.pipeline._waiting, timeout=0.3)

        armed.append(decide)
        core.files.write(handle, 100, b"edited")
    core.files.release(handle)
    core.filesystem.settle()
    assert core.read(b"photo") == PHOTO[:100] + b"edited" + PHOTO[106:]


def test_a_reader_that_leaves_while_a_decision_is_put_off_does_not_strand_it(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    core.put(b"copy", COPY)
    core.filesystem.settle()
    handle = core.open(b"copy")
    settlement = core.pipeline.settlement
    undecided = settlement.undecided

    def and_close(newcomer: Newcomer) -> bool:
        monkeypatch.setattr(settlement, "undecided", undecided)
        try:
            return undecided(newcomer)
        finally:
            core.files.release(handle)

    monkeypatch.setattr(settlement, "undecided", and_close)
    core.put(b"photo", PHOTO)
    core.filesystem.settle()
    assert core.counter("undecided") == 0
    assert core.is_rendition(b"copy")


def damage_last_chunk(core: Core, name: bytes) -> None:
    """Flip a bit in the ciphertext of a file's last chunk."""
    content = core.content(name)
    assert isinstance(content, Exact)
    chunk = content.layout.extents[-1].chunk
    store = core.volume.store
    sealed = bytearray(store.get(records.CHUNKS, chunk) or b"")
    sealed[1000] ^= 1
    with store.transaction() as transaction:
        transaction.put(records.CHUNKS, chunk, bytes(sealed))


def test_a_write_into_a_damaged_picture_fails_and_writing_it_again_heals(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_cache(core, monkeypatch)
    core.put(b"photo", PHOTO)
    core.filesystem.settle()
    damage_last_chunk(core, b"photo")
    with pytest.raises(IntegrityError):
        core.edit(b"photo", 0, PHOTO[:100])
    core.filesystem.settle()
    assert core.files._spooled_bytes == 0
    core.files.truncate(core.filesystem.lookup(ROOT, b"photo"), 0)
    core.edit(b"photo", 0, PHOTO)
    core.filesystem.settle()
    assert core.read(b"photo") == PHOTO
