"""`dedupfs scan` as people and scripts meet it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dedupfs.cli.names import printable
from dedupfs.errors import StoreError
from dedupfs.ingest.groups import CopyKind
from tests.mounting import in_process


def test_json_says_what_would_be_saved(folder: Path) -> None:
    code, out, err = in_process("scan", folder, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["files"], found["pictures"], found["clusters"]) == (9, 6, 2)
    assert found["logical_bytes"] == sum(path.stat().st_size for path in folder.iterdir())
    counts = {kind.value: found["kinds"][kind.value]["files"] for kind in CopyKind}
    assert counts == {"exact": 2, "metadata": 1, "recompressed": 1, "resized": 1, "converted": 0}
    group, documents = found["groups"]
    # Two workers may come to either of these first.
    assert group["kept"] in (str(folder / "a.jpg"), str(folder / "metadata.jpg"))
    assert (documents["kept"], documents["format"]) == (str(folder / "two again.txt"), None)
    small = next(version for version in group["versions"] if version["kind"] == "resized")
    assert small["path"] == str(folder / "resized.jpg")
    assert (small["format"], small["width_px"], small["height_px"]) == ("jpeg", 240, 180)
    assert 0 <= small["max_luma_difference"] < 30
    assert found["saved_bytes"] == sum(each["saved_bytes"] for each in found["kinds"].values())
    assert group["saved_bytes"] == sum(each["saved_bytes"] for each in group["versions"])


def test_text_obeys_no_name(folder: Path) -> None:
    code, out, err = in_process("scan", folder)
    assert (code, err) == (0, "")
    assert all(line.isprintable() for line in out.splitlines())
    assert "\\xff\\x1b[31m<img src=x onerror=alert(1)>\\u202egpj.jpg" in out
    assert "exact copies" in out
    assert "resized" in out


def test_text_lists_everything_only_when_asked(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number:02}").write_bytes(bytes([number % 12]) * (100 + number % 12))
    for number in range(20):
        (tmp_path / f"many {number:02}").write_bytes(bytes(5000))
    short = in_process("scan", tmp_path)[1]
    assert "and 9 more copies" in short
    assert "and 3 more groups; --all lists them" in short
    everything = in_process("scan", tmp_path, "--all")[1]
    assert " more " not in everything
    assert all(f"many {number:02}, " in everything for number in range(20))


def test_off_finds_equal_files_alone(folder: Path) -> None:
    found = json.loads(in_process("scan", folder, "--dedup", "off", "--json")[1])
    assert (found["pictures"], found["kinds"]["exact"]["files"], found["kinds"]["resized"]["files"]) == (0, 2, 0)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    code, out, err = in_process("scan", tmp_path / "nothing")
    assert (code, out) == (2, "")
    assert err == f"dedupfs: there is no {tmp_path}/nothing\n"


def test_nothing_to_find(tmp_path: Path) -> None:
    code, out, _ = in_process("scan", tmp_path)
    assert code == 0
    assert "files       0" in out


def test_the_report_is_the_only_thing_written(folder: Path) -> None:
    before = sorted(folder.parent.rglob("*"))
    report = folder.parent / "report.html"
    assert in_process("scan", folder, "--report", report)[0] == 0
    assert sorted(folder.parent.rglob("*")) == sorted([*before, report])
    assert report.stat().st_mode & 0o777 == 0o600
    assert "thumbnails-0" in report.read_text(encoding="ascii")


def test_a_report_replaces_nothing_unasked(folder: Path) -> None:
    report = folder.parent / "report.html"
    report.symlink_to(folder / "a.jpg")
    code, out, err = in_process("scan", folder, "--report", report)
    assert (code, out, err) == (2, "", f"dedupfs: {report} exists; --force replaces it\n")
    assert in_process("scan", folder, "--report", report, "--force")[0] == 0
    assert not report.is_symlink()
    assert (folder / "a.jpg").read_bytes()[:2] == b"\xff\xd8", "the link was replaced and not followed"


def test_what_was_found_is_told_before_the_page_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk at the end must not cost the hours before it."""

    def full(*arguments: object, **options: object) -> None:
        raise StoreError("no room")

    monkeypatch.setattr("dedupfs.cli.page.file.write", full)
    code, out, err = in_process("scan", folder, "--report", folder.parent / "report.html")
    assert (code, err) == (1, "dedupfs: no room\n")
    assert "would be stored" in out


def test_a_place_where_nothing_may_be_written_is_refused_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder.parent)
    code, out, err = in_process("scan", folder, "--report", folder.parent / "report.html")
    assert (code, out, err) == (2, "", f"dedupfs: nothing may be written to {folder.parent}\n")


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
