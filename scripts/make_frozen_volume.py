"""Make a small volume that is kept for good, and write down what it holds: scripts/make_frozen_volume.

`FROZEN/format-N` gets `volume.json`, its copy and `data.mdb`, which every later version has to open or to refuse by
name, and `tree.json`: the keys that open it, and every name with its attributes and what its bytes add up to. Nothing
here mounts; the volume is made and read through the same FileSystem as under a mount.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from soak_work import draw

from dedupfs.crypto import recovery
from dedupfs.crypto.keys import ScryptCost
from dedupfs.filesystem.filesystem import FileSystem
from dedupfs.filesystem.survey import kind_of, walk
from dedupfs.ingest.pipeline import Pipeline
from dedupfs.ingest.renderer import Renderer, codecs
from dedupfs.ingest.workers import WorkerPool
from dedupfs.model import InodeNo, Policy
from dedupfs.storage.check import check
from dedupfs.storage.lmdb_engine import LOCK_FILE
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.records import FORMAT_VERSION, Config
from dedupfs.storage.volume import Volume, compact_volume, create_volume, open_volume, unlock

FROZEN = Path(__file__).parents[1] / "tests" / "frozen"
TREE_FILE = "tree.json"
PASSPHRASE = "kept for good"
LABEL = "frozen \N{SNOWFLAKE}"
UID, GID = 1000, 1001
MTIME_NS = 1_500_000_000_123_456_789


def main() -> int:
    """Make the volume of this format anew, in the place of the one that is there."""
    parser = argparse.ArgumentParser(
        prog="scripts/make_frozen_volume",
        description=f"Make {FROZEN.name}/format-{FORMAT_VERSION} anew. Once a version of dedupfs with this format is"
        " out, the volume must not be made again: it is there to show that what that version wrote can still be read.",
    )
    parser.parse_args()
    target = FROZEN / f"format-{FORMAT_VERSION}"
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "volume"
        secret = recovery.new_secret()
        create_volume(made, PASSPHRASE.encode(), Config(Policy.VERIFIED, LABEL), ScryptCost(n=2**10), secret)
        with opened(made, read_only=False) as (_, filesystem):
            fill(filesystem)
        compact_volume(made, unlock(made, PASSPHRASE.encode()), _require_sound)
        with opened(made) as (volume, filesystem):
            tree = tree_of(volume, filesystem)
        (made / LOCK_FILE).unlink()
        about = {
            "passphrase": PASSPHRASE,
            "recovery_key": recovery.encode(secret),
            "label": LABEL,
            "made_with": codecs().decode(),
            "tree": tree,
        }
        (made / TREE_FILE).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        target.parent.mkdir(exist_ok=True)
        shutil.copytree(made, target)
    kinds = sorted(name["kind"] for name in tree if "kind" in name)
    print(f"{target}: {(target / 'data.mdb').stat().st_size} bytes, {kinds}")
    return 0


def fill(filesystem: FileSystem) -> None:
    """Put in one of everything that a volume can hold."""
    picture = draw(5).resize((240, 180), Image.Resampling.LANCZOS)
    exif = Image.Exif()
    exif[0x010E] = "kept for good"
    camera = _jpeg(picture, 85, exif)
    with Image.open(io.BytesIO(camera)) as shot:
        smaller = _jpeg(shot.resize((120, 90), Image.Resampling.LANCZOS), 80, None)

    photos = filesystem.make_directory(ROOT, b"photos", 0o2750, UID, GID)
    empty = filesystem.make_directory(ROOT, b"empty folder", 0o700, UID, GID)
    original = _put(filesystem, photos, b"original.jpg", camera)
    _put(filesystem, photos, b"copy of the original.jpg", camera)
    _put(filesystem, photos, b"smaller.jpg", smaller)
    notes = _put(filesystem, ROOT, b"notes.txt", b"written by hand\n" * 500, mode=0o640)
    filesystem.link(notes, photos, b"notes, too.txt")
    filesystem.set_xattr(notes, b"user.comment", b"two names, one attribute\0")
    filesystem.set_xattr(photos, b"user.dedupfs-test", bytes(range(256)))
    _put(filesystem, ROOT, "f\xfcr sp\xe4ter".encode("latin-1"), b"a name that is no UTF-8\n")
    _put(filesystem, ROOT, b"nothing", b"")
    _put(filesystem, ROOT, b"broken.png", b"\x89PNG\r\n\x1a\n" + b"looks like a picture and is none")
    sparse, handle = filesystem.create(ROOT, b"sparse", 0o600, UID, GID)
    # At the start of a chunk, so that no zero bytes are stored with it.
    filesystem.files.write(handle, 11 << 18, b"the end")
    filesystem.files.release(handle)
    filesystem.make_link(ROOT, b"link", b"photos/original.jpg", UID, GID)
    filesystem.make_node(ROOT, b"pipe", stat.S_IFIFO | 0o620, UID, GID)
    _put(filesystem, ROOT, b"removed", b"gone before it was frozen" * 1000)
    filesystem.settle()
    filesystem.unlink(ROOT, b"removed")
    for number in (original, notes, sparse, empty, photos, ROOT):
        filesystem.set_times(number, MTIME_NS - 1, MTIME_NS + number)
    filesystem.settle()


def tree_of(volume: Volume, filesystem: FileSystem) -> list[dict[str, Any]]:
    """Return every name of a volume with all that it stands for, in the order of the names."""
    tree = list(_below(filesystem, b"", ROOT))
    kinds = {
        file.path.decode("latin-1"): kind_of(
            None if file.inode.content is None else volume.contents.get(file.inode.content)
        )
        for file in walk(volume)
    }
    for name in tree:
        if name["path"] in kinds:
            name["kind"] = kinds[name["path"]]
    return sorted(tree, key=lambda name: str(name["path"]))


@contextmanager
def opened(directory: Path, *, read_only: bool = True) -> Iterator[tuple[Volume, FileSystem]]:
    """Open a volume with PASSPHRASE as a mount does."""
    volume = open_volume(directory, unlock(directory, PASSPHRASE.encode()), read_only=read_only)
    renderer = Renderer(volume.contents, WorkerPool(1))
    filesystem = FileSystem(volume, Pipeline(volume, WorkerPool(1), renderer), renderer)
    try:
        yield volume, filesystem
    finally:
        filesystem.close()


def _below(filesystem: FileSystem, path: bytes, number: InodeNo) -> Iterator[dict[str, Any]]:
    attributes = filesystem.attributes(number)
    name: dict[str, Any] = {
        "path": path.decode("latin-1"),
        "mode": oct(attributes.mode),
        "owner": [attributes.uid, attributes.gid],
        "links": attributes.nlink,
        "size": attributes.size,
        "mtime_ns": attributes.mtime_ns,
        "xattrs": {key.decode(): filesystem.get_xattr(number, key).hex() for key in filesystem.list_xattrs(number)},
    }
    if stat.S_ISLNK(attributes.mode):
        name["target"] = filesystem.read_link(number).decode()
    elif stat.S_ISREG(attributes.mode):
        name["sha256"] = hashlib.sha256(read(filesystem, number)).hexdigest()
    yield name
    if stat.S_ISDIR(attributes.mode):
        for entry in filesystem.list_directory(number):
            if entry.name not in (b".", b".."):
                below = path + b"/" + entry.name if path else entry.name
                yield from _below(filesystem, below, entry.inode)


def read(filesystem: FileSystem, number: InodeNo) -> bytes:
    """Return the bytes of a file."""
    handle = filesystem.files.open(number, readable=True, writable=False)
    try:
        return filesystem.files.read(handle, 0, filesystem.attributes(number).size)
    finally:
        filesystem.files.release(handle)


def _put(filesystem: FileSystem, parent: InodeNo, name: bytes, data: bytes, *, mode: int = 0o644) -> InodeNo:
    number, handle = filesystem.create(parent, name, mode, UID, GID)
    if data:
        filesystem.files.write(handle, 0, data)
    filesystem.files.release(handle)
    # The next one is to find this one decided.
    filesystem.settle()
    filesystem.set_times(number, MTIME_NS, MTIME_NS)
    return number


def _jpeg(picture: Image.Image, quality: int, exif: Image.Exif | None) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality, **({} if exif is None else {"exif": exif}))
    return out.getvalue()


def _require_sound(volume: Volume) -> None:
    problems = check(volume, data=True).problems
    assert not problems, problems


if __name__ == "__main__":
    sys.exit(main())
