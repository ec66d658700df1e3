"""How coarsely a palette quantizes a picture.

Owns the measure that lets limits grow for pictures with a palette as they do with the steps of a lossy codec. Pure
functions, any thread.
"""

from __future__ import annotations

import math

import numpy as np
import scipy
from PIL import Image

from dedupfs.ingest.verify import Steps
from dedupfs.model import PictureFormat

FORMATS = frozenset({PictureFormat.PNG, PictureFormat.GIF})
"""Those whose members are mapped to a palette of their own."""

MAX_STEP = 5.0
"""Levels; a palette of 256 colours made for a photo has 4 to 9, and the limits of JPEG at quality 85 have to do.

A palette that is coarser than that shows faint changes so badly that they could not be told from its own error.
"""


MIN_COLOURS = 128
"""Colours of a mapped picture: with 64 a blur of 0.8 pixels passed for the error of the palette."""

MEAN_PX = 16
"""Side of the square over which the error is levelled out: what is left of it there is a change of tone."""


def has_many_colours(mapped: Image.Image) -> bool:
    """Return whether a mapped picture is a photo in a palette rather than a drawing of few colours."""
    colours = mapped.convert("RGB").getcolors(256)
    return colours is None or len(colours) >= MIN_COLOURS


def steps_of(image: Image.Image, mapped: Image.Image) -> Steps:
    """Return the steps of a uniform quantizer that errs as much as the palette did.

    A picture that has the colours of the palette, or a palette of few colours, is held against the limits of lossless
    pictures.

    Args:
        image: the pixels before they were mapped to the nearest entries, `mapped`; both RGB or RGBA.
    """
    if not has_many_colours(mapped):
        return Steps(0.0, 0.0)
    before, after = (np.asarray(each.convert("RGB").convert("YCbCr"), np.float32) for each in (image, mapped))
    errors = before - after
    errors -= scipy.ndimage.uniform_filter(errors, (MEAN_PX, MEAN_PX, 1), mode="nearest")
    squares = np.square(errors).mean(axis=(0, 1))
    luma, chroma = math.sqrt(12.0 * float(squares[0])), math.sqrt(12.0 * float(squares[1:].max()))
    step = min(MAX_STEP, luma)
    return Steps(step, min(MAX_STEP, chroma), dither=step)
