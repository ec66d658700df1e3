"""The command line: parses, runs one command, turns its outcome into an exit code and one line on standard error."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
from collections.abc import Sequence

from dedupfs import __version__
from dedupfs.cli.exitcodes import DONE, FAILED, exit_code_of
from dedupfs.cli.names import printable
from dedupfs.errors import DedupfsError, StoreLockedError

log = logging.getLogger(__name__)

_COMMANDS = {
    "scan": "scan",
    "init": "init",
    "mount": "mount",
    "umount": "umount",
    "import": "importing",
    "export": "export",
    "stats": "stats",
    "metrics": "metrics",
    "why": "why",
    "clusters": "clusters",
    "report": "report",
    "restore": "restore",
    "split": "split",
    "config": "config",
    "check": "check",
    "compact": "compact",
    "key": "key",
    "header": "header",
    "doctor": "doctor",
    "completion": "completion",
}
"""Commands in the order of the help, and the modules that have them. Only the one that is asked for is imported: all of
them take half a second of processor time, `umount` alone takes less than a tenth."""
_DESCRIPTION = """\
A folder you mount. Copy photos into it with any tool: everything is encrypted, and where a picture is only another
version of one it already holds, no second ciphertext is kept.

  dedupfs init ~/vault
  mkdir ~/photos && dedupfs mount ~/vault ~/photos
  cp -a /media/camera/. ~/photos/
  dedupfs umount ~/photos
  dedupfs stats ~/vault
"""
_EPILOG = """\
The passphrase is asked for on the terminal, or taken from --passphrase-file, --passphrase-command or the environment
variable DEDUPFS_PASSPHRASE. A recovery key is taken in its place everywhere.

exit codes: 0 done, 1 the operation failed or found damage, 2 usage, 3 wrong passphrase, 4 volume in use,
5 not a volume or an unknown format version"""


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of the whole command line, or of one command alone."""
    parser = argparse.ArgumentParser(
        prog="dedupfs",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dedupfs {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more on standard error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, module in _COMMANDS.items():
        if command in (None, name):
            importlib.import_module(f"dedupfs.cli.{module}").add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and "/" in given[0] and not given[0].startswith("-"):
        from dedupfs.cli import mount_helper

        # No command has such a name: this is how mount.fuse asks for a mount.
        translated = mount_helper.mount_arguments(given)
        if translated is None:
            return DONE
        given = translated
    command = next((word for word in given if not word.startswith("-")), None)
    # For what is no command the whole parser says which there are.
    options = build_parser(command if command in _COMMANDS else None).parse_args(given)
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.ERROR, format="dedupfs: %(message)s", stream=sys.stderr
    )
    try:
        code: int = options.run(options)
        # What is still in the buffer must fail here and not at exit.
        sys.stdout.flush()
        return code
    except DedupfsError as exc:
        text = str(exc)
        if isinstance(exc, StoreLockedError) and getattr(options, "volume", None):
            from dedupfs.cli.mounts import whereabouts_of

            text += whereabouts_of(options.volume)
        # It may name a file whose name the shell has put in.
        print(f"dedupfs: {printable(os.fsencode(text))}", file=sys.stderr)
        return exit_code_of(exc)
    except BrokenPipeError:
        # Whoever read our output has had enough; Python flushes once more at exit, and has to find something there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as exc:
        # Of a file that nobody thought of: its name and what the system says are all that helps, unless one develops.
        log.info("where it happened", exc_info=exc)
        name = "" if exc.filename is None else f"{printable(os.fsencode(exc.filename))}: "
        print(f"dedupfs: {name}{exc.strerror or exc}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return _interrupted()


def _interrupted() -> int:
    print("dedupfs: interrupted", file=sys.stderr)
    return 128 + signal.SIGINT


def entry() -> None:
    """Run as a console command."""
    try:
        code = main()
    except KeyboardInterrupt:
        # While what the command needs was still being imported.
        code = _interrupted()
    sys.exit(code)


if __name__ == "__main__":
    entry()
