"""Thumbnails: pictures small enough to be shown by the thousand. They carry pixels and nothing of the metadata.

Pure functions, for worker processes.
"""

from __future__ import annotations

import io

from PIL import Image

from dedupfs.ingest.decode import decode, upright
from dedupfs.ingest.treatment import on_white

QUALITY = 60
"""Of the WebP file; at 256 pixels a photo then takes about 6 kB."""


def thumbnail(data: bytes, side_px: int) -> bytes:
    """Return an upright WebP picture whose longer side is at most `side_px`, laid on white.

    Raises:
        UnfitPictureError, UndecodableError: it is no picture that is compared.
    """
    picture = decode(data, (2 * side_px, 2 * side_px))
    image = on_white(upright(picture)).convert("RGB")
    image.thumbnail((side_px, side_px), Image.Resampling.BICUBIC)
    # A new picture knows nothing of the profile and the comments of the old one.
    plain = Image.frombytes("RGB", image.size, image.tobytes())
    out = io.BytesIO()
    plain.save(out, "WEBP", quality=QUALITY)
    return out.getvalue()
