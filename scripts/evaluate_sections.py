"""The sections of the report of scripts/evaluate, each a list of lines of Markdown. Pure."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from evaluate_fingerprints import FOUND_SHARE

Figures = dict[str, Any]

_MEGA = 1e6
_NAMES = {
    "fine_luma": "brightness at a point, levels",
    "fine_chroma": "colour at a point, levels",
    "coarse_luma": "brightness of a tile of 16 x 16, levels",
    "coarse_chroma": "colour of a tile, levels",
    "psnr_db": "PSNR, dB",
    "ssim": "SSIM",
}


def recall(found: Figures) -> list[str]:
    if not found["ways"]:
        return []
    copies = [way for way in found["ways"] if way["wanted"]]
    edits = [way for way in found["ways"] if not way["wanted"]]
    return [
        "## Recall by kind of copy",
        "",
        "\"Alone\" is a copy beside its original and nothing else; \"stored\" is how many a mount held, all at once.",
        "",
        *_ways(copies, lambda way: way["family"], "kind of copy"),
        "",
        "## Recall by program",
        "",
        *_ways(copies, lambda way: way["tool"], "program"),
        "",
        "## Recall by strength",
        "",
        *_ways([way for way in copies if way["family"] == "recompress"],
               lambda way: f"quality {way['strength']:g}", "compressed again, all programs", reverse=True),
        "",
        *_ways([way for way in copies if way["family"].startswith("resize") and way["strength"] <= 100],
               lambda way: f"to {way['strength']:g} %", "resized, all programs and filters", reverse=True),
        "",
        "## Edits taken for copies, by kind",
        "",
        "Each at quality 95, at 60 (coarse), and at 60 % of the size (small); these are all false merges.",
        "",
        *_ways(edits, lambda way: way["family"].removeprefix("edit "), "edit", only_merged=True),
        "",
    ]  # fmt: skip


def _ways(
    ways: Iterable[Figures],
    key: Callable[[Figures], str],
    title: str,
    *,
    reverse: bool = False,
    only_merged: bool = False,
) -> list[str]:
    groups: dict[str, list[Figures]] = defaultdict(list)
    for way in ways:
        groups[key(way)].append(way)
    orders = [order for way in next(iter(groups.values()), [])[:1] for order in way["orders"]]
    rows = []
    for name, group in sorted(groups.items(), key=lambda found: _by_number(found[0]), reverse=reverse):
        of, alone, exact, stored = (sum(way[each] for way in group) for each in ("of", "alone", "bit_exact", "stored"))
        counts = [sum(way["orders"][order] for way in group) for order in orders]
        if not only_merged or alone or any(counts):
            rows.append(f"| {name} | " + " | ".join(map(str, (of, alone, exact, stored, *counts))) + " |")
    if not rows:
        return [f"No {title}."]
    columns = ["of", "alone", "to the last byte", "stored", *orders]
    return [f"| {title} | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns), *rows]


def _by_number(name: str) -> list[tuple[str, int]]:
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D+)(\d*)", name)]


def misses(found: Figures) -> list[str]:
    orders = [order for order in found["orders"] if order["wanted"]]
    because = [found["missed_alone"], *(order["missed_because"] for order in orders)]
    reasons = sorted({reason for each in because for reason in each})
    lines = ["## Why copies were missed", ""]
    if not reasons:
        return [*lines, "None was.", ""]
    names = ["made, alone", *(f"{order['collection']}, {order['order']}" for order in orders)]
    lines += ["| reason | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
    counts = {reason: [each.get(reason, 0) for each in because] for reason in reasons}
    ordered = sorted(reasons, key=lambda reason: -max(counts[reason]))
    lines += [f"| {reason} | " + " | ".join(map(str, counts[reason])) + " |" for reason in ordered]
    lines.append("")
    pairs = Counter((row["a"], row["b"], row["relation"]) for order in orders for row in order["missed"])
    lines += [f"- missed in {times(count)}: `{b}`, {relation} of `{a}`" for (a, b, relation), count in pairs.items()]
    return [*lines, ""]


def fidelity(found: Figures) -> list[str]:
    measured = found["fidelity"]
    lines = ["## Fidelity of renditions", ""]
    if not measured["renditions"]:
        return [*lines, "No file was kept as a version of another.", ""]
    exact = share(measured["bit_exact"], measured["renditions"])
    lines += [
        (
            f"{measured['bit_exact']} of {measured['renditions']} renditions in all orders ({exact}) are what was"
            " written, bit for bit. Of the others, as read from the mount and measured without dedupfs, the largest"
            " difference:"
        ),
        "",
        "| measure | median | 90 % | 99 % | worst |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for measure, name in _NAMES.items():
        if measure in measured:
            form = "{:.4f}" if measure == "ssim" else "{:.1f}"
            lines.append(f"| {name} | " + " | ".join(map(form.format, measured[measure]["quantiles"])) + " |")
    return [*lines, ""]


def storage(found: Figures) -> list[str]:
    lines = [
        "## Storage and bandwidth",
        "",
        (
            "Ideal is one file for each picture, its original. Moved is all that the mount gave to its disk until"
            " everything was decided: what was freed again, too, and the pages of the database at every commit."
        ),
        "",
        "| collection | order | written, MB | equal files once | ideal | stored | saved | of the ideal | moved |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for order in found["orders"]:
        written, ideal, stored = (order[f"{name}_bytes"] for name in ("written", "ideal", "stored"))
        numbers = [order[f"{name}_bytes"] / _MEGA for name in ("written", "unique", "ideal", "stored")]
        lines.append(
            f"| {order['collection']} | {order['order']} | "
            + " | ".join(f"{number:.1f}" for number in numbers)
            + f" | {share(written - stored, written)} | {share(written - stored, written - ideal)}"
            f" | {order['volume_written_bytes'] / _MEGA:.1f} |"
        )
    return [*lines, ""]


def policies(found: Figures) -> list[str]:
    if not found["policies"]:
        return []
    lines = [
        "## The paper's scheme beside ours",
        "",
        (
            "The policy `perceptual` merges what is within a threshold of fingerprint bits and has an equal aspect"
            " ratio; a volume's threshold is 15. Its rows come from the decisions of `dedupfs scan`, without a mount,"
            " originals first; those of `verified` from the mount, in the same order."
        ),
        "",
        "| collection | policy | copies merged | of | false merges | stored, MB |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for name, thresholds in found["policies"].items():
        ours = next((order for order in found["orders"] if order["collection"] == name), None)
        if ours is not None:
            unique = ours["unique_bytes"] / _MEGA
            lines.append(f"| {name} | `off`: equal files once | 0 | {ours['wanted']} | 0 | {unique:.1f} |")
            false = len(ours["false_merges"])
            stored = ours["stored_bytes"] / _MEGA
            lines.append(f"| {name} | `verified` | {ours['merged']} | {ours['wanted']} | {false} | {stored:.1f} |")
        lines += [
            f"| {name} | `perceptual`, {each['bits']} bits | {each['merged']} | {each['wanted']} |"
            f" {each['false_merges']} | {each['stored_bytes'] / _MEGA:.1f} |"
            for each in thresholds
        ]
    return [*lines, ""]


def fingerprints(found: Figures) -> list[str]:
    if not found["fingerprints"]:
        return []
    kinds = list(dict.fromkeys(kind for each in found["fingerprints"].values() for kind in each["kinds"]))
    others = [kind for kind in kinds if kind != "copies"]
    lines = [
        "## What a hash alone could tell",
        "",
        (
            f"At the threshold that finds {FOUND_SHARE:.0%} of the copies, so many of the others are within it too."
            " dedupfs takes candidates from the first. Edits and look-alikes are different pictures, strangers the"
            " originals among themselves."
        ),
        "",
        "| hash | threshold, bits | copies: most | " + " | ".join(f"{kind} within" for kind in others) + " |",
        "| --- | ---: | ---: |" + " ---: |" * len(others),
    ]
    for name, each in found["fingerprints"].items():
        if "copies" not in each["kinds"]:
            continue
        most = each["kinds"]["copies"]["quantiles"][-1]
        shown = [
            f"{each['kinds'][kind]['within']} of {each['kinds'][kind]['of']}" if kind in each["kinds"] else "-"
            for kind in others
        ]
        lines.append(f"| {name} | {each['threshold_bits']} of {each['bits']} | {most} | " + " | ".join(shown) + " |")
    if "PDQ 256" not in found["fingerprints"]:
        lines += ["", "PDQ is missing: pdqhash is not installed (`pip install .[eval]`)."]
    return [*lines, ""]


def timing(found: Figures) -> list[str]:
    lines = ["## Time", ""]
    if found["stages"]:
        lines += ["| stage, processor seconds a picture | median | 90 % |", "| --- | ---: | ---: |"]
        lines += [
            f"| {name} | " + " | ".join(f"{value:.3f}" for value in found["stages"][stage]) + " |"
            for stage, name in (
                ("look_seconds", "decode for the fingerprint"),
                ("decide_seconds", "whole decision beside the original"),
            )
        ]
        lines.append("")
    lines += [
        "Of the mount, with whatever else the machine did at the time:",
        "",
        "| collection | order | copy, MB/s | decided after, s | processor, s | a file | read, MB/s | check --data, s |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for order in found["orders"]:
        written = order["written_bytes"] / _MEGA
        numbers = (
            _rate(written, order["copy_seconds"]),
            f"{order['copy_seconds'] + order['decide_seconds']:.0f}",
            f"{order['cpu_seconds']:.0f}",
            f"{order['cpu_seconds'] / max(order['files'], 1):.2f}",
            _rate(written, order["read_seconds"]),
            f"{order['check_seconds']:.0f}",
        )
        lines.append(f"| {order['collection']} | {order['order']} | " + " | ".join(numbers) + " |")
    return [*lines, ""]


def _rate(amount: float, seconds: float) -> str:
    return f"{amount / seconds:.1f}" if seconds else "-"


def times(count: int) -> str:
    return f"{count} order{'s' if count > 1 else ''}"


def share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"
