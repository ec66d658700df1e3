"""`dedupfs mount`: serve a volume at a mountpoint."""

from __future__ import annotations

import argparse
import contextlib
import logging
import logging.handlers
import sys
from collections.abc import Callable
from pathlib import Path

from dedupfs.cli import passphrase
from dedupfs.cli.exitcodes import DONE, IN_USE, exit_code_of
from dedupfs.cli.mount_options import MountOptions, minutes, parse
from dedupfs.cli.mounts import refuse_mounted, whereabouts_of
from dedupfs.cli.names import visible
from dedupfs.cli.service_manager import tell_service_manager
from dedupfs.errors import UsageError, WorkerStartError
from dedupfs.filesystem.memory import DEFAULT_BYTES, shares_of
from dedupfs.ingest.forkserver import ForkServer
from dedupfs.mount.detaching import check_mountpoint, detach


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "mount",
        help="mount a volume",
        description="Mount a volume on an empty directory. Returns when the mount answers; `dedupfs umount` ends it.",
    )
    parser.add_argument("volume", metavar="VOLUME", type=Path)
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", type=Path)
    parser.add_argument("--foreground", action="store_true", help="stay attached and log to standard error")
    parser.add_argument("--read-only", action="store_true", help="change nothing; any number may read at once")
    parser.add_argument(
        "-o",
        dest="options",
        metavar="OPTIONS",
        action="append",
        default=[],
        help="options for FUSE, separated by commas, such as allow_other; and, for /etc/fstab, passphrase_file=FILE,"
        " passphrase_command=CMD, log_file=FILE, idle_timeout=MINUTES and ro. memory=SIZE (default:"
        " 512M) is what the mount and its workers may take together; pictures that are too large to be compared within"
        " it are kept as they are",
    )
    parser.add_argument(
        "--idle-timeout",
        metavar="MINUTES",
        type=minutes,
        help="unmount when nobody has used the mount for so long and nothing is open, with everything settled",
    )
    parser.add_argument(
        "--log-file", metavar="FILE", type=Path, help="append messages of the mount to FILE (default: the system log)"
    )
    passphrase.add_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Mount, in a process of its own unless in the foreground."""
    directory, mountpoint = options.volume.absolute(), options.mountpoint.absolute()
    refuse_mounted(mountpoint)
    check_mountpoint(mountpoint)
    given = parse(options.options)
    if options.passphrase_file is None and options.passphrase_command is None:
        options.passphrase_file, options.passphrase_command = given.passphrase_file, given.passphrase_command
    log_file = options.log_file or given.log_file
    options.log_file = log_file.absolute() if log_file is not None else None
    secret = passphrase.read(options)

    def serve(ready: Callable[[], None]) -> None:
        _log_to(options.log_file, foreground=options.foreground, verbose=options.verbose)
        _serve(directory, mountpoint, secret, options, given, ready)

    if options.foreground:
        serve(tell_service_manager)
        return DONE
    code, message = detach(serve, exit_code_of)
    if code:
        where = whereabouts_of(directory) if code == IN_USE else ""
        text = (message or "the mount ended before it was ready") + where
        print(f"dedupfs: {visible(text)}", file=sys.stderr)
    return code


def _serve(
    directory: Path,
    mountpoint: Path,
    secret: bytes,
    options: argparse.Namespace,
    given: MountOptions,
    ready: Callable[[], None],
) -> None:
    """Unlock the volume and serve it.

    The libraries of the workers take about as long to load as all that comes before the first picture, so another
    process begins with that at once. Whether pictures are compared at all is known when the volume is open.
    """
    read_only = options.read_only or given.read_only
    server = ForkServer()
    try:
        if not read_only:
            with contextlib.suppress(WorkerStartError):  # The first job will say so.
                server.start()
        from dedupfs.storage.volume import unlock

        volume_key = unlock(directory, secret)
        try:
            # libfuse is loaded by importing its binding, and may not be installed.
            from dedupfs.mount import daemon
        except OSError as exc:
            raise UsageError("libfuse 2 is missing; on Debian: apt-get install fuse libfuse2") from exc
        daemon.serve(
            directory,
            volume_key,
            mountpoint,
            read_only=read_only,
            options=given.fuse,
            ready=ready,
            memory=shares_of(DEFAULT_BYTES if given.memory_bytes is None else given.memory_bytes),
            idle_seconds=options.idle_timeout or given.idle_seconds,
            server=server,
        )
    finally:
        server.close()


def _log_to(log_file: Path | None, *, foreground: bool, verbose: bool) -> None:
    handler: logging.Handler
    if log_file is not None:
        handler = logging.FileHandler(log_file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    elif foreground:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("dedupfs: %(message)s"))
    else:
        try:
            handler = logging.handlers.SysLogHandler("/dev/log")
            handler.setFormatter(logging.Formatter("dedupfs[%(process)d]: %(message)s"))
        except OSError:
            handler = logging.NullHandler()
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler], force=True)
