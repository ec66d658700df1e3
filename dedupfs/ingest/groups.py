"""Groups: files that share what is kept of one of them, as people are shown them; of a folder or of a volume.

Owns the words for the ways in which one file can be a copy of another. Plain values, any thread.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dedupfs.model import ContentId, Differences, PictureFormat


class CopyKind(enum.Enum):
    """What makes a file a copy of the one that is kept, in the order in which they are shown."""

    EXACT = "exact"
    METADATA = "metadata"
    RECOMPRESSED = "recompressed"
    RESIZED = "resized"
    CONVERTED = "converted"


@dataclass(frozen=True, slots=True)
class Look:
    """What a picture is, as it is stored."""

    picture_format: PictureFormat
    width_px: int
    height_px: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found when a rendition was compared with the picture that was written."""

    differences: Differences
    distance_bits: int
    bit_exact: bool


@dataclass(frozen=True, slots=True)
class Kept:
    """The file whose bytes are kept; `path` is None when a volume holds its bytes under no name any more."""

    path: bytes | None
    content: ContentId
    size: int
    look: Look | None


@dataclass(frozen=True, slots=True)
class Version:
    """A file that rests on the one that is kept; `stored_bytes` is what it takes of its own.

    `measured` is None where the bytes are kept: they come back as they were written.
    """

    path: bytes
    content: ContentId
    size: int
    look: Look | None
    kind: CopyKind
    stored_bytes: int
    measured: Measured | None

    @property
    def saved_bytes(self) -> int:
        """What it need not take."""
        return max(0, self.size - self.stored_bytes)

    @property
    def bit_exact(self) -> bool:
        """Whether it reads as the very bytes that were written."""
        return self.measured is None or self.measured.bit_exact


@dataclass(frozen=True, slots=True)
class Group:
    """One file that is kept, and the others."""

    kept: Kept
    versions: Sequence[Version]

    @property
    def saved_bytes(self) -> int:
        """What all of them need not take; a picture that is kept for its versions alone is no saving."""
        saved = sum(version.saved_bytes for version in self.versions)
        return saved if self.kept.path is not None else max(0, saved - self.kept.size)


@dataclass(frozen=True, slots=True)
class Share:
    """What one kind of copies saves."""

    files: int
    saved_bytes: int


def rendition_kind(kept: Look | None, version: Look | None) -> CopyKind:
    """Return what was done to a picture that is drawn from another one; a turned picture keeps its size."""
    if kept is None or version is None:
        return CopyKind.RECOMPRESSED
    if sorted((kept.width_px, kept.height_px)) != sorted((version.width_px, version.height_px)):
        return CopyKind.RESIZED
    return CopyKind.RECOMPRESSED if kept.picture_format is version.picture_format else CopyKind.CONVERTED


def shares(groups: Iterable[Group]) -> dict[CopyKind, Share]:
    """Return what every kind of copies saves, in the order of CopyKind."""
    files = dict.fromkeys(CopyKind, 0)
    saved = dict.fromkeys(CopyKind, 0)
    for group in groups:
        for version in group.versions:
            files[version.kind] += 1
            saved[version.kind] += version.saved_bytes
    return {kind: Share(files[kind], saved[kind]) for kind in CopyKind}


def by_savings(groups: Iterable[Group]) -> list[Group]:
    """Return the groups with more than one file, those that save most first."""
    return sorted(
        (group for group in groups if group.versions),
        key=lambda group: (-group.saved_bytes, group.kept.path or b""),
    )
