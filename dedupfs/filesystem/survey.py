"""Survey: a volume seen from its paths, for the commands that report on it. Reads only; needs no mount."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from dedupfs.errors import EntryNotFoundError, IntegrityError, NotDirectoryError
from dedupfs.filesystem.inodes import Inodes
from dedupfs.filesystem.namespace import Namespace, is_hidden
from dedupfs.model import ContentId, InodeNo
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.records import ContentState, Exact, Inode, Rendition
from dedupfs.storage.volume import Volume


@dataclass(frozen=True, slots=True)
class SurveyedFile:
    """One name of a regular file."""

    path: bytes
    number: InodeNo
    inode: Inode


@dataclass(slots=True)
class Survey:
    """Every name of every regular file of a volume, by path and by content."""

    volume: Volume
    by_content: dict[ContentId, list[SurveyedFile]] = field(default_factory=dict)

    @classmethod
    def of(cls, volume: Volume) -> Survey:
        """Walk the whole tree."""
        survey = cls(volume)
        for file in walk(volume):
            if file.inode.content is not None:
                survey.by_content.setdefault(file.inode.content, []).append(file)
        return survey

    def paths(self, content: ContentId) -> list[bytes]:
        """Return the paths of a content, in their order."""
        return sorted(file.path for file in self.by_content.get(content, []))


def walk(volume: Volume) -> Iterator[SurveyedFile]:
    """Yield every name of every regular file, directory by directory, but for those whose inode is damaged."""
    waiting: list[tuple[bytes, InodeNo]] = [(b"", ROOT)]
    while waiting:
        path, directory = waiting.pop()
        for entry in volume.metadata.entries(directory):
            if is_hidden(directory, entry.name):
                continue
            below = path + b"/" + entry.name if path else entry.name
            if stat.S_ISDIR(entry.type_bits):
                waiting.append((below, entry.inode))
            elif stat.S_ISREG(entry.type_bits):
                try:
                    yield SurveyedFile(below, entry.inode, volume.metadata.inode(entry.inode))
                except (IntegrityError, EntryNotFoundError):
                    # `check` tells of it; here it would hide all the others.
                    continue


def find(volume: Volume, path: bytes) -> SurveyedFile:
    """Return the regular file at a path relative to the volume's root.

    Raises:
        EntryNotFoundError, NotDirectoryError: there is none.
    """
    names = Namespace(volume, Inodes(volume))
    number = ROOT
    for name in path.split(b"/"):
        if name:
            number = names.lookup(number, name)
    inode = volume.metadata.inode(number)
    if not stat.S_ISREG(inode.mode):
        raise NotDirectoryError("not a regular file") if stat.S_ISDIR(inode.mode) else EntryNotFoundError("not a file")
    return SurveyedFile(path.strip(b"/"), number, inode)


def kind_of(content: Exact | Rendition | None) -> str:
    """Return the word that reports use: plain, picture, rendition or undecided."""
    if isinstance(content, Rendition):
        return "rendition"
    if content is None or content.state in (ContentState.PLAIN, ContentState.UNDECODABLE):
        return "plain"
    return "undecided" if content.state is ContentState.UNDECIDED else "picture"
