"""`dedupfs import`: the same outcome as `cp -a` into a mount; it can be resumed, and loses nothing that is there."""

from __future__ import annotations

import errno
import json
import os
import random
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dedupfs.cli import passphrase as passphrases
from dedupfs.cli.main import main
from dedupfs.errors import StoreFullError
from dedupfs.filesystem import copy_in
from dedupfs.filesystem.files import STEP_BYTES
from dedupfs.filesystem.room import Room
from tests.conftest import PASSPHRASE
from tests.mounting import MountedVolume, mark_fuse
from tests.volumes import make_volume

PHOTOS = Path(__file__).parents[1] / "photos"
BYTES = random.Random(2).randbytes(300_000)
TIME_NS = 1_500_000_000_987_654_321


@pytest.fixture(autouse=True)
def _passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(passphrases.ENVIRONMENT_VARIABLE, os.fsdecode(PASSPHRASE))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with one of everything but pictures."""
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    (folder / "bytes").write_bytes(BYTES)
    os.setxattr(folder / "bytes", "user.note", b"a note")
    os.link(folder / "bytes", folder / "sub/second name")
    (folder / "empty").touch()
    with (folder / "sparse").open("wb") as sparse:
        sparse.truncate(3 << 20)
        sparse.seek(2 << 20)
        sparse.write(b"in the middle")
    (folder / "link").symlink_to("sub/nowhere")
    os.mkfifo(folder / "pipe")
    (folder / "bytes").chmod(0o460)
    os.utime(folder / "bytes", ns=(TIME_NS, TIME_NS))
    (folder / "sub").chmod(0o510)
    os.utime(folder / "sub", ns=(TIME_NS, TIME_NS))
    return folder


def imported(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, Any, list[str]]:
    """Return the exit code, the outcome, and the lines on standard error."""
    capsys.readouterr()
    code = main(["import", *map(str, arguments), "--json"])
    printed = capsys.readouterr()
    return code, json.loads(printed.out) if printed.out else None, printed.err.splitlines()


def exported(volume: Path, destination: Path) -> dict[str, tuple[Any, ...]]:
    """Return everything that a volume holds, by its path, after a check."""
    assert main(["check", str(volume), "--data"]) == 0
    assert main(["export", str(volume), str(destination)]) == 0
    return listed(destination)


def listed(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Return what can be told of everything in a folder, but for the times of access and of links."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        status = path.lstat()
        is_link = path.is_symlink()
        found[str(path.relative_to(folder))] = (
            stat.filemode(status.st_mode),
            status.st_nlink,
            (status.st_uid, status.st_gid),
            None if is_link else status.st_mtime_ns,
            os.readlink(path) if is_link else path.read_bytes() if path.is_file() else None,
            {
                name: os.getxattr(path, name, follow_symlinks=False)
                for name in os.listxattr(path, follow_symlinks=False)
            },
        )
    return found


def test_what_comes_out_is_what_went_in(
    source: Path, volume_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, outcome, said = imported(capsys, f"{source}/", volume_directory)
    assert (code, outcome["failures"], said) == (0, [], [])
    assert (outcome["files"], outcome["links"], outcome["directories"], outcome["others"]) == (3, 1, 1, 2)
    assert exported(volume_directory, tmp_path / "out") == listed(source)


def test_a_policy_comes_before_what_is_below_it(
    volume_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = next(PHOTOS.glob("*.jpg")).read_bytes()
    for name, policy in (("evidence", b"off"), ("nonsense", b"loose")):
        folder = tmp_path / "source" / name
        folder.mkdir(parents=True)
        (folder / "photo.jpg").write_bytes(photo)
        os.setxattr(folder, "user.dedupfs.policy", policy)
    code, outcome, _ = imported(capsys, f"{tmp_path}/source/", volume_directory)
    assert code == 0
    assert [Path(each["path"]).name for each in outcome["without_attributes"]] == ["nonsense"]
    found = exported(volume_directory, tmp_path / "out")
    assert found["evidence"] == listed(tmp_path / "source")["evidence"]
    main(["why", str(volume_directory), "evidence/photo.jpg", "--json"])
    printed = capsys.readouterr().out
    answer = json.loads(printed[printed.rindex("\n{\n") :])
    assert (answer["kind"], answer["policy"]) == ("plain", "off")


def test_a_slash_tells_the_contents_from_the_directory(
    source: Path,
    volume_directory: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(source / "sub")
    assert imported(capsys, source, source / "bytes", ".", volume_directory)[0] == 0
    names = exported(volume_directory, tmp_path / "out").keys()
    assert {"source/bytes", "source/sub/second name", "bytes", "second name"} <= names
    assert "sub" not in names


def test_a_second_run_copies_what_is_missing(
    source: Path, volume_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported(capsys, f"{source}/", volume_directory)
    (source / "new").write_bytes(b"new")
    os.link(source / "bytes", source / "third name")
    code, outcome, _ = imported(capsys, f"{source}/", volume_directory)
    assert (code, outcome["files"], outcome["links"], outcome["skipped"]) == (0, 1, 1, 6)
    assert exported(volume_directory, tmp_path / "out") == listed(source)


def test_what_is_there_is_not_overwritten(
    source: Path, volume_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported(capsys, f"{source}/", volume_directory)
    before = listed(source)
    (source / "empty").write_bytes(b"no longer")
    (source / "link").unlink()
    (source / "link").mkdir()
    code, outcome, said = imported(capsys, f"{source}/", volume_directory)
    assert code == 1
    assert {Path(failure["path"]).name for failure in outcome["failures"]} == {"empty", "link"}
    assert len(said) == 2
    out = exported(volume_directory, tmp_path / "out")
    assert out["empty"] == before["empty"] and out["link"] == before["link"]
    (source / "link").rmdir()
    (source / "link").symlink_to("elsewhere")
    assert imported(capsys, f"{source}/", volume_directory, "--force")[0] == 0
    assert exported(volume_directory, tmp_path / "again") == listed(source)


@pytest.mark.parametrize("name", ["IMG_0001.jpg", "link"])
def test_of_two_sources_with_one_name_none_replaces_the_other(
    volume_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Two memory cards, say: with --force too, which is about what was there before."""
    for card in ("first", "second"):
        (tmp_path / card).mkdir()
        if name == "link":
            (tmp_path / card / name).symlink_to(card)
        else:
            (tmp_path / card / name).write_bytes(card.encode())
    cards = [f"{tmp_path}/{card}/" for card in ("first", "second")]
    code, outcome, _ = imported(capsys, *cards, volume_directory, "--force")
    assert code == 1
    assert [Path(failure["path"]) for failure in outcome["failures"]] == [tmp_path / "second" / name]
    assert "just been copied" in outcome["failures"][0]["reason"]
    assert exported(volume_directory, tmp_path / "out")[name] == listed(tmp_path / "first")[name]
    assert imported(capsys, cards[1], volume_directory, "--force")[0] == 0
    assert exported(volume_directory, tmp_path / "again")[name] == listed(tmp_path / "second")[name]


