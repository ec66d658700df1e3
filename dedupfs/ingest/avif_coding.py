"""Encode pixels as the coded image of an AVIF with another picture's parameters, to an exact size.

Owns the encoder settings that a recipe stores for AVIF members and the search for the quality. Pillow's encoder knows
one matrix (BT.601) and rounds chroma down; both are made up for in the pixels that it is given, and the sequence header
is re-labelled as the member's. Pure functions, any thread.
"""

from __future__ import annotations

import functools
import io
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from dedupfs.errors import IntegrityError, UnfitPictureError
from dedupfs.ingest import av1, avif
from dedupfs.ingest.decode import translated
from dedupfs.ingest.verify import Steps

SECTIONS = 4
"""Before the coded image, behind it, the member's sequence header, where the container repeats that."""

_LAYOUT = struct.Struct("<BBBBB")
_FULL_RANGE, _CENTRED, _PLAIN, _DELIMITED = 1, 2, 4, 8

_SAMPLINGS = {(1, 1): "4:2:0", (1, 0): "4:2:2", (0, 0): "4:4:4"}
_SAMPLING_NAMES = (*_SAMPLINGS.values(), "4:0:0")
"""Codes are places in this tuple."""

_MATRICES = {1: (0.2126, 0.0722), 2: (0.299, 0.114), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}
"""Matrix coefficients (H.273) -> weights of red and blue in luma; unspecified means BT.601 to libavif."""
_BT601 = 6

_LOST_CHROMA = 0.43
"""Levels by which Pillow's encoder rounds chroma down on average: 0.37 to 0.48 at any sampling, range and speed."""

_SPEED_WORK_PIXELS = 1_500_000
"""Pictures of more pixels are encoded at the quicker setting alone: 0.3 s a million pixels instead of 1.3."""
_SPEEDS = (6, 8)

_THREADS = 2
"""One thread makes other bytes than several, which are what programs use by default."""

_MAX_ENCODINGS = 3
"""With one tuning; the second or third size is within a few percent of the wanted one."""
_WORK_PIXELS = 5_000_000
"""Pixels that a search encodes in all; at least two encodings are always tried."""


@dataclass(frozen=True, slots=True)
class AvifTarget:
    """An AVIF member: its own sections, how it was coded, and to how many bytes."""

    sections: tuple[bytes, bytes, bytes, bytes]
    coding: AvifCoding
    quantizer: int
    steps: Steps
    room: int


@dataclass(frozen=True, slots=True)
class AvifCoding:
    """How to encode.

    `centred`: make up for chroma that is rounded down; `plain`: without perceptual tuning; `delimited`: with the
    temporal delimiter in front that AVIF files need not have.
    """

    quality: int
    speed: int
    sampling: int
    matrix: int
    full_range: bool
    centred: bool
    plain: bool
    delimited: bool

    def to_bytes(self) -> bytes:
        flags = _FULL_RANGE * self.full_range | _CENTRED * self.centred
        flags |= _PLAIN * self.plain | _DELIMITED * self.delimited
        return _LAYOUT.pack(self.quality, self.speed, self.sampling, self.matrix, flags)

    @classmethod
    def from_bytes(cls, record: bytes) -> AvifCoding:
        """Read what `to_bytes` wrote.

        Raises:
            IntegrityError: anything else.
        """
        if len(record) != _LAYOUT.size:
            raise IntegrityError("AVIF settings of a wrong length")
        quality, speed, sampling, matrix, flags = _LAYOUT.unpack(record)
        if quality > 100 or speed > 10 or sampling >= len(_SAMPLING_NAMES) or matrix not in _MATRICES or flags > 15:
            raise IntegrityError("AVIF settings with a forbidden value")
        set_flags = (bool(flags & flag) for flag in (_FULL_RANGE, _CENTRED, _PLAIN, _DELIMITED))
        return cls(quality, speed, sampling, matrix, *set_flags)


def target_of(data: bytes) -> AvifTarget:
    """Take a member apart.

    Raises:
        UndecodableError: broken.
        UnfitPictureError: not a plain picture of 8 bits.
    """
    parts = avif.split(data)
    stream = av1.read_stream(parts.coded)
    colours = stream.colours
    described = colours.description[2] if colours.description is not None else 2
    matrix = parts.matrix if parts.matrix is not None else described
    if matrix not in _MATRICES:
        raise UnfitPictureError("an AVIF with unusual colours")
    units = av1.units_of(parts.coded)
    sequence = next(unit for unit in units if unit.kind == av1.SEQUENCE)
    delimited = units[0].kind == av1.TEMPORAL
    repeated = b"" if parts.config is None else struct.pack("<QQ", *parts.config)
    sections = (parts.before, parts.after, parts.coded[sequence.body : sequence.end], repeated)
    sampling = 3 if colours.mono else tuple(_SAMPLINGS).index(colours.subsampling)
    coding = AvifCoding(0, _SPEEDS[0], sampling, matrix, colours.full_range, True, not stream.weighted, delimited)
    return AvifTarget(sections, coding, stream.quantizer, _steps(stream.quantizer), len(parts.coded))


