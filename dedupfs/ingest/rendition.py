"""Regenerate a member's file from its representative, its recipe and its own bytes.

Owns the order of the steps, which `fit` shares. Pure functions, any thread.
"""

from __future__ import annotations

from PIL import Image

from dedupfs.errors import IngestError, IntegrityError
from dedupfs.ingest import members, sections
from dedupfs.ingest.recipe import Recipe
from dedupfs.ingest.scaling import scaled
from dedupfs.ingest.treatment import Bases


def render(representative: bytes, recipe: bytes, own: bytes, size_bytes: int) -> bytes:
    """Return the member's file, the same bytes whenever the arguments are the same.

    Raises:
        IntegrityError: the arguments do not belong together, or one is damaged.
    """
    read = Recipe.from_bytes(recipe)
    parts = sections.unpack(own, members.SECTION_COUNTS[read.picture_format])
    try:
        base = Bases(representative, read.treatment)(read.scaling)
        image = in_mode(scaled(base, read.scaling, (read.width_px, read.height_px)), read.mode)
        if image.size != (read.width_px, read.height_px):
            raise IntegrityError("a recipe asks for another size than it makes")
        return members.write(read.picture_format, image, read.coding, parts, size_bytes)
    except IngestError as exc:
        raise IntegrityError(f"a rendition cannot be made: {exc}") from exc


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Return the image in the mode that is encoded; alpha is dropped, or made opaque where there was none."""
    return image if image.mode == mode else image.convert(mode)


def as_encoded(image: Image.Image, mode: str, keeps_planes: bool) -> Image.Image:
    """Return the image in the mode that is encoded; luma and chroma stay as they are where the encoder takes them."""
    return image if keeps_planes and image.mode == "YCbCr" else in_mode(image, mode)
