"""The pages of an LMDB file, read and checked without LMDB.

LMDB trusts its pages: they carry no checksum, and one flipped bit in a page's header can make it read outside its map,
abort, or run in circles, which ends the process. This module knows the layout (LMDB 0.9, lib/mdb.c: MDB_page, MDB_node,
MDB_db, MDB_meta) and believes nothing: pages are read with `pread`, so that neither a bad sector nor a file that was
cut off is a signal, and each is checked before any of its fields is used.

Numbers are in the byte order of the machine, as LMDB writes them; pages are numbered from 0. Threads: no state changes
after construction.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dedupfs.errors import IntegrityError, StoreError

log = logging.getLogger(__name__)

PAGE_HEADER_BYTES = 16
NODE_HEADER_BYTES = 8
BRANCH, LEAF, OVERFLOW, META = 1, 2, 4, 8
"""Values of a page's flags; no other combination is ever on disk, for we have no tables with several values a key."""
BIG_VALUE, SUB_TABLE = 1, 2
"""Values of a leaf node's flags: the value lies in pages of its own; the value is a Root."""
NO_PAGE = 2**64 - 1
"""Root of an empty table."""
MAX_KEY_BYTES = 511
MAX_DEPTH = 32
"""LMDB's CURSOR_STACK: no tree is deeper."""
FIRST_DATA_PAGE = 2
"""The two pages before it are the metas."""
INTEGER_KEYS = 8
"""Flag of the table of free pages: its keys are transaction numbers in the order of numbers."""
MAX_UNCONFIRMED_BYTES = 1 << 24
"""A longer value is not read before the header of its pages agrees: no damage shall cost gigabytes of memory."""
UNWRITTEN_BYTES = 1 << 20
"""Generous allowance for pages at the end that LMDB took and gave back within one commit, and so never wrote."""

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_HEADER = struct.Struct("=QHHHH")  # own number, unused, flags, lower bound of the free space, upper bound
_OVERFLOW_HEADER = struct.Struct("=QHHI")  # own number, unused, flags, how many pages
_NODE = struct.Struct("=IHH")  # length of the value or low bits of the child, flags or its high bits, key length
_ROOT = struct.Struct("=IHHQQQQQ")  # page size or unused, flags, depth, pages: branch, leaf, overflow; entries, root
_META = struct.Struct("=IIQQ48s48sQQ")  # magic, version, address, map size, free pages, tables, last page, transaction
_NUMBER = struct.Struct("=Q")
_MIN_PAGE_BYTES, _MAX_PAGE_BYTES = 1 << 9, 1 << 16
_MAX_MAP_BYTES = 1 << 47


class PageError(IntegrityError):
    """A page is not what its place asks for; `page` is its number."""

    def __init__(self, page: int, reason: str) -> None:
        super().__init__(f"the database is damaged: page {page} {reason}")
        self.page = page
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Root:
    """Where a table starts, how deep its tree is, and how many pages it says it has."""

    page: int
    depth: int
    flags: int
    pages: int


