"""Worker processes: what happens to one costs one job, and the pool goes on.

The jobs of these tests live in a module that a stand-in for the worker imports, so that a worker can be made to crash,
hang or talk nonsense.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dedupfs.errors import MemoryShortError, UndecodableError, UnfitPictureError, WorkerError, WorkerStartError
from dedupfs.filesystem.opening import open_filesystem
from dedupfs.ingest.facts import PictureFacts
from dedupfs.ingest.forkserver import ForkServer
from dedupfs.ingest.gate import Gate
from dedupfs.ingest.workers import WorkerPool
from dedupfs.model import PictureFormat, Policy
from tests.ingest.drawing import encoded, photo
from tests.volumes import make_volume, opened_volume

BAD_JOBS = """
import os, signal, sys, time

from dedupfs.errors import MemoryShortError, UndecodableError, UnfitPictureError
from dedupfs.ingest import footprint, worker


def crash():
    os.kill(os.getpid(), signal.SIGSEGV)


def crash_at_first(path):
    if not os.path.exists(path):
        open(path, "w").close()
        crash()
    return b"at last"


def hang():
    time.sleep(600)


def bomb():
    return len(bytearray(100 << 30))


def take(wanted):
    footprint.demand(wanted)
    return wanted


def swell(size):
    return len(bytearray(size))


def talk_nonsense():
    os.write(0, b"nonsense" * 100)


def answer_too_much():
    return [1, 2, 3]


def unfit():
    raise UnfitPictureError("animated")


def undecodable():
    raise UndecodableError("broken")


def fail():
    raise ZeroDivisionError("an error in a library")


def leave():
    sys.exit(3)


def chatter():
    print("a library that prints", flush=True)
    os.write(1, b"at every level")
    return b"quiet"


def environment():
    return sorted(os.environ)


def pid():
    return os.getpid()


