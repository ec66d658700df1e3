"""What the README tells a person to type exists: every command in its fences parses. test_readme_runs.py runs them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

FENCE = re.compile(r"^```(?:console|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """Return the words of every command in the fences, without variables that are set in front of it."""
    found = []
    for fence in FENCE.findall(README):
        for line in fence.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words.pop(0)
            if words:
                found.append(words)
    return found


DEDUPFS_COMMANDS = [words[1:] for words in commands() if words[0] == "dedupfs"]
SCRIPTS = sorted({words[0] for words in commands() if words[0].startswith("scripts/")})


@pytest.mark.parametrize("arguments", DEDUPFS_COMMANDS, ids=" ".join)
def test_command_parses(arguments: list[str]) -> None:
    from dedupfs.cli.main import build_parser

    build_parser().parse_args(arguments)


def test_every_command_of_daily_use_is_shown() -> None:
    shown = {arguments[0] for arguments in DEDUPFS_COMMANDS}
    assert {
        "scan",
        "init",
        "mount",
        "umount",
        "import",
        "export",
        "stats",
        "metrics",
        "why",
        "restore",
        "split",
        "config",
        "clusters",
        "check",
        "compact",
        "key",
        "header",
        "doctor",
        "completion",
    } <= shown


def test_the_unit_of_systemd_is_sound(tmp_path: Path) -> None:
    from dedupfs.cli.main import build_parser

    unit = re.findall(r"^```ini\n(.*?)^```", README, re.MULTILINE | re.DOTALL)[0]
    for command in re.findall(r"^Exec\w+=(.*)$", unit, re.MULTILINE):
        program, *arguments = shlex.split(command)
        assert program == "%h/.local/bin/dedupfs"
        build_parser().parse_args(arguments)
    if shutil.which("systemd-analyze") is None:
        return
    file = tmp_path / "photos.service"
    # It looks whether the program is there.
    file.write_text(unit.replace("%h/.local/bin/dedupfs", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", file],
        env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_exists(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)


def test_links_to_files_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)]+)\)", README)
    assert [target for target in targets if not (ROOT / target.partition("#")[0]).exists()] == []
