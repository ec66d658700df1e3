"""Repair: bring a volume back into order without its lost bytes; keep everything that can still be read.

`plan` works out the whole of it from what was read and writes nothing. Sources are mended first (`repair_contents`,
`repair_tree`); everything that follows from them is made anew, and what differs from the disk is written. The plan is
a function of the state of the volume alone, so a repair that was cut off is finished by another one. Batches are
bounded; what is added comes first and what is removed last, so that nothing is out of reach in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from dedupfs.errors import IntegrityError, StoreError
from dedupfs.model import Policy
from dedupfs.storage import codec, header_copies, records
from dedupfs.storage.derived import Derived, derive
from dedupfs.storage.header import HEADER_FILE
from dedupfs.storage.mending import Mending, Plan, Write
from dedupfs.storage.metadata import NUMBER_GAP
from dedupfs.storage.readout import Readout, counts_pairs, has_first_policy, number, pair_keys
from dedupfs.storage.records import Config, ContentState, Exact, Table, number_key
from dedupfs.storage.repair_contents import mend_contents
from dedupfs.storage.repair_tree import mend_tree
from dedupfs.storage.volume import FIRST_POLICY_KEY, KEEP_ORIGINALS_KEY, Volume, safest_first_policy

_K = TypeVar("_K")
_V = TypeVar("_V")

BATCH_RECORDS = 20_000
BATCH_BYTES = 16 << 20


def plan(volume: Volume, readout: Readout) -> Plan:
    """Work out what brings the volume into order; changes nothing.

    Raises:
        IntegrityError: the database itself is out of order, so that a record may stand where nobody finds it. What can
            be read should be copied out of a mount.
    """
    if readout.disordered:
        tables = ", ".join(sorted(readout.disordered))
        raise IntegrityError(f"the database is damaged below its records ({tables}); copy out what can still be read")
    config = _config(readout)
    mending = _begin(readout, volume, config)
    if not readout.is_new:
        mend_contents(mending)
        mend_tree(mending)
    derived = derive(mending.new, volume.store.keyring)
    _plan_volume_records(mending, derived, config)
    _plan_sources(mending, volume)
    _plan_derived(mending, derived)
    _plan_header(mending, volume)
    # Numbers are taken before they are used, and what is removed goes last.
    mending.plan.writes.sort(key=lambda write: (write[2] is None, write[0] is not records.VOLUME))
    return mending.plan


def apply(volume: Volume, planned: Plan, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Carry out a plan that was made from the volume as it is. Raises StoreFullError, StoreError: begin again then."""
    done = 0
    for batch in _batches(planned.writes):
        with volume.store.transaction() as transaction:
            for table, key, value in batch:
                if value is None:
                    transaction.delete(table, key)
                else:
                    transaction.put(table, key, value)
        volume.store.commit()
        done += len(batch)
        progress(done, len(planned.writes))
    if planned.renews_header:
        header_copies.bring_up_to_date(volume.directory, volume.store.engine)
    volume.store.reread_counters()


def _batches(writes: Iterable[Write]) -> Iterator[list[Write]]:
    batch: list[Write] = []
    size = 0
    for write in writes:
        batch.append(write)
        size += len(write[1]) + len(write[2] or b"")
        if len(batch) >= BATCH_RECORDS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


# The records of the volume


def _begin(readout: Readout, volume: Volume, config: Config) -> Mending:
    sources = readout.sources
    inodes = {int(inode) for inode in sources.inodes} | {number(key) for key in sources.entries | sources.xattrs}
    inodes |= {int(entry.inode) for entry in sources.entries.values()} | set(sources.orphans) | set(sources.unfinished)
    clusters = {int(cluster) for cluster in sources.clusters} | {int(cluster) for cluster, _ in readout.members}
    clusters |= {int(content.cluster) for content in sources.contents.values() if content.cluster is not None}
    clusters |= {number(key[8:]) for key in readout.bands}
    for record in readout.damaged:
        if record.table in (records.INODES, records.ENTRIES, records.XATTRS) and len(record.key) >= 8:
            inodes.add(number(record.key))
        elif record.table in (records.CLUSTERS, records.MEMBERS) and len(record.key) >= 8:
            clusters.add(number(record.key))
    return Mending(
        readout,
        volume.store.keyring,
        config.policy,
        _next(readout, b"next_inode", inodes),
        _next(readout, b"next_cluster", clusters),
    )


