"""A volume of another format, later or earlier, is refused by its number: by every command, and without a change."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import pytest

from dedupfs.cli.main import build_parser
from dedupfs.storage.header import BACKUP_FILE, HEADER_FILE
from dedupfs.storage.records import FORMAT_VERSION
from tests.mounting import in_process

COMMANDS = [
    "mount VOLUME FOLDER",
    "stats VOLUME",
    "metrics VOLUME",
    "import FOLDER VOLUME",
    "export VOLUME FOLDER",
    "why VOLUME photo.jpg",
    "clusters VOLUME",
    "report VOLUME -o FILE",
    "config VOLUME",
    "check VOLUME",
    "compact VOLUME",
    "key list VOLUME",
    "key add VOLUME --recovery",
    "key change VOLUME --new-passphrase-command echo",
    "key remove VOLUME 1",
    "header backup VOLUME FILE",
    "header restore VOLUME",
]
WITHOUT_A_VOLUME = {"init", "restore", "split", "scan", "umount", "doctor", "completion"}


@pytest.mark.parametrize("version", [FORMAT_VERSION - 1, FORMAT_VERSION + 1])
@pytest.mark.parametrize("command", COMMANDS)
def test_another_format_is_refused(volume_directory: Path, tmp_path: Path, command: str, version: int) -> None:
    for name in (HEADER_FILE, BACKUP_FILE):
        set_version(volume_directory / name, version)
    before = {path.name: path.read_bytes() for path in volume_directory.iterdir()}
    (tmp_path / "folder").mkdir()
    paths = {"VOLUME": volume_directory, "FOLDER": tmp_path / "folder", "FILE": tmp_path / "file"}
    code, printed, said = in_process(*[paths.get(word, word) for word in command.split()])
    assert (code, printed) == (5, "")
    assert said == f"dedupfs: the volume has format version {version}; this dedupfs knows version {FORMAT_VERSION}\n"
    assert {path.name: path.read_bytes() for path in volume_directory.iterdir()} == before
    assert not (tmp_path / "file").exists()


def test_no_command_is_forgotten() -> None:
    names = set(subcommands(build_parser()))
    for group in ("key", "header"):
        below = subcommands(subcommands(build_parser())[group])
        names = names - {group} | {f"{group} {name}" for name in below}
    assert {command.partition(" VOLUME")[0].removesuffix(" FOLDER") for command in COMMANDS} == names - WITHOUT_A_VOLUME


def set_version(header: Path, version: int) -> None:
    """Make a header one of another format; what all formats share is as it should be."""
    fields = json.loads(header.read_text())
    del fields["checksum"]
    fields["format_version"] = version
    checksum = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    header.write_text(json.dumps({**fields, "checksum": checksum}))


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of the commands below one."""
    (actions,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(actions.choices)
