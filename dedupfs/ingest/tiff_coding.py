"""TIFF files as members: strips of samples, plain or compressed without loss, that lie anywhere in the file.

Owns the strips and how they are compressed; tags are read in `decode`. What is not a strip stays where it is, whatever
it means. Pure functions, any thread.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin

from dedupfs.errors import IntegrityError, OversizeError, UndecodableError, UnfitPictureError
from dedupfs.ingest.decode import tiff_tags, translated

SECTIONS = 2
"""The file without its strips, and where they go: offset and length of each, 8 bytes either."""

_LAYOUT = struct.Struct("<BBBBI")
_PLACE = struct.Struct("<QQ")

_NONE, _LZW, _DEFLATE, _OLD_DEFLATE, _PACKBITS = 1, 5, 8, 32946, 32773
_COMPRESSIONS = (_NONE, _LZW, _DEFLATE, _OLD_DEFLATE, _PACKBITS)
"""Codes are places in this tuple."""
_PILLOW_NAMES = {_LZW: "tiff_lzw", _DEFLATE: "tiff_adobe_deflate", _PACKBITS: "packbits"}
_ZLIB, _PILLOW = 1, 2
"""Encoders: Python's zlib for deflate, Pillow's libtiff for everything."""

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS, _LENGTHS, _PLANAR, _PREDICTOR = 273, 274, 277, 278, 279, 284, 317
_FORMATS = 339
_RAW = frozenset({330, 50706})
"""Further directories (SubIFDs) and DNGVersion: the first picture of such a file is the preview of another."""
_MODES = {(1, 1): "L", (2, 3): "RGB", (2, 4): "RGBA"}
_MAX_STRIPS = 65536


@dataclass(frozen=True, slots=True)
class TiffCoding:
    """How strips are made: place in the compressions, predictor (1 none, 2 horizontal), encoder, level, rows of one."""

    compression: int
    predictor: int
    encoder: int
    level: int
    rows: int

    def to_bytes(self) -> bytes:
        return _LAYOUT.pack(self.compression, self.predictor, self.encoder, self.level, self.rows)

    @classmethod
    def from_bytes(cls, record: bytes) -> TiffCoding:
        """Read what `to_bytes` wrote.

        Raises:
            IntegrityError: anything else.
        """
        if len(record) != _LAYOUT.size:
            raise IntegrityError("TIFF settings of a wrong length")
        coding = cls(*_LAYOUT.unpack(record))
        if coding.compression >= len(_COMPRESSIONS) or coding.predictor not in (1, 2) or not coding.rows:
            raise IntegrityError("TIFF settings with a forbidden value")
        if coding.encoder not in (_ZLIB, _PILLOW) or coding.level > 9:
            raise IntegrityError("TIFF settings with a forbidden value")
        return coding


@dataclass(frozen=True, slots=True)
class TiffTarget:
    """A TIFF member: its own sections, the mode its pixels are taken from, its settings and its strips."""

    sections: tuple[bytes, bytes]
    mode: str
    coding: TiffCoding
    strips: tuple[bytes, ...]
    size_bytes: int


def target_of(data: bytes, mode: str) -> TiffTarget:
    """Take a member apart whose decoded pixels are of this mode.

    Raises:
        UndecodableError: broken.
        UnfitPictureError: a raw photo, or not interleaved samples of 8 bits in strips, without or with a lossless
            compression.
    """
    tags = tiff_tags(data)
    if not _RAW.isdisjoint(tags):
        raise UnfitPictureError("a raw photo, or a TIFF with further pictures")
    samples = tags.get(_SAMPLES, (1,))[0]
    kind = _MODES.get((tags.get(_PHOTOMETRIC, (0,))[0], samples))
    if kind is None or kind != mode or tags.get(_BITS, (1,)) != (8,) * samples or _OFFSETS not in tags:
        raise UnfitPictureError("a TIFF of unusual samples")
    if tags.get(_PLANAR, (1,)) != (1,) or tags.get(_ORIENTATION, (1,)) != (1,) or set(tags.get(_FORMATS, (1,))) != {1}:
        raise UnfitPictureError("a TIFF with an unusual order")
    compression, predictor = tags.get(_COMPRESSION, (1,))[0], tags.get(_PREDICTOR, (1,))[0]
    if compression not in _COMPRESSIONS or predictor not in (1, 2):
        raise UnfitPictureError("a TIFF with an unusual compression")
    if compression in (_NONE, _PACKBITS):
        predictor = 1
    height_px = tags[_HEIGHT][0]
    rows = min(height_px, tags.get(_ROWS, (height_px,))[0])
    places = list(zip(tags[_OFFSETS], tags.get(_LENGTHS, ()), strict=False))
    if not rows or len(places) != -(-height_px // rows) or len(places) > _MAX_STRIPS:
        raise UndecodableError("a TIFF with strips amiss")
    shell, strips = _without(data, places)
    coding = TiffCoding(_COMPRESSIONS.index(compression), predictor, _ZLIB, 6, rows)
    table = b"".join(_PLACE.pack(*place) for place in places)
    return TiffTarget((shell, table), kind, coding, strips, len(data))


def _without(data: bytes, places: list[tuple[int, int]]) -> tuple[bytes, tuple[bytes, ...]]:
    """Return the file without its strips, and these."""
    rest: list[bytes] = []
    at = 0
    for offset, length in sorted(places):
        if offset < at or offset + length > len(data):
            raise UndecodableError("a TIFF with strips amiss")
        rest.append(data[at:offset])
        at = offset + length
    rest.append(data[at:])
    return b"".join(rest), tuple(data[offset : offset + length] for offset, length in places)


def fitted(image: Image.Image, target: TiffTarget) -> Iterator[tuple[bytes, bytes]]:
    """Yield (settings, file) at exactly the size: the member if an encoder repeats it, else the first that fits.

    Raises:
        OversizeError: none does.
    """
    kept: tuple[bytes, bytes] | None = None
    missing_bytes: list[int] = []
    for coding in _codings(target.coding):
        strips = _strips(image, coding)
        written = _assembled(target.sections, strips, target.size_bytes)
        if written is None:
            pairs = zip(strips, target.strips, strict=False)
            missing_bytes.append(sum(max(0, len(made) - len(wanted)) for made, wanted in pairs))
            continue
        if kept is None or tuple(strips) == target.strips:
            kept = (coding.to_bytes(), written)
        if tuple(strips) == target.strips:
            break
    if kept is None:
        raise OversizeError(min(missing_bytes))
    yield kept


def _codings(coding: TiffCoding) -> Iterator[TiffCoding]:
    compression = _COMPRESSIONS[coding.compression]
    if compression in (_DEFLATE, _OLD_DEFLATE):
        yield coding
        yield replace(coding, encoder=_PILLOW)
        yield replace(coding, level=9)
    else:
        yield coding if compression == _NONE else replace(coding, encoder=_PILLOW)


def write(image: Image.Image, coding: bytes, sections: tuple[bytes, ...], size_bytes: int) -> bytes | None:
    """Return the file that settings make of an image, or None when it does not come out at the size.

    Raises:
        IntegrityError: settings or sections that cannot be read.
    """
    return _assembled(sections, _strips(image, TiffCoding.from_bytes(coding)), size_bytes)


def stronger(coding: bytes) -> Iterator[bytes]:
    """Yield other settings for the same pixels. Raises IntegrityError."""
    settings = TiffCoding.from_bytes(coding)
    if _COMPRESSIONS[settings.compression] in (_DEFLATE, _OLD_DEFLATE):
        yield replace(settings, encoder=_ZLIB, level=9).to_bytes()


def _strips(image: Image.Image, coding: TiffCoding) -> list[bytes]:
    """Return the strips of an image of mode L, RGB or RGBA, compressed."""
    compression = _COMPRESSIONS[coding.compression]
    if compression != _NONE and coding.encoder == _PILLOW:
        return _by_pillow(image, coding)
    samples = np.asarray(image).reshape(image.height, image.width, -1)
    if coding.predictor == 2:
        samples = _differences(samples)
    strips = [samples[top : top + coding.rows].tobytes() for top in range(0, image.height, coding.rows)]
    if compression == _NONE:
        return strips
    if compression not in (_DEFLATE, _OLD_DEFLATE):
        raise IntegrityError("TIFF settings with a forbidden value")
    return [zlib.compress(strip, coding.level) for strip in strips]


def _differences(samples: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return each sample less the one on its left."""
    changed = samples.copy()
    changed[:, 1:] -= samples[:, :-1]
    return changed


