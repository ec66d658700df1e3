"""Checks every branch and leaf page of an LMDB file, hundreds at a time.

What `lmdb_pages` checks of one page is checked here with numpy, and beyond it what no single page can tell: that no
page has two uses. Values that lie in pages of their own are not read, for LMDB follows nothing inside them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dedupfs.errors import IntegrityError
from dedupfs.storage.lmdb_pages import (
    BIG_VALUE,
    BRANCH,
    FIRST_DATA_PAGE,
    LEAF,
    MAX_KEY_BYTES,
    NODE_HEADER_BYTES,
    PAGE_HEADER_BYTES,
    SUB_TABLE,
    PageError,
    PageFile,
    Root,
)
from dedupfs.storage.lmdb_walk import Walk

BATCH_PAGES = 256
"""1 MiB at a time: as fast as more, and the interpreter is free for others every few milliseconds."""
FREE_PAGES = "(free pages)"
TABLES = "(tables)"
_ROOT_BYTES = 48

_Numbers = npt.NDArray[np.int64]
_Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Damage:
    """A page that LMDB must not touch; `table` names what it belongs to, FREE_PAGES and TABLES being LMDB's own."""

    page: int
    table: str
    reason: str


@dataclass(slots=True)
class _Level:
    """Pages side by side in a tree, and the bounds of their keys: from `low` to just before `high` (None: no end)."""

    pages: list[int]
    lows: list[bytes]
    highs: list[bytes | None]


@dataclass(slots=True)
class _Batch:
    """Some pages of one level in memory, a row each; `ok` tells which of them have been found sound so far.

    The arrays from `row` on speak of nodes, page by page and in the order of their keys: the page's row, where the node
    starts in `data`, the length of its key, its flags, and the length of its value or the number of its child.
    """

    data: _Bytes
    ok: npt.NDArray[np.bool_]
    upper: _Numbers
    page_bytes: int
    row: _Numbers = field(default_factory=lambda: np.empty(0, np.int64))
    start: _Numbers = field(default_factory=lambda: np.empty(0, np.int64))
    key_bytes: _Numbers = field(default_factory=lambda: np.empty(0, np.int64))
    flags: _Numbers = field(default_factory=lambda: np.empty(0, np.int64))
    length: _Numbers = field(default_factory=lambda: np.empty(0, np.int64))

    def reject(self, rows: _Numbers) -> None:
        """Forget pages and their nodes."""
        if len(rows):
            self.ok[rows] = False
            kept = self.ok[self.row]
            for name in ("row", "start", "key_bytes", "flags", "length"):
                setattr(self, name, getattr(self, name)[kept])

    def key(self, node: int) -> bytes:
        """Return the key of a node."""
        begin = int(self.start[node]) + NODE_HEADER_BYTES
        return self.data[begin : begin + int(self.key_bytes[node])].tobytes()


