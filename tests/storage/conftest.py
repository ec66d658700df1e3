"""A store in memory, which commits when it is told to and not before."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dedupfs.crypto.keys import Keyring
from dedupfs.storage import records
from dedupfs.storage.store import Store
from dedupfs.storage.volume import Volume
from tests.storage.engines import FaultyEngine, MemoryEngine
from tests.storage.library import Library, make_library
from tests.storage.tree import Tree, problems


@pytest.fixture
def engine() -> FaultyEngine:
    """An engine that can be made to fail."""
    return FaultyEngine(MemoryEngine(table.name for table in records.TABLES))


@pytest.fixture
def store(engine: FaultyEngine, keyring: Keyring) -> Iterator[Store]:
    """A store above that engine."""
    opened = Store(engine, keyring, group_seconds=3600)
    yield opened
    engine.failure = None
    engine.passing.set()
    opened.close()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory on a disk of 2 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    directory = tmp_path / "disk"
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", directory], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


@pytest.fixture
def tree(volume: Volume) -> Iterator[Tree]:
    """An empty root directory; whatever a test does with it, the volume must be sound in the end."""
    made = Tree(volume)
    yield made
    assert problems(volume) == []


@pytest.fixture
def library(volume: Volume) -> Library:
    """A volume with one of everything, which need not stay sound."""
    return make_library(volume)
