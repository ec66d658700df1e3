"""Report: what a check found, which files suffer, and whether a repair can mend it without the bytes that are lost."""

from __future__ import annotations

from dataclasses import dataclass, field

from dedupfs.model import ContentId, InodeNo
from dedupfs.storage.readout import Paths, Readout


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    `content` and `inode` tell which files suffer, `directory` where a name suffers, each as far as that is known.
    """

    text: str
    content: ContentId | None = None
    inode: InodeNo | None = None
    directory: InodeNo | None = None
    mendable: bool = True


@dataclass(slots=True)
class Report:
    """What was found, how much was looked at, and what was read for it."""

    readout: Readout
    problems: list[Problem] = field(default_factory=list)
    renditions_made: int = 0
    _paths: Paths | None = None

    @property
    def records(self) -> int:
        """Records that were looked at."""
        return self.readout.records

    @property
    def chunks_opened(self) -> int:
        """Chunks that were opened."""
        return self.readout.chunks_opened

    def paths(self, problem: Problem) -> list[bytes]:
        """Return the paths that suffer from a problem, in their order.

        What has no name any more begins with `#` and its number; a name that cannot be read is `?`. With a directory
        that is gone, everything below it is named too.
        """
        if self._paths is None:
            self._paths = Paths(self.readout.sources)
        found: set[bytes] = set()
        if problem.content is not None:
            found.update(self._paths.of_content(problem.content))
        if problem.inode is not None:
            found.update(self._paths.of_inode(problem.inode))
            if problem.inode not in self.readout.sources.inodes:
                found.update(self._paths.below(problem.inode))
        if problem.directory is not None:
            found.add(self._paths.of_name(problem.directory, b"?"))
        return sorted(found)

    def unreadable(self) -> list[bytes]:
        """Return the paths of the files that cannot be read whole until their bytes are written again."""
        return sorted({path for problem in self.problems if not problem.mendable for path in self.paths(problem)})
