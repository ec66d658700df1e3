"""The operations of a crash test: which ones, on what, in which order, all of it following from a seed.

Pictures are small versions of the photos that come along with the tests, so that most of them have near-duplicates:
clusters, renditions and promotions come about and go again. The operations are valid when they are done in order.
"""

from __future__ import annotations

import functools
import io
import random
from pathlib import Path

from crashtest_ledger import Kind, Operation
from PIL import Image

PHOTOS = Path(__file__).parents[1] / "tests" / "photos"
SCENES = 3
WIDTH_PX = 200
NAMES = tuple(f"{kind}{number}" for kind in ("photo", "note") for number in range(6))
"""Names of pictures and of other files; a rename may mix them."""
CHUNK = 262_000
"""A little less than a chunk, so that some files cross a border."""

_WEIGHTS = {
    Kind.WRITE: 34,
    Kind.EDIT: 9,
    Kind.TRUNCATE: 5,
    Kind.RENAME: 12,
    Kind.LINK: 5,
    Kind.UNLINK: 9,
    Kind.HOLD: 4,
    Kind.FSYNC: 11,
    Kind.SYNC: 6,
    Kind.SETTLE: 5,
}


class Workload:
    """An endless, reproducible stream of operations on one folder that starts empty, or with known names."""

    def __init__(self, seed: str, names: dict[str, int] | None = None) -> None:
        """`names` tells which file each name leads to; equal numbers are one file."""
        self._random = random.Random(seed)
        self._names = dict(names or {})
        self._next = max(self._names.values(), default=0) + 1

    def next(self) -> Operation:
        """Return the next operation."""
        choice = self._random
        kind = choice.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        if kind in (Kind.SYNC, Kind.SETTLE):
            return Operation(kind)
        if kind is Kind.WRITE or not self._names:
            name = choice.choice(NAMES)
            if name not in self._names:
                self._names[name] = self._next
                self._next += 1
            return Operation(Kind.WRITE, name, data=self._content(name))
        name, other = choice.choice(sorted(self._names)), choice.choice(NAMES)
        match kind:
            case Kind.EDIT:
                offset = choice.choice([0, 100, 5000, CHUNK + 200])
                return Operation(kind, name, data=choice.randbytes(choice.choice([1, 700])), offset=offset)
            case Kind.TRUNCATE:
                return Operation(kind, name, offset=choice.choice([0, 1, 3000, CHUNK + 1000]))
            case Kind.RENAME:
                moved = self._names[name]
                if self._names.get(other) != moved:
                    del self._names[name]
                    self._names[other] = moved
                return Operation(kind, name, other)
            case Kind.LINK:
                if other in self._names:
                    return Operation(Kind.FSYNC, name)
                self._names[other] = self._names[name]
                return Operation(kind, name, other)
            case Kind.UNLINK:
                del self._names[name]
        return Operation(kind, name)

    def _content(self, name: str) -> bytes:
        if name.startswith("photo"):
            return self._random.choice(pictures())
        size = self._random.choice([0, 1, 5000, 70_000, CHUNK + 9000])
        return self._random.randbytes(size)


@functools.cache
def pictures() -> tuple[bytes, ...]:
    """Return versions of a few photos: compressed, small, lossless, re-tagged, edited."""
    made: list[bytes] = []
    for path in sorted(PHOTOS.glob("*.jpg"))[:SCENES]:
        with Image.open(path) as photo:
            photo.draft("RGB", (2 * WIDTH_PX, 2 * WIDTH_PX))
            whole = photo.convert("RGB").resize((WIDTH_PX, WIDTH_PX * photo.height // photo.width))
        half = whole.resize((whole.width // 2, whole.height // 2), Image.Resampling.LANCZOS)
        edited = whole.copy()
        edited.paste((255, 0, 0), (40, 40, 80, 60))
        made += [
            _encoded(whole, "JPEG", quality=90),
            _encoded(whole, "JPEG", quality=75),
            _encoded(whole, "JPEG", quality=90, comment=b"tagged"),
            _encoded(half, "JPEG", quality=85),
            _encoded(whole, "PNG"),
            _encoded(edited, "JPEG", quality=90),
        ]
    return tuple(made)


def _encoded(image: Image.Image, picture_format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, picture_format, **options)
    return out.getvalue()