def steps_of(data: bytes) -> Steps:
    """Return how coarsely a file was quantized.

    Raises:
        UndecodableError, UnfitPictureError: the headers cannot be read.
    """
    return _steps(av1.read_stream(avif.split(data).coded).quantizer)


_COARSER_STEPS = 12
"""Points of quality that a file may lose where another version of the library makes it longer."""

MAX_STEP = 16.0
"""Levels by which the limits grow at most: coarser pictures show faint edits no better, and their filters smear."""


def _steps(quantizer: int) -> Steps:
    step = min(MAX_STEP, av1.visible_step(quantizer))
    return Steps(step, step)


def fitted(image: Image.Image, member: Image.Image, target: AvifTarget) -> Iterator[tuple[bytes, bytes]]:
    """Yield (settings, file) at exactly the size: encodings that fit, with the member's tuning first.

    How fast the member's encoder went is not known, and the choices that it made differ with that. Of 12 copies by
    avifenc the quicker setting is the one that passes in two, and the other tuning in none.

    Args:
        member: the member's own pixels, which tell whether its encoder rounded chroma down too.
    """
    coding = replace(target.coding, centred=_is_centred(image, member))
    left = max(2, _WORK_PIXELS // (image.width * image.height))
    slow, quick = _SPEEDS
    ways = [(slow, coding.plain), (quick, coding.plain)]
    if image.width * image.height > _SPEED_WORK_PIXELS:
        ways = [(quick, coding.plain), (quick, not coding.plain)]
    for speed, plain in ways:
        quality = _likely_quality(target.quantizer, plain)
        attempt = replace(coding, speed=speed, plain=plain, quality=quality)
        yield from _fitted(image, attempt, target, min(left, _MAX_ENCODINGS))
        left -= _MAX_ENCODINGS


def _fitted(
    image: Image.Image, coding: AvifCoding, target: AvifTarget, encodings: int
) -> Iterator[tuple[bytes, bytes]]:
    """Yield (settings, file) of the encodings that fit, on the way to the finest; only qualities differ."""
    tried: dict[int, int] = {}
    quality = coding.quality
    for _ in range(encodings):
        attempt = replace(coding, quality=quality)
        coded = encode(image, attempt, target.sections[2])
        tried[quality] = len(coded)
        written = _assembled(target.sections, coded, target.room)
        if written is not None:
            yield attempt.to_bytes(), written
        following = _next_quality(tried, target.room)
        if following in tried or len(coded) == target.room:
            break
        quality = following


_TUNED_QUALITIES = (
    (4, 95), (8, 90), (12, 85), (15, 80), (19, 75), (23, 70), (30, 60), (37, 50), (49, 30), (59, 10), (63, 0)
)  # fmt: skip
"""A quarter of the quantizer index -> quality for which libavif 1.4 chooses it; without tuning it is linear."""


def coarser(coding: bytes) -> Iterator[bytes]:
    """Yield settings that come out smaller, a step at a time. Raises IntegrityError."""
    settings = AvifCoding.from_bytes(coding)
    for step in range(1, min(settings.quality, _COARSER_STEPS) + 1):
        yield replace(settings, quality=settings.quality - step).to_bytes()


def _likely_quality(quantizer: int, plain: bool) -> int:
    """Return the quality that gives a frame this quantizer index."""
    if plain:
        return max(0, round(100 - 100 * quantizer / 4 / 63))
    quarters, qualities = zip(*_TUNED_QUALITIES, strict=True)
    return round(float(np.interp(quantizer / 4, quarters, qualities))) if quantizer >= 16 else 95


def _next_quality(tried: dict[int, int], room: int) -> int:
    """Return the quality to try next: the finest that should fit, from the sizes measured so far."""
    above = min((quality for quality, size in tried.items() if size > room), default=None)
    below = max((quality for quality, size in tried.items() if size <= room), default=None)
    if above is not None and below is not None:
        if above - below <= 1:
            return below
        share = math.log(room / tried[below]) / max(1e-6, math.log(tried[above] / tried[below]))
        return min(above - 1, max(below + 1, math.floor(below + share * (above - below))))
    known = below if above is None else above
    assert known is not None
    # About 3 % of size a point of quality.
    moved = known + math.floor(math.log(room / tried[known]) / 0.03)
    if above is None:
        return min(100, max(known, moved))
    return max(0, min(known - 1, moved))


def _is_centred(image: Image.Image, member: Image.Image) -> bool:
    """True unless the member's chroma is lower on the whole, as this encoder would leave it."""
    ours, theirs = (_mean_chroma(each) for each in (image, member))
    return theirs - ours > -_LOST_CHROMA / 2


def _mean_chroma(image: Image.Image) -> float:
    return float(np.asarray(image.convert("RGB").reduce(4).convert("YCbCr"), np.float32)[:, :, 1:].mean())


def encode(image: Image.Image, coding: AvifCoding, like: bytes) -> bytes:
    """Return the units of a coded image of mode RGB.

    Args:
        like: a sequence header payload; the one that is made says about its colours what this one does.
    Raises:
        UndecodableError: the encoder failed.
    """
    out = io.BytesIO()
    advanced = {"tune": "ssim", "enable-qm": "0", "deltaq-mode": "0"} if coding.plain else {}
    with translated():
        _prepared(image, coding).save(
            out,
            "AVIF",
            quality=coding.quality,
            speed=coding.speed,
            subsampling=_SAMPLING_NAMES[coding.sampling],
            range="full" if coding.full_range else "limited",
            codec="aom",
            max_threads=_THREADS,
            advanced=advanced,
        )
    coded = avif.split(out.getvalue()).coded
    return b"".join(
        av1.make_unit(unit.kind, av1.relabelled(coded[unit.body : unit.end], like))
        if unit.kind == av1.SEQUENCE
        else coded[unit.start : unit.end]
        for unit in av1.units_of(coded)
        if unit.kind != av1.TEMPORAL or coding.delimited
    )


def _prepared(image: Image.Image, coding: AvifCoding) -> Image.Image:
    """Return the pixels whose BT.601 coding is the coding of the image with the member's matrix."""
    if _MATRICES[coding.matrix] == _MATRICES[_BT601] and not coding.centred:
        return image
    change, offset = _correction(coding.matrix, coding.centred, coding.full_range)
    samples = np.asarray(image).astype(np.float32) @ change.T + offset
    return Image.fromarray(np.clip(samples + np.float32(0.5), 0, 255).astype(np.uint8))


@functools.cache
def _correction(
    matrix: int, centred: bool, full_range: bool
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    back = np.linalg.inv(_to_luma_and_chroma(_BT601))
    lost = _LOST_CHROMA * (1.0 if full_range else 255 / 224) * centred
    offset = back @ np.array([0.0, lost, lost])
    return (back @ _to_luma_and_chroma(matrix)).astype(np.float32), offset.astype(np.float32)


def _to_luma_and_chroma(matrix: int) -> npt.NDArray[np.float64]:
    red, blue = _MATRICES[matrix]
    luma = np.array([red, 1 - red - blue, blue])
    return np.stack(
        (luma, (np.array([0, 0, 1]) - luma) / (2 * (1 - blue)), (np.array([1, 0, 0]) - luma) / (2 * (1 - red)))
    )


def _assembled(sections: tuple[bytes, ...], coded: bytes, room: int) -> bytes | None:
    """Return the whole file, the coded image filled up to the room; None when that cannot be met."""
    before, after, _, repeated = sections
    padding = av1.make_padding(room - len(coded)) if len(coded) <= room else None
    if padding is None:
        return None
    whole = bytearray(b"".join((before, coded, padding, after)))
    if repeated:
        # The container repeats the sequence header for readers in a hurry; it has to be the one that is coded.
        start, length = struct.unpack("<QQ", repeated)
        sequence = next(unit for unit in av1.units_of(coded) if unit.kind == av1.SEQUENCE)
        if sequence.end - sequence.start != length or start + length > len(whole):
            return None
        whole[start : start + length] = coded[sequence.start : sequence.end]
    return bytes(whole)


def write(image: Image.Image, coding: bytes, sections: tuple[bytes, ...], size_bytes: int) -> bytes | None:
    """Return the file that settings make of an image, or None when it does not come out at the size.

    Raises:
        IntegrityError: settings or sections that cannot be read.
    """
    coded = encode(image, AvifCoding.from_bytes(coding), sections[2])
    try:
        return _assembled(sections, coded, size_bytes - len(sections[0]) - len(sections[1]))
    except struct.error as exc:
        raise IntegrityError("an AVIF member's own bytes do not belong together") from exc
