"""What a user relies on: pictures go in with `cp -a`, come back as they were, and cost next to nothing twice."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.Image import Exif

from dedupfs.model import Policy
from tests.ingest.drawing import encoded, photo, resized
from tests.mounting import MountedVolume, mark_fuse
from tests.volumes import make_volume

pytestmark = mark_fuse()

MTIME_NS = 1_500_000_000_123_456_789
SEED = 11
STRANGER_SEED = 12


def _exif(text: str) -> Exif:
    exif = Image.Exif()
    exif[0x010E] = text
    exif[0x010F] = "Drawing Machines"
    return exif


def _collection() -> dict[str, bytes]:
    """Return a photo, versions of it, a stranger and two files that are no pictures, by name."""
    original = photo(SEED, (800, 600))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    camera = encoded(original, quality=92, exif=_exif("as shot"), icc_profile=profile)
    shot = Image.open(io.BytesIO(camera))
    shot.load()
    return {
        "original.jpg": camera,
        "identical.jpg": camera,
        "retagged.jpg": _retagged(camera, "holiday"),
        "resized.jpg": encoded(resized(shot, 0.5), quality=85, exif=_exif("smaller"), icc_profile=profile),
        "recompressed.jpg": encoded(shot, quality=70),
        "copy.png": encoded(shot, "PNG"),
        "stranger.jpg": encoded(photo(STRANGER_SEED, (800, 600)), quality=90),
        "notes.txt": b"written by hand\n" * 100,
        "clip.mov": np.random.default_rng(1).bytes(700_000),
        "empty": b"",
    }


def _retagged(jpeg: bytes, text: str) -> bytes:
    """Return the file with another description, its coded image untouched."""
    out = io.BytesIO()
    body = jpeg.index(b"\xff\xdb")
    out.write(jpeg[:2])
    tags = b"Exif\0\0" + _exif(text).tobytes().removeprefix(b"Exif\0\0")
    out.write(b"\xff\xe1" + (len(tags) + 2).to_bytes(2, "big") + tags)
    out.write(jpeg[body:])
    return out.getvalue()


VERSIONS = {"original.jpg", "identical.jpg", "retagged.jpg", "resized.jpg", "recompressed.jpg", "copy.png"}
RENDITIONS = {"resized.jpg", "recompressed.jpg", "copy.png"}


@dataclass
class Library:
    """A volume into which the collection was copied and which was unmounted since."""

    mounted: MountedVolume
    source: Path
    files: dict[str, bytes]


def _write_source(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for number, (name, data) in enumerate(files.items()):
        path = folder / name
        path.write_bytes(data)
        path.chmod(0o640)
        os.utime(path, ns=(MTIME_NS, MTIME_NS + number))
    return folder


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", f"{source}/.", target], check=True)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    folder = tmp_path_factory.mktemp("library")
    mounted = MountedVolume(make_volume(folder / "volume"), folder / "mount", folder / "log")
    files = _collection()
    source = _write_source(folder / "source", files)
    try:
        mounted.mount()
        _copy(source, mounted.path)
        mounted.umount()
        yield Library(mounted, source, files)
    finally:
        mounted.destroy()
    assert mounted.unexpected_messages() == []


def test_the_statistics_say_what_was_saved(library: Library) -> None:
    stats = library.mounted.report("stats")
    wanted = {
        "files": len(library.files),
        "directories": 1,
        "logical_bytes": sum(map(len, library.files.values())),
        "pictures": len(VERSIONS) + 1,
        "clusters": 2,
        "representatives": 2,
        "renditions": len(RENDITIONS),
        "exact_duplicates": 1,
        "undecided": 0,
        "undecodable": 0,
        "policy": "verified",
    }
    assert {name: stats[name] for name in wanted} == wanted
    kept = len(library.files["original.jpg"]) + len(library.files["stranger.jpg"]) + len(library.files["clip.mov"])
    assert stats["stored_bytes"] < kept * 1.2
    assert stats["dedup_ratio"] == round(stats["logical_bytes"] / stats["stored_bytes"], 4)
    assert stats["database_bytes"] >= stats["stored_bytes"]


def test_every_picture_is_in_one_cluster_once(library: Library) -> None:
    clusters = library.mounted.report("clusters")
    members = sorted({member["path"] for member in cluster["members"]} for cluster in clusters)
    assert sorted(members, key=len) == [{"stranger.jpg"}, VERSIONS]
    assert sum(len(cluster["members"]) for cluster in clusters) == len(VERSIONS) + 1
    large = max(clusters, key=lambda cluster: len(cluster["members"]))
    assert large["representative"] in {"original.jpg", "identical.jpg"}
    assert {member["path"] for member in large["members"] if member["kind"] == "rendition"} == RENDITIONS


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("original.jpg", {"kind": "picture", "exact_duplicates": 1, "bit_exact": True}),
        ("stranger.jpg", {"kind": "picture", "representative": "stranger.jpg", "exact_duplicates": 0}),
        ("notes.txt", {"kind": "plain", "cluster": None, "representative": None}),
        ("empty", {"kind": "plain", "stored_bytes": 0, "size": 0}),
    ],
)
def test_why_explains_a_file_that_is_kept_exactly(library: Library, name: str, wanted: dict[str, object]) -> None:
    answer = library.mounted.report("why", name)
    assert answer["path"] == name
    assert answer["size"] == len(library.files[name])
    assert {key: answer[key] for key in wanted} == wanted


@pytest.mark.parametrize("name", sorted(RENDITIONS))
def test_why_explains_a_rendition(library: Library, name: str) -> None:
    answer = library.mounted.report("why", name)
    assert answer["kind"] == "rendition"
    assert answer["representative"] in {"original.jpg", "identical.jpg"}
    assert 0 <= answer["distance_bits"] <= 15
    assert 0 <= answer["max_luma_difference"] <= 12
    assert answer["stored_bytes"] < len(library.files[name]) / 5


def test_the_volume_is_sound(library: Library) -> None:
    library.mounted.assert_clean()


def test_everything_reads_back_as_it_was(library: Library) -> None:
    path = library.mounted.mount()
    try:
        for name, data in library.files.items():
            before, after = (library.source / name).stat(), (path / name).stat()
            for field in ("st_size", "st_mtime_ns", "st_mode", "st_uid", "st_gid", "st_nlink"):
                assert getattr(after, field) == getattr(before, field), (name, field)
            read = (path / name).read_bytes()
            if name not in RENDITIONS:
                assert read == data, name
                continue
            _assert_same_picture(name, read, data)
    finally:
        library.mounted.umount()


def _assert_same_picture(name: str, read: bytes, written: bytes) -> None:
    with Image.open(io.BytesIO(read)) as after, Image.open(io.BytesIO(written)) as before:
        assert (after.format, after.size, after.mode) == (before.format, before.size, before.mode), name
        assert after.getexif() == before.getexif(), name
        assert after.info.get("icc_profile") == before.info.get("icc_profile"), name
        difference = np.abs(np.asarray(after, dtype=np.int16) - np.asarray(before, dtype=np.int16))
        assert difference.mean() < 2, name
        assert difference.max() < 60, name


def test_nothing_that_was_written_can_be_read_on_the_disk(library: Library) -> None:
    """No name, no maker, no text, and no 16 bytes in a row of any file."""
    disk = b"".join(path.read_bytes() for path in library.mounted.volume.iterdir())
    for name in library.files:
        assert len(name) < 6 or name.encode() not in disk
    assert b"Drawing Machines" not in disk
    runs = {data[at : at + 16] for data in library.files.values() for at in range(0, len(data) - 15, 997)}
    runs.discard(bytes(16))
    # One pass of a set of all windows would take long in Python; these are many enough to notice plain storage.
    assert not [run for run in runs if run in disk]


# The other order, and later changes


def test_originals_that_come_last_become_the_representatives(mounted: MountedVolume, tmp_path: Path) -> None:
    files = _collection()
    early = {"resized.jpg", "copy.png", "stranger.jpg"}
    late = {"original.jpg", "identical.jpg", "retagged.jpg"}
    _copy(_write_source(tmp_path / "first", {name: files[name] for name in early}), mounted.path)
    mounted.remount()
    _copy(_write_source(tmp_path / "then", {name: files[name] for name in late}), mounted.path)
    mounted.umount()
    stats = mounted.report("stats")
    assert (stats["clusters"], stats["renditions"], stats["undecided"]) == (2, 2, 0)
    large = max(mounted.report("clusters"), key=lambda cluster: len(cluster["members"]))
    assert large["representative"] in late
    mounted.assert_clean()
    mounted.mount()
    for name in late:
        assert (mounted.path / name).read_bytes() == files[name]


def test_differences_do_not_add_up_from_one_better_version_to_the_next(mounted: MountedVolume) -> None:
    files = _collection()
    for name in ("resized.jpg", "recompressed.jpg", "copy.png", "original.jpg"):
        (mounted.path / name).write_bytes(files[name])
        mounted.settle()
    mounted.umount()
    (cluster,) = mounted.report("clusters")
    assert (cluster["representative"], len(cluster["members"])) == ("original.jpg", 4)
    mounted.assert_clean()


def test_a_changed_rendition_is_a_file_like_any_other(mounted: MountedVolume) -> None:
    original = photo(SEED, (640, 480))
    (mounted.path / "original.jpg").write_bytes(encoded(original, quality=92))
    paths = {change: mounted.path / f"{change}.jpg" for change in ("edit", "truncate", "append")}
    for number, path in enumerate(paths.values()):
        path.write_bytes(encoded(resized(original, 0.6 + number / 10), quality=80))
    mounted.settle()
    renditions = {change: path.read_bytes() for change, path in paths.items()}
    with paths["edit"].open("r+b", buffering=0) as file:
        file.seek(40)
        file.write(b"EDIT")
    os.truncate(paths["truncate"], 1000)
    with paths["append"].open("ab", buffering=0) as file:
        file.write(b"appended")
    wanted = {
        "edit": renditions["edit"][:40] + b"EDIT" + renditions["edit"][44:],
        "truncate": renditions["truncate"][:1000],
        "append": renditions["append"] + b"appended",
    }
    assert {change: path.read_bytes() for change, path in paths.items()} == wanted
    mounted.remount()
    assert {change: path.stat().st_size for change, path in paths.items()} == {
        change: len(data) for change, data in wanted.items()
    }
    assert paths["truncate"].read_bytes() == wanted["truncate"]
    mounted.umount()
    stats = mounted.report("stats")
    assert (stats["undecodable"], stats["undecided"]) == (1, 0)
    mounted.assert_clean()


def test_a_picture_replaced_by_a_copy_of_another_is_considered_anew(mounted: MountedVolume) -> None:
    original = photo(SEED, (640, 480))
    (mounted.path / "original.jpg").write_bytes(encoded(original, quality=92))
    path = mounted.path / "other.jpg"
    path.write_bytes(encoded(photo(STRANGER_SEED, (640, 480)), quality=80))
    mounted.settle()
    path.write_bytes(encoded(resized(original, 0.6), quality=80))
    mounted.umount()
    assert mounted.report("why", "other.jpg")["representative"] == "original.jpg"
    assert mounted.report("stats")["clusters"] == 1


def test_an_open_file_reads_exact_bytes_until_it_is_closed(mounted: MountedVolume) -> None:
    original = photo(SEED, (640, 480))
    written = encoded(resized(original, 0.6), quality=80)
    path = mounted.path / "copy.jpg"
    path.write_bytes(written)
    with path.open("rb", buffering=0) as reader:
        first = reader.read(1000)
        (mounted.path / "original.jpg").write_bytes(encoded(original, quality=92))
        mounted.settle()
        # Past what the kernel has read ahead, and again from the beginning, beside a second reader.
        os.posix_fadvise(reader.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert first + reader.read() == written
        assert path.read_bytes() == written
    mounted.settle()
    rendition = path.read_bytes()
    assert len(rendition) == len(written)
    with path.open("rb", buffering=0) as reader:
        os.posix_fadvise(reader.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert reader.read() == rendition, "pages from before the decision were mixed in"
    mounted.umount()
    assert mounted.report("why", "copy.jpg")["kind"] == "rendition"


def test_times_set_while_a_decision_is_due_stay(mounted: MountedVolume) -> None:
    for number in range(3):
        path = mounted.path / f"{number}.jpg"
        path.write_bytes(encoded(resized(photo(SEED, (640, 480)), 1 - number / 10), quality=80))
        os.utime(path, ns=(MTIME_NS, MTIME_NS + number))
    mounted.settle()
    mounted.remount()
    assert [(mounted.path / f"{number}.jpg").stat().st_mtime_ns - MTIME_NS for number in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("policy", [Policy.OFF])
def test_without_deduplication_every_picture_is_kept_exactly(mounted: MountedVolume, tmp_path: Path) -> None:
    files = _collection()
    _copy(_write_source(tmp_path / "source", files), mounted.path)
    mounted.remount()
    for name, data in files.items():
        assert (mounted.path / name).read_bytes() == data
    mounted.umount()
    stats = mounted.report("stats")
    assert (stats["policy"], stats["renditions"], stats["clusters"], stats["undecided"]) == ("off", 0, 0, 0)
    assert stats["exact_duplicates"] == 1


@pytest.mark.parametrize("policy", [Policy.PERCEPTUAL])
def test_the_perceptual_policy_asks_for_fingerprint_and_aspect_only(mounted: MountedVolume) -> None:
    original = photo(SEED, (640, 480))
    (mounted.path / "original.jpg").write_bytes(encoded(original, quality=92))
    brighter = Image.fromarray((np.asarray(original, dtype=np.float32) * 0.9 + 25).astype(np.uint8))
    (mounted.path / "brighter.jpg").write_bytes(encoded(resized(brighter, 0.6), quality=80))
    (mounted.path / "stranger.jpg").write_bytes(encoded(photo(STRANGER_SEED, (640, 480)), quality=90))
    size = (mounted.path / "brighter.jpg").stat().st_size
    mounted.remount()
    assert (mounted.path / "brighter.jpg").stat().st_size == size
    with Image.open(mounted.path / "brighter.jpg") as image:
        assert image.size == (384, 288)
        image.load()
    mounted.umount()
    stats = mounted.report("stats")
    assert (stats["policy"], stats["renditions"], stats["clusters"]) == ("perceptual", 1, 2)
    mounted.assert_clean()
