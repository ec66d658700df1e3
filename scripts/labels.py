"""What is known about the files of a collection: which are versions of one picture, and which only look alike.

Reads `variants/labels.csv` (a, b, relation, note: two files and how they relate) and `near_miss_groups.csv` (group,
path: pictures that look alike, no two of which are copies), where a collection has them. Paths are relative to it.
"""

from __future__ import annotations

import csv
import enum
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

# Relations of two files that show the same picture, and so belong into one cluster. All others belong apart: a crop or
# an edit is a picture of its own.
WANTED_RELATIONS = ("identical", "recompressed", "format", "resized")


class Judgement(enum.Enum):
    SAME = "same"
    DIFFERENT = "different"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Label:
    """One row: file b was found to be `relation` of file a."""

    a: str
    b: str
    relation: str
    note: str = ""

    @property
    def wanted(self) -> bool:
        return self.relation in WANTED_RELATIONS


@dataclass
class Labels:
    """All rows of a collection."""

    rows: list[Label] = field(default_factory=list)
    near_misses: dict[str, str] = field(default_factory=dict)  # path -> group

    def __post_init__(self) -> None:
        self._by_pair = {frozenset((row.a, row.b)): row for row in self.rows}
        self._partners: dict[str, set[str]] = {}
        for row in self.rows:
            self._partners.setdefault(row.a, set()).add(row.b)
            self._partners.setdefault(row.b, set()).add(row.a)

    @classmethod
    def read(cls, folder: Path) -> Labels:
        rows = [Label(r["a"], r["b"], r["relation"], r["note"]) for r in _rows(folder / "variants" / "labels.csv")]
        near_misses = {row["path"]: row["group"] for row in _rows(folder / "near_miss_groups.csv")}
        return cls(rows, near_misses)

    def between(self, x: str, y: str) -> Label | None:
        return self._by_pair.get(frozenset((x, y)))

    def judge(self, x: str, y: str) -> Judgement:
        """Tell whether two files belong into one cluster.

        Two pictures that no row pairs are different pictures, except inside one folder of variants: there only the
        pairs with the first picture may be labelled, and a picture that both were compared with has to decide.
        """
        if label := self.between(x, y):
            return Judgement.SAME if label.wanted else Judgement.DIFFERENT
        if x in self.near_misses and self.near_misses[x] == self.near_misses.get(y):
            return Judgement.DIFFERENT
        if not self.rows:
            return Judgement.UNKNOWN
        if not _in_one_set(x, y):
            return Judgement.DIFFERENT
        for z in self._partners.get(x, set()) & self._partners.get(y, set()):
            wanted = self._by_pair[frozenset((x, z))].wanted, self._by_pair[frozenset((z, y))].wanted
            if all(wanted):
                return Judgement.SAME
            if any(wanted):
                return Judgement.DIFFERENT
        return Judgement.UNKNOWN


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _in_one_set(x: str, y: str) -> bool:
    folder = PurePosixPath(x).parent
    return folder == PurePosixPath(y).parent and folder.parts[:1] == ("variants",)
