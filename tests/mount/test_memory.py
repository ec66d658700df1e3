"""`-o memory=`: what is larger than the memory goes in and comes back, within it."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_memory import Watch
from PIL import Image

from tests.ingest.drawing import encoded, photo
from tests.mounting import MountedVolume, dedupfs, mark_fuse
from tests.volumes import make_volume

pytestmark = mark_fuse()

MEMORY_MB = 256
LARGE_MB = 300


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[MountedVolume]:
    """A volume that is not mounted yet."""
    mounted = MountedVolume(make_volume(tmp_path / "volume"), tmp_path / "mount", tmp_path / "log")
    try:
        yield mounted
    finally:
        mounted.destroy()
    assert mounted.unexpected_messages() == []


def test_more_than_the_memory_goes_in_and_comes_back_within_it(volume: MountedVolume, tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    sources.mkdir()
    piece = os.urandom(1 << 20)
    with (sources / "video.mp4").open("wb") as file:
        for number in range(LARGE_MB):
            file.write(number.to_bytes(8, "big") + piece)
    picture = photo(3, (2600, 2000))
    (sources / "photo.jpg").write_bytes(encoded(picture, quality=92))
    (sources / "again.jpg").write_bytes(encoded(picture, quality=80, progressive=True))
    (sources / "small.jpg").write_bytes(encoded(picture.resize((800, 615), Image.Resampling.LANCZOS), quality=85))
    volume.mount("-o", f"memory={MEMORY_MB}M")
    watch = Watch(volume.pid)
    copies = [
        threading.Thread(target=subprocess.run, args=(["cp", sources / name, volume.path],))
        for name in ("video.mp4", "photo.jpg", "again.jpg", "small.jpg")
    ]
    for copy in copies:
        copy.start()
    for copy in copies:
        copy.join()
    volume.settle()
    watch.stop()
    assert watch.count > 3
    assert watch.peak.total < MEMORY_MB * 1_000_000
    # Two of this size are not compared with so little memory, and somebody who asks is told so.
    done = dedupfs("why", volume.path / "again.jpg", "--json")
    answer = json.loads(done.stdout)
    assert answer["kind"] == "picture"
    assert {each["reason"] for each in answer["comparisons"]} == {"memory"}
    assert "of memory" in answer["comparisons"][0]["outcome"]
    for name in ("video.mp4", "photo.jpg", "again.jpg"):
        assert subprocess.run(["cmp", sources / name, volume.path / name], check=False).returncode == 0
    with Image.open(volume.path / "small.jpg") as small:
        small.load()
        assert small.size == (800, 615)
    volume.umount()
    volume.assert_clean()


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ("lots", "the mount option memory is not a size such as 512M or 2G: lots"),
        ("64M", "memory=64000000 is too little: a mount needs at least 256M"),
    ],
)
def test_senseless_sizes_are_refused_in_one_line(volume: MountedVolume, size: str, said: str) -> None:
    done = dedupfs("mount", volume.volume, volume.path, "-o", f"memory={size}")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"dedupfs: {said}\n")
