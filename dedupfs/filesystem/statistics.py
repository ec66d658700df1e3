"""What a volume holds and what it saves, in numbers."""

from __future__ import annotations

from typing import Any

from dedupfs.storage.records import FORMAT_VERSION
from dedupfs.storage.volume import Volume


def statistics(volume: Volume) -> dict[str, Any]:
    """Return the figures of a volume, in the order in which they are shown; they name nobody and nothing."""
    counters = volume.store.counters

    def count(name: str) -> int:
        return counters.get(name, 0)

    stored = count("stored_bytes")
    kept = volume.kept.totals()
    logical = count("logical_bytes") - kept.size_bytes
    return {
        "policy": volume.config.policy.value,
        "format_version": FORMAT_VERSION,
        "files": count("files") - kept.files,
        "directories": count("directories") - kept.directories,
        "logical_bytes": logical,
        "stored_bytes": stored,
        "database_bytes": volume.store.engine.allocated_bytes(),
        "dedup_ratio": round(logical / stored, 4) if stored else None,
        "chunks": count("chunks"),
        "pictures": count("pictures"),
        "clusters": count("clusters"),
        "representatives": count("clusters"),
        "renditions": count("renditions"),
        "bit_exact_renditions": count("bit_exact_renditions"),
        "exact_duplicates": count("exact_duplicates"),
        "undecided": count("undecided"),
        "undecodable": count("undecodable"),
        "keep_originals_days": volume.keep_originals_days,
        "originals": kept.files,
        "original_bytes": kept.size_bytes,
        "originals_until_s": None if kept.first_until_ns is None else kept.first_until_ns // 10**9,
        "originals_last_until_s": None if kept.last_until_ns is None else kept.last_until_ns // 10**9,
    }
