"""The policy `perceptual`, the scheme of the paper, at several thresholds, held against the same labels.

Takes the decisions of a volume without a volume: see `dedupfs.ingest.scan`. Pictures that several thresholds compare
are compared once.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evaluate_collection import Collection
from evaluate_mount import Progress
from evaluate_result import Clusters, Verdict, judge

from dedupfs.errors import IngestError
from dedupfs.ingest.scan import Scan
from dedupfs.ingest.workers import WorkerPool
from dedupfs.model import Policy


@dataclass
class Threshold(Verdict):
    """What was found at one threshold."""

    bits: int = 0
    stored_bytes: int = 0


def perceptual(
    collection: Collection, order: str, thresholds_bits: Sequence[int], progress: Progress
) -> list[Threshold]:
    """Return what the policy makes of the collection at each threshold."""
    pool = _RememberingPool(os.cpu_count() or 1)
    found = []
    try:
        for bits in thresholds_bits:
            scan = Scan(pool, Policy.PERCEPTUAL, bits)
            scan.run([os.fsencode(collection.folder / name) for name in collection.in_order(order)], progress)
            threshold = Threshold(bits=bits, stored_bytes=scan.totals().stored_bytes)
            judge(collection, _clusters(collection, scan), threshold)
            found.append(threshold)
    finally:
        pool.close()
    return found


def _clusters(collection: Collection, scan: Scan) -> Clusters:
    members: dict[str, list[str]] = {}
    for group in scan.groups():
        paths = [path for path in (group.kept.path, *(version.path for version in group.versions)) if path is not None]
        names = [os.path.relpath(os.fsdecode(path), collection.folder) for path in paths]
        members[names[0]] = names
    return Clusters(members, set())


class _RememberingPool(WorkerPool):
    """Answers again what it was asked before, failures too. Safe from any thread; two may ask for the same at once."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self._answers: dict[tuple[object, ...], Any] = {}
        self._guard = threading.Lock()

    def call(self, job: str, *arguments: object) -> Any:
        key = (job, *(hashlib.sha256(each).digest() if isinstance(each, bytes) else each for each in arguments))
        with self._guard:
            answer = self._answers.get(key)
        if answer is None:
            try:
                answer = super().call(job, *arguments)
            except IngestError as exc:
                answer = exc
            with self._guard:
                self._answers[key] = answer
        if isinstance(answer, IngestError):
            raise answer
        return answer
