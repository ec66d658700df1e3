"""Fixtures that every layer shares: a key that costs nothing, and a volume that is closed when its test ends."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from dedupfs.crypto.keys import Keyring, ScryptCost
from dedupfs.model import Policy
from dedupfs.storage.records import Config
from dedupfs.storage.volume import Volume, create_volume, open_volume, unlock

# Its asserts are worth as much as those of the tests; this must come before anything imports it.
pytest.register_assert_rewrite("tests.mounting")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So it is in a suite that was started in the background, and in every command that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)

PASSPHRASE = b"correct horse battery staple"
CHEAP = ScryptCost(n=2**10)

# How long an example takes says more about the machine than about the code.
settings.register_profile("dedupfs", deadline=None)
settings.register_profile("long", deadline=None, max_examples=1000)
settings.load_profile("dedupfs")


def examples(few: int) -> int:
    """Return how many runs a state machine makes: few, or all of them under `--hypothesis-profile long`."""
    long: int = settings.get_profile("long").max_examples
    return long if settings().max_examples >= long else few


def reopen(directory: Path, *, read_only: bool = False) -> Volume:
    """Open a volume with PASSPHRASE; it commits when it is told to and not before."""
    return open_volume(directory, unlock(directory, PASSPHRASE), read_only=read_only, group_seconds=3600)


@pytest.fixture
def key() -> bytes:
    """A volume key."""
    return bytes(range(32))


@pytest.fixture
def keyring(key: bytes) -> Keyring:
    """The subkeys of a volume."""
    return Keyring(key)


@pytest.fixture
def volume_directory(tmp_path: Path) -> Path:
    """The directory of an empty volume that opens with PASSPHRASE."""
    directory = tmp_path / "volume"
    create_volume(directory, PASSPHRASE, Config(Policy.VERIFIED, "test"), CHEAP)
    return directory


@pytest.fixture
def volume(volume_directory: Path) -> Iterator[Volume]:
    """An empty volume, open for writing."""
    opened = reopen(volume_directory)
    yield opened
    opened.close()
