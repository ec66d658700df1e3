"""`dedupfs doctor`: says what keeps a machine from mounting, and agrees with what can be mounted."""

from __future__ import annotations

import ctypes.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import features

from dedupfs.cli import doctor
from dedupfs.cli.main import main
from dedupfs.ingest import renderer
from tests.mounting import why_no_fuse


def examined(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = main(["doctor", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert answer["can_mount"] == (code == 0)
    return code, {finding["name"]: finding for finding in answer["findings"]}


def test_it_agrees_with_what_can_be_mounted_here(capsys: pytest.CaptureFixture[str]) -> None:
    if why_no_fuse() is None and ctypes.util.find_library("fuse"):
        code, found = examined(capsys)
        assert code == 0
        assert found["fusermount"]["text"] == shutil.which("fusermount")
        assert {found[name]["state"] for name in ("JPEG pictures", "PNG pictures", "lmdb", "scipy")} == {"ok"}


def test_each_thing_that_is_missing_comes_with_its_remedy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    monkeypatch.setattr(doctor, "_FUSE_DEVICE", tmp_path / "fuse")
    monkeypatch.setattr(doctor, "_FILESYSTEMS", tmp_path / "filesystems")
    monkeypatch.setattr(doctor, "_FUSE_CONFIGURATION", tmp_path / "fuse.conf")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(doctor, "_LIBRARIES", ("pillow-heif", "no-such-library"))
    (tmp_path / "filesystems").write_text("nodev\tproc\n\text4\n")
    (tmp_path / "fuse.conf").write_text("#user_allow_other\n")
    monkeypatch.setattr(features, "check", lambda feature: feature != "avif")
    code, found = examined(capsys)
    assert code == 1
    missing = {name: finding["remedy"] for name, finding in found.items() if finding["state"] == "missing"}
    assert missing.keys() == {"kernel", str(tmp_path / "fuse"), "libfuse 2", "fusermount", "no-such-library"}
    assert missing["libfuse 2"] == missing["fusermount"] == "sudo apt-get install fuse libfuse2"
    assert {name for name, finding in found.items() if finding["state"] == "limited"} >= {
        "user_allow_other",
        "AVIF pictures",
    }
    assert all(finding["remedy"] for finding in found.values() if finding["state"] != "ok")


def test_root_in_a_container(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "status").write_text("Name:\tpython\nCapEff:\t00000000a80425fb\n")
    (tmp_path / "filesystems").write_text("nodev\tfuse\n")
    monkeypatch.setattr(doctor, "_PROCESS_STATUS", tmp_path / "status")
    monkeypatch.setattr(doctor, "_FILESYSTEMS", tmp_path / "filesystems")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    code, found = examined(capsys)
    assert (code, found["kernel"]["state"]) == (1, "missing")
    assert "SYS_ADMIN" in found["kernel"]["remedy"]


def test_it_prints_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("volumes can" if code == 0 else "nothing can")
    assert any(line.startswith("ok       Python") for line in lines)


def test_it_tells_of_renditions_that_other_libraries_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = Path(__file__).parents[1] / "frozen" / "format-4"
    about = json.loads((frozen / "tree.json").read_text())
    monkeypatch.setenv("DEDUPFS_PASSPHRASE", about["passphrase"])
    volume = shutil.copytree(frozen, tmp_path / "volume")
    with monkeypatch.context() as patched:
        patched.setattr(renderer, "codecs", lambda: b"Pillow 0.1")
        main(["doctor", str(volume), "--json"])
    finding = json.loads(capsys.readouterr().out)["findings"][-1]
    assert (finding["name"], finding["state"]) == ("renditions", "limited")
    assert "this is Pillow 0.1" in finding["text"]
    assert finding["remedy"].startswith(f"dedupfs check --data {volume}")


def test_it_needs_none_of_the_libraries_that_may_be_missing() -> None:
    lacking = "import sys; sys.modules.update(dict.fromkeys(('lmdb', 'numpy', 'scipy', 'imagehash', 'fuse')))"
    run = "from dedupfs.cli.main import main; sys.exit(main(['doctor']))"
    done = subprocess.run([sys.executable, "-c", f"{lacking}; {run}"], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert "libfuse 2" in done.stdout