def _next(readout: Readout, name: bytes, used: set[int]) -> int:
    """Return the next free number: the one on the disk, or one far behind everything if that cannot be right."""
    # A number that only looks like one, such as the first bytes of a key that was damaged, must not eat them all up.
    highest = max((each for each in used if each < 1 << 56), default=0)
    try:
        noted = codec.decode_number(readout.volume[name])
        if noted > highest:
            return noted
    except (KeyError, IntegrityError):
        if readout.is_new and not any(record.key == name for record in readout.damaged):
            return 1
    return highest + NUMBER_GAP


def _config(readout: Readout) -> Config:
    """Return the configuration, or the safest one that what is stored allows."""
    try:
        return codec.decode_config(readout.volume[b"config"])
    except (KeyError, IntegrityError):
        # Where pictures were compared before, `verified` keeps what was promised; and what was lost is recognised when
        # it comes again, which `off` would cut into other chunks.
        compared = any(
            not isinstance(content, Exact) or content.state is not ContentState.PLAIN
            for content in readout.sources.contents.values()
        )
        return Config(Policy.VERIFIED if compared else Policy.OFF, "")


def _plan_volume_records(mending: Mending, derived: Derived, config: Config) -> None:
    found = mending.old.volume
    encoded = codec.encode_config(config)
    if found.get(b"config") != encoded:
        mending.plan.writes.append((records.VOLUME, b"config", encoded))
        mending.gone(
            f"the policy and the label of the volume are gone; the policy is {config.policy.value} from now on"
        )
    for name, value in ((b"next_inode", mending.next_inode), (b"next_cluster", mending.next_cluster)):
        number_record = codec.encode_number(value)
        if found.get(name) != number_record and (value > 1 or name in found):
            mending.plan.writes.append((records.VOLUME, name, number_record))
            mending.mended(f"the numbers from {value} on are free")
    if not has_first_policy(mending.old):
        first = codec.encode_policy(safest_first_policy(config.policy))
        mending.plan.writes.append((records.VOLUME, FIRST_POLICY_KEY, first))
        mending.mended("the policies of directories count again")
    _plan_pairs(mending)
    totals = {name: value for name, value in derived.counters.items() if value}
    try:
        noted = codec.decode_counters(found[b"counters"]) if b"counters" in found else {}
    except IntegrityError:
        noted = {"": 0}
    if any(noted.get(name, 0) != totals.get(name, 0) for name in noted.keys() | totals.keys()) or "" in noted:
        mending.plan.writes.append((records.VOLUME, b"counters", codec.encode_counters(totals)))
        mending.mended("the totals of the volume are counted anew")
    for record in mending.old.damaged:
        if record.table is records.VOLUME and record.key not in {write[1] for write in mending.plan.writes}:
            mending.plan.writes.append((records.VOLUME, record.key, None))
            if record.key == KEEP_ORIGINALS_KEY:
                mending.gone("nothing tells how long originals are to be kept; those of new renditions are not")


def _plan_pairs(mending: Mending) -> None:
    keys = pair_keys(mending.old)
    lost = [key for key in keys if key not in mending.old.volume]
    mending.plan.writes += [(records.VOLUME, key, codec.encode_mark()) for key in lost]
    if lost or not counts_pairs(mending.old):
        mending.plan.writes.append((records.VOLUME, records.PAIRS_KEY, codec.encode_number(len(keys))))
        mending.mended("pictures that were split are kept apart again")


def _plan_header(mending: Mending, volume: Volume) -> None:
    try:
        copies = header_copies.examine(volume.directory, volume.store.engine)
    except StoreError:
        # The check says so.
        return
    if copies.trouble() is None and not copies.agree():
        mending.plan.renews_header = True
        mending.mended(f"the copies of {HEADER_FILE} are renewed")


# What differs from the disk


