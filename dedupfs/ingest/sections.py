"""A member's own bytes: everything in its file that is not coded image, as a few byte strings in one.

Owns that layout. Pure functions, any thread.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from dedupfs.errors import IntegrityError

_PLAIN, _DEFLATED = 1, 2
_DEFLATE_LEVEL = 9
_LENGTH_BYTES = 4

MAX_OWN_BYTES = 256 * 1024 * 1024
"""Bounds what a damaged record can make `unpack` inflate to."""


def pack(sections: Sequence[bytes]) -> bytes:
    """Return the sections as one byte string, deflated when that is shorter (XMP is mostly padding)."""
    plain = b"".join(len(section).to_bytes(_LENGTH_BYTES, "big") + section for section in sections)
    deflated = zlib.compress(plain, _DEFLATE_LEVEL)
    return bytes([_DEFLATED]) + deflated if len(deflated) < len(plain) else bytes([_PLAIN]) + plain


def unpack(own: bytes, count: int) -> tuple[bytes, ...]:
    """Read what `pack` wrote.

    Raises:
        IntegrityError: anything else, or another number of sections.
    """
    plain = own[1:]
    if own[:1] == bytes([_DEFLATED]):
        inflater = zlib.decompressobj()
        try:
            plain = inflater.decompress(plain, MAX_OWN_BYTES)
        except zlib.error as exc:
            raise IntegrityError("a member's own bytes do not inflate") from exc
        if not inflater.eof or inflater.unused_data:
            raise IntegrityError("a member's own bytes are cut short or too long")
    elif own[:1] != bytes([_PLAIN]):
        raise IntegrityError("a member's own bytes are of an unknown version")
    sections: list[bytes] = []
    offset = 0
    while offset < len(plain):
        start = offset + _LENGTH_BYTES
        offset = start + int.from_bytes(plain[offset:start], "big")
        if offset > len(plain):
            raise IntegrityError("a member's own bytes are cut short")
        sections.append(plain[start:offset])
    if len(sections) != count:
        raise IntegrityError("a member's own bytes have another number of parts")
    return tuple(sections)
