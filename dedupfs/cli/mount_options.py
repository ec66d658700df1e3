"""What follows `-o`: options of dedupfs itself, options for FUSE, and those that concern mount(8) alone."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, field
from pathlib import Path

from dedupfs.cli.names import visible
from dedupfs.errors import UsageError
from dedupfs.filesystem.memory import shares_of

_FOR_OTHERS = frozenset(
    (
        *("rw", "defaults", "auto", "noauto", "nofail", "_netdev", "user", "nouser", "users", "owner", "group"),
        *("relatime", "norelatime", "strictatime", "nostrictatime", "lazytime", "nolazytime", "diratime", "nodiratime"),
        *("comment", "helper", "uhelper", "loop", "silent", "loud", "iversion", "noiversion", "mand", "nomand"),
    )
)
"""Of mount(8) and fstab(5); libfuse would refuse them."""
_FOR_OTHERS_PREFIXES = ("x-", "X-")
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)(?:([KMGTkmgt])(i)?)?B?")
_SEPARATOR = re.compile(r"(?<!\\),")


@dataclass(slots=True)
class MountOptions:
    """Options of one mount; what was not given is None."""

    fuse: dict[str, str | bool] = field(default_factory=dict)
    read_only: bool = False
    passphrase_file: Path | None = None
    passphrase_command: str | None = None
    log_file: Path | None = None
    idle_seconds: float | None = None
    memory_bytes: int | None = None


def parse(given: list[str]) -> MountOptions:
    r"""Return the options in lists separated by commas; `\,` is a comma within a value. Raises UsageError."""
    parsed = MountOptions()
    for option in _SEPARATOR.split(",".join(given)):
        name, equals, value = option.strip().partition("=")
        if not name or name in _FOR_OTHERS or name.startswith(_FOR_OTHERS_PREFIXES):
            continue
        if name in ("passphrase_file", "passphrase_command", "log_file", "idle_timeout", "memory") and not value:
            raise UsageError(f"the mount option {name} needs a value")
        own_value = value.replace("\\,", ",")
        if name == "ro":
            parsed.read_only = True
        elif name == "passphrase_file":
            parsed.passphrase_file = Path(own_value)
        elif name == "passphrase_command":
            parsed.passphrase_command = own_value
        elif name == "log_file":
            parsed.log_file = Path(own_value)
        elif name == "idle_timeout":
            try:
                parsed.idle_seconds = minutes(value)
            except argparse.ArgumentTypeError as exc:
                raise UsageError(f"the mount option idle_timeout is {exc}") from exc
        elif name == "memory":
            parsed.memory_bytes = _memory(value)
        else:
            # libfuse knows of escaped commas, too.
            parsed.fuse[name] = value if equals else True
    return parsed


def _memory(text: str) -> int:
    """Return a size such as 512M, 1.5G or 1GiB in bytes, no less than a mount needs. Raises UsageError."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise UsageError(f"the mount option memory is not a size such as 512M or 2G: {visible(text)}")
    number, unit, binary = found.groups()
    size_bytes = int(float(number) * (1024 if binary else 1000) ** (" KMGT".index(unit.upper()) if unit else 0))
    shares_of(size_bytes)
    return size_bytes


def minutes(text: str) -> float:
    """Return minutes in seconds. Raises ArgumentTypeError."""
    try:
        seconds = float(text) * 60
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"not a number of minutes: {text}")
    return seconds
