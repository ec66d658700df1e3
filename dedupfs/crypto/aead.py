"""Authenticated encryption: seal and open records and chunks.

Owns the two constructions of the format and nothing else; which key is for what is the business of `keys`. Everything
sealed starts with a version byte, so that a construction can be replaced without guessing. Pure functions, any thread.

- A record is small, changes often and is sealed under one long-lived key: XAES-256-GCM (https://c2sp.org/XAES-256-GCM)
  with a random 24-byte nonce, which needs no counter and no state. Layout: version (1), nonce (24), ciphertext,
  tag (16).
- A chunk is sealed under a key of its own that never seals another plaintext: AES-256-GCM with a fixed nonce.
  Layout: version (1), ciphertext, tag (16).

Both stand on the AES-GCM of OpenSSL, measured on one core with AES instructions: chunks at 9.0 GB/s against 1.3 with
pycryptodome, and a record of 120 bytes in 3.4 us against 31 with its XChaCha20-Poly1305.
"""

from __future__ import annotations

import os
import threading

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from dedupfs.errors import IntegrityError

KEY_BYTES = 32
TAG_BYTES = 16
RECORD_NONCE_BYTES = 24
RECORD_OVERHEAD_BYTES = 1 + RECORD_NONCE_BYTES + TAG_BYTES
CHUNK_OVERHEAD_BYTES = 1 + TAG_BYTES

_RECORD_VERSION = b"\x02"
_CHUNK_VERSION = b"\x01"
_GCM_NONCE_BYTES = 12
_CHUNK_NONCE = bytes(_GCM_NONCE_BYTES)


class _BlockCipher(threading.local):
    """AES on single blocks, for each thread its own.

    pycryptodome's takes 2.9 us for the two blocks of a derived key, and this 0.2 us without giving up the interpreter
    lock.
    """

    def __init__(self, key: bytes) -> None:
        self.encrypt = Cipher(AES(key), ECB()).encryptor().update


class RecordKey:
    """A 32-byte key that seals any number of records: XAES-256-GCM."""

    __slots__ = ("_block_cipher", "_first", "_second")

    def __init__(self, key: bytes) -> None:
        self._block_cipher = _BlockCipher(key)
        doubled = int.from_bytes(self._block_cipher.encrypt(bytes(16)), "big") << 1
        mask = (doubled ^ 0x87 if doubled >> 128 else doubled) & ((1 << 128) - 1)
        # The counter, the letter X and a zero byte of each derived block, under the CMAC mask of its last block.
        self._first = (0x0001_5800 << 96) ^ mask
        self._second = (0x0002_5800 << 96) ^ mask

    def seal(self, plaintext: bytes, associated_data: bytes) -> bytes:
        """Return the record sealed and bound to its associated data."""
        nonce = os.urandom(RECORD_NONCE_BYTES)
        sealed = self._derived(nonce).encrypt(nonce[-_GCM_NONCE_BYTES:], plaintext, _RECORD_VERSION + associated_data)
        return b"".join((_RECORD_VERSION, nonce, sealed))

    def open(self, sealed: bytes, associated_data: bytes) -> bytes:
        """Return the plaintext of a sealed record.

        Raises:
            IntegrityError: not sealed under this key, or for another place, or changed since.
        """
        if len(sealed) < RECORD_OVERHEAD_BYTES or sealed[:1] != _RECORD_VERSION:
            raise IntegrityError("a sealed record is cut short or of an unknown version")
        nonce = sealed[1 : 1 + RECORD_NONCE_BYTES]
        try:
            return self._derived(nonce).decrypt(
                nonce[-_GCM_NONCE_BYTES:], sealed[1 + RECORD_NONCE_BYTES :], _RECORD_VERSION + associated_data
            )
        except InvalidTag as exc:
            raise IntegrityError("a sealed record failed authentication") from exc

    def _derived(self, nonce: bytes) -> AESGCM:
        prefix = int.from_bytes(nonce[:-_GCM_NONCE_BYTES], "big")
        blocks = ((self._first ^ prefix) << 128 | self._second ^ prefix).to_bytes(32, "big")
        return AESGCM(self._block_cipher.encrypt(blocks))


def seal_record(key: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
    """Return one record sealed under a 32-byte key and bound to its associated data."""
    return RecordKey(key).seal(plaintext, associated_data)


def open_record(key: bytes, sealed: bytes, associated_data: bytes) -> bytes:
    """Return the plaintext of one sealed record.

    Raises:
        IntegrityError: not sealed under this key, or for another place, or changed since.
    """
    return RecordKey(key).open(sealed, associated_data)


def seal_chunk(key: bytes, plaintext: bytes | bytearray, associated_data: bytes) -> bytearray:
    """Return the chunk sealed under a 32-byte key that must never seal a second plaintext."""
    sealed = bytearray(len(plaintext) + CHUNK_OVERHEAD_BYTES)
    sealed[:1] = _CHUNK_VERSION
    AESGCM(key).encrypt_into(_CHUNK_NONCE, plaintext, _CHUNK_VERSION + associated_data, memoryview(sealed)[1:])
    return sealed


def open_chunk(key: bytes, sealed: bytes | bytearray, associated_data: bytes) -> bytes:
    """Return the plaintext of a sealed chunk.

    Raises:
        IntegrityError: not sealed under this key, or changed since.
    """
    _check_chunk(sealed)
    try:
        return AESGCM(key).decrypt(_CHUNK_NONCE, memoryview(sealed)[1:], _CHUNK_VERSION + associated_data)
    except InvalidTag as exc:
        raise IntegrityError("a chunk failed authentication") from exc


def open_chunk_into(key: bytes, sealed: bytes | bytearray, associated_data: bytes, room: bytearray) -> None:
    """Put the plaintext of a sealed chunk into a buffer, which gets its length.

    Raises:
        IntegrityError: as `open_chunk`; what the buffer holds then means nothing.
    """
    _check_chunk(sealed)
    length = len(sealed) - CHUNK_OVERHEAD_BYTES
    del room[length:]
    room.extend(bytes(length - len(room)))
    try:
        AESGCM(key).decrypt_into(_CHUNK_NONCE, memoryview(sealed)[1:], _CHUNK_VERSION + associated_data, room)
    except InvalidTag as exc:
        raise IntegrityError("a chunk failed authentication") from exc


def _check_chunk(sealed: bytes | bytearray) -> None:
    if len(sealed) < CHUNK_OVERHEAD_BYTES or sealed[:1] != _CHUNK_VERSION:
        raise IntegrityError("a chunk is cut short or of an unknown version")