worker._JOBS = {name: value for name, value in globals().items() if callable(value) and name.islower()}
worker.main()
"""


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerPool]:
    """One worker whose jobs misbehave."""
    module = tmp_path / "bad_worker.py"
    module.write_text(textwrap.dedent(BAD_JOBS))
    popen = subprocess.Popen

    def start(command: list[str], **options: Any) -> Any:
        assert command == [sys.executable, "-m", "dedupfs.ingest.worker"]
        return popen([sys.executable, str(module)], **options)

    monkeypatch.setattr("dedupfs.ingest.forkserver.subprocess.Popen", start)
    pool = WorkerPool(1, job_seconds=5)
    yield pool
    pool.close()


def test_the_pool_goes_on_after_everything_a_worker_can_do(pool: WorkerPool) -> None:
    first = pool.call("pid")
    assert pool.call("pid") == first
    for job in ("crash", "leave", "talk_nonsense"):
        with pytest.raises(WorkerError):
            pool.call(job)
        second = pool.call("pid")
        assert second != first, "a worker that cannot be trusted any more was used again"
        first = second
    for job in ("bomb", "fail", "no such job"):
        with pytest.raises(WorkerError, match=r"memory|ZeroDivisionError|KeyError"):
            pool.call(job)
    first = pool.call("pid")
    assert pool.call("answer_too_much") == [1, 2, 3]
    with pytest.raises(UnfitPictureError, match="animated"):
        pool.call("unfit")
    with pytest.raises(UndecodableError, match="broken"):
        pool.call("undecodable")
    assert pool.call("chatter") == b"quiet"
    assert pool.call("pid") == first


def test_a_job_that_hangs_is_ended(pool: WorkerPool) -> None:
    pool.call("pid")
    pool._job_seconds = 0.3
    started = time.monotonic()
    with pytest.raises(WorkerError):
        pool.call("hang")
    assert time.monotonic() - started < 5
    pool._job_seconds = 5
    assert pool.call("pid")


def test_a_job_whose_worker_was_ended_is_tried_once_more(pool: WorkerPool, tmp_path: Path) -> None:
    """The kernel ends a process for the memory that others took, too."""
    assert pool.call("crash_at_first", str(tmp_path / "crashed")) == b"at last"


def test_an_answer_at_the_very_end_of_the_time_costs_the_next_job_nothing(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LateTimer(threading.Timer):
        """Fires just before it is cancelled."""

        def start(self) -> None:
            pass

        def join(self, timeout: float | None = None) -> None:
            pass

        def cancel(self) -> None:
            self.function()

    first = pool.call("pid")
    with monkeypatch.context() as patched:
        patched.setattr("dedupfs.ingest.workers.threading.Timer", LateTimer)
        assert pool.call("pid") == first
    for _ in range(2):
        assert pool.call("pid") != first


def test_a_worker_that_died_between_jobs_costs_nothing(pool: WorkerPool) -> None:
    """The kernel may have killed it for its memory; the next picture is not to blame."""
    pid = pool.call("pid")
    os.kill(pid, signal.SIGKILL)
    while "State:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        time.sleep(0.01)
    assert pool.call("pid") != pid
    assert not Path(f"/proc/{pid}").exists()


def test_a_fork_server_that_died_costs_nothing(pool: WorkerPool) -> None:
    pid = pool.call("pid")
    os.kill(int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
    while Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        time.sleep(0.01)
    assert pool.call("pid") != pid


@pytest.mark.parametrize("policy", [Policy.VERIFIED, Policy.OFF])
def test_a_fork_server_that_was_started_before_is_used_or_ends(tmp_path: Path, policy: Policy) -> None:
    server = ForkServer()
    server.start()
    assert server._process is not None
    pid = server._process.pid
    filesystem = open_filesystem(opened_volume(make_volume(tmp_path / "volume", policy)), server=server)
    try:
        assert Path(f"/proc/{pid}").exists() == (policy is Policy.VERIFIED)
        assert filesystem._pipeline._pool.server is server
    finally:
        filesystem.close()
    assert not Path(f"/proc/{pid}").exists()


def test_pools_share_a_fork_server(pool: WorkerPool) -> None:
    def parent(pid: int) -> str:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]

    other = WorkerPool(1, beside=pool)
    first, second = pool.call("pid"), other.call("pid")
    assert first != second
    assert parent(first) == parent(second)
    other.close()
    assert not Path(f"/proc/{second}").exists()
    assert pool.call("pid") == first


def test_a_job_gets_the_memory_it_asks_for_unless_that_is_too_much(pool: WorkerPool) -> None:
    pool._memory = Gate(100 << 20)
    pool._is_for_readers = False
    assert pool.call("take", 1) == 1
    assert pool.call("take", 90 << 20) == 90 << 20
    with pytest.raises(MemoryShortError, match="takes 158 MB of memory, and a mount with this memory= has 105 MB"):
        pool.call("take", 150 << 20)


def test_what_somebody_reads_is_drawn_however_much_it_takes(pool: WorkerPool) -> None:
    pool._memory = Gate(20 << 20)
    pool._is_for_readers = True
    assert pool.call("take", 150 << 20) == 150 << 20


def test_a_job_that_takes_more_than_it_said_gets_more_until_there_is_no_more(pool: WorkerPool) -> None:
    pool._memory = Gate(100 << 20)
    assert pool.call("swell", 8 << 20) == 8 << 20
    assert pool.call("swell", 180 << 20) == 180 << 20
    with pytest.raises(MemoryShortError):
        pool.call("swell", 400 << 20)
    pool._memory = None
    assert pool.call("swell", 400 << 20) == 400 << 20


def test_a_request_that_cannot_be_sent_does_no_harm(pool: WorkerPool) -> None:
    with pytest.raises(TypeError):
        pool.call("pid", object())
    assert pool.call("pid")


def test_no_secret_is_in_the_environment_of_a_worker(pool: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEDUPFS_PASSPHRASE", "secret")
    monkeypatch.setenv("SOME_TOKEN", "secret")
    names = pool.call("environment")
    assert "PATH" in names
    assert not {"DEDUPFS_PASSPHRASE", "SOME_TOKEN"}.intersection(names)


def test_where_memory_runs_out_a_worker_goes_before_the_mount(pool: WorkerPool) -> None:
    pid = pool.call("pid")
    ours, theirs = (int(Path(f"/proc/{each}/oom_score_adj").read_text()) for each in ("self", pid))
    assert theirs > ours


def test_a_closed_pool_runs_nothing(pool: WorkerPool) -> None:
    pid = pool.call("pid")
    pool.close()
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(WorkerError, match="stopped"):
        pool.call("pid")


def test_closing_waits_for_the_job_under_way(pool: WorkerPool) -> None:
    outcome: list[object] = []
    thread = threading.Thread(target=lambda: outcome.append(pool.call("chatter")))
    pool.call("pid")
    thread.start()
    thread.join()
    pool.close()
    assert outcome == [b"quiet"]


def test_nothing_outlives_the_process_that_has_the_pool() -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pids = [int(word) for word in owner.stdout.readline().split()]
    owner.kill()
    owner.wait()
    owner.stdout.close()
    while any(_runs(pid) for pid in pids):
        time.sleep(0.01)


OWNER = """
import time
from dedupfs.ingest.gate import Gate
from dedupfs.ingest.workers import WorkerPool

pool = WorkerPool(1)
child = pool.server.fork()
print(child.pid, pool.server._process.pid, flush=True)
time.sleep(600)
"""


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_worker_that_cannot_start_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    pool = WorkerPool(1)
    for _ in range(2):
        with pytest.raises(WorkerStartError):
            pool.call("inspect", b"")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(WorkerStartError):
        pool.call("inspect", b"")
    pool.close()


def test_a_worker_short_of_memory_costs_no_picture() -> None:
    """What earlier jobs have left there, or a library has lost, would fail every job that comes after."""
    pool = WorkerPool(1)
    picture = encoded(photo(1, (1600, 1200)))
    try:
        pool.call("inspect", encoded(photo(1, (320, 240))))
        worker = pool._idle.queue[0]
        assert worker is not None
        used_bytes = int(Path(f"/proc/{worker._child.pid}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(worker._child.pid, resource.RLIMIT_AS, (used_bytes, used_bytes))
        assert isinstance(pool.call("look", picture), bytes)
    finally:
        pool.close()


def test_the_real_worker_looks_at_a_picture() -> None:
    pool = WorkerPool(1)
    try:
        facts = pool.call("inspect", encoded(photo(1, (320, 240))))
        assert isinstance(facts, PictureFacts)
        assert (facts.picture_format, facts.width_px, facts.height_px) == (PictureFormat.JPEG, 320, 240)
        with pytest.raises(UndecodableError):
            pool.call("inspect", b"\xff\xd8\xff and noise")
    finally:
        pool.close()
