"""Volumes for tests that choose a policy or open them as the mount does."""

from __future__ import annotations

from pathlib import Path

from dedupfs.model import Policy
from dedupfs.storage.records import Config
from dedupfs.storage.volume import Volume, create_volume, open_volume, unlock
from tests.conftest import CHEAP, PASSPHRASE

__all__ = ["PASSPHRASE", "make_volume", "opened_volume"]


def make_volume(directory: Path, policy: Policy = Policy.VERIFIED) -> Path:
    """Make a volume that costs next to nothing to open, and return its directory."""
    create_volume(directory, PASSPHRASE, Config(policy, ""), CHEAP)
    return directory


def opened_volume(directory: Path, *, read_only: bool = False) -> Volume:
    """Open a volume with PASSPHRASE; it commits now and then, as under a mount."""
    return open_volume(directory, unlock(directory, PASSPHRASE), read_only=read_only)
