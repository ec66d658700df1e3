"""Damage as a user meets it: some files fail, all others are there, and copying the lost photo in again mends it."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from dedupfs.storage import records
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.readout import layout_of
from dedupfs.storage.records import Rendition, number_key
from dedupfs.storage.volume import Volume
from tests.ingest.drawing import encoded, photo, resized
from tests.mounting import MountedVolume, in_process, mark_fuse
from tests.volumes import opened_volume

pytestmark = mark_fuse()

PHOTO = encoded(photo(1), quality=95)
SMALL = encoded(resized(photo(1), 0.5), quality=80)
OTHER = encoded(photo(2), quality=90)


def flip(volume: Volume, table: records.Table, key: bytes) -> None:
    with volume.store.engine.snapshot() as snapshot:
        value = snapshot.get(table.name, key)
    assert value is not None
    volume.store.engine.apply([(table.name, key, value[:-1] + bytes([value[-1] ^ 1]))])


def entry(volume: Volume, *names: bytes) -> records.Entry:
    found = records.Entry(ROOT, 0, b"")
    for name in names:
        next_one = volume.metadata.find_entry(found.inode, name)
        assert next_one is not None
        found = next_one
    return found


def fails(path: Path) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        path.read_bytes()


@pytest.mark.parametrize("table", [records.CHUNKS, records.CONTENTS], ids=["chunk", "record"])
def test_a_lost_photo_is_healed_by_a_copy(mounted: MountedVolume, tmp_path: Path, table: records.Table) -> None:
    mounted.expected_in_log = ["damaged", "failed authentication", "does not open", "cannot be kept in order"]
    folder = mounted.path / "2024"
    (folder / "trip").mkdir(parents=True)
    for name, data in {"photo.jpg": PHOTO, "small.jpg": SMALL, "other.jpg": OTHER, "trip/twin.jpg": PHOTO}.items():
        (folder / name).write_bytes(data)
    mounted.settle()
    small = (folder / "small.jpg").read_bytes()
    mounted.umount()
    volume = opened_volume(mounted.volume)
    content_id = volume.metadata.inode(entry(volume, b"2024", b"photo.jpg").inode).content
    member_id = volume.metadata.inode(entry(volume, b"2024", b"small.jpg").inode).content
    assert content_id is not None and member_id is not None
    assert isinstance(volume.contents.get(member_id), Rendition)
    last = layout_of(volume.contents.get(content_id)).extents[-1]
    flip(volume, table, last.chunk if table is records.CHUNKS else content_id)
    flip(volume, records.INODES, number_key(entry(volume, b"2024", b"trip").inode))
    volume.close()

    code, said, _ = in_process("check", mounted.volume, "--data")
    assert code == 1
    for path in ("2024/photo.jpg", "2024/trip/twin.jpg", "2024/small.jpg"):
        assert f"  {path}" in said.splitlines()
    assert "other.jpg" not in said
    mounted.mount()
    assert {path.name for path in folder.iterdir()} == {"photo.jpg", "small.jpg", "other.jpg", "trip"}
    assert [path.name for path in (folder / "trip").iterdir()] == ["twin.jpg"]
    for name in ("photo.jpg", "trip/twin.jpg", "small.jpg"):
        fails(folder / name)
        assert (folder / name).stat().st_size == len(SMALL if "small" in name else PHOTO)
    assert (folder / "other.jpg").read_bytes() == OTHER

    source = tmp_path / "again.jpg"
    source.write_bytes(PHOTO)
    shutil.copy(source, folder / "photo.jpg")
    mounted.settle()
    for name in ("photo.jpg", "trip/twin.jpg"):
        assert (folder / name).read_bytes() == PHOTO
    assert (folder / "small.jpg").read_bytes() == small
    (folder / "trip" / "twin.jpg").unlink()
    (folder / "trip").rmdir()
    mounted.umount()
    assert in_process("check", mounted.volume, "--repair", "--data")[0] == 0
    mounted.assert_clean()


def test_a_database_damaged_below_its_records_is_served_for_reading(mounted: MountedVolume) -> None:
    """LMDB would crash on such pages, or free what is in use."""
    mounted.expected_in_log = ["damaged", "page"]
    (mounted.path / "photo.jpg").write_bytes(PHOTO)
    mounted.settle()
    mounted.umount()
    file = mounted.volume / "data.mdb"
    data = bytearray(file.read_bytes())
    page = int.from_bytes(max(data[0:152], data[4096:4248], key=lambda meta: meta[144:152][::-1])[80:88], "little")
    data[page * 4096 + 10] ^= 4
    file.write_bytes(data)
    mounted.mount()
    assert (mounted.path / "photo.jpg").read_bytes() == PHOTO
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        (mounted.path / "another.jpg").write_bytes(OTHER)
    mounted.umount()
    assert int.from_bytes(file.read_bytes()[page * 4096 + 10 :][:2], "little") == 6
