"""Keys: the volume key, the slots that wrap it, and one subkey for every purpose.

The volume key is random and never changes. A slot seals it under a key that scrypt derives from a passphrase, or that
HKDF-SHA256 derives from a recovery key: nobody can try a noticeable part of 256 random bits, however little a trial
costs, so scrypt would protect nothing there. From the volume key HKDF-SHA256 derives one subkey a purpose (RFC 5869),
so that no two uses can meet. Objects here are immutable and may be used from any thread.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import os
from dataclasses import dataclass, replace

from Crypto.Cipher import AES
from Crypto.Hash import SHA256
from Crypto.Protocol.KDF import HKDF

from dedupfs.crypto import aead
from dedupfs.errors import IntegrityError, StoreError, WrongKeyError

VOLUME_KEY_BYTES = 32
SALT_BYTES = 32
WRAPPED_BYTES = aead.RECORD_OVERHEAD_BYTES + VOLUME_KEY_BYTES
NAME_TOKEN_BYTES = 16
BAND_TOKEN_BYTES = 8
_AES_BLOCK_BYTES = 16


@dataclass(frozen=True, slots=True)
class ScryptCost:
    """Cost of one scrypt derivation: memory is 128 * n * r bytes, time grows with n * r * p (RFC 7914)."""

    n: int = 2**17
    r: int = 8
    p: int = 1

    MEMORY_LIMIT_BYTES = 1 << 29
    LANES_LIMIT_BYTES = 1 << 23
    WORK_LIMIT = 2**24
    """Largest n * r * p accepted from a header: sixteen times the default; 7.1 s was the slowest of such costs here,
    and the default 0.45 s. A header is not to be trusted before its slot has opened, so an absurd cost is damage and
    not an order."""

    def __post_init__(self) -> None:
        power_of_two = self.n > 1 and self.n & (self.n - 1) == 0
        # RFC 7914 wants n below 2 ** (16 * r).
        if not power_of_two or self.r < 1 or self.p < 1 or self.n.bit_length() > 16 * self.r:
            raise IntegrityError("the header asks for scrypt parameters that do not exist")
        # The lanes come on top of the memory that n stands for.
        too_large = 128 * self.n * self.r > self.MEMORY_LIMIT_BYTES or 128 * self.r * self.p > self.LANES_LIMIT_BYTES
        if too_large or self.work > self.WORK_LIMIT:
            raise IntegrityError("the header asks for absurd scrypt parameters")

    @property
    def work(self) -> int:
        """What the time grows with."""
        return self.n * self.r * self.p


class SlotKind(enum.Enum):
    """What opens a slot."""

    PASSPHRASE = "passphrase"
    RECOVERY = "recovery"


@dataclass(frozen=True, slots=True)
class KeySlot:
    """One wrapped copy of the volume key. Raises IntegrityError for a salt or a copy of another length."""

    cost: ScryptCost | None
    """None for a recovery key."""
    salt: bytes
    wrapped: bytes

    def __post_init__(self) -> None:
        if len(self.salt) != SALT_BYTES or len(self.wrapped) != WRAPPED_BYTES:
            raise IntegrityError("a key slot has the wrong length")

    @property
    def kind(self) -> SlotKind:
        """What opens it."""
        return SlotKind.RECOVERY if self.cost is None else SlotKind.PASSPHRASE


def new_volume_key() -> bytes:
    """Return 32 fresh random bytes."""
    return os.urandom(VOLUME_KEY_BYTES)


def wrap(volume_key: bytes, passphrase: bytes, volume_id: bytes, cost: ScryptCost) -> KeySlot:
    """Return a slot that opens with the passphrase, bound to the volume and to its own cost and salt."""
    return _wrap(volume_key, passphrase, volume_id, cost)


def wrap_recovery(volume_key: bytes, secret: bytes, volume_id: bytes) -> KeySlot:
    """Return a slot that opens with the 32 random bytes of a recovery key, bound to the volume and to its own salt."""
    return _wrap(volume_key, secret, volume_id, None)


def unwrap(slot: KeySlot, secret: bytes, volume_id: bytes) -> bytes:
    """Return the volume key; the secret is the passphrase, or the 32 bytes of the recovery key.

    Raises:
        WrongKeyError: the slot does not open with it.
        StoreError: there is not enough memory to find out.
    """
    try:
        return aead.open_record(_stretch(secret, slot.salt, slot.cost), slot.wrapped, _place(volume_id, slot))
    except IntegrityError as exc:
        raise WrongKeyError("wrong passphrase") from exc


class Keyring:
    """The subkeys of one volume and the keyed functions made from them."""

    __slots__ = ("_band_tokens", "_chunk_ids", "_chunk_keys", "_content_ids", "_masks", "_names", "_records")

    def __init__(self, volume_key: bytes) -> None:
        self._records = aead.RecordKey(_subkey(volume_key, "records"))
        self._chunk_ids = _subkey(volume_key, "chunk ids")
        self._chunk_keys = _ShortHmac(_subkey(volume_key, "chunk keys"))
        self._content_ids = _subkey(volume_key, "content ids")
        self._names = _ShortHmac(_subkey(volume_key, "names"))
        self._band_tokens = _subkey(volume_key, "index tokens")
        self._masks = _subkey(volume_key, "index masks")

    def seal_record(self, place: bytes, plaintext: bytes) -> bytes:
        """Seal a record so that it opens at this place (format version, table and key) only."""
        return self._records.seal(plaintext, place)

    def open_record(self, place: bytes, sealed: bytes) -> bytes:
        """Open a record. Raises IntegrityError."""
        return self._records.open(sealed, place)

    def chunk_id(self, plaintext: bytes | bytearray | memoryview) -> bytes:
        """32 bytes that name a plaintext; without the key nobody can test a guess.

        HMAC-SHA256: 1.8 GB/s here with SHA extensions, against 1.25 GB/s for keyed BLAKE2b.
        """
        return hmac.digest(self._chunk_ids, plaintext, "sha256")

    def seal_chunk(self, chunk_id: bytes, padded: bytes | bytearray) -> bytearray:
        """Seal the padded plaintext of a chunk under the key that belongs to its id."""
        return aead.seal_chunk(self._chunk_key(chunk_id), padded, chunk_id)

    def open_chunk(self, chunk_id: bytes, sealed: bytes | bytearray) -> bytes:
        """Return the padded plaintext of a chunk. Raises IntegrityError."""
        return aead.open_chunk(self._chunk_key(chunk_id), sealed, chunk_id)

    def open_chunk_into(self, chunk_id: bytes, sealed: bytes | bytearray, room: bytearray) -> None:
        """Put the padded plaintext of a chunk into a buffer, which gets its length. Raises IntegrityError."""
        aead.open_chunk_into(self._chunk_key(chunk_id), sealed, chunk_id, room)

    def content_id(self, description: bytes) -> bytes:
        """32 bytes that name a content by the layout of its chunks."""
        return hmac.digest(self._content_ids, description, "sha256")

    def name_token(self, scope: bytes, name: bytes) -> bytes:
        """16 bytes that stand for a name inside a scope: a directory's entry, or an inode's attribute."""
        return self._names.digest(scope + b"\0" + name)[:NAME_TOKEN_BYTES]

    def band_tokens(self, blocks: bytes) -> list[bytes]:
        """Return one 8-byte token for every 16-byte block; AES as a pseudorandom function, in bulk."""
        encrypted = AES.new(self._band_tokens, AES.MODE_ECB).encrypt(blocks)
        return [encrypted[at : at + BAND_TOKEN_BYTES] for at in range(0, len(encrypted), _AES_BLOCK_BYTES)]

    def masks(self, blocks: bytes) -> bytes:
        """Return as many pseudorandom bytes as given, a block for a block; they hide fingerprints in the index."""
        return AES.new(self._masks, AES.MODE_ECB).encrypt(blocks)

    def _chunk_key(self, chunk_id: bytes) -> bytes:
        return self._chunk_keys.digest(chunk_id)


class _ShortHmac:
    """HMAC-SHA256 of short messages (RFC 2104), with the key taken in once.

    For up to 2,047 bytes hashlib keeps the interpreter lock; hmac.digest gives it up however short the message is, and
    with several threads at work getting it back takes longer than the digest.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        block = key.ljust(hashlib.sha256().block_size, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def digest(self, message: bytes) -> bytes:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.digest()


def _subkey(volume_key: bytes, purpose: str) -> bytes:
    derived = HKDF(volume_key, aead.KEY_BYTES, b"dedupfs", SHA256, context=purpose.encode())
    assert isinstance(derived, bytes)
    return derived


def _wrap(volume_key: bytes, secret: bytes, volume_id: bytes, cost: ScryptCost | None) -> KeySlot:
    blank = KeySlot(cost, os.urandom(SALT_BYTES), bytes(WRAPPED_BYTES))
    sealed = aead.seal_record(_stretch(secret, blank.salt, cost), volume_key, _place(volume_id, blank))
    return replace(blank, wrapped=sealed)


def _stretch(secret: bytes, salt: bytes, cost: ScryptCost | None) -> bytes:
    if cost is None:
        derived = HKDF(secret, aead.KEY_BYTES, salt, SHA256, context=b"recovery slot")
        assert isinstance(derived, bytes)
        return derived
    # n blocks, p lanes, and two blocks to work in.
    memory = 128 * cost.r * (cost.n + cost.p + 2)
    try:
        return hashlib.scrypt(secret, salt=salt, n=cost.n, r=cost.r, p=cost.p, maxmem=memory, dklen=aead.KEY_BYTES)
    except (MemoryError, ValueError) as exc:
        # OpenSSL tells of memory that it does not get as of parameters that it does not like.
        raise StoreError(f"a key slot needs {memory >> 20} MiB of memory to be tried; they are not to be had") from exc


def _place(volume_id: bytes, slot: KeySlot) -> bytes:
    """Associated data of a slot: it opens in this volume only, and as what it was made."""
    if slot.cost is None:
        return b"dedupfs recovery slot 1\0" + volume_id + slot.salt
    return b"dedupfs key slot 1\0" + volume_id + slot.salt + b"%d,%d,%d" % (slot.cost.n, slot.cost.r, slot.cost.p)
