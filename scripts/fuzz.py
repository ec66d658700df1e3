"""Send hostile pictures through everything that reads them, and see that nothing but the picture comes to harm.

Every input goes through the parsers of this project, in this process, and a worker process looks at it as the mount
would have it do; of every tenth, it compares what is a picture with the sound file in both directions; every hundredth
goes the whole way with it, written into a volume, settled, and read back: both must be stored exactly, or be renditions
that look like what was written. Failures are kept in a folder, to be tried again with --again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fuzz_inputs import amplifiers, inputs, make_seeds
from fuzz_volume import through_a_volume

from dedupfs.errors import IngestError, IntegrityError, WorkerError
from dedupfs.ingest import jpeg, png, sections, webp
from dedupfs.ingest.facts import PictureFacts
from dedupfs.ingest.outcome import Fit, Misfit
from dedupfs.ingest.recipe import Recipe
from dedupfs.ingest.sniff import cut_points, sniff
from dedupfs.ingest.workers import WorkerPool
from dedupfs.model import Policy

PHOTOS = Path(__file__).resolve().parent.parent / "tests" / "photos"
COMPARED, WHOLE_WAY = 10, 100
"""Every so-manieth input is compared, and goes through a volume; which takes 60 and 200 times as long as a look."""
BATCH = 100
PARSE_SECONDS = 2.0
JOB_SECONDS = 20.0
AMPLIFIER_BYTES = 64 << 20
AMPLIFIER_MEMORY_BYTES = 400 << 20


class Findings:
    """What went wrong, with the input that did it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.counted: Counter[str] = Counter()
        self.failures: list[dict[str, str]] = []

    def failed(self, what: str, data: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / hashlib.sha256(data).hexdigest()[:16]
        path.write_bytes(data)
        self.failures.append({"what": what, "input": str(path)})
        print(f"\r\x1b[K{what}: {path}", file=sys.stderr)


def main() -> int:
    """Run and report; exit code 1 when something failed."""
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=2000, help="how many (default: 2000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--photos", type=Path, default=PHOTOS, help="sound files to start from")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "dedupfs-fuzz", help="for failures")
    parser.add_argument("--again", type=Path, help="try this one file and nothing else")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    findings = Findings(options.keep)
    pool = WorkerPool(1, job_seconds=JOB_SECONDS)
    started = time.monotonic()
    try:
        if options.again is not None:
            data = options.again.read_bytes()
            parse(data, findings)
            work(pool, data, data, findings, compare=True)
            whole_way([data], findings)
        else:
            run(options.inputs, options.seed, make_seeds(options.photos), pool, findings)
            amplified(findings)
    finally:
        pool.close()
    answer: dict[str, Any] = {
        "inputs": options.inputs,
        "seed": options.seed,
        "seconds": round(time.monotonic() - started, 1),
        "outcomes": dict(findings.counted),
        "failures": findings.failures,
    }
    print(json.dumps(answer, indent=2) if options.json else as_text(answer))
    return 1 if findings.failures else 0


def run(count: int, seed: int, seeds: list[bytes], pool: WorkerPool, findings: Findings) -> None:
    """Try every input."""
    batch: list[bytes] = []
    for number, (original, data) in enumerate(inputs(seeds, count, seed), 1):
        parse(data, findings)
        work(pool, original, data, findings, compare=not number % COMPARED)
        if not number % WHOLE_WAY:
            batch += [original, data]
        if len(batch) >= BATCH or (number == count and batch):
            whole_way(batch, findings)
            batch = []
        if sys.stderr.isatty():
            print(f"\r\x1b[K{number} of {count}, {len(findings.failures)} failures", end="", file=sys.stderr)
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)


