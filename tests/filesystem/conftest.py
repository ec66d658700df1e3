"""A FileSystem core for each test, proved sound at its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.filesystem.core import Core, SketchPool


@pytest.fixture
def pool() -> SketchPool:
    return SketchPool()


@pytest.fixture
def core(volume_directory: Path, pool: SketchPool, caplog: pytest.LogCaptureFixture) -> Iterator[Core]:
    """A core over sketches; the test must leave a volume that `check` calls clean and nothing logged."""
    core = Core(volume_directory, pool)
    try:
        yield core
        assert core.problems() == []
    finally:
        core.filesystem.close()
    assert [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []
