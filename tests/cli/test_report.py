"""`dedupfs report`: the same page for a volume, and where it may not go."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dedupfs.filesystem.groups import groups_of
from dedupfs.filesystem.survey import Survey
from dedupfs.ingest.groups import Group
from dedupfs.ingest.scan import Scan
from dedupfs.ingest.workers import WorkerPool
from dedupfs.model import ContentId
from tests.cli.names import HOSTILE
from tests.conftest import reopen
from tests.filesystem.core import Core
from tests.mounting import in_process
from tests.volumes import make_volume


@pytest.fixture
def volume_directory(folder: Path, tmp_path: Path) -> Path:
    """A volume with the files of the folder, in the order of their names."""
    directory = make_volume(tmp_path / "volume")
    core = Core(directory, WorkerPool(1))
    for path in sorted(folder.iterdir(), key=lambda path: os.fsencode(path.name)):
        core.put(os.fsencode(path.name), path.read_bytes())
        core.filesystem.settle()
    core.filesystem.close()
    return directory


def plain(groups: list[Group]) -> list[Any]:
    """Return the groups with file names in the place of paths, and without ids, which each side has its own of."""
    none = ContentId(b"")

    def own(file: Any) -> Any:
        return replace(file, path=os.path.basename(file.path), content=none)

    return [(own(group.kept), sorted(map(own, group.versions), key=lambda each: each.path)) for group in groups]


def test_a_volume_has_the_groups_that_a_scan_foretold(folder: Path, volume_directory: Path) -> None:
    pool = WorkerPool(1)
    scan = Scan(pool)
    scan.run([os.fsencode(folder)], lambda done, total: None)
    pool.close()
    volume = reopen(volume_directory, read_only=True)
    found = groups_of(Survey.of(volume))
    stored = volume.store.counters["stored_bytes"]
    volume.close()
    assert plain(found) == plain(scan.groups())
    # Equal metadata of two copies meet in one chunk, which a scan does not foresee.
    assert stored <= scan.totals().stored_bytes <= 1.02 * stored


def test_the_page_is_for_its_owner_alone(volume_directory: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    before = {path: path.stat() for path in volume_directory.iterdir() if path.name != "lock.mdb"}
    code, out, err = in_process("report", volume_directory, "-o", page, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["groups"] == 2
    assert page.stat().st_mode & 0o777 == 0o600
    text = page.read_text(encoding="ascii")
    assert "in the clear" in text
    assert text.count('"thumbnail":') >= 4
    assert HOSTILE.decode(errors="replace") not in text
    after = {path: path.stat() for path in volume_directory.iterdir() if path.name != "lock.mdb"}
    assert {path: each.st_mtime_ns for path, each in after.items()} == {
        path: each.st_mtime_ns for path, each in before.items()
    }


def test_a_kept_picture_without_a_name_is_no_saving(volume_directory: Path) -> None:
    core = Core(volume_directory, WorkerPool(1))
    for name in (b"a.jpg", HOSTILE):
        core.filesystem.unlink(1, name)  # type: ignore[arg-type]
    core.filesystem.close()
    volume = reopen(volume_directory, read_only=True)
    found = groups_of(Survey.of(volume))
    volume.close()
    (nameless,) = [group for group in found if group.kept.path is None]
    assert len(nameless.versions) == 3
    assert nameless.saved_bytes == max(0, sum(each.saved_bytes for each in nameless.versions) - nameless.kept.size)


@pytest.mark.parametrize("where", ["volume/page.html", "link/page.html", "volume/../volume/page.html"])
def test_nothing_goes_into_the_volume(tmp_path: Path, where: str) -> None:
    directory = make_volume(tmp_path / "volume")
    (tmp_path / "link").symlink_to(directory)
    before = sorted(directory.iterdir())
    code, out, err = in_process("report", directory, "-o", tmp_path / where, "--force")
    assert (code, out) == (2, "")
    assert "inside the volume" in err
    assert sorted(directory.iterdir()) == before


def test_other_places_that_are_refused(tmp_path: Path) -> None:
    directory = make_volume(tmp_path / "volume")
    (tmp_path / "there").touch()
    for target in (tmp_path / "there", tmp_path / "missing" / "page.html", tmp_path):
        code, out, err = in_process("report", directory, "-o", target)
        assert (code, out, err.count("\n")) == (2, "", 1)
    assert (tmp_path / "there").stat().st_size == 0
    assert in_process("report", tmp_path / "no volume", "-o", tmp_path / "page.html")[0] == 5
