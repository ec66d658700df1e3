"""What jobs say that they take, and what they take."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from dedupfs.errors import MemoryShortError
from dedupfs.ingest import footprint, jobs
from dedupfs.ingest.gate import Gate
from dedupfs.ingest.workers import WorkerPool
from dedupfs.model import Policy
from tests.ingest.drawing import encoded, photo

SIDES_PX = (2000, 1500)
LEEWAY = 1.2
"""These are small pictures, and what is said was measured with large ones."""


@pytest.fixture(scope="module")
def large() -> Image.Image:
    return photo(5, SIDES_PX)


def growth_of(job: str, *arguments: object) -> int:
    """Return by how many bytes a job has made its worker grow at most."""
    pool = WorkerPool(1)
    try:
        # What a worker loads once is no part of a job.
        small = photo(1)
        pool.call("fit", encoded(small, quality=70, progressive=True), encoded(small, quality=92), Policy.VERIFIED)
        worker = pool._idle.get()
        assert worker is not None
        pool._idle.put(worker)
        pid = worker._child.pid
        # Forgets the largest size so far, see proc_pid_clear_refs(5).
        Path(f"/proc/{pid}/clear_refs").write_text("5")
        before = _status(pid, "VmHWM")
        pool.call(job, *arguments)
        return _status(pid, "VmHWM") - before
    finally:
        pool.close()


def _status(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="this kernel forgets no largest size")
def test_no_job_takes_much_more_than_it_says(large: Image.Image) -> None:
    jpeg, progressive = encoded(large, quality=92), encoded(large, quality=80, progressive=True)
    half = encoded(large.resize((1000, 750)), quality=85)
    assert growth_of("inspect", progressive) <= LEEWAY * footprint.of_inspect(progressive)
    for picture_format in ("PNG", "WEBP", "TIFF"):
        other = encoded(large, picture_format)
        assert growth_of("inspect", other) <= LEEWAY * footprint.of_inspect(other), picture_format
    for member in (half, progressive, encoded(large, "PNG")):
        assert growth_of("fit", member, jpeg, Policy.VERIFIED) <= LEEWAY * footprint.of_search(member, jpeg)
    assert growth_of("fit", jpeg, half, Policy.VERIFIED) <= LEEWAY * footprint.of_search(jpeg, half)


def test_a_job_is_refused_before_it_decodes(large: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(large, "PNG")
    monkeypatch.setattr("dedupfs.ingest.jobs.decode", None)
    with footprint.allowed(footprint.of_inspect(data) - 1), pytest.raises(MemoryShortError):
        jobs.inspect(data)


def test_a_copy_to_the_last_byte_needs_less_than_a_comparison(large: Image.Image) -> None:
    original = encoded(large, quality=92)
    with Image.open(io.BytesIO(original)) as again:
        copy, other = encoded(again, quality=70), encoded(again, quality=70, progressive=True)
    enough = footprint.of_replay(copy, original)
    assert enough < footprint.of_search(other, original)
    with footprint.allowed(max(enough, footprint.of_replay(other, original))):
        found = jobs.fit(copy, original, Policy.VERIFIED)
        assert isinstance(found, jobs.Fit) and found.bit_exact
        with pytest.raises(MemoryShortError):
            jobs.fit(other, original, Policy.VERIFIED)


def test_what_is_no_picture_needs_next_to_nothing() -> None:
    for of in (footprint.of_inspect, footprint.of_look):
        assert of(b"no picture") < footprint.SMALL_BYTES
    assert footprint.of_search(b"none", b"neither") < footprint.SMALL_BYTES


def test_readers_of_a_small_gate_get_their_rendition(large: Image.Image) -> None:
    original = encoded(large, quality=92)
    with Image.open(io.BytesIO(original)) as again:
        copy = encoded(again.resize((1000, 750)), quality=85)
    fit = jobs.fit(copy, original, Policy.VERIFIED)
    assert isinstance(fit, jobs.Fit)
    pool = WorkerPool(1, memory=Gate(1 << 20), is_for_readers=True)
    try:
        assert pool.call("render", original, fit.recipe, fit.own, len(copy)) == copy
    finally:
        pool.close()
