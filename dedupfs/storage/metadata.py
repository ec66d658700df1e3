"""Inodes, directory entries and extended attributes as typed records; what they mean together is up to `filesystem`."""

from __future__ import annotations

from dedupfs.errors import StaleInodeError
from dedupfs.model import InodeNo
from dedupfs.storage import records
from dedupfs.storage.records import Entry, Inode, Unfinished, Xattr, number_key
from dedupfs.storage.store import Store, Transaction

ROOT = InodeNo(1)


class Metadata:
    """The tables `inodes`, `entries`, `xattrs`, `orphans` and `unfinished`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # Inodes

    def inode(self, number: InodeNo) -> Inode:
        """Return an inode. Raises StaleInodeError."""
        stored = self._store.get(records.INODES, number_key(number))
        if stored is None:
            raise StaleInodeError(f"no inode {number}")
        return records.decode_inode(stored)

    def put_inode(self, transaction: Transaction, number: InodeNo, inode: Inode) -> None:
        """Write an inode."""
        transaction.put(records.INODES, number_key(number), records.encode_inode(inode))

    def new_inode(self, transaction: Transaction, inode: Inode) -> InodeNo:
        """Write an inode under a number that was never used before."""
        number = InodeNo(transaction.next_number("next_inode"))
        self.put_inode(transaction, number, inode)
        return number

    def delete_inode(self, transaction: Transaction, number: InodeNo) -> None:
        """Remove an inode with everything keyed by it; its content is the caller's to unlink."""
        for key, _ in self._store.scan(records.XATTRS, number_key(number)):
            transaction.delete(records.XATTRS, key)
        for table in (records.INODES, records.ORPHANS, records.UNFINISHED):
            transaction.delete(table, number_key(number))

    # Entries

    def entry_key(self, parent: InodeNo, name: bytes) -> bytes:
        """Return the key under which a name stands in a directory."""
        prefix = number_key(parent)
        return prefix + self._store.keyring.name_token(b"entry" + prefix, name)

    def find_entry(self, parent: InodeNo, name: bytes) -> Entry | None:
        """Return the entry of a name, or None."""
        stored = self._store.get(records.ENTRIES, self.entry_key(parent, name))
        return records.decode_entry(stored) if stored else None

    def put_entry(self, transaction: Transaction, parent: InodeNo, entry: Entry) -> None:
        """Write an entry."""
        transaction.put(records.ENTRIES, self.entry_key(parent, entry.name), records.encode_entry(entry))

    def delete_entry(self, transaction: Transaction, parent: InodeNo, name: bytes) -> None:
        """Remove an entry."""
        transaction.delete(records.ENTRIES, self.entry_key(parent, name))

    def entries(self, parent: InodeNo) -> list[Entry]:
        """Return the entries of a directory, in the order of their keys."""
        return [records.decode_entry(value) for _, value in self._store.scan(records.ENTRIES, number_key(parent))]

    # Extended attributes

    def find_xattr(self, number: InodeNo, name: bytes) -> bytes | None:
        """Return the value of an attribute, or None."""
        stored = self._store.get(records.XATTRS, self._xattr_key(number, name))
        return records.decode_xattr(stored).value if stored else None

    def xattrs(self, number: InodeNo) -> list[Xattr]:
        """Return all attributes of an inode."""
        return [records.decode_xattr(value) for _, value in self._store.scan(records.XATTRS, number_key(number))]

    def put_xattr(self, transaction: Transaction, number: InodeNo, xattr: Xattr) -> None:
        """Write an attribute."""
        transaction.put(records.XATTRS, self._xattr_key(number, xattr.name), records.encode_xattr(xattr))

    def delete_xattr(self, transaction: Transaction, number: InodeNo, name: bytes) -> None:
        """Remove an attribute."""
        transaction.delete(records.XATTRS, self._xattr_key(number, name))

    # Inodes on their way in or out

    def set_orphan(self, transaction: Transaction, number: InodeNo) -> None:
        """Note an inode that has lost its last name while it is open."""
        transaction.put(records.ORPHANS, number_key(number), records.encode_mark())

    def orphans(self) -> list[InodeNo]:
        """Return the inodes that had lost their last name."""
        return [InodeNo(int.from_bytes(key, "big")) for key in self._store.keys(records.ORPHANS)]

    def unfinished(self, number: InodeNo) -> Unfinished | None:
        """Return where a file whose bytes are not stored yet can be found, or None when they are."""
        stored = self._store.get(records.UNFINISHED, number_key(number))
        return records.decode_unfinished(stored) if stored else None

    def set_unfinished(self, transaction: Transaction, number: InodeNo, entry_keys: tuple[bytes, ...] | None) -> None:
        """Note, or with None forget, that the bytes of a file are not stored yet."""
        if entry_keys is None:
            transaction.delete(records.UNFINISHED, number_key(number))
        else:
            transaction.put(records.UNFINISHED, number_key(number), records.encode_unfinished(Unfinished(entry_keys)))

    def all_unfinished(self) -> list[tuple[InodeNo, Unfinished]]:
        """Return every file whose bytes are not stored."""
        return [
            (InodeNo(int.from_bytes(key, "big")), records.decode_unfinished(value))
            for key, value in self._store.scan(records.UNFINISHED)
        ]

    def _xattr_key(self, number: InodeNo, name: bytes) -> bytes:
        prefix = number_key(number)
        return prefix + self._store.keyring.name_token(b"xattr" + prefix, name)
