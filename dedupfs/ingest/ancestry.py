"""Ancestry: whether one picture was made from another one, told from the quantization that they share.

Of two pictures of one size the finer one is the better base, unless it was made from the coarser one: a PNG that a
program decoded from a photo in a way of its own, or the photo compressed again at a higher quality. Then the coarser
one is the original, and to draw it from the other would alter it.

A JPEG differs from the picture that it was made of by what quantization took away, which spreads over a step; from a
picture that was made of it by rounding, and by the quantization of that picture itself. (Fan and de Queiroz,
"Identification of bitmap compression history: JPEG detection and quantizer estimation", 2003, find the steps in a
bitmap alone; here both pictures are there.) Pure functions, for worker processes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy  # Its parts load when they are first used.
from PIL import Image

from dedupfs.errors import UndecodableError, UnfitPictureError
from dedupfs.ingest import jpeg
from dedupfs.ingest.decode import INVERSE_ORIENTATION, Picture, composed, decode, transposed
from dedupfs.ingest.sniff import sniff
from dedupfs.model import PictureFormat

_BLOCK_PX = 8

MAX_BLOCKS = 1 << 14
"""Of a larger picture every so many rows of blocks are looked at."""

MIN_BLOCKS = 64
"""Fewer blocks with anything to tell say nothing."""

MIN_STEP = 3.0
"""Levels of a step below which rounding to whole levels hides what quantization did."""

MOST_OWN_SHARE = 0.5
"""Of a step: how coarse the other picture may be at the same frequency."""

DERIVED_SHARE = 0.25
"""Of the difference that quantization makes (a twelfth of the step squared), for half of the blocks.

14 photos, documents and screenshots, JPEG of quality 40 to 98. Decoded by Pillow, ffmpeg, ImageMagick, GraphicsMagick,
libvips, OpenCV and chromium it is 0.00 to 0.21 up to quality 95, and 0.33 at 98 in a screenshot of loud colours by
ffmpeg; compressed again by Pillow, ffmpeg and chromium -0.2 to 0.05, and 0.35 for a receipt at 92 over 85. The lossless
pictures that the JPEGs were made of, and finer JPEGs of these, have 0.51 to 1.8, a page of print in black and white,
where what quantization did is cut off at white, 0.30 to 0.6. A photo that was a JPEG before it was a PNG has 0.05
beside its own JPEG of 98: as little as if it were made from that.
"""

_Plane = npt.NDArray[np.float32]


def is_made_from(picture: bytes, source: bytes) -> bool:
    """Whether a picture was made from a source, whole files, of which the source is a JPEG of the same size.

    False where that cannot be told. Never raises over hostile bytes.
    """
    if sniff(source) is not PictureFormat.JPEG:
        return False
    try:
        theirs, mine = _luma(source), _luma(picture)
        tables = jpeg.read_frame(source).tables, _tables(picture, mine)
    except (UnfitPictureError, UndecodableError):
        return False
    if mine.upright_px != theirs.upright_px or theirs.image.mode != "L":
        # Of a JPEG that holds RGB no luma can be had, nor is luma what was quantized.
        return False
    turn = composed(mine.orientation, INVERSE_ORIENTATION[theirs.orientation])
    steps, own = (np.array(table, np.float32).reshape(_BLOCK_PX, _BLOCK_PX) for table in (tables[0][0], tables[1]))
    blocks = _blocks(theirs.image)
    differences = _blocks(transposed(mine.image, turn)) - blocks
    share = _share(blocks, differences, steps, own.T if turn >= 5 else own)
    return share is not None and share <= DERIVED_SHARE


def _luma(data: bytes) -> Picture:
    """Decode a file; of a JPEG its luma alone, as it is coded."""
    # No draft is as large as that, so that nothing is made smaller.
    return decode(data, (1 << 16, 1 << 16), luma=True)


def _tables(data: bytes, picture: Picture) -> tuple[int, ...]:
    """Return the steps of the luma of a picture, row-major; none where it is no JPEG."""
    if picture.picture_format is PictureFormat.JPEG:
        return jpeg.read_frame(data).tables[0]
    return (0,) * _BLOCK_PX**2


def _share(blocks: _Plane, differences: _Plane, steps: _Plane, own: _Plane) -> float | None:
    """Return how much of the difference that quantization makes there is, the median of blocks; None: not to be told.

    Only frequencies count that hold more than half a step, so that something was rounded there.

    Args:
        blocks: samples of the JPEG, shape (blocks, 8, 8), and `differences` of the other picture from them.
        steps, own: of the JPEG and of the other picture, shape (8, 8).
    """
    tells = (np.abs(_transformed(blocks)) >= steps / 2) & (steps >= MIN_STEP) & (own <= MOST_OWN_SHARE * steps)
    tells[:, 0, 0] = False
    live = tells.any(axis=(1, 2))
    if np.count_nonzero(live) < MIN_BLOCKS:
        return None
    tells = tells[live]
    found = (_transformed(differences[live]) ** 2 - own**2 / 12).sum(axis=(1, 2), where=tells)
    made = np.broadcast_to(steps**2 / 12, tells.shape).sum(axis=(1, 2), where=tells)
    return float(np.median(found / made))


def _blocks(image: Image.Image) -> _Plane:
    """Return the blocks that lie wholly within a picture, of larger ones some, shape (blocks, 8, 8)."""
    samples = np.asarray(image if image.mode == "L" else image.convert("RGB").convert("L"))
    rows, columns = (side // _BLOCK_PX for side in samples.shape)
    every = max(1, -(-rows * columns // MAX_BLOCKS))
    whole = samples[: rows * _BLOCK_PX, : columns * _BLOCK_PX].reshape(rows, _BLOCK_PX, columns, _BLOCK_PX)
    return whole[::every].swapaxes(1, 2).reshape(-1, _BLOCK_PX, _BLOCK_PX).astype(np.float32)


def _transformed(blocks: _Plane) -> _Plane:
    coefficients: _Plane = scipy.fft.dctn(blocks, axes=(1, 2), norm="ortho")
    return coefficients
