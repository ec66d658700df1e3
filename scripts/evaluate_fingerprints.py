"""How far apart common perceptual hashes place copies, edits, look-alikes and strangers.

That of dedupfs is the first. PDQ is left out where the package pdqhash is not installed. Pure but for reading files.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from pathlib import Path

import imagehash
import numpy as np
import numpy.typing as npt
from evaluate_mount import Progress
from PIL import Image, ImageOps

Bits = npt.NDArray[np.bool_]

WAVELET_SIDE_PX = 256
"""The side that whash scales a picture to; its own choice is the picture's side, which takes seconds."""

FOUND_SHARE = 0.99
"""The share of copies that a threshold is to find."""

Pairs = Mapping[str, list[tuple[Path, Path]]]
"""Pairs of files by what they are to one another; those called COPIES belong together."""
COPIES = "copies"


def _pdq(picture: Image.Image) -> Bits:
    import pdqhash

    bits, _ = pdqhash.compute(np.asarray(picture.convert("RGB")))
    return np.asarray(bits, np.bool_)


ALGORITHMS: dict[str, Callable[[Image.Image], Bits]] = {
    "phash 256": lambda picture: imagehash.phash(picture, 16).hash.ravel(),
    "phash 64": lambda picture: imagehash.phash(picture, 8).hash.ravel(),
    "dhash 256": lambda picture: imagehash.dhash(picture, 16).hash.ravel(),
    "dhash 64": lambda picture: imagehash.dhash(picture, 8).hash.ravel(),
    "whash 256": lambda picture: imagehash.whash(picture, 16, WAVELET_SIDE_PX).hash.ravel(),
    "whash 64": lambda picture: imagehash.whash(picture, 8, WAVELET_SIDE_PX).hash.ravel(),
    "PDQ 256": _pdq,
}


def distances(pairs: Pairs, pool: Executor, progress: Progress) -> dict[str, dict[str, list[int]]]:
    """Return the distances in bits by algorithm and by what the pairs are; pairs that do not decode are left out."""
    files = sorted({path for found in pairs.values() for pair in found for path in pair})
    hashes: dict[Path, dict[str, Bits]] = {}
    for done, (path, found) in enumerate(zip(files, pool.map(_hashes, files, chunksize=4), strict=True)):
        hashes[path] = found
        progress(done + 1, len(files))
    return {
        algorithm: {
            kind: [
                int(np.count_nonzero(hashes[x][algorithm] != hashes[y][algorithm]))
                for x, y in found
                if hashes[x] and hashes[y]
            ]
            for kind, found in pairs.items()
        }
        for algorithm in installed()
    }


def installed() -> list[str]:
    return [name for name in ALGORITHMS if name != "PDQ 256" or importlib.util.find_spec("pdqhash") is not None]


def _hashes(path: Path) -> dict[str, Bits]:
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGBA").convert("RGB")
    except (OSError, ValueError, SyntaxError):
        return {}
    return {name: ALGORITHMS[name](picture) for name in installed()}


def threshold_bits(copies: Iterable[int]) -> int:
    """Return the smallest threshold that finds FOUND_SHARE of the copies."""
    ordered = sorted(copies)
    return ordered[min(len(ordered) - 1, int(np.ceil(FOUND_SHARE * len(ordered))) - 1)] if ordered else 0
