"""A volume: one directory with its header and its database, opened by one writer at most.

Wires the tables together and guards the directory with an advisory lock on the directory itself, so that no lock file
can be left behind. Readers need no lock: they see the state of the last commit.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from dedupfs.crypto import keys
from dedupfs.crypto.keys import Keyring, ScryptCost
from dedupfs.errors import (
    IntegrityError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    StoreNotFoundError,
    UsageError,
)
from dedupfs.model import Policy
from dedupfs.storage import codec, compact, header_copies, lmdb_salvage, records
from dedupfs.storage import header as headers
from dedupfs.storage.chunks import Chunks
from dedupfs.storage.clusters import Clusters
from dedupfs.storage.compact import Compacted, Disk
from dedupfs.storage.contents import Contents
from dedupfs.storage.kept import KeptOriginals
from dedupfs.storage.lmdb_engine import DATA_FILE, INITIAL_MAP_BYTES, LmdbEngine
from dedupfs.storage.lmdb_salvage import Salvage
from dedupfs.storage.metadata import Metadata
from dedupfs.storage.pairs import Pairs
from dedupfs.storage.record_judge import RecordJudge
from dedupfs.storage.records import Config
from dedupfs.storage.similarity import SimilarityIndex
from dedupfs.storage.sizes import USUAL, StoreSizes
from dedupfs.storage.store import GROUP_SECONDS, Store, Transaction

log = logging.getLogger(__name__)

_CONFIG_KEY = b"config"
FIRST_POLICY_KEY = b"first_policy"
KEEP_ORIGINALS_KEY = b"keep_originals"
MAX_KEEP_DAYS = 36_500


class Volume:
    """An open volume. Close it; everything not committed before is lost otherwise."""

    def __init__(
        self,
        directory: Path,
        store: Store,
        config: Config,
        lock_descriptor: int | None,
        sizes: StoreSizes = USUAL,
    ) -> None:
        self.directory = directory
        self.store = store
        self.config = config
        self.metadata = Metadata(store)
        self.chunks = Chunks(store)
        self.clusters = Clusters(store, SimilarityIndex(store))
        self.contents = Contents(store, self.chunks, self.clusters, sizes.plaintexts)
        self.kept = KeptOriginals(store, self.metadata, self.contents)
        self.pairs = Pairs(store)
        self._lock_descriptor = lock_descriptor

    @property
    def first_policy(self) -> Policy:
        """The policy of every file until there was another one, see `mix_policies`."""
        stored = self._first_policy()
        return self.config.policy if stored is None else stored

    @property
    def is_mixed(self) -> bool:
        """Whether files of this volume are under different policies, or once were."""
        return self._first_policy() is not None

    def mix_policies(self, transaction: Transaction) -> None:
        """Note that files are under different policies from now on."""
        if not self.is_mixed:
            transaction.put(records.VOLUME, FIRST_POLICY_KEY, codec.encode_policy(self.config.policy))

    @property
    def keep_originals_days(self) -> int:
        """For how many days the exact bytes of files that become renditions are kept; 0 for not at all."""
        try:
            stored = self.store.get(records.VOLUME, KEEP_ORIGINALS_KEY)
            return 0 if stored is None else codec.decode_number(stored)
        except IntegrityError as exc:
            log.error("how long originals are kept is not known any more; set it anew with `dedupfs config`: %s", exc)
            return 0

    def configure(
        self, *, policy: Policy | None = None, label: str | None = None, keep_originals_days: int | None = None
    ) -> None:
        """Change what was chosen when the volume was made, for what is written from now on; None leaves one alone.

        Raises:
            UsageError: the label is not text, or the number of days is out of range.
        """
        config = Config(self.config.policy if policy is None else policy, self.config.label if label is None else label)
        try:
            encoded = codec.encode_config(config)
        except UnicodeEncodeError as exc:
            raise UsageError("the label is not text") from exc
        if keep_originals_days is not None:
            _refuse_days(keep_originals_days)
        with self.store.transaction() as transaction:
            if config.policy is not self.config.policy:
                self.mix_policies(transaction)
            transaction.put(records.VOLUME, _CONFIG_KEY, encoded)
            if keep_originals_days is not None:
                transaction.put(records.VOLUME, KEEP_ORIGINALS_KEY, codec.encode_number(keep_originals_days))
        self.config = config
        self.store.commit()

    def _first_policy(self) -> Policy | None:
        try:
            stored = self.store.get(records.VOLUME, FIRST_POLICY_KEY)
            return None if stored is None else codec.decode_policy(stored)
        except IntegrityError:
            # It is known to have been there.
            return safest_first_policy(self.config.policy)

    def close(self) -> None:
        """Commit, and let others in. Raises what Store.commit raises."""
        try:
            self.store.close()
        finally:
            if self._lock_descriptor is not None:
                os.close(self._lock_descriptor)
                self._lock_descriptor = None


def create_volume(
    directory: Path,
    passphrase: bytes,
    config: Config,
    cost: ScryptCost | None = None,
    recovery_secret: bytes | None = None,
    keep_originals_days: int = 0,
) -> None:
    """Make a volume in a directory that is new or empty, with a slot for a recovery key if there is one.

    The header is written last: until then the directory is no volume, and a failure leaves nothing that looks like one.
    Raises:
        UsageError: the directory holds something, the passphrase cannot be one, or the days are out of range.
        StoreError: it cannot be made.
    """
    try:
        chosen = codec.encode_config(config)
    except UnicodeEncodeError as exc:
        raise UsageError("the label is not text") from exc
    headers.refuse_passphrase(passphrase)
    _refuse_days(keep_originals_days)
    try:
        made = not directory.exists()
        # Not its parents: where a disk is not there, nothing is to be made in its place.
        directory.mkdir(mode=0o700, exist_ok=True)
        if any(directory.iterdir()):
            raise UsageError(f"{directory} is not empty")
    except FileNotFoundError as exc:
        raise UsageError(f"there is no directory {directory.parent} to make a volume in") from exc
    except OSError as exc:
        raise StoreError(f"cannot make a volume in {directory}: {exc.strerror}") from exc
    try:
        volume_key = keys.new_volume_key()
        header = headers.new_header(volume_key, passphrase, cost or ScryptCost(), recovery_secret)
        engine = LmdbEngine(directory, [table.name for table in records.TABLES], create=True)
        store = Store(engine, Keyring(volume_key))
        try:
            with store.transaction() as transaction:
                transaction.put(records.VOLUME, _CONFIG_KEY, chosen)
                if keep_originals_days:
                    days = codec.encode_number(keep_originals_days)
                    transaction.put(records.VOLUME, KEEP_ORIGINALS_KEY, days)
            header_copies.write_record(engine, header)
        finally:
            store.close()
        headers.write_header(directory, header)
    except BaseException as exc:
        for path in directory.iterdir():
            path.unlink()
        if made:
            directory.rmdir()
        if isinstance(exc, OSError):
            raise StoreFullError(f"cannot make a volume in {directory}: {exc.strerror}") from exc
        raise


def unlock(directory: Path, passphrase: bytes) -> bytes:
    """Return the volume key. Raises StoreNotFoundError, FormatVersionError, IntegrityError or WrongKeyError."""
    if not directory.is_dir():
        raise StoreNotFoundError(f"{directory} is not a dedupfs volume: there is no such directory")
    return headers.read_header(directory).unlock(passphrase)


def open_volume(
    directory: Path,
    volume_key: bytes,
    *,
    read_only: bool = False,
    whatever_state: bool = False,
    group_seconds: float = GROUP_SECONDS,
    initial_map_bytes: int = INITIAL_MAP_BYTES,
    sizes: StoreSizes = USUAL,
) -> Volume:
    """Open a volume with its key. One whose database is damaged is opened for reading only, whatever was asked.

    Args:
        whatever_state: open it without a readable configuration too, as one that compares no pictures, and leave its
            header alone; for those who look at damage and repair it.
    Raises:
        StoreLockedError: somebody else writes to it; the text names the process.
        StoreError, IntegrityError: its database cannot be opened.
    """
    descriptor = None if read_only else lock_directory(directory)
    try:
        if not read_only:
            _remove_leftovers(directory)
        engine = _open_engine(directory, read_only=read_only, initial_map_bytes=initial_map_bytes)
        if engine.damaged and not read_only:
            log.error("the database of %s is damaged: what can be read is there, and nothing can be written", directory)
            read_only = True
        try:
            store = Store(
                engine,
                Keyring(volume_key),
                read_only=read_only,
                group_seconds=group_seconds,
                waiting_bytes=sizes.waiting,
                records_bytes=sizes.records,
            )
        except BaseException:
            engine.close()
            raise
        try:
            config = _read_config(store, whatever_state=whatever_state)
            volume = Volume(directory, store, config, descriptor, sizes)
            if not read_only and not whatever_state:
                header_copies.bring_up_to_date(directory, engine)
            return volume
        except BaseException:
            store.close()
            raise
    except BaseException:
        if descriptor is not None:
            os.close(descriptor)
        raise


def _open_engine(directory: Path, *, read_only: bool, initial_map_bytes: int) -> LmdbEngine:
    tables = [table.name for table in records.TABLES]
    try:
        return LmdbEngine(directory, tables, read_only=read_only, initial_map_bytes=initial_map_bytes)
    except IntegrityError as exc:
        if not (directory / DATA_FILE).is_file():
            raise
        raise IntegrityError(f"{exc}; `dedupfs check --repair` makes a new one of what is left") from exc


def _refuse_days(days: int) -> None:
    if not 0 <= days <= MAX_KEEP_DAYS:
        raise UsageError(f"originals are kept for 0 to {MAX_KEEP_DAYS} days")


def safest_first_policy(policy: Policy) -> Policy:
    """Return what to take for a volume's first policy when it is not known, from the one that it has now.

    Under the first policy contents are shared with files from before: none under `off` may be among these.
    """
    return Policy.PERCEPTUAL if policy is Policy.PERCEPTUAL else Policy.VERIFIED


def _read_config(store: Store, *, whatever_state: bool) -> Config:
    try:
        stored = store.get(records.VOLUME, _CONFIG_KEY)
        if stored is None:
            raise IntegrityError("the volume has lost its configuration")
        return codec.decode_config(stored)
    except IntegrityError as exc:
        if whatever_state:
            return Config(Policy.OFF, "")
        raise IntegrityError(f"{exc}; `dedupfs check --repair` makes a new one") from exc


def compact_volume(
    directory: Path,
    volume_key: bytes,
    examine: Callable[[Volume], None],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    disk: Disk | None = None,
) -> Compacted:
    """Give the free pages of the database back to the disk.

    Args:
        examine: gets the volume, open for reading, before anything is done; what it raises stops everything.
        progress: called with bytes done and their total.
        disk: what is done to the disk goes through it.
    Raises:
        StoreLockedError: somebody writes to the volume, or changes its keys.
        What `compact.compact` and `open_volume` raise.
    """
    descriptor = lock_directory(directory)
    try:
        volume = open_volume(directory, volume_key, read_only=True)
        try:
            examine(volume)
        finally:
            volume.close()
        with header_copies.lock_keys(directory):
            tables = [table.name for table in records.TABLES]
            return compact.compact(directory, tables, progress=progress, disk=disk or Disk())
    finally:
        os.close(descriptor)


def rebuild_database(directory: Path, volume_key: bytes) -> Salvage | None:
    """Put what is left of a database that is damaged below its records into a new one; None where it is sound.

    The key tells which table a record belongs to, where nothing else does.
    The damaged one stays beside it as `lmdb_salvage.DAMAGED_FILE`. The records that are missing then are for a repair.
    Raises:
        StoreLockedError: somebody writes to the volume, or changes its keys.
        IntegrityError, StoreFullError, StoreError: as `lmdb_salvage.rebuild`; nothing has changed.
    """
    descriptor = lock_directory(directory)
    try:
        tables = [table.name for table in records.TABLES]
        if not _is_damaged(directory, tables):
            return None
        with header_copies.lock_keys(directory):
            return lmdb_salvage.rebuild(directory, tables, RecordJudge(Keyring(volume_key)))
    finally:
        os.close(descriptor)


def _is_damaged(directory: Path, tables: Sequence[str]) -> bool:
    try:
        engine = LmdbEngine(directory, tables, read_only=True)
    except IntegrityError:
        return True
    try:
        return bool(engine.find_damage())
    finally:
        engine.close()


def _remove_leftovers(directory: Path) -> None:
    try:
        compact.remove_leftovers(directory, Disk())
    except OSError as exc:
        log.warning("what a compaction has left in %s cannot be removed: %s", directory, exc.strerror)


def lock_directory(directory: Path, *, shared: bool = False) -> int:
    """Take the writer's lock and return the descriptor that holds it; a shared one keeps nobody out but writers.

    Raises StoreLockedError, StoreError.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise StoreError(f"cannot open {directory}: {exc.strerror}") from exc
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        holder = _holder(descriptor)
        os.close(descriptor)
        raise StoreLockedError(f"{directory} is in use by {holder}") from exc
    except OSError as exc:
        os.close(descriptor)
        raise StoreError(f"cannot lock {directory}: {exc.strerror}") from exc
    return descriptor


def keep_writers_out(directory: Path) -> int | None:
    """Return a descriptor that keeps writers out, and no readers; None on a medium without locks.

    Raises StoreLockedError.
    """
    try:
        return lock_directory(directory, shared=True)
    except StoreLockedError:
        raise
    except StoreError as exc:
        log.warning("nothing keeps others from writing to the volume meanwhile: %s", exc)
        return None


def _holder(descriptor: int) -> str:
    """Name the process that holds the lock, as far as the kernel tells (see proc_locks(5))."""
    info = os.fstat(descriptor)
    wanted = f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}:{info.st_ino}"
    try:
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if "FLOCK" in fields and wanted in fields:
                pid = fields[fields.index(wanted) - 1]
                return f"process {pid} ({Path(f'/proc/{pid}/comm').read_text().strip()})"
    except OSError:
        log.debug("the holder of the lock cannot be named", exc_info=True)
    return "another process"
