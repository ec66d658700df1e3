"""`dedupfs scan` as people and scripts meet it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dedupfs.cli.names import printable
from tests.ingest.drawing import encoded, photo
from tests.mounting import in_process

HOSTILE = b"\xff\x1b[31m<img src=x onerror=alert(1)>\xe2\x80\xaegpj.jpg"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A photo, two copies of it, a name out to harm, and two documents of one size."""
    image = photo(5)
    jpeg = encoded(image, quality=92)
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(jpeg)
    (folder / "small.jpg").write_bytes(encoded(image.resize((240, 180)), quality=80))
    Path(os.fsdecode(os.fsencode(folder) + b"/" + HOSTILE)).write_bytes(jpeg)
    (folder / "one.txt").write_text("one")
    (folder / "two.txt").write_text("two")
    return folder


def test_json_says_what_would_be_saved(folder: Path) -> None:
    code, out, err = in_process("scan", folder, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["files"], found["pictures"], found["clusters"]) == (5, 3, 1)
    assert found["logical_bytes"] == sum(path.stat().st_size for path in folder.iterdir())
    assert found["kinds"]["exact"] == {"files": 1, "saved_bytes": (folder / "a.jpg").stat().st_size}
    assert found["kinds"]["resized"]["files"] == 1
    (group,) = found["groups"]
    assert group["kept"] == str(folder / "a.jpg")
    small = next(version for version in group["versions"] if version["kind"] == "resized")
    assert small["path"] == str(folder / "small.jpg")
    assert (small["format"], small["width_px"], small["height_px"]) == ("jpeg", 240, 180)
    assert 0 <= small["max_luma_difference"] < 30
    assert found["saved_bytes"] == group["saved_bytes"] == sum(each["saved_bytes"] for each in group["versions"])


def test_text_obeys_no_name(folder: Path) -> None:
    code, out, err = in_process("scan", folder)
    assert (code, err) == (0, "")
    assert all(line.isprintable() for line in out.splitlines())
    assert "\\xff\\x1b[31m<img src=x onerror=alert(1)>\\u202egpj.jpg" in out
    assert "exact copies" in out
    assert "resized" in out


def test_off_finds_equal_files_alone(folder: Path) -> None:
    found = json.loads(in_process("scan", folder, "--dedup", "off", "--json")[1])
    assert (found["pictures"], found["kinds"]["exact"]["files"], found["kinds"]["resized"]["files"]) == (0, 1, 0)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    code, out, err = in_process("scan", tmp_path / "nothing")
    assert (code, out) == (2, "")
    assert err == f"dedupfs: there is no {tmp_path}/nothing\n"


def test_nothing_to_find(tmp_path: Path) -> None:
    code, out, _ = in_process("scan", tmp_path)
    assert code == 0
    assert "files       0" in out


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"2024/\xc3\xa4\xe6\xbc\xa2\xd7\x90.jpg", "2024/ä漢א.jpg"),
        (b"a\nb\x7f\xc2\x85", "a\\nb\\x7f\\x85"),
        (b"\xe2\x80\xae\xe2\x81\xa6x\xe2\x80\xa8", "\\u202e\\u2066x\\u2028"),
        (b"\xc3", "\\xc3"),
    ],
)
def test_names_stay_text(name: bytes, text: str) -> None:
    assert printable(name) == text
