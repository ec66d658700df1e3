"""`dedupfs export`: the whole tree comes out without a mount, as it went in, past damage; it can be resumed."""

from __future__ import annotations

import json
import os
import random
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dedupfs.cli import passphrase as passphrases
from dedupfs.cli.main import main
from dedupfs.filesystem.filesystem import FileSystem
from dedupfs.filesystem.opening import open_filesystem
from dedupfs.model import ChunkId, InodeNo
from dedupfs.storage import records
from dedupfs.storage.chunks import CHUNK_BYTES
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.records import Exact, number_key
from dedupfs.storage.volume import Volume
from tests.cli.test_check import PAGE_BYTES, leaf_pages
from tests.conftest import PASSPHRASE, reopen
from tests.mounting import ROOT as CHECKOUT
from tests.storage.tree import stored_rows

BYTES = random.Random(1).randbytes(700_000)
TIME_NS = 1_600_000_000_123_456_789


@pytest.fixture(autouse=True)
def _passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(passphrases.ENVIRONMENT_VARIABLE, os.fsdecode(PASSPHRASE))


@contextmanager
def opened(directory: Path) -> Iterator[FileSystem]:
    filesystem = open_filesystem(reopen(directory))
    try:
        yield filesystem
    finally:
        filesystem.close()


def put(filesystem: FileSystem, parent: InodeNo, name: bytes, data: bytes, mode: int = 0o640) -> InodeNo:
    number, handle = filesystem.create(parent, name, mode, os.getuid(), os.getgid())
    if data:
        filesystem.files.write(handle, 0, data)
    filesystem.set_times(number, TIME_NS + 5, TIME_NS)
    filesystem.files.release(handle)
    return number


@pytest.fixture
def filled(volume_directory: Path) -> Path:
    """A volume with one of everything that can be exported by anybody."""
    with opened(volume_directory) as filesystem:
        uid, gid = os.getuid(), os.getgid()
        folder = filesystem.make_directory(ROOT, b"folder", 0o750, uid, gid)
        closed = filesystem.make_directory(folder, b"closed", 0o500, uid, gid)
        number = put(filesystem, folder, b"bytes", BYTES)
        filesystem.set_xattr(number, b"user.note", b"a note")
        filesystem.link(number, closed, b"second name")
        put(filesystem, closed, b"read only", b"r", 0o400)
        put(filesystem, ROOT, b"odd \xff name\n", b"odd")
        put(filesystem, ROOT, b"empty", b"")
        sparse = put(filesystem, ROOT, b"sparse", b"")
        filesystem.truncate(sparse, 64 << 20)
        filesystem.set_times(sparse, TIME_NS, TIME_NS)
        filesystem.make_link(ROOT, b"link", b"folder/bytes", uid, gid)
        filesystem.make_node(ROOT, b"pipe", stat.S_IFIFO | 0o600, uid, gid)
        filesystem.set_times(closed, TIME_NS, TIME_NS)
    return volume_directory


def inode_of(volume: Volume, *names: bytes) -> InodeNo:
    """Return the inode at a path."""
    number = ROOT
    for name in names:
        entry = volume.metadata.find_entry(number, name)
        assert entry is not None
        number = entry.inode
    return number


def chunk_of(volume: Volume, index: int, *names: bytes) -> ChunkId:
    """Return one of the chunks of the file at a path."""
    content_id = volume.metadata.inode(inode_of(volume, *names)).content
    assert content_id is not None
    content = volume.contents.get(content_id)
    assert isinstance(content, Exact)
    return content.layout.extents[index].chunk


def damage(volume: Volume, table: records.Table, key: bytes) -> None:
    """Flip the last bit of a record."""
    sealed = stored_rows(volume, table.name)[key]
    volume.store.engine.apply([(table.name, key, sealed[:-1] + bytes([sealed[-1] ^ 1]))])


def exported(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, Any, list[str]]:
    """Return the exit code, the outcome, and the lines on standard error."""
    code = main(["export", *map(str, arguments), "--json"])
    printed = capsys.readouterr()
    return code, json.loads(printed.out), printed.err.splitlines()


