"""Reads tables page by page without LMDB: slower by far, but no page can do worse than raise an error.

Serves a database whose pages have not all been checked yet, and one that is damaged: a page is checked when it is first
met, together with what its place in the tree asks of it, and only keys below a damaged page are lost.
"""

from __future__ import annotations

import sys
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import pairwise

from dedupfs.errors import IntegrityError
from dedupfs.storage.lmdb_pages import BIG_VALUE, SUB_TABLE, Branch, Leaf, Meta, PageError, PageFile, Root, unpack_root

_CACHED_PAGES = 1000
"""About 20 KB each once their keys are objects."""

Skip = Callable[[PageError, bytes, bytes | None], None]
"""Told of a damaged page and the keys lost with it: from the first up to, and without, the last; None: no end."""


class Walk:
    """The tables of one commit. Whoever makes it sees to it that its pages are not used for anything else meanwhile.

    Any thread may read; the cache is only a dictionary, and what two threads do to it at once costs a page read twice.
    """

    def __init__(self, pages: PageFile, meta: Meta) -> None:
        self._pages = pages
        self.meta = meta
        self._cache: OrderedDict[int, Leaf | Branch] = OrderedDict()
        self._roots: dict[str, Root] = {}

    def root(self, table: str) -> Root:
        """Return the root of a table. Raises IntegrityError where it is damaged or not there."""
        found = self._roots.get(table)
        if found is None:
            leaf, index = self._find(self.meta.tables, table.encode())
            if index is None:
                raise IntegrityError(f"the database is damaged: it has no table {table}")
            flags, length, start = leaf.nodes[index]
            if flags != SUB_TABLE:
                raise IntegrityError(f"the database is damaged: its table {table} is none")
            found = unpack_root(leaf.data[start : start + length], leaf.page, self.meta.end_page)
            if found.flags:
                raise IntegrityError(f"the database is damaged: its table {table} has flags that do not exist")
            self._roots[table] = found
        return found

    def tables(self, skip: Skip | None = None) -> list[str]:
        """Return the names of all tables, in order. `skip` is as in `scan`. Raises IntegrityError."""
        names: list[str] = []
        for leaf, index in self._positions(self.meta.tables, b"", skip):
            if leaf.nodes[index][0] == SUB_TABLE:
                names.append(leaf.keys[index].decode("utf-8", "replace"))
        return names

    def first_place(self) -> int:
        """Return where in the file the first value of the table of tables is. Raises IntegrityError."""
        leaf, index = next(self._positions(self.meta.tables, b"", None))
        return leaf.page * len(leaf.data) + leaf.nodes[index][2]

    def last_freed(self) -> int:
        """Return the number of the last commit whose freed pages are listed, or 0. Raises IntegrityError."""
        number = self.meta.free.page
        for _ in range(self.meta.free.depth - 1):
            number = self._pages.branch(number, self.meta.end_page).children[-1]
        if not self.meta.free.depth:
            return 0
        return int.from_bytes(self._pages.leaf(number, self.meta.end_page).keys[-1], sys.byteorder)

    def get(self, table: str, key: bytes) -> bytes | None:
        """Return the value, or None. Raises IntegrityError."""
        root = self.root(table)
        if not root.depth:
            return None
        leaf, index = self._find(root, key)
        return None if index is None else self.value(leaf, index)

    def own_pages(self, table: str, key: bytes) -> tuple[int, int] | None:
        """Return where a value's own pages begin and how long it is, or None. Raises IntegrityError."""
        root = self.root(table)
        if not root.depth:
            return None
        leaf, index = self._find(root, key)
        return None if index is None else self._pages.big_place(leaf, index)

    def scan(
        self, table: str, prefix: bytes = b"", skip: Skip | None = None, after: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield keys that start with the prefix, of those the ones behind `after`, and their values, in order.

        Without `skip` the first damaged page raises IntegrityError; with it, what is below such a page is left out.
        """
        # Nothing lies between a key and the same with a zero byte behind it.
        start = prefix if after is None else after + b"\0"
        for leaf, index in self._positions(self.root(table), start, skip):
            key = leaf.keys[index]
            if not key.startswith(prefix):
                return
            yield key, self.value(leaf, index)

    def _find(self, root: Root, key: bytes) -> tuple[Leaf, int | None]:
        """Return the leaf a key belongs in, and its index there or None."""
        number, low, high = root.page, b"", None
        for _ in range(root.depth - 1):
            branch = self._branch(number, low, high)
            index = bisect_right(branch.keys, key, 1) - 1
            number = branch.children[index]
            low = branch.keys[index] or low
            if index + 1 < len(branch.keys):
                high = branch.keys[index + 1]
        leaf = self._leaf(number, low, high)
        index = bisect_left(leaf.keys, key)
        return leaf, index if index < len(leaf.keys) and leaf.keys[index] == key else None

    def _positions(self, root: Root, start: bytes, skip: Skip | None) -> Iterator[tuple[Leaf, int]]:
        """Yield the places of all keys from `start` on."""
        # What is yet to be visited: page, levels below it, and the bounds of its keys; the next one is the last.
        stack: list[tuple[int, int, bytes, bytes | None]] = []
        if root.depth:
            stack.append((root.page, root.depth - 1, b"", None))
        while stack:
            number, height, low, high = stack.pop()
            try:
                if height:
                    branch = self._branch(number, low, high)
                    ends = [*branch.keys[1:], high]
                    for child, begin, end in reversed(list(zip(branch.children, branch.keys, ends, strict=True))):
                        if end is None or end > start:
                            stack.append((child, height - 1, begin or low, end))
                    continue
                leaf = self._leaf(number, low, high)
            except PageError as exc:
                if skip is None:
                    raise
                skip(exc, low, high)
                continue
            for index in range(bisect_left(leaf.keys, start), len(leaf.keys)):
                yield leaf, index

    def value(self, leaf: Leaf, index: int) -> bytes:
        """Return the value at a place in a leaf page; empty where the disk does not give it back."""
        flags, length, start = leaf.nodes[index]
        if flags == BIG_VALUE:
            return self._pages.big_value(leaf, index)
        return leaf.data[start : start + length]

    def _leaf(self, number: int, low: bytes, high: bytes | None) -> Leaf:
        found = self._cache.get(number)
        if found is None:
            found = self._pages.leaf(number, self.meta.end_page)
            _check_order(number, found.keys)
            self._remember(number, found)
        if not isinstance(found, Leaf):
            raise PageError(number, "is not the page that belongs there")
        if found.keys[0] < low or (high is not None and found.keys[-1] >= high):
            raise PageError(number, "holds keys that belong elsewhere")
        return found

    def _branch(self, number: int, low: bytes, high: bytes | None) -> Branch:
        found = self._cache.get(number)
        if found is None:
            found = self._pages.branch(number, self.meta.end_page)
            _check_order(number, found.keys)
            self._remember(number, found)
        if not isinstance(found, Branch):
            raise PageError(number, "is not the page that belongs there")
        if found.keys[1] <= low or (high is not None and found.keys[-1] >= high):
            raise PageError(number, "holds keys that belong elsewhere")
        return found

    def _remember(self, number: int, page: Leaf | Branch) -> None:
        self._cache[number] = page
        if len(self._cache) > _CACHED_PAGES:
            self._cache.popitem(last=False)


class WalkSnapshot:
    """A Walk as a Snapshot."""

    __slots__ = ("_walk",)

    def __init__(self, walk: Walk) -> None:
        self._walk = walk

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._walk.get(table, key)

    def scan(self, table: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return self._walk.scan(table, prefix)


def _check_order(number: int, keys: list[bytes]) -> None:
    if any(one >= two for one, two in pairwise(keys)):
        raise PageError(number, "holds keys out of order")