def parse(data: bytes, findings: Findings) -> None:
    """Take the file apart in every way; only our own errors may come, soon, and parts must add up to the whole."""
    started = time.process_time()
    try:
        picture_format = sniff(data[:64])
        cuts = cut_points(data, picture_format) if picture_format is not None else ()
        if list(cuts) != sorted(set(cuts)) or any(not 0 < cut < len(data) for cut in cuts):
            findings.failed("cut points out of order", data)
        for take_apart, expected in _PARSERS:
            try:
                parts = take_apart(data)
            except expected:
                continue
            if b"".join(parts) not in (data, b""):
                findings.failed("parts do not add up to the whole", data)
    except Exception as exc:  # noqa: BLE001  That is what this is looking for.
        findings.failed(f"a parser raised {type(exc).__name__}: {exc}", data)
    if time.process_time() - started > PARSE_SECONDS:
        findings.failed("parsing takes too long", data)


def _jpeg_parts(data: bytes) -> Sequence[bytes]:
    parts = jpeg.split(data)
    return parts.before, parts.coded, parts.after


def _png_parts(data: bytes) -> Sequence[bytes]:
    parts = png.split(data)
    middle = data[len(parts.before) : len(data) - len(parts.after)]
    return parts.before, middle, parts.after


def _webp_parts(data: bytes) -> Sequence[bytes]:
    parts = webp.split(data)
    return data[:12], parts.before, parts.coded, parts.after, parts.trailer


def _nothing(read: Callable[[bytes], object]) -> Callable[[bytes], Sequence[bytes]]:
    def reading(data: bytes) -> Sequence[bytes]:
        read(data)
        return ()

    return reading


_PARSERS: tuple[tuple[Callable[[bytes], Sequence[bytes]], type[Exception]], ...] = (
    (_jpeg_parts, IngestError),
    (_png_parts, IngestError),
    (_webp_parts, IngestError),
    (_nothing(lambda data: sections.unpack(data, 3)), IntegrityError),
    (_nothing(Recipe.from_bytes), IntegrityError),
    (_nothing(PictureFacts.from_bytes), IntegrityError),
)


def work(pool: WorkerPool, original: bytes, data: bytes, findings: Findings, *, compare: bool) -> None:
    """Have a worker look at the file and, where it finds a picture, compare it with the sound one either way."""
    try:
        facts = pool.call("inspect", data)
        outcome = "a picture"
    except WorkerError as exc:
        findings.failed(f"a worker failed: {exc}", data)
        return
    except IngestError as exc:
        findings.counted[type(exc).__name__] += 1
        return
    if not isinstance(facts, PictureFacts):
        findings.failed("a worker answered with something else than facts", data)
        return
    for member, base in ((data, original), (original, data)) if compare else ():
        try:
            fit = pool.call("fit", member, base, Policy.VERIFIED)
            if isinstance(fit, Fit):
                outcome = "a rendition"
                drawn = pool.call("render", base, fit.recipe, fit.own, len(member))
                if hashlib.sha256(drawn).digest() != fit.digest or len(drawn) != len(member):
                    findings.failed("a rendition is not drawn as it was verified", data)
            elif not isinstance(fit, Misfit):
                findings.failed("a worker answered with something else than a fit", data)
        except IngestError as exc:
            findings.failed(f"a comparison failed: {exc}", data)
    findings.counted[outcome] += 1


def whole_way(batch: list[bytes], findings: Findings) -> None:
    """Write files into a volume and read them back."""
    for data, what in through_a_volume(batch):
        if what in ("exact", "rendition"):
            findings.counted[f"stored: {what}"] += 1
        else:
            findings.failed(what, data)


def amplified(findings: Findings) -> None:
    """Parse the largest files that could be pictures, made of the smallest parts."""
    for name, data in amplifiers(AMPLIFIER_BYTES).items():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        parse(data, findings)
        if (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 > AMPLIFIER_MEMORY_BYTES:
            findings.failed(f"parsing {name} takes too much memory", data)
        findings.counted["amplifiers"] += 1


def as_text(answer: dict[str, Any]) -> str:
    """Return the report for people."""
    lines = [f"{answer['inputs']} inputs from seed {answer['seed']} in {answer['seconds']} s"]
    lines += [f"  {name:<24}{count}" for name, count in sorted(answer["outcomes"].items())]
    lines += [f"FAILED  {failure['what']}  {failure['input']}" for failure in answer["failures"]]
    lines.append("no failures" if not answer["failures"] else f"{len(answer['failures'])} failures")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
