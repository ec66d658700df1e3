"""Ways to damage a database file, each at a random place. Pure functions of the bytes and a source of randomness.

Half of the time the place is among the pages that hold the structure and the records, which are few; the others hold
the ciphertexts of chunks.
"""

from __future__ import annotations

import random
from collections.abc import Callable

PAGE_BYTES = 4096
_FLAGS_AT = 10
_PAGES_AT = 12
_OVERFLOW = 4


def structure_pages(data: bytes) -> list[int]:
    """Return the numbers of the pages that are no part of a large value (see the page header in LMDB's mdb.c)."""
    found = []
    number = 0
    while (number + 1) * PAGE_BYTES <= len(data):
        header = data[number * PAGE_BYTES : number * PAGE_BYTES + 16]
        if int.from_bytes(header[_FLAGS_AT : _FLAGS_AT + 2], "little") & _OVERFLOW:
            number += max(1, int.from_bytes(header[_PAGES_AT : _PAGES_AT + 4], "little"))
        else:
            found.append(number)
            number += 1
    return found


def flip_bits(data: bytearray, chance: random.Random) -> None:
    """Flip one bit, or up to eight in one page."""
    page = _page(data, chance)
    for _ in range(chance.choice((1, 1, 1, 8))):
        data[page + chance.randrange(PAGE_BYTES)] ^= 1 << chance.randrange(8)


def zero_page(data: bytearray, chance: random.Random) -> None:
    """Let a page read as zero bytes, as a disk does that has lost a write."""
    page = _page(data, chance)
    data[page : page + PAGE_BYTES] = bytes(PAGE_BYTES)


def swap_pages(data: bytearray, chance: random.Random) -> None:
    """Let two pages stand in each other's place."""
    one, other = _page(data, chance), _page(data, chance)
    kept = data[one : one + PAGE_BYTES]
    data[one : one + PAGE_BYTES] = data[other : other + PAGE_BYTES]
    data[other : other + PAGE_BYTES] = kept


def garble_page(data: bytearray, chance: random.Random) -> None:
    """Fill a part of a page with noise."""
    page = _page(data, chance)
    length = chance.choice((16, 512, PAGE_BYTES))
    start = page + chance.randrange(PAGE_BYTES // length) * length
    data[start : start + length] = chance.randbytes(length)


def truncate(data: bytearray, chance: random.Random) -> None:
    """Cut the file off at a page or anywhere."""
    length = chance.randrange(len(data))
    del data[length - length % chance.choice((1, PAGE_BYTES)) :]


KINDS: dict[str, Callable[[bytearray, random.Random], None]] = {
    "bits flipped": flip_bits,
    "page zeroed": zero_page,
    "pages swapped": swap_pages,
    "page garbled": garble_page,
    "cut off": truncate,
}


def _page(data: bytearray, chance: random.Random) -> int:
    pages = structure_pages(bytes(data)) if chance.random() < 0.5 else range(len(data) // PAGE_BYTES)
    return chance.choice(pages) * PAGE_BYTES
