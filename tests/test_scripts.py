"""The scripts of the project parse, explain themselves and say what is missing; the demo makes its photos."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from demo_photos import VERSIONS, make_collection
from PIL import Image

ROOT = Path(__file__).parents[1]
PHOTOS = ROOT / "tests" / "photos"

# With a part in Python beside them, which explains itself.
TWO_PARTS = ["bench", "crashtest", "damagetest", "demo", "evaluate", "fuzz", "make_frozen_volume", "robustness", "soak"]
SHELL_SCRIPTS = [".ci/run", "scripts/bootstrap.sh", *(f"scripts/{name}" for name in ["check", "test", *TWO_PARTS])]


@pytest.mark.parametrize("script", SHELL_SCRIPTS)
def test_shell_script_parses(script: str) -> None:
    subprocess.run(["bash", "-n", ROOT / script], check=True)


@pytest.mark.parametrize("script", sorted(set(SHELL_SCRIPTS) - {"scripts/bootstrap.sh"}))
def test_shell_script_can_be_run(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)


@pytest.mark.parametrize("script", [f"{name}.py" for name in TWO_PARTS])
def test_script_explains_itself(script: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / script, "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"usage: scripts/{script.removesuffix('.py')} ")


def test_bootstrap_names_what_is_missing_in_one_line(tmp_path: Path) -> None:
    """On a system without Python, apt-get, sudo there is nothing it can do but say so."""
    for tool in ("bash", "basename", "dirname", "id"):
        path = shutil.which(tool)
        assert path is not None
        (tmp_path / tool).symlink_to(path)
    done = subprocess.run(
        ["bash", ROOT / "scripts" / "demo"],
        env={"PATH": str(tmp_path), "DEDUPFS_VENV": str(tmp_path / "venv")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("demo: missing: python3 python3-venv libfuse2 fuse (")
    assert done.stderr.count("\n") == 1


# The collection of the demo


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("collection") / "photos"
    make_collection(PHOTOS, folder)
    return folder


def test_every_version_of_every_photo_is_made(collection: Path) -> None:
    photos = [path for path in collection.rglob("*.*") if path.suffix in (".jpg", ".png", ".webp")]
    assert len(photos) == len(VERSIONS) * len(list(PHOTOS.glob("*.jpg")))


def test_a_tagged_photo_keeps_its_image_data_and_profile(collection: Path) -> None:
    with (
        Image.open(collection / "camera" / "wren.jpg") as photo,
        Image.open(collection / "tagged" / "wren.jpg") as tagged,
    ):
        assert dict(tagged.getexif()) == {0x010E: "My favourite wren"}
        assert tagged.info["icc_profile"] == photo.info["icc_profile"]
        assert tagged.tobytes() == photo.tobytes()
