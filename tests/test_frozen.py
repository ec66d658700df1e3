"""Volumes that were written once and are kept for good: what a version has stored, each later one has to read.

`tests/frozen/format-N` was made by `scripts/make_frozen_volume` when N was the current format. As long as no version
with that format is out, a change of the format may make it anew with the same command; afterwards it stays as it is. A
format that is no longer read has to be refused by its number.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crashtest_core import InlinePool
from make_frozen_volume import FROZEN, TREE_FILE, opened, read, tree_of
from PIL import Image

from dedupfs.cli.main import main
from dedupfs.errors import FormatVersionError
from dedupfs.filesystem.filesystem import FileSystem
from dedupfs.filesystem.opening import open_filesystem
from dedupfs.filesystem.survey import find
from dedupfs.ingest.renderer import Renderer
from dedupfs.ingest.workers import WorkerPool
from dedupfs.model import InodeNo, Policy
from dedupfs.storage.check import check
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.records import FORMAT_VERSION, Config
from dedupfs.storage.volume import Volume, open_volume, unlock

CURRENT = FROZEN / f"format-{FORMAT_VERSION}"
EARLIER = sorted(path for path in FROZEN.iterdir() if path != CURRENT)

ALIKE_LEVELS = 8
"""A rendition at half the size is so close to what it rests on, in the mean: 3.5 levels where it was made."""


@pytest.fixture
def frozen(tmp_path: Path) -> Path:
    """A copy of the volume of the current format: opening one makes a lock file in it."""
    assert CURRENT.is_dir(), "the format has changed: scripts/make_frozen_volume makes a volume of it"
    return Path(shutil.copytree(CURRENT, tmp_path / "volume"))


@pytest.fixture
def about(frozen: Path) -> Any:
    """What was written down when it was made."""
    return json.loads((frozen / TREE_FILE).read_text(encoding="utf-8"))


@pytest.fixture
def volume_and_files(frozen: Path) -> Iterator[tuple[Volume, FileSystem]]:
    with opened(frozen) as both:
        yield both


def test_everything_in_it_is_what_it_was(volume_and_files: tuple[Volume, FileSystem], about: Any) -> None:
    """Bytes of a rendition may be others with another version of the image library; then they have to look the same,
    and everything else about them has to be as it was."""
    volume, filesystem = volume_and_files
    found = {name["path"]: name for name in tree_of(volume, filesystem)}
    wanted = {name["path"]: name for name in about["tree"]}
    for path, name in wanted.items():
        if name.get("kind") == "rendition" and found[path]["sha256"] != name["sha256"]:
            levels = difference(
                file(volume, filesystem, b"photos/original.jpg"), file(volume, filesystem, path.encode())
            )
            assert levels < ALIKE_LEVELS, f"{path} was made with {about['made_with']} and looks otherwise now"
            found[path] = found[path] | {"sha256": name["sha256"]}
    assert found == wanted
    assert volume.config == Config(Policy.VERIFIED, about["label"])


def test_it_holds_one_of_everything(volume_and_files: tuple[Volume, FileSystem], about: Any) -> None:
    """What the list says is what was put in, in words of its own."""
    volume, filesystem = volume_and_files
    tree = {name["path"]: name for name in about["tree"]}
    assert "removed" not in tree
    assert {name["kind"] for name in tree.values() if "kind" in name} == {"plain", "picture", "rendition"}
    assert file(volume, filesystem, b"notes.txt") == b"written by hand\n" * 500
    assert find(volume, b"notes.txt").number == find(volume, b"photos/notes, too.txt").number
    assert file(volume, filesystem, b"sparse") == bytes(11 << 18) + b"the end"
    assert file(volume, filesystem, b"f\xfcr sp\xe4ter") == b"a name that is no UTF-8\n"
    assert filesystem.read_link(filesystem.lookup(ROOT, b"link")) == b"photos/original.jpg"
    assert filesystem.get_xattr(find(volume, b"notes.txt").number, b"user.comment") == b"two names, one attribute\0"
    original = file(volume, filesystem, b"photos/original.jpg")
    assert file(volume, filesystem, b"photos/copy of the original.jpg") == original
    assert Image.open(io.BytesIO(original)).getexif()[0x010E] == "kept for good"
    assert difference(original, file(volume, filesystem, b"photos/smaller.jpg")) < ALIKE_LEVELS


@pytest.mark.parametrize("which", ["passphrase", "recovery_key"])
def test_each_of_its_keys_opens_it_and_it_is_sound(frozen: Path, about: Any, which: str) -> None:
    volume = open_volume(frozen, unlock(frozen, about[which].encode()), read_only=True)
    renderer = Renderer(volume.contents, WorkerPool(1))
    assert check(volume, data=True, render=renderer.render).problems == []
    renderer.close()
    volume.close()


class LargerPool(InlinePool):
    """Image libraries of another version, that make larger files of the same pixels."""

    def call(self, job: str, *arguments: object) -> Any:
        if job == "render":
            *others, size = arguments
            assert isinstance(size, int)
            # What is too large for half the room is what a larger file is for all of it.
            super().call(job, *others, size // 2)
        return super().call(job, *arguments)


def test_a_rendition_that_no_longer_fits_is_named_by_check(frozen: Path, about: Any) -> None:
    """Nothing brings it back but the libraries of before; nobody shall find that out by opening every file."""
    volume = open_volume(frozen, unlock(frozen, about["passphrase"].encode()), read_only=True)
    renderer = Renderer(volume.contents, LargerPool())
    report = check(volume, data=True, render=renderer.render)
    assert report.unreadable() == [b"photos/smaller.jpg"]
    assert "does not come out at its written size" in report.problems[0].text
    volume.close()


def test_a_change_of_the_image_libraries_is_told(
    frozen: Path, about: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("dedupfs.ingest.renderer.codecs", lambda: b"Pillow 99")
    volume = open_volume(frozen, unlock(frozen, about["passphrase"].encode()), read_only=True)
    open_filesystem(volume).close()
    told = f"renditions were made with {about['made_with']}; this is Pillow 99"
    assert [record.message.split("; `")[0] for record in caplog.records] == [told]
    monkeypatch.setenv("DEDUPFS_PASSPHRASE", about["passphrase"])
    assert main(["check", str(frozen)]) == 0
    assert told in capsys.readouterr().out


def test_it_can_be_written_to(frozen: Path) -> None:
    with opened(frozen, read_only=False) as (_, filesystem):
        number, handle = filesystem.create(ROOT, b"new", 0o600, 0, 0)
        filesystem.files.write(handle, 0, b"written by a later version")
        filesystem.files.release(handle)
        filesystem.unlink(filesystem.lookup(ROOT, b"photos"), b"original.jpg")
    with opened(frozen) as (volume, filesystem):
        assert read(filesystem, number) == b"written by a later version"
        assert check(volume, data=True).problems == []


def test_an_earlier_format_is_refused_by_its_number(tmp_path: Path) -> None:
    for directory in EARLIER:
        copy = shutil.copytree(directory, tmp_path / directory.name)
        passphrase = json.loads((copy / TREE_FILE).read_text(encoding="utf-8"))["passphrase"]
        with pytest.raises(FormatVersionError, match=directory.name.removeprefix("format-")):
            unlock(copy, passphrase.encode())


def file(volume: Volume, filesystem: FileSystem, path: bytes) -> bytes:
    """Return the bytes of a file."""
    return read(filesystem, InodeNo(find(volume, path).number))


def difference(whole: bytes, smaller: bytes) -> float:
    """Return the mean difference of two pictures at the size of the second, in levels."""
    with Image.open(io.BytesIO(whole)) as one, Image.open(io.BytesIO(smaller)) as other:
        at_size = one.resize(other.size, Image.Resampling.LANCZOS)
        return float(np.abs(np.asarray(at_size, np.int16) - np.asarray(other, np.int16)).mean())
