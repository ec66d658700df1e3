"""Match: which clusters a picture could belong to, nearest first. A candidate is close in the index and no more."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from dedupfs.errors import IntegrityError
from dedupfs.ingest.facts import PictureFacts
from dedupfs.model import ClusterId, ContentId, Fingerprint
from dedupfs.storage.clusters import Clusters
from dedupfs.storage.similarity import COMPLETE_RADIUS_BITS

log = logging.getLogger(__name__)

MAX_COMPARED = 4
"""Clusters whose whole pictures are compared with a newcomer, nearest first. On the development photos no wanted copy
had more than one stranger nearer than its original; receipts of one shop crowd within a few bits."""

MAX_CANDIDATES = 6
"""Clusters that are asked at all: what is turned down at a glance costs a fraction of a comparison, and edits of one
picture, which are near each other, may stand before the original of a copy."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A cluster whose fingerprint is near."""

    cluster: ClusterId
    representative: ContentId
    facts: PictureFacts
    distance_bits: int


def candidates(clusters: Clusters, fingerprint: Fingerprint) -> list[Candidate]:
    """Return the nearest clusters within COMPLETE_RADIUS_BITS, nearest first, at most MAX_CANDIDATES."""
    found: list[Candidate] = []
    for cluster, distance_bits in clusters.index.lookup(fingerprint, COMPLETE_RADIUS_BITS):
        try:
            record = clusters.find(cluster)
            if record is None:
                continue
            facts = PictureFacts.from_bytes(record.facts)
        except IntegrityError:
            log.warning("cluster %d is damaged and is passed over", cluster)
            continue
        found.append(Candidate(cluster, record.representative, facts, distance_bits))
        if len(found) == MAX_CANDIDATES:
            break
    return found
