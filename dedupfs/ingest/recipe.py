"""The recipe of a rendition: how a representative's pixels become the member's, and how they are encoded.

Owns the stored layout (little-endian, a version byte in front). Pure values, any thread.
"""

from __future__ import annotations

import dataclasses
import enum
import struct
from dataclasses import dataclass

from dedupfs.errors import IntegrityError
from dedupfs.ingest.decode import MAX_PIXELS
from dedupfs.ingest.kernels import Arithmetic
from dedupfs.ingest.scaling import Kernel, Scaling
from dedupfs.model import PictureFormat

_VERSION = 2
"""2 since scales of a tool's own and the rounding of JPEG coefficients are part of it."""
_LAYOUT = struct.Struct("<BBBBBBBBHHIIBdB")

_FORMATS = (
    PictureFormat.JPEG,
    PictureFormat.PNG,
    PictureFormat.WEBP,
    PictureFormat.AVIF,
    PictureFormat.BMP,
    PictureFormat.TIFF,
    PictureFormat.GIF,
)
"""Codes are places in this tuple."""

MIN_STEP, MAX_STEP = 1e-3, 1e3
"""Source pixels that a target pixel can take."""

MODES = ("L", "LA", "RGB", "RGBA", "YCbCr")
"""Codes are places in this tuple."""


class Ground(enum.IntEnum):
    """What becomes of the representative's alpha plane."""

    KEPT = 0
    DROPPED = 1
    WHITE = 2
    BLACK = 3


class Colour(enum.IntEnum):
    """What becomes of the representative's code values."""

    PLAIN = 0
    TO_SRGB = 1
    PLANES = 2
    """Luma and chroma as a JPEG holds them, chroma neither converted nor smoothed as it is brought to full size."""


@dataclass(frozen=True, slots=True)
class Treatment:
    """What is done to the representative before it is scaled.

    `orientation` is an EXIF orientation (1 to 8) whose transposition turns the representative's stored pixels the way
    the member's are stored.
    """

    orientation: int = 1
    ground: Ground = Ground.DROPPED
    colour: Colour = Colour.PLAIN


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything but the representative and the member's own bytes.

    `width_px` and `height_px` are the member's stored dimensions, `mode` the pixels that are encoded, `coding` the
    settings of the member's format (`jpeg_coding`, `png_coding`, `webp_coding`).
    """

    picture_format: PictureFormat
    width_px: int
    height_px: int
    mode: str
    treatment: Treatment
    scaling: Scaling
    coding: bytes

    def to_bytes(self) -> bytes:
        """Return the record: 30 bytes and the coding."""
        return (
            _LAYOUT.pack(
                _VERSION,
                _FORMATS.index(self.picture_format),
                MODES.index(self.mode),
                self.treatment.orientation,
                self.treatment.ground,
                self.treatment.colour,
                self.scaling.kernel,
                self.scaling.draft,
                *self.scaling.reduction,
                self.width_px,
                self.height_px,
                sum(flag << bit for bit, flag in enumerate(dataclasses.astuple(self.scaling.arithmetic))),
                self.scaling.step,
                self.scaling.centred,
            )
            + self.coding
        )

    @classmethod
    def from_bytes(cls, record: bytes) -> Recipe:
        """Read what `to_bytes` wrote.

        Raises:
            IntegrityError: anything else.
        """
        if len(record) < _LAYOUT.size:
            raise IntegrityError("a recipe is cut short")
        fields = _LAYOUT.unpack_from(record)
        version, picture_format, mode, orientation, ground, colour, kernel, draft, reduce_x, reduce_y = fields[:10]
        width_px, height_px, arithmetic, step, centred = fields[10:]
        if (
            version != _VERSION
            or arithmetic > 31
            or centred > 1
            or draft not in (1, 2, 4, 8)
            or not 1 <= orientation <= 8
        ):
            raise IntegrityError("a recipe of an unknown version or with a forbidden value")
        if not (step == 0 or MIN_STEP <= step <= MAX_STEP):
            raise IntegrityError("a recipe with a forbidden scale")
        if not 0 < width_px * height_px <= MAX_PIXELS or not reduce_x or not reduce_y:
            raise IntegrityError("a recipe with a forbidden size")
        try:
            return cls(
                _FORMATS[picture_format],
                width_px,
                height_px,
                MODES[mode],
                Treatment(orientation, Ground(ground), Colour(colour)),
                Scaling(
                    Kernel(kernel),
                    draft,
                    (reduce_x, reduce_y),
                    Arithmetic(*(bool(arithmetic >> bit & 1) for bit in range(5))),
                    step,
                    bool(centred),
                ),
                record[_LAYOUT.size :],
            )
        except (ValueError, IndexError) as exc:
            raise IntegrityError("a recipe with a forbidden value") from exc
