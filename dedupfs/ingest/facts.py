"""What is remembered about a picture: enough to look for its copies and to say which of two is the better base.

Owns the stored layout of PictureFacts. Pure values, any thread.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from dedupfs.errors import IntegrityError
from dedupfs.model import Fingerprint, PictureFormat

_VERSION = 1
"""Of the layout, and of the fingerprint: it changes too when the same picture would get another one."""
_LAYOUT = struct.Struct("<BBBBIIHB")
_FORMATS = tuple(PictureFormat)
"""Codes on disk are places in this order; new formats go to the end of the enum."""

_FINGERPRINT_BYTES = 32
_HAS_ALPHA = 1

MEMBER_FORMATS = frozenset(PictureFormat) - {PictureFormat.HEIC}
"""Formats that can be encoded again to an exact size; HEIC can only be a representative."""

COARSENESS_PER_LEVEL = 16


@dataclass(frozen=True, slots=True)
class PictureFacts:
    """A picture as `inspect` saw it.

    `width_px` and `height_px` are as stored, before EXIF `orientation` (1 to 8) is applied. `fingerprint` is None for
    sound pictures too small or too uniform to have one. `coarseness` is the mean quantization step of the ten lowest
    luma frequencies in sixteenths of a level, 0 for lossless.
    """

    picture_format: PictureFormat
    width_px: int
    height_px: int
    orientation: int
    coarseness: int
    has_alpha: bool
    fingerprint: Fingerprint | None

    @property
    def pixels(self) -> int:
        return self.width_px * self.height_px

    def to_bytes(self) -> bytes:
        """Return the record, 15 bytes and the fingerprint if there is one."""
        flags = _HAS_ALPHA if self.has_alpha else 0
        return _LAYOUT.pack(
            _VERSION,
            _FORMATS.index(self.picture_format),
            self.orientation,
            flags,
            self.width_px,
            self.height_px,
            min(self.coarseness, 0xFFFF),
            0 if self.fingerprint is None else len(self.fingerprint),
        ) + (self.fingerprint or b"")

    @classmethod
    def from_bytes(cls, record: bytes) -> PictureFacts:
        """Read what `to_bytes` wrote.

        Raises:
            IntegrityError: anything else.
        """
        if len(record) < _LAYOUT.size:
            raise IntegrityError("picture facts cut short")
        version, code, orientation, flags, width_px, height_px, coarseness, length = _LAYOUT.unpack_from(record)
        fingerprint = record[_LAYOUT.size :]
        if version != _VERSION or code >= len(_FORMATS) or not 1 <= orientation <= 8 or flags > _HAS_ALPHA:
            raise IntegrityError("picture facts of an unknown version or with a forbidden value")
        if not width_px or not height_px or len(fingerprint) != length or length not in (0, _FINGERPRINT_BYTES):
            raise IntegrityError("picture facts with a forbidden size")
        return cls(
            _FORMATS[code],
            width_px,
            height_px,
            orientation,
            coarseness,
            bool(flags & _HAS_ALPHA),
            Fingerprint(fingerprint) if fingerprint else None,
        )


def coarseness_of(step: float) -> int:
    """Return PictureFacts.coarseness of a mean quantization step in levels."""
    return min(0xFFFF, round(COARSENESS_PER_LEVEL * step))


def better(a: PictureFacts, b: PictureFacts) -> bool:
    """True when `a` is the better base of the two: more pixels, then one that cannot be a member, then finer.

    Of a lossless and a lossy picture of one size the lossless one comes first here; `fit` turns down a lossy member
    whose pixels are exactly the representative's, because then the lossless file can be rendered from the lossy one.
    """
    return _rank(a) > _rank(b)


def _rank(facts: PictureFacts) -> tuple[int, bool, bool, int]:
    return facts.pixels, facts.picture_format not in MEMBER_FORMATS, facts.has_alpha, -facts.coarseness
