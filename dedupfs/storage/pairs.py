"""Pairs: pictures that somebody has split, never to be kept as versions of one another again.

A pair is a keyed token of two contents and nothing else, so that it outlives both: their bytes may come again. Pairs
are records of the table `volume`; in a volume without any a question costs one look-up.
"""

from __future__ import annotations

from collections.abc import Iterable

from dedupfs.errors import IntegrityError
from dedupfs.model import ContentId
from dedupfs.storage import codec, records
from dedupfs.storage.records import PAIR_PREFIX, PAIRS_KEY
from dedupfs.storage.store import Store, Transaction


class Pairs:
    """The pairs of one volume. Any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def part(self, transaction: Transaction, one: ContentId, other: ContentId) -> None:
        """Note that two contents are to be kept apart for good."""
        key = self._key(one, other)
        if self._store.get(records.VOLUME, key) is None:
            transaction.put(records.VOLUME, key, codec.encode_mark())
            transaction.put(records.VOLUME, PAIRS_KEY, codec.encode_number(self._count() + 1))

    def are_parted(self, content: ContentId, others: Iterable[ContentId]) -> bool:
        """Whether a content is to be kept apart from one of the others."""
        return self._count() > 0 and any(self._is_pair(content, other) for other in others)

    def _is_pair(self, one: ContentId, other: ContentId) -> bool:
        try:
            return self._store.get(records.VOLUME, self._key(one, other)) is not None
        except IntegrityError:
            # That there is a record is all that it says.
            return True

    def _count(self) -> int:
        try:
            stored = self._store.get(records.VOLUME, PAIRS_KEY)
            return 0 if stored is None else codec.decode_number(stored)
        except IntegrityError:
            return 1

    def _key(self, one: ContentId, other: ContentId) -> bytes:
        return PAIR_PREFIX + self._store.keyring.name_token(PAIR_PREFIX, min(one, other) + max(one, other))
