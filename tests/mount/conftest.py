"""Real mounts for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dedupfs.model import Policy
from tests.mounting import MountedVolume, place_for, sound_mount
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


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedVolume]:
    """One volume for all tests of a module."""
    with sound_mount(tmp_path_factory.mktemp("shared")) as mounted:
        yield mounted


@pytest.fixture
def here(shared: MountedVolume, request: pytest.FixtureRequest) -> Path:
    """An empty directory on the shared mount."""
    return place_for(request, shared)