class TreeCheck:
    """One run over the trees of one commit; iterate it to the end. Each step is a batch of pages.

    Whoever runs it sees to it that the pages of the commit are not used for anything else meanwhile. One thread at a
    time.
    """

    def __init__(self, pages: PageFile, walk: Walk) -> None:
        self._pages = pages
        self._walk = walk
        self._end_page = walk.meta.end_page
        self._uses: list[tuple[str, _Numbers, _Numbers]] = []
        self._used = np.empty(0, np.int64), np.empty(0, np.int64)
        self.damage: list[Damage] = []
        self.pages_checked = 0

    def steps(self) -> Iterator[None]:
        """Check everything; `damage` is complete at the end."""
        yield from self._tree(FREE_PAGES, self._walk.meta.free)
        yield from self._tree(TABLES, self._walk.meta.tables)
        for table in self._walk.tables(skip=_ignore):
            try:
                root = self._walk.root(table)
            except IntegrityError as exc:
                self._note(exc.page if isinstance(exc, PageError) else self._walk.meta.tables.page, table, str(exc))
                continue
            yield from self._tree(table, root)
        self._find_double_uses()

    def unused_pages(self) -> Iterator[int]:
        """Yield the pages that are neither used nor free, once all is checked; in a sound file there are none."""
        expected = FIRST_DATA_PAGE
        for first, end in zip(*(bounds.tolist() for bounds in self._used), strict=True):
            yield from range(expected, first)
            expected = max(expected, end)
        yield from range(expected, self._end_page)

    def _tree(self, table: str, root: Root) -> Iterator[None]:
        if not root.depth:
            return
        level = _Level([root.page], [b""], [None])
        for height in range(root.depth - 1, -1, -1):
            if len(level.pages) > self._end_page:
                # Only pages that point at each other can be more than there are.
                self._note(root.page, table, "is above pages that are used twice")
                return
            below = _Level([], [], [])
            for begin in range(0, len(level.pages), BATCH_PAGES):
                part = slice(begin, begin + BATCH_PAGES)
                self._pages.expect(level.pages[part.stop : part.stop + BATCH_PAGES])
                self._batch(table, _Level(level.pages[part], level.lows[part], level.highs[part]), height, below)
                yield
            level = below

    def _batch(self, table: str, level: _Level, height: int, below: _Level) -> None:
        """Check pages of one level, and add their children to the level below."""
        integer_keys = table == FREE_PAGES
        kind = BRANCH if height else LEAF
        numbers = np.array(level.pages, np.int64)
        self._use(table, numbers, np.ones(len(numbers), np.int64))
        batch = self._load(level.pages, kind)
        if kind == LEAF:
            self._check_leaf_nodes(table, batch)
        else:
            bad = (
                (batch.key_bytes > MAX_KEY_BYTES) | (batch.length < FIRST_DATA_PAGE) | (batch.length >= self._end_page)
            )
            batch.reject(batch.row[bad])
            _check_tiling(batch, np.zeros(len(batch.row), np.int64))
        _check_order(batch, has_first_key=kind == LEAF, integer_keys=integer_keys)
        self._check_bounds(batch, level, kind, integer_keys, below)
        if kind == LEAF:
            self._note_values(table, batch)
        for row in np.flatnonzero(~batch.ok).tolist():
            self._note(level.pages[row], table, self._reason(level.pages[row], kind))
        self.pages_checked += len(level.pages)

    def _load(self, numbers: list[int], kind: int) -> _Batch:
        size, count = self._pages.page_bytes, len(numbers)
        # Some room at the end lets keys be taken out in words.
        data = np.zeros(count * size + 2 * NODE_HEADER_BYTES, np.uint8)
        ok = np.zeros(count, np.bool_)
        for row, number in enumerate(numbers):
            ok[row] = self._pages.read_into(number, data[row * size : (row + 1) * size].data)
        pages = data[: count * size].reshape(count, size)
        words = pages.view(np.uint16)
        flags, lower, upper = (words[:, at].astype(np.int64) for at in (5, 6, 7))
        ok &= (pages[:, :8].copy().view(np.uint64)[:, 0] == np.array(numbers, np.uint64)) & (flags == kind)
        ok &= (lower % 2 == 0) & (lower <= upper) & (upper <= size)
        ok &= lower >= PAGE_HEADER_BYTES + (2 if kind == LEAF else 4)
        batch = _Batch(data, ok, upper, size)
        rows = np.flatnonzero(ok)
        counts = (lower[rows] - PAGE_HEADER_BYTES) // 2
        batch.row = np.repeat(rows, counts)
        index = np.arange(len(batch.row)) - np.repeat(np.cumsum(counts) - counts, counts)
        pointers = words[batch.row, PAGE_HEADER_BYTES // 2 + index].astype(np.int64)
        batch.start = batch.row * size + pointers
        batch.key_bytes = batch.flags = batch.length = batch.start
        bad = (pointers < upper[batch.row]) | (pointers > size - NODE_HEADER_BYTES) | (pointers % 2 != 0)
        batch.reject(batch.row[bad])
        flat = data.view(np.uint16)
        one, two, three, four = (flat[batch.start // 2 + at].astype(np.int64) for at in range(4))
        batch.length = one | two << 16 if sys.byteorder == "little" else one << 16 | two
        batch.flags, batch.key_bytes = three, four
        if kind == BRANCH:
            batch.length |= three << 32
        return batch

    def _check_leaf_nodes(self, table: str, batch: _Batch) -> None:
        stored = np.where(batch.flags == BIG_VALUE, 8, batch.length)
        end = batch.start - batch.row * batch.page_bytes + NODE_HEADER_BYTES + batch.key_bytes + stored
        bad = (batch.key_bytes == 0) | (batch.key_bytes > MAX_KEY_BYTES) | (end > batch.page_bytes)
        bad |= batch.flags > SUB_TABLE
        bad |= (batch.flags == SUB_TABLE) & ((batch.length != _ROOT_BYTES) | (table != TABLES))
        if table == FREE_PAGES:
            bad |= batch.key_bytes != 8
        batch.reject(batch.row[bad])
        _check_tiling(batch, np.where(batch.flags == BIG_VALUE, 8, batch.length))
        first, count = self._extents(batch)
        bad = (first < FIRST_DATA_PAGE) | (first > self._end_page) | (first + count > self._end_page)
        batch.reject(batch.row[batch.flags == BIG_VALUE][bad])

    def _extents(self, batch: _Batch) -> tuple[_Numbers, _Numbers]:
        """Return the first page and the number of pages of each value that lies in pages of its own."""
        big = np.flatnonzero(batch.flags == BIG_VALUE)
        at = batch.start[big] + NODE_HEADER_BYTES + batch.key_bytes[big]
        first = batch.data[at[:, None] + np.arange(8)].view(np.uint64)[:, 0]
        # What is far outside the file is outside all the same when it is cut to what the type holds.
        first = np.minimum(first, 1 << 62).astype(np.int64)
        return first, (PAGE_HEADER_BYTES - 1 + batch.length[big]) // batch.page_bytes + 1

    def _check_bounds(self, batch: _Batch, level: _Level, kind: int, integer_keys: bool, below: _Level) -> None:
        """Check that the keys of each page lie where its place in the tree wants them, and gather the children."""
        ends = np.flatnonzero(np.diff(batch.row, append=-1)).tolist()
        begin, bad = 0, []
        for end in ends:
            row = int(batch.row[end])
            low, high = level.lows[row], level.highs[row]
            nodes = range(begin + (kind == BRANCH), end + 1)
            begin = end + 1
            keys = [batch.key(node) for node in (nodes if kind == BRANCH else (nodes[0], nodes[-1]))]
            if integer_keys and sys.byteorder == "little":
                keys = [key[::-1] for key in keys]
            if keys[0] < low or (kind == BRANCH and keys[0] == low) or (high is not None and keys[-1] >= high):
                bad.append(row)
            elif kind == BRANCH:
                below.pages.extend(batch.length[nodes[0] - 1 : end + 1].tolist())
                below.lows += [low, *keys]
                below.highs += [*keys, high]
        batch.reject(np.array(bad, np.int64))

    def _note_values(self, table: str, batch: _Batch) -> None:
        if table != FREE_PAGES:
            self._use(table, *self._extents(batch))
        else:
            for row in np.flatnonzero(batch.ok).tolist():
                try:
                    self._note_free_pages(int(batch.data[row * batch.page_bytes :][:8].view(np.uint64)[0]))
                except PageError as exc:
                    self._note(exc.page, table, exc.reason)

    def _note_free_pages(self, number: int) -> None:
        """Check the lists of free pages on a leaf: each its length, then page numbers, falling. Raises PageError."""
        leaf = self._pages.leaf(number, self._end_page)
        for index, (flags, length, start) in enumerate(leaf.nodes):
            if int.from_bytes(leaf.keys[index], sys.byteorder) > self._walk.meta.transaction:
                raise PageError(number, "lists pages that have not been freed yet")
            data = leaf.data[start : start + length]
            if flags == BIG_VALUE:
                # LMDB leaves these more pages than they need, and frees as many as their header says.
                first, count = self._pages.big_extent(leaf, index)
                self._use(FREE_PAGES, np.array([first], np.int64), np.array([count], np.int64))
                data = self._pages.big_value(leaf, index)
            if len(data) < 8 or len(data) % 8:
                raise PageError(number, "holds an impossible list of free pages")
            listed = np.frombuffer(data, np.uint64)
            if int(listed[0]) >= len(listed):
                raise PageError(number, "holds an impossible list of free pages")
            free = listed[1 : 1 + int(listed[0])]
            if np.any(free[1:] >= free[:-1]) or np.any((free < FIRST_DATA_PAGE) | (free >= self._end_page)):
                raise PageError(number, "holds an impossible list of free pages")
            self._use(FREE_PAGES, free.astype(np.int64), np.ones(len(free), np.int64))

    def _use(self, table: str, first: _Numbers, count: _Numbers) -> None:
        self._uses.append((table, first, count))

    def _find_double_uses(self) -> None:
        """Find pages with two uses: a commit that frees or overwrites them for the one destroys the other."""
        if not self._uses:
            return
        first = np.concatenate([first for _, first, _ in self._uses])
        end = first + np.concatenate([count for _, _, count in self._uses])
        which = np.repeat(np.arange(len(self._uses)), [len(first) for _, first, _ in self._uses])
        order = np.argsort(first, kind="stable")
        reach = np.maximum.accumulate(end[order])
        for at in np.flatnonzero(first[order][1:] < reach[:-1]).tolist():
            self._note(int(first[order[at + 1]]), self._uses[which[order[at + 1]]][0], "is used twice")
        self._uses.clear()
        self._used = first[order], end[order]

    def _reason(self, number: int, kind: int) -> str:
        """Say what is wrong with a page that was found to be damaged."""
        try:
            if kind == LEAF:
                self._pages.leaf(number, self._end_page)
            else:
                self._pages.branch(number, self._end_page)
        except PageError as exc:
            return exc.reason
        return "holds keys out of order"

    def _note(self, page: int, table: str, reason: str) -> None:
        self.damage.append(Damage(page, table, reason))


def _ignore(error: PageError, first: bytes, last: bytes | None) -> None:
    """What the walk passes over is in the report already."""


def _check_tiling(batch: _Batch, stored: _Numbers) -> None:
    """The nodes fill the page from its upper bound to its end without a gap, each from an even place."""
    if not len(batch.row):
        return
    size = batch.page_bytes
    used = NODE_HEADER_BYTES + batch.key_bytes + stored
    used += used % 2
    order = np.argsort(batch.start, kind="stable")
    start, row = batch.start[order], batch.row[order]
    end = start + used[order]
    follows = np.append(row[1:] == row[:-1], False)
    after = np.where(follows, np.append(start[1:], 0), (row + 1) * size)
    leads = np.append(True, ~follows[:-1])[: len(row)]
    bad = (end != after) | (leads & (start != row * size + batch.upper[row]))
    batch.reject(row[bad])


def _check_order(batch: _Batch, *, has_first_key: bool, integer_keys: bool) -> None:
    """The keys of each page rise; `has_first_key` is false where the first means nothing."""
    same_page = batch.row[1:] == batch.row[:-1]
    if not has_first_key:
        same_page &= np.append(False, same_page[:-1])[: len(same_page)]
    pairs = np.flatnonzero(same_page)
    keys = batch.start + NODE_HEADER_BYTES
    at = 0
    while len(pairs):
        one, two = (
            _word(batch, keys[pairs + side], batch.key_bytes[pairs + side], at, integer_keys) for side in (0, 1)
        )
        bad = one > two
        alike = one == two
        ended = alike & (np.maximum(batch.key_bytes[pairs], batch.key_bytes[pairs + 1]) <= at + 8)
        bad |= ended & (batch.key_bytes[pairs] >= batch.key_bytes[pairs + 1])
        if bad.any():
            # Rejecting moves all nodes, so start again with those that are left.
            batch.reject(np.unique(batch.row[pairs[bad]]))
            return _check_order(batch, has_first_key=has_first_key, integer_keys=integer_keys)
        pairs = pairs[alike & ~ended]
        at += 8
    return None


def _word(batch: _Batch, key: _Numbers, key_bytes: _Numbers, at: int, integer_keys: bool) -> npt.NDArray[np.uint64]:
    """Return eight bytes of each key from `at` on as a number that sorts as they do, with zero bytes behind its end."""
    windows = np.lib.stride_tricks.sliding_window_view(batch.data, 8)
    taken = windows[np.minimum(key + at, len(windows) - 1)].view(np.uint64)[:, 0]
    if integer_keys:
        return taken
    if sys.byteorder == "little":
        taken = taken.byteswap()
    missing = np.clip(at + 8 - key_bytes, 0, 8)
    return taken & _MASKS[missing]


_MASKS = np.array([(2**64 - 1) << 8 * missing & (2**64 - 1) for missing in range(9)], np.uint64)
"""By the number of bytes that are missing from a word."""
