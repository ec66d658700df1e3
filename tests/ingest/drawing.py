"""Pictures drawn from a seed: as much structure as a photo has, no file needed."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE_PX = (480, 360)


def photo(seed: int, size_px: tuple[int, int] = SIZE_PX) -> Image.Image:
    """Return an RGB picture with broad tones, soft and hard edges, texture and lettering."""
    random = np.random.default_rng(seed)
    tones = Image.fromarray(random.integers(30, 226, (7, 9, 3), dtype=np.uint8))
    broad = tones.resize(size_px, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(broad)
    width_px, height_px = size_px
    for _ in range(14):
        x, y = int(random.integers(0, width_px)), int(random.integers(0, height_px))
        w, h = (int(side) for side in random.integers(width_px // 20, width_px // 4, 2))
        colour = tuple(int(level) for level in random.integers(0, 256, 3))
        (draw.ellipse if random.random() < 0.6 else draw.rectangle)((x, y, x + w, y + h), fill=colour)
    soft = broad.filter(ImageFilter.GaussianBlur(0.8))
    texture = random.normal(0, 6, (height_px, width_px, 1)) * np.linspace(0, 1, width_px)[None, :, None]
    textured = Image.fromarray(np.clip(np.asarray(soft) + texture, 0, 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(0.6)
    )
    ImageDraw.Draw(textured).text((width_px // 8, height_px // 2), "Total 12.80", fill=(15, 15, 15))
    return textured


def encoded(image: Image.Image, picture_format: str = "JPEG", **options: Any) -> bytes:
    """Return the picture as Pillow saves it."""
    out = io.BytesIO()
    image.save(out, picture_format, **options)
    return out.getvalue()


def resized(image: Image.Image, share: float, kernel: Image.Resampling = Image.Resampling.LANCZOS) -> Image.Image:
    return image.resize((round(image.width * share), round(image.height * share)), kernel)


def edited(image: Image.Image, gain: tuple[float, float, float], offset: float = 0.0) -> Image.Image:
    """Return the picture with each channel multiplied and shifted."""
    return Image.fromarray(np.clip(np.asarray(image) * np.array(gain) + offset + 0.5, 0, 255).astype(np.uint8))
