"""What goes wrong in a life with files: bad pictures, large files, full disks, crashes, locked and missing volumes."""

from __future__ import annotations

import errno
import io
import os
import re
import resource
import signal
import struct
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.ingest.drawing import encoded, photo, resized
from tests.mounting import (
    PATIENCE_SECONDS,
    MountedVolume,
    dedupfs,
    in_process,
    is_running,
    mark_fuse,
    open_descriptor,
)
from tests.volumes import make_volume

pytestmark = mark_fuse()

MEGABYTE = 1 << 20


def wait_for(happened: Callable[[], bool]) -> None:
    """Return when it has happened."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _png_header(width_px: int, height_px: int) -> bytes:
    """Return the beginning of a PNG that claims any size."""
    header = struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    pixels = zlib.compress(bytes(10_000))
    data = struct.pack(">I", len(pixels)) + b"IDAT" + pixels + struct.pack(">I", zlib.crc32(b"IDAT" + pixels))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data


def test_bad_pictures_are_kept_exactly(mounted: MountedVolume) -> None:
    jpeg = encoded(photo(1), quality=90)
    noise = np.random.default_rng(3).bytes(30_000)
    undecodable = {
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "header and noise.jpg": jpeg[:700] + noise,
        "three bytes.jpg": b"\xff\xd8\xff",
        "cut.png": encoded(photo(2), "PNG")[:20_000],
        "bomb.png": _png_header(60_000, 60_000),
        "short.webp": b"RIFF\x10\x00\x00\x00WEBPVP8 ",
    }
    others = {
        "empty.jpg": b"",
        "zeros.jpg": bytes(50_000),
        "text.jpg": b"no picture at all",
        "picture.txt": jpeg,
    }
    files = undecodable | others
    for name, data in files.items():
        (mounted.path / name).write_bytes(data)
    mounted.settle()
    assert [name for name, data in files.items() if (mounted.path / name).read_bytes() != data] == []
    mounted.remount()
    assert [name for name, data in files.items() if (mounted.path / name).read_bytes() != data] == []
    mounted.umount()
    stats = mounted.report("stats")
    assert (stats["undecided"], stats["renditions"]) == (0, 0)
    assert stats["undecodable"] == len(undecodable)
    mounted.assert_clean()


def test_a_large_file_streams_through(mounted: MountedVolume) -> None:
    """Memory is bounded by the spools' budget and the caches, not by the file."""
    size_mb = 400
    block = np.random.default_rng(5).bytes(MEGABYTE)
    path = mounted.path / "clip.mov"

    def piece(number: int) -> bytes:
        return struct.pack(">Q", number) + block[8:]

    with open_descriptor(path, os.O_WRONLY | os.O_CREAT) as file:
        for number in range(size_mb):
            assert os.write(file, piece(number)) == MEGABYTE
    with open_descriptor(path, os.O_RDONLY) as file:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        for number in range(size_mb):
            assert os.pread(file, MEGABYTE, number * MEGABYTE) == piece(number)
    assert _peak_mb(mounted.pid) < 320
    mounted.umount()
    assert mounted.report("stats")["logical_bytes"] == size_mb * MEGABYTE


def _peak_mb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) // 1024
    raise AssertionError("the kernel does not tell the peak")


