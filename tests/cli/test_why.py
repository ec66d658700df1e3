"""`dedupfs why` of pictures that rest on no other one, and names that are out to harm."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from dedupfs.cli import why as command
from dedupfs.ingest.reasons import why_apart
from dedupfs.ingest.workers import WorkerPool
from dedupfs.storage.metadata import POLICY_XATTR, ROOT
from tests.cli.names import HOSTILE
from tests.filesystem.core import Core
from tests.ingest.drawing import encoded, photo
from tests.mounting import in_process
from tests.volumes import make_volume

SIZE = (320, 240)


def edited() -> bytes:
    """Return the photo with a bar over a part of it, at a quality that leaves no doubt."""
    image = photo(5, SIZE)
    ImageDraw.Draw(image).rectangle((100, 100, 112, 104), "white")
    return encoded(image, quality=92)


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume of pictures none of which is a version of another one, but for the one with the hostile name."""
    directory = make_volume(tmp_path_factory.mktemp("why") / "volume")
    core = Core(directory, WorkerPool(1))
    photo_bytes = encoded(photo(5, SIZE), quality=92)
    files = {
        b"photo.jpg": photo_bytes,
        b"edited.jpg": edited(),
        b"stranger.jpg": encoded(photo(6, SIZE), quality=92),
        b"small.png": encoded(Image.new("RGB", (20, 20), "red"), "PNG"),
        b"broken.jpg": photo_bytes[:400],
        b"animated.gif": animation(),
        HOSTILE: encoded(photo(5, SIZE), quality=50),
    }
    for name, data in files.items():
        core.put(name, data)
        core.filesystem.settle()
    evidence = core.filesystem.make_directory(ROOT, b"evidence", 0o755, 0, 0)
    core.filesystem.set_xattr(evidence, POLICY_XATTR, b"off")
    _, handle = core.filesystem.create(evidence, b"exact.jpg", 0o644, 0, 0)
    core.files.write(handle, 0, encoded(photo(5, SIZE), quality=60))
    core.files.release(handle)
    for name, quality in ((b"whole.jpg", 92), (b"split.jpg", 50)):
        core.put(name, encoded(photo(7, SIZE), quality=quality))
        core.filesystem.settle()
    core.filesystem.split(core.filesystem.lookup(ROOT, b"split.jpg"))
    core.filesystem.close()
    return directory


def animation() -> bytes:
    out = io.BytesIO()
    frames = [photo(seed, (80, 80)) for seed in range(3)]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    return out.getvalue()


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    """One worker for all tests: to start one takes a second."""
    pool = WorkerPool(1)
    yield pool
    pool.close()


@pytest.fixture(autouse=True)
def _one_worker(pool: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "why_apart", lambda volume, _, *rest: why_apart(volume, pool, *rest))


def why(volume: Path, name: bytes) -> tuple[Any, str]:
    """Return the answer as JSON and as text."""
    code, printed, said = in_process("why", volume, os.fsdecode(name), "--json")
    assert (code, said) == (0, "")
    code, text, said = in_process("why", volume, os.fsdecode(name))
    assert (code, said) == (0, "")
    return json.loads(printed), text


def test_an_edited_picture_names_its_nearest_and_what_was_exceeded(volume: Path) -> None:
    answer, text = why(volume, b"edited.jpg")
    assert (answer["kind"], answer["nearest"], answer["policy"]) == ("picture", "photo.jpg", "verified")
    assert 0 <= answer["nearest_distance_bits"] <= 15
    assert {each["drawn"] for each in answer["comparisons"]} == {"this", "nearest"}
    assert all(each["reason"] == "pixels" and each["excess"] > 1 for each in answer["comparisons"])
    assert "photo.jpg" in text
    assert "differs" in text
    assert "luma" not in text, "that is no word of people"


@pytest.mark.parametrize(
    ("name", "part"),
    [
        (b"stranger.jpg", "no other picture is within"),
        (b"small.png", "too small"),
        (b"broken.jpg", "does not decode"),
        (b"animated.gif", "not compared"),
        (b"evidence/exact.jpg", "policy off"),
        (b"split.jpg", "was split from the nearest"),
    ],
)
def test_others_say_why_there_was_nothing_to_compare(volume: Path, name: bytes, part: str) -> None:
    answer, text = why(volume, name)
    assert part in answer["reason"]
    assert answer["reason"] in text
    assert answer["comparisons"] == []


def test_a_version_has_no_reason(volume: Path) -> None:
    answer, _ = why(volume, HOSTILE)
    assert (answer["kind"], answer["representative"], answer["reason"]) == ("rendition", "photo.jpg", None)


@pytest.mark.parametrize("arguments", [["why", HOSTILE], ["clusters"], ["check"], ["why", b"no" + HOSTILE]])
def test_a_name_is_never_obeyed_by_a_terminal(volume: Path, arguments: list[Any]) -> None:
    name, *names = arguments
    _, printed, said = in_process(name, volume, *map(os.fsdecode, names))
    assert printed or said
    for text in (printed, said):
        assert all(line.isprintable() for line in text.split("\n"))
