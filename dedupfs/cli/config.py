"""`dedupfs config`: what was chosen for a volume, and choosing otherwise."""

from __future__ import annotations

import argparse
import json
from typing import Any

from dedupfs.cli.exitcodes import DONE
from dedupfs.cli.names import visible
from dedupfs.cli.opened import add_arguments, opened
from dedupfs.errors import UsageError
from dedupfs.model import Policy
from dedupfs.storage.volume import Volume

_SETTINGS = ("keep-originals", "dedup", "label")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "config",
        help="show and change the settings of a volume",
        description="Show the settings of a volume, or change them while it is not mounted: `keep-originals DAYS` keeps"
        " the exact bytes of files that become renditions for so long, 0 for not at all; `dedup POLICY` is what may be"
        " kept as a reference, as for init; `label TEXT` is its name. They hold for what is written from then on:"
        " nothing that is stored changes.",
    )
    add_arguments(parser)
    parser.add_argument("settings", metavar="SETTING VALUE", nargs="*", help=", ".join(_SETTINGS))
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Change what is to be changed, and show the settings."""
    wanted = _parsed(options.settings)
    with opened(options, read_only=not wanted) as found:
        if wanted:
            found.volume.configure(**wanted)
        settings = _settings(found.volume)
    if options.json:
        print(json.dumps(settings, indent=2))
    else:
        for name, value in settings.items():
            setting = name.removesuffix("_days").replace("_", "-")
            print(f"{setting:<15} {visible(str(value))}{' days' if name.endswith('_days') else ''}")
    return DONE


def days(text: str) -> int:
    """Return a number of days. Raises UsageError."""
    try:
        return int(text)
    except ValueError as exc:
        raise UsageError(f"not a number of days: {visible(text)}") from exc


def _parsed(words: list[str]) -> dict[str, Any]:
    if len(words) % 2:
        raise UsageError(f"{visible(words[-1])} has no value; settings and values take turns")
    wanted: dict[str, Any] = {}
    for name, value in zip(words[::2], words[1::2], strict=True):
        if name == "keep-originals":
            wanted["keep_originals_days"] = days(value)
        elif name == "label":
            wanted["label"] = value
        elif name == "dedup":
            try:
                wanted["policy"] = Policy(value)
            except ValueError as exc:
                raise UsageError("a policy is one of verified, perceptual and off") from exc
        else:
            raise UsageError(f"there is no setting {visible(name)}; there are {', '.join(_SETTINGS)}")
    return wanted


def _settings(volume: Volume) -> dict[str, Any]:
    return {
        "keep_originals_days": volume.keep_originals_days,
        "dedup": volume.config.policy.value,
        "label": volume.config.label,
    }
