"""Tools that copy and pack: what they take along, and that they find nothing to do the second time."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tests.ecosystem.programs import attempt, found, kind, needs, picture_of, run, settle
from tests.mounting import MountedVolume, mark_fuse

pytestmark = mark_fuse()

RSYNC = ("rsync", "-aHAX", "--numeric-ids", "--modify-window=-1")
"""To the nanosecond; without the last option it takes times within one second for equal."""


@needs("rsync")
def test_rsync_finds_nothing_to_do_the_second_time(here: Path, shared: MountedVolume, library: Path) -> None:
    run(*RSYNC, f"{library}/", f"{here}/")
    assert picture_of(here, contents=True) == picture_of(library, contents=True)

    settle(shared)
    assert [kind(here / "versions" / f"{name}-soft.jpg") for name in ("cat", "coffee")] == ["rendition"] * 2

    assert run(*RSYNC, "--delete", "--itemize-changes", f"{library}/", f"{here}/") == ""
    shared.remount()
    assert run(*RSYNC, "--delete", "--itemize-changes", f"{library}/", f"{here}/") == ""
    assert picture_of(here, contents=False) == picture_of(library, contents=False)


@needs("rsync")
def test_rsync_back_out(here: Path, shared: MountedVolume, library: Path, tmp_path: Path) -> None:
    run(*RSYNC, f"{library}/", f"{here}/")
    settle(shared)
    run(*RSYNC, f"{here}/", f"{tmp_path}/")
    assert picture_of(tmp_path, contents=False) == picture_of(library, contents=False)
    assert run(*RSYNC, "--itemize-changes", f"{library}/", f"{tmp_path}/") == ""


@needs("rsync")
@pytest.mark.parametrize("how", ["--inplace", "--append-verify", "--partial-dir=.partial"])
def test_rsync_of_a_file_that_has_grown(here: Path, tmp_path: Path, how: str) -> None:
    source = tmp_path / "clip.mov"
    source.write_bytes(bytes(range(256)) * 2000)
    run("rsync", "-a", "--no-whole-file", how, source, here)
    source.write_bytes(source.read_bytes() + b"and more" * 50_000)
    run("rsync", "-a", "--no-whole-file", how, source, here)
    assert (here / "clip.mov").read_bytes() == source.read_bytes()


@needs("rclone")
def test_rclone_copies_and_checks(here: Path, shared: MountedVolume, library: Path, tmp_path: Path) -> None:
    rclone = ("rclone", "--config", str(tmp_path / "none"), "--metadata", "--skip-links", "--transfers", "2")
    run(*rclone, "copy", library, here)
    # It reads everything and compares digests.
    run(*rclone, "check", library, here)

    settle(shared)
    again = attempt(*rclone, "copy", "-v", library, here)
    assert again.returncode == 0
    assert "There was nothing to transfer" in again.stderr
    run(*rclone, "check", "--exclude", "*-soft.jpg", library, here)
    run(*rclone, "check", "--size-only", library, here)


def test_cp_in_and_out(here: Path, shared: MountedVolume, library: Path, tmp_path: Path) -> None:
    run("cp", "-a", f"{library}/.", here)
    assert picture_of(here, contents=True) == picture_of(library, contents=True)
    settle(shared)
    run("cp", "-a", f"{here}/.", tmp_path)
    assert picture_of(tmp_path, contents=False) == picture_of(library, contents=False)
    for exact in tmp_path.rglob("*exact.jpg"):
        assert exact.read_bytes() == (library / exact.relative_to(tmp_path)).read_bytes()
    # Within the mount, and only what is newer.
    run("cp", "-a", here, shared.path / "second")
    assert picture_of(shared.path / "second", contents=False) == picture_of(library, contents=False)
    run("cp", "-au", f"{library}/.", here)


@needs("tar")
def test_tar_in_and_out(here: Path, shared: MountedVolume, library: Path, tmp_path: Path) -> None:
    archive = tmp_path / "library.tar"
    keeping = ("--xattrs", "--sparse", "--numeric-owner", "--format=pax")
    run("tar", *keeping, "-cf", archive, ".", cwd=library)
    run("tar", *keeping, "-xpf", archive, cwd=here)
    assert picture_of(here, contents=True) == picture_of(library, contents=True)
    settle(shared)
    # All but the bytes of what is drawn again with others.
    run("tar", "--compare", "--exclude=*-soft.jpg", "--file", archive, cwd=here)
    packed = here / "packed.tar"
    run("tar", *keeping, "--exclude=packed.tar", "-cf", packed, ".", cwd=here)
    out = tmp_path / "out"
    out.mkdir()
    run("tar", *keeping, "-xpf", packed, cwd=out)
    assert picture_of(out, contents=False) == picture_of(library, contents=False)


@needs("unzip")
def test_unzip(here: Path, library: Path) -> None:
    archive = here / "photos.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for photo in sorted(library.glob("*.jpg")):
            packed.write(photo, f"from/{photo.name}", zipfile.ZIP_DEFLATED)
    run("unzip", "-tq", archive)
    run("unzip", "-q", archive, "-d", here)
    for photo in (here / "from").iterdir():
        assert photo.read_bytes() == (library / photo.name).read_bytes()


def test_find_and_du_count_as_on_any_disk(here: Path, shared: MountedVolume, library: Path) -> None:
    run("cp", "-a", f"{library}/.", here)
    settle(shared)
    for question in (
        ("-name", "*.jpg", "-size", "+20k"),
        ("-samefile", "cat.jpg"),
        ("-newermt", "2014-01-01", "!", "-newermt", "2015-01-01", "-type", "f"),
        ("-perm", "-4000"),
        ("-xtype", "l"),
        ("-links", "+1", "-type", "f"),
        ("-empty",),
    ):
        answers = [sorted(run("find", ".", *question, cwd=root).splitlines()) for root in (library, here)]
        assert answers[0] == answers[1] != [], question
    # Directories take no room of their own here.
    sizes = [
        sorted(run("find", ".", "-type", "f", "-printf", "%p %s\n", cwd=root).splitlines()) for root in (library, here)
    ]
    assert sizes[0] == sizes[1]
    names = [str(path) for path in here.rglob("*.jpg") if not path.is_symlink()]
    inodes = {path.lstat().st_ino: path.lstat().st_size for path in map(Path, names)}
    total = run("du", "--apparent-size", "--bytes", "--total", *names).splitlines()[-1]
    assert int(total.split()[0]) == sum(inodes.values())


@needs("gio")
def test_what_a_file_manager_does(here: Path, shared: MountedVolume, library: Path, tmp_path: Path) -> None:
    run("cp", "-a", f"{library}/.", here)
    settle(shared)
    run("gio", "copy", "--preserve", "--no-target-directory", here / "cat.jpg", here / "copy.jpg")
    assert (here / "copy.jpg").read_bytes() == (library / "cat.jpg").read_bytes()
    run("gio", "move", here / "copy.jpg", here / "moved.jpg")
    assert "standard::content-type: image/jpeg" in run("gio", "info", here / "versions" / "cat-soft.jpg")
    run("gio", "trash", here / "moved.jpg", env={"XDG_DATA_HOME": str(tmp_path)})
    assert not (here / "moved.jpg").exists()
    assert [path.name for path in shared.path.glob(".Trash-*/files/*")] == ["moved.jpg"]
    if found("gdk-pixbuf-thumbnailer"):
        run("gdk-pixbuf-thumbnailer", "-s", "64", here / "versions" / "cat-soft.jpg", tmp_path / "thumbnail.png")
        assert (tmp_path / "thumbnail.png").stat().st_size > 1000
