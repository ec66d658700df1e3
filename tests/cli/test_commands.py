"""The command line as scripts rely on it: exit codes, one line of errors, JSON, every source of a passphrase."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pty
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dedupfs.cli import passphrase as passphrases
from dedupfs.cli.main import entry, main
from dedupfs.crypto import keys, recovery
from dedupfs.storage import keyslots
from dedupfs.storage import volume as volumes
from dedupfs.storage.records import FORMAT_VERSION
from tests.conftest import CHEAP, PASSPHRASE
from tests.mounting import command_line, dedupfs, without_passphrase
from tests.volumes import make_volume

DEFAULT_COST_SECONDS = 60


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Key slots cost nothing in commands that run here; DEDUPFS_PASSPHRASE opens the volume."""
    monkeypatch.setattr(volumes, "ScryptCost", lambda: CHEAP)
    monkeypatch.setattr(keyslots, "ScryptCost", lambda: CHEAP)
    monkeypatch.setenv(passphrases.ENVIRONMENT_VARIABLE, os.fsdecode(PASSPHRASE))


def fails(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    """Run a command that fails; return its exit code and the one line that it says."""
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("dedupfs: ")
    assert printed.err.count("\n") == 1
    return code, printed.err.removeprefix("dedupfs: ").strip()


def prints(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run a command that succeeds and return what it prints."""
    assert main([str(argument) for argument in arguments]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


# Volumes


def test_init_makes_a_volume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volume = tmp_path / "volume"
    recovery_key = prints(capsys, "init", volume, "--dedup", "perceptual", "--label", "holidays")
    assert recovery.decode(recovery_key.encode()) is not None
    assert recovery_key.count("\n") == 1
    stats = json.loads(prints(capsys, "stats", volume, "--json"))
    wanted = {"policy": "perceptual", "label": "holidays", "files": 0, "format_version": FORMAT_VERSION}
    assert {name: stats[name] for name in wanted} == wanted
    assert stats["dedup_ratio"] is None
    assert json.loads(prints(capsys, "check", volume, "--data", "--json"))["clean"]
    assert json.loads(prints(capsys, "clusters", volume, "--json")) == []
    assert volume.stat().st_mode & 0o077 == 0


def test_init_leaves_what_is_there_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert fails(capsys, "init", tmp_path)[0] == 2
    assert fails(capsys, "init", tmp_path / "file")[0] in (1, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.fixture
def somebody_else() -> Iterator[Path]:
    """A directory that everybody may search, for as long as this process has no special rights."""
    directory = Path(tempfile.mkdtemp(prefix="dedupfs-"))
    directory.chmod(0o755)
    user = os.geteuid()
    try:
        yield directory
    finally:
        os.seteuid(user)
        shutil.rmtree(directory)


def test_a_volume_of_somebody_else_is_refused_in_a_line(
    somebody_else: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(passphrases.ENVIRONMENT_VARIABLE, os.fsdecode(PASSPHRASE))
    volume = make_volume(somebody_else / "volume")
    commands = (("stats", volume), ("check", volume), ("key", "list", volume))
    # Once with every right: what they import may lie where only this user may read.
    for command in commands:
        prints(capsys, *command)
    volume.chmod(0)
    if os.geteuid() == 0:
        os.seteuid(65534)
    for command in commands:
        code, said = fails(capsys, *command)
        assert (code, "Permission denied" in said) == (5, True)


def test_who_presses_ctrl_c_before_a_command_has_begun_sees_no_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(command: str | None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dedupfs.cli.main.build_parser", pressed)
    monkeypatch.setattr(sys, "argv", ["dedupfs", "stats", "volume"])
    with pytest.raises(SystemExit) as ended:
        entry()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "dedupfs: interrupted\n"


def test_an_error_of_the_system_that_nobody_foresaw_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(tmp_path / "a\nb"))

    monkeypatch.setattr("dedupfs.cli.init.create_volume", broken)
    code, said = fails(capsys, "init", tmp_path / "volume")
    assert (code, said) == (1, f"{tmp_path}/a\\nb: Input/output error")


def test_init_makes_no_parents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A disk that is not plugged in must not be made up for by directories of its name."""
    code, said = fails(capsys, "init", tmp_path / "disk" / "volume")
    assert (code, said) == (2, f"there is no directory {tmp_path}/disk to make a volume in")
    assert list(tmp_path.iterdir()) == []


def test_init_does_not_overwrite_a_volume(volume_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (volume_directory / "volume.json").read_bytes()
    assert fails(capsys, "init", volume_directory)[0] == 2
    assert (volume_directory / "volume.json").read_bytes() == before


@pytest.mark.parametrize("command", [["stats"], ["clusters"], ["check"], ["why", "x"], ["mount", "."]])
def test_what_is_not_a_volume(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    name, *arguments = command
    mountpoint = tmp_path / "mountpoint"
    mountpoint.mkdir()
    arguments = [str(mountpoint) if argument == "." else argument for argument in arguments]
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "missing", tmp_path / "folder"):
        code, said = fails(capsys, name, path, *arguments)
        assert code == 5
        assert str(path) in said


def test_a_volume_of_another_format_version(volume_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = volume_directory / "volume.json"
    fields = json.loads(header.read_text())
    del fields["checksum"]
    fields["format_version"] = 99
    fields["checksum"] = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    header.write_text(json.dumps(fields))
    for command in (
        ["stats"],
        ["key", "list"],
        ["key", "add", "--recovery"],
        ["header", "restore"],
        ["header", "backup"],
    ):
        file = [volume_directory / "copy"] if command[-1] == "backup" else []
        code, said = fails(capsys, *command, volume_directory, *file)
        assert code == 5
        assert "99" in said


def test_a_wrong_passphrase(
    volume_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(passphrases.ENVIRONMENT_VARIABLE, "wrong")
    (tmp_path / "mountpoint").mkdir()
    for arguments in (["stats"], ["check"], ["clusters"], ["why", "x"], ["mount", str(tmp_path / "mountpoint")]):
        code, said = fails(capsys, arguments[0], volume_directory, *arguments[1:])
        assert (code, said) == (3, "wrong passphrase")


def test_why_of_a_path_that_is_not_there(volume_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = fails(capsys, "why", volume_directory, "no/such/file")
    assert code == 1
    assert "no/such/file" in said


@pytest.mark.parametrize("name", ["missing", "file", "full"])
def test_a_mountpoint_that_cannot_be_one(
    volume_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    code, said = fails(capsys, "mount", volume_directory, tmp_path / name)
    assert code == 2
    assert str(tmp_path / name) in said


def test_umount_of_what_is_not_mounted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fails(capsys, "umount", tmp_path)[0] == 2
    assert fails(capsys, "umount", tmp_path / "missing")[0] == 2


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["init"], ["init", "x", "--dedup", "all"], ["stats", "a", "b"]]
)
def test_nonsense_is_a_usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: dedupfs" in capsys.readouterr().err


def test_failures_reach_the_shell(tmp_path: Path) -> None:
    done = dedupfs("stats", tmp_path / "missing")
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_has_had_enough_is_no_error(volume_directory: Path) -> None:
    command = subprocess.list2cmdline(command_line("stats", volume_directory))
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | true; echo ${{PIPESTATUS[0]}}"],
        env=without_passphrase() | {"DEDUPFS_PASSPHRASE": os.fsdecode(PASSPHRASE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""


# Passphrases


@pytest.mark.parametrize("line_end", ["", "\n", "\r\n", "\nsecond line\n"])
def test_a_passphrase_from_a_file(
    volume_directory: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    line_end: str,
) -> None:
    monkeypatch.delenv(passphrases.ENVIRONMENT_VARIABLE)
    file = tmp_path / "passphrase"
    file.touch(0o600)
    file.write_bytes(PASSPHRASE + line_end.encode())
    prints(capsys, "stats", volume_directory, "--passphrase-file", file)


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o602])
def test_a_passphrase_in_a_file_of_everybody_is_taken_with_a_warning(
    volume_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: int
) -> None:
    file = tmp_path / "pass\nphrase"
    file.write_bytes(PASSPHRASE)
    file.chmod(mode)
    assert main(["stats", str(volume_directory), "--passphrase-file", str(file)]) == 0
    assert capsys.readouterr().err == f"dedupfs: {tmp_path}/pass\\nphrase is open to other users; chmod 600 closes it\n"


@pytest.mark.parametrize(
    "command",
    [
        "printf '%s\\n' '{}'",
        """sh -c 'echo "{}"'""",
        "echo {} | sed 's/ / /g'; echo and a second line",
        "echo $WORDS",
    ],
)
def test_a_passphrase_from_a_command(
    volume_directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """A shell runs it, with its quoting, pipes and variables."""
    monkeypatch.setenv(passphrases.ENVIRONMENT_VARIABLE, "a named source comes before the environment")
    monkeypatch.setenv("WORDS", PASSPHRASE.decode())
    prints(capsys, "stats", volume_directory, "--passphrase-command", command.format(PASSPHRASE.decode()))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--passphrase-file", "/no/such/file"),
        ("--passphrase-file", "/dev/null"),
        ("--passphrase-command", "exit 7"),
        ("--passphrase-command", "true"),
        ("--passphrase-command", "kill -KILL $$"),
        ("--passphrase-command", "exec 2>&-; no-such-program"),
    ],
)
def test_a_source_that_gives_nothing(
    volume_directory: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    assert fails(capsys, "stats", volume_directory, option, value)[0] == 2


def test_no_source_at_all(volume_directory: Path) -> None:
    done = dedupfs("stats", volume_directory, environment=without_passphrase())
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "terminal" in done.stderr


def on_a_terminal(answers: list[bytes], *arguments: str | Path) -> tuple[int, bytes]:
    """Run a command on a terminal, answer each question, and return its exit code and what the terminal showed."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command_line(*arguments),
        env=without_passphrase(),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    shown = b""
    asked = 0
    deadline = time.monotonic() + DEFAULT_COST_SECONDS
    try:
        while time.monotonic() < deadline:
            if select.select([master], [], [], 0.1)[0]:
                try:
                    shown += os.read(master, 1000)
                except OSError:
                    break
            if asked < len(answers) and shown.count(b": ") > asked:
                # Answers that come before the echo is off would be shown.
                time.sleep(0.1)
                os.write(master, answers[asked] + b"\n")
                asked += 1
        return process.wait(DEFAULT_COST_SECONDS), shown
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_a_passphrase_from_the_terminal(volume_directory: Path) -> None:
    code, shown = on_a_terminal([PASSPHRASE], "stats", volume_directory)
    assert code == 0, shown
    assert shown.startswith(b"Passphrase: ")
    assert b"policy       verified" in shown
    assert PASSPHRASE not in shown


def test_a_new_passphrase_is_asked_for_twice(tmp_path: Path) -> None:
    code, shown = on_a_terminal([b"one", b"another"], "init", tmp_path / "volume")
    assert (code, b"Passphrase again: " in shown, b"differ" in shown) == (2, True, True)
    assert not (tmp_path / "volume").exists()


def test_a_slot_made_by_init_is_expensive_to_guess() -> None:
    """The tests make theirs cheap; a user's must not be."""
    cost = keys.ScryptCost()
    assert cost.n * cost.r * cost.p >= 2**17 * 8


@pytest.mark.parametrize("command", ["metrics", "mount", "stats", "umount"])
def test_commands_begin_without_what_opens_a_volume(command: str) -> None:
    """To load it takes several times as long as all that they do themselves: a mount answers, or a child opens it."""
    program = f"import sys, dedupfs.cli.{command}; print(*{{'cryptography', 'lmdb', 'numpy'}} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
