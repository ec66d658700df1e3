"""Authenticated encryption: seal and open records and chunks.

Owns the two constructions of the format and nothing else; which key is for what is the business of `keys`. Everything
sealed starts with a version byte, so that a construction can be replaced without guessing. Pure functions, any thread.

- A record is small, changes often and is sealed under one long-lived key: XChaCha20-Poly1305 with a random 24-byte
  nonce, which needs no counter and no state. Layout: version (1), nonce (24), ciphertext, tag (16).
- A chunk is sealed under a key of its own that never seals another plaintext: AES-256-GCM with a fixed nonce. Layout:
  version (1), ciphertext, tag (16).
"""

from __future__ import annotations

import os

from Crypto.Cipher import AES, ChaCha20_Poly1305

from dedupfs.errors import IntegrityError

KEY_BYTES = 32
TAG_BYTES = 16
RECORD_NONCE_BYTES = 24
RECORD_OVERHEAD_BYTES = 1 + RECORD_NONCE_BYTES + TAG_BYTES
CHUNK_OVERHEAD_BYTES = 1 + TAG_BYTES

_RECORD_VERSION = b"\x01"
_CHUNK_VERSION = b"\x01"
_CHUNK_NONCE = bytes(12)


def seal_record(key: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
    """Return the record sealed under a 32-byte key and bound to its associated data."""
    nonce = os.urandom(RECORD_NONCE_BYTES)
    cipher = ChaCha20_Poly1305.new(key=key, nonce=nonce)
    cipher.update(_RECORD_VERSION + associated_data)
    ciphertext, tag = cipher.encrypt_and_digest(plaintext)
    return b"".join((_RECORD_VERSION, nonce, ciphertext, tag))


def open_record(key: bytes, sealed: bytes, associated_data: bytes) -> bytes:
    """Return the plaintext of a sealed record.

    Raises:
        IntegrityError: not sealed under this key, or for another place, or changed since.
    """
    if len(sealed) < RECORD_OVERHEAD_BYTES or sealed[:1] != _RECORD_VERSION:
        raise IntegrityError("a sealed record is cut short or of an unknown version")
    nonce = sealed[1 : 1 + RECORD_NONCE_BYTES]
    cipher = ChaCha20_Poly1305.new(key=key, nonce=nonce)
    cipher.update(_RECORD_VERSION + associated_data)
    try:
        return bytes(cipher.decrypt_and_verify(sealed[1 + RECORD_NONCE_BYTES : -TAG_BYTES], sealed[-TAG_BYTES:]))
    except ValueError as exc:
        raise IntegrityError("a sealed record failed authentication") from exc


def seal_chunk(key: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
    """Return the chunk sealed under a 32-byte key that must never seal a second plaintext."""
    cipher = AES.new(key, AES.MODE_GCM, nonce=_CHUNK_NONCE, mac_len=TAG_BYTES)
    cipher.update(_CHUNK_VERSION + associated_data)
    ciphertext, tag = cipher.encrypt_and_digest(plaintext)
    return b"".join((_CHUNK_VERSION, ciphertext, tag))


def open_chunk(key: bytes, sealed: bytes, associated_data: bytes) -> bytes:
    """Return the plaintext of a sealed chunk.

    Raises:
        IntegrityError: not sealed under this key, or changed since.
    """
    if len(sealed) < CHUNK_OVERHEAD_BYTES or sealed[:1] != _CHUNK_VERSION:
        raise IntegrityError("a chunk is cut short or of an unknown version")
    cipher = AES.new(key, AES.MODE_GCM, nonce=_CHUNK_NONCE, mac_len=TAG_BYTES)
    cipher.update(_CHUNK_VERSION + associated_data)
    view = memoryview(sealed)
    try:
        return bytes(cipher.decrypt_and_verify(view[1:-TAG_BYTES], view[-TAG_BYTES:]))
    except ValueError as exc:
        raise IntegrityError("a chunk failed authentication") from exc
