"""Mixed work on a mounted folder and, step by step, on a plain one beside it: what the mount must read like.

Each `Worker` has a folder of its own on both sides and a random generator of its own, and runs on a thread of its own.
"""

from __future__ import annotations

import io
import mmap
import os
import random
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measure import CEILINGS, compare_pictures
from PIL import Image, ImageDraw, ImageFilter

PICTURE_SUFFIXES = (".jpg", ".png", ".webp")
SCENES = 60
_BLOB_BYTES = 6_000_000
_XATTR = "user.soak"
_CEILING_FACTOR = 2
"""Times the ceilings for photos: drawn pictures have harder edges and fuller colours. Of 60 renditions of versions as
coarse as quality 50 the worst had 18 in fine chroma, where the ceiling for photos is 12; dedupfs measures the same."""


UNREADABLE = (OSError, SyntaxError, ValueError, KeyError, EOFError, struct.error)
"""What Pillow raises for a broken file; a PNG with a damaged chunk is a SyntaxError."""


class DifferenceError(Exception):
    """The mount reads otherwise than it should; its text says how."""

    def __init__(self, text: str, path: Path, written: bytes = b"", read: bytes = b"") -> None:
        """`path` is the one on the mount; the bytes are those of a file that reads otherwise than it was written."""
        super().__init__(f"{path}: {text}")
        self.path = path
        self.written = written
        self.read = read


