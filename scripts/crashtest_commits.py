"""Rounds of scripts/crashtest below the mount: a fixed workload, killed at each of its commits in turn.

Every function that returns texts returns what is wrong; no text means that nothing was lost.
"""

from __future__ import annotations

import os
import pickle
import shutil
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from crashtest_core import (
    GROUP_SECONDS,
    CoreFolder,
    DyingEngine,
    Fault,
    InlinePool,
    Moment,
    Progress,
    RecordingEngine,
    mounted_core,
)
from crashtest_ledger import Kind, Ledger, Operation
from crashtest_workload import Workload

from dedupfs.crypto.keys import ScryptCost
from dedupfs.errors import DedupfsError
from dedupfs.ingest.renderer import Renderer
from dedupfs.model import Policy
from dedupfs.storage.check import check
from dedupfs.storage.lmdb_engine import DATA_FILE
from dedupfs.storage.records import Config
from dedupfs.storage.volume import create_volume, open_volume, unlock

CHEAP = ScryptCost(n=2**10)
"""What a passphrase costs is not tested here."""
PASSPHRASE = b"a crash test"


@dataclass(frozen=True, slots=True)
class Round:
    """One crash: which, and what was wrong afterwards."""

    name: str
    problems: list[str]


def make_volume(directory: Path, policy: Policy) -> bytes:
    """Make a volume that costs nothing to open, and return its key."""
    create_volume(directory, PASSPHRASE, Config(policy, ""), CHEAP, keep_originals_days=1)
    return unlock(directory, PASSPHRASE)


def workload_of(seed: str, length: int, *, every_step: bool) -> list[Operation]:
    """Return operations; with `every_step` each is committed by itself, otherwise they gather until a commit."""
    stream = Workload(seed)
    chosen = [stream.next() for _ in range(length)]
    if not every_step:
        return chosen
    return [each for operation in chosen for each in (operation, Operation(Kind.SYNC))]


def rounds(folder: Path, seed: str, policy: Policy, length: int, *, every_step: bool) -> Iterator[Round]:
    """Kill a workload at each of its commits, at each moment, and cut the power in each; yield round by round."""
    test = _Test(folder, seed, policy, workload_of(seed, length, every_step=every_step))
    label = f"{policy.value} {seed}{' step by step' if every_step else ''}"
    for commit, image, progress in test.power_failures():
        yield Round(f"{label}: power failure in commit {commit}", test.verify_image(image, progress))
    for moment in Moment:
        commit = 0
        while (problems := test.kill(Fault(commit, moment))) is not None:
            yield Round(f"{label}: killed {moment} commit {commit}", problems)
            commit += 1


class _Test:
    """One workload and its volume."""

    def __init__(self, folder: Path, seed: str, policy: Policy, operations: Sequence[Operation]) -> None:
        self._folder = folder
        self._seed = seed
        self._policy = policy
        self._operations = operations
        self._fresh = folder / "fresh"
        self._volume = folder / "volume"
        self._journal = folder / "journal"
        self._images = folder / "images"
        self._key = make_volume(self._fresh, policy)

    def kill(self, fault: Fault) -> list[str] | None:
        """Run the workload up to a fault and return what is wrong then, or None when it ended before."""
        self._renew()
        status = self._forked(lambda: self._work(fault))
        if status == 0:
            return None
        if status != -9:
            return [f"the workload ended with status {status}: {self._said()}"]
        return self._verify(self._read_journal())

    def power_failures(self) -> Iterator[tuple[int, bytes, Progress]]:
        """Run the workload and yield, for each commit, what a disk may hold when the power fails in it."""
        self._renew()
        self._images.mkdir()
        try:
            status = self._forked(lambda: self._work(None))
            if status:
                raise RuntimeError(f"the workload failed with status {status}: {self._said()}")
            for number in range(len(list(self._images.iterdir()))):
                image, progress = pickle.loads((self._images / f"{number}").read_bytes())
                yield number, image, progress
        finally:
            shutil.rmtree(self._images, ignore_errors=True)

    def verify_image(self, image: bytes, progress: Progress) -> list[str]:
        """Return what is wrong with a volume whose database is this."""
        self._renew()
        (self._volume / DATA_FILE).write_bytes(image)
        return self._verify(progress)

    # Inside

    def _renew(self) -> None:
        shutil.rmtree(self._volume, ignore_errors=True)
        shutil.rmtree(self._journal, ignore_errors=True)
        shutil.copytree(self._fresh, self._volume)
        self._journal.mkdir()

    def _forked(self, work: Callable[[], None]) -> int:
        """Run a function in a process of its own and return its exit code, or a signal's number as a negative one."""
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                work()
                code = 0
            except BaseException:  # noqa: BLE001  The parent reads it.
                (self._journal / "said").write_text(traceback.format_exc())
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def _said(self) -> str:
        said = self._journal / "said"
        return said.read_text() if said.exists() else "nothing"

    def _work(self, fault: Fault | None) -> None:
        """Do the workload; in the child."""
        volume = open_volume(self._volume, self._key, group_seconds=GROUP_SECONDS)
        begun = ended = 0
        bases: dict[int, bytes] = {}
        engine = volume.store.engine
        if fault is not None:
            volume.store.engine = DyingEngine(engine, fault)
        else:
            volume.store.engine = RecordingEngine(
                engine,
                self._volume / DATA_FILE,
                lambda: Progress(begun, ended, dict(bases)),
                self._images,
                self._seed,
            )
        descriptor = os.open(self._journal / "steps", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def keep(base: bytes) -> None:
            bases[ended] = base
            (self._journal / f"base {ended}").write_bytes(base)

        with mounted_core(volume) as filesystem:
            folder = CoreFolder(filesystem)
            for operation in self._operations:
                begun += 1
                os.write(descriptor, b"b")
                folder.perform(operation, keep)
                ended += 1
                os.write(descriptor, b"e")
            folder.let_go()

    def _read_journal(self) -> Progress:
        steps = self._journal / "steps"
        said = steps.read_bytes() if steps.exists() else b""
        bases = {int(path.name.split()[1]): path.read_bytes() for path in self._journal.glob("base *")}
        return Progress(said.count(b"b"), said.count(b"e"), bases)

    def _verify(self, progress: Progress) -> list[str]:
        ledger = Ledger({}, self._policy)
        for number, operation in enumerate(self._operations[: progress.begun]):
            ledger.note(operation, ended=number < progress.ended, base=progress.bases.get(number))
        try:
            problems = [f"at once: {text}" for text in problems_of(self._volume, self._key)]
            volume = open_volume(self._volume, self._key, group_seconds=GROUP_SECONDS)
            with mounted_core(volume) as filesystem:
                folder = CoreFolder(filesystem)
                for when in ("after the crash", "when all is decided"):
                    found = folder.read_all()
                    if ledger.explain(found) is None:
                        problems.append(f"{when} the files are in no allowed state: {ledger.describe(found)}")
                    filesystem.settle()
            problems += [f"in the end: {text}" for text in problems_of(self._volume, self._key, decided=True)]
        except DedupfsError as exc:
            return [f"{type(exc).__name__}: {exc}"]
        return problems


def problems_of(directory: Path, key: bytes, *, decided: bool = False) -> list[str]:
    """Return what `check --data` finds, and with `decided` whether a picture still waits for its decision."""
    volume = open_volume(directory, key, read_only=True)
    try:
        renderer = Renderer(volume.contents, InlinePool())
        problems = [problem.text for problem in check(volume, data=True, render=renderer.render).problems]
        if decided and volume.contents.undecided():
            problems.append("pictures stay undecided")
        return problems
    finally:
        volume.close()