def test_reading_and_listing_while_copying(mounted: MountedVolume) -> None:
    wanted: dict[str, bytes] = {}
    stop = threading.Event()
    failures: list[str] = []

    def read() -> None:
        while not stop.is_set():
            for path in mounted.path.iterdir():
                data = wanted.get(path.name)
                if data is not None and len(path.read_bytes()) != len(data):
                    failures.append(path.name)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(12):
            original = photo(number // 4)
            data = encoded(resized(original, 1 - number % 4 / 10), quality=90 - number % 4 * 5)
            (mounted.path / f"{number}.jpg").write_bytes(data)
            wanted[f"{number}.jpg"] = data
        mounted.settle()
    finally:
        stop.set()
        reader.join()
    assert failures == []
    mounted.umount()
    assert mounted.report("stats")["undecided"] == 0
    for cluster in mounted.report("clusters"):
        shown = {int(member["path"].removesuffix(".jpg")) // 4 for member in cluster["members"]}
        assert len(shown) == 1, "two different pictures were taken for one"
    mounted.assert_clean()


# Crashes


def test_a_crash_in_the_middle_of_a_copy(mounted: MountedVolume) -> None:
    written: dict[str, bytes] = {}
    finished: set[str] = set()
    under_way = threading.Event()
    # Relative to this, nothing can end up in the bare directory below the mount.
    folder = os.open(mounted.path, os.O_RDONLY | os.O_DIRECTORY)

    def copy() -> None:
        for number in range(10_000):
            if number % 2:
                name, data = f"{number}.jpg", encoded(resized(photo(number % 3), 1 - number % 20 / 40), quality=85)
            else:
                name, data = f"{number}.bin", np.random.default_rng(number).bytes(200_000 + number)
            written[name] = data
            try:
                file = os.open(name, os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=folder)
                os.write(file, data)
                if number % 5 == 0:
                    os.fsync(file)
                    finished.add(name)
                os.close(file)
            except OSError:
                return
            if number == 25:
                under_way.set()

    copier = threading.Thread(target=copy)
    copier.start()
    try:
        assert under_way.wait(60)
        os.kill(mounted.pid, signal.SIGKILL)
        copier.join()
    finally:
        os.close(folder)
    mounted.kill()
    assert len(finished) >= 5
    mounted.assert_clean()
    mounted.mount()
    there = {path.name: path.read_bytes() for path in mounted.path.iterdir()}
    assert finished <= there.keys()
    assert [name for name, data in there.items() if len(data) != len(written[name])] == []
    assert [name for name, data in there.items() if name.endswith(".bin") and data != written[name]] == []
    mounted.umount()
    assert mounted.report("stats")["undecided"] == 0
    mounted.assert_clean()


def test_what_was_fsynced_is_there_bit_for_bit_after_a_crash(mounted: MountedVolume) -> None:
    data = encoded(photo(4), quality=90)
    file = os.open(mounted.path / "new.jpg", os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(file, data)
    os.fsync(file)
    mounted.kill()
    with pytest.raises(OSError, match="not connected"):
        os.close(file)
    mounted.mount()
    assert (mounted.path / "new.jpg").read_bytes() == data


def test_a_replaced_file_is_old_or_new_after_a_crash(mounted: MountedVolume) -> None:
    """What editors do: write beside, rename over. Without fsync either file may be there, and never none."""
    path = mounted.path / "settings"
    path.write_bytes(b"old")
    mounted.settle()
    (mounted.path / "settings.new").write_bytes(b"new")
    os.rename(mounted.path / "settings.new", path)
    mounted.kill()
    mounted.mount()
    assert path.read_bytes() in (b"old", b"new")


def test_a_dead_mount_is_no_empty_folder(mounted: MountedVolume) -> None:
    (mounted.path / "file").write_bytes(b"bytes")
    mounted.settle()
    mounted.kill(clear=False)
    with pytest.raises(OSError, match=r"not connected|connection abort"):
        list(mounted.path.iterdir())
    for command in (("stats", mounted.path), ("mount", mounted.volume, mounted.path)):
        done = dedupfs(*command)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "umount clears it away" in done.stderr
    assert dedupfs("umount", mounted.path).returncode == 0
    assert list(mounted.path.iterdir()) == []
    mounted.mount()
    assert (mounted.path / "file").read_bytes() == b"bytes"


# Full disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own with little room."""
    path = tmp_path / "disk"
    path.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_loses_nothing(small_disk: Path, tmp_path: Path) -> None:
    mounted = MountedVolume(make_volume(small_disk / "volume"), tmp_path / "mount", tmp_path / "log")
    mounted.expected_in_log = ["disk below the volume is full", "no space left"]
    try:
        mounted.mount()
        written: dict[str, bytes] = {}
        refused = 0
        for number in range(40):
            data = np.random.default_rng(number).bytes(MEGABYTE)
            name = f"{number}.bin"
            try:
                with open_descriptor(mounted.path / name, os.O_WRONLY | os.O_CREAT) as file:
                    for at in range(0, MEGABYTE, 128 << 10):
                        os.write(file, data[at : at + (128 << 10)])
                    os.fsync(file)
                written[name] = data
            except OSError as exc:
                if exc.errno != errno.ENOSPC:
                    raise
                refused += 1
                if refused == 3:
                    break
        assert refused == 3
        assert len(written) >= 12
        assert [name for name, data in written.items() if (mounted.path / name).read_bytes() != data] == []
        for name in [path.name for path in mounted.path.iterdir() if path.name not in written]:
            (mounted.path / name).unlink()
        for name in sorted(written)[:4]:
            (mounted.path / name).unlink()
            del written[name]
        for number in range(2):
            data = np.random.default_rng(100 + number).bytes(MEGABYTE)
            (mounted.path / f"new {number}").write_bytes(data)
            written[f"new {number}"] = data
        mounted.remount()
        assert {path.name for path in mounted.path.iterdir()} == written.keys()
        assert [name for name, data in written.items() if (mounted.path / name).read_bytes() != data] == []
        mounted.umount()
        mounted.assert_clean()
    finally:
        mounted.destroy()
    assert mounted.unexpected_messages() == []


def test_pictures_on_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    """They wait in memory for their decisions, so the room has to be reserved when they are written."""
    mounted = MountedVolume(make_volume(small_disk / "volume"), tmp_path / "mount", tmp_path / "log")
    mounted.expected_in_log = ["disk below the volume is full", "no space left"]
    try:
        mounted.mount()
        written: dict[str, int] = {}
        full = False
        picture = encoded(photo(9, (1600, 1200)), "PNG")
        out = io.BytesIO(picture)
        for number in range(40):
            # The same pixels in other files: each its own content until it is decided about.
            data = out.getvalue() + number.to_bytes(4, "big")
            try:
                (mounted.path / f"{number}.png").write_bytes(data)
                written[f"{number}.png"] = len(data)
            except OSError as exc:
                if exc.errno != errno.ENOSPC:
                    raise
                (mounted.path / f"{number}.png").unlink()
                full = True
                break
        mounted.umount()
        mounted.assert_clean()
        mounted.mount()
        assert {path.name: path.stat().st_size for path in mounted.path.iterdir()} == written
        assert full or len(written) == 40
        for name in written:
            assert (mounted.path / name).read_bytes().startswith(picture[:1000])
        mounted.umount()
    finally:
        mounted.destroy()
    assert mounted.unexpected_messages() == []


def fill(disk: Path, *, but_bytes: int) -> Path:
    """Leave so little room on a disk, by a file that somebody else put there."""
    filler = disk / "filler"
    room = os.statvfs(disk)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - but_bytes)
    return filler


@pytest.fixture
def on_small_disk(small_disk: Path, tmp_path: Path) -> Iterator[MountedVolume]:
    mounted = MountedVolume(make_volume(small_disk / "volume"), tmp_path / "mount", tmp_path / "log")
    mounted.expected_in_log = ["disk below the volume is full", "no space left", "the disk is full"]
    try:
        mounted.mount()
        yield mounted
    finally:
        mounted.destroy()
    assert mounted.unexpected_messages() == []


def test_umount_says_so_when_the_last_changes_cannot_be_stored(
    on_small_disk: MountedVolume, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody writes between the moment when all is settled and the unmount, and the disk fills up."""
    mounted = on_small_disk
    pid = mounted.pid

    def late(mountpoint: Path) -> None:
        (mountpoint / "early").write_bytes(b"early")
        file = os.open(mountpoint / "late", os.O_WRONLY | os.O_CREAT)
        os.write(file, bytes(range(256)) * 12_000)
        fill(small_disk, but_bytes=100_000)
        os.close(file)
        subprocess.run(["umount", "--", str(mountpoint)], check=True)
        # It waits for room, and would do so for longer than a test has.
        wait_for(lambda: "the disk is full" in mounted.log_file.read_text())
        os.kill(pid, signal.SIGKILL)

    with monkeypatch.context() as patched:
        patched.setattr("dedupfs.cli.umount._unmount", late)
        code, printed, said = in_process("umount", mounted.path)
    assert (code, printed, said.count("\n")) == (1, "", 1)
    assert "could not be stored" in said
    (small_disk / "filler").unlink()
    mounted.assert_clean()
    mounted.mount()
    assert not (mounted.path / "late").exists()
    mounted.umount()
    assert not (mounted.volume / "mounted").exists()


def test_a_plain_umount_on_a_full_disk_waits_for_room(on_small_disk: MountedVolume, small_disk: Path) -> None:
    mounted = on_small_disk
    data = np.random.default_rng(7).bytes(3 * MEGABYTE)
    pid = mounted.pid
    file = os.open(mounted.path / "file", os.O_WRONLY | os.O_CREAT)
    os.write(file, data)
    filler = fill(small_disk, but_bytes=100_000)
    os.close(file)
    subprocess.run(["umount", "--", str(mounted.path)], check=True)
    wait_for(lambda: "the disk is full" in mounted.log_file.read_text())
    assert is_running(pid)
    filler.unlink()
    wait_for(lambda: not is_running(pid))
    mounted.mount()
    assert (mounted.path / "file").read_bytes() == data
    mounted.umount()
    mounted.assert_clean()


def test_everything_can_be_deleted_on_a_full_disk(on_small_disk: MountedVolume, small_disk: Path) -> None:
    mounted = on_small_disk
    for number in range(12):
        (mounted.path / f"{number}").write_bytes(np.random.default_rng(number).bytes(MEGABYTE // 2))
    mounted.settle()
    filler = fill(small_disk, but_bytes=0)
    # The room on the disk is looked up now and then.
    time.sleep(0.6)
    with pytest.raises(OSError, match="No space left"):
        (mounted.path / "new").write_bytes(bytes(range(256)) * 4096)
    (mounted.path / "new").unlink(missing_ok=True)
    for number in range(12):
        (mounted.path / f"{number}").unlink()
        folder = os.open(mounted.path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    (mounted.path / "new").write_bytes(bytes(range(256)) * 4096)
    filler.unlink()
    mounted.remount()
    assert (mounted.path / "new").read_bytes() == bytes(range(256)) * 4096
    mounted.umount()
    mounted.assert_clean()


def test_a_disk_that_can_only_be_read_serves_readers(on_small_disk: MountedVolume, small_disk: Path) -> None:
    mounted = on_small_disk
    (mounted.path / "file").write_bytes(b"bytes")
    mounted.umount()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    try:
        done = dedupfs("mount", mounted.volume, mounted.path)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert "ead-only" in done.stderr
        mounted.mount("--read-only")
        assert (mounted.path / "file").read_bytes() == b"bytes"
        mounted.umount()
        mounted.assert_clean()
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)


def test_too_many_open_files_cost_deduplication_and_nothing_else(mounted: MountedVolume) -> None:
    """Then no worker can be started, and pictures stay undecided for the next mount."""
    mounted.expected_in_log = ["no worker process could be started", "stays undecided"]
    pictures = {f"{number}.jpg": encoded(resized(photo(1), 1 - number / 10), quality=88) for number in range(3)}
    limit = len(os.listdir(f"/proc/{mounted.pid}/fd"))
    resource.prlimit(mounted.pid, resource.RLIMIT_NOFILE, (limit, limit))
    for name, data in pictures.items():
        (mounted.path / name).write_bytes(data)
    with open_descriptor(mounted.path / "note", os.O_WRONLY | os.O_CREAT) as file:
        os.write(file, b"note")
        os.fsync(file)
    mounted.settle()
    assert {name: (mounted.path / name).read_bytes() for name in pictures} == pictures
    mounted.remount()
    mounted.settle()
    mounted.umount()
    stats = mounted.report("stats")
    assert (stats["files"], stats["undecided"], stats["renditions"]) == (4, 0, 2)
    mounted.assert_clean()


# Reading only


def test_a_read_only_mount_refuses_every_change(mounted: MountedVolume) -> None:
    file = mounted.path / "file"
    file.write_bytes(b"bytes")
    (mounted.path / "picture.jpg").write_bytes(encoded(photo(6), quality=90))
    mounted.umount()
    before = (mounted.volume / "data.mdb").read_bytes()
    mounted.mount("--read-only")
    assert file.read_bytes() == b"bytes"
    changes = (
        lambda: file.write_bytes(b"other"),
        lambda: (mounted.path / "new").touch(),
        lambda: (mounted.path / "new").mkdir(),
        file.unlink,
        lambda: file.chmod(0o600),
        lambda: os.utime(file),
        lambda: os.truncate(file, 1),
        lambda: os.setxattr(file, "user.x", b""),
        lambda: os.rename(file, mounted.path / "other"),
    )
    for change in changes:
        with pytest.raises(OSError, match="Read-only file system"):
            change()
    mounted.umount()
    assert (mounted.volume / "data.mdb").read_bytes() == before


def test_nobody_writes_beside_a_read_only_mount(mounted: MountedVolume, tmp_path: Path) -> None:
    """The kernel would go on believing in the sizes that it has, and cut a new photo where the old one ended."""
    (mounted.path / "file").write_bytes(b"bytes")
    mounted.settle()
    other = MountedVolume(mounted.volume, tmp_path / "other", tmp_path / "other-log")
    done = dedupfs("mount", mounted.volume, other.path, "--read-only")
    assert (done.returncode, done.stdout) == (4, "")
    assert re.fullmatch(
        rf"dedupfs: {mounted.volume} is in use by process {mounted.pid} \(.+\), mounted at .+\n", done.stderr
    )
    mounted.umount()
    try:
        other.mount("--read-only")
        mounted.mount("--read-only")
        assert (mounted.path / "file").read_bytes() == (other.path / "file").read_bytes() == b"bytes"
        mounted.umount()
        done = dedupfs("mount", mounted.volume, mounted.path)
        assert (done.returncode, done.stdout) == (4, "")
        assert f"in use by process {other.pid}" in done.stderr
        other.umount()
        mounted.mount()
    finally:
        other.destroy()


def test_a_volume_that_was_never_mounted_is_not_mounted_for_reading(tmp_path: Path) -> None:
    """It has no root directory yet, and one that cannot be listed would be of no use."""
    (tmp_path / "mount").mkdir()
    done = dedupfs("mount", make_volume(tmp_path / "volume"), tmp_path / "mount", "--read-only")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "dedupfs: the volume has never been mounted for writing and holds nothing to be read\n"


def test_a_refusal_is_told_with_its_reason(tmp_path: Path) -> None:
    """In the background as in the foreground: it is C code that refuses, and it writes to standard error itself."""
    make_volume(tmp_path / "volume")
    (tmp_path / "mount").mkdir()
    for where in ((), ("--foreground",)):
        done = dedupfs("mount", tmp_path / "volume", tmp_path / "mount", "-o", "nonsense=3", *where)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"dedupfs: cannot mount at {tmp_path / 'mount'}: unknown option")
        assert "nonsense=3" in done.stderr and done.stderr.count("\n") == 1
