"""Glance: what tells two pictures apart before anything is encoded, from means over parts of them.

Owns the grids, how far their cells may differ, and the choice of what happens to a representative before it is scaled,
which the coarsest of them tells. Works on drafts, where there are any. Pure functions, any thread.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from dedupfs.ingest.decode import INVERSE_ORIENTATION, Picture, composed, upright
from dedupfs.ingest.measure import TILE_PX
from dedupfs.ingest.outcome import LIMIT_PREVIEW, LIMIT_TILES
from dedupfs.ingest.recipe import Colour, Ground, Treatment
from dedupfs.ingest.treatment import on_white, treated
from dedupfs.ingest.verify import CEILING_COARSE_CHROMA, CEILING_COARSE_LUMA, Steps
from dedupfs.model import PictureFormat

PREVIEW_SIDE = 64
"""Longer side of the grid on which two pictures are compared first."""

PREVIEW_SHARE = 4
"""Pixels of either picture that make a cell of the grid at least, so that phases of sampling do not show."""

PREVIEW_LIMIT = 30.0
"""Levels by which a cell of the grid may differ."""

HOPELESS_TILES = 1.5
"""Excess of the means of tiles from which a picture is not encoded; of 132 copies that passed the largest was 0.65. Of
drafts of 550 copies of the size of their originals, in any format but palettes and AVIF, it is up to 1.0."""

_TILE_PER_STEP = 1 / 8
"""Levels by which quantization may move the mean of a tile, per level of step: twice what rounding the mean of a block
can do. What is held against the member has not been quantized."""

CELL_PX, CELL_DRAFT_PX = 48, 6
"""Pixels of the smaller picture, and of the draft of either, along a side of the cells that are compared where the two
do not lie on each other pixel by pixel: so large that no filter shows, nor a size that was rounded."""

HOPELESS_CELLS = 3.0
"""Excess of such cells from which two pictures are not compared. Of 1,150 copies of seven pictures that were scaled or
turned it is up to 0.95, and 1.48 where that was done in linear light, which makes hard edges darker."""

Preview = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Glance:
    """What drafts of a member and a representative tell.

    `treatment` is what the representative needs, `limit` a LIMIT_ constant if they are not the same picture, empty
    otherwise, and `excess` by how much it was exceeded. `both_ways` says that it is exceeded whichever of the two is
    to be drawn from the other, `is_level` that tiles which differ say that of them as well: the same happens to either
    before they are compared, and the tiles of both can be relied on.
    """

    treatment: Treatment
    is_level: bool
    limit: str = ""
    excess: float = 0.0
    both_ways: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """One of two pictures: its draft, or all of it, and how coarsely it was quantized."""

    picture: Picture
    steps: Steps

    @property
    def is_faithful(self) -> bool:
        """Whether the means of its parts say what it shows: not those of a palette, nor of a codec with filters."""
        return self.picture.picture_format in _FAITHFUL and self.picture.stored_mode not in ("P", "PA")


_FAITHFUL = frozenset(
    {PictureFormat.JPEG, PictureFormat.PNG, PictureFormat.WEBP, PictureFormat.TIFF, PictureFormat.BMP}
)


def glance(member: Seen, representative: Seen, member_mode: str, *, closely: bool) -> Glance:
    """Return what is needed to draw a member from a representative, and whether they are different pictures.

    Args:
        member_mode: that of the pixels that the member is encoded from.
        closely: whether small differences count, too.
    """
    mine, draft = member.picture, representative.picture
    transparent = "A" in member_mode
    treatment, difference = _best_treatment(mine, draft, transparent=transparent)
    is_level = not transparent and draft.image.mode in ("L", "RGB") and mine.icc == draft.icc
    if difference > PREVIEW_LIMIT:
        return Glance(treatment, is_level, LIMIT_PREVIEW, difference / PREVIEW_LIMIT, both_ways=is_level)
    is_level = is_level and member.is_faithful and representative.is_faithful
    if not closely or not member.is_faithful or transparent:
        return Glance(treatment, is_level)
    differences, hopeless = _differences(mine, draft, treatment)
    excess = _excess(differences, member.steps)
    if excess <= hopeless:
        return Glance(treatment, is_level)
    both_ways = is_level and _excess(differences, member.steps.coarser(representative.steps)) > hopeless
    return Glance(treatment, is_level, LIMIT_TILES, excess, both_ways)


def _best_treatment(mine: Picture, draft: Picture, *, transparent: bool) -> tuple[Treatment, float]:
    """Return how to treat the representative, and the largest difference on the preview grid then, in levels."""
    grid = grid_of(mine.upright_px, draft.image.size)
    own = preview(upright(mine), grid, laid_on_white=transparent)
    tried: list[tuple[float, Treatment]] = []
    orientation = composed(draft.orientation, INVERSE_ORIENTATION[mine.orientation])
    for ground in _grounds(draft, transparent=transparent):
        for colour in _colours(mine, draft):
            image = treated(draft, Treatment(draft.orientation, ground, colour))
            difference = float(np.abs(preview(image, grid, laid_on_white=transparent) - own).max())
            tried.append((difference, Treatment(orientation, ground, colour)))
    best = min(tried, key=lambda entry: entry[0])
    return best[1], best[0]


def _grounds(draft: Picture, *, transparent: bool) -> list[Ground]:
    if draft.image.mode not in ("LA", "RGBA"):
        return [Ground.DROPPED]
    if draft.image.getchannel("A").getextrema() == (255, 255):
        return [Ground.DROPPED]
    if transparent:
        return [Ground.KEPT]
    return [Ground.DROPPED, Ground.WHITE, Ground.BLACK, Ground.KEPT]


def _colours(mine: Picture, draft: Picture) -> list[Colour]:
    if draft.icc and draft.icc != mine.icc and draft.image.mode == "RGB":
        return [Colour.PLAIN, Colour.TO_SRGB]
    return [Colour.PLAIN]


def _differences(mine: Picture, draft: Picture, treatment: Treatment) -> tuple[Preview, float]:
    """Return by how much the parts of two drafts differ, in levels of Y, Cb and Cr, and the excess that is too much.

    Their shape is (rows, columns, 3). The parts are the tiles of `verify` where one picture lies on the other as it is
    stored, and cells otherwise.
    """
    whole_px = (draft.height_px, draft.width_px) if treatment.orientation >= 5 else (draft.width_px, draft.height_px)
    drafts = [_Draft.of(mine.image, (mine.width_px, mine.height_px)), _Draft.of(treated(draft, treatment), whole_px)]
    if drafts[0].whole_px == drafts[1].whole_px and treatment.orientation == 1:
        hopeless = HOPELESS_TILES
        parts = [each.tiles() for each in drafts]
    else:
        hopeless = HOPELESS_CELLS
        fits = [
            min(min(each.whole_px[axis] // CELL_PX, each.image.size[axis] // CELL_DRAFT_PX) for each in drafts)
            for axis in (0, 1)
        ]
        parts = [each.cells((max(1, fits[0]), max(1, fits[1]))) for each in drafts]
    means = [np.asarray(part.convert("RGB").convert("YCbCr")).astype(np.int16) for part in parts]
    return means[0] - means[1], hopeless


@dataclass(frozen=True, slots=True)
class _Draft:
    """A picture of `whole_px` (width, height), decoded at one part in `scale` of that."""

    image: Image.Image
    whole_px: tuple[int, int]
    scale: int

    @classmethod
    def of(cls, image: Image.Image, whole_px: tuple[int, int]) -> _Draft:
        return cls(
            image, whole_px, next(scale for scale in (1, 2, 4, 8) if -(-max(whole_px) // scale) == max(image.size))
        )

    def tiles(self) -> Image.Image:
        """Return the means of the tiles that lie wholly within the picture."""
        columns, rows = (side // TILE_PX for side in self.whole_px)
        return self.image.reduce(TILE_PX // self.scale).crop((0, 0, columns, rows))

    def cells(self, grid: tuple[int, int]) -> Image.Image:
        """Return the picture on a grid (columns, rows), each cell weighted with its surroundings."""
        extent_px = [side / self.scale for side in self.whole_px]
        return self.image.resize(grid, Image.Resampling.BILINEAR, (0.0, 0.0, extent_px[0], extent_px[1]))


def grid_of(upright_px: tuple[int, int], draft_px: tuple[int, int]) -> tuple[int, int]:
    """Return the columns and rows of the grid for a member (width, height) and the draft of a representative."""
    longer = max(upright_px)
    side = min(PREVIEW_SIDE, min(longer, *draft_px) // PREVIEW_SHARE)
    return max(1, side * upright_px[0] // longer), max(1, side * upright_px[1] // longer)


def preview(image: Image.Image, grid: tuple[int, int], *, laid_on_white: bool) -> Preview:
    """Return the picture on the grid; colour is weighted with alpha, and laid on white where both have some."""
    small = image.resize(grid, Image.Resampling.BILINEAR)
    return np.asarray((on_white(small) if laid_on_white else small).convert("RGB")).astype(np.int16)


def tiles_of(image: Image.Image) -> Preview:
    """Return the mean Y, Cb and Cr of the tiles that lie wholly within the picture, shape (rows, columns, 3)."""
    small = image.reduce(TILE_PX).convert("RGB").convert("YCbCr")
    return np.asarray(small).astype(np.int16)[: image.height // TILE_PX, : image.width // TILE_PX]


def tiles_excess(member: Preview, other: Preview, steps: Steps) -> float:
    """Return the largest difference of two pictures' tiles over what `verify` lets pass however coarse they are.

    Args:
        steps: quantization of the member alone.
    """
    return _excess(member - other, steps)


def _excess(differences: Preview, steps: Steps) -> float:
    if not differences.size:
        return 0.0
    sizes = np.abs(differences)
    luma, chroma = float(sizes[:, :, 0].max()), float(sizes[:, :, 1:].max())
    return max(
        luma / (CEILING_COARSE_LUMA + _TILE_PER_STEP * steps.luma),
        chroma / (CEILING_COARSE_CHROMA + _TILE_PER_STEP * steps.chroma),
    )
