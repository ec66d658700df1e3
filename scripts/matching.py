"""Compare pairs of files as the pipeline would, without a volume: for tuning, and to say why a copy is missed.

Uses the pure functions of dedupfs that its workers run. What only a mount shows - several copies in one cluster,
promotion, what is read back - is the business of evaluate.py.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from dedupfs.errors import IngestError
from dedupfs.ingest import jobs
from dedupfs.ingest.fingerprint import distance_bits
from dedupfs.ingest.jobs import PictureFacts
from dedupfs.ingest.outcome import Fit, Misfit
from dedupfs.model import Policy
from dedupfs.storage.similarity import COMPLETE_RADIUS_BITS


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether two files merge, and if not, what stopped them.

    `reason` is "merged", "no candidate", "not a picture" or the reasons of both tries; `base` is the file that the
    other would be drawn from. `why_not` says for each try which limit was exceeded and by how much, or how many bytes
    were missing. Differences are in levels, None without a comparison.
    """

    merged: bool
    reason: str
    base: str = ""
    bit_exact: bool = False
    distance_bits: int | None = None
    fine_luma: float | None = None
    fine_chroma: float | None = None
    coarse_luma: float | None = None
    coarse_chroma: float | None = None
    seconds: float = 0.0
    why_not: tuple[str, ...] = ()


def compare(original: Path, copy: Path, ignore_fingerprint: bool = False) -> Outcome:
    """Return what would become of a copy that arrives when its original is alone in its cluster."""
    start = time.monotonic()
    files = (original.read_bytes(), copy.read_bytes())
    try:
        facts: list[PictureFacts] = [jobs.inspect(data) for data in files]
    except IngestError as exc:
        return Outcome(False, f"not compared: {exc}")
    prints = [each.fingerprint for each in facts]
    if prints[0] is None or prints[1] is None:
        return Outcome(False, "no fingerprint")
    distance = distance_bits(prints[0], prints[1])
    if distance > COMPLETE_RADIUS_BITS and not ignore_fingerprint:
        return Outcome(False, "no candidate", distance_bits=distance)
    promote_first = jobs.better(facts[1], facts[0])
    reasons: list[str] = []
    why_not: list[str] = []
    closest: Misfit | None = None
    for promoting in (promote_first, not promote_first):
        member, base = (files[0], files[1]) if promoting else (files[1], files[0])
        found = jobs.fit(member, base, Policy.VERIFIED)
        name = "copy" if promoting else "original"
        if isinstance(found, Fit):
            numbers = found.differences
            return Outcome(True, "merged", name, found.bit_exact, distance, numbers.fine_luma, numbers.fine_chroma,
                           numbers.coarse_luma, numbers.coarse_chroma, time.monotonic() - start)  # fmt: skip
        reasons.append(f"{found.reason} from the {name}")
        why_not.append(f"{'original' if promoting else 'copy'} {found.explained()}")
        closest = closest or (found if found.differences is not None else None)
    seconds = time.monotonic() - start
    if closest is None or closest.differences is None:
        return Outcome(False, ", ".join(reasons), distance_bits=distance, seconds=seconds, why_not=tuple(why_not))
    numbers = closest.differences
    return Outcome(False, ", ".join(reasons), "", False, distance, numbers.fine_luma, numbers.fine_chroma,
                   numbers.coarse_luma, numbers.coarse_chroma, seconds, tuple(why_not))  # fmt: skip
