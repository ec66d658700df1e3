"""The imports of dedupfs keep to the order of its layers; reads the sources and imports nothing."""

from __future__ import annotations

import ast
from pathlib import Path, PurePosixPath

import pytest

PACKAGE = Path(__file__).parents[1] / "dedupfs"

# A layer may import those to its right, never one to its left.
LAYERS = ("cli", "mount", "filesystem", "ingest", "storage", "crypto")

# Imported by every layer; they see nothing but each other.
SHARED = ("errors", "model", "__version__")

# Libraries that stay behind one module or two, by the only files (or folder) that may import them.
BEHIND = {
    "fuse": ("mount/libfuse.py",),
    "imagehash": ("ingest/fingerprint.py",),
    "lmdb": ("storage/lmdb_engine.py", "storage/lmdb_snapshot.py"),
    "Crypto": ("crypto/",),
    "cryptography": ("crypto/",),
}

# Pure functions of bytes and pixels: they touch no storage and do not know what calls them.
PURE = ("sniff", "decode", "fingerprint", "verify")

SOURCES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES)
def test_imports_keep_to_the_layers(path: str) -> None:
    assert violations(path, (PACKAGE / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("storage/chunks.py", "from dedupfs.ingest import sniff"),
        ("storage/chunks.py", "from dedupfs import mount"),
        ("storage/chunks.py", "from ..filesystem.inodes import Inodes"),
        ("storage/chunks.py", "def f():\n    import dedupfs.cli.main"),
        ("ingest/sniff.py", "from dedupfs.storage.chunks import Chunk"),
        ("ingest/verify.py", "from . import pipeline"),
        ("crypto/aead.py", "import lmdb"),
        ("filesystem/filesystem.py", "from fuse import FuseOSError"),
        ("storage/records.py", "from Crypto.Cipher import AES"),
        ("errors.py", "from dedupfs.crypto import keys"),
    ],
)
def test_a_wrong_import_is_found(path: str, source: str) -> None:
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("cli/mount.py", "from dedupfs.mount.daemon import serve\nfrom dedupfs.crypto import keys"),
        ("mount/libfuse.py", "import fuse\nfrom dedupfs.errors import StoreError"),
        ("ingest/pipeline.py", "from dedupfs.storage.chunks import Chunk\nfrom . import verify"),
        ("crypto/keys.py", "from Crypto.Protocol.KDF import scrypt\nfrom ..model import ChunkId"),
        ("model.py", "from dedupfs.errors import UsageError\nimport enum"),
    ],
)
def test_right_imports_pass(path: str, source: str) -> None:
    assert violations(path, source) == []


def violations(path: str, source: str) -> list[str]:
    """Return what is wrong with the imports of one module, given by its path inside the package."""
    own = path.removesuffix(".py").split("/")[0]
    module = PurePosixPath(path).stem
    found = []
    for name in imported(path, source):
        top, *rest = name.split(".")
        if top in BEHIND and not path.startswith(BEHIND[top]):
            found.append(f"{path} imports {name}, which belongs into {' or '.join(BEHIND[top])}")
        if top != "dedupfs" or not rest or rest[0] in SHARED:
            continue
        if own in LAYERS and rest[0] in LAYERS and LAYERS.index(rest[0]) >= LAYERS.index(own):
            if own == "ingest" and module in PURE and (rest[0] == "storage" or rest[1:2] == ["pipeline"]):
                found.append(f"{path} is pure and imports {name}")
            continue
        found.append(f"{path} imports {name}, which is not below it")
    return found


def imported(path: str, source: str) -> set[str]:
    """Return the absolute names of everything a module imports, inside its functions too.

    `from a import b` counts as a.b, since b can be a module; a.b.c then counts once, not again as a.b.
    """
    package = ["dedupfs", *path.split("/")[:-1]]
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            parts = [*base, *(node.module.split(".") if node.module else [])]
            names.update(".".join([*parts, alias.name]) for alias in node.names)
    return names
