"""Mounting by /etc/fstab: which options reach whom, and what mount(8) and mount.fuse run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dedupfs.cli.main import main
from dedupfs.cli.mount_helper import mount_arguments
from dedupfs.cli.mount_options import MountOptions, parse
from dedupfs.errors import UsageError
from tests.mounting import ROOT, MountedVolume, command_line, mark_fuse, without_passphrase
from tests.volumes import PASSPHRASE, make_volume

FSTAB = "rw,nofail,noauto,user,_netdev,x-systemd.idle-timeout=5min,comment=photos,relatime,nosuid"


def test_each_option_reaches_whom_it_concerns() -> None:
    given = [FSTAB, r"allow_other,fsname=/a\,b,passphrase_command=cut -d\, -f1 key", "ro,idle_timeout=1.5"]
    assert parse(given) == MountOptions(
        fuse={"nosuid": True, "allow_other": True, "fsname": r"/a\,b"},
        read_only=True,
        passphrase_command="cut -d, -f1 key",
        idle_seconds=90,
    )
    assert parse(["passphrase_file=/etc/key,log_file=/var/log/photos"]) == MountOptions(
        passphrase_file=Path("/etc/key"), log_file=Path("/var/log/photos")
    )
    assert parse([]) == parse(["", "rw,,defaults"]) == MountOptions()


@pytest.mark.parametrize(
    "option",
    [
        *("idle_timeout=soon", "idle_timeout=0", "idle_timeout=nan", "passphrase_file", "log_file="),
        *(
            "memory",
            "memory=lots",
            "memory=-1G",
            "memory=512",
            "memory=255M",
            "memory=1e9",
            "memory=1GB5",
            "memory=nan",
        ),
    ],
)
def test_options_that_make_no_sense(option: str) -> None:
    with pytest.raises(UsageError):
        parse([option])


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("512M", 512_000_000),
        ("2g", 2_000_000_000),
        ("1.5GB", 1_500_000_000),
        ("1GiB", 1 << 30),
        ("300000000", 300_000_000),
    ],
)
def test_sizes_of_memory(given: str, wanted: int) -> None:
    assert parse([f"memory={given},ro"]) == MountOptions(read_only=True, memory_bytes=wanted)


def test_what_mount_gives_to_its_helper() -> None:
    given = ["dedupfs#/a,b", "/mnt", "-sv", "-n", "-t", "fuse.dedupfs", "-o", "rw,nofail"]
    wanted = ["mount", "-o", r"fsname=/a\,b", "-o", "rw,nofail", "--", "/a,b", "/mnt"]
    assert mount_arguments(given) == wanted
    assert mount_arguments(["/volume", "/mnt", "-f"]) is None
    assert main(["/volume", "/mnt", "-f"]) == 0


@pytest.fixture
def fstab_mount(tmp_path: Path) -> Iterator[MountedVolume]:
    """A volume, and a file with its passphrase."""
    (tmp_path / "key").touch(0o600)
    (tmp_path / "key").write_bytes(PASSPHRASE)
    mounted = MountedVolume(make_volume(tmp_path / "a volume, or two"), tmp_path / "mount", tmp_path / "log")
    yield mounted
    mounted.destroy()
    assert mounted.unexpected_messages() == []


def mounted_as(mounted: MountedVolume) -> list[str]:
    """Return the source and the options that the kernel's table has."""
    for line in Path("/proc/self/mounts").read_text(errors="replace").splitlines():
        fields = line.split()
        if fields[1] == str(mounted.path):
            return [fields[0].replace(r"\040", " "), fields[2], *fields[3].split(",")]
    return []


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=without_passphrase(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


@pytest.mark.fuse
@mark_fuse()[1]
@pytest.mark.parametrize("mode", ["rw", "ro"])
def test_the_helper_mounts(fstab_mount: MountedVolume, mode: str) -> None:
    folder = fstab_mount.volume.parent
    options = f"{FSTAB.removeprefix('rw')},{mode},passphrase_file={folder / 'key'},log_file={fstab_mount.log_file}"
    if mode == "ro":
        fstab_mount.mount()
        fstab_mount.umount()
    done = run(command_line(fstab_mount.volume, fstab_mount.path, "-n", "-o", options))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    fstab_mount.note_pid()
    source, kind, *set_options = mounted_as(fstab_mount)
    assert (source, kind) == (str(fstab_mount.volume), "fuse.dedupfs")
    assert mode in set_options and "nosuid" in set_options
    fstab_mount.umount()


@pytest.mark.fuse
@mark_fuse()[1]
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount.fuse") is None, reason="needs root and mount.fuse")
def test_mount_fuse_mounts(fstab_mount: MountedVolume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As mount(8) runs it, which does not search all of PATH; mount.fuse looks there for the program.
    program = tmp_path / "bin" / "dedupfs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nPYTHONPATH='{ROOT}' exec '{sys.executable}' -m dedupfs.cli.main \"$@\"\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    volume = fstab_mount.volume.rename(tmp_path / "volume")
    fstab_mount.volume = volume
    options = f"rw,passphrase_file={tmp_path / 'key'},log_file={fstab_mount.log_file}"
    done = run(["mount.fuse", str(volume), str(fstab_mount.path), "-o", options, "-t", "fuse.dedupfs"])
    assert (done.returncode, done.stderr) == (0, "")
    fstab_mount.note_pid()
    assert mounted_as(fstab_mount)[:2] == [str(volume), "fuse.dedupfs"]
    fstab_mount.umount()
