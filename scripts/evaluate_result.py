"""What scripts/evaluate found for one order of copying, held against the labels, and how that is told to a person."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from evaluate_collection import Collection
from labels import WANTED_RELATIONS, Judgement, Label
from measure import Comparison


class Clusters:
    """Which files are kept as versions of which: all members of a cluster by the file that represents them."""

    def __init__(self, members: dict[str, list[str]], renditions: set[str]) -> None:
        self.members = members
        self.renditions = renditions
        self.representative_of = {name: kept for kept, names in members.items() for name in names}

    def together(self, x: str, y: str) -> bool:
        return x in self.representative_of and self.representative_of[x] == self.representative_of.get(y)


@dataclass(frozen=True, slots=True)
class FalseMerge:
    """Two different pictures in one cluster; `kept` represents it where one of the two does."""

    kept: str
    taken: str
    note: str

    def __str__(self) -> str:
        return f"{self.kept} and {self.taken}" + (f" ({self.note})" if self.note else "")


@dataclass
class Verdict:
    """Clusters held against the labels: what is missing, what is too much.

    `wanted` and `merged` count labelled pairs by relation. `rests_on` says of the missed that rest on some other file
    whether that is the same picture. `false_merges` leaves out pairs that say nothing new, of
    two members that differ because one of them differs from their representative.
    """

    wanted: dict[str, int] = field(default_factory=dict)
    merged: dict[str, int] = field(default_factory=dict)
    missed: list[Label] = field(default_factory=list)
    false_merges: list[FalseMerge] = field(default_factory=list)
    unjudged_merges: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    clusters: int = 0
    rests_on: dict[str, Judgement] = field(default_factory=dict)


@dataclass
class Result(Verdict):
    """What was found for one order of copying.

    `unique_bytes` is what is left of the written when equal files are kept once, `ideal_bytes` when one of each picture
    is; `volume_written_bytes` is what the mount gave to its disk, and `cpu_seconds` what it took until all was decided.
    """

    collection: str = ""
    order: str = ""
    files: int = 0
    written_bytes: int = 0
    unique_bytes: int = 0
    ideal_bytes: int = 0
    stored_bytes: int = 0
    database_bytes: int = 0
    volume_written_bytes: int = 0
    copy_seconds: float = 0.0
    decide_seconds: float = 0.0
    cpu_seconds: float = 0.0
    read_seconds: float = 0.0
    check_seconds: float = 0.0
    renditions: int = 0
    bit_exact_renditions: int = 0
    worst: Comparison | None = None
    worst_files: dict[str, str] = field(default_factory=dict)
    median_psnr_db: float | None = None
    fidelity: list[dict[str, float]] = field(default_factory=list)  # of renditions that are not bit-exact
    stats: dict[str, Any] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        return not self.problems and not self.false_merges


def judge(collection: Collection, clusters: Clusters, verdict: Verdict) -> None:
    """Hold the clusters against the labels."""
    verdict.clusters = len(clusters.members)
    for row in collection.labels.rows:
        if not row.wanted:
            continue
        verdict.wanted[row.relation] = verdict.wanted.get(row.relation, 0) + 1
        if not clusters.together(row.a, row.b):
            verdict.missed.append(row)
            kept = clusters.representative_of.get(row.b, row.b)
            if kept != row.b:
                verdict.rests_on[row.b] = collection.labels.judge(row.b, kept)
            continue
        verdict.merged[row.relation] = verdict.merged.get(row.relation, 0) + 1
        # The first of a pair is the original: what was enlarged from it shows no more, and may rest on it.
        if clusters.representative_of[row.b] == row.b and collection.lesser(row) == row.b:
            verdict.problems.append(f"{row.b} represents the better {row.a}")
    for kept, names in clusters.members.items():
        judge_cluster(collection, kept, names, verdict)


def judge_cluster(collection: Collection, kept: str, names: list[str], verdict: Verdict) -> None:
    strangers: set[str] = set()
    # The representative first, so that its pairs are judged before those of its members.
    for x, y in itertools.combinations(sorted(names, key=lambda name: (name != kept, name)), 2):
        # Equal bytes come back as they are; that is nobody's loss, whatever the labels know of it.
        if collection.digests.get(x) == collection.digests.get(y):
            continue
        judgement = collection.labels.judge(x, y)
        if judgement is Judgement.DIFFERENT and not {x, y} & strangers:
            label = collection.labels.between(x, y)
            verdict.false_merges.append(FalseMerge(x, y, f"{label.relation}: {label.note}" if label else ""))
            strangers |= {y} - {kept}
        elif judgement is Judgement.UNKNOWN:
            verdict.unjudged_merges.append(f"{x} and {y}")


def report(result: Result) -> None:
    mega = 1e6
    seconds = result.copy_seconds + result.decide_seconds
    saved = 1 - result.stored_bytes / result.written_bytes if result.written_bytes else 0
    title = f"{result.collection}, {result.order}"
    print(f"\n{title}\n{'=' * len(title)}")
    print(f"{result.files} files, {result.written_bytes / mega:.1f} MB written", end="")
    print(f", {result.stored_bytes / mega:.1f} MB stored", end="")
    print(f" ({saved:.1%} saved), {result.database_bytes / mega:.1f} MB on disk, {result.clusters} clusters")
    print(f"copy {result.copy_seconds:.1f} s + decide {result.decide_seconds:.1f} s", end="")
    print(f" = {result.written_bytes / mega / max(seconds, 1e-9):.1f} MB/s", end="")
    print(f"; read {result.written_bytes / mega / max(result.read_seconds, 1e-9):.1f} MB/s")

    if result.wanted:
        print(f"\n{'relation':16}{'merged':>8}{'of':>6}")
        merged, wanted = Counter(result.merged), Counter(result.wanted)
        for relation in WANTED_RELATIONS:
            print(f"{relation:16}{merged[relation]:8}{wanted[relation]:6}")
        print(f"{'all':16}{merged.total():8}{wanted.total():6}  {merged.total() / wanted.total():.0%}")
        listing("missed", [f"{row.relation}: {row.a} and {row.b} {row.note}".rstrip() for row in result.missed])
    if result.renditions:
        share = result.bit_exact_renditions / result.renditions
        print(f"\n{result.renditions} renditions, {result.bit_exact_renditions} of them bit-exact ({share:.0%})")
        if result.worst and result.median_psnr_db is not None:
            for what, value in asdict(result.worst).items():
                print(f"  worst {what:14}{value:7.1f}   {result.worst_files[what]}")
            print(f"  median psnr_db of those with other pixels: {result.median_psnr_db:.1f}")
    print()
    if result.wanted:  # without labels this would be every pair
        listing("merged, and no label says whether they belong together", result.unjudged_merges)
    listing("FALSE MERGES", list(map(str, result.false_merges)))
    listing("PROBLEMS", result.problems)
    print(f"{mark(not result.false_merges)} no two pictures merged that the labels call different")
    print(f"{mark(not result.problems)} everything came back as promised, and check --data is clean")


def listing(title: str, lines: list[str]) -> None:
    if lines:
        print(f"{title}: {len(lines)}")
        for line in lines:
            print(f"  {line}")


def mark(good: bool) -> str:
    return "✓" if good else "✗"
