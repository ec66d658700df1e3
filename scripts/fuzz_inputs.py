"""Hostile pictures: real files of every format, and what chance and malice make of them. Pure, from a seed."""

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from dedupfs.errors import DedupfsError
from dedupfs.ingest import jpeg, png, webp

MAX_MUTATED_BYTES = 1 << 20
"""Repeated parts would add up to files that are too large to be taken for pictures."""
SIDE_PX = 160
"""Small, so that many are tried; the parsers see the same structures as in large ones."""

_WAYS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("RGB", "JPEG", {"quality": 85}),
    ("RGB", "JPEG", {"quality": 60, "progressive": True, "optimize": True}),
    ("RGB", "JPEG", {"quality": 90, "subsampling": 0, "comment": b"a comment", "restart_marker_blocks": 4}),
    ("L", "JPEG", {"quality": 75}),
    ("CMYK", "JPEG", {"quality": 75}),
    ("RGB", "PNG", {}),
    ("RGBA", "PNG", {"compress_level": 1}),
    ("P", "PNG", {"optimize": True}),
    ("L", "PNG", {"bits": 4}),
    ("I;16", "PNG", {}),
    ("RGB", "WEBP", {"quality": 75}),
    ("RGBA", "WEBP", {"lossless": True}),
    ("RGB", "TIFF", {"compression": "tiff_lzw"}),
    ("RGB", "BMP", {}),
    ("P", "GIF", {}),
    ("RGB", "AVIF", {"quality": 60, "speed": 10}),
)


def make_seeds(folder: Path) -> list[bytes]:
    """Return every photo of a folder in every format, with metadata."""
    made = []
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a maker"
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in (".jpg", ".jpeg", ".png"):
            continue
        with Image.open(path) as image:
            small = image.convert("RGB")
        small.thumbnail((SIDE_PX, SIDE_PX))
        for mode, picture_format, options in _WAYS:
            out = io.BytesIO()
            picture = small.convert("L").convert("I;16") if mode == "I;16" else small.convert(mode)
            if picture_format in ("JPEG", "PNG", "WEBP", "AVIF"):
                options = {**options, "exif": exif.tobytes()}
            picture.save(out, picture_format, **options)
            made.append(out.getvalue())
        frames = [small.rotate(angle) for angle in (0, 90)]
        for picture_format in ("GIF", "WEBP", "PNG", "TIFF", "MPO"):
            out = io.BytesIO()
            frames[0].save(out, picture_format, save_all=True, append_images=frames[1:])
            made.append(out.getvalue())
    return made


Mutation = Callable[[random.Random, bytearray, bytes], bytearray]

_EDGES = (0, 1, 0x7F, 0x80, 0xFF)


def _flip_bits(chance: random.Random, data: bytearray, other: bytes) -> bytearray:
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return data


def _flip_early_bits(chance: random.Random, data: bytearray, other: bytes) -> bytearray:
    for _ in range(chance.choice((1, 2, 4))):
        data[chance.randrange(min(len(data), 700))] ^= 1 << chance.randrange(8)
    return data


def _set_edges(chance: random.Random, data: bytearray, other: bytes) -> bytearray:
    at = chance.randrange(len(data))
    for offset in range(at, min(at + chance.choice((1, 2, 4, 8)), len(data))):
        data[offset] = chance.choice(_EDGES)
    return data


def _cut(chance: random.Random, data: bytearray, other: bytes) -> bytearray:
    return data[: chance.randrange(len(data) + 1)]


def _remove(chance: random.Random, data: bytearray, other: bytes) -> bytearray:
    at = chance.randrange(len(data))
    del data[at : at + chance.choice((1, 2, 16, 256, 4096))]
    return data


def _repeat(chance: random.Random, data: bytearray, other: bytes) -> bytearray:
    at = chance.randrange(len(data))
    piece = data[at : at + chance.choice((1, 4, 64, 1024))]
    data[at:at] = piece * chance.choice((1, 2, 50))
    return data


def _splice(chance: random.Random, data: bytearray, other: bytes) -> bytearray:
    at = chance.randrange(len(data))
    return data[:at] + other[chance.randrange(len(other)) :]


def _append(chance: random.Random, data: bytearray, other: bytes) -> bytearray:
    return data + chance.choice((other, chance.randbytes(chance.choice((1, 100, 5000))), bytes(1000)))


def _shuffle_parts(chance: random.Random, data: bytearray, other: bytes) -> bytearray:
    """Remove, repeat or swap whole segments or chunks, so that what is inside stays sound."""
    bounds = _bounds(bytes(data))
    if len(bounds) < 3:
        return _splice(chance, data, other)
    parts = [data[start:stop] for start, stop in itertools.pairwise(bounds)]
    at = chance.randrange(len(parts))
    what = chance.randrange(3)
    if what == 0:
        del parts[at]
    elif what == 1:
        parts[at:at] = [parts[at]] * chance.choice((1, 3, 100))
    else:
        with_at = chance.randrange(len(parts))
        parts[at], parts[with_at] = parts[with_at], parts[at]
    return bytearray().join(parts)


def _bounds(data: bytes) -> list[int]:
    try:
        if data[:2] == b"\xff\xd8":
            segments, end = jpeg.walk(data)
            return [0, *(segment.start for segment in segments), end, len(data)]
        if data[:4] == b"\x89PNG":
            return [0, *(chunk.start for chunk in png.chunks_of(data)), len(data)]
        if data[:4] == b"RIFF":
            span = webp.image_span(data)
            return [0, 12, *(span or ()), len(data)]
    except DedupfsError:
        pass
    return []


MUTATIONS: tuple[Mutation, ...] = (
    _flip_bits,
    _flip_early_bits,
    _flip_early_bits,
    _set_edges,
    _cut,
    _remove,
    _repeat,
    _splice,
    _append,
    _shuffle_parts,
    _shuffle_parts,
)


def inputs(seeds: list[bytes], count: int, seed: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield (original, input): a sound file, and what one to three mutations make of it."""
    chance = random.Random(seed)
    for _ in range(count):
        original = chance.choice(seeds)
        data = bytearray(original)
        for _ in range(chance.choice((1, 1, 2, 3))):
            if 1 < len(data) < MAX_MUTATED_BYTES:
                data = chance.choice(MUTATIONS)(chance, data, chance.choice(seeds))
        yield original, bytes(data)


def amplifiers(size_bytes: int) -> dict[str, bytes]:
    """Return files of a size that are nothing but as many of the smallest parts as fit."""
    png_head = b"\x89PNG\r\n\x1a\n" + png.make_chunk(b"IHDR", bytes.fromhex("0000004000000040080200000000")[:13])
    part = {
        "jpeg": (b"\xff\xd8", b"\xff\xfe\x00\x02"),
        "jpeg fill": (b"\xff\xd8", b"\xff"),
        "png": (png_head, png.make_chunk(b"tEXt", b"")),
        "webp": (b"RIFF" + (size_bytes - 8).to_bytes(4, "little") + b"WEBP", webp.make_chunk(b"EXIF", b"")),
        "tiff": (b"II*\x00\x08\x00\x00\x00\xff\xff", b"\x00\x01\x03\x00\x01\x00\x00\x00\x01\x00\x00\x00"),
        "gif": (b"GIF89a\x40\x00\x40\x00\x80\x00\x00" + bytes(6), b"\x21\xfe\x01\x00\x00"),
        "avif": (b"\x00\x00\x00\x10ftypavif\x00\x00\x00\x00", b"\x00\x00\x00\x08free"),
    }
    return {name: (head + body * (size_bytes // len(body)))[:size_bytes] for name, (head, body) in part.items()}
