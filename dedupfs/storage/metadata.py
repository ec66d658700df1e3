"""Inodes, directory entries and extended attributes as typed records; what they mean together is up to `filesystem`.

One damaged record keeps nobody from the others. A listing leaves out the name that cannot be read. A directory whose
inode is damaged or missing is served with a stand-in, for whoever mounts the volume alone, so that what is below stays
within reach; the first change to it stores the stand-in. Damage is logged once, by number.
"""

from __future__ import annotations

import logging
import os
import stat

from dedupfs.errors import IntegrityError, StaleInodeError
from dedupfs.model import InodeNo
from dedupfs.storage import codec, records
from dedupfs.storage.records import Entry, Inode, Unfinished, Xattr, number_key
from dedupfs.storage.store import Store, Transaction

log = logging.getLogger(__name__)

ROOT = InodeNo(1)
POLICY_XATTR = b"user.dedupfs.policy"
"""Of a directory: the policy for what is below it."""
NUMBER_GAP = 1 << 24
"""How many numbers are passed over when the next free one is not known: those of inodes and clusters that were removed
must not come again, since a cluster's number masks its fingerprint once and for all."""
_STAND_IN_DIRECTORY_BITS = 0o700


class Metadata:
    """The tables `inodes`, `entries`, `xattrs`, `orphans` and `unfinished`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stand_ins: dict[InodeNo, Inode] = {}
        self._lost: set[InodeNo] = set()
        self._told: set[bytes] = set()

    # Inodes

    def inode(self, number: InodeNo) -> Inode:
        """Return an inode, or the stand-in of a directory.

        Raises:
            StaleInodeError: there is none.
            IntegrityError: it is damaged or known to be lost, and no directory as far as can be told.
        """
        try:
            stored = self._store.get(records.INODES, number_key(number))
            if stored is not None:
                return codec.decode_inode(stored)
        except IntegrityError:
            stand_in = self._stand_in(number)
            if stand_in is None or not stat.S_ISDIR(stand_in.mode):
                raise
            return stand_in
        found = self._stand_in(number) if number in self._lost or self.entries(number) else None
        if found is None:
            raise StaleInodeError(f"no inode {number}")
        if not stat.S_ISDIR(found.mode):
            raise IntegrityError(f"inode {number} is lost")
        return found

    def note_lost(self, number: InodeNo) -> None:
        """Take note that a name leads to an inode that is not there: it is lost, and has not gone with its last name.

        To find that out for any inode would take a look at every name.
        """
        self._lost.add(number)

    def inode_or_stand_in(self, number: InodeNo) -> Inode:
        """Return an inode or, where it is damaged, what its names tell of it: nothing but the type."""
        try:
            return self.inode(number)
        except IntegrityError:
            stand_in = self._stand_in(number)
            if stand_in is None:
                raise
            return stand_in

    def has_stand_in(self, number: InodeNo) -> bool:
        """Whether nothing but the type is known of an inode that was looked up."""
        return number in self._stand_ins

    def left_out(self, number: InodeNo) -> int:
        """Return how many names in a directory, and attributes of an inode, were damaged when they were last listed."""
        prefix = number_key(number)
        return sum(key.startswith(prefix) for key in self._told)

    def forget_stand_in(self, number: InodeNo) -> None:
        """Look at the names of a damaged inode again: one has come or gone."""
        self._stand_ins.pop(number, None)

    def _stand_in(self, number: InodeNo) -> Inode | None:
        """Return what can be said of a damaged inode, or None when no name leads to it. Looks at every name once."""
        with self._store.lock:
            if number not in self._stand_ins:
                made = self._make_stand_in(number)
                if made is None:
                    return None
                log.error("inode %d is damaged; `dedupfs check --repair` puts it in order", number)
                self._stand_ins[number] = made
            return self._stand_ins[number]

    def _make_stand_in(self, number: InodeNo) -> Inode | None:
        held = self.entries(number)
        names = [
            (InodeNo(int.from_bytes(key[:8], "big")), entry)
            for key, value in self._store.scan(records.ENTRIES, damaged=self._tell)
            if (entry := codec.decode_entry(value)).inode == number
        ]
        uid, gid = os.getuid(), os.getgid()
        if held or number == ROOT or (names and stat.S_ISDIR(names[0][1].type_bits)):
            links = 2 + sum(stat.S_ISDIR(entry.type_bits) for entry in held)
            parent = names[0][0] if names else InodeNo(0)
            return Inode(stat.S_IFDIR | _STAND_IN_DIRECTORY_BITS, uid, gid, 0, links, 0, 0, 0, 0, parent=parent)
        return Inode(names[0][1].type_bits, uid, gid, 0, len(names), 0, 0, 0, 0) if names else None

    def _tell(self, key: bytes, exc: IntegrityError) -> None:
        if key not in self._told:
            self._told.add(key)
            number = int.from_bytes(key[:8], "big")
            log.error("a name or an attribute of inode %d is damaged and is left out: %s", number, exc)

    def put_inode(self, transaction: Transaction, number: InodeNo, inode: Inode) -> None:
        """Write an inode."""
        self._stand_ins.pop(number, None)
        transaction.put(records.INODES, number_key(number), codec.encode_inode(inode))

    def new_inode(self, transaction: Transaction, inode: Inode) -> InodeNo:
        """Write an inode under a number that was never used before. Raises IntegrityError when that cannot be told."""
        number = InodeNo(transaction.next_number("next_inode"))
        self._check_unused(records.INODES, number)
        self.put_inode(transaction, number, inode)
        return number

    def delete_inode(self, transaction: Transaction, number: InodeNo) -> None:
        """Remove an inode with everything keyed by it; its content is the caller's to unlink."""
        damaged: list[bytes] = []
        rows = self._store.scan(records.XATTRS, number_key(number), damaged=lambda key, exc: damaged.append(key))
        for key in [*(key for key, _ in rows), *damaged]:
            transaction.delete(records.XATTRS, key)
        self._stand_ins.pop(number, None)
        for table in (records.INODES, records.ORPHANS, records.UNFINISHED):
            transaction.delete(table, number_key(number))

    def mend_numbers(self) -> None:
        """Pass over all numbers that can have been used where the next free one of inodes or clusters is not known."""
        for name, table in ((b"next_inode", records.INODES), (b"next_cluster", records.CLUSTERS)):
            try:
                if self._store.get(records.VOLUME, name) is not None:
                    continue
                is_damaged = False
            except IntegrityError:
                is_damaged = True
            # Only now, for there may be millions of them.
            used = [int.from_bytes(key, "big") for key in self._store.keys(table) if len(key) == 8]
            if not used and not is_damaged:
                continue
            free = max(used, default=0) + NUMBER_GAP
            log.error("the record %s of the volume is damaged; numbers go on at %d", name.decode(), free)
            with self._store.transaction() as transaction:
                transaction.put(records.VOLUME, name, codec.encode_number(free))

    def _check_unused(self, table: records.Table, number: int) -> None:
        try:
            used = self._store.get(table, number_key(number)) is not None
        except IntegrityError:
            used = True
        if used:
            raise IntegrityError("a number would be given out a second time; run `dedupfs check --repair`")

    # Entries

    def entry_key(self, parent: InodeNo, name: bytes) -> bytes:
        """Return the key under which a name stands in a directory."""
        prefix = number_key(parent)
        return prefix + self._store.keyring.name_token(b"entry" + prefix, name)

    def find_entry(self, parent: InodeNo, name: bytes) -> Entry | None:
        """Return the entry of a name, or None."""
        stored = self._store.get(records.ENTRIES, self.entry_key(parent, name))
        return codec.decode_entry(stored) if stored else None

    def put_entry(self, transaction: Transaction, parent: InodeNo, entry: Entry) -> None:
        """Write an entry."""
        transaction.put(records.ENTRIES, self.entry_key(parent, entry.name), codec.encode_entry(entry))

    def delete_entry(self, transaction: Transaction, parent: InodeNo, name: bytes) -> None:
        """Remove an entry."""
        transaction.delete(records.ENTRIES, self.entry_key(parent, name))

    def entries(self, parent: InodeNo) -> list[Entry]:
        """Return the entries of a directory that can be read, in the order of their keys."""
        rows = self._store.scan(records.ENTRIES, number_key(parent), damaged=self._tell)
        return [codec.decode_entry(value) for _, value in rows]

    # Extended attributes

    def find_xattr(self, number: InodeNo, name: bytes) -> bytes | None:
        """Return the value of an attribute, or None."""
        stored = self._store.get(records.XATTRS, self._xattr_key(number, name))
        return codec.decode_xattr(stored).value if stored else None

    def xattrs(self, number: InodeNo) -> list[Xattr]:
        """Return all attributes of an inode that can be read."""
        rows = self._store.scan(records.XATTRS, number_key(number), damaged=self._tell)
        return [codec.decode_xattr(value) for _, value in rows]

    def put_xattr(self, transaction: Transaction, number: InodeNo, xattr: Xattr) -> None:
        """Write an attribute."""
        transaction.put(records.XATTRS, self._xattr_key(number, xattr.name), codec.encode_xattr(xattr))

    def delete_xattr(self, transaction: Transaction, number: InodeNo, name: bytes) -> None:
        """Remove an attribute."""
        transaction.delete(records.XATTRS, self._xattr_key(number, name))

    # Inodes on their way in or out

    def set_orphan(self, transaction: Transaction, number: InodeNo) -> None:
        """Note an inode that has lost its last name while it is open."""
        transaction.put(records.ORPHANS, number_key(number), codec.encode_mark())

    def orphans(self) -> list[InodeNo]:
        """Return the inodes that had lost their last name."""
        return [InodeNo(int.from_bytes(key, "big")) for key in self._store.keys(records.ORPHANS)]

    def unfinished(self, number: InodeNo) -> Unfinished | None:
        """Return where a file whose bytes are not stored yet can be found, or None when they are or nothing tells."""
        try:
            stored = self._store.get(records.UNFINISHED, number_key(number))
        except IntegrityError as exc:
            self._tell(number_key(number), exc)
            return None
        return codec.decode_unfinished(stored) if stored else None

    def set_unfinished(self, transaction: Transaction, number: InodeNo, entry_keys: tuple[bytes, ...] | None) -> None:
        """Note, or with None forget, that the bytes of a file are not stored yet."""
        if entry_keys is None:
            transaction.delete(records.UNFINISHED, number_key(number))
        else:
            transaction.put(records.UNFINISHED, number_key(number), codec.encode_unfinished(Unfinished(entry_keys)))

    def all_unfinished(self) -> list[tuple[InodeNo, Unfinished]]:
        """Return every file whose bytes are not stored."""
        return [
            (InodeNo(int.from_bytes(key, "big")), codec.decode_unfinished(value))
            for key, value in self._store.scan(records.UNFINISHED, damaged=self._tell)
        ]

    def _xattr_key(self, number: InodeNo, name: bytes) -> bytes:
        prefix = number_key(number)
        return prefix + self._store.keyring.name_token(b"xattr" + prefix, name)
