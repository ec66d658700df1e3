"""Where the passphrase comes from: a file, a command, the environment, or the terminal, in this order."""

from __future__ import annotations

import argparse
import getpass
import os
import subprocess
import sys
from pathlib import Path

from dedupfs.errors import UsageError

ENVIRONMENT_VARIABLE = "DEDUPFS_PASSPHRASE"
_MAX_BYTES = 4096


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a source."""
    group = parser.add_argument_group("passphrase").add_mutually_exclusive_group()
    group.add_argument("--passphrase-file", metavar="FILE", type=Path, help="read it from the first line of FILE")
    group.add_argument("--passphrase-command", metavar="CMD", help="take the first line that CMD prints")


def read(options: argparse.Namespace, *, twice: bool = False) -> bytes:
    """Return the passphrase without its line end; on a terminal ask, and with `twice` ask again.

    Raises:
        UsageError: there is no source, or it gives nothing.
    """
    if options.passphrase_file is not None:
        try:
            with options.passphrase_file.open("rb") as file:
                found = file.readline(_MAX_BYTES)
        except OSError as exc:
            raise UsageError(f"cannot read the passphrase from {options.passphrase_file}: {exc.strerror}") from exc
    elif options.passphrase_command is not None:
        found = _from_command(options.passphrase_command)
    elif ENVIRONMENT_VARIABLE in os.environ:
        found = os.fsencode(os.environ[ENVIRONMENT_VARIABLE])
    else:
        return _from_terminal(twice)
    passphrase: bytes = found.split(b"\n", 1)[0].rstrip(b"\r")
    if not passphrase:
        raise UsageError("the passphrase is empty")
    return passphrase


def _from_command(command: str) -> bytes:
    try:
        printed: bytes = subprocess.check_output(command, shell=True)
    except subprocess.CalledProcessError as exc:
        raise UsageError(f"the passphrase command failed with status {exc.returncode}") from exc
    return bytes(printed[:_MAX_BYTES])


def _from_terminal(twice: bool) -> bytes:
    if not sys.stdin.isatty():
        raise UsageError(
            f"no passphrase: there is no terminal to ask on; use --passphrase-file, --passphrase-command or"
            f" ${ENVIRONMENT_VARIABLE}"
        )
    try:
        passphrase = getpass.getpass("Passphrase: ")
        if twice and getpass.getpass("Passphrase again: ") != passphrase:
            raise UsageError("the two passphrases differ")
    except EOFError as exc:
        raise UsageError("no passphrase was given") from exc
    if not passphrase:
        raise UsageError("the passphrase is empty")
    return os.fsencode(passphrase)
