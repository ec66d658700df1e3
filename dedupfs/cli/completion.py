"""`dedupfs completion`: what makes a shell complete the commands and options of dedupfs, made from the parser."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from dedupfs.cli.exitcodes import DONE
from dedupfs.errors import UsageError

SHELLS = ("bash", "zsh", "fish")
_DIRECTORIES = ("VOLUME", "MOUNTPOINT", "DEST")
_FILES = ("FILE", "PATH", "SOURCE")
_DESCRIPTION = """\
Print what makes a shell complete dedupfs, for example:

  bash  dedupfs completion bash > ~/.local/share/bash-completion/completions/dedupfs
  zsh   dedupfs completion zsh > ~/.zfunc/_dedupfs      with fpath+=~/.zfunc before compinit in ~/.zshrc
  fish  dedupfs completion fish > ~/.config/fish/completions/dedupfs.fish
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "completion",
        help="print what makes a shell complete dedupfs",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the completion."""
    from dedupfs.cli.main import build_parser

    print(completion(build_parser(), options.shell))
    return DONE


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return a script for a shell. Raises UsageError where the library that writes it is missing."""
    try:
        import shtab
    except ImportError as exc:
        # Not the extra of the package by its name: what an index has under that name is not known here.
        raise UsageError(f"this needs shtab: {sys.executable} -m pip install shtab") from exc
    for action in _actions(parser):
        if action.metavar in _DIRECTORIES:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.metavar in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:  # noqa: SLF001 -- argparse has no other way to its arguments
        yield action
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 -- the same
            short = {choice.dest: choice.help for choice in action._choices_actions}  # noqa: SLF001 -- the same
            for name, below in action.choices.items():
                # Shells show one line for each.
                below.description = short[name]
                yield from _actions(below)
