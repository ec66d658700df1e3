"""Tools that change pictures where they lie, and those that write files in ways of their own."""

from __future__ import annotations

import hashlib
import io
import os
import zlib
from pathlib import Path

import pytest
from PIL import Image

from tests.ecosystem.programs import kind, needs, run, settle
from tests.ingest.drawing import encoded, photo
from tests.mounting import MountedVolume, mark_fuse, open_descriptor

pytestmark = mark_fuse()


@pytest.fixture
def version(here: Path, shared: MountedVolume) -> Path:
    """A rendition on the mount, of `kept.jpg` beside it, which is nowhere else."""
    # Each test has a picture of its own: those of other directories would keep it alive.
    drawn = photo(zlib.crc32(here.name.encode()))
    smaller = drawn.resize((drawn.width // 2, drawn.height // 2), Image.Resampling.HAMMING)
    (here / "kept.jpg").write_bytes(encoded(drawn, quality=92))
    (here / "version.jpg").write_bytes(encoded(smaller, quality=80))
    settle(shared)
    assert kind(here / "version.jpg") == "rendition"
    return here / "version.jpg"


def _pixels(data: bytes) -> bytes:
    return Image.open(io.BytesIO(data)).tobytes()


@needs("exiftool")
@pytest.mark.parametrize("how", ["-overwrite_original", "-overwrite_original_in_place"])
def test_exiftool_tags_a_rendition(version: Path, shared: MountedVolume, how: str) -> None:
    before = version.read_bytes()
    run("exiftool", how, "-Artist=somebody", "-P", version)
    assert run("exiftool", "-s3", "-Artist", version).strip() == "somebody"
    assert _pixels(version.read_bytes()) == _pixels(before)
    tagged = version.read_bytes()
    settle(shared)
    assert run("exiftool", "-s3", "-Artist", version).strip() == "somebody"
    assert version.stat().st_size == len(tagged)


@needs("exiftool")
def test_exiftool_keeps_the_untagged_file_beside_it(version: Path) -> None:
    before = version.read_bytes()
    run("exiftool", "-Rating=5", version)
    assert version.with_name("version.jpg_original").read_bytes() == before


@needs("mogrify", "identify")
def test_mogrify_changes_a_picture_and_nothing_that_rests_on_it(version: Path, shared: MountedVolume) -> None:
    kept = version.with_name("kept.jpg")
    original, before = kept.read_bytes(), version.read_bytes()
    run("mogrify", "-modulate", "60", kept)
    changed = kept.read_bytes()
    assert changed != original
    settle(shared)
    assert version.read_bytes() == before
    assert kept.read_bytes() == changed

    run("mogrify", "-rotate", "90", version)
    turned = version.read_bytes()
    assert run("identify", "-format", "%w %h", version) == "180 240"
    settle(shared)
    assert version.read_bytes() == turned
    assert kind(version) == "picture"


@needs("ffmpeg")
def test_ffmpeg_writes_a_video_and_moves_its_index_to_the_front(here: Path, tmp_path: Path) -> None:
    drawn = ("-f", "lavfi", "-i", "testsrc=duration=2:size=320x240:rate=25", "-fflags", "+bitexact", "-threads", "1")
    made = ("-flags:v", "+bitexact", "-c:v", "mpeg4", "-movflags", "+faststart")
    for target in (tmp_path, here):
        run("ffmpeg", "-v", "error", *drawn, *made, target / "clip.mp4")
    assert (here / "clip.mp4").read_bytes() == (tmp_path / "clip.mp4").read_bytes()
    assert (here / "clip.mp4").read_bytes()[:100].find(b"moov") > 0
    assert run("ffmpeg", "-v", "error", "-ss", "1", "-i", here / "clip.mp4", "-f", "null", "-") == ""


def test_a_sidecar_is_written_anew_by_rename(version: Path) -> None:
    """As digiKam and darktable do: a temporary file beside it, then a rename over the old one."""
    sidecar = version.with_name(version.name + ".xmp")
    for rating in range(5):
        new = version.with_name(f".{version.name}.xmp.{rating}")
        new.write_text(f"<x:xmpmeta><rdf:Description xmp:Rating='{rating}'/></x:xmpmeta>")
        new.rename(sidecar)
        assert f"'{rating}'" in sidecar.read_text()
    assert sorted(path.name for path in version.parent.iterdir()) == ["kept.jpg", "version.jpg", "version.jpg.xmp"]


def test_a_synchroniser_renames_into_place(here: Path, shared: MountedVolume, library: Path) -> None:
    """As Syncthing does: written in blocks out of order, times set, synced, renamed, the directory synced.

    Then it looks whether size and time are still what it has noted.
    """
    data = (library / "rocket.jpg").read_bytes()
    blocks = [(start, data[start : start + 16384]) for start in range(0, len(data), 16384)]
    for name in ("rocket.jpg", "sub/rocket.jpg"):
        (here / name).parent.mkdir(exist_ok=True)
        temporary = (here / name).with_name(".syncthing.rocket.jpg.tmp")
        with open_descriptor(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600) as file:
            os.ftruncate(file, len(data))
            for start, block in reversed(blocks):
                os.pwrite(file, block, start)
            os.fsync(file)
        temporary.chmod(0o644)
        os.utime(temporary, ns=(10**18, 10**18 + 123_456_789))
        temporary.rename(here / name)
        with open_descriptor((here / name).parent, os.O_RDONLY | os.O_DIRECTORY) as directory:
            os.fsync(directory)
    settle(shared)
    for name in ("rocket.jpg", "sub/rocket.jpg"):
        status = (here / name).stat()
        assert (status.st_size, status.st_mtime_ns) == (len(data), 10**18 + 123_456_789)
        assert hashlib.sha256((here / name).read_bytes()).digest() == hashlib.sha256(data).digest()
    assert sorted(path.name for path in here.rglob("*")) == ["rocket.jpg", "rocket.jpg", "sub"]


def test_an_editor_saves_over_a_text(here: Path) -> None:
    """`sed -i` writes a file beside it, as most editors do."""
    (here / "list.txt").write_text("beach\nforest\n" * 1000)
    run("sed", "-i", "s/forest/mountain/", here / "list.txt")
    assert (here / "list.txt").read_text() == "beach\nmountain\n" * 1000
