"""Clusters: which pictures look the same, which of them is kept, and how they are found.

A cluster is never empty: its first picture makes it and its last one takes it along. Its fingerprint is that of its
representative and never changes; a promotion makes a new cluster and moves every picture there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

from dedupfs.errors import IntegrityError
from dedupfs.model import ClusterId, ContentId, Fingerprint
from dedupfs.storage import codec, records
from dedupfs.storage.records import Cluster, number_key
from dedupfs.storage.similarity import SimilarityIndex
from dedupfs.storage.store import Store, Transaction

log = logging.getLogger(__name__)

_CLUSTER_KEY_BYTES = 8


class Clusters:
    """The tables `clusters` and `members`, and the index entries of each cluster."""

    def __init__(self, store: Store, index: SimilarityIndex) -> None:
        self._store = store
        self.index = index

    def get(self, cluster: ClusterId) -> Cluster:
        """Return a cluster. Raises IntegrityError when it is missing."""
        found = self.find(cluster)
        if found is None:
            raise IntegrityError("a cluster is missing")
        return found

    def find(self, cluster: ClusterId) -> Cluster | None:
        """Return a cluster, or None when it is gone."""
        stored = self._store.get(records.CLUSTERS, number_key(cluster))
        return codec.decode_cluster(stored) if stored else None

    def members(self, cluster: ClusterId) -> list[ContentId]:
        """Return all pictures of a cluster, the representative too, in the order of their ids."""
        found = self._store.scan(records.MEMBERS, number_key(cluster), damaged=_pass_over)
        return [ContentId(key[_CLUSTER_KEY_BYTES:]) for key, _ in found]

    def all(self) -> Iterator[ClusterId]:
        """Yield every cluster, oldest first."""
        for key in self._store.keys(records.CLUSTERS):
            yield ClusterId(int.from_bytes(key, "big"))

    def represented_by(self, content_id: ContentId) -> ClusterId | None:
        """Return the cluster that a content represents. Looks at all of them: for pictures that were lost."""
        for cluster in self.all():
            try:
                if self.get(cluster).representative == content_id:
                    return cluster
            except IntegrityError:
                continue
        return None

    def create(
        self, transaction: Transaction, representative: ContentId, fingerprint: Fingerprint | None, facts: bytes
    ) -> ClusterId:
        """Make a cluster for a picture; the caller adds the picture, and any others, as members."""
        cluster = ClusterId(transaction.next_number("next_cluster"))
        if self._store.get(records.CLUSTERS, number_key(cluster)) is not None:
            raise IntegrityError("a number would be given out a second time; run `dedupfs check --repair`")
        record = Cluster(representative, fingerprint, facts)
        transaction.put(records.CLUSTERS, number_key(cluster), codec.encode_cluster(record))
        transaction.count("clusters", 1)
        if fingerprint is not None:
            self.index.add(transaction, cluster, fingerprint)
        return cluster

    def add(self, transaction: Transaction, cluster: ClusterId, content_id: ContentId) -> None:
        """Note a picture of the cluster."""
        transaction.put(records.MEMBERS, number_key(cluster) + content_id, codec.encode_mark())

    def remove(self, transaction: Transaction, cluster: ClusterId, content_id: ContentId) -> None:
        """Forget a picture of the cluster, and the cluster with its last one.

        When the representative itself goes, no rendition rests on it any more; what may remain is the same coded image
        under other metadata, and the first of these takes its place.
        """
        transaction.delete(records.MEMBERS, number_key(cluster) + content_id)
        try:
            record = self.get(cluster)
        except IntegrityError as exc:
            # The picture can go all the same.
            log.warning("cluster %d cannot be kept in order until `dedupfs check --repair`: %s", cluster, exc)
            return
        if record.representative != content_id:
            return
        rest = self._store.scan(records.MEMBERS, number_key(cluster), damaged=_pass_over)
        if rest:
            heir = ContentId(rest[0][0][_CLUSTER_KEY_BYTES:])
            record = replace(record, representative=heir)
            transaction.put(records.CLUSTERS, number_key(cluster), codec.encode_cluster(record))
            return
        transaction.delete(records.CLUSTERS, number_key(cluster))
        transaction.count("clusters", -1)
        if record.fingerprint is not None:
            self.index.remove(transaction, cluster, record.fingerprint)


def _pass_over(key: bytes, exc: IntegrityError) -> None:
    """A damaged mark of a member: `check` reports it, and its picture is read by its own record."""
    log.debug("a mark of cluster %d is damaged: %s", int.from_bytes(key[:_CLUSTER_KEY_BYTES], "big"), exc)
