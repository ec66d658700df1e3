"""A state machine drives FileSystem beside a model in memory: names, links and bytes always agree with it.

The volume is closed and opened in between, and is sound at the end of every run.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dedupfs.errors import EntryExistsError, EntryNotFoundError, IsDirectoryError, NotDirectoryError, NotEmptyError
from dedupfs.filesystem.inodes import Attributes
from dedupfs.model import InodeNo, Policy
from dedupfs.storage.metadata import ROOT
from tests.filesystem.core import Core
from tests.volumes import make_volume

NAMES = st.sampled_from([b"a", b"b", b"c"])
CHUNK = 262_000
"""A little less than a chunk, so that files of some bytes cross a border."""
OFFSETS = st.sampled_from([0, 1, 100, CHUNK, CHUNK + 200, 2 * CHUNK + 500])
DATA = st.sampled_from([b"x", b"hello", b"\0\0\0", bytes(range(1, 256)) * 20, b"z" * CHUNK])

POSIX_ERRORS = (EntryExistsError, EntryNotFoundError, IsDirectoryError, NotDirectoryError, NotEmptyError)


class File:
    """A regular file of the model; `names` counts them."""

    def __init__(self, number: InodeNo) -> None:
        self.number = number
        self.data = bytearray()
        self.names = 1


class Comparison(RuleBasedStateMachine):
    """Every rule does the same to both, and a refusal of one has to be a refusal of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="dedupfs-test-"))
        make_volume(self.folder / "volume", Policy.OFF)
        self.core = Core(self.folder / "volume")
        self.directory = self.core.filesystem.make_directory(ROOT, b"directory", 0o755, 0, 0)
        self.entries: dict[tuple[InodeNo, bytes], File] = {}
        self.open: dict[int, File] = {}

    def teardown(self) -> None:
        try:
            for handle in self.open:
                self.core.files.release(handle)
            assert self.core.problems() == []
        finally:
            self.core.filesystem.close()
            shutil.rmtree(self.folder)

    def place(self, below: bool) -> InodeNo:
        return self.directory if below else ROOT

    @rule(below=st.booleans(), name=NAMES)
    def create(self, below: bool, name: bytes) -> None:
        place = self.place(below)
        try:
            number, handle = self.core.filesystem.create(place, name, 0o644, 0, 0)
        except EntryExistsError:
            assert (place, name) in self.entries
            return
        assert (place, name) not in self.entries
        self.entries[place, name] = self.open[handle] = File(number)

    @rule(below=st.booleans(), name=NAMES)
    def open_file(self, below: bool, name: bytes) -> None:
        file = self.entries.get((self.place(below), name))
        if file is not None:
            self.open[self.core.files.open(file.number, readable=True, writable=True)] = file

    @precondition(lambda self: self.open)
    @rule(data=st.data(), offset=OFFSETS, written=DATA)
    def write(self, data: st.DataObject, offset: int, written: bytes) -> None:
        handle = data.draw(st.sampled_from(sorted(self.open)))
        file = self.open[handle]
        assert self.core.files.write(handle, offset, written) == len(written)
        if offset > len(file.data):
            file.data.extend(bytes(offset - len(file.data)))
        file.data[offset : offset + len(written)] = written

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        handle = data.draw(st.sampled_from(sorted(self.open)))
        del self.open[handle]
        self.core.files.release(handle)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def fsync(self, data: st.DataObject) -> None:
        self.core.files.fsync(data.draw(st.sampled_from(sorted(self.open))))

    @precondition(lambda self: self.entries)
    @rule(data=st.data(), size=OFFSETS)
    def truncate(self, data: st.DataObject, size: int) -> None:
        file = self.entries[data.draw(st.sampled_from(sorted(self.entries)))]
        self.core.filesystem.truncate(file.number, size)
        file.data[:] = file.data[:size] + bytes(max(0, size - len(file.data)))

    @rule(below=st.booleans(), name=NAMES)
    def unlink(self, below: bool, name: bytes) -> None:
        place = self.place(below)
        try:
            self.core.filesystem.unlink(place, name)
        except EntryNotFoundError:
            assert (place, name) not in self.entries
            return
        self.entries.pop((place, name)).names -= 1

    @rule(below=st.booleans(), name=NAMES, new_below=st.booleans(), new_name=NAMES)
    def rename(self, below: bool, name: bytes, new_below: bool, new_name: bytes) -> None:
        old, new = (self.place(below), name), (self.place(new_below), new_name)
        try:
            self.core.filesystem.rename(*old, *new)
        except EntryNotFoundError:
            assert old not in self.entries
            return
        moved, target = self.entries[old], self.entries.get(new)
        if target is moved:
            return
        if target is not None:
            target.names -= 1
        self.entries[new] = self.entries.pop(old)

    @rule(below=st.booleans(), name=NAMES, new_below=st.booleans(), new_name=NAMES)
    def link(self, below: bool, name: bytes, new_below: bool, new_name: bytes) -> None:
        file = self.entries.get((self.place(below), name))
        if file is None:
            return
        new = (self.place(new_below), new_name)
        try:
            self.core.filesystem.link(file.number, *new)
        except EntryExistsError:
            assert new in self.entries
            return
        file.names += 1
        self.entries[new] = file

    @rule()
    def remove_directory_that_is_in_use(self) -> None:
        if any(place == self.directory for place, _ in self.entries):
            try:
                self.core.filesystem.remove_directory(ROOT, b"directory")
            except NotEmptyError:
                return
            raise AssertionError("a directory with entries was removed")

    @rule()
    def settle(self) -> None:
        self.core.filesystem.settle()

    @precondition(lambda self: not self.open)
    @rule()
    def reopen(self) -> None:
        self.core.filesystem.close()
        self.core = Core(self.folder / "volume")

    @invariant()
    def names_agree(self) -> None:
        for place in (ROOT, self.directory):
            listed = {(place, entry.name): entry.inode for entry in self.core.filesystem.list_directory(place)}
            wanted = {key: file.number for key, file in self.entries.items() if key[0] == place}
            assert listed.items() >= wanted.items()
            assert {name for _, name in listed} - {name for _, name in wanted} <= {b".", b"..", b"directory"}

    @invariant()
    def bytes_agree(self) -> None:
        for file in self.entries.values():
            attributes: Attributes = self.core.filesystem.attributes(file.number)
            assert (attributes.size, attributes.nlink) == (len(file.data), file.names)
            handle = self.core.files.open(file.number, readable=True, writable=False)
            assert self.core.files.read(handle, 0, 1 << 24) == file.data
            self.core.files.release(handle)
        for handle, file in self.open.items():
            assert self.core.files.read(handle, 0, 1 << 24) == file.data


Comparison.TestCase.settings = settings(
    max_examples=15, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestComparison = Comparison.TestCase
