"""The pipeline's choices, with a pool that answers at once: what becomes of a picture, also when something fails."""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dedupfs.errors import IntegrityError, StoreFullError, UnfitPictureError, WorkerError, WorkerStartError
from dedupfs.ingest import pipeline as pipelines
from dedupfs.ingest.outcome import Fit, Misfit
from dedupfs.model import Differences, Policy
from dedupfs.storage import records
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.records import ContentState, Exact, Rendition
from tests.filesystem.core import Core, SketchPool, rendition_of, sketch
from tests.volumes import make_volume

PHOTO = sketch(7, width_px=400, size=300_000)
COPY = sketch(7, width_px=200, coarseness=3)
SMALL = sketch(7, width_px=100, coarseness=5)
STRANGER = sketch(9, width_px=300)


class TamperedPool(SketchPool):
    """Answers as a test wants where the test wants it."""

    def __init__(self, workers: int = 1) -> None:
        super().__init__(workers)
        self.instead: dict[str, Any] = {}

    def call(self, job: str, *arguments: Any) -> Any:
        if job in self.instead:
            self.calls.append(job)
            return self.instead[job](*arguments)
        return super().call(job, *arguments)


@pytest.fixture
def pool() -> TamperedPool:
    return TamperedPool()


@pytest.fixture
def core(volume_directory: Path, pool: TamperedPool) -> Iterator[Core]:
    core = Core(volume_directory, pool)
    try:
        yield core
        assert core.problems() == []
    finally:
        core.filesystem.close()


def settled(core: Core, **files: bytes) -> Core:
    """Write files one after the other, each decided about before the next."""
    for name, data in files.items():
        core.put(name.encode(), data)
        core.filesystem.settle()
    return core


def kinds(core: Core) -> dict[str, str]:
    """Return how every file is kept, by name."""
    found = {}
    for entry in core.filesystem.list_directory(ROOT)[2:]:
        content = core.content(entry.name)
        assert content is not None
        found[entry.name.decode()] = "rendition" if isinstance(content, Rendition) else content.state.name.lower()
    return found


def raising(exc: Exception) -> Any:
    def answer(*_: object) -> None:
        raise exc

    return answer


def test_versions_gather_around_the_best(core: Core) -> None:
    settled(core, small=SMALL, copy=COPY, stranger=STRANGER, photo=PHOTO)
    assert kinds(core) == {"small": "rendition", "copy": "rendition", "stranger": "picture", "photo": "picture"}
    assert core.counter("clusters") == 2
    for name in ("small", "copy"):
        content = core.content(name.encode())
        assert isinstance(content, Rendition)
        representative = core.volume.contents.get(content.representative)
        assert isinstance(representative, Exact)
        assert core.volume.contents.read_all(representative.layout) == PHOTO, "never a rendition of a rendition"


def test_the_same_bytes_are_kept_once(core: Core, pool: TamperedPool) -> None:
    settled(core, one=PHOTO)
    asked = len(pool.calls)
    settled(core, two=PHOTO)
    assert len(pool.calls) == asked
    assert (core.counter("exact_duplicates"), core.counter("clusters"), core.counter("pictures")) == (1, 1, 2)


def test_the_same_bytes_as_a_rendition_are_that_rendition(core: Core) -> None:
    settled(core, photo=PHOTO, one=COPY, two=COPY)
    assert kinds(core) == {"photo": "picture", "one": "rendition", "two": "rendition"}
    assert core.counter("renditions") == 1
    assert core.read(b"two") == rendition_of(COPY)


@pytest.mark.parametrize("original_first", [True, False])
def test_what_gives_both_to_the_last_byte_is_the_base(core: Core, pool: TamperedPool, original_first: bool) -> None:
    """A picture compressed again at a higher quality seems the better one, and its original would come out inexact."""
    original, again = sketch(5, 400, 9, 5000), sketch(5, 400, 2, 9000)
    digest = hashlib.sha256(rendition_of(again)).digest()

    def fit(member: bytes, base: bytes, policy: Policy, exact_only: bool) -> Any:
        if member == again:
            return Fit(b"recipe", member[:9], Differences(0.0, 0.0, 0.0, 0.0, 0.0), True, digest, digest)
        if exact_only:
            return Misfit("inexact", None)
        made = hashlib.sha256(rendition_of(member)).digest()
        return Fit(b"recipe", member[:9], Differences(1.0, 1.0, 0.5, 0.5, 0.0), False, made, made)

    pool.instead["fit"] = fit
    files = {"original": original, "again": again}
    settled(core, **(files if original_first else dict(reversed(files.items()))))
    assert kinds(core) == {"original": "picture", "again": "rendition"}
    assert core.counter("bit_exact_renditions") == 1


