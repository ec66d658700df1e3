"""What the README tells a person to type does what it says, line by line, on a terminal that is asked for passphrases.

Left out are the scripts of the checkout, which have tests of their own, and rsync where it is missing.
"""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.mounting import ROOT, mark_fuse
from tests.test_readme import FENCE, README

pytestmark = mark_fuse()

PASSPHRASE = "of the readme"
PATIENCE_SECONDS = 60.0
_PROMPT = re.compile(rb"(\w+) passphrase[^\n]*: $|Passphrase[^\n]*: $", re.IGNORECASE)
_PROGRAM = """\
from dedupfs.cli.main import entry
from dedupfs.crypto.keys import ScryptCost
ScryptCost.__init__.__defaults__ = (2**10, 8, 1)
entry()
"""
"""dedupfs, but for what a passphrase costs: with that of users this test takes 22 s of processor time, and 15 so."""
_WATCHED = b"traffic"
"""Begins the last line of what `--watch` shows; it goes on until somebody presses Ctrl-C."""


def lines() -> list[str]:
    """Return every command of the README that is no script of the checkout, in the order in which it shows them."""
    found = [line for fence in FENCE.findall(README) for line in fence.replace("\\\n", " ").splitlines()]
    return [line for line in found if line and not line.startswith("scripts/")]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home directory with some photos in it, and programs of which the README speaks; nothing stays mounted."""
    home = tmp_path / "home"
    album = home / "Pictures" / "2024"
    album.mkdir(parents=True)
    photos = ROOT / "tests" / "photos"
    for name, own in (("cat", "beach"), ("coffee", "coffee"), ("wren", "wren")):
        shutil.copy(photos / f"{name}.jpg", album / f"{own}.jpg")
    with Image.open(photos / "cat.jpg") as beach:
        beach.resize((beach.width // 2, beach.height // 2)).save(album / "beach-small.jpg", quality=80)
    programs = home / "bin"
    programs.mkdir()
    (programs / "cheap.py").write_text(_PROGRAM)
    for name, text in (
        ("dedupfs", f'exec "{sys.executable}" "{programs}/cheap.py" "$@"'),
        ("pass", f'test "$*" = "show photos" && echo "{PASSPHRASE}"'),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    key = home / "photos.key"
    key.write_text(f"{PASSPHRASE}\n")
    key.chmod(0o600)
    yield home
    subprocess.run(["umount", "--lazy", home / "photos"], capture_output=True, check=False)


class Person:
    """Somebody at a terminal, who types one line after the other and remembers the passphrase."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.passphrase = PASSPHRASE
        self._changes = 0

    def types(self, line: str) -> tuple[int, str]:
        """Run one line in a shell of its own, answering every prompt; return its status and its output."""
        kept = {name: value for name, value in os.environ.items() if name != "DEDUPFS_PASSPHRASE"}
        own = {"HOME": str(self.home), "PATH": f"{self.home}/bin:{kept['PATH']}", "PYTHONPATH": str(ROOT)}
        self._changes += 1
        new = f"new one {self._changes}"
        process, terminal = pty.fork()
        if not process:
            os.chdir(self.home)
            os.execvpe("bash", ["bash", "-c", line], kept | own)
        try:
            said = self._converse(terminal, line, new)
            status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        except BaseException:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            raise
        finally:
            os.close(terminal)
        if line.startswith("dedupfs key change") and status == 0:
            self.passphrase = new
        return status, said.decode(errors="replace")

    def _converse(self, terminal: int, line: str, new: str) -> bytes:
        said, answered = b"", 0
        watching = "--watch" in line
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            ready = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0]
            assert ready, f"{line} hangs: {said!r}"
            try:
                part = os.read(terminal, 1 << 16)
            except OSError:
                # Nobody has the other end any more.
                return said
            said += part
            prompt = _PROMPT.search(said, answered)
            if prompt:
                is_new = (prompt.group(1) or b"").lower() == b"new"
                answered = len(said)
                os.write(terminal, f"{new if is_new else self.passphrase}\n".encode())
            elif watching and _WATCHED in said:
                os.write(terminal, b"\x03")
                watching = False


def test_every_command_runs_in_the_order_shown(home: Path) -> None:
    person, ran = Person(home), 0
    for line in lines():
        if line.startswith("rsync") and shutil.which("rsync") is None:
            continue
        status, said = person.types(line.replace("DEDUPFS_PASSPHRASE=...", f'DEDUPFS_PASSPHRASE="{PASSPHRASE}"'))
        assert status == 0, f"{line}: {said}"
        assert "Traceback" not in said
        ran += 1
    assert ran > 40
    copied = {path.name: path.read_bytes() for path in (home / "everything" / "2024").iterdir()}
    assert copied == {path.name: path.read_bytes() for path in (home / "Pictures" / "2024").iterdir()}
    assert not os.path.ismount(home / "photos")
