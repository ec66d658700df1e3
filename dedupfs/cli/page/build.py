"""Building the page: what is said of groups of files, their thumbnails, and the script that shows both.

Nothing in the page asks for anything outside it, and its content security policy forbids it. Names reach it as text in
JSON whose markup characters are escapes; the script makes text nodes of them. The page is written as it is drawn.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import Any

from dedupfs.cli.names import printable
from dedupfs.cli.page import thumbnails
from dedupfs.cli.page.chart import LABELS, chart
from dedupfs.cli.stats import human_bytes
from dedupfs.ingest.groups import CopyKind, Group, Kept, Version, shares
from dedupfs.ingest.workers import WorkerPool
from dedupfs.model import ContentId

_GROUPS_AT_A_TIME = 24
_VERSIONS_SHOWN = 12
"""Copies of one group that are shown before somebody asks for the rest."""

WARNING = (
    "This page holds small pictures and the names of your files in the clear, outside any volume: whoever can read this"
    " file sees them. Delete it when you are done."
)


@dataclass(frozen=True, slots=True)
class Head:
    """What stands above the groups; plain text. `figures` are shown in their order, by name."""

    title: str
    subject: str
    figures: Mapping[str, str]
    stored_bytes: int


def page(
    head: Head,
    groups: Sequence[Group],
    read: Callable[[ContentId], bytes],
    pool: WorkerPool,
    progress: Callable[[int, int], None],
) -> Iterator[str]:
    """Yield the page piece by piece, in ASCII.

    Args:
        groups: those that are shown first come first.
        read: returns the bytes of a picture or raises a DedupfsError; asked from several threads.
    Raises:
        WorkerStartError: no thumbnail can be drawn.
    """
    before, after = _text("page.html").split("@@data@@")
    values = _values(head, groups)
    yield _filled(before, values)
    contents = thumbnails.wanted(groups)
    for number, block in enumerate(thumbnails.blocks(contents, read, pool, progress)):
        yield _json_element(f"thumbnails-{number}", block)
    numbers = {content: number for number, content in enumerate(contents)}
    data = {
        "perBlock": thumbnails.PER_BLOCK,
        "batch": _GROUPS_AT_A_TIME,
        "versionsShown": _VERSIONS_SHOWN,
        "labels": {kind.value: label for kind, label in LABELS.items()},
        "groups": [_group(group, numbers) for group in groups],
    }
    yield _json_element("data", data)
    yield _filled(after, values)


def _values(head: Head, groups: Sequence[Group]) -> dict[str, str]:
    style, script = _text("page.css"), _text("page.js")
    found = shares(groups)
    return {
        "policy": "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none';"
        f" style-src '{_hash(style)}'; script-src '{_hash(script)}'",
        "title": escape(head.title),
        "subject": escape(head.subject),
        "warning": escape(WARNING),
        "figures": "".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in head.figures.items()
        ),
        "chart": chart(head.stored_bytes, found),
        "kinds": "".join(
            f'<label><input type="checkbox" value="{kind.value}" checked> {escape(LABELS[kind])}</label>'
            for kind in CopyKind
            if found[kind].files
        ),
        "style": style,
        "script": script,
    }


def _filled(template: str, values: Mapping[str, str]) -> str:
    """Put the values in, in one pass: a value that looks like a mark stays what it is."""
    parts = template.split("@@")
    # Every second part is the name of a mark.
    parts[1::2] = [values[name] for name in parts[1::2]]
    return "".join(parts).encode("ascii", "xmlcharrefreplace").decode("ascii")


def _group(group: Group, numbers: Mapping[ContentId, int]) -> dict[str, Any]:
    return {
        "saved": group.saved_bytes,
        "kept": _file(group.kept, numbers),
        "versions": [_version(version, numbers) for version in group.versions],
    }


def _file(file: Kept | Version, numbers: Mapping[ContentId, int]) -> dict[str, Any]:
    found: dict[str, Any] = {"path": None if file.path is None else printable(file.path), "size": file.size}
    if file.look is not None:
        found.update(format=file.look.picture_format.value, width=file.look.width_px, height=file.look.height_px)
    if file.content in numbers:
        found["thumbnail"] = numbers[file.content]
    return found


def _version(version: Version, numbers: Mapping[ContentId, int]) -> dict[str, Any]:
    found = _file(version, numbers)
    found.update(kind=version.kind.value, saved=version.saved_bytes, exact=version.bit_exact)
    if version.measured is not None:
        differences = version.measured.differences
        found.update(
            luma=round(differences.fine_luma, 2),
            chroma=round(differences.fine_chroma, 2),
            tone=round(max(differences.coarse_luma, differences.coarse_chroma), 2),
            bits=version.measured.distance_bits,
        )
    return found


def _json_element(name: str, value: object) -> str:
    """Return an inert element that holds the value; nothing in it can end it, as markup characters are escapes."""
    text = json.dumps(value, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{name}">{text}</script>\n'


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _text(name: str) -> str:
    return resources.files("dedupfs.cli.page").joinpath(name).read_text(encoding="utf-8")


def figures_of(files: int, size_bytes: int, saved_bytes: int, groups: int) -> dict[str, str]:
    """Return the figures that every page shows."""
    share = f" ({100 * saved_bytes / size_bytes:.1f}\u00a0%)" if size_bytes else ""
    return {
        "files": f"{files:,}",
        "size": human_bytes(size_bytes),
        # On a phone the line breaks in front of the bracket, not before a unit.
        "saved": human_bytes(saved_bytes).replace(" ", "\u00a0") + share,
        "groups": f"{groups:,}",
    }
