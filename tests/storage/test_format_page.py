"""docs/format.md is enough to read a volume: a reader made from that page alone, without anything of dedupfs."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

FROZEN = Path(__file__).parents[1] / "frozen" / "format-4"
ROOT = 1


def _hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt, info).derive(key)


def _open_record(key: bytes, sealed: bytes, associated_data: bytes) -> bytes:
    """XAES-256-GCM as c2sp.org describes it: a key derived by CMAC from the first half of the nonce."""
    assert sealed[0] == 2
    nonce = sealed[1:25]
    aes = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    doubled = int.from_bytes(aes.update(bytes(16)), "big") << 1
    mask = ((doubled ^ 0x87 if doubled >> 128 else doubled) & ((1 << 128) - 1)).to_bytes(16, "big")
    derived = b""
    for number in (1, 2):
        block = struct.pack(">HBB", number, 0x58, 0) + nonce[:12]
        derived += aes.update(bytes(a ^ b for a, b in zip(block, mask, strict=True)))
    return AESGCM(derived).decrypt(nonce[12:], sealed[25:], b"\x02" + associated_data)


def _volume_key(header: dict[str, Any], passphrase: str, recovery_key: str) -> list[bytes]:
    """Return what each slot of the header holds."""
    held = []
    volume_id = bytes.fromhex(header["volume_id"])
    for slot in header["slots"]:
        salt, wrapped = bytes.fromhex(slot["salt"]), bytes.fromhex(slot["wrapped"])
        if slot["kind"] == "passphrase":
            n, r, p = slot["n"], slot["r"], slot["p"]
            key = hashlib.scrypt(passphrase.encode(), salt=salt, n=n, r=r, p=p, maxmem=1 << 30, dklen=32)
            place = b"dedupfs key slot 1\0" + volume_id + salt + b"%d,%d,%d" % (n, r, p)
        else:
            crockford, rfc4648 = "0123456789ABCDEFGHJKMNPQRSTVWXYZ", "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
            text = recovery_key.replace("-", "").translate(str.maketrans(crockford, rfc4648))
            blocks = [base64.b32decode(text[at : at + 16]) for at in range(0, 64, 16)]
            key = _hkdf(b"".join(block[:8] for block in blocks), salt, b"recovery slot")
            place = b"dedupfs recovery slot 1\0" + volume_id + salt
        held.append(_open_record(key, wrapped, place))
    return held


class Reader:
    """A volume, read from its database."""

    def __init__(self, directory: Path, volume_key: bytes) -> None:
        self._records = _hkdf(volume_key, b"dedupfs", b"records")
        self._chunk_keys = _hkdf(volume_key, b"dedupfs", b"chunk keys")
        self._environment = lmdb.open(str(directory), readonly=True, lock=False, max_dbs=32)

    def close(self) -> None:
        self._environment.close()

    def get(self, table: bytes, key: bytes) -> bytes:
        with self._environment.begin(db=self._environment.open_db(table, create=False)) as transaction:
            sealed = bytes(transaction.get(key, b""))
        if table == b"chunks":
            return sealed
        record = _open_record(self._records, sealed, b"dedupfs record 4 " + table + b"\0" + key)
        assert record[0] == 1
        return record[1:]

    def entries(self, directory: int) -> Iterator[tuple[bytes, int]]:
        """Yield names and inodes."""
        prefix = struct.pack(">Q", directory)
        with self._environment.begin(db=self._environment.open_db(b"entries", create=False)) as transaction:
            keys = [bytes(key) for key, _ in transaction.cursor() if bytes(key).startswith(prefix)]
        for key in keys:
            record = self.get(b"entries", key)
            inode, _type_bits, length = struct.unpack_from(">QII", record)
            assert len(record) == 16 + length
            yield record[16:], inode

    def files(self, directory: int = ROOT, above: bytes = b"") -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield every file below a directory, with what its inode says and its bytes if they are stored exactly."""
        for name, number in self.entries(directory):
            record = self.get(b"inodes", struct.pack(">Q", number))
            fields = struct.unpack_from(">IIIQIQqqqQ", record)
            mode, uid, gid, size, mtime_ns = fields[0], fields[1], fields[2], fields[5], fields[7]
            if mode >> 12 == 0o4:
                yield from self.files(number, above + name + b"/")
            elif mode >> 12 == 0o10:
                content = record[65:97] if record[64] else None
                path = (above + name).decode("latin-1")
                data = b"" if content is None else self.content(content)
                yield path, {"mode": mode, "owner": [uid, gid], "size": size, "mtime_ns": mtime_ns, "data": data}

    def content(self, content: bytes) -> bytes | None:
        """Return the bytes of an exact content; of a rendition those of its representative count, so None."""
        record = self.get(b"contents", content)
        if record[0] == 2:
            representative = record[17:49]
            assert self.content(representative), "it rests on bytes that are stored"
            return None
        size, count = struct.unpack_from(">QI", record, 10)
        data = bytearray(size)
        for number in range(count):
            offset, length, chunk = struct.unpack_from(">QI32s", record, 22 + 44 * number)
            key = hmac.digest(self._chunk_keys, chunk, "sha256")
            sealed = self.get(b"chunks", chunk)
            assert sealed[0] == 1
            plain = AESGCM(key).decrypt(bytes(12), sealed[1:], b"\x01" + chunk)
            assert int.from_bytes(plain[:4], "big") >= length
            data[offset : offset + length] = plain[4 : 4 + length]
        return bytes(data)


def test_a_reader_made_from_the_page_reads_the_frozen_volume(tmp_path: Path) -> None:
    directory = Path(shutil.copytree(FROZEN, tmp_path / "volume"))
    about = json.loads((directory / "tree.json").read_text(encoding="utf-8"))
    header = json.loads((directory / "volume.json").read_text(encoding="utf-8"))
    checksum = header.pop("checksum")
    assert checksum == hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()
    held = _volume_key(header, about["passphrase"], about["recovery_key"])
    assert len(held) > 1 and len(set(held)) == 1

    reader = Reader(directory, held[0])
    try:
        found = dict(reader.files())
    finally:
        reader.close()
    wanted = {each["path"]: each for each in about["tree"] if each["mode"].startswith("0o100")}
    assert sorted(found) == sorted(wanted)
    for path, file in found.items():
        said = wanted[path]
        assert (oct(file["mode"]), file["owner"]) == (said["mode"], said["owner"])
        assert (file["size"], file["mtime_ns"]) == (said["size"], said["mtime_ns"])
        if said.get("kind") == "rendition":
            assert file["data"] is None
        else:
            assert hashlib.sha256(file["data"]).hexdigest() == said["sha256"]


def test_the_page_tells_of_every_table() -> None:
    from dedupfs.storage.records import FORMAT_VERSION, TABLES

    page = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")
    assert f"format version {FORMAT_VERSION} " in page
    assert [table.name for table in TABLES if f"| `{table.name}` |" not in page] == []
