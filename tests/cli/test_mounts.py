"""Commands beside and around a live mount."""

from __future__ import annotations

import _ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dedupfs.cli import mounts, users
from dedupfs.cli.exitcodes import WRONG_PASSPHRASE
from dedupfs.cli.names import printable
from dedupfs.errors import WrongKeyError
from tests.mounting import (
    MountedVolume,
    command_line,
    dedupfs,
    in_process,
    is_running,
    mark_fuse,
    with_passphrase,
)
from tests.volumes import make_volume

pytestmark = mark_fuse()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedVolume]:
    """A mount at a place with an awkward name."""
    folder = tmp_path_factory.mktemp("live")
    mounted = MountedVolume(make_volume(folder / "volume"), folder / "my photos ä\\\t", folder / "log")
    try:
        mounted.mount()
        (mounted.path / "notes.txt").write_bytes(b"notes")
        yield mounted
    finally:
        mounted.destroy()
    assert mounted.unexpected_messages() == []


def test_a_second_mount_is_told_who_holds_the_volume(live: MountedVolume, tmp_path: Path) -> None:
    done = dedupfs("mount", live.volume, tmp_path)
    assert (done.returncode, done.stdout) == (4, "")
    where = re.escape(printable(os.fsencode(live.path)))
    in_use = rf"dedupfs: {live.volume} is in use by process {live.pid} \(.+\), mounted at {where}\n"
    assert re.fullmatch(in_use, done.stderr)
    assert not os.path.ismount(tmp_path)
    assert (live.path / "notes.txt").read_bytes() == b"notes"


def test_a_place_can_be_mounted_once(live: MountedVolume, tmp_path: Path) -> None:
    other = make_volume(tmp_path / "other")
    done = dedupfs("mount", other, live.path)
    where = printable(os.fsencode(live.path))
    assert (done.returncode, done.stderr) == (2, f"dedupfs: {live.volume} is mounted at {where} already\n")


def test_other_commands_that_need_the_volume_alone_are_told_where_it_is_mounted(live: MountedVolume) -> None:
    for command in (("compact", live.volume), ("config", live.path, "label", "x"), ("import", __file__, live.volume)):
        code, _, said = in_process(*command)
        assert code == 4
        assert said.endswith(f", mounted at {printable(os.fsencode(live.path))}\n")


def test_a_directory_below_a_mountpoint_is_no_mountpoint(live: MountedVolume) -> None:
    code, _, said = in_process("umount", live.path / "folder")
    assert code == 2
    assert said.endswith(f"; it lies below the mountpoint {printable(os.fsencode(live.path))}\n")


@pytest.mark.parametrize("command", ["stats", "clusters"])
def test_reports_beside_the_mount(live: MountedVolume, command: str) -> None:
    # Asked by its mountpoint, the mount first commits what it has finished.
    by_mountpoint, by_volume = (in_process(command, place, "--json") for place in (live.path, live.volume))
    assert by_volume[0] == by_mountpoint[0] == 0
    told, stored = json.loads(by_mountpoint[1]), json.loads(by_volume[1])
    if command == "stats":
        # The mount knows more: what waits, and its traffic.
        told = {name: value for name, value in told.items() if name in stored}
    assert told == stored


