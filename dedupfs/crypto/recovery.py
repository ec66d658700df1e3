"""Recovery keys: 256 random bits as text that a person can copy by hand.

The alphabet is Crockford's base 32: no letter I, L, O or U, and what is read as one of the first three is taken for 1
or 0. A key is four blocks of sixteen characters, 64 bits of the key and 16 bits of a checksum over them and the number
of the block; so a typing error is told from the key of another volume, and in which part of the text it is. Upper and
lower case, and whatever separates the characters, make no difference. Pure functions, any thread.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re

SECRET_BYTES = 32
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_BLOCKS = 4
_BLOCK_BYTES = SECRET_BYTES // _BLOCKS
_CHECK_BYTES = 2
_BLOCK_CHARACTERS = 16
_GROUP_CHARACTERS = 4
_CHARACTERS = _BLOCKS * _BLOCK_CHARACTERS
_SLIPS = 4
"""So many characters too few, too many or impossible still look like somebody's attempt at a recovery key."""

_SEPARATORS = re.compile(r"[\s\-_.,:;/\u2010-\u2015]+")
_RFC_4648 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_FROM_RFC_4648 = str.maketrans(_RFC_4648, ALPHABET)
_TO_RFC_4648 = str.maketrans(ALPHABET, _RFC_4648)
_LOOK_ALIKES = str.maketrans("OIL", "011")


def new_secret() -> bytes:
    """Return 32 fresh random bytes."""
    return os.urandom(SECRET_BYTES)


def encode(secret: bytes) -> str:
    """Return the text of a recovery key: 16 groups of four characters, with hyphens between them, 79 in all."""
    text = "".join(
        _encode_block(number, secret[number * _BLOCK_BYTES : (number + 1) * _BLOCK_BYTES]) for number in range(_BLOCKS)
    )
    return "-".join(text[at : at + _GROUP_CHARACTERS] for at in range(0, _CHARACTERS, _GROUP_CHARACTERS))


def decode(text: bytes) -> bytes | None:
    """Return the 32 bytes of a recovery key, or None when the text is no recovery key without a fault."""
    characters = _characters(text)
    if len(characters) != _CHARACTERS or _faulty_blocks(characters):
        return None
    return b"".join(_data(_block(characters, number)) for number in range(_BLOCKS))


def complaint(text: bytes) -> str | None:
    """Say what is wrong with a text that looks like a mistyped recovery key; None when it looks like none."""
    characters = _characters(text)
    strange = sum(character not in ALPHABET for character in characters)
    if abs(len(characters) - _CHARACTERS) > _SLIPS or strange > _SLIPS:
        return None
    if len(characters) != _CHARACTERS:
        return f"it has {len(characters)} characters instead of {_CHARACTERS}"
    groups = _BLOCK_CHARACTERS // _GROUP_CHARACTERS
    places = [f"{number * groups + 1} to {(number + 1) * groups}" for number in _faulty_blocks(characters)]
    return f"there is a typing error in groups {' and '.join(places)}" if places else None


def _characters(text: bytes) -> str:
    return _SEPARATORS.sub("", text.decode(errors="replace")).upper().translate(_LOOK_ALIKES)


def _block(characters: str, number: int) -> str:
    return characters[number * _BLOCK_CHARACTERS : (number + 1) * _BLOCK_CHARACTERS]


def _faulty_blocks(characters: str) -> list[int]:
    return [number for number in range(_BLOCKS) if not _is_sound(number, _block(characters, number))]


def _is_sound(number: int, block: str) -> bool:
    return all(character in ALPHABET for character in block) and _encode_block(number, _data(block)) == block


def _encode_block(number: int, data: bytes) -> str:
    check = hashlib.sha256(b"dedupfs recovery key\0" + bytes([number]) + data).digest()[:_CHECK_BYTES]
    return base64.b32encode(data + check).decode().translate(_FROM_RFC_4648)


def _data(block: str) -> bytes:
    return base64.b32decode(block.translate(_TO_RFC_4648))[:_BLOCK_BYTES]
