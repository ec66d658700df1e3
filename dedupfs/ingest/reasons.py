"""Reasons: why a picture rests on no other one, found out by asking again.

Nothing is recorded when a picture is kept apart. What is told is what a decision would find now, with the pictures that
are there now: the nearest other cluster, as far as the index is complete, and what a comparison with it says both ways.
Reads only.
"""

from __future__ import annotations

from dataclasses import dataclass

from dedupfs.errors import (
    IngestError,
    IntegrityError,
    MemoryShortError,
    UndecodableError,
    UnfitPictureError,
    WorkerStartError,
)
from dedupfs.ingest.decision import is_made_from
from dedupfs.ingest.facts import PictureFacts, better
from dedupfs.ingest.outcome import REASON_MEMORY, Fit, Misfit
from dedupfs.ingest.pipeline import HEAD_BYTES, MAX_PICTURE_BYTES
from dedupfs.ingest.sniff import sniff
from dedupfs.ingest.workers import WorkerPool
from dedupfs.model import ClusterId, ContentId, Policy
from dedupfs.storage.records import ContentState, Exact
from dedupfs.storage.similarity import COMPLETE_RADIUS_BITS, WIDE_RADIUS_BITS
from dedupfs.storage.volume import Volume


@dataclass(frozen=True, slots=True)
class Nearest:
    """The other picture whose fingerprint is closest."""

    cluster: ClusterId
    representative: ContentId
    distance_bits: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """A rendition that was not found: of the picture in question from the nearest one, or the other way round."""

    draws_newcomer: bool
    misfit: Misfit


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a picture is kept apart.

    `text` continues a sentence that begins with the file. `nearest` is the picture that it was compared with, or would
    have been if it were closer.
    """

    text: str
    nearest: Nearest | None = None
    attempts: tuple[Attempt, ...] = ()


def why_apart(volume: Volume, pool: WorkerPool, content_id: ContentId, content: Exact, policy: Policy) -> Reason:
    """Return why an exact content is not kept as a version of another one.

    Args:
        policy: the one for its file.
    Raises:
        IntegrityError: its bytes are damaged.
        WorkerStartError: no worker can be started.
    """
    size = content.layout.size
    head = volume.contents.read(content.layout, 0, HEAD_BYTES)
    picture_format = sniff(head)
    if picture_format is None:
        return Reason("is no picture")
    if content.state is ContentState.UNDECIDED:
        return Reason("is still to be decided about")
    if content.cluster is None and policy is Policy.OFF:
        return Reason("is under the policy off, by which nothing but exact copies share their bytes")
    if size > MAX_PICTURE_BYTES:
        return Reason(f"is larger than the {MAX_PICTURE_BYTES >> 20} MiB up to which pictures are compared")
    data = volume.contents.read_all(content.layout)
    try:
        facts: PictureFacts = pool.call("inspect", data)
    except MemoryShortError as exc:
        return Reason(f"is too large to be looked at: {exc}")
    except UnfitPictureError as exc:
        return Reason(f"is of a sort that is not compared: {exc}")
    except UndecodableError as exc:
        return Reason(f"does not decode as {picture_format.value.upper()}: {exc}")
    except WorkerStartError:
        raise
    except IngestError as exc:
        return Reason(f"was too much for a worker: {exc}")
    if facts.fingerprint is None:
        return Reason("is too small or too uniform to have a fingerprint by which another version would be found")
    nearest = _nearest(volume, facts, content.cluster)
    if nearest is None:
        return Reason(f"no other picture is within {WIDE_RADIUS_BITS} of 256 bits of its fingerprint")
    if nearest.distance_bits > COMPLETE_RADIUS_BITS:
        return Reason(
            f"the nearest picture is too far away to be compared: the limit is {COMPLETE_RADIUS_BITS}", nearest
        )
    if volume.pairs.are_parted(content_id, volume.clusters.members(nearest.cluster)):
        return Reason("was split from the nearest picture, and is kept apart from it for good", nearest)
    if content.cluster is None:
        return Reason("is kept as it was written: it was restored, or stored under the policy off", nearest)
    return _compared(volume, pool, data, facts, nearest, Policy.VERIFIED if policy is Policy.OFF else policy)


def _nearest(volume: Volume, facts: PictureFacts, own: ClusterId | None) -> Nearest | None:
    assert facts.fingerprint is not None
    for cluster, distance_bits in volume.clusters.index.lookup(facts.fingerprint, WIDE_RADIUS_BITS):
        if cluster == own:
            continue
        try:
            record = volume.clusters.find(cluster)
        except IntegrityError:
            continue
        if record is not None:
            return Nearest(cluster, record.representative, distance_bits)
    return None


def _compared(
    volume: Volume, pool: WorkerPool, data: bytes, facts: PictureFacts, nearest: Nearest, policy: Policy
) -> Reason:
    try:
        other = volume.contents.get(nearest.representative)
        if not isinstance(other, Exact):
            raise IntegrityError("a representative is not stored exactly")
        theirs = volume.contents.read_all(other.layout)
        record = volume.clusters.get(nearest.cluster)
        their_facts = PictureFacts.from_bytes(record.facts)
        promote_first = better(facts, their_facts)
    except IntegrityError as exc:
        return Reason(f"the nearest picture cannot be read: {exc}", nearest)
    attempts: list[Attempt] = []
    for draws_newcomer in (not promote_first, promote_first):
        member, base = (data, theirs) if draws_newcomer else (theirs, data)
        try:
            outcome: Fit | Misfit = pool.call("fit", member, base, policy, False)
        except WorkerStartError:
            raise
        except MemoryShortError as exc:
            outcome = Misfit(REASON_MEMORY, None, note=str(exc))
        except IngestError as exc:
            return Reason(f"the comparison with the nearest picture failed: {exc}", nearest)
        if isinstance(outcome, Fit):
            if draws_newcomer and is_made_from(pool, theirs, their_facts, data, facts):
                return Reason("was what the nearest picture was made from, and is not drawn from that", nearest)
            if not draws_newcomer and is_made_from(pool, data, facts, theirs, their_facts):
                return Reason("was made from the nearest picture, but cannot be drawn from it", nearest)
            # The other pictures of a cluster may have stood against it, or a picture that has gone since.
            return Reason("now fits the nearest picture; copied in again it might be kept as a version of it", nearest)
        attempts.append(Attempt(draws_newcomer, outcome))
    return Reason("was compared with the nearest picture and is no version of it", nearest, tuple(attempts))