def test_why_takes_paths_in_the_volume_and_below_the_mountpoint(
    live: MountedVolume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(live.path)
    answers = [
        in_process("why", live.volume, "notes.txt", "--json"),
        in_process("why", live.path, "notes.txt", "--json"),
        in_process("why", live.path, live.path / "notes.txt", "--json"),
        in_process("why", live.path / "notes.txt", "--json"),
        in_process("why", tmp_path / "link" / "notes.txt", "--json"),
    ]
    monkeypatch.chdir(live.path)
    answers.append(in_process("why", "--json", "notes.txt"))
    assert {answer[0] for answer in answers} == {0}
    assert answers[0][1] and len(set(answers)) == 1
    assert in_process("why", tmp_path / "notes.txt")[0] == 2


def test_copying_without_a_mount_takes_no_mountpoint(live: MountedVolume, tmp_path: Path) -> None:
    for command in (("import", tmp_path, live.path), ("export", live.path, tmp_path / "out")):
        code, _, said = in_process(*command)
        assert (code, "is a mountpoint" in said) == (2, True)


def test_check_beside_the_mount(live: MountedVolume) -> None:
    assert in_process("check", live.volume)[0] == 0


def test_mountpoints_of_any_name_are_found(live: MountedVolume, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mounts.is_mounted(live.path)
    assert not mounts.is_mounted(live.path.parent)
    # Somebody else's mount with a name in no encoding at all.
    table = Path("/proc/self/mounts").read_bytes() + b"none /m\xff\xfe tmpfs rw 0 0\n"
    monkeypatch.setattr(Path, "read_bytes", lambda _: table)
    monkeypatch.setattr(Path, "read_text", lambda _: table.decode())
    assert mounts.is_mounted(live.path)


def test_a_busy_mount_stays_mounted(tmp_path: Path) -> None:
    mounted = MountedVolume(make_volume(tmp_path / "volume"), tmp_path / "mount", tmp_path / "log")
    try:
        mounted.mount()
        with (mounted.path / "file").open("wb", buffering=0) as file:
            file.write(b"first")
            done = dedupfs("umount", mounted.path)
            assert (done.returncode, done.stderr.count("\n")) == (1, 1)
            assert f"(process {os.getpid()}) has file open" in done.stderr
            file.write(b" second")
        assert (mounted.path / "file").read_bytes() == b"first second"
        mounted.umount()
    finally:
        mounted.destroy()


def test_everybody_who_uses_a_mount_is_named(live: MountedVolume) -> None:
    (live.path / "folder").mkdir()
    shutil.copy(_ctypes.__file__, live.path / "library")
    script = "import ctypes, sys; kept = ctypes.CDLL(sys.argv[1]); print(flush=True); input()"
    processes = [
        subprocess.Popen(["cat"], cwd=live.path / "folder", stdin=subprocess.PIPE),
        subprocess.Popen(
            [sys.executable, "-c", script, live.path / "library"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ),
    ]
    try:
        assert processes[1].stdout is not None
        processes[1].stdout.readline()
        uses = {user.pid: user.uses for user in users.users_of(live.path)}
        assert uses == {processes[0].pid: "works in folder", processes[1].pid: "has library mapped"}
    finally:
        for process in processes:
            process.communicate(b"\n")
    assert users.users_of(live.path) == []


def test_workers_are_started_before_the_volume_is_unlocked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both take about as long; where the passphrase is wrong they end again."""
    started: list[int] = []

    def popen(*arguments: Any, **keywords: Any) -> subprocess.Popen[bytes]:
        process: subprocess.Popen[bytes] = start(*arguments, **keywords)
        started.append(process.pid)
        return process

    def unlock(directory: Path, passphrase: bytes) -> bytes:
        assert len(started) == 1
        assert is_running(started[0])
        raise WrongKeyError("wrong passphrase")

    start = subprocess.Popen
    monkeypatch.setattr("dedupfs.ingest.forkserver.subprocess.Popen", popen)
    monkeypatch.setattr("dedupfs.storage.volume.unlock", unlock)
    monkeypatch.setattr("dedupfs.cli.mount._log_to", lambda *arguments, **keywords: None)
    (tmp_path / "mount").mkdir()
    volume = make_volume(tmp_path / "volume")
    code, _, _ = in_process("mount", volume, tmp_path / "mount", "--foreground")
    assert code == WRONG_PASSPHRASE
    assert not is_running(started[0])


def test_whoever_interrupts_a_mount_ends_it(tmp_path: Path) -> None:
    program = f"""
import os, time
from dedupfs.mount.detaching import detach
def serve(ready):
    open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()) + "\\n")
    time.sleep(600)
detach(serve, lambda exc: 1)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().endswith("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(60)
    pid = int((tmp_path / "pid").read_text())
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_mount_in_the_foreground_ends_with_a_signal(tmp_path: Path, number: int) -> None:
    mounted = MountedVolume(make_volume(tmp_path / "volume"), tmp_path / "mount", tmp_path / "log")
    process = subprocess.Popen(
        command_line("mount", mounted.volume, mounted.path, "--foreground"),
        env=with_passphrase(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        mounted.wait_until_mounted()
        (mounted.path / "file").write_bytes(b"bytes")
        process.send_signal(number)
        assert process.communicate(timeout=60) == ("", "")
        assert process.returncode == 0
        assert not os.path.ismount(mounted.path)
        mounted.mount()
        assert (mounted.path / "file").read_bytes() == b"bytes"
        mounted.umount()
        assert not is_running(process.pid)
    finally:
        process.kill()
        process.wait()
        mounted.destroy()


def test_a_mount_that_nobody_uses_goes(tmp_path: Path) -> None:
    mounted = MountedVolume(make_volume(tmp_path / "volume"), tmp_path / "mount", tmp_path / "log")
    seconds = 2.0
    try:
        mounted.mount("--idle-timeout", str(seconds / 60))
        (mounted.path / "file").write_bytes(b"bytes")
        pid, waiting = mounted.pid, time.monotonic() + 1.5 * seconds
        with (mounted.path / "file").open("rb"):
            while time.monotonic() < waiting:
                # A desktop that looks how full it is keeps no mount.
                os.statvfs(mounted.path)
                time.sleep(0.1)
            assert os.path.ismount(mounted.path), "something is open"
        with subprocess.Popen(["cat"], cwd=mounted.path, stdin=subprocess.PIPE) as process:
            time.sleep(1.5 * seconds)
            assert os.path.ismount(mounted.path), "somebody works in it"
            process.communicate()
        deadline = time.monotonic() + 60
        while is_running(pid):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert not os.path.ismount(mounted.path)
        mounted.mount("--read-only")
        assert (mounted.path / "file").read_bytes() == b"bytes"
        mounted.umount()
        mounted.assert_clean()
    finally:
        mounted.destroy()
    assert mounted.unexpected_messages() == []


def test_a_service_manager_is_told(tmp_path: Path) -> None:
    mounted = MountedVolume(make_volume(tmp_path / "volume"), tmp_path / "mount", tmp_path / "log")
    place = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(os.fspath(place))
        told.settimeout(60)
        process = subprocess.Popen(
            command_line("mount", mounted.volume, mounted.path, "--foreground"),
            env=with_passphrase() | {"NOTIFY_SOCKET": os.fspath(place)},
        )
        try:
            assert told.recv(100) == b"READY=1\n"
            assert os.path.ismount(mounted.path)
            mounted.note_pid()
            mounted.umount()
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()
            mounted.destroy()
