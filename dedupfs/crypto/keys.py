"""Keys: the volume key, the slots that wrap it under a passphrase, and one subkey for every purpose.

The volume key is random and never changes; a slot seals it under a key that scrypt derives from a passphrase. From the
volume key HKDF-SHA256 derives one subkey a purpose (RFC 5869), so that no two uses can meet. Objects here are immutable
and may be used from any thread.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass

from Crypto.Cipher import AES
from Crypto.Hash import SHA256
from Crypto.Protocol.KDF import HKDF

from dedupfs.crypto import aead
from dedupfs.errors import IntegrityError, WrongKeyError

VOLUME_KEY_BYTES = 32
SALT_BYTES = 32
NAME_TOKEN_BYTES = 16
BAND_TOKEN_BYTES = 8
_AES_BLOCK_BYTES = 16


@dataclass(frozen=True, slots=True)
class ScryptCost:
    """Cost of one scrypt derivation: memory is 128 * n * r bytes, time grows with n * r * p (RFC 7914)."""

    n: int = 2**17
    r: int = 8
    p: int = 1

    MEMORY_LIMIT_BYTES = 1 << 30
    LANES_LIMIT_BYTES = 1 << 26
    WORK_LIMIT = 2**24
    """Largest n * r * p accepted from a header: sixteen times the default, some seconds. A header is not to be
    trusted before its slot has opened, so an absurd cost is damage and not an order."""

    def __post_init__(self) -> None:
        power_of_two = self.n > 1 and self.n & (self.n - 1) == 0
        # RFC 7914 wants n below 2 ** (16 * r).
        if not power_of_two or self.r < 1 or self.p < 1 or self.n.bit_length() > 16 * self.r:
            raise IntegrityError("the header asks for scrypt parameters that do not exist")
        # The lanes come on top of the memory that n stands for.
        too_large = 128 * self.n * self.r > self.MEMORY_LIMIT_BYTES or 128 * self.r * self.p > self.LANES_LIMIT_BYTES
        if too_large or self.n * self.r * self.p > self.WORK_LIMIT:
            raise IntegrityError("the header asks for absurd scrypt parameters")


@dataclass(frozen=True, slots=True)
class KeySlot:
    """One wrapped copy of the volume key."""

    cost: ScryptCost
    salt: bytes
    wrapped: bytes


def new_volume_key() -> bytes:
    """Return 32 fresh random bytes."""
    return os.urandom(VOLUME_KEY_BYTES)


def wrap(volume_key: bytes, passphrase: bytes, volume_id: bytes, cost: ScryptCost) -> KeySlot:
    """Return a slot that opens with the passphrase, bound to the volume and to its own cost and salt."""
    salt = os.urandom(SALT_BYTES)
    wrapped = aead.seal_record(_stretch(passphrase, salt, cost), volume_key, _slot_place(volume_id, salt, cost))
    return KeySlot(cost, salt, wrapped)


def unwrap(slot: KeySlot, passphrase: bytes, volume_id: bytes) -> bytes:
    """Return the volume key.

    Raises:
        WrongKeyError: the slot does not open with this passphrase.
    """
    try:
        key = aead.open_record(
            _stretch(passphrase, slot.salt, slot.cost), slot.wrapped, _slot_place(volume_id, slot.salt, slot.cost)
        )
    except IntegrityError as exc:
        raise WrongKeyError("wrong passphrase") from exc
    if len(key) != VOLUME_KEY_BYTES:
        raise IntegrityError("a key slot holds a key of the wrong length")
    return key


class Keyring:
    """The subkeys of one volume and the keyed functions made from them."""

    __slots__ = ("_band_tokens", "_chunk_ids", "_chunk_keys", "_content_ids", "_masks", "_names", "_records")

    def __init__(self, volume_key: bytes) -> None:
        self._records = aead.RecordKey(_subkey(volume_key, "records"))
        self._chunk_ids = _subkey(volume_key, "chunk ids")
        self._chunk_keys = _subkey(volume_key, "chunk keys")
        self._content_ids = _subkey(volume_key, "content ids")
        self._names = _subkey(volume_key, "names")
        self._band_tokens = _subkey(volume_key, "index tokens")
        self._masks = _subkey(volume_key, "index masks")

    def seal_record(self, place: bytes, plaintext: bytes) -> bytes:
        """Seal a record so that it opens at this place (format version, table and key) only."""
        return self._records.seal(plaintext, place)

    def open_record(self, place: bytes, sealed: bytes) -> bytes:
        """Open a record. Raises IntegrityError."""
        return self._records.open(sealed, place)

    def chunk_id(self, plaintext: bytes | memoryview) -> bytes:
        """32 bytes that name a plaintext; without the key nobody can test a guess.

        HMAC-SHA256: 1.8 GB/s here with SHA extensions, against 1.25 GB/s for keyed BLAKE2b.
        """
        return hmac.digest(self._chunk_ids, plaintext, "sha256")

    def seal_chunk(self, chunk_id: bytes, padded: bytes) -> bytes:
        """Seal the padded plaintext of a chunk under the key that belongs to its id."""
        return aead.seal_chunk(self._chunk_key(chunk_id), padded, chunk_id)

    def open_chunk(self, chunk_id: bytes, sealed: bytes) -> bytes:
        """Return the padded plaintext of a chunk. Raises IntegrityError."""
        return aead.open_chunk(self._chunk_key(chunk_id), sealed, chunk_id)

    def content_id(self, description: bytes) -> bytes:
        """32 bytes that name a content by the layout of its chunks."""
        return hmac.digest(self._content_ids, description, "sha256")

    def name_token(self, scope: bytes, name: bytes) -> bytes:
        """16 bytes that stand for a name inside a scope: a directory's entry, or an inode's attribute."""
        return hmac.digest(self._names, scope + b"\0" + name, "sha256")[:NAME_TOKEN_BYTES]

    def band_tokens(self, blocks: bytes) -> list[bytes]:
        """Return one 8-byte token for every 16-byte block; AES as a pseudorandom function, in bulk."""
        encrypted = AES.new(self._band_tokens, AES.MODE_ECB).encrypt(blocks)
        return [encrypted[at : at + BAND_TOKEN_BYTES] for at in range(0, len(encrypted), _AES_BLOCK_BYTES)]

    def masks(self, blocks: bytes) -> bytes:
        """Return as many pseudorandom bytes as given, a block for a block; they hide fingerprints in the index."""
        return AES.new(self._masks, AES.MODE_ECB).encrypt(blocks)

    def _chunk_key(self, chunk_id: bytes) -> bytes:
        return hmac.digest(self._chunk_keys, chunk_id, "sha256")


def _subkey(volume_key: bytes, purpose: str) -> bytes:
    derived = HKDF(volume_key, aead.KEY_BYTES, b"dedupfs", SHA256, context=purpose.encode())
    assert isinstance(derived, bytes)
    return derived


def _stretch(passphrase: bytes, salt: bytes, cost: ScryptCost) -> bytes:
    memory = 128 * cost.n * cost.r + 128 * cost.r * cost.p
    return hashlib.scrypt(
        passphrase, salt=salt, n=cost.n, r=cost.r, p=cost.p, maxmem=memory + (1 << 20), dklen=aead.KEY_BYTES
    )


def _slot_place(volume_id: bytes, salt: bytes, cost: ScryptCost) -> bytes:
    return b"dedupfs key slot 1\0" + volume_id + salt + b"%d,%d,%d" % (cost.n, cost.r, cost.p)
