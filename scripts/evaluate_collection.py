"""A labelled folder: what is a version of what, in which order to copy it, what one file of each picture would take.

Reads files and writes none. Any thread.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from labels import Label, Labels
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from trees import digest, files_below

ORDERS = ("originals-first", "variants-first", "shuffled:1")


@dataclass(frozen=True, slots=True)
class Picture:
    """What decides which of two versions is the better one."""

    pixels: int
    size_bytes: int
    coarseness: int | None  # sum of the luma quantization table of a JPEG


@dataclass
class Collection:
    """The folder that is stored, and what is known about it."""

    folder: Path
    files: list[str]
    labels: Labels
    digests: dict[str, bytes]

    @classmethod
    def read(cls, folder: Path) -> Collection:
        files = sorted(files_below(folder))
        return cls(folder, files, Labels.read(folder), {name: digest(folder / name) for name in files})

    def size_bytes(self, name: str) -> int:
        return (self.folder / name).lstat().st_size

    def lesser(self, row: Label) -> str | None:
        """Return the file of a pair that is only a version of the other, or None if that cannot be told."""
        a, b = self._picture(row.a), self._picture(row.b)
        if a is None or b is None:
            return None
        if a.pixels != b.pixels:
            return row.b if a.pixels > b.pixels else row.a
        if a.coarseness is None or b.coarseness is None:
            return None
        # Only when both say the same: a copy can be coarser and larger, by its sampling or by poor Huffman tables.
        if a.coarseness < b.coarseness and a.size_bytes > b.size_bytes:
            return row.b
        return row.a if a.coarseness > b.coarseness and a.size_bytes < b.size_bytes else None

    def _picture(self, name: str) -> Picture | None:
        path = self.folder / name
        try:
            with Image.open(path) as picture:
                tables = picture.quantization if isinstance(picture, JpegImageFile) else {}
                coarseness = sum(tables[0]) if 0 in tables else None
                return Picture(picture.width * picture.height, path.stat().st_size, coarseness)
        except OSError:
            return None

    def in_order(self, order: str) -> list[str]:
        """Return the files as they are to be copied."""
        if order == "as-is":
            return list(self.files)
        if order.startswith("shuffled:"):
            return random.Random(order).sample(self.files, len(self.files))
        variants_first = order == "variants-first"
        if not self.labels.rows:
            # Nothing says what a version is of what; a smaller file is more likely to be one.
            return sorted(self.files, key=self.size_bytes, reverse=not variants_first)
        variants = self._variants()
        if variants_first:
            return sorted(self.files, key=lambda name: name not in variants)
        originals = {row.a if self._variant(row) == row.b else row.b for row in self.labels.rows if row.wanted}
        return sorted(self.files, key=lambda name: name not in originals or name in variants)

    def unique_bytes(self) -> int:
        """Return what the files take when equal ones are kept once."""
        return sum({self.digests[name]: self.size_bytes(name) for name in self.files}.values())

    def ideal_bytes(self) -> int:
        """Return what the files take when one of each picture is kept: the original, and the largest of several."""
        group = {name: name for name in self.files}

        def root(name: str) -> str:
            while group[name] != name:
                name = group[name]
            return name

        first: dict[bytes, str] = {}
        for name in self.files:
            group[root(name)] = root(first.setdefault(self.digests[name], name))
        for row in self.labels.rows:
            if row.wanted and row.a in group and row.b in group:
                group[root(row.b)] = root(row.a)
        variants = self._variants()
        kept: dict[str, tuple[bool, int]] = {}
        for name in self.files:
            place = root(name)
            kept[place] = max(kept.get(place, (False, 0)), (name not in variants, self.size_bytes(name)))
        return sum(size for _, size in kept.values())

    def _variants(self) -> set[str]:
        return {self._variant(row) for row in self.labels.rows if row.wanted}

    def _variant(self, row: Label) -> str:
        """Return the smaller of a pair, or its second file: a copy of better quality than its original is still one."""
        a, b = self._picture(row.a), self._picture(row.b)
        return row.a if a is not None and b is not None and a.pixels < b.pixels else row.b
