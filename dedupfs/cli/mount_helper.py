"""`mount.fuse.dedupfs`: what mount(8) runs for the type fuse.dedupfs, so that /etc/fstab can name a volume.

Where libfuse's `mount.fuse` stands between, it runs `dedupfs VOLUME MOUNTPOINT -o OPTIONS`, which means the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from dedupfs.cli.exitcodes import DONE

_SOURCE_PREFIX = "dedupfs#"


def mount_arguments(arguments: Sequence[str]) -> list[str] | None:
    """Return the arguments of `dedupfs` for those that mount(8) gives to a helper; None when nothing is to be done.

    The volume's directory becomes the name of the filesystem in the kernel's table, by which `mount -a` sees that an
    entry of fstab is mounted already.
    """
    parser = argparse.ArgumentParser(
        prog="mount.fuse.dedupfs", description="Called by mount(8); see `dedupfs mount --help`."
    )
    parser.add_argument("source", metavar="VOLUME")
    parser.add_argument("target", metavar="MOUNTPOINT")
    parser.add_argument("-o", dest="options", metavar="OPTIONS", action="append", default=[])
    parser.add_argument("-f", dest="fake", action="store_true", help="do all but mount")
    for flag in ("-s", "-n", "-v"):
        parser.add_argument(flag, action="store_true", help=argparse.SUPPRESS)
    for option in ("-t", "-N"):
        parser.add_argument(option, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.fake:
        return None
    source = given.source.removeprefix(_SOURCE_PREFIX)
    name = source.replace("\\", "\\\\").replace(",", "\\,")
    options = [word for each in [f"fsname={name}", *given.options] for word in ("-o", each)]
    return ["mount", *options, "--", source, given.target]


def entry() -> None:
    """Run as a console command."""
    from dedupfs.cli.main import main

    arguments = mount_arguments(sys.argv[1:])
    sys.exit(DONE if arguments is None else main(arguments))
