"""The three places of the header, kept alike: `volume.json`, `volume.json.bak`, and a record of the database.

The record is there so that a volume of which nothing but its database is left still opens with a recovery key, or with
any passphrase. The file is the one that counts. A change is written to the file first, then to the other two; a crash
in between leaves them behind, and the next change, or the next mount for writing, brings them up to date. A copy with a
later revision than the file is never overwritten by that: then the file is the one that is out of date.

Whoever changes a header, and whoever puts another file in the place of `data.mdb`, holds `lock_keys`: it is apart from
the writer's lock, because keys can be changed beside a live mount. The database's own lock orders their transactions.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dedupfs.errors import (
    DedupfsError,
    IntegrityError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    StoreNotFoundError,
)
from dedupfs.storage import header as headers
from dedupfs.storage import records
from dedupfs.storage.engine import Engine
from dedupfs.storage.header import BACKUP_FILE, HEADER_FILE, Header
from dedupfs.storage.lmdb_engine import DATA_FILE

log = logging.getLogger(__name__)

RECORD_NAME = f"the copy of {HEADER_FILE} in the database"
_RECORD_KEY = HEADER_FILE.encode()
_PATIENCE_SECONDS = 60
"""Trying keys takes some seconds at most; whoever holds the lock for longer has been stopped."""


@dataclass(frozen=True, slots=True)
class Copies:
    """What is found in the three places; None where it is missing or damaged."""

    file: Header | None
    backup: Header | None
    record: Header | None

    def all(self) -> list[Header]:
        """Return the different ones, the latest first, and of two of one revision the file first."""
        found = dict.fromkeys(header for header in (self.file, self.backup, self.record) if header is not None)
        return sorted(found, key=lambda header: -header.revision)

    def agree(self) -> bool:
        """Whether all are there and alike."""
        return self.file is not None and self.file == self.backup == self.record

    def used(self) -> Header | None:
        """Return the one that opens the volume, and that the others are to be like."""
        return self.file or self.backup

    def trouble(self) -> str | None:
        """Return why nobody but `dedupfs header restore` may make them alike; None where nothing stands against it."""
        used = self.used()
        if used is None:
            return f"the volume has no sound {HEADER_FILE}; dedupfs header restore can bring it back"
        latest = self.all()[0]
        if latest.volume_id != used.volume_id or latest.revision > used.revision:
            return f"a copy of {HEADER_FILE} is later than the file; see dedupfs header restore"
        return None

    def differing(self) -> list[str]:
        """Return what is wrong with each copy that is not like the one in use."""
        places = {HEADER_FILE: self.file, BACKUP_FILE: self.backup, RECORD_NAME: self.record}
        return [
            f"{name} is missing or damaged" if header is None else f"{name} is not the header in use"
            for name, header in places.items()
            if header is None or header != self.used()
        ]


@contextmanager
def lock_keys(directory: Path, *, patience_seconds: float = _PATIENCE_SECONDS) -> Iterator[None]:
    """Keep others from changing the header for the length of a block. It is no lock against a mount.

    Raises:
        StoreNotFoundError: there is no volume.
        StoreLockedError: somebody else holds it and does not let go.
    """
    descriptor = _locked(directory, time.monotonic() + patience_seconds)
    try:
        yield
    finally:
        os.close(descriptor)


def read_copies(directory: Path, engine: Engine) -> Copies:
    """Read the three places.

    Raises:
        FormatVersionError: one is of a format that this version does not know, and not to be written over.
    """
    return Copies(
        _sound(directory / HEADER_FILE),
        _sound(directory / BACKUP_FILE),
        _sound_record(engine),
    )


def examine(directory: Path, engine: Engine) -> Copies:
    """Read the three places while nobody is changing them. Raises what `lock_keys` and `read_copies` raise."""
    with lock_keys(directory):
        return read_copies(directory, engine)


def write_everywhere(directory: Path, engine: Engine, header: Header) -> None:
    """Write a header to all three places, the file first.

    Raises:
        StoreError: the text says whether it counts already.
    """
    try:
        headers.write_header(directory, header)
        write_record(engine, header)
    except (OSError, StoreError) as exc:
        reason = (exc.strerror or str(exc)) if isinstance(exc, OSError) else str(exc)
        counts = False
        with suppress(DedupfsError):
            counts = headers.read_file(directory / HEADER_FILE) == header
        kind = StoreFullError if isinstance(exc, StoreFullError) else StoreError
        if not counts:
            raise kind(f"{HEADER_FILE} cannot be written, nothing has changed: {reason}") from exc
        raise kind(
            f"the change is made, but a copy of {HEADER_FILE} is still as it was before; when its cause is gone,"
            f" `dedupfs header restore {directory}` renews it: {reason}"
        ) from exc


def write_record(engine: Engine, header: Header) -> None:
    """Write the copy in the database. Raises StoreError."""
    engine.apply([(records.HEADER.name, _RECORD_KEY, headers.serialise(header))])


def bring_up_to_date(directory: Path, engine: Engine) -> None:
    """Renew what a crash in the middle of a change, or damage, has left behind. Raises nothing: a mount can do without.

    Call it only with a database that the header in the file has opened.
    """
    try:
        with lock_keys(directory, patience_seconds=0):
            copies = read_copies(directory, engine)
            if copies.agree():
                return
            used, trouble = copies.used(), copies.trouble()
            if trouble is not None:
                log.warning("%s", trouble)
            elif used is not None:
                write_everywhere(directory, engine, used)
                log.info("the copies of %s have been renewed", HEADER_FILE)
    except StoreLockedError:
        # Whoever is changing keys right now will write all three.
        return
    except (DedupfsError, OSError) as exc:
        log.warning("the copies of %s cannot be renewed: %s", HEADER_FILE, exc)


def _locked(directory: Path, deadline: float) -> int:
    path = directory / DATA_FILE
    while True:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise StoreNotFoundError(f"{directory} is not a dedupfs volume: it has no {DATA_FILE}") from exc
        except OSError as exc:
            raise StoreError(f"cannot open {path}: {exc.strerror}") from exc
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Somebody may have put another file there while we waited for this one.
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
            os.close(descriptor)
        except BlockingIOError as exc:
            os.close(descriptor)
            if time.monotonic() > deadline:
                raise StoreLockedError(
                    f"another command is changing the keys of {directory}, or compacting it"
                ) from exc
            time.sleep(0.05)
        except BaseException as exc:
            os.close(descriptor)
            if isinstance(exc, OSError):
                raise StoreError(f"cannot lock {path}: {exc.strerror}") from exc
            raise


def _sound(path: Path) -> Header | None:
    try:
        return headers.read_file(path)
    except (StoreNotFoundError, IntegrityError):
        return None


def _sound_record(engine: Engine) -> Header | None:
    try:
        with engine.snapshot() as snapshot:
            data = snapshot.get(records.HEADER.name, _RECORD_KEY)
        return None if data is None else headers.parse(data, RECORD_NAME)
    except IntegrityError:
        return None
