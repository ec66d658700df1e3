"""A mount that is asked how it fares, without a passphrase: whoever may look into its root may know the numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dedupfs.cli.mounts import is_mounted, mount_status
from dedupfs.errors import UsageError
from dedupfs.mount.status import STATUS_XATTR


def live_figures(place: Path) -> dict[str, Any] | None:
    """Return the numbers of a live mount, or None for what is no mountpoint. Raises UsageError when it is silent."""
    if not is_mounted(place):
        return None
    said = mount_status(place, STATUS_XATTR)
    if said is None:
        raise UsageError(f"the mount at {place} does not answer; dedupfs umount clears it away")
    figures: dict[str, Any] = json.loads(said)
    return figures
