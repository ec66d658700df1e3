"""`dedupfs restore`, `split` and `config`, with a mount and without."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dedupfs.storage.volume import create_volume
from tests.cli.names import HOSTILE
from tests.conftest import CHEAP, reopen
from tests.filesystem.core import Core, sketch
from tests.ingest.drawing import encoded, photo
from tests.mounting import MountedVolume, in_process, mark_fuse, sound_mount
from tests.volumes import make_volume

PHOTO = sketch(7, width_px=400, size=300_000)
COPY = sketch(7, width_px=200, coarseness=3)
SIZE = (320, 240)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A volume that holds a photo, a copy of it as a rendition, and the copy's original; sketches all."""
    directory = make_volume(tmp_path / "volume")
    assert in_process("config", directory, "keep-originals", "3")[0] == 0
    core = Core(directory)
    for name, data in ((b"photo", PHOTO), (HOSTILE, COPY), (b"other", sketch(7, width_px=150, coarseness=4))):
        core.put(name, data)
        core.filesystem.settle()
    core.filesystem.close()
    return directory


def contents(directory: Path) -> dict[bytes, bytes]:
    core = Core(directory, read_only=True)
    names = [entry.name for entry in core.filesystem.list_directory(core.filesystem.lookup(1, b"."))[2:]]  # type: ignore[arg-type]
    found = {name: core.read(name) for name in names}
    core.filesystem.close()
    return found


def test_restore_in_a_volume_that_is_not_mounted(volume: Path) -> None:
    code, printed, said = in_process("restore", "--volume", volume, os.fsdecode(HOSTILE), "missing")
    assert (code, printed) == (1, "restored 1 of 2 files\n")
    assert said.startswith("dedupfs: missing: ")
    assert contents(volume)[HOSTILE] == COPY
    code, printed, said = in_process("restore", "--volume", volume, os.fsdecode(HOSTILE), "photo", "--json")
    assert (code, said) == (0, "")
    assert [each["done"] for each in json.loads(printed)] == [True, True]
    assert in_process("check", volume)[0] == 0


def test_split_in_a_volume_that_is_not_mounted(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dedupfs.ingest.pipeline.Pipeline.inspect", lambda pipeline, data: None)
    assert in_process("config", volume, "keep-originals", "0")[0] == 0
    assert in_process("split", "--volume", volume, os.fsdecode(HOSTILE)) == (0, "split 1 of 1 files\n", "")
    stats = json.loads(in_process("stats", volume, "--json")[1])
    assert (stats["clusters"], stats["renditions"], stats["originals"], stats["keep_originals_days"]) == (2, 1, 1, 0)


def test_stats_tell_what_is_kept_and_until_when(volume: Path) -> None:
    _, printed, _ = in_process("stats", volume)
    assert "originals    2 of renditions, 12.0 kB, until 2" in printed
    assert "files        3 in 1 directories" in printed
    assert "kept until 2" in in_process("why", volume, "other")[1]
    assert "dedupfs_originals{" in in_process("metrics", volume)[1]


def test_what_is_kept_is_not_exported(volume: Path, tmp_path: Path) -> None:
    in_process("export", volume, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["photo"], "nothing draws sketches there, and originals are no files"


def test_settings_are_shown_and_changed(volume_directory: Path) -> None:
    shown = {"keep_originals_days": 0, "dedup": "verified", "label": "test"}
    assert json.loads(in_process("config", volume_directory, "--json")[1]) == shown
    code, printed, said = in_process("config", volume_directory, "dedup", "off", "label", "a \x1b name")
    assert (code, said) == (0, "")
    assert "a \\x1b name" in printed
    assert json.loads(in_process("config", volume_directory, "--json")[1]) == {
        **shown,
        "dedup": "off",
        "label": "a \x1b name",
    }
    volume = reopen(volume_directory)
    assert volume.is_mixed
    volume.close()


@pytest.mark.parametrize(
    "words",
    [
        ["label"],
        ["keep-originals", "soon"],
        ["keep-originals", "-1"],
        ["keep-originals", "36501"],
        ["dedup", "lossless"],
        ["colour", "blue"],
        ["label", "\udcff"],
    ],
)
def test_nonsense_changes_nothing(volume_directory: Path, words: list[str]) -> None:
    before = in_process("config", volume_directory)
    code, printed, said = in_process("config", volume_directory, *words)
    assert (code, printed, said.count("\n")) == (2, "", 1)
    assert in_process("config", volume_directory) == before


def test_init_takes_the_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dedupfs.cli.init.create_volume", functools.partial(create_volume, cost=CHEAP))
    assert in_process("init", tmp_path / "volume", "--keep-originals", "30")[0] == 0
    assert json.loads(in_process("config", tmp_path / "volume", "--json")[1])["keep_originals_days"] == 30
    assert in_process("init", tmp_path / "other", "--keep-originals", "many")[0] == 2
    assert not (tmp_path / "other").exists()


def test_a_path_that_is_on_no_mount(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for command in ("restore", "split"):
        code, _, said = in_process(command, tmp_path / "file")
        assert (code, "below no mountpoint" in said) == (2, True)


# On a mount


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedVolume]:
    """A mount that keeps originals, with a photo and two copies of it."""

    def keep_originals(directory: Path) -> None:
        assert in_process("config", directory, "keep-originals", "3")[0] == 0

    with sound_mount(tmp_path_factory.mktemp("undo"), prepare=keep_originals) as mounted:
        yield mounted


@pytest.mark.fuse
@pytest.mark.skipif(bool(mark_fuse()[1].args[0]), reason="nothing can be mounted here")
def test_undoing_on_a_mount(live: MountedVolume) -> None:
    original = photo(5, SIZE)
    files = {
        "photo.jpg": encoded(original, quality=92),
        "one.webp": encoded(original, "WEBP", quality=50),
        "two.webp": encoded(original.resize((200, 150)), "WEBP", quality=60),
    }
    for name, data in files.items():
        (live.path / name).write_bytes(data)
        live.settle()
    read = {name: (live.path / name).read_bytes() for name in files}
    with (live.path / "one.webp").open("rb"):
        code, _, said = in_process("restore", live.path / "one.webp")
        assert (code, "is open" in said) == (1, True)
    assert in_process("restore", live.path / "one.webp") == (0, "restored 1 of 1 files\n", "")
    assert in_process("split", live.path / "two.webp") == (0, "split 1 of 1 files\n", "")
    assert {name: (live.path / name).read_bytes() for name in files} == files
    assert read["one.webp"] != files["one.webp"] and read["two.webp"] != files["two.webp"]
    assert os.listxattr(live.path / "one.webp") == []
    assert os.getxattr(live.path / "two.webp", "user.dedupfs.kind") == b"picture"
    (live.path / "two.webp").unlink()
    (live.path / "two.webp").write_bytes(files["two.webp"])
    live.settle()
    assert os.getxattr(live.path / "two.webp", "user.dedupfs.kind") == b"picture"
    assert in_process("config", live.path, "keep-originals", "5")[0] == 4
