"""What worker processes run: whole files in, plain values out.

Owns the entry points and nothing of the work. Arguments and results are bytes, numbers, enums and frozen dataclasses of
those, so they travel between processes. Each says first what it will take of memory (see `footprint`), and raises
MemoryShortError where that is more than it is allowed. No state: any process, any thread.
"""

from __future__ import annotations

from dedupfs.errors import IntegrityError, UnfitPictureError
from dedupfs.ingest import ancestry, footprint, members, palette, rendition, thumbnail
from dedupfs.ingest import fit as search
from dedupfs.ingest.decode import Picture, decode, upright
from dedupfs.ingest.facts import PictureFacts, better, coarseness_of
from dedupfs.ingest.fingerprint import draft_side_px, fingerprint
from dedupfs.ingest.outcome import Fit, Misfit
from dedupfs.ingest.recipe import Recipe
from dedupfs.ingest.sketch import sketch
from dedupfs.ingest.treatment import on_white
from dedupfs.model import Fingerprint, Policy

__all__ = ["Fit", "Misfit", "PictureFacts", "better", "draw_thumbnail", "fit", "inspect", "look", "render"]


def inspect(data: bytes) -> PictureFacts:
    """Decode a file far enough to know what it is and to take its fingerprint.

    Raises:
        UnfitPictureError: a sort of picture that is not compared.
        UndecodableError: not a picture, broken or cut short.
    """
    footprint.demand(footprint.of_inspect(data))
    side_px = draft_side_px()
    picture = decode(data, (side_px, side_px), luma=True)
    return PictureFacts(
        picture.picture_format,
        picture.width_px,
        picture.height_px,
        picture.orientation,
        coarseness_of(_step(data, picture)),
        _shows_through(picture),
        _fingerprint(picture),
    )


def fit(member: bytes, representative: bytes, policy: Policy, exact_only: bool = False) -> Fit | Misfit:
    """Find a rendition of `member` from `representative`; see `dedupfs.ingest.fit`."""
    footprint.demand(footprint.of_replay(member, representative))
    return search.fit(member, representative, policy, exact_only)


def is_made_from(picture: bytes, source: bytes) -> bool:
    """Tell whether a picture was made from a source; see `dedupfs.ingest.ancestry`."""
    footprint.demand(footprint.of_ancestry(picture, source))
    return ancestry.is_made_from(picture, source)


def look(data: bytes) -> bytes:
    """Return the sketch of a file; see `dedupfs.ingest.sketch`.

    Raises:
        UnfitPictureError, UndecodableError: it is no picture that is compared.
    """
    footprint.demand(footprint.of_look(data))
    return sketch(decode(data).image)


def render(representative: bytes, recipe: bytes, own: bytes, size: int) -> bytes:
    """Return the member's `size` bytes from what `fit` found.

    Raises:
        IntegrityError: the arguments do not belong together, or one is damaged.
    """
    if size <= 0:
        raise IntegrityError("a rendition has at least one byte")
    wanted = Recipe.from_bytes(recipe)
    footprint.demand(footprint.of_render(representative, (wanted.width_px, wanted.height_px)))
    return rendition.render(representative, recipe, own, size)


def draw_thumbnail(data: bytes, side_px: int) -> bytes:
    """Return a small picture of a file; see `dedupfs.ingest.thumbnail`.

    Raises:
        UnfitPictureError, UndecodableError: it is no picture that is compared.
    """
    footprint.demand(footprint.of_look(data))
    return thumbnail.thumbnail(data, side_px)


def _step(data: bytes, picture: Picture) -> float:
    """Return how coarsely a file was quantized; a photo in a palette is no better base than a fine JPEG of it."""
    if picture.stored_mode == "P" and palette.has_many_colours(picture.image):
        return palette.MAX_STEP
    return members.steps_of(data, picture.picture_format).luma


def _fingerprint(picture: Picture) -> Fingerprint | None:
    try:
        return fingerprint(on_white(upright(picture)).convert("L"))
    except UnfitPictureError:
        return None


def _shows_through(picture: Picture) -> bool:
    return picture.image.mode in ("LA", "RGBA") and picture.image.getchannel("A").getextrema() != (255, 255)