def _plan_sources(mending: Mending, volume: Volume) -> None:
    old, new = mending.old.sources, mending.new
    writes = mending.plan.writes
    _differences(mending, records.INODES, old.inodes, new.inodes, number_key, codec.encode_inode)
    _differences(mending, records.ENTRIES, old.entries, new.entries, bytes, codec.encode_entry)
    _differences(mending, records.UNFINISHED, old.unfinished, new.unfinished, number_key, codec.encode_unfinished)
    _differences(mending, records.CONTENTS, old.contents, new.contents, bytes, codec.encode_content)
    _differences(mending, records.CLUSTERS, old.clusters, new.clusters, number_key, codec.encode_cluster)
    _marks(mending, records.ORPHANS, set(map(number_key, old.orphans)), set(map(number_key, new.orphans)))
    for key, source in mending.moved_xattrs.items():
        value = volume.store.get(records.XATTRS, source)
        assert value is not None
        writes.append((records.XATTRS, key, value))
    writes += [(records.XATTRS, key, None) for key in old.xattrs.keys() - new.xattrs.keys()]
    _drop_damaged(mending, records.XATTRS, set(new.xattrs))


def _plan_derived(mending: Mending, derived: Derived) -> None:
    old = mending.old
    _differences(
        mending, records.CONTENT_REFS, old.content_refs, derived.content_refs, bytes, codec.encode_content_refs
    )
    _differences(mending, records.CHUNK_REFS, old.chunk_refs, derived.chunk_refs, bytes, codec.encode_chunk_refs)
    _marks(
        mending,
        records.MEMBERS,
        {number_key(cluster) + content for cluster, content in old.members},
        {number_key(cluster) + content for cluster, content in derived.members},
    )
    _marks(mending, records.UNDECIDED, set(old.undecided), set(derived.undecided))
    stored, wanted = old.bands, derived.bands
    changed = [(records.BANDS, key, value) for key, value in wanted.items() if stored.get(key) != value]
    stale = [(records.BANDS, key, None) for key in stored.keys() - wanted.keys()]
    unused = [(records.CHUNKS, chunk, None) for chunk in old.chunk_bytes.keys() - derived.chunk_refs.keys()]
    mending.plan.writes += [*changed, *stale, *unused]
    if changed or stale:
        mending.mended(f"{len(changed) + len(stale)} entries of the similarity index are made anew")
    if unused:
        freed = sum(old.chunk_bytes[chunk] for _, chunk, _ in unused)
        mending.mended(f"{len(unused)} chunks that nothing names are removed, {freed} bytes")


def _differences(
    mending: Mending,
    table: Table,
    old: Mapping[_K, _V],
    new: Mapping[_K, _V],
    key_of: Callable[[_K], bytes],
    encode: Callable[[_V], bytes],
) -> None:
    changed: list[Write] = [(table, key_of(key), encode(value)) for key, value in new.items() if old.get(key) != value]
    stale: list[Write] = [(table, key_of(key), None) for key in old.keys() - new.keys()]
    _add(mending, table, changed + stale, set(map(key_of, new)))


def _marks(mending: Mending, table: Table, old: set[bytes], new: set[bytes]) -> None:
    changed: list[Write] = [(table, key, codec.encode_mark()) for key in new - old]
    stale: list[Write] = [(table, key, None) for key in old - new]
    _add(mending, table, changed + stale, new)


def _add(mending: Mending, table: Table, writes: list[Write], kept: set[bytes]) -> None:
    dropped = _drop_damaged(mending, table, kept)
    mending.plan.writes += writes
    if dropped:
        mending.mended(f"{dropped} damaged records of {table.name} are removed")
    if writes and table not in (records.INODES, records.ENTRIES):
        # What is done to those is said path by path.
        mending.mended(f"{len(writes)} records of {table.name} are put in order")


def _drop_damaged(mending: Mending, table: Table, kept: set[bytes]) -> int:
    """Remove records that do not open, unless they are written anew; return how many."""
    gone = [record.key for record in mending.old.damaged if record.table == table and record.key not in kept]
    mending.plan.writes += [(table, key, None) for key in gone]
    return len(gone)
