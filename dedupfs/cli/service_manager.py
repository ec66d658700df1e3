"""Telling systemd that a mount answers, for units with Type=notify; see sd_notify(3)."""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger(__name__)

_PLACE = "NOTIFY_SOCKET"


def tell_service_manager() -> None:
    """Say that the mount is ready, where somebody has asked to be told."""
    place = os.environ.get(_PLACE)
    if not place:
        return
    # A name that begins with @ is one of the kernel's, not of a directory.
    address = "\0" + place[1:] if place.startswith("@") else place
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as told:
            told.sendto(b"READY=1\n", address)
    except OSError as exc:
        log.warning("the service manager cannot be told that the mount is ready: %s", exc.strerror)