@pytest.mark.parametrize(
    ("coarseness", "levels_off"), [(2, 3.0), (4, 0.95)], ids=["closer", "about as close, but finer"]
)
def test_of_several_that_fit_the_closest_is_taken(
    core: Core, pool: TamperedPool, coarseness: int, levels_off: float
) -> None:
    """A small copy can be drawn from an edit of its picture too; whichever comes first in the index."""
    edit, photo, small = sketch(6, 400, coarseness, 9000), sketch(6, 400, 2, 9100), sketch(6, 100, 5, 900)
    assert edit != photo
    made = hashlib.sha256(rendition_of(small)).digest()

    def fit(member: bytes, base: bytes, policy: Policy, exact_only: bool) -> Any:
        if member != small:
            return Misfit("pixels", None)
        levels = 1.0 if base == photo else levels_off
        return Fit(b"recipe", member[:9], Differences(levels, levels, 0.5, 0.5, 0.0), False, made, made)

    pool.instead["fit"] = fit
    settled(core, edit=edit, photo=photo, small=small)
    assert kinds(core) == {"edit": "picture", "photo": "picture", "small": "rendition"}
    found = core.content(b"small")
    assert isinstance(found, Rendition)
    representative = core.volume.contents.get(found.representative)
    assert isinstance(representative, Exact)
    assert core.volume.contents.read_all(representative.layout) == photo


@pytest.mark.parametrize(("limit", "kind"), [("window", "rendition"), ("fine luma", "picture")])
def test_edits_that_are_told_apart_at_a_glance_do_not_hide_the_original(
    core: Core, pool: TamperedPool, limit: str, kind: str
) -> None:
    edits = {f"edit{number}": sketch(6, 400, 2, 9000 + number) for number in range(4)}
    photo, small = sketch(6, 400, 2, 8000), sketch(6, 100, 3, 900)
    made = hashlib.sha256(rendition_of(small)).digest()
    fit = Fit(b"recipe", small[:9], Differences(1.0, 1.0, 0.5, 0.5, 0.0), False, made, made)

    def answer(member: bytes, base: bytes, policy: Policy, exact_only: bool) -> Any:
        return fit if (member, base) == (small, photo) else Misfit("pixels", None, limit, 3.0)

    pool.instead["fit"] = answer
    settled(core, **edits, photo=photo, small=small)
    assert kinds(core)["small"] == kind


def test_what_a_newcomer_was_found_not_to_be_is_not_found_out_again(core: Core, pool: TamperedPool) -> None:
    """A picture that is stored meanwhile makes the decision void, not the comparisons that were made."""
    first, newcomer, meanwhile = (sketch(6, 400, 2, 9000 + number) for number in range(3))
    asked: list[tuple[bytes, bytes]] = []

    def fit(member: bytes, base: bytes, policy: Policy, exact_only: bool) -> Any:
        asked.append((member, base))
        if (member, base) == (newcomer, first):
            core.put(b"meanwhile", meanwhile)
            deadline = time.monotonic() + 20
            while core.counter("clusters") < 2:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        return Misfit("pixels", None, "fine luma", 3.0)

    pool.instead["fit"] = fit
    settled(core, first=first, newcomer=newcomer)
    assert core.counter("clusters") == 3
    assert (newcomer, meanwhile) in asked
    assert max(Counter(asked).values()) == 1


@pytest.mark.parametrize(("both_ways", "times"), [(True, 1), (False, 2)])
def test_what_holds_both_ways_is_found_out_once(core: Core, pool: TamperedPool, both_ways: bool, times: int) -> None:
    first, newcomer = (sketch(6, 400, 2, 9000 + number) for number in range(2))
    pool.instead["fit"] = lambda *pair: Misfit("pixels", None, "tiles", 3.0, both_ways=both_ways)
    settled(core, first=first, newcomer=newcomer)
    assert core.counter("clusters") == 2
    assert pool.calls.count("fit") == times


