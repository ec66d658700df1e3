"""Plots of what scripts/evaluate found, where matplotlib is installed, and two pictures side by side."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

SIDE_PX = 640
_GAP_PX = 8
_KINDS = ("copies", "edits", "look-alikes", "strangers")


def plots(found: dict[str, Any], folder: Path) -> list[tuple[str, str]]:
    """Draw the plots into a folder; return the title and file of each."""
    if importlib.util.find_spec("matplotlib") is None:
        return []
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    drawn = []
    for title, name, draw, rows, columns in (
        ("Recall against strength", "recall.png", _recall, 2, 2),
        ("Differences of renditions", "differences.png", _differences, 1, 3),
        ("Distances of fingerprints", "distances.png", _distances, 2, 4),
    ):
        figure, axes = plt.subplots(rows, columns, figsize=(3.2 * columns + 2, 2.9 * rows), layout="constrained")
        if draw(found, list(axes.flat)):
            figure.savefig(folder / name, dpi=100)
            drawn.append((title, name))
        plt.close(figure)
    return drawn


def _recall(found: dict[str, Any], axes: list[Any]) -> bool:
    """Recall alone by tool above, and below all tools together in each order of arrival."""
    copies = [way for way in found["ways"] if way["wanted"]]
    for column, family, label in (
        (0, "recompress", "JPEG quality (ffmpeg: 100 - 4 q)"),
        (1, "resize", "size, %"),
    ):
        chosen = [way for way in copies if way["family"].split(" ")[0] == family and way["strength"] <= 100]
        for tool in sorted({way["tool"] for way in chosen}):
            _line(axes[column], tool, ((way, way["alone"], way["of"]) for way in chosen if way["tool"] == tool))
        below = axes[2 + column]
        _line(below, "alone with its original", ((way, way["alone"], way["of"]) for way in chosen))
        for order in chosen[0]["orders"] if chosen else ():
            _line(below, order, ((way, way["orders"][order], way["stored"]) for way in chosen if way["stored"]))
        for axis in (axes[column], below):
            axis.set(xlabel=label, ylabel="merged, %", ylim=(-3, 103), title=family)
            if chosen:
                axis.legend(fontsize=7)
    return bool(copies)


def _line(axis: Any, name: str, counted: Iterable[tuple[dict[str, Any], int, int]]) -> None:
    sums: dict[float, list[int]] = defaultdict(lambda: [0, 0])
    for way, merged, of in counted:
        sums[way["strength"]][0] += merged
        sums[way["strength"]][1] += of
    strengths = sorted(sums)
    axis.plot(strengths, [100 * sums[s][0] / sums[s][1] for s in strengths], marker="o", ms=4, label=name, alpha=0.7)


def _differences(found: dict[str, Any], axes: list[Any]) -> bool:
    fidelity = found["fidelity"]
    panels = (("fine_luma", "fine_chroma"), ("coarse_luma", "coarse_chroma"), ("ssim",))
    labels = ("largest difference at a point, levels", "largest difference of a tile, levels", "SSIM")
    for axis, measures, label in zip(axes, panels, labels, strict=True):
        for measure in measures:
            if measure in fidelity:
                histogram = fidelity[measure]["histogram"]
                step = (histogram["to"] - histogram["from"]) / len(histogram["counts"])
                edges = [histogram["from"] + step * number for number in range(len(histogram["counts"]) + 1)]
                axis.stairs(histogram["counts"], edges, label=measure.replace("_", " "))
        axis.set(xlabel=label, ylabel="renditions that are not exact")
        if measures[0] in fidelity:
            axis.legend(fontsize=7)
    return "fine_luma" in fidelity


def _distances(found: dict[str, Any], axes: list[Any]) -> bool:
    """Draw for each hash which share of each kind of pair is within a distance."""
    for axis, (name, each) in zip(axes, found["fingerprints"].items(), strict=False):
        for kind in _KINDS:
            if kind in each["kinds"]:
                counts = each["kinds"][kind]["counts"] + [0]
                total = sum(counts)
                shares = [100 * sum(counts[: bits + 1]) / total for bits in range(len(counts))]
                places = [100 * bits / each["bits"] for bits in range(len(counts))]
                axis.step([*places, 60], [*shares, 100], where="post", label=kind)
        axis.axvline(100 * each["threshold_bits"] / each["bits"], color="grey", lw=0.8, ls=":")
        axis.set(title=name, xlabel="distance, % of the bits", ylabel="pairs within, %", xlim=(0, 60))
    for axis in axes[:1] if found["fingerprints"] else ():
        axis.legend(fontsize=7)
    for axis in axes[len(found["fingerprints"]) :]:
        axis.set_visible(False)
    return bool(found["fingerprints"])


def side_by_side(left: Path, right: Path, target: Path) -> None:
    """Write two pictures beside each other, each at most SIDE_PX on a side. Raises OSError for what is no picture."""
    shown = []
    for path in (left, right):
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
            picture.thumbnail((SIDE_PX, SIDE_PX))
            shown.append(picture)
    width = sum(picture.width for picture in shown) + _GAP_PX
    sheet = Image.new("RGB", (width, max(picture.height for picture in shown)), "white")
    sheet.paste(shown[0], (0, 0))
    sheet.paste(shown[1], (shown[0].width + _GAP_PX, 0))
    sheet.save(target)
