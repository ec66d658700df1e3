"""Write what scripts/robustness found as Markdown, with plots where matplotlib is installed.

Takes pairs as plain dictionaries, so that a report can be made again of what --json kept.
"""

from __future__ import annotations

import importlib.util
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

Pairs = list[dict[str, Any]]


def write_report(pairs: Pairs, folder: Path) -> None:
    """Write evaluation.md and evaluation.json, a summary by way, and the plots beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    copies = [pair for pair in pairs if pair["wanted"]]
    edits = [pair for pair in pairs if not pair["wanted"]]
    merged = [pair for pair in copies if pair["outcome"]["merged"]]
    exact = sum(pair["outcome"]["bit_exact"] for pair in merged)
    photos = len({pair["source"] for pair in pairs})
    lines = [
        "# Which copies are recognised",
        "",
        f"Made by `scripts/robustness`: {photos} pictures, {len(copies)} copies by other tools, {len(edits)} edits.",
        "",
        f"- {len(merged)} of {len(copies)} copies are merged with their original ({_share(len(merged), len(copies))}),",
        f"  {exact} of them come back to the last byte ({_share(exact, len(merged))}).",
        f"- {sum(pair['outcome']['merged'] for pair in edits)} of {len(edits)} edits are merged.",
        "",
        *_plots(copies, merged, folder),
        "## By tool",
        "",
        *_table(copies, "tool"),
        "",
        "## By kind of copy",
        "",
        *_table(copies, "family"),
        "",
        "## Why copies were missed",
        "",
        "| reason | copies |",
        "| --- | ---: |",
    ]
    reasons = Counter(pair["outcome"]["reason"] for pair in copies if not pair["outcome"]["merged"])
    lines += [f"| {reason} | {count} |" for reason, count in reasons.most_common()]
    lines += ["", "Pictures with a side below 64 pixels have no fingerprint and are always stored as they are.", ""]
    missed: dict[str, Counter[str]] = defaultdict(Counter)
    for pair in copies:
        if not pair["outcome"]["merged"] and pair["outcome"]["reason"].startswith("pixels"):
            missed[f"{pair['family']}, {pair['tool']}"][pair["source"]] += 1
    lines += ["Too far apart in pixels, both ways round:", ""]
    lines += [f"- {way}: {found.total()}" for way, found in sorted(missed.items())]
    lines += ["", "## Differences of the renditions", "", *_differences(merged)]
    lines += ["", "## Edits", "", "Each edit at quality 95, at 60 (coarse), and at 60 % of the size (small).", ""]
    taken = [pair for pair in edits if pair["outcome"]["merged"]]
    lines += [f"- merged: {pair['family']} {pair['strength']:g} of {pair['source']}" for pair in taken]
    lines += [""] if taken else []
    lines += _table(edits, "family")
    (folder / "evaluation.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "evaluation.json").write_text(json.dumps(_summary(pairs), indent=1) + "\n", encoding="utf-8")


def _summary(pairs: Pairs) -> list[dict[str, Any]]:
    """Return one entry a way: how many were merged, of how many, to the last byte, and the reasons of the others."""
    groups: dict[tuple[str, str, float, bool], Pairs] = defaultdict(list)
    for pair in pairs:
        groups[pair["family"], pair["tool"], pair["strength"], pair["wanted"]].append(pair["outcome"])
    return [
        {
            "family": family,
            "tool": tool,
            "strength": strength,
            "wanted": wanted,
            "of": len(outcomes),
            "merged": sum(outcome["merged"] for outcome in outcomes),
            "bit_exact": sum(outcome["bit_exact"] for outcome in outcomes),
            "missed": Counter(outcome["reason"] for outcome in outcomes if not outcome["merged"]),
        }
        for (family, tool, strength, wanted), outcomes in groups.items()
    ]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _table(pairs: Pairs, key: str) -> list[str]:
    groups: dict[str, Pairs] = defaultdict(list)
    for pair in pairs:
        groups[pair[key]].append(pair)
    lines = [f"| {key} | merged | of | to the last byte |", "| --- | ---: | ---: | ---: |"]
    for name, found in sorted(groups.items()):
        merged = sum(pair["outcome"]["merged"] for pair in found)
        exact = sum(pair["outcome"]["bit_exact"] for pair in found)
        lines.append(f"| {name} | {merged} | {len(found)} | {exact} |")
    return lines


_MEASURES = (("fine_luma", "fine luma"), ("fine_chroma", "fine chroma"), ("coarse_luma", "luma of a tile"),
             ("coarse_chroma", "chroma of a tile"))  # fmt: skip


def _differences(merged: Pairs) -> list[str]:
    """Return quantiles of the largest difference of each rendition, in levels of 255."""
    lines = ["| largest difference | median | 90 % | 99 % | most |", "| --- | ---: | ---: | ---: | ---: |"]
    for key, name in _MEASURES:
        values = sorted(pair["outcome"][key] for pair in merged)
        if values:
            places = (values[round(share * (len(values) - 1))] for share in (0.5, 0.9, 0.99, 1.0))
            lines.append(f"| {name} | " + " | ".join(f"{value:.1f}" for value in places) + " |")
    return lines


def _plots(copies: Pairs, merged: Pairs, folder: Path) -> list[str]:
    """Draw recall against strength and the differences; return the lines that show them, none without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        return []
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for axis, family, label in (
        (axes[0], "recompress", "JPEG quality (ffmpeg: 100 - 4 q)"),
        (axes[1], "resize", "size, %"),
    ):
        tools: dict[str, dict[float, list[bool]]] = defaultdict(lambda: defaultdict(list))
        for pair in copies:
            if pair["family"] == family:
                tools[pair["tool"]][pair["strength"]].append(pair["outcome"]["merged"])
        for tool, found in sorted(tools.items()):
            strengths = sorted(found)
            shares = [100 * sum(found[strength]) / len(found[strength]) for strength in strengths]
            axis.plot(strengths, shares, marker="o", label=tool, alpha=0.7)
        axis.set(xlabel=label, ylabel="merged, %", ylim=(-3, 103), title=family)
        if tools:
            axis.legend(fontsize=7)
    figure.savefig(folder / "recall.png", dpi=110)
    plt.close(figure)
    figure, axis = plt.subplots(figsize=(7, 3.4), layout="constrained")
    for key, name in _MEASURES:
        values = [pair["outcome"][key] for pair in merged if not pair["outcome"]["bit_exact"]]
        axis.hist(values, bins=40, histtype="step", label=name)
    axis.set(xlabel="largest difference of a rendition that is not exact, levels", ylabel="renditions")
    axis.legend(fontsize=8)
    figure.savefig(folder / "differences.png", dpi=110)
    plt.close(figure)
    return ["![Recall against strength](recall.png)", "", "![Differences of renditions](differences.png)", ""]