def test_what_holds_both_ways_for_another_member_leaves_the_representative(core: Core, pool: TamperedPool) -> None:
    settled(core, copy=COPY, small=SMALL)
    fit = SketchPool.call
    asked: list[tuple[bytes, bytes]] = []

    def answer(member: bytes, base: bytes, policy: Policy, exact_only: bool) -> Any:
        asked.append((member, base))
        if member == SMALL:
            return Misfit("pixels", None, "tiles", 3.0, both_ways=True)
        return fit(pool, "fit", member, base, policy, exact_only)

    pool.instead["fit"] = answer
    settled(core, photo=PHOTO)
    assert (PHOTO, COPY) in asked


TINY = sketch(7, width_px=90, coarseness=5, size=1000)


def stubborn(pool: TamperedPool, *members: bytes) -> None:
    """Have some pictures fit nothing that comes from now on."""
    fit = SketchPool.call

    def answer(member: bytes, base: bytes, policy: Policy, exact_only: bool) -> Any:
        if any(member[:9] == each[:9] for each in members):
            return Misfit("pixels", None)
        return fit(pool, "fit", member, base, policy, exact_only)

    pool.instead["fit"] = answer


def test_a_picture_that_does_not_follow_a_promotion_stands_alone(core: Core, pool: TamperedPool) -> None:
    """The others need not stay away from the original because of it."""
    settled(core, copy=COPY, small=SMALL, tiny=TINY, again=TINY)
    assert core.read(b"tiny") == rendition_of(TINY)
    stubborn(pool, TINY)
    settled(core, photo=PHOTO)
    assert kinds(core) == {
        "copy": "rendition", "small": "rendition", "tiny": "picture", "again": "picture", "photo": "picture"
    }  # fmt: skip
    assert core.read(b"tiny") == core.read(b"again") == TINY
    assert core.read(b"photo") == PHOTO
    assert core.counter("clusters") == 2
    del pool.instead["fit"]
    settled(core, tinier=sketch(7, width_px=80, coarseness=6, size=900))
    assert kinds(core)["tinier"] == "rendition"


def test_who_reads_a_picture_that_does_not_follow_reads_it_to_the_end(core: Core, pool: TamperedPool) -> None:
    settled(core, copy=COPY, tiny=TINY)
    stubborn(pool, TINY)
    handle = core.open(b"tiny")
    first = core.files.read(handle, 0, 999)
    settled(core, photo=PHOTO)
    assert first + core.files.read(handle, 999, 100) == rendition_of(TINY)
    assert kinds(core)["tiny"] == "rendition"
    core.files.release(handle)
    core.filesystem.settle()
    assert kinds(core) == {"copy": "rendition", "tiny": "picture", "photo": "picture"}


def test_without_the_bytes_of_one_that_does_not_follow_nothing_changes(core: Core, pool: TamperedPool) -> None:
    settled(core, copy=COPY, tiny=TINY)
    core.pipeline._originals._held.clear()
    stubborn(pool, TINY)
    settled(core, photo=PHOTO)
    assert kinds(core) == {"copy": "picture", "tiny": "rendition", "photo": "picture"}
    assert core.read(b"tiny") == rendition_of(TINY)


def test_a_promotion_that_would_take_more_room_changes_nothing(core: Core, pool: TamperedPool) -> None:
    """What does not follow is as long as what would be freed."""
    settled(core, copy=COPY, small=SMALL)
    before = {name: core.read(name) for name in (b"copy", b"small")}
    stubborn(pool, SMALL)
    settled(core, photo=PHOTO)
    assert kinds(core) == {"copy": "picture", "small": "rendition", "photo": "picture"}
    assert {name: core.read(name) for name in before} == before
    assert core.counter("clusters") == 2


def test_without_a_comparison_of_pixels_no_photo_is_drawn_from_its_thumbnail(tmp_path: Path) -> None:
    pool = TamperedPool()
    core = Core(make_volume(tmp_path / "volume", Policy.PERCEPTUAL), pool)

    def lenient(member: bytes, base: bytes, policy: Policy, exact_only: bool) -> Any:
        if (member, base) == (SMALL, PHOTO):
            return Misfit("size", None)
        digest = hashlib.sha256(rendition_of(member)).digest()
        return Fit(b"recipe", member[:9], Differences(1.0, 1.0, 0.5, 0.5, 0.0), False, digest, digest)

    pool.instead["fit"] = lenient
    settled(core, copy=COPY, small=SMALL, photo=PHOTO)
    assert kinds(core) == {"copy": "picture", "small": "rendition", "photo": "picture"}
    core.filesystem.close()


