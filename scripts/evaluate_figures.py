"""All that scripts/evaluate found as one plain value, which evaluation.json holds and the report is written from."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from evaluate_fingerprints import COPIES, threshold_bits
from evaluate_made import Made
from evaluate_policies import Threshold
from evaluate_result import FalseMerge, Result, Verdict
from labels import Judgement
from matching import Outcome

Figures = dict[str, Any]

MEASURES = ("fine_luma", "fine_chroma", "coarse_luma", "coarse_chroma", "psnr_db", "ssim")
FEWER_IS_WORSE = ("psnr_db", "ssim")
_SHARES = (0.5, 0.9, 0.99, 1.0)
_BINS = 40

RESTS_ON_ANOTHER = "rests on a different picture, which looks the same at its size"
RESTS_ON_A_COPY = "rests on another copy of its original, which stands apart from it"
CROWDED_OUT = "fits its original alone, was kept whole among others"


def figures(
    made: Sequence[Made],
    results: Sequence[Result],
    policies: Mapping[str, Sequence[Threshold]],
    distances: Mapping[str, Mapping[str, Sequence[int]]],
    alone: Mapping[str, Outcome],
) -> Figures:
    """Put everything together; `alone` holds outcomes (see `matching`) of labelled pairs that were missed, by name."""
    copies = [each for each in made if each.way.wanted]
    stored = [each for each in made if each.stored]
    of_made = [result for result in results if result.collection == "made"]
    return {
        "pictures": len({each.original for each in made}),
        "copies": len(copies),
        "edits": len(made) - len(copies),
        "stored_copies": sum(each.way.wanted for each in stored),
        "stored_edits": sum(not each.way.wanted for each in stored),
        "tools": sorted({each.way.tool for each in copies}),
        "ways": _ways(made, of_made),
        "missed_alone": Counter(_cause(each.outcome) for each in copies if not each.outcome.merged),
        "stages": _stages(made),
        "orders": [_order(result, made, alone) for result in results],
        "fidelity": _fidelity(results),
        "policies": {name: [_threshold(each) for each in found] for name, found in policies.items()},
        "fingerprints": {name: _distances(name, found) for name, found in distances.items()},
    }


def _ways(made: Sequence[Made], results: Sequence[Result]) -> list[Figures]:
    """Return one entry a way: how many are merged with their original alone, and in each order."""
    groups: dict[str, list[Made]] = defaultdict(list)
    for each in made:
        groups[each.way.name].append(each)
    merged = {result.order: _merged(result, [each for each in made if each.stored]) for result in results}
    return [
        {
            "family": found[0].way.family,
            "tool": found[0].way.tool,
            "strength": found[0].way.strength,
            "wanted": found[0].way.wanted,
            "of": len(found),
            "stored": sum(each.stored for each in found),
            "alone": sum(each.outcome.merged for each in found),
            "bit_exact": sum(each.outcome.bit_exact for each in found),
            "orders": {order: sum(each.path in names for each in found) for order, names in merged.items()},
        }
        for found in groups.values()
    ]


def _merged(result: Result, made: Sequence[Made]) -> set[str]:
    """Return the copies that are in one cluster with their original, and the edits that are with another picture."""
    missed = {row.b for row in result.missed}
    taken = {name for pair in result.false_merges for name in (pair.kept, pair.taken)}
    return {each.path for each in made if (each.path not in missed if each.way.wanted else each.path in taken)}


def _cause(outcome: Outcome) -> str:
    """Return the reason of the first try, without its numbers, so that it can be counted."""
    reason = (outcome.why_not or (outcome.reason,))[0]
    return re.sub(r",? ?(by )?[\d.,]+ (times what is allowed|bytes)", "", reason)


def _stages(made: Sequence[Made]) -> Figures:
    """Return medians and 90th percentiles, in processor seconds a picture."""
    return {
        stage: [round(value, 4) for value in _quantiles([getattr(each, stage) for each in made], (0.5, 0.9))]
        for stage in ("look_seconds", "decide_seconds")
        if made
    }


def _order(result: Result, made: Sequence[Made], alone: Mapping[str, Outcome]) -> Figures:
    outcomes = {each.path: each.outcome for each in made} | dict(alone)
    reasons: Counter[str] = Counter()
    for row in result.missed:
        outcome = outcomes.get(row.b)
        if row.b in result.rests_on:
            same = result.rests_on[row.b] is not Judgement.DIFFERENT
            reasons[RESTS_ON_A_COPY if same else RESTS_ON_ANOTHER] += 1
        elif outcome is not None:
            reasons[CROWDED_OUT if outcome.merged else _cause(outcome)] += 1
    names = ("files", "written_bytes", "unique_bytes", "ideal_bytes", "stored_bytes", "database_bytes",
             "volume_written_bytes", "renditions", "bit_exact_renditions", "problems")  # fmt: skip
    seconds = ("copy_seconds", "decide_seconds", "cpu_seconds", "read_seconds", "check_seconds")
    return {
        "collection": result.collection,
        "order": result.order,
        **_verdict(result),
        "missed": [{"a": row.a, "b": row.b, "relation": row.relation} for row in result.missed]
        if result.collection != "made"
        else [],
        "missed_because": reasons,
        "with_another_copy": reasons[RESTS_ON_A_COPY],
        **{name: getattr(result, name) for name in names},
        **{name: round(getattr(result, name), 2) for name in seconds},
    }


def _verdict(verdict: Verdict) -> Figures:
    return {
        "wanted": sum(verdict.wanted.values()),
        "merged": sum(verdict.merged.values()),
        "clusters": verdict.clusters,
        "false_merges": [_pair(pair) for pair in verdict.false_merges],
        "unjudged_merges": len(verdict.unjudged_merges),
    }


def _pair(pair: FalseMerge) -> Figures:
    return {"kept": pair.kept, "taken": pair.taken, "note": pair.note}


def _threshold(threshold: Threshold) -> Figures:
    found = _verdict(threshold)
    # At a wide threshold there are hundreds, and none of them is news.
    found["false_merges"] = len(threshold.false_merges)
    return {"bits": threshold.bits, "stored_bytes": threshold.stored_bytes, **found}


def _fidelity(results: Iterable[Result]) -> Figures:
    every = [entry for result in results for entry in result.fidelity]
    found: Figures = {
        "renditions": sum(result.renditions for result in results),
        "bit_exact": sum(result.bit_exact_renditions for result in results),
    }
    for measure in MEASURES:
        values = [entry[measure] for entry in every if np.isfinite(entry[measure])]
        if values:
            worst_last = sorted(values, reverse=measure in FEWER_IS_WORSE)
            counts, edges = np.histogram(values, _BINS)
            found[measure] = {
                "quantiles": [round(value, 4) for value in _quantiles(worst_last, _SHARES, is_sorted=True)],
                "histogram": {"from": float(edges[0]), "to": float(edges[-1]), "counts": counts.tolist()},
            }
    return found


def _distances(algorithm: str, found: Mapping[str, Sequence[int]]) -> Figures:
    bits = int(algorithm.split()[-1])
    limit = threshold_bits(found.get(COPIES, ()))
    return {
        "bits": bits,
        "threshold_bits": limit,
        "kinds": {
            kind: {
                "of": len(values),
                "within": sum(value <= limit for value in values),
                "quantiles": [int(value) for value in _quantiles(values, (0.0, 0.5, 1.0))],
                "counts": np.bincount(np.asarray(values, np.int64), minlength=1).tolist(),
            }
            for kind, values in found.items()
            if values
        },
    }


def _quantiles(values: Sequence[float], shares: Sequence[float], *, is_sorted: bool = False) -> list[float]:
    ordered = list(values) if is_sorted else sorted(values)
    return [float(ordered[round(share * (len(ordered) - 1))]) for share in shares] if ordered else []
