"""AVIF files as boxes: where the coded image lies, and whether it is the only picture in the file.

Owns the container (ISO/IEC 14496-12 and 23008-12, AVIF 1.1); the coded image itself is read in `av1`. Pure functions,
safe in any thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dedupfs.errors import UndecodableError, UnfitPictureError

_PLAIN_REFERENCES = frozenset({b"cdsc"})
"""Kinds of reference between items that a single picture has: Exif and XMP describe it."""
_LAYERS = frozenset({b"a1op", b"a1lx", b"lsel"})
_MAX_BOXES = 4096
"""A still picture has some dozens; a hostile one would have millions, which take seconds and a gigabyte to list."""


@dataclass(frozen=True, slots=True)
class Box:
    """One box: data[start:end], its payload from `body` on."""

    kind: bytes
    start: int
    body: int
    end: int


@dataclass(frozen=True, slots=True)
class AvifParts:
    """A file as `before + coded + after`.

    `matrix` is the matrix coefficients that the container gives (ITU-T H.273), or None. `config` is where `before` or
    `after` repeat the sequence header, as an offset in the whole file and a length, or None.
    """

    before: bytes
    coded: bytes
    after: bytes
    matrix: int | None
    config: tuple[int, int] | None


def boxes_of(data: bytes, start: int, end: int) -> list[Box]:
    """Return the boxes that fill data[start:end].

    Raises:
        UndecodableError: they do not.
    """
    boxes: list[Box] = []
    while start < end:
        size, kind, header = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8], 8
        if size == 1:
            size, header = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        elif size == 0:
            size = end - start
        if size < header or start + size > end or len(boxes) == _MAX_BOXES:
            raise UndecodableError("a box that does not fit")
        boxes.append(Box(kind, start, start + header, start + size))
        start += size
    return boxes


def split(data: bytes) -> AvifParts:
    """Take a file apart.

    Raises:
        UndecodableError: broken.
        UnfitPictureError: it holds more than one plain picture with metadata: an alpha plane, tiles, layers, frames, a
            gain map, a thumbnail.
    """
    top = {box.kind: box for box in _leading(data)}
    if b"meta" not in top or b"moov" in top:
        raise UnfitPictureError("an AVIF without a still picture")
    meta = {box.kind: box for box in boxes_of(data, top[b"meta"].body + 4, top[b"meta"].end)}
    if not {b"pitm", b"iloc", b"iinf", b"iprp"} <= meta.keys():
        raise UndecodableError("AVIF without a picture")
    if b"iref" in meta:
        references = {box.kind for box in boxes_of(data, meta[b"iref"].body + 4, meta[b"iref"].end)}
        if not references <= _PLAIN_REFERENCES:
            raise UnfitPictureError("an AVIF of several pictures")
    if b"grpl" in meta:
        raise UnfitPictureError("an AVIF with alternative pictures")
    fields = _Fields(data, meta[b"pitm"])
    primary = fields.number(2 if fields.version == 0 else 4)
    if [number for number, kind in _items(data, meta[b"iinf"]) if kind == b"av01"] != [primary]:
        raise UnfitPictureError("an AVIF of several pictures")
    start, length = _extent(data, meta[b"iloc"], primary)
    if start + length > len(data) or not length:
        raise UndecodableError("AVIF cut short")
    matrix, config = _properties(data, meta[b"iprp"])
    if config is not None and not (config[0] + config[1] <= start or config[0] >= start + length):
        raise UndecodableError("AVIF boxes lie in each other")
    return AvifParts(data[:start], data[start : start + length], data[start + length :], matrix, config)


def image_span(data: bytes) -> tuple[int, int] | None:
    """Return where the coded image starts and ends, or None; never raises."""
    try:
        parts = split(data)
    except (UndecodableError, UnfitPictureError):
        return None
    return len(parts.before), len(parts.before) + len(parts.coded)


def _leading(data: bytes) -> list[Box]:
    """Return the boxes at the top; what follows the last whole one is not looked at."""
    boxes: list[Box] = []
    start = 0
    while start + 8 <= len(data):
        if len(boxes) == _MAX_BOXES:
            raise UndecodableError(f"AVIF of more than {_MAX_BOXES} boxes")
        try:
            box = next(iter(boxes_of(data, start, _end_of(data, start))))
        except (UndecodableError, StopIteration):
            break
        boxes.append(box)
        start = box.end
    if not boxes or boxes[0].kind != b"ftyp":
        raise UndecodableError("no AVIF")
    return boxes


def _end_of(data: bytes, start: int) -> int:
    size = int.from_bytes(data[start : start + 4], "big")
    if size == 1:
        size = int.from_bytes(data[start + 8 : start + 16], "big")
    return min(len(data), start + size) if size else len(data)


class _Fields:
    """The numbers of a full box, in order. Reading past its end raises UndecodableError."""

    def __init__(self, data: bytes, box: Box) -> None:
        self._data = data
        self._end = box.end
        self.at = box.body + 4
        self.version = data[box.body] if box.body + 4 <= box.end else 0

    def number(self, size_bytes: int) -> int:
        if self.at + size_bytes > self._end:
            raise UndecodableError("a box cut short")
        value = int.from_bytes(self._data[self.at : self.at + size_bytes], "big")
        self.at += size_bytes
        return value


def _items(data: bytes, box: Box) -> Iterator[tuple[int, bytes]]:
    """Yield the number and kind of each item."""
    fields = _Fields(data, box)
    fields.number(2 if fields.version == 0 else 4)
    for entry in boxes_of(data, fields.at, box.end):
        item = _Fields(data, entry)
        if entry.kind != b"infe" or item.version not in (2, 3):
            raise UnfitPictureError("an AVIF with items of an unknown kind")
        number = item.number(2 if item.version == 2 else 4)
        item.number(2)
        yield number, item.number(4).to_bytes(4, "big")


def _extent(data: bytes, box: Box, wanted: int) -> tuple[int, int]:
    """Return offset and length of an item that lies in one piece in the file."""
    fields = _Fields(data, box)
    sizes = fields.number(2)
    offset_bytes, length_bytes, base_bytes = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_bytes = sizes & 15 if fields.version in (1, 2) else 0
    for _ in range(fields.number(2 if fields.version < 2 else 4)):
        number = fields.number(2 if fields.version < 2 else 4)
        method = fields.number(2) & 15 if fields.version in (1, 2) else 0
        source = fields.number(2)
        base = fields.number(base_bytes)
        extents = []
        for _ in range(fields.number(2)):
            fields.number(index_bytes)
            extents.append((base + fields.number(offset_bytes), fields.number(length_bytes)))
        if number == wanted:
            if method or source or len(extents) != 1:
                raise UnfitPictureError("an AVIF whose picture lies in pieces")
            return extents[0]
    raise UndecodableError("AVIF without its picture")


def _properties(data: bytes, box: Box) -> tuple[int | None, tuple[int, int] | None]:
    """Return the matrix that the container gives, and where it repeats the sequence header."""
    matrix: int | None = None
    config: tuple[int, int] | None = None
    for container in boxes_of(data, box.body, box.end):
        if container.kind != b"ipco":
            continue
        for found in boxes_of(data, container.body, container.end):
            if found.kind in _LAYERS:
                raise UnfitPictureError("an AVIF of several layers")
            if found.kind == b"colr" and data[found.body : found.body + 4] == b"nclx":
                if matrix is not None:
                    raise UnfitPictureError("an AVIF of several pictures")
                matrix = int.from_bytes(data[found.body + 8 : found.body + 10], "big")
            elif found.kind == b"av1C":
                if config is not None:
                    raise UnfitPictureError("an AVIF of several pictures")
                config = (found.body + 4, max(0, found.end - found.body - 4))
    return matrix, config if config and config[1] else None
