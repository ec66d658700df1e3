"""Sketch: what a picture looks like in a few bytes, to recognise it when its pixels are not at hand.

A rendition is drawn anew whenever it is read. Another version of an image library, or another processor, may draw it
with a few other rounding errors, so that its bytes differ from those that were verified; everything that it is drawn
from is authenticated, so the sketch only has to tell such a drawing from one that went wrong. Pure functions.
"""

from __future__ import annotations

import struct

import numpy as np
from PIL import Image

GRID = 8
_HEAD = struct.Struct(">II")
SKETCH_BYTES = _HEAD.size + GRID * GRID * 4

TOLERANCE = 2
"""Levels by which the mean of a cell may differ. JPEG decoders of one standard differ by one level at a pixel, in
either direction; a picture that is not the same differs by 10 and more somewhere."""


def sketch(image: Image.Image) -> bytes:
    """Return width and height in pixels and the mean colours of 8 x 8 cells, SKETCH_BYTES in all.

    Args:
        image: mode L, LA, RGB or RGBA.
    """
    small = image.resize((GRID, GRID), Image.Resampling.BOX).convert("RGBA")
    return _HEAD.pack(*image.size) + small.tobytes()


def alike(one: bytes, other: bytes) -> bool:
    """Whether two sketches may be of drawings of one picture."""
    if len(one) != len(other) or one[: _HEAD.size] != other[: _HEAD.size]:
        return False
    cells = [np.frombuffer(each, np.uint8, offset=_HEAD.size).astype(np.int16) for each in (one, other)]
    return bool(np.abs(cells[0] - cells[1]).max() <= TOLERANCE)
