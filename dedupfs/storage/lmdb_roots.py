"""Looks for the tables of a database that has lost both roots: the first two pages of the file, overwritten, say.

Every commit writes the page from which its tables are found to a new place, and the older ones stay until their room
is used again. So there are some to choose from, and LMDB has not noted on them which is the latest: whoever can read
the records has to tell. What is free cannot be told at all then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dedupfs.errors import IntegrityError
from dedupfs.storage.lmdb_pages import (
    FIRST_DATA_PAGE,
    INTEGER_KEYS,
    LEAF,
    NO_PAGE,
    SUB_TABLE,
    Meta,
    PageError,
    PageFile,
    Root,
)
from dedupfs.storage.lmdb_walk import Walk


def possible_roots(pages: PageFile, tables: Sequence[str]) -> Iterator[Walk]:
    """Yield a reader for each commit whose table of tables is still there as a whole, in no order.

    The table of tables is one page: an entry takes 80 bytes, and there are 15.
    """
    end_page = pages.size_bytes() // pages.page_bytes
    names = {name.encode() for name in tables}
    for number in range(FIRST_DATA_PAGE, end_page):
        try:
            if not pages.looks_like(number, LEAF):
                continue
            leaf = pages.leaf(number, end_page)
            found = {key for key, (flags, _, _) in zip(leaf.keys, leaf.nodes, strict=True) if flags == SUB_TABLE}
            if not names <= found:
                continue
            walk = Walk(pages, Meta(0, Root(NO_PAGE, 0, INTEGER_KEYS, 0), Root(number, 1, 0, 1), end_page))
            for name in tables:
                walk.root(name)
        except (PageError, IntegrityError):
            continue
        yield walk
