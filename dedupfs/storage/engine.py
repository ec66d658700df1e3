"""The ordered key-value interface that everything above speaks to.

An engine holds named tables of byte keys and byte values, gives consistent read-only snapshots, and applies a batch of
changes atomically and durably. It knows nothing of encryption, records or grouping: `store` does that above any engine.
Every method may be called from any thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

Change = tuple[str, bytes, bytes | bytearray | None]
"""Table, key, and the new value or None to delete; deleting what is not there is no error."""


class Snapshot(Protocol):
    """The tables as they were at one moment.

    A value that the medium does not give back is empty, for whoever opens it to find damaged; where it cannot even be
    told which keys there are, IntegrityError is raised.
    """

    def get(self, table: str, key: bytes) -> bytes | None:
        """Return the value, or None."""

    def scan(self, table: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield keys that start with the prefix and their values, in the order of the keys."""


class Engine(Protocol):
    """Tables on some medium."""

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """Open a snapshot for a short `with` block. Raises StoreError."""

    def apply(self, changes: Iterable[Change]) -> None:
        """Apply all changes or none, and return when they are durable.

        Raises:
            StoreFullError: the medium is full; nothing was applied and the engine stays usable.
            StoreError: it failed otherwise; nothing was applied.
        """

    def set_aside(self, size_bytes: int) -> None:
        """Have the medium keep room for so many bytes that are yet to be applied, all that wait together.

        Raises StoreFullError where it has none.
        """

    def allocated_bytes(self) -> int:
        """Return the bytes that the tables occupy on their medium."""

    def free_bytes(self) -> int:
        """Return the bytes that the medium could still take."""

    def total_bytes(self) -> int:
        """Return the size of the medium."""

    def close(self) -> None:
        """Release everything; no other method may be called afterwards."""
