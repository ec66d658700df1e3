"""Real mounts for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dedupfs.model import Policy
from tests.mounting import MountedVolume
from tests.volumes import make_volume


@pytest.fixture
def policy() -> Policy:
    """The policy of the volume; a test overrides it with a parameter of this name."""
    return Policy.VERIFIED


@pytest.fixture
def mounted(tmp_path: Path, policy: Policy) -> Iterator[MountedVolume]:
    """A new volume, mounted; unmounted at the end, with nothing unexpected in its log."""
    volume = MountedVolume(make_volume(tmp_path / "volume", policy), tmp_path / "mount", tmp_path / "log")
    try:
        volume.mount()
        yield volume
    finally:
        volume.destroy()
    assert volume.unexpected_messages() == []
