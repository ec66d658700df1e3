"""A scan decides about ordinary files as a volume does, and leaves no trace."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedupfs.errors import SourceError, WorkerStartError
from dedupfs.ingest import sources
from dedupfs.ingest.groups import CopyKind, Look, rendition_kind
from dedupfs.ingest.nearest import NearestIndex
from dedupfs.ingest.scan import Scan
from dedupfs.ingest.workers import WorkerPool
from dedupfs.model import Fingerprint, PictureFormat, Policy
from dedupfs.storage.similarity import COMPLETE_RADIUS_BITS
from tests.conftest import examples
from tests.filesystem.core import BROKEN_SCENE, CRASHING_SCENE, Core, SketchPool, sketch
from tests.ingest.drawing import encoded, photo
from tests.volumes import make_volume


def scanned(folder: Path, pool: WorkerPool | None = None, policy: Policy = Policy.VERIFIED) -> Scan:
    scan = Scan(pool or SketchPool(), policy)
    scan.run([os.fsencode(folder)], lambda done, total: None)
    return scan


def placed(folder: Path, **files: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def partition(scan: Scan) -> set[tuple[bytes, frozenset[bytes]]]:
    """Return what rests on what, by name."""
    return {
        (os.path.basename(group.kept.path or b""), frozenset(os.path.basename(each.path) for each in group.versions))
        for group in scan.groups()
    }


# The same decisions as a volume


SKETCHES = st.tuples(st.integers(BROKEN_SCENE, 4), st.sampled_from([50, 100, 200]), st.integers(0, 2))
"""Arguments of `sketch`; their bytes would be too long to be shown."""
PLAIN = st.sampled_from([b"", b"text", b"texts", b"other"])


@given(st.lists(st.one_of(SKETCHES, PLAIN), max_size=9), st.sampled_from(Policy))
@settings(max_examples=examples(15))
def test_a_scan_foretells_what_a_volume_does(drawn: list[bytes | tuple[int, ...]], policy: Policy) -> None:
    files = [sketch(*each) if isinstance(each, tuple) else each for each in drawn]
    root = Path(tempfile.mkdtemp())
    core = Core(make_volume(root / "volume", policy), SketchPool())
    try:
        folder = placed(root / "folder", **{f"{at:02}": data for at, data in enumerate(files)})
        for at, data in enumerate(files):
            core.put(f"{at:02}".encode(), data)
            core.filesystem.settle()
        scan = scanned(folder, policy=policy)
        totals = scan.totals()
        counted = {name: core.counter(name) for name in ("files", "logical_bytes", "pictures", "clusters")}
        assert counted == {
            "files": totals.files,
            "logical_bytes": totals.size_bytes,
            "pictures": totals.pictures,
            "clusters": totals.clusters,
        }
        assert totals.stored_bytes == core.counter("stored_bytes")
        if policy is not Policy.OFF:
            assert totals.undecodable == core.counter("undecodable")
        renditions = {version.content for group in scan.groups() for version in group.versions if version.measured}
        assert len(renditions) == core.counter("renditions")
        duplicates = [v for group in scan.groups() for v in group.versions if v.kind is CopyKind.EXACT]
        assert len(duplicates) == core.counter("exact_duplicates")
    finally:
        core.filesystem.close()
        shutil.rmtree(root)


def test_versions_gather_around_the_best(tmp_path: Path) -> None:
    folder = placed(
        tmp_path / "in", a=sketch(7, 100, 5), b=sketch(7, 200, 3), c=sketch(7, 400), d=sketch(9), e=sketch(7, 100, 5)
    )
    scan = scanned(folder)
    assert partition(scan) == {(b"c", frozenset({b"a", b"b", b"e"}))}
    (group,) = scan.groups()
    assert {os.path.basename(each.path): each.kind for each in group.versions} == {
        b"a": CopyKind.RESIZED,
        b"b": CopyKind.RESIZED,
        b"e": CopyKind.EXACT,
    }
    assert scan.totals().clusters == 2


def test_threads_lose_nothing(tmp_path: Path) -> None:
    sketches = [sketch(scene, width, coarse) for scene in (5, 6) for width in (50, 100, 200) for coarse in (0, 1)]
    files = {f"{at:02}": sketches[at % len(sketches)] for at in range(36)}
    scan = scanned(placed(tmp_path / "in", **files), SketchPool(4))
    groups = scan.groups()
    named = [group.kept.path for group in groups] + [each.path for group in groups for each in group.versions]
    assert sorted(os.path.basename(path or b"").decode() for path in named) == sorted(files)
    assert len(named) == scan.totals().files == 36
    for group in groups:
        kept = Path(os.fsdecode(group.kept.path or b"")).read_bytes()
        assert all(Path(os.fsdecode(each.path)).read_bytes()[:6] == kept[:6] for each in group.versions)


def test_real_pictures_by_kind_of_copy(tmp_path: Path) -> None:
    image = photo(3)
    jpeg = encoded(image, quality=92)
    folder = placed(
        tmp_path / "in",
        a=jpeg,
        exact=jpeg,
        metadata=jpeg[:2] + b"\xff\xfe\x00\x07hello" + jpeg[2:],
        recompressed=encoded(image, quality=60),
        resized=encoded(image.resize((240, 180)), quality=80),
        stranger=encoded(photo(4), quality=90),
    )
    pool = WorkerPool(1)
    try:
        scan = scanned(folder, pool)
    finally:
        pool.close()
    (group,) = scan.groups()
    assert os.path.basename(group.kept.path or b"") == b"a"
    kinds = {os.path.basename(each.path).decode(): each.kind.value for each in group.versions}
    assert kinds == {name: name for name in ("exact", "metadata", "recompressed", "resized")}
    assert all(each.saved_bytes > 0.8 * each.size for each in group.versions)


def test_a_format_that_changed_counts_only_where_the_size_did_not() -> None:
    jpeg = Look(PictureFormat.JPEG, 400, 300)
    assert rendition_kind(jpeg, Look(PictureFormat.WEBP, 400, 300)) is CopyKind.CONVERTED
    assert rendition_kind(jpeg, Look(PictureFormat.WEBP, 200, 150)) is CopyKind.RESIZED
    assert rendition_kind(jpeg, Look(PictureFormat.JPEG, 300, 400)) is CopyKind.RECOMPRESSED


# What goes wrong on the way


def test_what_does_not_decode_is_counted_and_kept(tmp_path: Path) -> None:
    folder = placed(tmp_path / "in", a=sketch(BROKEN_SCENE), b=sketch(BROKEN_SCENE), c=sketch(CRASHING_SCENE))
    scan = scanned(folder)
    assert scan.totals().undecodable == 3
    assert partition(scan) == {(b"a", frozenset({b"b"}))}


def test_a_picture_that_changes_meanwhile_is_not_rested_upon(tmp_path: Path) -> None:
    folder = placed(tmp_path / "in", a=sketch(7, 200), b=sketch(7, 100))

    class Changing(SketchPool):
        def call(self, job: str, *arguments: Any) -> Any:
            if self.calls == ["inspect"]:
                (folder / "a").write_bytes(sketch(8))
                scan._originals = type(scan._originals)(0)
            return super().call(job, *arguments)

    scan = Scan(Changing())
    scan.run([os.fsencode(folder)], lambda done, total: None)
    assert scan.groups() == []
    assert scan.totals().clusters == 2


def test_a_file_that_goes_meanwhile_is_named(tmp_path: Path) -> None:
    folder = placed(tmp_path / "in", a=sketch(7, 200), b=sketch(7, 100))

    class Removing(SketchPool):
        def call(self, job: str, *arguments: Any) -> Any:
            (folder / "b").unlink(missing_ok=True)
            return super().call(job, *arguments)

    scan = scanned(folder, Removing())
    assert scan.unreadable == [os.fsencode(folder / "b")]
    assert scan.totals().files == 1


def test_no_worker_ends_the_scan(tmp_path: Path) -> None:
    class Dead(SketchPool):
        def call(self, job: str, *arguments: Any) -> Any:
            raise WorkerStartError("none")

    with pytest.raises(WorkerStartError):
        scanned(placed(tmp_path / "in", a=sketch(7)), Dead())
    assert not any(thread.name.startswith("parallel-") for thread in threading.enumerate())


# Finding files


def test_every_file_is_found_once_in_order_and_nothing_else(tmp_path: Path) -> None:
    folder = placed(tmp_path / "in", b=b"b", a=b"a")
    placed(folder / "ab", c=b"c")
    os.link(folder / "a", folder / "z")
    os.symlink(folder / "b", folder / "link")
    os.symlink(folder, folder / "loop")
    os.mkfifo(folder / "pipe")
    unreadable: list[bytes] = []
    asked = [os.fsencode(path) for path in (folder, folder / "ab", folder / "missing", folder / "loop")]
    found = [os.path.relpath(source.path, os.fsencode(folder)) for source in sources.walk(asked, unreadable.append)]
    assert found == [b"a", b"b", b"ab/c"]
    assert unreadable == [os.fsencode(folder / "missing")]


def test_reading_leaves_no_trace(tmp_path: Path) -> None:
    folder = placed(tmp_path / "in", a=sketch(7, 200), b=sketch(7, 100), c=b"same", d=b"same")
    for path in folder.iterdir():
        os.utime(path, ns=(1, 2))
    before = {path: path.stat() for path in [folder, *folder.iterdir()]}
    scanned(folder)
    assert {path: path.stat() for path in [folder, *folder.iterdir()]} == before


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.symlink("/etc/hostname", tmp_path / "link")
    for name in ("pipe", "link"):
        with pytest.raises(SourceError):
            sources.digest(os.fsencode(tmp_path / name))


# Fingerprints in memory


def test_the_nearest_are_found_and_the_removed_are_not() -> None:
    index = NearestIndex()
    zero = Fingerprint(bytes(32))

    def with_bits(count: int) -> Fingerprint:
        return Fingerprint(((1 << count) - 1).to_bytes(32, "big"))

    far = index.add(with_bits(COMPLETE_RADIUS_BITS + 1))
    near = index.add(with_bits(COMPLETE_RADIUS_BITS))
    same = index.add(zero)
    index.add(None)
    for _ in range(2000):
        index.add(Fingerprint(b"\xff" * 32))
    assert index.lookup(zero) == [(same, 0), (near, COMPLETE_RADIUS_BITS)]
    index.remove(same)
    assert [cluster for cluster, _ in index.lookup(zero)] == [near]
    assert (far, 1) in index.lookup(with_bits(COMPLETE_RADIUS_BITS))


def test_another_radius_finds_more_or_less() -> None:
    bits = Fingerprint(((1 << 20) - 1).to_bytes(32, "big"))
    found = []
    for radius_bits in (0, 19, 20, 40):
        index = NearestIndex(radius_bits)
        index.add(Fingerprint(bytes(32)))
        found.append([distance for _, distance in index.lookup(bits)])
    assert found == [[], [], [20], [20]]
