"""Running other people's programs: which are there, and what they say."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.mounting import MountedVolume, in_process

PATIENCE_SECONDS = 60.0
_ALSO_IN = ":/usr/sbin:/sbin"


def found(program: str) -> str | None:
    """Return where a program is, or None."""
    return shutil.which(program, path=os.environ["PATH"] + _ALSO_IN)


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skip a test, with the reason, where one of these programs is missing."""
    missing = [program for program in programs if found(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def attempt(
    *command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program, in English, and return what became of it."""
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**os.environ, "PATH": os.environ["PATH"] + _ALSO_IN, "LC_ALL": "C.UTF-8", **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def run(*command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a program, which must succeed, and return what it printed."""
    done = attempt(*command, cwd=cwd, env=env)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def settle(mounted: MountedVolume) -> None:
    """Return when every decision has been made, also about files that were closed just now.

    The kernel tells the mount of the last close a moment after close(2) has returned.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while json.loads(os.getxattr(mounted.path, "user.dedupfs.status"))["open_files"]:
        assert time.monotonic() < deadline, "a file stays open"
        time.sleep(0.01)
    mounted.settle()


def kind(path: Path) -> str:
    """Return what `dedupfs why` says a file is."""
    code, printed, said = in_process("why", path, "--json")
    assert (code, said) == (0, "")
    return str(json.loads(printed)["kind"])


def picture_of(root: Path, *, contents: bool) -> dict[str, Any]:
    """Return everything that a copy of a tree has to keep, by relative path; `contents` tells whether bytes count.

    Hard links appear as the first of their names.
    """
    found: dict[str, Any] = {}
    first_names: dict[int, str] = {}
    for path in sorted(root.rglob("*")):
        status, name = path.lstat(), str(path.relative_to(root))
        kept: dict[str, Any] = {
            "mode": oct(status.st_mode),
            "owner": (status.st_uid, status.st_gid),
            "xattrs": {each: os.getxattr(path, each) for each in os.listxattr(path, follow_symlinks=False)}
            if not path.is_symlink()
            else {},
        }
        if not stat.S_ISDIR(status.st_mode):
            kept["mtime_ns"] = status.st_mtime_ns
            kept["same as"] = first_names.setdefault(status.st_ino, name)
        if stat.S_ISREG(status.st_mode):
            kept["size"] = status.st_size
            if contents:
                kept["bytes"] = path.read_bytes()
        if stat.S_ISLNK(status.st_mode):
            kept["target"] = os.readlink(path)
        found[name] = kept
    return found