@pytest.mark.parametrize("name", ["photo.jpg", "large"])
def test_a_run_that_is_interrupted_leaves_nothing_half(
    volume_directory: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    data = (PHOTOS / "cat.jpg").read_bytes() if name == "photo.jpg" else BYTES * (2 * STEP_BYTES // len(BYTES))
    (source / "a").write_bytes(b"first")
    (source / name).write_bytes(data)
    monkeypatch.setattr(copy_in, "PIECE_BYTES", len(data) // 3 * 2)
    with monkeypatch.context() as patched:
        refuse_after(patched, len(data) // 3 * 2, KeyboardInterrupt())
        assert main(["import", f"{source}/", str(volume_directory)]) == 130
    assert exported(volume_directory, tmp_path / "out").keys() == {".", "a"}
    with monkeypatch.context() as patched:
        refuse_after(patched, len(data) // 3 * 2, StoreFullError("no space left"))
        code, _, said = imported(capsys, f"{source}/", volume_directory)
    assert (code, said) == (1, ["dedupfs: no space left; start again to go on from here"])
    code, outcome, _ = imported(capsys, f"{source}/", volume_directory)
    assert (code, outcome["files"], outcome["skipped"]) == (0, 1, 1)
    assert exported(volume_directory, tmp_path / "again")[name][4] == data


def refuse_after(patched: pytest.MonkeyPatch, accepted_bytes: int, failure: BaseException) -> None:
    """Let writing fail once so many bytes were written."""
    check, written = Room.check, 0

    def check_or_fail(room: Room, wanted_bytes: int, spooled_bytes: int) -> None:
        nonlocal written
        written += wanted_bytes
        if written > accepted_bytes + 1000:
            raise failure
        check(room, wanted_bytes, spooled_bytes)

    patched.setattr(Room, "check", check_or_fail)


def test_what_cannot_be_read_keeps_nothing_else_out(
    source: Path,
    volume_directory: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = os.pread

    def fail(descriptor: int, size: int, offset: int) -> bytes:
        if os.fstat(descriptor).st_ino == (source / "sparse").stat().st_ino:
            raise OSError(errno.EIO, "Input/output error")
        if os.fstat(descriptor).st_ino == (source / "growing").stat().st_ino:
            (source / "growing").write_bytes(b"changed")
        return read(descriptor, size, offset)

    (source / "growing").write_bytes(b"before")
    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", fail)
        code, outcome, said = imported(capsys, f"{source}/", source / "missing", volume_directory)
    assert (code, len(said)) == (1, 3)
    assert {Path(each["path"]).name: each["reason"] for each in outcome["failures"]} == {
        "sparse": "Input/output error",
        "growing": "it changed while it was read; import it again",
        "missing": "No such file or directory",
    }
    assert imported(capsys, f"{source}/", volume_directory)[0] == 0
    assert exported(volume_directory, tmp_path / "out") == listed(source)


def test_a_volume_is_not_imported_into_itself(
    volume_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(b"beside it")
    assert imported(capsys, f"{tmp_path}/", volume_directory)[0] == 0
    assert exported(volume_directory, tmp_path / "out").keys() == {".", "file"}


@pytest.mark.fuse
@mark_fuse()[1]
def test_pictures_are_decided_about_as_under_a_mount(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    data = (PHOTOS / "cat.jpg").read_bytes()
    (source / "cat.jpg").write_bytes(data)
    (source / "cat again.jpg").write_bytes(data)
    (source / "coffee.jpg").write_bytes((PHOTOS / "coffee.jpg").read_bytes())
    with Image.open(PHOTOS / "cat.jpg") as picture:
        picture.resize((picture.width // 2, picture.height // 2)).save(source / "cat small.jpg", quality=70)
    mounted = MountedVolume(make_volume(tmp_path / "mounted"), tmp_path / "mount", tmp_path / "log")
    try:
        subprocess.run(["cp", "-a", f"{source}/.", mounted.mount()], check=True)
        mounted.umount()
    finally:
        mounted.destroy()
    volume = make_volume(tmp_path / "volume")
    assert imported(capsys, f"{source}/", volume)[0] == 0
    clusters: list[Any] = []
    stats: list[Any] = []
    for each in (volume, mounted.volume):
        for command, found in (("clusters", clusters), ("stats", stats)):
            capsys.readouterr()
            assert main([command, str(each), "--json"]) == 0
            found.append(json.loads(capsys.readouterr().out))
    assert [_grouped(each) for each in clusters[:1]] == [_grouped(each) for each in clusters[1:]]
    assert stats[0]["renditions"] == stats[1]["renditions"] == 1
    assert exported(volume, tmp_path / "out") == exported(mounted.volume, tmp_path / "out of the mount")


def _grouped(clusters: list[dict[str, Any]]) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    """Return the clusters without their numbers, which depend on what was decided first."""
    return {
        (each["representative"], frozenset((member["path"], member["kind"]) for member in each["members"]))
        for each in clusters
    }
