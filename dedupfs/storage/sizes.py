"""How much of a volume its process holds in memory; whoever opens it may choose."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoreSizes:
    """Bytes.

    Attributes:
        waiting: changes that are not on the disk yet: what is being written, of which LMDB holds the pages as well, and
            what gathers meanwhile. Who writes bulk data waits beyond that.
        records: records that were read or written last.
        plaintexts: chunks that were read last.
    """

    waiting: int = 64 << 20
    records: int = 20 << 20
    plaintexts: int = 32 << 20


USUAL = StoreSizes()
"""For those who do not divide the memory of a mount."""
