"""The soak finds what it is there to find: growth without bound, and one byte that differs. Plain folders, no mount."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from soak_samples import BOUNDS, MB, Sample, trends
from soak_work import DifferenceError, Worker, encoded

STEADY = Sample(0, 200 * MB, 150 * MB, 300 * MB, 2, 40, 20, 90 * MB, 100 * MB)


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    """A user of two plain folders, who has been at work for a while."""
    made = Worker(1, 1, tmp_path / "mount", tmp_path / "model", 10 * MB)
    made.start()
    for _ in range(2):
        made._add_picture()
        made._add_version()
        made._add_blob()
        made._add_copy()
        made._edit()
        made._truncate()
        made._rename()
        made._link()
        made._rename_folder()
        made._remove()
        made._read()
    return made


def test_what_stays_the_same_is_no_problem() -> None:
    samples = [replace(STEADY, seconds=float(second)) for second in range(60)]
    assert {trend.problem for trend in trends(samples).values()} == {None}
    assert {trend.per_minute for trend in trends(samples).values()} == {0.0}


@pytest.mark.parametrize("name", BOUNDS)
def test_what_grows_all_the_time_is_found(name: str) -> None:
    start = getattr(STEADY, name)
    samples = [replace(STEADY, seconds=60.0 * minute, **{name: start + start * minute // 10}) for minute in range(60)]
    found = {quantity: trend.problem for quantity, trend in trends(samples).items() if trend.problem}
    assert found.keys() == {name}
    assert trends(samples)[name].per_minute == pytest.approx(start / 10, rel=0.1)


def test_what_reads_otherwise_is_found(worker: Worker, tmp_path: Path) -> None:
    worker.compare_all()
    assert set(worker.compared) == {"equal"}
    path = next(path for path in sorted((tmp_path / "mount").rglob("*.bin")) if path.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DifferenceError, match="that were written") as told:
        worker.compare_all()
    assert told.value.read == bytes(data) != told.value.written
    path.unlink()
    with pytest.raises((DifferenceError, FileNotFoundError)):
        worker.compare_all()


def test_a_picture_that_looks_otherwise_is_no_rendition(tmp_path: Path) -> None:
    worker = Worker(1, 1, tmp_path, tmp_path, 0)
    one, other = (encoded(Image.new("RGB", (200, 100), colour), ".jpg", 90) for colour in ("red", "blue"))
    assert worker._unlike("x.jpg", one, other.ljust(len(one), b"\0")) is not None
    with Image.open(io.BytesIO(one)) as picture:
        again = encoded(picture, ".jpg", 90)
    assert worker._unlike("x.jpg", one, again.ljust(len(one), b"\0")) is None


def test_a_picture_broken_by_an_edit_gives_no_version(worker: Worker, tmp_path: Path) -> None:
    """Pillow has a SyntaxError for a PNG with a damaged chunk, and an OSError for one that is cut short."""
    data = bytearray(encoded(Image.effect_noise((400, 400), 80).convert("RGB"), ".png", 80))
    data[data.rindex(b"IDAT")] ^= 0x80
    for folder in ("mount", "model"):
        (tmp_path / folder / "user 1" / "folder 0" / "edited.png").write_bytes(data)
    worker._names = ["folder 0/edited.png"]
    worker._add_version()
    assert worker._names == ["folder 0/edited.png"]