class Worker:
    """One user of the mount, at work until it is stopped or finds a difference."""

    def __init__(self, number: int, seed: int, mountpoint: Path, model: Path, limit_bytes: int) -> None:
        """`limit_bytes` is what it writes before it removes as much as it adds."""
        self._random = random.Random(f"{seed} {number}")
        self._mount = mountpoint / f"user {number}"
        self._model = model / f"user {number}"
        self._limit_bytes = limit_bytes
        self._names: list[str] = []
        self._made = 0
        self.logical_bytes = 0
        """What its files add up to; others may read it while it works."""
        self.done: Counter[str] = Counter()
        self.compared: Counter[str] = Counter()
        self._steps: list[tuple[int, Callable[[], None]]] = [
            (5, self._add_picture),
            (8, self._add_version),
            (3, self._add_copy),
            (4, self._add_blob),
            (5, self._edit),
            (1, self._truncate),
            (4, self._rename),
            (1, self._link),
            (2, self._describe),
            (6, self._remove),
            (12, self._read),
            (1, self._list),
            (1, self._rename_folder),
        ]

    def start(self) -> None:
        """Make the first folders."""
        for root in (self._mount, self._model):
            for number in range(4):
                (root / f"folder {number}").mkdir(parents=True)

    def work(self, stop: threading.Event) -> None:
        """Do one thing after the other."""
        weights = [weight for weight, _ in self._steps]
        while not stop.is_set():
            step = self._random.choices(self._steps, weights)[0][1]
            if self.logical_bytes > self._limit_bytes:
                step = self._remove
            step()
            self.logical_bytes = sum((self._model / name).stat().st_size for name in self._names)
            self.done[step.__name__.strip("_")] += 1
            time.sleep(self._random.random() * 0.02)

    def compare_all(self) -> None:
        """Compare every file and every folder."""
        for name in self._names:
            self._compare(name)
        self._list()

    # Adding

    def _add_picture(self) -> None:
        picture = draw(self._random.randrange(SCENES))
        self._write(self._new_name(".jpg"), encoded(picture, ".jpg", self._random.randint(82, 96)))

    def _add_version(self) -> None:
        name = self._pick(PICTURE_SUFFIXES)
        if name is None:
            return
        try:
            with Image.open(self._model / name) as stored:
                picture = stored.convert("RGB")
        except UNREADABLE:
            # An edit has made it a file that does not decode.
            return
        share = self._random.choice([1.0, 1.0, 0.75, 0.5, 0.33])
        if share < 1 and min(picture.size) * share > 100:
            size_px = round(picture.width * share), round(picture.height * share)
            picture = picture.resize(size_px, Image.Resampling.LANCZOS)
        suffix = self._random.choice([".jpg", ".jpg", ".jpg", ".webp", ".png"])
        if self._random.random() < 0.1:
            ImageDraw.Draw(picture).text((20, 20), str(self._random.random()), fill=(250, 250, 250))
        self._write(self._new_name(suffix), encoded(picture, suffix, self._random.randint(50, 92)))

    def _add_copy(self) -> None:
        """Copy on the mount, as `cp` does; what is a rendition is copied as it reads."""
        name = self._pick()
        if name is not None:
            self._write(self._new_name(Path(name).suffix), self._compare(name))

    def _add_blob(self) -> None:
        self._write(self._new_name(".bin"), self._random.randbytes(int(_BLOB_BYTES ** self._random.random())))

    def _write(self, name: str, data: bytes) -> None:
        """Write as some tool does: in place, or beside and renamed; made durable or not."""
        target = self._mount / name
        beside = self._random.random() < 0.3
        path = target.with_name(f".{target.name}.part") if beside else target
        with path.open("wb") as file:
            step = self._random.choice([4096, 65536, 1 << 20])
            for at in range(0, len(data), step):
                file.write(data[at : at + step])
            if self._random.random() < 0.15:
                file.flush()
                os.fsync(file.fileno())
        if beside:
            path.replace(target)
        (self._model / name).write_bytes(data)
        if name not in self._names:
            self._names.append(name)

    # Changing

    def _edit(self) -> None:
        """Change some bytes in place, or put some at the end; the rest is what was read with the same handle."""
        name = self._pick()
        if name is None:
            return
        with (self._mount / name).open("r+b") as file:
            data = bytearray(file.read())
            self._require_same(name, bytes(data))
            for _ in range(self._random.randint(1, 3)):
                at = self._random.randint(0, len(data))
                change = self._random.randbytes(self._random.randint(1, 20_000))
                file.seek(at)
                file.write(change)
                data[at : at + len(change)] = change
            if self._random.random() < 0.3:
                file.flush()
                os.fsync(file.fileno())
        self._replace_model(name, bytes(data))

    def _truncate(self) -> None:
        name = self._pick((".bin",))
        if name is not None:
            size = self._random.randint(0, (self._model / name).stat().st_size + 5000)
            data = self._compare(name)
            os.truncate(self._mount / name, size)
            self._replace_model(name, data[:size].ljust(size, b"\0"))

    def _replace_model(self, name: str, data: bytes) -> None:
        """In place, since the model has the hard links of the mount."""
        with (self._model / name).open("r+b") as file:
            file.truncate(len(data))
            file.write(data)

    def _rename(self) -> None:
        """Onto a new name, or onto another file, which goes."""
        name, other = self._pick(), self._pick()
        if name is None or other is None:
            return
        # What a file is must still be told by its name.
        over = name != other and Path(name).suffix == Path(other).suffix and self._random.random() < 0.5
        # A rename onto another name of the same file does nothing.
        if over and (self._model / name).samefile(self._model / other):
            return
        target = other if over else self._new_name(Path(name).suffix)
        for root in (self._mount, self._model):
            (root / name).rename(root / target)
        self._names.remove(name)
        if target not in self._names:
            self._names.append(target)

    def _link(self) -> None:
        name = self._pick()
        if name is not None:
            target = self._new_name(Path(name).suffix)
            for root in (self._mount, self._model):
                (root / target).hardlink_to(root / name)
            self._names.append(target)

    def _describe(self) -> None:
        name = self._pick()
        if name is None:
            return
        value, time_ns = self._random.randbytes(self._random.randint(0, 300)), self._random.randrange(10**18)
        mode = 0o600 | self._random.randrange(0o100)
        os.utime(self._mount / name, ns=(time_ns, time_ns))
        (self._mount / name).chmod(mode)
        os.setxattr(self._mount / name, _XATTR, value)
        info = (self._mount / name).stat()
        if (info.st_mtime_ns, info.st_mode & 0o777) != (time_ns, mode):
            raise DifferenceError("its time or mode is another one than was set", self._mount / name)
        if os.getxattr(self._mount / name, _XATTR) != value:
            raise DifferenceError("an extended attribute reads otherwise than it was set", self._mount / name)

    def _rename_folder(self) -> None:
        old, new = f"folder {self._random.randrange(4)}", f"folder {self._random.randrange(4)}"
        if old == new:
            return
        for root in (self._mount, self._model):
            (root / old).rename(root / "between")
            (root / new).rename(root / old)
            (root / "between").rename(root / new)
        swapped = {old: new, new: old}
        self._names = [
            f"{swapped.get(folder, folder)}/{rest}" for folder, _, rest in (name.partition("/") for name in self._names)
        ]

    def _remove(self) -> None:
        name = self._pick()
        if name is not None:
            self._names.remove(name)
            for root in (self._mount, self._model):
                (root / name).unlink()

    # Comparing

    def _read(self) -> None:
        name = self._pick()
        if name is not None:
            self._compare(name)

    def _list(self) -> None:
        for number in range(4):
            folder = f"folder {number}"
            listed = {entry.name: entry.stat().st_size for entry in os.scandir(self._mount / folder)}
            wanted = {entry.name: entry.stat().st_size for entry in os.scandir(self._model / folder)}
            if listed != wanted:
                different = sorted(listed.items() ^ wanted.items())
                raise DifferenceError(f"other names or sizes: {different}", self._mount / folder)

    def _compare(self, name: str) -> bytes:
        """Read a file on the mount, require it to be the one that was written, and return its bytes."""
        with (self._mount / name).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size and self._random.random() < 0.2:
                with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
                    data = bytes(mapped)
            else:
                data = file.read()
        self._require_same(name, data)
        return data

    def _require_same(self, name: str, data: bytes) -> None:
        written = (self._model / name).read_bytes()
        if data == written:
            self.compared["equal"] += 1
            return
        problem = self._unlike(name, written, data)
        if problem is not None:
            raise DifferenceError(problem, self._mount / name, written, data)
        self.compared["rendition"] += 1

    def _unlike(self, name: str, written: bytes, data: bytes) -> str | None:
        """Say why other bytes than were written cannot be a rendition."""
        if not name.endswith(PICTURE_SUFFIXES) or len(data) != len(written):
            return f"{len(data)} bytes, and not the {len(written)} that were written"
        try:
            comparison, problems = compare_pictures(io.BytesIO(written), io.BytesIO(data))
        except UNREADABLE as exc:
            return f"other bytes than were written, and no picture ({exc})"
        if problems or comparison is None:
            return "; ".join(problems)
        for what in ("fine_luma", "fine_chroma", "coarse_luma", "coarse_chroma", "alpha"):
            if getattr(comparison, what) > _CEILING_FACTOR * getattr(CEILINGS, what):
                return f"{what} of the rendition is {getattr(comparison, what):.1f}"
        return None

    # Names

    def _pick(self, suffixes: tuple[str, ...] = ("",)) -> str | None:
        names = [name for name in self._names if name.endswith(suffixes)]
        return self._random.choice(names) if names else None

    def _new_name(self, suffix: str) -> str:
        self._made += 1
        return f"folder {self._random.randrange(4)}/{self._made:06d}{suffix}"


