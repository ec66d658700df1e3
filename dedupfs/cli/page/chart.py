"""The chart of savings: one bar of everything, and a table that says the same in figures and is its legend."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from dedupfs.cli.stats import human_bytes
from dedupfs.ingest.groups import CopyKind, Share

LABELS = {
    CopyKind.EXACT: "exact copy",
    CopyKind.METADATA: "other metadata",
    CopyKind.RECOMPRESSED: "recompressed",
    CopyKind.RESIZED: "resized",
    CopyKind.CONVERTED: "converted",
}
_WIDTH = 1000.0
_HEIGHT = 30


def chart(stored_bytes: int, shares: Mapping[CopyKind, Share]) -> str:
    """Return the chart as HTML."""
    parts = [("stored", "stored", "", stored_bytes)]
    parts += [(kind.value, LABELS[kind], f"{share.files:,}", share.saved_bytes) for kind, share in shares.items()]
    total = sum(size for *_, size in parts) or 1
    bars, rows, x = [], [], 0.0
    for name, label, files, size in parts:
        width = _WIDTH * size / total
        share = f"{100 * size / total:.1f} %"
        bars.append(
            f'<rect class="{name}" x="{x:.2f}" y="0" width="{width:.2f}" height="{_HEIGHT}">'
            f"<title>{escape(label)}: {human_bytes(size)}, {share}</title></rect>"
        )
        rows.append(
            f'<tr><th scope="row"><span class="swatch {name}"></span>{escape(label)}</th>'
            f"<td>{files}</td><td>{human_bytes(size)}</td><td>{share}</td></tr>"
        )
        x += width
    return (
        '<figure class="chart">'
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT}" preserveAspectRatio="none" role="img"'
        ' aria-label="What is stored, and what each kind of copy saves; the figures are in the table below">'
        f"{''.join(bars)}</svg>"
        "<table><caption>What is stored, and what each kind of copy saves</caption>"
        '<thead><tr><th scope="col"></th><th scope="col">files</th><th scope="col">size</th>'
        '<th scope="col">share</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></figure>"
    )
