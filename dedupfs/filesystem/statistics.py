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
    return {
        "policy": volume.config.policy.value,
        "format_version": FORMAT_VERSION,
        "files": count("files"),
        "directories": count("directories"),
        "logical_bytes": count("logical_bytes"),
        "stored_bytes": stored,
        "database_bytes": volume.store.engine.allocated_bytes(),
        "dedup_ratio": round(count("logical_bytes") / stored, 4) if stored else None,
        "chunks": count("chunks"),
        "pictures": count("pictures"),
        "clusters": count("clusters"),
        "representatives": count("clusters"),
        "renditions": count("renditions"),
        "bit_exact_renditions": count("bit_exact_renditions"),
        "exact_duplicates": count("exact_duplicates"),
        "undecided": count("undecided"),
        "undecodable": count("undecodable"),
    }
