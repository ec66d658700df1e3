"""Originals that are kept for a while, files that get their bytes back, and pictures that are split for good."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dedupfs.errors import EntryNotFoundError, InUseError, NoAttributeError, NotPermittedError
from dedupfs.ingest.outcome import Fit
from dedupfs.model import ContentId
from dedupfs.storage.kept import DIRECTORY_NAME
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.records import ContentState, Exact, Rendition
from tests.filesystem.core import Core, SketchPool, rendition_of, sketch

PHOTO = sketch(7, width_px=400, size=300_000)
BETTER = sketch(7, width_px=800, size=400_000)
COPY = sketch(7, width_px=200, coarseness=3)
SMALL = sketch(7, width_px=100, coarseness=5)
DAY_NS = 24 * 3600 * 10**9


@pytest.fixture
def keeping(core: Core) -> Core:
    """A core that keeps originals for a week."""
    core.volume.configure(keep_originals_days=7)
    return core


def put(core: Core, **files: bytes) -> None:
    """Write files one after the other, each decided about before the next."""
    for name, data in files.items():
        core.put(name.encode(), data)
        core.filesystem.settle()


def restore(core: Core, name: bytes) -> None:
    core.filesystem.restore(core.filesystem.lookup(ROOT, name))


def split(core: Core, name: bytes) -> None:
    core.filesystem.split(core.filesystem.lookup(ROOT, name))


def content_id(core: Core, name: bytes) -> ContentId:
    content = core.volume.metadata.inode(core.filesystem.lookup(ROOT, name)).content
    assert content is not None
    return content


# Originals


@pytest.mark.parametrize("copy_first", [False, True])
def test_the_bytes_that_were_written_come_back(keeping: Core, copy_first: bool) -> None:
    files = {"copy": COPY, "photo": PHOTO} if copy_first else {"photo": PHOTO, "copy": COPY}
    put(keeping, **files, twin=COPY)
    assert keeping.read(b"copy") == rendition_of(COPY)
    restore(keeping, b"copy")
    assert keeping.read(b"copy") == keeping.read(b"twin") == COPY
    assert keeping.volume.kept.totals().files == 0
    put(keeping, better=BETTER)
    assert keeping.read(b"copy") == COPY, "what was restored stays"
    restore(keeping, b"copy")


def test_an_original_outlives_a_promotion(keeping: Core) -> None:
    put(keeping, small=SMALL, copy=COPY, photo=PHOTO, better=BETTER)
    assert keeping.counter("clusters") == 1
    for name, data in ((b"small", SMALL), (b"copy", COPY), (b"photo", PHOTO)):
        assert keeping.read(name) == rendition_of(data)
        restore(keeping, name)
        assert keeping.read(name) == data


class ExactingPool(SketchPool):
    """Notices when a rendition is what it was compared with."""

    def call(self, job: str, *arguments: Any) -> Any:
        answer = super().call(job, *arguments)
        if isinstance(answer, Fit):
            return dataclasses.replace(answer, bit_exact=rendition_of(arguments[0]) == arguments[0])
        return answer


@pytest.mark.parametrize("kept", [False, True])
def test_a_look_alike_does_not_become_what_was_written(volume_directory: Path, kept: bool) -> None:
    """A promotion compares with what the others read as when what was written is not known any more."""
    core = Core(volume_directory, ExactingPool())
    core.volume.configure(keep_originals_days=7 if kept else 0)
    put(core, copy=COPY, small=SMALL)
    core.filesystem.close()
    core = Core(volume_directory, ExactingPool())
    put(core, photo=PHOTO)
    content = core.content(b"small")
    assert isinstance(content, Rendition) and not content.bit_exact
    if kept:
        restore(core, b"small")
        assert core.read(b"small") == SMALL
    core.filesystem.close()


def test_without_being_asked_nothing_is_kept(core: Core) -> None:
    put(core, photo=PHOTO, copy=COPY)
    with pytest.raises(NoAttributeError):
        restore(core, b"copy")
    assert core.volume.kept.directory() is None


def test_what_is_exact_needs_no_original(keeping: Core) -> None:
    put(keeping, photo=PHOTO, notes=b"text")
    keeping.put(b"empty")
    for name in (b"photo", b"notes", b"empty"):
        restore(keeping, name)
        split(keeping, name)
    with pytest.raises(NotPermittedError):
        keeping.filesystem.restore(ROOT)


def test_a_rendition_to_the_last_byte_needs_none(keeping: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    put(keeping, photo=PHOTO)
    call = SketchPool.call

    def exact(pool: SketchPool, job: str, *arguments: object) -> object:
        answer = call(pool, job, *arguments)
        return dataclasses.replace(answer, bit_exact=True) if job == "fit" else answer

    monkeypatch.setattr(SketchPool, "call", exact)
    put(keeping, copy=COPY)
    assert keeping.is_rendition(b"copy")
    assert keeping.volume.kept.totals().files == 0


def test_originals_go_when_their_time_is_over(keeping: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    put(keeping, photo=PHOTO, copy=COPY)
    before = time.time_ns()
    until_ns = keeping.volume.kept.totals().first_until_ns
    assert until_ns is not None and 6 * DAY_NS < until_ns - before <= 7 * DAY_NS
    (kept,) = keeping.volume.kept.all()
    assert kept.inode.ctime_ns <= before, "by it a salvage tells the later of two commits"
    stored = keeping.counter("stored_bytes")
    monkeypatch.setattr("dedupfs.filesystem.undo.time.time_ns", lambda: before + 8 * DAY_NS)
    keeping.filesystem._undo.expire_now_and_then()
    assert keeping.volume.kept.totals().files == 1, "it was looked at a moment ago"
    keeping.filesystem._undo.expire()
    assert keeping.volume.kept.totals().files == 0
    assert keeping.counter("stored_bytes") < stored
    with pytest.raises(NoAttributeError):
        restore(keeping, b"copy")


@pytest.mark.parametrize("fsync", [False, True])
def test_the_same_bytes_again_are_kept_from_then_on(
    keeping: Core, monkeypatch: pytest.MonkeyPatch, fsync: bool
) -> None:
    put(keeping, photo=PHOTO, copy=COPY)
    now = time.time_ns()
    monkeypatch.setattr("dedupfs.ingest.settlement.time.time_ns", lambda: now + 5 * DAY_NS)
    keeping.put(b"again", COPY, fsync=fsync)
    keeping.filesystem.settle()
    until_ns = keeping.volume.kept.totals().first_until_ns
    assert until_ns is not None and until_ns - now >= 12 * DAY_NS


@pytest.mark.parametrize("names", [[b"copy"], [b"copy", b"photo"]])
def test_originals_go_with_the_last_file(keeping: Core, names: list[bytes]) -> None:
    put(keeping, photo=PHOTO, copy=COPY)
    for name in names:
        keeping.filesystem.unlink(ROOT, name)
    keeping.filesystem.settle()
    assert keeping.volume.kept.totals().files == 0


def test_nobody_sees_where_they_are(keeping: Core) -> None:
    filesystem = keeping.filesystem
    links = filesystem.attributes(ROOT).nlink
    put(keeping, photo=PHOTO, copy=COPY)
    assert [entry.name for entry in filesystem.list_directory(ROOT)[2:]] in ([b"photo", b"copy"], [b"copy", b"photo"])
    assert filesystem.attributes(ROOT).nlink == links
    figures = filesystem.figures()
    assert (figures["files"], figures["directories"], figures["logical_bytes"]) == (2, 1, len(PHOTO) + len(COPY))
    assert (figures["originals"], figures["original_bytes"]) == (1, len(COPY))
    for attempt in (
        lambda: filesystem.lookup(ROOT, DIRECTORY_NAME),
        lambda: filesystem.remove_directory(ROOT, DIRECTORY_NAME),
        lambda: filesystem.rename(ROOT, DIRECTORY_NAME, ROOT, b"shown"),
    ):
        with pytest.raises(EntryNotFoundError):
            attempt()
    for attempt in (
        lambda: filesystem.make_directory(ROOT, DIRECTORY_NAME, 0o755, 0, 0),
        lambda: filesystem.rename(ROOT, b"photo", ROOT, DIRECTORY_NAME),
    ):
        with pytest.raises(NotPermittedError):
            attempt()


def test_what_is_open_is_left_alone(keeping: Core) -> None:
    put(keeping, photo=PHOTO, copy=COPY, twin=COPY)
    for name in (b"copy", b"twin"):
        handle = keeping.open(name)
        for change in (restore, split):
            with pytest.raises(InUseError):
                change(keeping, b"copy")
        assert keeping.files.read(handle, 0, 1 << 20) == rendition_of(COPY)
        keeping.files.release(handle)


def test_the_kernel_drops_its_pages_of_what_comes_back(keeping: Core) -> None:
    put(keeping, photo=PHOTO, copy=COPY)
    for _ in range(2):
        handle = keeping.open(b"copy")
        keeps = keeping.files.handle(handle).keep_cache
        keeping.files.release(handle)
    assert keeps
    restore(keeping, b"copy")
    handle = keeping.open(b"copy")
    assert not keeping.files.handle(handle).keep_cache
    keeping.files.release(handle)


# Splitting


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("copy_comes_back_first", [False, True])
def test_what_was_split_is_never_merged_again(volume_directory: Path, kept: bool, copy_comes_back_first: bool) -> None:
    core = Core(volume_directory)
    core.volume.configure(keep_originals_days=7 if kept else 0)
    put(core, photo=PHOTO, copy=COPY)
    read = COPY if kept else rendition_of(COPY)
    split(core, b"copy")
    content = core.content(b"copy")
    assert isinstance(content, Exact) and content.state is ContentState.PICTURE
    assert core.read(b"copy") == read
    assert core.counter("clusters") == 2
    core.filesystem.unlink(ROOT, b"copy")
    if copy_comes_back_first:
        core.filesystem.unlink(ROOT, b"photo")
    core.filesystem.close()
    core = Core(volume_directory)
    put(core, copy=read, **({"photo": PHOTO} if copy_comes_back_first else {}))
    assert core.read(b"copy") == read
    assert core.read(b"photo") == PHOTO
    assert core.counter("clusters") == 2
    assert core.problems() == []
    core.filesystem.close()


def test_what_was_split_is_still_a_picture_for_others(core: Core) -> None:
    put(core, photo=PHOTO, copy=COPY)
    split(core, b"copy")
    put(core, small=SMALL)
    assert core.is_rendition(b"small")


def test_other_files_of_the_same_bytes_stay_as_they_are_where_nothing_better_is_kept(core: Core) -> None:
    put(core, photo=PHOTO, copy=COPY, twin=COPY)
    split(core, b"copy")
    assert core.read(b"copy") == core.read(b"twin") == rendition_of(COPY)
    assert not core.is_rendition(b"copy")
    assert core.is_rendition(b"twin")


def test_a_picture_outlives_what_it_was_split_from(core: Core) -> None:
    put(core, photo=PHOTO, copy=COPY)
    split(core, b"copy")
    core.filesystem.unlink(ROOT, b"photo")
    core.filesystem.settle()
    assert core.read(b"copy") == rendition_of(COPY)
    assert core.counter("clusters") == 1


# Crashes


@pytest.fixture
def crashed(volume_directory: Path) -> Iterator[Core]:
    """A core that is opened after a power cut, before which something had been undone."""
    core = Core(volume_directory)
    core.volume.configure(keep_originals_days=7)
    put(core, photo=PHOTO, copy=COPY, small=SMALL)
    restore(core, b"copy")
    split(core, b"small")
    core.crash()
    core = Core(volume_directory)
    yield core
    assert core.problems() == []
    core.filesystem.close()


def test_what_was_undone_outlives_a_crash(crashed: Core) -> None:
    assert crashed.read(b"copy") == COPY
    assert crashed.read(b"small") == SMALL
    assert crashed.volume.kept.totals().files == 0