def test_a_promotion_during_which_a_worker_fails_changes_nothing(core: Core, pool: TamperedPool) -> None:
    settled(core, copy=COPY, small=SMALL)
    inspect = SketchPool.call
    seen: list[bytes] = []

    def fails_later(data: bytes) -> Any:
        seen.append(data)
        if len(seen) > 1:
            raise WorkerError("crashed")
        return inspect(pool, "inspect", data)

    pool.instead["inspect"] = fails_later
    settled(core, photo=PHOTO)
    assert len(seen) == 2
    assert kinds(core) == {"copy": "picture", "small": "rendition", "photo": "picture"}


@pytest.mark.parametrize(
    ("exc", "state"),
    [(UnfitPictureError("animated"), "picture"), (WorkerError("crashed"), "undecodable")],
    ids=["unfit", "crashed"],
)
def test_what_cannot_be_compared_is_kept_exactly(core: Core, pool: TamperedPool, exc: Exception, state: str) -> None:
    pool.instead["inspect"] = raising(exc)
    settled(core, photo=PHOTO, copy=COPY)
    assert kinds(core) == {"photo": state, "copy": state}
    assert core.read(b"copy") == COPY


def test_a_picture_whose_worker_was_ended_once_is_decided_about_all_the_same(core: Core, pool: TamperedPool) -> None:
    inspect = SketchPool.call
    seen: list[bytes] = []

    def fails_at_first(data: bytes) -> Any:
        seen.append(data)
        if seen.count(data) == 1:
            raise WorkerError("the worker process ended")
        return inspect(pool, "inspect", data)

    pool.instead["inspect"] = fails_at_first
    settled(core, photo=PHOTO, copy=COPY)
    assert kinds(core) == {"photo": "picture", "copy": "rendition"}
    assert len(seen) == 4


@pytest.mark.parametrize("exc", [WorkerError("crashed"), UnfitPictureError("coding")])
def test_a_comparison_that_fails_keeps_both(core: Core, pool: TamperedPool, exc: Exception) -> None:
    pool.instead["fit"] = raising(exc)
    settled(core, photo=PHOTO, copy=COPY)
    assert kinds(core) == {"photo": "picture", "copy": "picture"}


@pytest.mark.parametrize("job", ["inspect", "fit"])
def test_without_workers_a_picture_stays_undecided_for_the_next_mount(volume_directory: Path, job: str) -> None:
    pool = TamperedPool()
    core = settled(Core(volume_directory, pool), photo=PHOTO)
    pool.instead[job] = raising(WorkerStartError("no process"))
    settled(core, copy=COPY)
    assert kinds(core) == {"photo": "picture", "copy": "undecided"}
    assert core.read(b"copy") == COPY
    core.filesystem.close()
    again = Core(volume_directory)
    again.filesystem.settle()
    assert kinds(again) == {"photo": "picture", "copy": "rendition"}
    assert again.problems() == []
    again.filesystem.close()


@pytest.mark.parametrize("answer", [None, b"bytes", ["done"], 5])
def test_an_answer_that_makes_no_sense_loses_nothing(core: Core, pool: TamperedPool, answer: object) -> None:
    pool.instead["inspect"] = lambda *_: answer
    settled(core, photo=PHOTO)
    assert core.read(b"photo") == PHOTO
    assert core.volume.metadata.inode(core.filesystem.lookup(ROOT, b"photo")).size == len(PHOTO)


