"""Write what scripts/evaluate found as Markdown with plots, and the same as JSON.

Takes plain values (see `evaluate_figures`), so that a report can be written again from evaluation.json.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from evaluate_plots import plots, side_by_side
from evaluate_sections import Figures, fidelity, fingerprints, misses, policies, recall, share, storage, times, timing


def write_report(found: Figures, folder: Path, folders: dict[str, Path] | None = None) -> None:
    """Write evaluation.md, evaluation.json and the plots.

    Args:
        folders: where the collections are, to show false merges side by side; None: they are only named.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    drawn = plots(found, folder)
    lines = [
        "# Which copies are recognised, and what is taken for one",
        "",
        *_summary(found),
        *(line for title, name in drawn for line in (f"![{title}]({name})", "")),
        *(() if drawn else ("Plots are missing: matplotlib is not installed (`pip install .[eval]`).", "")),
        *recall(found),
        *misses(found),
        *_false_merges(found, folder, folders),
        *fidelity(found),
        *storage(found),
        *policies(found),
        *fingerprints(found),
        *timing(found),
    ]
    (folder / "evaluation.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _summary(found: Figures) -> list[str]:
    lines = ["Made by `scripts/evaluate`."]
    if found["copies"] or found["edits"]:
        lines[0] += (
            f" **Made**: {found['pictures']} pictures, {found['copies']} copies by {len(found['tools'])} programs"
            f" ({', '.join(found['tools'])}), and {found['edits']} edits, each judged beside it alone."
            f" {found['stored_copies']} copies and {found['stored_edits']} edits were stored, all in one volume."
        )
    if any(order["collection"] == "found" for order in found["orders"]):
        lines[0] += " **Found**: the folder itself, with the pairs that its labels name."
    lines += [
        "",
        "| collection | order of arrival | copies | with original | share | with a copy | false merges | bit-exact |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    alone = [way for way in found["ways"] if way["wanted"]]
    if alone:
        merged, of = (sum(way[key] for way in alone) for key in ("alone", "of"))
        edits = sum(way["alone"] for way in found["ways"] if not way["wanted"])
        exact = share(sum(way["bit_exact"] for way in alone), merged)
        lines.append(
            f"| made | each alone with its original | {of} | {merged} | {share(merged, of)} | | {edits} | {exact} |"
        )
    for order in found["orders"]:
        exact = share(order["bit_exact_renditions"], order["renditions"])
        lines.append(
            f"| {order['collection']} | {order['order']} | {order['wanted']} | {order['merged']} |"
            f" {share(order['merged'], order['wanted'])} | {order['with_another_copy']} |"
            f" {len(order['false_merges'])} | {exact} |"
        )
    lines += [
        "",
        "A copy that is kept as a version of another copy takes no room either, but then that and the original do.",
    ]
    unjudged = [order["unjudged_merges"] for order in found["orders"] if order["collection"] == "made"]
    problems = [problem for order in found["orders"] for problem in order["problems"]]
    lines += ["", f"Everything came back as promised: {'no: ' + '; '.join(problems) if problems else 'yes'}.", ""]
    if any(unjudged):
        most = max(unjudged)
        lines += [f"Pairs of two edits of one picture that were merged, which nothing judges: {most} at most.", ""]
    return lines


def _false_merges(found: Figures, folder: Path, folders: dict[str, Path] | None) -> list[str]:
    pairs = Counter(
        (order["collection"], pair["kept"], pair["taken"], pair["note"])
        for order in found["orders"]
        for pair in order["false_merges"]
    )
    lines = ["## False merges", ""]
    if not pairs:
        return [*lines, "None in any order.", ""]
    lines += ["A file is listed with the different picture that it would be drawn from.", ""]
    for number, ((collection, kept, taken, note), count) in enumerate(pairs.items(), 1):
        text = f"`{taken}`, kept as a version of `{kept}` in {times(count)}" + (f" ({note})" if note else "")
        if folders is not None:
            target = folder / "false-merges" / f"{number:03}.png"
            target.parent.mkdir(exist_ok=True)
            side_by_side(folders[collection] / kept, folders[collection] / taken, target)
            text = f"[{text}](false-merges/{target.name})"
        lines.append(f"- {text}")
    return [*lines, ""]
