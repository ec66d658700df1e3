"""What happens to a representative before it is scaled: draft decode, alpha, colour profile, orientation.

Owns these steps and the memory of decoded bases during one search. Not shared between threads.
"""

from __future__ import annotations

import io

from PIL import Image, ImageCms

from dedupfs.errors import UndecodableError, UnfitPictureError
from dedupfs.ingest import jpeg
from dedupfs.ingest.decode import Picture, coded_planes, decode, planes, translated, transposed
from dedupfs.ingest.recipe import Colour, Ground, Treatment
from dedupfs.ingest.scaling import PLANES, Base, Kernel, Scaling, halved, reduced
from dedupfs.ingest.sniff import sniff
from dedupfs.model import PictureFormat


def treated(picture: Picture, treatment: Treatment) -> Image.Image:
    """Return the pixels of a decoded representative as the treatment wants them, turned the member's way.

    Raises:
        UndecodableError: the colour profile cannot be used.
    """
    image = _on_ground(picture.image, treatment.ground)
    if treatment.colour is Colour.TO_SRGB:
        image = _to_srgb(image, picture.icc)
    return transposed(image, treatment.orientation)


def _on_ground(image: Image.Image, ground: Ground) -> Image.Image:
    if image.mode not in ("LA", "RGBA") or ground is Ground.KEPT:
        return image
    flat = image.mode[:-1]
    if ground is Ground.DROPPED:
        return image.convert(flat)
    level = 255 if ground is Ground.WHITE else 0
    under = Image.new(flat, image.size, level if flat == "L" else (level,) * 3)
    under.paste(image.convert(flat), mask=image.getchannel("A"))
    return under


def on_white(image: Image.Image) -> Image.Image:
    """Return the image without alpha, as it looks on a white page."""
    return _on_ground(image, Ground.WHITE)


def _to_srgb(image: Image.Image, icc: bytes) -> Image.Image:
    """Return the image converted from its profile, relative colorimetric with black point compensation."""
    with translated():
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        converted = ImageCms.profileToProfile(
            image,
            profile,
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    if converted is None:
        raise UndecodableError("colour profile was not applied")
    return converted


class Bases:
    """The representative decoded, treated and reduced in the ways that a search has asked for so far."""

    def __init__(
        self,
        representative: bytes,
        treatment: Treatment,
        decoded: Picture | None = None,
        height_px: int | None = None,
    ) -> None:
        """Prepare.

        Args:
            decoded: the representative at its full size, where that is known already.
            height_px: how high it is, where what is given are its upper rows.
        """
        self.treatment = treatment
        self._known = decoded
        self._height_px = height_px
        self._representative = representative
        self._planes: list[Image.Image] = []
        self._drafts: dict[int, tuple[Image.Image, tuple[float, float]]] = {}
        self._reduced: dict[tuple[bool, int, tuple[int, int]], Base] = {}

    def __call__(self, scaling: Scaling) -> Base:
        """Return what the kernel of `scaling` works on.

        Raises:
            UndecodableError, UnfitPictureError: the representative does not decode.
        """
        if scaling.kernel in PLANES:
            luma, *chroma = self._coded_planes()
            return Base(luma, (float(luma.width), float(luma.height)), tuple(chroma))
        if scaling.draft not in self._drafts:
            self._drafts[scaling.draft] = self._decoded(scaling.draft)
        image, extent_px = self._drafts[scaling.draft]
        if scaling.reduction == (1, 1):
            return Base(image, extent_px)
        halves = scaling.kernel is Kernel.MIPMAP
        key = (halves, scaling.draft, scaling.reduction)
        if key not in self._reduced:
            made = halved(image, scaling.reduction[0]) if halves else reduced(image, extent_px, scaling.reduction)
            self._reduced[key] = made
        return self._reduced[key]

    def upper(self, rows: int, height_px: int) -> Bases | None:
        """Return the upper rows of a JPEG of some height, as if nothing were below; None where they do not come alone.

        Raises:
            UndecodableError, UnfitPictureError: the representative is no JPEG that is compared.
        """
        if self.treatment.orientation != 1 or rows >= height_px:
            return None
        head = jpeg.upper_rows(self._representative, rows)
        return None if head is None else Bases(head, self.treatment, height_px=height_px)

    @property
    def has_planes(self) -> bool:
        """Whether the kernels in PLANES can be asked for."""
        if self.treatment.colour is not Colour.PLAIN or sniff(self._representative) is not PictureFormat.JPEG:
            return False
        try:
            return bool(self._coded_planes())
        except (UnfitPictureError, UndecodableError):
            return False

    def _coded_planes(self) -> list[Image.Image]:
        if not self._planes:
            turned = self.treatment.orientation
            self._planes = [transposed(plane, turned) for plane in coded_planes(self._representative)]
        return self._planes

    def _decoded(self, draft: int) -> tuple[Image.Image, tuple[float, float]]:
        if self.treatment.colour is Colour.PLANES:
            if draft != 1:
                raise UnfitPictureError("samples as they are coded have one size")
            coded = transposed(planes(self._representative), self.treatment.orientation)
            return coded, (float(coded.width), float(coded.height))
        draft_px = None
        if draft > 1:
            picture = decode(self._representative, (1, 1))
            draft_px = (picture.width_px // draft, picture.height_px // draft)
        known = self._known if draft == 1 else None
        picture = decode(self._representative, draft_px) if known is None else known
        image = treated(picture, self.treatment)
        width_px, height_px = picture.width_px / draft, (self._height_px or picture.height_px) / draft
        turned = self.treatment.orientation >= 5
        return image, (height_px, width_px) if turned else (width_px, height_px)
