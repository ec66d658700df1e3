"""Damages the pages of a small database, one damage a round, and watches what the engine makes of it.

Each round copies one database, damages it as its seed says and, in a child process, opens it, reads everything, writes
to it and reads everything again. Values carry their own digest, as those of a volume carry an authentication tag, so a
changed value counts as noticed. What must never happen: a crash, a hang, an exception of another kind, or a value that
is not what was written. A changed key is a record that is missing, which is for `dedupfs check` to notice. No page is
replaced by an older state of itself, which nobody can notice.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import logging
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from dedupfs.errors import IntegrityError, StoreError
from dedupfs.storage.engine import Change
from dedupfs.storage.lmdb_engine import DATA_FILE, LmdbEngine

TABLES = ("few", "many", "large", "none")
PAGE_BYTES = 4096
MAP_BYTES = 1 << 24
HANG_SECONDS = 20
_DIGEST_BYTES = 16
_OUTCOMES = {0: "right", 1: "noticed", 2: "WRONG VALUE", 3: "OTHER EXCEPTION", 4: "MISSING"}

Content = dict[tuple[str, bytes], bytes]


def sealed(table: str, key: bytes, body: bytes) -> bytes:
    """Return a value that proves itself."""
    return hashlib.blake2b(table.encode() + b"\0" + key + body, digest_size=_DIGEST_BYTES).digest() + body


def is_sealed(table: str, key: bytes, value: bytes) -> bool:
    """Tell whether a value is one that was once written here."""
    return sealed(table, key, value[_DIGEST_BYTES:]) == value


def make(directory: Path, records: int = 1500) -> Content:
    """Make a database with pages of every kind, among them free ones, and return what it holds."""
    chance = random.Random(7)
    engine = LmdbEngine(directory, TABLES, create=True, initial_map_bytes=MAP_BYTES)
    content: Content = {}

    def put(table: str, key: bytes, body_bytes: int) -> Change:
        content[table, key] = sealed(table, key, chance.randbytes(body_bytes))
        return table, key, content[table, key]

    def drop(table: str, key: bytes) -> Change:
        del content[table, key]
        return table, key, None

    many = [chance.randbytes(chance.choice((8, 24, 32))) for _ in range(records)]
    large = [chance.randbytes(32) for _ in range(24)]
    engine.apply([put("few", b"key%d" % number, 20) for number in range(5)])
    engine.apply([put("many", key, chance.randrange(40, 200)) for key in many])
    engine.apply([put("large", key, chance.randrange(2100, 20_000)) for key in large])
    engine.apply([drop("many", key) for key in many[::5]] + [drop("large", key) for key in large[::5]])
    engine.apply([put("many", key, chance.randrange(40, 200)) for key in many[1::5]])
    engine.close()
    return content


def damage(data: bytearray, chance: random.Random) -> str:
    """Damage a database file in place, and return in what way."""
    pages = range(len(data) // PAGE_BYTES)
    # Most pages are parts of large values, which hold nothing that LMDB reads.
    of_trees = [page for page in pages if int.from_bytes(data[page * PAGE_BYTES + 10 :][:2], "little") in (1, 2)]
    ways: list[Callable[[bytearray, int, random.Random], str]] = [_flip_header, _flip_pointer, _flip_node, _flip_any]
    ways += [_set_field, _set_field, _zero, _swap, _overwrite, _flip_meta]
    return chance.choice(ways)(data, chance.choice(of_trees if chance.random() < 0.8 else pages), chance)


def _flip(data: bytearray, at: int, chance: random.Random) -> str:
    bit = chance.randrange(8)
    data[at] ^= 1 << bit
    return f"bit {bit} of byte {at % PAGE_BYTES} of page {at // PAGE_BYTES}"


def _flip_header(data: bytearray, page: int, chance: random.Random) -> str:
    return _flip(data, page * PAGE_BYTES + chance.randrange(16), chance)


def _flip_pointer(data: bytearray, page: int, chance: random.Random) -> str:
    return _flip(data, page * PAGE_BYTES + 16 + chance.randrange(80), chance)


def _flip_node(data: bytearray, page: int, chance: random.Random) -> str:
    """Flip a bit in the eight bytes that describe a node, or just behind them."""
    start = page * PAGE_BYTES
    pointers = max(0, min(int.from_bytes(data[start + 12 : start + 14], "little") - 16, 2000)) // 2
    if not pointers:
        return _flip_header(data, page, chance)
    at = start + 16 + 2 * chance.randrange(pointers)
    node = int.from_bytes(data[at : at + 2], "little") % (PAGE_BYTES - 24)
    return _flip(data, start + node + chance.randrange(20), chance)


def _flip_any(data: bytearray, page: int, chance: random.Random) -> str:
    return _flip(data, page * PAGE_BYTES + chance.randrange(PAGE_BYTES), chance)


def _flip_meta(data: bytearray, page: int, chance: random.Random) -> str:
    return _flip(data, page % 2 * PAGE_BYTES + chance.randrange(16 + 136), chance)


def _set_field(data: bytearray, page: int, chance: random.Random) -> str:
    """Set two bytes of the header or of a pointer or a node to an extreme."""
    at = page * PAGE_BYTES + 2 * chance.randrange(40) if chance.random() < 0.7 else chance.randrange(len(data) - 2)
    data[at : at + 2] = chance.choice((b"\0\0", b"\xff\xff", b"\0\x10", b"\xff\x7f"))
    return f"two bytes at {at % PAGE_BYTES} of page {at // PAGE_BYTES}"


def _zero(data: bytearray, page: int, chance: random.Random) -> str:
    data[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = bytes(PAGE_BYTES)
    return f"page {page} zeroed"


def _swap(data: bytearray, page: int, chance: random.Random) -> str:
    other = chance.randrange(len(data) // PAGE_BYTES)
    one, two = (slice(number * PAGE_BYTES, (number + 1) * PAGE_BYTES) for number in (page, other))
    data[one], data[two] = data[two], data[one]
    return f"pages {page} and {other} swapped"


def _overwrite(data: bytearray, page: int, chance: random.Random) -> str:
    other = chance.randrange(len(data) // PAGE_BYTES)
    data[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = data[other * PAGE_BYTES : (other + 1) * PAGE_BYTES]
    return f"page {page} overwritten with page {other}"


def use(directory: Path, content: Content, chance: random.Random) -> int:
    """Read, write and read again; return the key of `_OUTCOMES` that says how it went."""
    expected = {slot: {value} for slot, value in content.items()}
    outcome = 0
    for attempt in range(2):
        try:
            engine = LmdbEngine(directory, TABLES, initial_map_bytes=MAP_BYTES)
        except (IntegrityError, StoreError):
            return max(outcome, 1)
        try:
            outcome = max(outcome, _read(engine, expected))
            if attempt == 0:
                outcome = max(outcome, _write(engine, expected, chance))
                outcome = max(outcome, _read(engine, expected))
        finally:
            engine.close()
    return outcome


def _read(engine: LmdbEngine, expected: dict[tuple[str, bytes], set[bytes]]) -> int:
    outcome = 0
    for (table, key), values in expected.items():
        try:
            with engine.snapshot() as snapshot:
                value = snapshot.get(table, key)
        except (IntegrityError, StoreError):
            outcome = max(outcome, 1)
            continue
        outcome = max(outcome, _verdict(table, key, value, values))
    for table in TABLES:
        found = set()
        try:
            with engine.snapshot() as snapshot:
                for key, value in snapshot.scan(table):
                    found.add(key)
                    if (table, key) in expected:
                        outcome = max(outcome, _verdict(table, key, value, expected[table, key]))
                    elif is_sealed(table, key, value):
                        outcome = max(outcome, 2)
            if any(
                slot[0] == table and b"" not in values and slot[1] not in found for slot, values in expected.items()
            ):
                outcome = max(outcome, 4)
        except (IntegrityError, StoreError):
            outcome = max(outcome, 1)
    return outcome


def _verdict(table: str, key: bytes, value: bytes | None, values: set[bytes]) -> int:
    if value is None:
        return 0 if b"" in values else 4
    if value in values:
        return 0
    return 2 if is_sealed(table, key, value) else 1


def _write(engine: LmdbEngine, expected: dict[tuple[str, bytes], set[bytes]], chance: random.Random) -> int:
    """Delete a quarter, change a quarter and add some; what is told to have failed may be either way."""
    outcome = 0
    for _ in range(3):
        batch: list[Change] = []
        for table, key in list(expected):
            if b"" in expected[table, key]:
                continue
            throw = chance.random()
            if throw < 0.1:
                batch.append((table, key, None))
            elif throw < 0.2:
                batch.append((table, key, sealed(table, key, chance.randbytes(chance.choice((60, 150, 5000))))))
        for _ in range(20):
            key = chance.randbytes(24)
            batch.append(("many", key, sealed("many", key, chance.randbytes(100))))
        try:
            engine.apply(batch)
        except (IntegrityError, StoreError):
            outcome = 1
            continue
        for table, key, value in batch:
            # Nothing stands for a key that is not there.
            expected[table, key] = {bytes(value or b"")}
    return outcome


def run(directory: Path, pristine: Path, content: Content, seed: int) -> tuple[str, str]:
    """Run one round in a child process and return its outcome and what was damaged."""
    chance = random.Random(seed)
    data = bytearray((pristine / DATA_FILE).read_bytes())
    what = damage(data, chance)
    if chance.random() < 0.03:
        cut = chance.randrange(len(data))
        del data[cut:]
        what += f", cut to {cut} bytes"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    (directory / DATA_FILE).write_bytes(data)
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        signal.alarm(HANG_SECONDS)
        code = 3
        try:
            code = use(directory, content, chance)
        except BaseException:  # noqa: BLE001  whatever it is, the parent hears of it
            traceback.print_exc()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return ("HANG" if name == "SIGALRM" else f"CRASH {name}"), what
    return _OUTCOMES[os.WEXITSTATUS(status)], what


def rounds(first: int, count: int, scratch: Path, records: int = 1500) -> Iterator[tuple[int, str, str]]:
    """Run rounds and yield seed, outcome and what was damaged."""
    pristine = scratch / "pristine"
    pristine.mkdir()
    content = make(pristine, records)
    for seed in range(first, first + count):
        yield seed, *run(scratch / "damaged", pristine, content, seed)


def main() -> int:
    """Run as many rounds as asked for and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000, help="how many damaged databases to try (default 1000)")
    parser.add_argument("--first", type=int, default=0, help="seed of the first round (default 0)")
    options = parser.parse_args()
    # What the engine says of each damage is not the question here.
    logging.disable()
    outcomes: Counter[str] = Counter()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        for seed, outcome, what in rounds(options.first, options.rounds, Path(scratch)):
            outcomes[outcome] += 1
            if outcome.isupper() or outcome.startswith(("CRASH", "WRONG")):
                print(f"seed {seed}: {outcome}: {what}", flush=True)
    print(f"{options.rounds} rounds in {time.monotonic() - started:.0f} s")
    for outcome, count in outcomes.most_common():
        print(f"{count:7} {outcome}")
    return 1 if any(outcome not in ("right", "noticed") for outcome in outcomes) else 0


if __name__ == "__main__":
    raise SystemExit(main())
