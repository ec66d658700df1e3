"""What whoever has the disk can see: no names, no bytes of any file, no fingerprint, no number of anything."""

from __future__ import annotations

import hashlib
import itertools
import random

import pytest

from dedupfs.crypto import aead, keys
from dedupfs.crypto.keys import Keyring
from dedupfs.model import Fingerprint
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.records import Xattr
from dedupfs.storage.volume import Volume, unlock
from tests.conftest import PASSPHRASE
from tests.storage.tree import Tree

RUN_BYTES = 16
TEXT = b"It was the best of times, it was the worst of times, it was the age of wisdom. " * 400
NOISE = random.Random(3).randbytes(300_000)
NAMES = [b"holiday-at-the-lake-2016.jpg", b"Kontoauszug Oktober.pdf", "Geburtstag äöü.png".encode()]
FINGERPRINT = Fingerprint(random.Random(4).randbytes(32))


@pytest.fixture
def disk(volume: Volume, tree: Tree) -> bytes:
    """Every byte of every file of a volume that holds things we know."""
    contents = [tree.add(name, data) for name, data in zip(NAMES, [TEXT, NOISE, NOISE[:5000]], strict=True)]
    tree.found_cluster(contents[1], FINGERPRINT)
    tree.make_rendition(contents[2], contents[1], own=TEXT[:500])
    with volume.store.transaction() as transaction:
        xattr = Xattr(b"user.comment.of.mine", b"seen by nobody else")
        volume.metadata.put_xattr(transaction, ROOT, xattr)
    volume.store.commit()
    tree.add(b"short-lived-name.txt", TEXT[:3000])
    volume.store.commit()
    tree.remove(b"short-lived-name.txt")
    volume.store.commit()
    return b"".join(path.read_bytes() for path in sorted(volume.directory.iterdir()))


def test_names_and_attributes_do_not_show(disk: bytes) -> None:
    for known in [*NAMES, b"short-lived-name.txt", b"user.comment", b"seen by nobody", b"verified", PASSPHRASE]:
        assert known not in disk, known


def test_no_run_of_any_file_shows(disk: bytes) -> None:
    runs = {data[at : at + RUN_BYTES] for data in (TEXT[:200], NOISE) for at in range(len(data) - RUN_BYTES + 1)}
    seen = {disk[at : at + RUN_BYTES] for at in range(len(disk) - RUN_BYTES + 1)}
    assert not runs & seen


def test_no_fingerprint_shows(disk: bytes) -> None:
    assert not any(FINGERPRINT[at : at + 8] in disk for at in range(25))


def test_no_digest_that_anybody_can_compute_shows(disk: bytes, tree: Tree) -> None:
    for data, function in itertools.product([TEXT, NOISE, *NAMES, FINGERPRINT], ["md5", "sha1", "sha256", "blake2b"]):
        digest = hashlib.new(function, data).digest()
        assert digest[:RUN_BYTES] not in disk
        assert digest[:RUN_BYTES].hex().encode() not in disk


def test_the_volume_key_does_not_show(disk: bytes, volume: Volume) -> None:
    volume_key = unlock(volume.directory, PASSPHRASE)
    assert volume_key not in disk
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(aead, "RecordKey", lambda key: key)
        patched.setattr(keys, "_ShortHmac", lambda key: key)
        keyring = Keyring(volume_key)
    for name in Keyring.__slots__:
        assert getattr(keyring, name) not in disk