def test_a_full_disk_during_a_decision_loses_nothing(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(core.volume.contents, "store_exact", raising(StoreFullError("full")))
        number = core.put(b"photo", PHOTO)
        core.pipeline.wait_idle()
        with pytest.raises(StoreFullError):
            core.filesystem.settle()
        assert core.read(b"photo") == PHOTO
        assert core.filesystem.attributes(number).size == len(PHOTO)
    core.filesystem.settle()
    assert kinds(core) == {"photo": "picture"}


def test_a_damaged_representative_is_passed_over(core: Core, caplog: pytest.LogCaptureFixture) -> None:
    settled(core, photo=PHOTO)
    good = damage(core, b"photo")
    settled(core, copy=COPY)
    assert kinds(core)["copy"] == "picture"
    assert core.read(b"copy") == COPY
    assert "damaged" in caplog.text
    for chunk, sealed in good.items():
        with core.volume.store.transaction() as transaction:
            transaction.put(records.CHUNKS, chunk, sealed)


def test_a_rendition_that_cannot_be_read_is_healed_by_its_bytes(core: Core, pool: TamperedPool) -> None:
    settled(core, photo=PHOTO, copy=COPY)
    pool.instead["render"] = raising(WorkerError("another library"))
    core.renderer._cache.clear()
    settled(core, again=COPY)
    assert kinds(core) == {"photo": "picture", "copy": "plain", "again": "plain"}
    assert core.read(b"copy") == COPY


def redrawn(pool: TamperedPool, core: Core, *endings: bytes) -> None:
    """Have every drawing end in other bytes, in turn, as if other libraries rounded otherwise."""
    render = pool.call
    turns = itertools.cycle(endings)

    def draw(base: bytes, recipe: bytes, own: bytes, size: int) -> bytes:
        del pool.instead["render"]
        drawn: bytes = render("render", base, recipe, own, size)
        pool.instead["render"] = draw
        return drawn[:-1] + next(turns)

    pool.instead["render"] = draw
    core.renderer._cache.clear()


def test_other_rounding_errors_cost_no_photo(core: Core, pool: TamperedPool, caplog: pytest.LogCaptureFixture) -> None:
    settled(core, photo=PHOTO, copy=COPY)
    redrawn(pool, core, b"2")
    assert core.read(b"copy") == COPY[:-1] + b"2"
    core.renderer._cache.clear()
    assert core.read(b"copy") == COPY[:-1] + b"2"
    assert caplog.text.count("other rounding errors") == 1


def test_nothing_is_derived_from_what_other_libraries_draw_otherwise(core: Core, pool: TamperedPool) -> None:
    """Its difference from the picture that was written would add up with that of whatever is made of it."""
    settled(core, photo=PHOTO, copy=COPY)
    core.pipeline._originals._held.clear()
    redrawn(pool, core, b"2")
    pool.instead["inspect"] = lambda data: SketchPool.call(pool, "inspect", data[:-1] + b"W")
    settled(core, better=sketch(7, width_px=500))
    assert kinds(core) == {"photo": "picture", "copy": "rendition", "better": "picture"}
    assert core.read(b"copy") == COPY[:-1] + b"2"
    pool.instead.clear()
    core.renderer._cache.clear()
    assert core.read(b"copy") == rendition_of(COPY)


def test_bytes_that_come_again_replace_what_other_libraries_draw_otherwise(core: Core, pool: TamperedPool) -> None:
    settled(core, photo=PHOTO, copy=COPY)
    redrawn(pool, core, b"2")
    settled(core, again=COPY)
    assert core.read(b"copy") == core.read(b"again") == COPY


def test_a_drawing_that_comes_out_otherwise_each_time_is_an_error(core: Core, pool: TamperedPool) -> None:
    settled(core, photo=PHOTO, copy=COPY)
    redrawn(pool, core, b"2", b"3")
    with pytest.raises(IntegrityError, match="not what was verified"):
        core.read(b"copy")
    pool.instead.clear()


def test_who_waits_for_a_drawing_that_fails_waits_once(core: Core, pool: TamperedPool) -> None:
    """The kernel reads ahead; a dozen requests that waited for a hanging worker one after the other were minutes."""
    settled(core, photo=PHOTO, copy=COPY)
    core.renderer._cache.clear()
    content = core.content(b"copy")
    assert isinstance(content, Rendition)
    source = core.renderer.source(content)
    fail, asked = threading.Event(), threading.Barrier(7)

    def hang(*_: object) -> bytes:
        assert fail.wait(20)
        raise WorkerError("it took too long")

    def read(_: int) -> str:
        asked.wait(20)
        with pytest.raises(IntegrityError) as told:
            source.read(0, 10)
        return str(told.value)

    pool.instead["render"] = hang
    pool.calls.clear()
    with ThreadPoolExecutor(6) as threads:
        answers = [threads.submit(read, number) for number in range(6)]
        asked.wait(20)
        time.sleep(0.2)
        fail.set()
        assert {answer.result(20) for answer in answers} == {"a rendition cannot be made: it took too long"}
    assert pool.calls == ["render"]
    pool.instead.clear()
    assert source.read(0, 1 << 20) == rendition_of(COPY)


def test_a_drawing_of_something_else_is_an_error(core: Core, pool: TamperedPool) -> None:
    settled(core, photo=PHOTO, copy=COPY)
    redrawn(pool, core, b"2")
    pool.instead["look"] = lambda data: bytes(32)
    with pytest.raises(IntegrityError, match="not what was verified"):
        core.read(b"copy")
    pool.instead.clear()


def damage(core: Core, name: bytes) -> dict[bytes, bytes]:
    """Flip a bit in every chunk of a file and return what was there."""
    content = core.content(name)
    assert isinstance(content, Exact)
    good = {}
    with core.volume.store.transaction() as transaction:
        for extent in content.layout.extents:
            sealed = core.volume.store.get(records.CHUNKS, extent.chunk)
            assert sealed is not None
            good[bytes(extent.chunk)] = sealed
            transaction.put(records.CHUNKS, extent.chunk, sealed[:-1] + bytes([sealed[-1] ^ 1]))
    core.filesystem.settle()
    core.volume.contents._cache._held.clear()
    return good


def test_two_versions_at_once_end_in_one_cluster(tmp_path: Path) -> None:
    """Neither sees the other when it looks for candidates; whoever settles second has to look again."""
    for number in range(5):
        pool = SketchPool(workers=3)
        core = Core(make_volume(tmp_path / str(number)), pool)
        with pool.held():
            for name, data in ((b"photo", PHOTO), (b"copy", COPY), (b"small", SMALL)):
                core.put(name, data)
        core.filesystem.settle()
        assert kinds(core) == {"photo": "picture", "copy": "rendition", "small": "rendition"}
        assert core.counter("clusters") == 1
        assert core.problems() == []
        core.filesystem.close()


def test_many_threads_write_read_and_remove_at_once(volume_directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    core = Core(volume_directory, SketchPool(workers=2), budget_bytes=1 << 20)
    failures: list[BaseException] = []

    def work(scene: int) -> None:
        try:
            for turn in range(12):
                name = b"%d-%d" % (scene, turn % 4)
                data = sketch(scene, width_px=100 + turn, coarseness=20 - turn, size=5000)
                if core.volume.metadata.find_entry(ROOT, name) is not None:
                    core.filesystem.unlink(ROOT, name)
                core.put(name, data, fsync=turn % 3 == 0)
                core.edit(name, len(data) - 1, data[-1:])
                read = core.read(name)
                assert read in (data, rendition_of(data))
        except BaseException as exc:
            failures.append(exc)
            raise

    threads = [threading.Thread(target=work, args=(scene,)) for scene in (20, 21, 22, 23)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert core.problems() == []
    assert [record.getMessage() for record in caplog.records] == []
    assert (core.counter("undecided"), core.counter("clusters"), core.counter("files")) == (0, 4, 16)
    core.filesystem.close()


def test_what_is_too_long_to_wait_in_memory_is_no_picture(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelines, "MAX_PICTURE_BYTES", 1000)
    settled(core, photo=PHOTO)
    assert kinds(core) == {"photo": "plain"}


def test_without_deduplication_nothing_is_asked(tmp_path: Path) -> None:
    pool = SketchPool()
    core = settled(Core(make_volume(tmp_path / "volume", Policy.OFF), pool), photo=PHOTO, copy=COPY, again=PHOTO)
    assert kinds(core) == {"photo": "plain", "copy": "plain", "again": "plain"}
    assert pool.calls == []
    assert core.counter("exact_duplicates") == 1
    core.filesystem.close()


def test_the_state_of_an_undecodable_file_is_kept(core: Core) -> None:
    settled(core, broken=b"\xff\xd8\xff and so on", again=b"\xff\xd8\xff and so on")
    content = core.content(b"again")
    assert isinstance(content, Exact)
    assert content.state is ContentState.UNDECODABLE
    assert core.counter("undecodable") == 2
