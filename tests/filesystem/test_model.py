"""A state machine drives FileSystem beside a model in memory: names, links, attributes and bytes always agree with it.

The volume is closed and opened in between, or loses its power; then what is found must be a state that a crash may
leave, and the model goes on from there. It is sound at the end of every run.
`pytest tests/filesystem/test_model.py --hypothesis-profile long` runs it for minutes.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from crashtest_ledger import Kind, Ledger, Operation, Seen
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dedupfs.errors import (
    EntryExistsError,
    EntryNotFoundError,
    NoAttributeError,
    NotEmptyError,
)
from dedupfs.filesystem.inodes import Attributes
from dedupfs.model import InodeNo, Policy
from dedupfs.storage.metadata import ROOT
from tests.conftest import examples
from tests.filesystem.core import Core
from tests.volumes import make_volume

NAMES = st.sampled_from([b"a", b"b", b"c"])
XATTRS = st.sampled_from([b"user.one", b"user.two"])
CHUNK = 262_000
"""A little less than a chunk, so that files of some bytes cross a border."""
OFFSETS = st.sampled_from([0, 1, 100, CHUNK, CHUNK + 200, 2 * CHUNK + 500, 9 * CHUNK])
DATA = st.sampled_from([b"x", b"hello", b"\0\0\0", bytes(range(1, 256)) * 20, b"z" * CHUNK])
WHOLE_BYTES = 1 << 24

Links = dict[bytes, bytes]
Attached = dict[InodeNo, dict[bytes, bytes]]


class File:
    """A regular file of the model; `names` counts them."""

    def __init__(self, number: InodeNo, data: bytes = b"", names: int = 1) -> None:
        self.number = number
        self.data = bytearray(data)
        self.names = names


class Comparison(RuleBasedStateMachine):
    """Every rule does the same to both, and a refusal of one has to be a refusal of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="dedupfs-test-"))
        make_volume(self.folder / "volume", Policy.OFF)
        self.core = Core(self.folder / "volume")
        self.directory = self.core.filesystem.make_directory(ROOT, b"directory", 0o755, 0, 0)
        self.core.filesystem.sync()
        self.entries: dict[tuple[InodeNo, bytes], File] = {}
        self.open: dict[int, File] = {}
        self.links: Links = {}
        self.attached: Attached = {}
        self.ledger = Ledger({})
        self.since_commit: list[tuple[Links, Attached]] = [({}, {})]
        """What links and attributes there were since the last commit that was asked for."""

    def teardown(self) -> None:
        try:
            self.close_all()
            assert self.core.problems() == []
        finally:
            self.core.filesystem.close()
            shutil.rmtree(self.folder)

    # Notes for the crash

    def note(self, kind: Kind, place: tuple[InodeNo, bytes], other: tuple[InodeNo, bytes] | None = None) -> None:
        """Take note of what has just been done to a file, before the model follows."""
        data = bytes(self.entries[place].data) if place in self.entries else b""
        shown = shown_as(place)
        self.ledger.note(Operation(kind, shown, shown_as(other) if other else "", data), ended=True)

    def note_bytes(self, file: File) -> None:
        """Take note of a file's new bytes; one without a name is gone after a crash."""
        place = self.place_of(file)
        if place is not None:
            edit = Operation(Kind.TRUNCATE, shown_as(place), offset=len(file.data))
            self.ledger.note(edit, ended=True, base=bytes(file.data))

    def place_of(self, file: File) -> tuple[InodeNo, bytes] | None:
        return next((place for place, each in self.entries.items() if each is file), None)

    def remember(self) -> None:
        """Take note of links and attributes as they are now."""
        attached = {number: dict(found) for number, found in self.attached.items() if found}
        self.since_commit.append((dict(self.links), attached))

    def committed(self) -> None:
        del self.since_commit[:-1]

    def place(self, below: bool) -> InodeNo:
        return self.directory if below else ROOT

    def close_all(self) -> None:
        for handle in self.open:
            self.core.files.release(handle)
        self.open.clear()

    # Files

    @rule(below=st.booleans(), name=NAMES)
    def create(self, below: bool, name: bytes) -> None:
        place = (self.place(below), name)
        try:
            number, handle = self.core.filesystem.create(*place, 0o644, 0, 0)
        except EntryExistsError:
            assert place in self.entries
            return
        assert place not in self.entries
        self.note(Kind.WRITE, place)
        self.entries[place] = self.open[handle] = File(number)

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
        self.note_bytes(file)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        handle = data.draw(st.sampled_from(sorted(self.open)))
        del self.open[handle]
        self.core.files.release(handle)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def fsync(self, data: st.DataObject) -> None:
        handle = data.draw(st.sampled_from(sorted(self.open)))
        self.core.files.fsync(handle)
        place = self.place_of(self.open[handle])
        self.ledger.note(Operation(Kind.FSYNC, shown_as(place)) if place else Operation(Kind.SYNC), ended=True)
        self.committed()

    @precondition(lambda self: self.entries)
    @rule(data=st.data(), size=OFFSETS)
    def truncate(self, data: st.DataObject, size: int) -> None:
        file = self.entries[data.draw(st.sampled_from(sorted(self.entries)))]
        self.core.filesystem.truncate(file.number, size)
        file.data[:] = file.data[:size] + bytes(max(0, size - len(file.data)))
        self.note_bytes(file)

    # Names

    @rule(below=st.booleans(), name=NAMES)
    def unlink(self, below: bool, name: bytes) -> None:
        place = (self.place(below), name)
        try:
            self.core.filesystem.unlink(*place)
        except EntryNotFoundError:
            assert place not in self.entries
            return
        self.note(Kind.UNLINK, place)
        self.lose(self.entries.pop(place))

    def lose(self, file: File) -> None:
        """Take a name off a file; its attributes go with the last one, as far as a crash is concerned."""
        file.names -= 1
        if not file.names:
            self.attached.pop(file.number, None)
            self.remember()

    @rule(below=st.booleans(), name=NAMES, new_below=st.booleans(), new_name=NAMES)
    def rename(self, below: bool, name: bytes, new_below: bool, new_name: bytes) -> None:
        old, new = (self.place(below), name), (self.place(new_below), new_name)
        try:
            self.core.filesystem.rename(*old, *new)
        except EntryNotFoundError:
            assert old not in self.entries
            return
        self.note(Kind.RENAME, old, new)
        moved, target = self.entries[old], self.entries.get(new)
        if target is moved:
            return
        self.entries[new] = self.entries.pop(old)
        if target is not None:
            self.lose(target)

    @rule(below=st.booleans(), name=NAMES, new_below=st.booleans(), new_name=NAMES)
    def link(self, below: bool, name: bytes, new_below: bool, new_name: bytes) -> None:
        place = (self.place(below), name)
        file = self.entries.get(place)
        if file is None:
            return
        new = (self.place(new_below), new_name)
        try:
            self.core.filesystem.link(file.number, *new)
        except EntryExistsError:
            assert new in self.entries
            return
        self.note(Kind.LINK, place, new)
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

    # Symbolic links and attributes

    @rule(name=NAMES, aim=st.sampled_from([b"a", b"/elsewhere", b"\xff" * 30]))
    def make_link(self, name: bytes, aim: bytes) -> None:
        try:
            self.core.filesystem.make_link(ROOT, b"link " + name, aim, 0, 0)
        except EntryExistsError:
            assert name in self.links
            return
        assert name not in self.links
        self.links[name] = aim
        self.remember()

    @rule(name=NAMES)
    def remove_link(self, name: bytes) -> None:
        try:
            self.core.filesystem.unlink(ROOT, b"link " + name)
        except EntryNotFoundError:
            assert name not in self.links
            return
        del self.links[name]
        self.remember()

    @precondition(lambda self: self.entries)
    @rule(data=st.data(), name=XATTRS, value=st.sampled_from([b"", b"value", b"v" * 50]))
    def set_xattr(self, data: st.DataObject, name: bytes, value: bytes) -> None:
        file = self.entries[data.draw(st.sampled_from(sorted(self.entries)))]
        self.core.filesystem.set_xattr(file.number, name, value)
        self.attached.setdefault(file.number, {})[name] = value
        self.remember()

    @precondition(lambda self: self.entries)
    @rule(data=st.data(), name=XATTRS)
    def remove_xattr(self, data: st.DataObject, name: bytes) -> None:
        file = self.entries[data.draw(st.sampled_from(sorted(self.entries)))]
        try:
            self.core.filesystem.remove_xattr(file.number, name)
        except NoAttributeError:
            assert name not in self.attached.get(file.number, {})
            return
        del self.attached[file.number][name]
        self.remember()

    # The whole

    @rule()
    def sync(self) -> None:
        self.core.filesystem.sync()
        self.ledger.note(Operation(Kind.SYNC), ended=True)
        self.committed()

    @rule()
    def settle(self) -> None:
        self.core.filesystem.settle()
        self.ledger.note(Operation(Kind.SETTLE), ended=True)
        self.committed()

    @precondition(lambda self: not self.open)
    @rule()
    def reopen(self) -> None:
        self.core.filesystem.close()
        self.ledger.note(Operation(Kind.SETTLE), ended=True)
        self.committed()
        self.core = Core(self.folder / "volume")

    @rule()
    def crash(self) -> None:
        """Cut the power, handles and all, and go on from what is found."""
        self.core.crash()
        self.core = Core(self.folder / "volume")
        self.open.clear()
        places = {
            (place, entry.name): entry.inode
            for place in (ROOT, self.directory)
            for entry in self.core.filesystem.list_directory(place)
            if entry.name in (b"a", b"b", b"c")
        }
        found = {shown_as(place): Seen(number, self.read(number)) for place, number in places.items()}
        state = self.ledger.explain(found)
        assert state is not None, self.ledger.describe(found)
        files = {number: File(number, self.read(number), names=0) for number in places.values()}
        self.entries = {place: files[number] for place, number in places.items()}
        for file in self.entries.values():
            file.names += 1
        self.ledger = Ledger(state)
        links, attached = self.found_links(), self.found_xattrs()
        assert any(
            links == before and all(attached.get(number, {}) == were.get(number, {}) for number in files)
            for before, were in self.since_commit
        )
        self.links, self.attached = links, attached
        self.remember()
        self.committed()

    def read(self, number: InodeNo) -> bytes:
        handle = self.core.files.open(number, readable=True, writable=False)
        try:
            return self.core.files.read(handle, 0, WHOLE_BYTES)
        finally:
            self.core.files.release(handle)

    def found_links(self) -> Links:
        links = {}
        for entry in self.core.filesystem.list_directory(ROOT):
            if entry.name.startswith(b"link "):
                links[entry.name.removeprefix(b"link ")] = self.core.filesystem.read_link(entry.inode)
        return links

    def found_xattrs(self) -> Attached:
        found: Attached = {}
        for file in self.entries.values():
            names = self.core.filesystem.list_xattrs(file.number)
            if names:
                found[file.number] = {name: self.core.filesystem.get_xattr(file.number, name) for name in names}
        return found

    @invariant()
    def names_agree(self) -> None:
        for place in (ROOT, self.directory):
            listed = {(place, entry.name): entry.inode for entry in self.core.filesystem.list_directory(place)}
            wanted = {key: file.number for key, file in self.entries.items() if key[0] == place}
            assert listed.items() >= wanted.items()
            rest = {name for _, name in listed} - {name for _, name in wanted}
            assert {name for name in rest if not name.startswith(b"link ")} <= {b".", b"..", b"directory"}
        assert self.found_links() == self.links
        assert self.found_xattrs() == {number: each for number, each in self.attached.items() if each}

    @invariant()
    def bytes_agree(self) -> None:
        for file in self.entries.values():
            attributes: Attributes = self.core.filesystem.attributes(file.number)
            assert (attributes.size, attributes.nlink) == (len(file.data), file.names)
            assert self.read(file.number) == file.data
        for handle, file in self.open.items():
            assert self.core.files.read(handle, 0, WHOLE_BYTES) == file.data


def shown_as(place: tuple[InodeNo, bytes]) -> str:
    """Return a place as the ledger names it."""
    return f"{place[0]}/{place[1].decode()}"


Comparison.TestCase.settings = settings(
    max_examples=examples(15), stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestComparison = Comparison.TestCase
