"""Completion and the manual page: made from the parser, so that they know what it knows."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dedupfs.cli.completion import SHELLS
from dedupfs.cli.main import main
from tests.mounting import ROOT

BASH = """\
source "$1"
COMP_WORDS=(dedupfs "${@:2}") COMP_CWORD=$(($# - 1))
$(complete -p dedupfs | sed 's/.*-F \\([^ ]*\\).*/\\1/') dedupfs "${@: -1}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_for_each_shell(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("export", "import", "umount", "recovery", "passphrase-file", "idle-timeout"):
        assert word in script
    if shell != "bash":
        # Whoever presses Tab wants to read a line about each command, not its description.
        assert "show what a volume holds and saves" in script
        assert "as of its last commit" not in script
    if shutil.which(shell) is not None:
        (tmp_path / "script").write_text(script)
        done = subprocess.run([shell, "-n", tmp_path / "script"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main(["completion", "bash"])
    (tmp_path / "script").write_text(capsys.readouterr().out)
    (tmp_path / "volume").mkdir()

    def completed(*words: str) -> set[str]:
        done = subprocess.run(
            ["bash", "-c", BASH, "bash", tmp_path / "script", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        return set(done.stdout.split())

    assert completed("ex") == {"export"}
    assert completed("key", "") >= {"add", "change", "remove", "list"}
    assert "--force" in completed("export", "--f")
    assert "verified" in completed("init", "--dedup", "v")
    assert completed("export", "vol") == {"volume"}


def test_without_the_library_the_command_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "zsh"]) == 2
    assert "pip install" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("man") is None, reason="man is not installed")
def test_the_manual_page_is_sound(tmp_path: Path) -> None:
    page = tmp_path / "dedupfs.1"
    made = subprocess.run([ROOT / "scripts" / "manpage"], capture_output=True, check=True)
    page.write_bytes(made.stdout)
    shown = subprocess.run(
        ["man", "--warnings", "-l", page], env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin", "MANWIDTH": "100"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stderr == ""
    if shutil.which("mandoc") is not None:
        linted = subprocess.run(
            ["mandoc", "-T", "lint", "-W", "warning", page], capture_output=True, text=True, check=False
        )
        assert (linted.returncode, linted.stdout) == (0, "")
    for word in ("dedupfs key add", "--idle-timeout MINUTES", "EXIT CODES", "near-identical pictures"):
        assert word.lower() in shown.stdout.lower()
