"""Mending: a volume's sources on their way back into order, and what is to be said about it. Decides nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from dedupfs.crypto.keys import Keyring
from dedupfs.model import ClusterId, InodeNo, Policy
from dedupfs.storage.readout import Paths, Readout, Sources
from dedupfs.storage.records import Table

Write = tuple[Table, bytes, bytes | None]
"""Table, key, and the value in the clear or None to delete."""


@dataclass(slots=True)
class Plan:
    """What a repair is going to do: statements with the paths that they are about, and the writes that do it.

    `gone` is what nothing brings back but writing it again.
    """

    mended: dict[str, list[bytes]] = field(default_factory=dict)
    gone: dict[str, list[bytes]] = field(default_factory=dict)
    writes: list[Write] = field(default_factory=list)
    renews_header: bool = False
    """Whether the copies of the header are to be made like the one in use."""

    @property
    def does_something(self) -> bool:
        """Whether there is anything to be carried out."""
        return bool(self.writes) or self.renews_header


class Mending:
    """The old state, the new one, and the plan. `next_inode` and `next_cluster` are free from there on."""

    def __init__(self, readout: Readout, keyring: Keyring, policy: Policy, next_inode: int, next_cluster: int) -> None:
        self.old = readout
        self.new: Sources = readout.sources.copy()
        self.keyring = keyring
        self.policy = policy
        self.next_inode = next_inode
        self.next_cluster = next_cluster
        self.now_ns = time.time_ns()
        self.plan = Plan()
        self.moved_xattrs: dict[bytes, bytes] = {}
        """Where an attribute belongs, and where it stands."""
        self.paths = Paths(readout.sources)

    def mended(self, text: str, paths: Iterable[bytes] = ()) -> None:
        """Note what is put in order."""
        self.plan.mended.setdefault(text, []).extend(paths)

    def gone(self, text: str, paths: Iterable[bytes] = ()) -> None:
        """Note what is given up."""
        self.plan.gone.setdefault(text, []).extend(paths)

    def fresh_inode(self) -> InodeNo:
        """Return a number that no inode ever had."""
        self.next_inode += 1
        return InodeNo(self.next_inode - 1)

    def fresh_cluster(self) -> ClusterId:
        """Return a number that no cluster ever had."""
        self.next_cluster += 1
        return ClusterId(self.next_cluster - 1)
