"""Tell detail that a representative's quantization took away from detail that somebody sharpened.

Owns the measure of how strongly the texture of one picture comes back in the other. A sharpening filter amplifies what
the other picture shows, at all scales finer than its own, and so raises the gain of the middle ones; quantization drops
coefficients, and what it dropped is independent of what it left. Pure functions, any thread.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy
from PIL import Image

_Plane = npt.NDArray[np.float32]

_STRIP_ROWS = 128
"""Rows of the reduced pictures that are filtered at a time."""

_HALO = 4

FAINT = 0.05
"""Mean square below which there is no texture to compare, in square levels."""


MIDDLE, WIDE = 2, 4
"""Factors of reduction: details of about 2 to 5 pixels, which filters for resizing still differ in, and of 4 to 10."""


def gain(member: Image.Image, rendition: Image.Image, reduction: int) -> float | None:
    """Return how much of the rendition's texture the member has: 1 for as much, more for a sharpened member.

    It is the slope of the member's details over the rendition's, so that noise and losses of either leave it alone.
    Both pictures have one size. None where the rendition has no texture.

    Args:
        reduction: MIDDLE or WIDE.
    """
    own, common = 0.0, 0.0
    lumas = [np.asarray(image.convert("L").reduce(reduction), np.float32) for image in (member, rendition)]
    for top in range(0, lumas[0].shape[0], _STRIP_ROWS):
        mine, other = (_details(luma, top) for luma in lumas)
        own += float(np.vdot(other, other))
        common += float(np.vdot(mine, other))
    return common / own if own > FAINT * lumas[0].size else None


def _details(luma: _Plane, top: int) -> _Plane:
    first = max(0, top - _HALO)
    strip = luma[first : top + _STRIP_ROWS + _HALO]
    inner = slice(top - first, top - first + _STRIP_ROWS)
    details: _Plane = (strip - scipy.ndimage.gaussian_filter(strip, 1.0, truncate=3.0, mode="nearest"))[inner]
    return details