def _by_pillow(image: Image.Image, coding: TiffCoding) -> list[bytes]:
    compression = _COMPRESSIONS[coding.compression]
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[_ROWS] = coding.rows
    if coding.predictor == 2:
        tags[_PREDICTOR] = 2
    out = io.BytesIO()
    name = _PILLOW_NAMES[_DEFLATE if compression == _OLD_DEFLATE else compression]
    with translated():
        image.save(out, "TIFF", compression=name, tiffinfo=tags)
    data = out.getvalue()
    made = tiff_tags(data)
    if made.get(_ROWS, (image.height,))[0] != coding.rows:
        raise UndecodableError("an encoder made strips of another size")
    return [data[offset : offset + length] for offset, length in zip(made[_OFFSETS], made[_LENGTHS], strict=True)]


def _assembled(sections: tuple[bytes, ...], strips: list[bytes], size_bytes: int) -> bytes | None:
    """Return the whole file, each strip filled up with zeros; None when one does not fit its place.

    Raises:
        IntegrityError: sections that cannot be read.
    """
    shell, table = sections
    if len(table) != _PLACE.size * len(strips):
        raise IntegrityError("TIFF strips of another picture")
    places = list(_PLACE.iter_unpack(table))
    if len(shell) + sum(length for _, length in places) != size_bytes:
        return None
    whole: list[bytes] = []
    at = used = 0
    for number in sorted(range(len(places)), key=places.__getitem__):
        offset, length = places[number]
        if len(strips[number]) > length:
            return None
        if offset < at or offset > size_bytes:
            raise IntegrityError("TIFF strips that lie in each other")
        whole += [shell[used : used + offset - at], strips[number].ljust(length, b"\x00")]
        used += offset - at
        at = offset + length
    whole.append(shell[used:])
    return b"".join(whole)
