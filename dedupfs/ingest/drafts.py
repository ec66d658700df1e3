"""Drafts: pictures decoded small, and remembered for a while, as a picture is held against several others in a row.

Of a JPEG a draft is made at a fraction of its size; of anything else it is all of it, and not remembered. One process,
one thread.
"""

from __future__ import annotations

import hashlib

from dedupfs.ingest.decode import Picture, decode
from dedupfs.model import PictureFormat

DRAFT_PX = (256, 256)
"""What a draft has at least, where the picture has: four pixels to a cell of the preview."""

MAX_PIXELS = 2_000_000
"""Of all that are remembered, four bytes each: ten drafts of pictures of 12 megapixels."""


class Drafts:
    """The drafts that were asked for last."""

    def __init__(self) -> None:
        self._latest: dict[bytes, Picture] = {}

    def of(self, data: bytes) -> Picture:
        """Return the draft of a whole file.

        Raises:
            UnfitPictureError, UndecodableError: as `decode`.
        """
        digest = hashlib.sha256(data).digest()
        picture = self._latest.pop(digest, None)
        if picture is None:
            picture = decode(data, DRAFT_PX)
            if picture.picture_format is not PictureFormat.JPEG:
                return picture
        self._latest[digest] = picture
        while sum(each.image.width * each.image.height for each in self._latest.values()) > MAX_PIXELS:
            del self._latest[next(iter(self._latest))]
        return picture


LATELY = Drafts()
"""Those of this process."""
