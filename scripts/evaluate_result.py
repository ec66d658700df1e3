"""What scripts/evaluate found for one order of copying, and how that is told to a person."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from labels import WANTED_RELATIONS, Label
from measure import Comparison


@dataclass
class Result:
    """What was found for one order of copying."""

    order: str
    files: int = 0
    written_bytes: int = 0
    stored_bytes: int = 0
    database_bytes: int = 0
    copy_seconds: float = 0.0
    unmount_seconds: float = 0.0
    read_seconds: float = 0.0
    clusters: int = 0
    wanted: dict[str, int] = field(default_factory=dict)
    merged: dict[str, int] = field(default_factory=dict)
    missed: list[Label] = field(default_factory=list)
    false_merges: list[str] = field(default_factory=list)
    unjudged_merges: list[str] = field(default_factory=list)
    renditions: int = 0
    bit_exact_renditions: int = 0
    worst: Comparison | None = None
    worst_files: dict[str, str] = field(default_factory=dict)
    median_psnr_db: float | None = None
    problems: list[str] = field(default_factory=list)
    stats: dict[str, Any] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        return not self.problems and not self.false_merges


def report(result: Result) -> None:
    mega = 1e6
    seconds = result.copy_seconds + result.unmount_seconds
    saved = 1 - result.stored_bytes / result.written_bytes if result.written_bytes else 0
    print(f"\nOrder {result.order}\n{'=' * (6 + len(result.order))}")
    print(f"{result.files} files, {result.written_bytes / mega:.1f} MB written", end="")
    print(f", {result.stored_bytes / mega:.1f} MB stored", end="")
    print(f" ({saved:.1%} saved), {result.database_bytes / mega:.1f} MB on disk, {result.clusters} clusters")
    print(f"copy {result.copy_seconds:.1f} s + unmount {result.unmount_seconds:.1f} s", end="")
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
    listing("FALSE MERGES", result.false_merges)
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
