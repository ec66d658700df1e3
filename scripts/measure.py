"""Compare a picture that was written with the one that is read back.

Independent of dedupfs on purpose, down to the filters: it is there to find what the verification of dedupfs overlooks.
Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import uniform_filter

Plane = npt.NDArray[np.float32]

LUMA_SIGMA_PX = 1.0
CHROMA_SIGMA_PX = 2.0
TILE_PX = 16
SSIM_WINDOW_PX = 7

# What a file says about itself besides its pixels, under the names Pillow gives it.
METADATA = ("exif", "icc_profile", "xmp", "dpi", "transparency")


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far two pictures are apart: maxima over the picture, in levels of 0 to 255, PSNR in dB (inf: equal)."""

    fine_luma: float
    fine_chroma: float
    coarse_luma: float
    coarse_chroma: float
    alpha: float
    psnr_db: float


# No rendition may be further from what was written, whatever dedupfs measured itself. The limits of the verification
# grow with the coarseness of a picture's own quantization and are mostly lower; these catch one that went wrong. An
# AVIF with a step of 10 levels and half the chroma samples comes out up to 3.2 levels off on some tile.
CEILINGS = Comparison(fine_luma=14, fine_chroma=12, coarse_luma=3, coarse_chroma=3.5, alpha=0, psnr_db=25)


def compare_pictures(written: Path | IO[bytes], read: Path | IO[bytes]) -> tuple[Comparison | None, list[str]]:
    """Return the differences in pixels (None if these cannot be compared) and everything else that differs."""
    with Image.open(written) as before, Image.open(read) as after:
        problems = [
            f"{what} {old} became {new}"
            for what, old, new in (
                ("format", before.format, after.format),
                ("dimensions", before.size, after.size),
                ("mode", before.mode, after.mode),
            )
            if old != new
        ]
        before.load()
        after.load()
        # After load(): PNG keeps some of it behind the image data.
        problems += [f"{name} differs" for name in METADATA if before.info.get(name) != after.info.get(name)]
        if before.size != after.size:
            return None, problems
        return difference(_channels(before), _channels(after)), problems


def structural_similarity(before: npt.NDArray[np.uint8], after: npt.NDArray[np.uint8]) -> float:
    """Return the mean SSIM of two planes of one size in levels, with square windows.

    Source: Wang et al., Image quality assessment: from error visibility to structural similarity (2004); windows of
    7 x 7 and weights as in skimage.metrics.structural_similarity.
    """
    x, y = before.astype(np.float64), after.astype(np.float64)
    mean_x, mean_y = (uniform_filter(plane, SSIM_WINDOW_PX) for plane in (x, y))
    samples = SSIM_WINDOW_PX**2
    unbiased = samples / (samples - 1)
    variances = unbiased * (uniform_filter(x * x + y * y, SSIM_WINDOW_PX) - mean_x**2 - mean_y**2)
    covariance = unbiased * (uniform_filter(x * y, SSIM_WINDOW_PX) - mean_x * mean_y)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity /= (mean_x**2 + mean_y**2 + c1) * (variances + c2)
    margin = (SSIM_WINDOW_PX - 1) // 2
    return float(similarity[margin:-margin, margin:-margin].mean())


def difference(before: npt.NDArray[np.uint8], after: npt.NDArray[np.uint8]) -> Comparison:
    """Measure two pictures of one size as arrays (height_px, width_px, 4): red, green, blue, alpha."""
    delta = after.astype(np.float32) - before.astype(np.float32)
    red, green, blue = (delta[..., channel] for channel in range(3))
    # The conversion is linear, and so are the filters: the difference can be taken first.
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = ((blue - luma) / 1.772, (red - luma) / 1.402)
    mean_square = float(np.mean(np.square(delta[..., :3], dtype=np.float64)))
    return Comparison(
        fine_luma=_maximum(_blurred(luma, LUMA_SIGMA_PX)),
        fine_chroma=max(_maximum(_blurred(plane, CHROMA_SIGMA_PX)) for plane in chroma),
        coarse_luma=_maximum(_tile_means(luma)),
        coarse_chroma=max(_maximum(_tile_means(plane)) for plane in chroma),
        alpha=_maximum(delta[..., 3]),
        psnr_db=10 * math.log10(255**2 / mean_square) if mean_square else math.inf,
    )


def _channels(picture: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(picture.convert("RGBA"))


def _maximum(plane: Plane) -> float:
    return float(np.abs(plane).max())


def _blurred(plane: Plane, sigma_px: float) -> Plane:
    """Filter with a Gaussian, cut off at four sigma; the picture goes on mirrored beyond its edges."""
    radius = math.ceil(4 * sigma_px)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma_px) ** 2)
    taps /= taps.sum()
    for axis in (0, 1):
        margin = [(0, 0), (0, 0)]
        margin[axis] = (radius, radius)
        padded = np.pad(plane, margin, mode="symmetric")
        length = plane.shape[axis]
        plane = np.zeros_like(plane)
        for offset, weight in enumerate(taps):
            part = padded[offset : offset + length] if axis == 0 else padded[:, offset : offset + length]
            plane += np.float32(weight) * part
    return plane


def _tile_means(plane: Plane) -> Plane:
    """Return the means of the tiles; the last of a row or column takes what does not fill another one."""
    for axis in (0, 1):
        length = plane.shape[axis]
        starts = np.arange(0, max(length - TILE_PX, 0) + 1, TILE_PX)
        counts = np.diff(np.append(starts, length)).astype(np.float32)
        sums: Plane = np.add.reduceat(plane, starts, axis=axis, dtype=np.float32)
        plane = sums / (counts[:, None] if axis == 0 else counts[None, :])
    return plane
