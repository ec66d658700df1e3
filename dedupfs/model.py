"""Value types shared by every layer; holds no behaviour beyond their own shape."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NewType

InodeNo = NewType("InodeNo", int)
"""Number of an inode, 1 for the root directory, never used twice in a volume."""

ContentId = NewType("ContentId", bytes)
"""32 bytes: keyed digest over the chunk ids and the length of the bytes that were written."""

ChunkId = NewType("ChunkId", bytes)
"""32 bytes: keyed digest of a chunk's plaintext."""

ClusterId = NewType("ClusterId", int)
"""Number of a cluster of pictures that look the same, from 1."""

Fingerprint = NewType("Fingerprint", bytes)
"""32 bytes: the perceptual fingerprint of an upright picture, row-major, most significant bit first."""


class Policy(enum.Enum):
    """What may be kept as a reference to something else; chosen when the volume is made."""

    VERIFIED = "verified"
    PERCEPTUAL = "perceptual"
    OFF = "off"


class PictureFormat(enum.Enum):
    """Container formats of still pictures, recognised by their leading bytes."""

    JPEG = "jpeg"
    PNG = "png"
    WEBP = "webp"
    TIFF = "tiff"
    BMP = "bmp"
    GIF = "gif"
    AVIF = "avif"
    HEIC = "heic"


@dataclass(frozen=True, slots=True)
class Differences:
    """How far a rendition is from the picture that was written; each is a maximum over the whole picture.

    All in levels of 0 to 255. `fine` is measured after a narrow Gaussian, `coarse` on means of 16 x 16 tiles.
    """

    fine_luma: float
    fine_chroma: float
    coarse_luma: float
    coarse_chroma: float
    alpha: float