@dataclass(frozen=True, slots=True)
class Meta:
    """One of the two roots of everything; the one with the higher transaction number is in force."""

    transaction: int
    free: Root
    tables: Root
    end_page: int
    """Pages from here on are not in use."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A checked leaf page: keys in order, and for each the node's flags, its value's length and place in the page."""

    page: int
    data: bytes
    keys: list[bytes]
    nodes: list[tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class Branch:
    """A checked branch page: children, and for each the least key that can be below it; that of the first is empty."""

    keys: list[bytes]
    children: list[int]


class PageFile:
    """A database file, open for reading."""

    def __init__(self, path: Path, page_bytes: int | None = None) -> None:
        """Open it. Raises StoreError, and IntegrityError where nothing tells the size of a page."""
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as exc:
            raise StoreError(f"cannot open the database: {exc.strerror}") from exc
        try:
            self.page_bytes = page_bytes or self._find_page_bytes()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file, unless it is closed already."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def is_same(self, path: Path) -> bool:
        """Tell whether a path still leads to this file."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.stat(path))
        except OSError:
            return False

    def size_bytes(self) -> int:
        """Return the size of the file."""
        return os.fstat(self._descriptor).st_size

    def read(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes, fewer at the end of the file. Raises IntegrityError for a bad sector."""
        try:
            return os.pread(self._descriptor, length, offset)
        except (OSError, OverflowError) as exc:
            raise IntegrityError(f"the database cannot be read at byte {offset}: {exc}") from exc

    def page(self, number: int) -> bytes:
        """Return a page. Raises PageError."""
        try:
            data = self.read(number * self.page_bytes, self.page_bytes)
        except IntegrityError as exc:
            raise PageError(number, "cannot be read") from exc
        if len(data) != self.page_bytes:
            raise PageError(number, "is behind the end of the file")
        return data

    def looks_like(self, number: int, kind: int) -> bool:
        """Tell whether a page says that it is the one of this number, and of some kind. Raises IntegrityError."""
        header = self.read(number * self.page_bytes, PAGE_HEADER_BYTES)
        if len(header) != PAGE_HEADER_BYTES:
            return False
        own, _, flags, _, _ = _HEADER.unpack(header)
        return bool(own == number and flags == kind)

    def read_into(self, number: int, room: memoryview) -> bool:
        """Read a page and tell whether it is there as a whole."""
        try:
            return os.preadv(self._descriptor, [room], number * self.page_bytes) == self.page_bytes
        except OSError:
            return False

    def expect(self, numbers: Sequence[int]) -> None:
        """Have the system fetch pages that will be read soon, all at once instead of one after another."""
        for number in numbers:
            os.posix_fadvise(self._descriptor, number * self.page_bytes, self.page_bytes, os.POSIX_FADV_WILLNEED)

    def meta(self, number: int) -> Meta:
        """Return meta page 0 or 1. Raises PageError."""
        data = self.page(number)
        own, _, flags, _, _ = _HEADER.unpack_from(data)
        magic, version, address, map_bytes, free, tables, last, transaction = _META.unpack_from(data, PAGE_HEADER_BYTES)
        if own != number or flags != META or (magic, version) != (_MAGIC, _VERSION) or address:
            raise PageError(number, "is no root of a database")
        if transaction and transaction & 1 != number:
            raise PageError(number, "has the number of another transaction")
        if last < FIRST_DATA_PAGE - 1 or (last + 1) * self.page_bytes > min(map_bytes, _MAX_MAP_BYTES):
            raise PageError(number, "gives an impossible size")
        if map_bytes > _MAX_MAP_BYTES or map_bytes % self.page_bytes:
            raise PageError(number, "gives an impossible size")
        if _ROOT.unpack(free)[0] != self.page_bytes:
            raise PageError(number, "gives an impossible page size")
        free_root, tables_root = (unpack_root(root, number, last + 1) for root in (free, tables))
        found = Meta(transaction, free_root, tables_root, last + 1)
        if found.free.flags != INTEGER_KEYS or found.tables.flags:
            raise PageError(number, "has flags that do not exist")
        return found

    def guessed_meta(self, number: int) -> Meta | None:
        """Return what a damaged meta page says, whether or not it can be true."""
        try:
            _, _, _, _, free, tables, last, transaction = _META.unpack_from(self.page(number), PAGE_HEADER_BYTES)
            end_page = min(last + 1, (self.size_bytes() + UNWRITTEN_BYTES) // self.page_bytes)
            free_root, tables_root = (unpack_root(root, number, end_page) for root in (free, tables))
            return Meta(transaction, free_root, tables_root, end_page)
        except PageError:
            return None

    def guessed_transaction(self, number: int) -> int:
        """Return the commit that a damaged meta page says it is of, and -1 where it cannot be read."""
        try:
            return int(_META.unpack_from(self.page(number), PAGE_HEADER_BYTES)[-1])
        except PageError:
            return -1

    def leaf(self, number: int, end_page: int) -> Leaf:
        """Return a leaf page. Raises PageError."""
        data = self.page(number)
        offsets = _node_offsets(data, number, LEAF)
        keys: list[bytes] = []
        nodes: list[tuple[int, int, int]] = []
        extents: list[tuple[int, int]] = []
        for offset in offsets:
            length, flags, key_bytes = _NODE.unpack_from(data, offset)
            start = offset + NODE_HEADER_BYTES + key_bytes
            stored = _NUMBER.size if flags == BIG_VALUE else length
            if flags > SUB_TABLE or not 0 < key_bytes <= MAX_KEY_BYTES or start + stored > len(data):
                raise PageError(number, "holds an impossible record")
            if flags == BIG_VALUE:
                first = _NUMBER.unpack_from(data, start)[0]
                if first < FIRST_DATA_PAGE or first + overflow_pages(length, len(data)) > end_page:
                    raise PageError(number, "points outside the file")
            elif flags == SUB_TABLE and length != _ROOT.size:
                raise PageError(number, "holds an impossible table")
            extents.append((offset, start + stored))
            keys.append(data[offset + NODE_HEADER_BYTES : start])
            nodes.append((flags, length, start))
        _check_tiling(data, number, extents)
        return Leaf(number, data, keys, nodes)

    def branch(self, number: int, end_page: int) -> Branch:
        """Return a branch page. Raises PageError."""
        data = self.page(number)
        offsets = _node_offsets(data, number, BRANCH)
        if len(offsets) < 2:
            raise PageError(number, "has too few children")
        keys: list[bytes] = []
        children: list[int] = []
        extents: list[tuple[int, int]] = []
        for offset in offsets:
            low, high, key_bytes = _NODE.unpack_from(data, offset)
            child = high << 32 | low
            end = offset + NODE_HEADER_BYTES + key_bytes
            if key_bytes > MAX_KEY_BYTES or end > len(data) or (keys and not key_bytes):
                raise PageError(number, "holds an impossible key")
            if not FIRST_DATA_PAGE <= child < end_page:
                raise PageError(number, "points outside the file")
            extents.append((offset, end))
            # LMDB never looks at the first key, and may leave one there that means nothing.
            keys.append(data[offset + NODE_HEADER_BYTES : end] if keys else b"")
            children.append(child)
        _check_tiling(data, number, extents)
        return Branch(keys, children)

    def big_value(self, leaf: Leaf, index: int) -> bytes:
        """Return a value that lies in pages of its own, as `value` does."""
        _, length, start = leaf.nodes[index]
        first = _NUMBER.unpack_from(leaf.data, start)[0]
        if length > MAX_UNCONFIRMED_BYTES:
            try:
                self.check_overflow(first, length)
            except PageError as exc:
                log.warning("%s", exc)
                return b""
        return self.value(first * self.page_bytes + PAGE_HEADER_BYTES, length)

    def big_place(self, leaf: Leaf, index: int) -> tuple[int, int] | None:
        """Return the first of a value's own pages and the value's length, or None where it has none."""
        flags, length, start = leaf.nodes[index]
        return (_NUMBER.unpack_from(leaf.data, start)[0], length) if flags == BIG_VALUE else None

    def big_extent(self, leaf: Leaf, index: int) -> tuple[int, int]:
        """Return the first of a value's own pages and how many it says it has. Raises PageError if they are too few."""
        _, length, start = leaf.nodes[index]
        first = _NUMBER.unpack_from(leaf.data, start)[0]
        own, flags, count = self._overflow_header(first)
        if own != first or flags != OVERFLOW or count < overflow_pages(length, self.page_bytes):
            raise PageError(first, "is not the start of this value")
        return first, count

    def value(self, offset: int, length: int) -> bytes:
        """Return a value, or nothing where the disk does not give all of it back.

        Nothing is what no authenticated value is, so it is found to be damaged where it is opened, and what comes after
        it in a table can still be read.
        """
        try:
            data = self.read(offset, length)
        except IntegrityError as exc:
            log.warning("%s", exc)
            return b""
        if len(data) != length:
            log.warning("the database ends inside a value at byte %d", offset)
            return b""
        return data

    def check_overflow(self, first: int, length: int) -> None:
        """Check the header of a value's own pages: LMDB frees as many as it says. Raises PageError."""
        if self._overflow_header(first) != (first, OVERFLOW, overflow_pages(length, self.page_bytes)):
            raise PageError(first, "is not the start of this value")

    def _overflow_header(self, first: int) -> tuple[int, int, int]:
        """Return a page's own number, its flags, and how many pages it says it starts."""
        try:
            header = self.read(first * self.page_bytes, PAGE_HEADER_BYTES)
        except IntegrityError as exc:
            raise PageError(first, "cannot be read") from exc
        if len(header) != PAGE_HEADER_BYTES:
            raise PageError(first, "is behind the end of the file")
        own, _, flags, count = _OVERFLOW_HEADER.unpack(header)
        return own, flags, count

    def _find_page_bytes(self) -> int:
        # The second meta page starts where the first says; where that cannot be trusted, try the sizes there are.
        size = _MIN_PAGE_BYTES
        while size <= _MAX_PAGE_BYTES:
            for number in (0, 1):
                data = self.read(number * size, PAGE_HEADER_BYTES + _META.size)
                if len(data) == PAGE_HEADER_BYTES + _META.size:
                    magic, _, _, _, free, *_ = _META.unpack_from(data, PAGE_HEADER_BYTES)
                    if magic == _MAGIC and _ROOT.unpack(free)[0] == size and _HEADER.unpack_from(data)[0] == number:
                        return size
            size *= 2
        raise IntegrityError("the database is damaged: neither of its roots can be read")


def overflow_pages(length: int, page_bytes: int) -> int:
    """Return how many pages of its own a value takes (LMDB: OVPAGES)."""
    return (PAGE_HEADER_BYTES - 1 + length) // page_bytes + 1


def has_own_pages(key_bytes: int, value_bytes: int, page_bytes: int) -> bool:
    """Tell whether LMDB keeps a value in pages of its own: two nodes must fit on a page (LMDB: me_nodemax)."""
    room = ((page_bytes - PAGE_HEADER_BYTES) // 2 & ~1) - 2
    return NODE_HEADER_BYTES + key_bytes + value_bytes > room


def restore_overflow(path: Path, first: int, length: int, page_bytes: int) -> None:
    """Write the header of a value's own pages anew. A first page that cannot be read is emptied. Raises StoreError.

    The page is written as a whole, for only then a disk takes the place of a bad sector out of use.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            try:
                page = bytearray(os.pread(descriptor, page_bytes, first * page_bytes).ljust(page_bytes, b"\0"))
            except OSError:
                page = bytearray(page_bytes)
            _OVERFLOW_HEADER.pack_into(page, 0, first, 0, OVERFLOW, overflow_pages(length, page_bytes))
            os.pwrite(descriptor, page, first * page_bytes)
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise StoreError(f"page {first} of the database cannot be put right: {exc.strerror}") from exc


def unpack_root(data: bytes, page: int, end_page: int) -> Root:
    """Decode a table's root, found on `page`. Raises PageError."""
    _, flags, depth, branches, leaves, overflows, _, root = _ROOT.unpack(data)
    if root == NO_PAGE:
        possible = depth == 0
    else:
        possible = 0 < depth <= MAX_DEPTH and FIRST_DATA_PAGE <= root < end_page
    if not possible:
        raise PageError(page, "holds an impossible table")
    return Root(root, depth, flags, branches + leaves + overflows)


def _node_offsets(data: bytes, number: int, kind: int) -> tuple[int, ...]:
    own, _, flags, lower, upper = _HEADER.unpack_from(data)
    if own != number or flags != kind:
        raise PageError(number, "is not the page that belongs there")
    if not PAGE_HEADER_BYTES < lower <= upper <= len(data) or lower % 2:
        raise PageError(number, "has impossible bounds")
    offsets = struct.unpack_from(f"={(lower - PAGE_HEADER_BYTES) // 2}H", data, PAGE_HEADER_BYTES)
    if min(offsets) < upper or max(offsets) > len(data) - NODE_HEADER_BYTES:
        raise PageError(number, "points outside itself")
    return offsets


def _check_tiling(data: bytes, number: int, extents: list[tuple[int, int]]) -> None:
    """The nodes fill the page from its upper bound to its end without a gap, each from an even place."""
    expected = _HEADER.unpack_from(data)[4]
    for start, end in sorted(extents):
        if start != expected:
            raise PageError(number, "holds records that overlap")
        expected = end + end % 2
    if expected != len(data):
        raise PageError(number, "holds records that overlap")
