"""Chunks: message-locked ciphertexts, one for each distinct plaintext, with a count of the extents that name it.

A chunk's id is a keyed digest of its plaintext and its key is derived from the id, so that equal plaintexts of one
volume meet in one ciphertext while nobody without the volume key can test a guess (message-locked encryption with a
secret; compare Bellare, Keelveedhi, Ristenpart, "DupLESS", 2013). The plaintext is padded so that the stored value
fills whole LMDB pages, which hides its length at no cost.

`prepare` does the expensive work (digest, encryption, proof) outside any transaction; `link` and `unlink` only count.

Damage heals when the same bytes are written again. A count that cannot be read keeps nobody from storing or removing
files: it is taken to be far too high, so that no chunk goes while somebody needs it, until `repair` counts anew.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from dedupfs.crypto.aead import CHUNK_OVERHEAD_BYTES
from dedupfs.errors import IntegrityError
from dedupfs.model import ChunkId
from dedupfs.storage import codec, records
from dedupfs.storage.records import ChunkRefs
from dedupfs.storage.store import Store, Transaction

log = logging.getLogger(__name__)

_LENGTH_BYTES = 4
_PAGE_BYTES = 4096
_PAGE_HEADER_BYTES = 16
_CHUNK_PAGES = 64
CHUNK_BYTES = _CHUNK_PAGES * _PAGE_BYTES - _PAGE_HEADER_BYTES - CHUNK_OVERHEAD_BYTES - _LENGTH_BYTES
"""Longest plaintext: with it a stored chunk is exactly 64 pages, about 256 KiB. Measured: the database stays
at 1.05 of the live size after churn at this length, 1.17 when whole files are one value; 64 KiB is 3.6 times slower."""
_IN_PAGE_SIZES = (256, 512, 1024, 1998)
"""Stored sizes of chunks that share a page with others; 1998 is the largest value LMDB keeps inside a page."""


UNKNOWN_USERS = 1 << 48
"""Users taken for granted where their count is damaged: more than there can be, and far from the end of its field."""


@dataclass(frozen=True, slots=True)
class PreparedChunk:
    """A plaintext on its way into the store; `sealed` is None when a sound ciphertext of it is there already."""

    id: ChunkId
    plaintext: bytes | bytearray | memoryview
    """A bytearray is the caller's own and must stay as it is until the chunk is linked."""
    sealed: bytes | bytearray | None
    is_new: bool = False
    """There was no ciphertext of it, damaged or sound."""


