"""Groups of files that rest on one of them, in JSON and in words."""

from __future__ import annotations

from typing import Any

from dedupfs.cli.names import printable
from dedupfs.cli.opened import shown
from dedupfs.cli.stats import human_bytes
from dedupfs.ingest.groups import CopyKind, Group, Kept, Look, Version


def as_json(group: Group) -> dict[str, Any]:
    """Return a group as `--json` prints it; differences are in levels of 0 to 255, None where nothing was compared."""
    kept = group.kept
    return {
        "kept": None if kept.path is None else shown(kept.path),
        "size": kept.size,
        **_look(kept.look),
        "saved_bytes": group.saved_bytes,
        "versions": [_version(version) for version in group.versions],
    }


def describe(file: Kept | Version) -> str:
    """Return one line about a file."""
    words = [printable(file.path) if file.path is not None else "a file that has been removed"]
    if file.look is not None:
        words.append(f"{file.look.picture_format.value.upper()} {file.look.width_px} x {file.look.height_px}")
    words.append(human_bytes(file.size))
    if isinstance(file, Version):
        words.append(file.kind.value if file.kind is not CopyKind.METADATA else "same image, other metadata")
        if file.measured is not None:
            differences = file.measured.differences
            words.append(
                "identical bit for bit"
                if file.bit_exact
                else f"differs by {differences.fine_luma:.1f} in brightness, {differences.fine_chroma:.1f} in colour"
            )
    return ", ".join(words)


def _look(look: Look | None) -> dict[str, Any]:
    return {
        "format": None if look is None else look.picture_format.value,
        "width_px": None if look is None else look.width_px,
        "height_px": None if look is None else look.height_px,
    }


def _version(version: Version) -> dict[str, Any]:
    measured = version.measured
    differences = None if measured is None else measured.differences
    return {
        "path": shown(version.path),
        "kind": version.kind.value,
        "size": version.size,
        "saved_bytes": version.saved_bytes,
        **_look(version.look),
        "bit_exact": version.bit_exact,
        "distance_bits": None if measured is None else measured.distance_bits,
        "max_luma_difference": None if differences is None else round(differences.fine_luma, 3),
        "max_chroma_difference": None if differences is None else round(differences.fine_chroma, 3),
        "max_tone_difference": (
            None if differences is None else round(max(differences.coarse_luma, differences.coarse_chroma), 3)
        ),
    }
