"""What a folder may look like after a crash, given the operations that had begun and those that had ended.

The rule is the one of the README: the volume is in a state that it was in at some moment after the last fsync. Names
change together, in the order of the operations; the bytes of a file are what they were after one of its writes, not
older than its last fsync, and the same under every name. A file that never had its bytes stored may be missing under
all its names. Pure; no thread but one.
"""

from __future__ import annotations

import enum
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from measure import CEILINGS, compare_pictures
from PIL import Image

from dedupfs.errors import DedupfsError
from dedupfs.ingest.fingerprint import distance_bits, fingerprint
from dedupfs.model import Policy

PERCEPTUAL_BITS = 32
"""How far a fingerprint may be from that of what was written, under the policy `perceptual`: 15 bits to the
representative, and what drawing it at another size moves. The nearest stranger of the collection is 106 bits away."""


class Kind(enum.StrEnum):
    """What an operation does; `name` is what it is done to."""

    WRITE = enum.auto()
    """Cut the file to nothing, or make it, and write `data`, as cp does."""
    EDIT = enum.auto()
    """Write `data` at `offset` of what is there."""
    TRUNCATE = enum.auto()
    """Cut the file, or let it grow, to `offset` bytes."""
    RENAME = enum.auto()
    """Move to `other`, over what is there."""
    LINK = enum.auto()
    """Give it the name `other` too."""
    UNLINK = enum.auto()
    HOLD = enum.auto()
    """Open it for reading until the next file is held."""
    FSYNC = enum.auto()
    SYNC = enum.auto()
    """fsync of the directory: names are durable, bytes in memory are not."""
    SETTLE = enum.auto()
    """Everything is decided and durable."""


DURABLE = frozenset({Kind.FSYNC, Kind.SYNC, Kind.SETTLE})


@dataclass(frozen=True, slots=True)
class Operation:
    """One step of a workload."""

    kind: Kind
    name: str = ""
    other: str = ""
    data: bytes = b""
    offset: int = 0


@dataclass(slots=True)
class File:
    """An inode: its bytes after each write, None for not yet stored, and from when on older ones are out."""

    versions: list[tuple[int, bytes | None]]
    floors: list[tuple[int, int]] = field(default_factory=list)

    @property
    def latest(self) -> bytes:
        data = self.versions[-1][1]
        assert data is not None
        return data

    def hold_fast(self, step: int) -> None:
        """Let no state at or after the step have older bytes than the latest."""
        self.floors.append((step, len(self.versions) - 1))

    def allowed(self, step: int) -> list[bytes | None]:
        """Return what it may be in a state after `step`."""
        floor = max((version for since, version in self.floors if since <= step), default=0)
        return [data for since, data in self.versions[floor:] if since <= step]


@dataclass(frozen=True, slots=True)
class Seen:
    """A file as it is found: what it reads as, and which names are one file."""

    inode: int
    data: bytes


