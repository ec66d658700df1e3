"""docs/json.md names every field that commands print with `--json`, and none that they do not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dedupfs.ingest.groups import CopyKind
from tests.ingest.drawing import encoded, photo
from tests.mounting import in_process
from tests.volumes import make_volume

PAGE = (Path(__file__).parents[1] / "docs" / "json.md").read_text(encoding="utf-8")
_OPAQUE = ("comparisons", "mended", "gone")
"""Lists whose elements the page describes in words."""


def documented(command: str) -> tuple[set[str], set[str]]:
    """Return the fields that a command always prints by the page, and those that it may print."""
    section = re.search(rf"^## [^\n]*`{command}`.*?(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section is not None
    always: set[str] = set()
    sometimes: set[str] = set()
    for names, meaning in re.findall(r"^\| (`.*?) \| (.*) \|$", section.group(), re.MULTILINE):
        (sometimes if meaning.startswith("only ") else always).update(re.findall(r"`([^`]+)`", names))
    return always, sometimes


def fields(value: Any, name: str = "") -> set[str]:
    """Return the paths of all fields of an answer; an empty list counts as a field."""
    if isinstance(value, dict) and name not in _OPAQUE:
        kinds = {kind.value: "KIND" for kind in CopyKind} if name == "kinds" else {}
        return {
            each for key, below in value.items() for each in fields(below, f"{name}.{kinds.get(key, key)}".lstrip("."))
        }
    if isinstance(value, list) and name not in _OPAQUE and any(isinstance(each, dict) for each in value):
        return {found for each in value for found in fields(each, f"{name}[]")}
    return {name}


def agree(command: str, printed: str, *, optional: bool = False) -> None:
    """Compare an answer with the page, of whose `only ...` fields it has some, or with `optional` all."""
    always, sometimes = documented(command)
    found = fields(json.loads(printed))
    lists = {name.split("[]")[0] for name in always | sometimes}
    assert {name for name in found - always - sometimes if name not in lists} == set()
    wanted = always | sometimes if optional else always
    assert {name for name in wanted - found if name.split("[]")[0] not in found} == set()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture, a copy of it, one made smaller, and a text."""
    folder = tmp_path_factory.mktemp("folder")
    picture = photo(5)
    (folder / "a.jpg").write_bytes(encoded(picture, quality=92))
    (folder / "b.jpg").write_bytes(encoded(picture, quality=92))
    (folder / "small.jpg").write_bytes(encoded(picture.resize((240, 180)), quality=80))
    (folder / "text").write_bytes(b"text")
    return folder


def test_answers_about_a_volume(folder: Path, tmp_path: Path) -> None:
    volume = make_volume(tmp_path / "volume")
    agree("import", in_process("import", f"{folder}/", volume, "--json")[1])
    agree("export", in_process("export", volume, tmp_path / "out", "--json")[1])
    for command in (("stats",), ("clusters",), ("check", "--data"), ("check", "--repair")):
        agree(command[0], in_process(command[0], volume, *command[1:], "--json")[1])
    for name in ("small.jpg", "a.jpg", "text"):
        agree("why", in_process("why", volume, name, "--json")[1])


def test_the_answer_about_a_folder(folder: Path) -> None:
    agree("scan", in_process("scan", folder, "--json")[1], optional=True)


def test_other_answers(folder: Path, tmp_path: Path) -> None:
    volume = make_volume(tmp_path / "volume")
    in_process("import", f"{folder}/", volume)
    others = PAGE.partition("## Others")[2]
    commands: dict[str, tuple[str | Path, ...]] = {
        "report": ("report", volume, "-o", tmp_path / "page.html"),
        "config": ("config", volume),
        "compact": ("compact", volume),
        "restore": ("restore", "--volume", volume, "small.jpg"),
        "split": ("split", "--volume", volume, "small.jpg"),
        "key list": ("key", "list", volume),
        "header restore": ("header", "restore", volume),
        "doctor": ("doctor",),
    }
    for name, command in commands.items():
        found = fields(json.loads(in_process(*command, "--json")[1]))
        # The sentence that begins with the command, or shares it with others.
        sentence = next(each for each in re.split(r"\.\s", others) if f"`{name}`" in each)
        named = set(re.findall(r"`([^`]+)`", sentence))
        assert {field.split("[].")[-1] for field in found} <= named, name
