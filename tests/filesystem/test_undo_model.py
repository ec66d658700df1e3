"""A state machine over pictures that come, go, are restored and split, with power cuts in between.

Whatever happens, a file reads as it was written or as its verified look-alike; what was restored reads as it was
written for as long as it is there; and pictures that were split are never in one cluster again.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dedupfs.errors import EntryNotFoundError, NoAttributeError
from dedupfs.model import ContentId
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.records import Exact, Rendition
from tests.conftest import examples
from tests.filesystem.core import Core, rendition_of, sketch
from tests.volumes import make_volume

PICTURES = [sketch(scene, width, coarse) for scene in (7, 8) for width, coarse in ((400, 0), (200, 3), (100, 5))]
NAMES = st.sampled_from([b"a", b"b", b"c", b"d"])
DAYS = 5


class Undoing(RuleBasedStateMachine):
    """Everything is settled after each rule, so that the model knows what a power cut leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="dedupfs-test-"))
        make_volume(self.folder / "volume")
        self.core = Core(self.folder / "volume")
        self.core.volume.configure(keep_originals_days=DAYS)
        self.files: dict[bytes, bytes] = {}
        """What was written."""
        self.restored: set[bytes] = set()
        """Names of files whose bytes were asked back."""
        self.parted: set[frozenset[ContentId]] = set()

    def teardown(self) -> None:
        try:
            assert self.core.problems() == []
        finally:
            self.core.filesystem.close()
            shutil.rmtree(self.folder)

    @rule(name=NAMES, picture=st.sampled_from(PICTURES))
    def put(self, name: bytes, picture: bytes) -> None:
        if name not in self.files:
            self.core.put(name, picture)
            self.core.filesystem.settle()
            self.files[name] = picture

    @rule(name=NAMES)
    def copy_what_is_read(self, name: bytes) -> None:
        """Copy a file away and back under another name."""
        if name in self.files and b"back" not in self.files:
            data = self.core.read(name)
            self.core.put(b"back", data)
            self.core.filesystem.settle()
            self.files[b"back"] = data

    @rule(name=st.sampled_from([b"a", b"b", b"c", b"d", b"back"]))
    def remove(self, name: bytes) -> None:
        try:
            self.core.filesystem.unlink(ROOT, name)
        except EntryNotFoundError:
            assert name not in self.files
            return
        self.core.filesystem.settle()
        del self.files[name]
        self.restored.discard(name)

    @rule(name=NAMES)
    def restore(self, name: bytes) -> None:
        if name in self.files:
            content = self.core.content(name)
            try:
                self.core.filesystem.restore(self.core.filesystem.lookup(ROOT, name))
            except NoAttributeError:
                # A file that shares a content with it had it brought back, or a look-alike was written as such.
                assert not self.core.volume.keep_originals_days or not self.is_original(name)
                return
            if isinstance(content, Rendition) and not content.bit_exact:
                # Nothing was done to others, which may still be drawn from a better picture that comes.
                self.restored.add(name)

    def is_original(self, name: bytes) -> bool:
        return self.files[name] in PICTURES

    @rule(name=NAMES)
    def split(self, name: bytes) -> None:
        content = self.core.content(name) if name in self.files else None
        if content is None or isinstance(content, Exact):
            return
        self.core.filesystem.split(self.core.filesystem.lookup(ROOT, name))
        inode = self.core.volume.metadata.inode(self.core.filesystem.lookup(ROOT, name))
        assert inode.content is not None
        assert isinstance(self.core.content(name), Exact)
        self.parted.add(frozenset((inode.content, content.representative)))

    @rule()
    def reopen(self) -> None:
        self.core.filesystem.close()
        self.core = Core(self.folder / "volume")

    @rule()
    def crash(self) -> None:
        self.core.crash()
        self.core = Core(self.folder / "volume")

    @invariant()
    def bytes_are_as_promised(self) -> None:
        for name, written in self.files.items():
            read = self.core.read(name)
            assert read == written or (name not in self.restored and read == rendition_of(written))

    @invariant()
    def what_was_split_stays_apart(self) -> None:
        for cluster in self.core.volume.clusters.all():
            members = set(self.core.volume.clusters.members(cluster))
            assert not any(pair <= members for pair in self.parted)

    @invariant()
    def every_original_belongs_to_a_rendition(self) -> None:
        for kept in self.core.volume.kept.all():
            assert not isinstance(self.core.volume.contents.get(kept.content), Exact)


Undoing.TestCase.settings = settings(
    max_examples=examples(8), stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestUndoing = Undoing.TestCase