def test_everything_comes_out_as_it_went_in(filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "out"
    code, outcome, said = exported(capsys, filled, out)
    assert (code, outcome["failures"], said) == (0, [], [])
    assert (outcome["files"], outcome["links"], outcome["directories"], outcome["others"]) == (5, 1, 2, 2)
    assert (out / "folder/bytes").read_bytes() == BYTES
    found = os.stat(out / "folder/bytes")
    assert (found.st_mode, found.st_mtime_ns, found.st_nlink) == (stat.S_IFREG | 0o640, TIME_NS, 2)
    assert os.path.samefile(out / "folder/bytes", out / "folder/closed/second name")
    assert os.getxattr(out / "folder/bytes", "user.note") == b"a note"
    closed = os.stat(out / "folder/closed")
    assert (stat.S_IMODE(closed.st_mode), closed.st_mtime_ns) == (0o500, TIME_NS)
    assert stat.S_IMODE(os.stat(out / "folder/closed/read only").st_mode) == 0o400
    assert Path(os.fsdecode(os.fsencode(out) + b"/odd \xff name\n")).read_bytes() == b"odd"
    assert (out / "empty").read_bytes() == b""
    sparse = os.stat(out / "sparse")
    assert (sparse.st_size, sparse.st_blocks) == (64 << 20, 0)
    assert os.readlink(out / "link") == "folder/bytes"
    assert stat.S_ISFIFO(os.lstat(out / "pipe").st_mode)


def test_a_second_run_copies_what_is_missing(filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    exported(capsys, filled, out)
    (out / "empty").unlink()
    (out / "folder/closed").chmod(0o700)
    (out / "folder/closed/second name").unlink()
    inode = os.stat(out / "folder/bytes").st_ino
    code, outcome, _ = exported(capsys, filled, out)
    assert (code, outcome["files"], outcome["links"], outcome["skipped"]) == (0, 1, 1, 6)
    assert os.stat(out / "folder/bytes").st_ino == inode
    assert os.path.samefile(out / "folder/bytes", out / "folder/closed/second name")


def test_what_is_there_is_not_overwritten(filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    (out / "folder").mkdir(parents=True)
    (out / "folder/bytes").write_bytes(b"mine")
    (out / "link").symlink_to(tmp_path)
    code, outcome, said = exported(capsys, filled, out)
    assert code == 1
    assert {failure["path"] for failure in outcome["failures"]} == {"folder/bytes", "folder/closed/second name", "link"}
    assert len(said) == 3
    assert (out / "folder/bytes").read_bytes() == b"mine"
    code, outcome, _ = exported(capsys, filled, out, "--force")
    assert (code, outcome["failures"]) == (0, [])
    assert (out / "folder/bytes").read_bytes() == BYTES
    assert os.path.samefile(out / "folder/bytes", out / "folder/closed/second name")
    assert os.readlink(out / "link") == "folder/bytes"


def test_a_link_in_the_place_of_a_directory_is_not_followed(
    filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/folder").symlink_to(tmp_path / "elsewhere")
    assert exported(capsys, filled, tmp_path / "out")[0] == 1
    assert exported(capsys, filled, tmp_path / "out", "--force")[0] == 0
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert (tmp_path / "out/folder/bytes").read_bytes() == BYTES


def test_damage_costs_what_is_damaged_and_nothing_else(
    filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    volume = reopen(filled)
    damage(volume, records.CHUNKS, chunk_of(volume, 1, b"folder", b"bytes"))
    damage(volume, records.ENTRIES, volume.metadata.entry_key(ROOT, b"link"))
    damage(volume, records.INODES, number_key(inode_of(volume, b"empty")))
    damage(volume, records.INODES, number_key(inode_of(volume, b"folder")))
    damage(volume, records.VOLUME, b"config")
    volume.close()
    out = tmp_path / "out"
    code, outcome, said = exported(capsys, filled, out)
    assert code == 1
    failed = [failure["path"] for failure in outcome["failures"]]
    assert sorted(failed) == [".", "empty", "folder", "folder/bytes", "folder/closed/second name"]
    assert all(any(line.startswith(f"dedupfs: {path}: ") for line in said) for path in failed)
    assert sorted(name for name in os.listdir(out) if name.isascii()) == ["folder", "pipe", "sparse"]
    assert (out / "folder/closed/read only").read_bytes() == b"r"
    assert not [name for name in os.listdir(out / "folder") if name.startswith(".")], "nothing half is left"


def test_a_database_damaged_below_its_records(filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    number = leaf_pages(filled, "entries")[0]
    with (filled / "data.mdb").open("r+b") as file:
        file.seek(number * PAGE_BYTES)
        file.write(bytes(PAGE_BYTES))
    code, outcome, said = exported(capsys, filled, tmp_path / "out")
    assert code == 1
    assert outcome["failures"] and said
    (tmp_path / "file").write_bytes(b"bytes")
    assert main(["import", str(tmp_path / "file"), str(filled)]) == 1
    assert "--repair" in capsys.readouterr().err


def test_what_is_left_of_a_damaged_file_can_be_had(
    filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(filled) as filesystem:
        put(filesystem, ROOT, b"lost", BYTES[:1000])
    volume = reopen(filled)
    damage(volume, records.CHUNKS, chunk_of(volume, 0, b"lost"))
    damage(volume, records.CHUNKS, chunk_of(volume, 1, b"folder", b"bytes"))
    volume.close()
    out = tmp_path / "out"
    code, outcome, _ = exported(capsys, filled, out, "--salvage")
    assert code == 1
    assert [each["path"] for each in outcome["failures"]] == ["lost", "folder/bytes", "folder/closed/second name"]
    assert sorted(os.listdir(out / "folder")) == ["bytes.damaged", "closed"]
    left = (out / "folder/bytes.damaged").read_bytes()
    assert left == BYTES[:CHUNK_BYTES] + bytes(CHUNK_BYTES) + BYTES[2 * CHUNK_BYTES :]
    assert f"{CHUNK_BYTES} of its {len(BYTES)} bytes are lost" in outcome["failures"][1]["reason"]


def test_a_full_destination_ends_the_run(
    filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        assert main(["export", str(filled), str(tmp_path / "out")]) == 1
    assert "no space left" in capsys.readouterr().err
    assert exported(capsys, filled, tmp_path / "out")[0] == 0


def test_a_volume_in_use_and_a_place_inside_it(
    filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(filled):
        assert main(["export", str(filled), str(tmp_path / "out")]) == 4
    assert main(["export", str(filled), str(filled / "out")]) == 2
    assert not (tmp_path / "out").exists()
    assert "in use by process" in capsys.readouterr().err


def test_neither_libfuse_nor_its_binding_is_needed(filled: Path, tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['fuse'] = None\n"
        "from dedupfs.cli.main import main\n"
        f"sys.exit(main(['export', {str(filled)!r}, {str(tmp_path / 'out')!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out/folder/bytes").read_bytes() == BYTES
