"""Edits that somebody may care about, from plain to barely visible: none of them may pass for a copy.

Each is made with Pillow and stored as a JPEG of high quality, so that it differs from its original by the edit and as
little else as possible. Places are chosen from a seed. Pure but for the files that are written.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter, ImageFont

Edit = Callable[[Image.Image, random.Random], Image.Image]
Maker = Callable[[Path, Path], None]


def _saved(edit: Edit, quality: int, share: float = 1.0) -> Maker:
    def make(source: Path, target: Path) -> None:
        with Image.open(source) as opened:
            picture = opened.convert("RGB")
        edited = edit(picture, random.Random(source.name))
        if edited.size == picture.size and not _is_seen(picture, edited):
            raise ValueError("this picture looks the same after the edit")
        if share != 1.0:
            size = (round(edited.width * share), round(edited.height * share))
            edited = edited.resize(size, Image.Resampling.LANCZOS)
        edited.save(target, quality=quality)

    return make


LEAST_SPOT, LEAST_TONE = 8.0, 1.5
"""Levels, on the mean of 2 x 2 and of 16 x 16 pixels: below both an edit has met a picture that it does nothing to, as
saturation does to a scan in grey."""


def _is_seen(before: Image.Image, after: Image.Image) -> bool:
    change = np.asarray(before, np.float32) - np.asarray(after, np.float32)
    spots, tones = (float(np.abs(_means(change, side)).max()) for side in (2, 16))
    return spots >= LEAST_SPOT or tones >= LEAST_TONE


def _means(change: npt.NDArray[np.float32], side: int) -> npt.NDArray[np.float32]:
    rows, columns = (length // side * side for length in change.shape[:2])
    cut = change[:rows, :columns].reshape(rows // side, side, columns // side, side, 3)
    means: npt.NDArray[np.float32] = cut.mean(axis=(1, 3))
    return means


def _place(picture: Image.Image, width: int, height: int, dice: random.Random) -> tuple[int, int]:
    return dice.randrange(max(1, picture.width - width)), dice.randrange(max(1, picture.height - height))


def _text(text: str, size: int, colour: tuple[int, int, int], opacity: float) -> Edit:
    def edit(picture: Image.Image, dice: random.Random) -> Image.Image:
        left, upper = _place(picture, size * len(text), size, dice)
        mask = Image.new("L", picture.size, 0)
        font = ImageFont.load_default(size)
        ImageDraw.Draw(mask).text((left, upper), text, round(255 * opacity), font=font)
        return Image.composite(Image.new("RGB", picture.size, colour), picture, mask)

    return edit


def _digit(size: int, strength: int) -> Edit:
    """A digit that is `strength` levels darker or lighter than its ground."""

    def edit(picture: Image.Image, dice: random.Random) -> Image.Image:
        left, upper = _place(picture, size, size, dice)
        mask = Image.new("L", picture.size, 0)
        ImageDraw.Draw(mask).text((left, upper), "8", 255, font=ImageFont.load_default(size))
        sign = -1 if np.asarray(picture.convert("L"))[upper, left] > 127 else 1
        changed = picture.point(lambda level: level + sign * strength)
        return Image.composite(changed, picture, mask)

    return edit


def _retouched(share: float) -> Edit:
    """A patch of this share of the area is covered with what is beside it."""

    def edit(picture: Image.Image, dice: random.Random) -> Image.Image:
        side = max(6, round((share * picture.width * picture.height) ** 0.5))
        left, upper = _place(picture, 2 * side, side, dice)
        patch = picture.crop((left + side, upper, left + 2 * side, upper + side))
        edited = picture.copy()
        edited.paste(patch, (left, upper))
        return edited

    return edit


def _cropped(share: float) -> Edit:
    def edit(picture: Image.Image, dice: random.Random) -> Image.Image:
        margin_x, margin_y = round(picture.width * share / 2), round(picture.height * share / 2)
        return picture.crop((margin_x, margin_y, picture.width - margin_x, picture.height - margin_y))

    return edit


def _cropped_and_resized(share: float) -> Edit:
    return lambda picture, dice: _cropped(share)(picture, dice).resize(picture.size, Image.Resampling.LANCZOS)


def _shifted(pixels: int) -> Edit:
    return lambda picture, dice: ImageChops.offset(picture, pixels, 0)


def _levels(change: Callable[[np.ndarray], np.ndarray]) -> Edit:
    def edit(picture: Image.Image, dice: random.Random) -> Image.Image:
        samples = np.asarray(picture).astype(np.float32)
        return Image.fromarray(np.clip(change(samples) + 0.5, 0, 255).astype(np.uint8))

    return edit


def _hue(steps: int) -> Edit:
    def edit(picture: Image.Image, dice: random.Random) -> Image.Image:
        hue, saturation, value = picture.convert("HSV").split()
        turned = hue.point(lambda level: (level + steps) % 256)
        return Image.merge("HSV", (turned, saturation, value)).convert("RGB")

    return edit


def _enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance], factor: float) -> Edit:
    return lambda picture, dice: kind(picture).enhance(factor)


def _sepia(picture: Image.Image, dice: random.Random) -> Image.Image:
    weights = (0.393, 0.769, 0.189, 0, 0.349, 0.686, 0.168, 0, 0.272, 0.534, 0.131, 0)
    return picture.convert("RGB", weights)


def _noisy(sigma: float) -> Edit:
    def edit(picture: Image.Image, dice: random.Random) -> Image.Image:
        noise = np.random.default_rng(7).normal(0, sigma, (picture.height, picture.width, 1))
        return Image.fromarray(np.clip(np.asarray(picture) + noise + 0.5, 0, 255).astype(np.uint8))

    return edit


def _filtered(kind: ImageFilter.Filter) -> Edit:
    return lambda picture, dice: picture.filter(kind)


def _dotted(picture: Image.Image, dice: random.Random) -> Image.Image:
    """A decimal point more, as large as a full stop."""
    left, upper = _place(picture, 4, 4, dice)
    edited = picture.copy()
    ground = picture.crop((left, upper, left + 3, upper + 3)).convert("L").resize((1, 1)).tobytes()[0]
    ImageDraw.Draw(edited).ellipse((left, upper, left + 3, upper + 3), fill=(0,) * 3 if ground > 127 else (255,) * 3)
    return edited


_PLAIN: tuple[tuple[str, float, Edit], ...] = (
    ("digit 12 px", 60, _digit(12, 60)),
    ("digit 12 px", 25, _digit(12, 25)),
    ("digit 20 px", 15, _digit(20, 15)),
    ("decimal point", 0, _dotted),
    ("date stamp", 0, _text("2019 08 14", 14, (255, 140, 0), 1.0)),
    ("watermark", 25, _text("SAMPLE", 40, (255, 255, 255), 0.25)),
    ("watermark", 12, _text("SAMPLE", 40, (255, 255, 255), 0.12)),
    ("coloured word", 0, _text("draft", 12, (200, 60, 60), 0.6)),
    ("retouch", 1, _retouched(0.01)),
    ("retouch", 0.1, _retouched(0.001)),
    ("crop", 5, _cropped(0.05)),
    ("crop", 2, _cropped(0.02)),
    ("crop and resize", 2, _cropped_and_resized(0.02)),
    ("shift", 1, _shifted(1)),
    ("mirror", 0, lambda picture, dice: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    ("brightness", 5, _levels(lambda samples: samples * 1.05)),
    ("brightness", 2, _levels(lambda samples: samples * 1.02)),
    ("offset", 3, _levels(lambda samples: samples + 3)),
    ("contrast", 5, _levels(lambda samples: (samples - 128) * 1.05 + 128)),
    ("contrast", 3, _levels(lambda samples: (samples - 128) * 1.03 + 128)),
    ("gamma", 5, _levels(lambda samples: 255 * (samples / 255) ** 0.95)),
    ("white balance", 4, _levels(lambda samples: samples * np.array([1.04, 1.0, 0.96], np.float32))),
    ("white balance", 2, _levels(lambda samples: samples * np.array([1.02, 1.0, 0.98], np.float32))),
    ("saturation", 15, _enhanced(ImageEnhance.Color, 1.15)),
    ("saturation", 8, _enhanced(ImageEnhance.Color, 1.08)),
    ("saturation", -10, _enhanced(ImageEnhance.Color, 0.9)),
    ("hue", 4, _hue(4)),
    ("sepia", 0, _sepia),
    ("greyscale", 0, lambda picture, dice: picture.convert("L").convert("RGB")),
    ("blur", 0.8, _filtered(ImageFilter.GaussianBlur(0.8))),
    ("blur", 1.5, _filtered(ImageFilter.GaussianBlur(1.5))),
    ("sharpen", 50, _filtered(ImageFilter.UnsharpMask(1.5, 50, 0))),
    ("sharpen", 150, _filtered(ImageFilter.UnsharpMask(2, 150, 0))),
    ("noise", 4, _noisy(4)),
)

EDITS: tuple[tuple[str, float, Maker], ...] = (
    *((name, strength, _saved(edit, 95)) for name, strength, edit in _PLAIN),
    *((f"{name} coarse", strength, _saved(edit, 60)) for name, strength, edit in _PLAIN),
    *((f"{name} small", strength, _saved(edit, 85, 0.6)) for name, strength, edit in _PLAIN),
)