class Ledger:
    """Takes notes of one actor's operations in one folder, from a known state on."""

    def __init__(self, start: Mapping[str, tuple[int, bytes]], policy: Policy = Policy.VERIFIED) -> None:
        """Begin with names, which inode each leads to, and its bytes, all durable, on a volume of some policy."""
        self._policy = policy
        self._files = {inode: File([(-1, data)]) for inode, data in start.values()}
        self._names: list[dict[str, int]] = [{name: inode for name, (inode, _) in start.items()}]
        self._durable = 0
        """Index into `_names` of the state that a crash cannot undo."""
        self._next = max(self._files, default=0) + 1

    def note(self, operation: Operation, *, ended: bool, base: bytes | None = None) -> None:
        """Take note of an operation that began; `base` is what it read before it changed something of it."""
        step = len(self._names)
        names = dict(self._names[-1])
        name, other = operation.name, operation.other
        file = self._files[names[name]] if name in names else None
        match operation.kind:
            case Kind.WRITE if file is None:
                self._files[self._next] = File([(step, None), (step, operation.data)])
                names[name] = self._next
                self._next += 1
            case Kind.WRITE:
                assert file is not None
                file.versions += [(step, b""), (step, operation.data)]
            case Kind.EDIT | Kind.TRUNCATE if base is not None:
                assert file is not None
                file.versions.append((step, changed(operation, base)))
            case Kind.RENAME if names.get(other) != names[name]:
                assert file is not None
                if other in names:
                    # It replaces something, so that its bytes must be stored by then.
                    file.hold_fast(step)
                names[other] = names.pop(name)
            case Kind.LINK:
                names[other] = names[name]
            case Kind.UNLINK:
                del names[name]
            case Kind.FSYNC if ended:
                assert file is not None
                file.hold_fast(step)
            case Kind.SETTLE if ended:
                for each in self._files.values():
                    each.hold_fast(step)
        self._names.append(names)
        if ended and operation.kind in DURABLE:
            self._durable = step

    def expected(self, name: str) -> bytes:
        """Return what was last written to a file that has this name now."""
        return self._files[self._names[-1][name]].latest

    def explain(self, found: Mapping[str, Seen]) -> dict[str, tuple[int, bytes]] | None:
        """Return the state that was found, in the words of `__init__`, or None when no crash may leave it."""
        for step in range(len(self._names) - 1, self._durable - 1, -1):
            state = self._match(step, found)
            if state is not None:
                return state
        return None

    def _match(self, step: int, found: Mapping[str, Seen]) -> dict[str, tuple[int, bytes]] | None:
        by_file: dict[int, list[str]] = {}
        for name, inode in self._names[step].items():
            by_file.setdefault(inode, []).append(name)
        state: dict[str, tuple[int, bytes]] = {}
        for inode, names in by_file.items():
            seen = [found[name] for name in names if name in found]
            allowed = self._files[inode].allowed(step)
            if not seen and None in allowed:
                continue
            if len(seen) != len(names) or len({each.inode for each in seen}) != 1:
                return None
            data = next(
                (each for each in allowed if each is not None and is_kept(each, seen[0].data, self._policy)), None
            )
            if data is None:
                return None
            state.update(dict.fromkeys(names, (inode, data)))
        return state if state.keys() == found.keys() else None

    def describe(self, found: Mapping[str, Seen]) -> str:
        """Return in a line what was found and what the latest state was, by size."""
        there = {name: len(seen.data) for name, seen in sorted(found.items())}
        wanted = {
            name: [None if data is None else len(data) for data in self._files[inode].allowed(len(self._names))]
            for name, inode in sorted(self._names[-1].items())
        }
        return f"found {there}, last {wanted}"


def changed(operation: Operation, base: bytes) -> bytes:
    """Return what an edit or a truncation makes of the bytes it found."""
    if operation.kind is Kind.TRUNCATE:
        return base[: operation.offset] + bytes(max(0, operation.offset - len(base)))
    grown = base + bytes(max(0, operation.offset - len(base)))
    return grown[: operation.offset] + operation.data + grown[operation.offset + len(operation.data) :]


_compared: dict[tuple[bytes, bytes, Policy], bool] = {}


def is_kept(written: bytes, read: bytes, policy: Policy = Policy.VERIFIED) -> bool:
    """Whether a file that was written so may read so: the same bytes, or a picture of the same size and look.

    Under the policy `perceptual`, whose fingerprints do not see a small patch, the same fingerprint is enough.
    """
    if written == read:
        return True
    if len(written) != len(read):
        return False
    pair = (written, read, policy)
    if pair not in _compared:
        alike = _fingerprints_agree if policy is Policy.PERCEPTUAL else _look_the_same
        _compared[pair] = alike(written, read)
    return _compared[pair]


def _look_the_same(written: bytes, read: bytes) -> bool:
    try:
        comparison, problems = compare_pictures(io.BytesIO(written), io.BytesIO(read))
    except (OSError, ValueError, SyntaxError):
        return False
    if comparison is None or problems:
        return False
    measured, limits = asdict(comparison), asdict(CEILINGS)
    psnr_db, least_db = measured.pop("psnr_db"), limits.pop("psnr_db")
    return bool(psnr_db >= least_db and all(value <= limits[what] for what, value in measured.items()))


def _fingerprints_agree(written: bytes, read: bytes) -> bool:
    try:
        comparison, problems = compare_pictures(io.BytesIO(written), io.BytesIO(read))
        with Image.open(io.BytesIO(written)) as before, Image.open(io.BytesIO(read)) as after:
            distance = distance_bits(fingerprint(before.convert("L")), fingerprint(after.convert("L")))
    except (OSError, ValueError, SyntaxError, DedupfsError):
        return False
    return comparison is not None and not problems and distance <= PERCEPTUAL_BITS
