"""Where passphrases come from: a file, a command, the environment, or the terminal, in this order.

The text of a recovery key is taken wherever a passphrase is; a file or a command may give it in several lines.
"""

from __future__ import annotations

import argparse
import getpass
import os
import stat
import subprocess
import sys
from pathlib import Path

from dedupfs.cli.names import visible
from dedupfs.crypto import recovery
from dedupfs.errors import UsageError

ENVIRONMENT_VARIABLE = "DEDUPFS_PASSPHRASE"
_MAX_BYTES = 4096
_OF_OTHERS = stat.S_IRWXG | stat.S_IRWXO
"""Permissions that a passphrase file should not give. It is taken all the same, as systemd-cryptsetup does with key
files: a machine whose photos are gone after the next start is no safer."""


def add_arguments(parser: argparse.ArgumentParser, which: str = "") -> None:
    """Add the options that name a source of the passphrase; `which` tells it from another one, such as `new`."""
    name = f"{which}-passphrase".lstrip("-")
    meaning = f"{which} passphrase".lstrip()
    group = parser.add_argument_group(meaning).add_mutually_exclusive_group()
    group.add_argument(
        f"--{name}-file", metavar="FILE", type=Path, help=f"read the {meaning} from the first line of FILE"
    )
    group.add_argument(
        f"--{name}-command", metavar="CMD", help=f"take the {meaning} from the first line that CMD prints"
    )


def read(options: argparse.Namespace, *, twice: bool = False, prompt: str = "Passphrase") -> bytes:
    """Return the passphrase without its line end; on a terminal ask, and with `twice` ask again.

    Raises:
        UsageError: there is no source, or it gives nothing.
    """
    found = _from_options(options, "")
    if found is None and ENVIRONMENT_VARIABLE in os.environ:
        found = os.fsencode(os.environ[ENVIRONMENT_VARIABLE])
    if found is None:
        return _from_terminal(prompt, f"--passphrase-file, --passphrase-command or ${ENVIRONMENT_VARIABLE}", twice)
    return _without_line_end(found, "passphrase")


def read_other(options: argparse.Namespace, which: str, *, twice: bool, prompt: str) -> bytes:
    """Return the passphrase of the options that `add_arguments` made for `which`. Raises UsageError, see `read`."""
    found = _from_options(options, which)
    if found is None:
        return _from_terminal(prompt, f"--{which}-passphrase-file or --{which}-passphrase-command", twice)
    return _without_line_end(found, f"{which} passphrase")


def _from_options(options: argparse.Namespace, which: str) -> bytes | None:
    name = f"{which}_passphrase".lstrip("_")
    file, command = getattr(options, f"{name}_file"), getattr(options, f"{name}_command")
    if file is not None:
        try:
            with file.open("rb") as opened:
                # Whoever writes into a pipe may leave it open behind the first line.
                status = os.fstat(opened.fileno())
                whole = stat.S_ISREG(status.st_mode)
                if whole and status.st_mode & _OF_OTHERS:
                    print(f"dedupfs: {visible(str(file))} is open to other users; chmod 600 closes it", file=sys.stderr)
                return bytes(opened.read(_MAX_BYTES) if whole else opened.readline(_MAX_BYTES))
        except OSError as exc:
            raise UsageError(f"cannot read the {name.replace('_', ' ')} from {file}: {exc.strerror}") from exc
    return None if command is None else _from_command(command)


def _from_command(command: str) -> bytes:
    try:
        printed: bytes = subprocess.check_output(command, shell=True)
    except subprocess.CalledProcessError as exc:
        raise UsageError(f"the passphrase command failed with status {exc.returncode}") from exc
    return bytes(printed[:_MAX_BYTES])


def _without_line_end(found: bytes, what: str) -> bytes:
    if recovery.decode(found) is not None:
        return found
    passphrase = found.split(b"\n", 1)[0].rstrip(b"\r")
    if not passphrase:
        raise UsageError(f"the {what} is empty")
    return passphrase


def _from_terminal(prompt: str, instead: str, twice: bool) -> bytes:
    if not sys.stdin.isatty():
        raise UsageError(f"no {prompt.lower()}: there is no terminal to ask on; use {instead}")
    try:
        passphrase = getpass.getpass(f"{prompt}: ")
        if twice and getpass.getpass(f"{prompt} again: ") != passphrase:
            raise UsageError("the two passphrases differ")
    except EOFError as exc:
        raise UsageError("no passphrase was given") from exc
    if not passphrase:
        raise UsageError("the passphrase is empty")
    return os.fsencode(passphrase)