class Chunks:
    """The tables `chunks` and `chunk_refs`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rooms = _Rooms()

    def identify(self, plaintext: bytes | bytearray | memoryview) -> ChunkId:
        """Return the id that the plaintext has or would have."""
        return ChunkId(self._store.keyring.chunk_id(plaintext))

    def prepare(self, data: bytes | bytearray | memoryview, known_id: ChunkId | None = None) -> PreparedChunk:
        """Return the chunk ready to be linked; `known_id` is what `identify` has returned for these very bytes.

        A ciphertext that is already stored is opened once and compared: what turns out damaged is sealed afresh, so
        that writing the same bytes again heals them instead of joining the damage. A new ciphertext is opened once too
        before anybody drops the plaintext, which notices memory that flips bits.
        """
        if not 0 < len(data) <= CHUNK_BYTES:
            raise ValueError(f"a chunk of {len(data)} bytes")
        chunk = self.identify(data) if known_id is None else known_id
        padded = _pad(data, self._rooms.padded)
        stored = self._store.get(records.CHUNKS, chunk)
        if stored is not None and self._holds(chunk, stored, padded):
            return PreparedChunk(chunk, data, None)
        sealed = self._store.keyring.seal_chunk(chunk, padded)
        if not self._holds(chunk, sealed, padded):
            raise IntegrityError("a chunk did not open to what was sealed; the memory of this machine may be faulty")
        return PreparedChunk(chunk, data, sealed, is_new=stored is None)

    def read(self, chunk: ChunkId) -> memoryview:
        """Return the plaintext. Raises IntegrityError when it is missing or damaged."""
        sealed = self._store.get(records.CHUNKS, chunk)
        if sealed is None:
            raise IntegrityError("a chunk is missing")
        return self.open_sealed(chunk, sealed)

    def link(self, transaction: Transaction, prepared: PreparedChunk) -> None:
        """Count one more extent and store the ciphertext where that is needed.

        Between `prepare` and here the last other user may have gone and taken the ciphertext along; then it is sealed
        now, from the plaintext.
        """
        refs = self.references(prepared.id, is_new=prepared.is_new)
        sealed = prepared.sealed
        if sealed is None and refs is None:
            sealed = self._store.keyring.seal_chunk(prepared.id, _pad(prepared.plaintext, self._rooms.padded))
        if sealed is not None:
            transaction.put(records.CHUNKS, prepared.id, sealed)
        if refs is None:
            refs = ChunkRefs(0, stored_size(len(prepared.plaintext)))
            transaction.count("chunks", 1)
            transaction.count("stored_bytes", refs.stored_bytes)
        self._put(transaction, prepared.id, refs.extents + 1, refs)

    def link_again(self, transaction: Transaction, chunk: ChunkId) -> None:
        """Count one more extent of a chunk that is in use already."""
        refs = self.references(chunk) or self._uncounted(0)
        self._put(transaction, chunk, refs.extents + 1, refs)

    def heal(self, transaction: Transaction, prepared: PreparedChunk, *, is_named: bool = False) -> None:
        """Replace the ciphertext of a chunk in use, where `prepare` found it damaged or missing.

        With `is_named` a content is known to name it: its count may be missing too, and is damaged from then on.
        """
        if prepared.sealed is not None and (is_named or self.references(prepared.id) is not None):
            transaction.put(records.CHUNKS, prepared.id, prepared.sealed)

    def unlink(self, transaction: Transaction, chunk: ChunkId) -> None:
        """Count one extent less and drop the ciphertext with the last."""
        refs = self.references(chunk)
        if refs is None:
            log.error("a chunk that was in use is gone with its count")
            return
        if refs.extents > 1:
            self._put(transaction, chunk, refs.extents - 1, refs)
            return
        transaction.delete(records.CHUNK_REFS, chunk)
        transaction.delete(records.CHUNKS, chunk)
        transaction.count("chunks", -1)
        transaction.count("stored_bytes", -refs.stored_bytes)

    def references(self, chunk: ChunkId, *, is_new: bool = False) -> ChunkRefs | None:
        """Return how often the chunk is named, UNKNOWN_USERS where that is damaged, or None when it is not stored.

        Of one that was new a moment ago there is no ciphertext without a count: whoever has stored it since has
        counted it.
        """
        try:
            noted = self._store.get(records.CHUNK_REFS, chunk)
            if noted is not None:
                return codec.decode_chunk_refs(noted)
            if is_new:
                return None
        except IntegrityError:
            noted = b""
        stored = self._store.get(records.CHUNKS, chunk)
        if noted is None and stored is None:
            return None
        return self._uncounted(len(stored or b""))

    @staticmethod
    def _uncounted(stored_bytes: int) -> ChunkRefs:
        log.error("the count of a chunk of %d bytes is damaged; it stays until `dedupfs check --repair`", stored_bytes)
        return ChunkRefs(UNKNOWN_USERS, stored_bytes)

    def _put(self, transaction: Transaction, chunk: ChunkId, extents: int, refs: ChunkRefs) -> None:
        transaction.put(records.CHUNK_REFS, chunk, codec.encode_chunk_refs(ChunkRefs(extents, refs.stored_bytes)))

    def _holds(self, chunk: ChunkId, sealed: bytes | bytearray, padded: bytearray) -> bool:
        opened = self._rooms.opened
        try:
            self._store.keyring.open_chunk_into(chunk, sealed, opened)
        except IntegrityError:
            return False
        # The padding is compared along: cutting the plaintext out first would copy all of it.
        return opened == padded

    def open_sealed(self, chunk: ChunkId, sealed: bytes) -> memoryview:
        """Return the plaintext of a stored value, without its padding. Raises IntegrityError."""
        padded = self._store.keyring.open_chunk(chunk, sealed)
        length = int.from_bytes(padded[:_LENGTH_BYTES], "big")
        if length > len(padded) - _LENGTH_BYTES:
            raise IntegrityError("a chunk claims to be longer than it is")
        return memoryview(padded)[_LENGTH_BYTES : _LENGTH_BYTES + length]


def stored_size(length: int) -> int:
    """Return the bytes that a chunk of so many plaintext bytes takes in the database."""
    raw = length + _LENGTH_BYTES + CHUNK_OVERHEAD_BYTES
    for size in _IN_PAGE_SIZES:
        if raw <= size:
            return size
    pages = -(-(raw + _PAGE_HEADER_BYTES) // _PAGE_BYTES)
    return pages * _PAGE_BYTES - _PAGE_HEADER_BYTES


class _Rooms(threading.local):
    """Buffers that each thread uses again and again: fresh memory for each chunk takes longer than to seal it."""

    def __init__(self) -> None:
        self.padded = bytearray()
        self.opened = bytearray()


def _pad(plaintext: bytes | bytearray | memoryview, room: bytearray) -> bytearray:
    """Put a plaintext into a buffer as it is sealed: its length, itself, and zero bytes that fill a whole value."""
    length = len(plaintext)
    room[:] = length.to_bytes(_LENGTH_BYTES, "big")
    room += plaintext
    room += bytes(stored_size(length) - CHUNK_OVERHEAD_BYTES - _LENGTH_BYTES - length)
    return room