def draw(scene: int) -> Image.Image:
    """Return an RGB picture of broad tones, edges, texture and lettering that follows from its number alone."""
    random_numbers = np.random.default_rng(scene)
    size_px = [(640, 480), (960, 640), (1200, 900)][scene % 3]
    tones = Image.fromarray(random_numbers.integers(20, 236, (6, 8, 3), dtype=np.uint8))
    picture = tones.resize(size_px, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    for _ in range(20):
        x, y = (int(random_numbers.integers(0, side)) for side in size_px)
        width_px, height_px = (int(side) for side in random_numbers.integers(20, 200, 2))
        colour = tuple(int(level) for level in random_numbers.integers(0, 256, 3))
        (pen.ellipse if random_numbers.random() < 0.6 else pen.rectangle)((x, y, x + width_px, y + height_px), colour)
    noise = random_numbers.normal(0, 5, (size_px[1], size_px[0], 1))
    grained = np.clip(np.asarray(picture.filter(ImageFilter.GaussianBlur(0.8))) + noise, 0, 255).astype(np.uint8)
    picture = Image.fromarray(grained).filter(ImageFilter.GaussianBlur(0.6))
    ImageDraw.Draw(picture).text((40, size_px[1] // 2), f"scene {scene}", fill=(10, 10, 10))
    return picture


def encoded(picture: Image.Image, suffix: str, quality: int) -> bytes:
    """Return a picture as a file of the format that the suffix names."""
    out = io.BytesIO()
    if suffix == ".png":
        picture.save(out, "PNG")
    else:
        picture.save(out, {".jpg": "JPEG", ".webp": "WEBP"}[suffix], quality=quality)
    return out.getvalue()
