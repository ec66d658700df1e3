"""Policies of directories: what is written below one goes by it, and changes nothing for files that go by another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dedupfs.errors import (
    InvalidRequestError,
    NoAttributeError,
    NotPermittedError,
)
from dedupfs.filesystem.whereabouts import Whereabouts
from dedupfs.model import InodeNo, Policy
from dedupfs.storage.metadata import POLICY_XATTR, ROOT
from dedupfs.storage.records import ContentState, Exact, Rendition
from tests.filesystem.core import Core, SketchPool, rendition_of, sketch
from tests.volumes import make_volume

PHOTO = sketch(7, width_px=400, size=300_000)
COPY = sketch(7, width_px=200, coarseness=3)
BETTER_BUT_UNLIKE = sketch(7, width_px=800, coarseness=9, size=9000)
"""Larger than PHOTO and its COPY, and no rendition of theirs passes for one of it: only a fingerprint takes it."""


class LaxPool(SketchPool):
    """Under `perceptual` everything with the same fingerprint fits."""

    def call(self, job: str, *arguments: Any) -> Any:
        if job == "fit" and arguments[2] is Policy.PERCEPTUAL:
            member, base, _, exact_only = arguments
            return super().call(job, member, member if base != member else base, Policy.VERIFIED, exact_only)
        return super().call(job, *arguments)


@pytest.fixture
def pool() -> LaxPool:
    return LaxPool()


class Tree:
    """Files by path on a core."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.filesystem = core.filesystem

    def directory(self, path: bytes, policy: bytes | None = None) -> InodeNo:
        """Make a directory, with a policy if one is given."""
        above, _, name = path.rpartition(b"/")
        number = self.filesystem.make_directory(self.number(above), name, 0o755, 0, 0)
        if policy is not None:
            self.filesystem.set_xattr(number, POLICY_XATTR, policy)
        return number

    def number(self, path: bytes) -> InodeNo:
        number = ROOT
        for name in path.split(b"/"):
            number = self.filesystem.lookup(number, name) if name else number
        return number

    def put(self, path: bytes, data: bytes, *, fsync: bool = False) -> InodeNo:
        """Write a file as `cp` does, and have everything decided."""
        above, _, name = path.rpartition(b"/")
        number, handle = self.filesystem.create(self.number(above), name, 0o644, 0, 0)
        self.core.files.write(handle, 0, data)
        if fsync:
            self.core.files.fsync(handle)
        self.core.files.release(handle)
        self.filesystem.settle()
        return number

    def written(self, path: bytes, data: bytes) -> int:
        """Make a file, write it and return the handle, still open."""
        above, _, name = path.rpartition(b"/")
        _, handle = self.filesystem.create(self.number(above), name, 0o644, 0, 0)
        self.core.files.write(handle, 0, data)
        return handle

    def read(self, path: bytes) -> bytes:
        handle = self.core.files.open(self.number(path), readable=True, writable=False)
        try:
            return self.core.files.read(handle, 0, 1 << 30)
        finally:
            self.core.files.release(handle)

    def content(self, path: bytes) -> Exact | Rendition:
        content = self.core.volume.metadata.inode(self.number(path)).content
        assert content is not None
        return self.core.volume.contents.get(content)

    def xattr(self, path: bytes, name: bytes) -> bytes:
        return self.filesystem.get_xattr(self.number(path), name)


@pytest.fixture
def tree(core: Core) -> Tree:
    return Tree(core)


@pytest.mark.parametrize("fsync", [False, True])
@pytest.mark.parametrize("bytes_first", [False, True])
def test_what_is_off_comes_back_bit_for_bit_whatever_else_has_its_bytes(
    tree: Tree, fsync: bool, bytes_first: bool
) -> None:
    """The very same bytes are a rendition elsewhere, before or afterwards."""
    tree.directory(b"evidence", b"off")
    if bytes_first:
        tree.put(b"copy", COPY, fsync=fsync)
    tree.put(b"evidence/copy", COPY, fsync=fsync)
    if not bytes_first:
        tree.put(b"copy", COPY, fsync=fsync)
    tree.put(b"photo", PHOTO, fsync=fsync)
    assert tree.read(b"copy") == rendition_of(COPY)
    assert tree.read(b"evidence/copy") == COPY
    tree.put(b"evidence/again", COPY, fsync=fsync)
    assert tree.read(b"evidence/again") == COPY


def test_what_is_off_is_the_base_of_nothing(tree: Tree) -> None:
    tree.directory(b"evidence", b"off")
    tree.put(b"evidence/photo", PHOTO)
    tree.put(b"copy", COPY)
    assert tree.read(b"copy") == COPY
    assert tree.content(b"evidence/photo").cluster is None


def test_the_nearest_directory_wins_and_its_attribute_can_go(tree: Tree) -> None:
    tree.put(b"photo", PHOTO)
    tree.directory(b"a", b"off")
    tree.directory(b"a/b")
    tree.directory(b"a/b/c", b"verified")
    inner = tree.directory(b"a/b/c/d")
    tree.put(b"a/b/off", COPY)
    tree.put(b"a/b/c/d/on", COPY)
    assert tree.read(b"a/b/off") == COPY
    assert tree.read(b"a/b/c/d/on") == rendition_of(COPY)
    with pytest.raises(NoAttributeError):
        tree.filesystem.get_xattr(inner, POLICY_XATTR)
    tree.filesystem.remove_xattr(tree.number(b"a"), POLICY_XATTR)
    tree.put(b"a/b/on", COPY)
    assert tree.read(b"a/b/on") == rendition_of(COPY)


@pytest.mark.parametrize("to_off", [False, True])
def test_a_file_goes_by_the_directory_in_which_it_is_decided(tree: Tree, pool: LaxPool, to_off: bool) -> None:
    tree.put(b"photo", PHOTO)
    evidence = tree.directory(b"evidence", b"off")
    from_directory, to_directory = (ROOT, evidence) if to_off else (evidence, ROOT)
    _, handle = tree.filesystem.create(from_directory, b"copy", 0o644, 0, 0)
    tree.core.files.write(handle, 0, COPY)
    tree.filesystem.rename(from_directory, b"copy", to_directory, b"copy")
    tree.core.files.release(handle)
    tree.filesystem.settle()
    assert (tree.read(b"evidence/copy") == COPY) if to_off else (tree.read(b"copy") == rendition_of(COPY))


@pytest.mark.parametrize("how", ["file", "directory", "attribute"])
def test_a_decision_that_is_under_way_goes_by_where_the_file_is_in_the_end(tree: Tree, pool: LaxPool, how: str) -> None:
    tree.put(b"photo", PHOTO)
    evidence, folder = tree.directory(b"evidence", b"off"), tree.directory(b"folder")
    with pool.held():
        tree.core.files.release(tree.written(b"folder/copy", COPY))
        assert pool.asked.wait(5)
        if how == "file":
            tree.filesystem.rename(folder, b"copy", evidence, b"copy")
        elif how == "directory":
            tree.filesystem.rename(ROOT, b"folder", evidence, b"folder")
        else:
            tree.filesystem.set_xattr(folder, POLICY_XATTR, b"off")
    tree.filesystem.settle()
    where = {"file": b"evidence/copy", "directory": b"evidence/folder/copy", "attribute": b"folder/copy"}[how]
    assert tree.read(where) == COPY


def test_after_a_crash_a_picture_is_decided_under_the_policy_it_was_stored_under(
    volume_directory: Path, pool: LaxPool
) -> None:
    core = Core(volume_directory, pool)
    tree = Tree(core)
    tree.put(b"unlike", BETTER_BUT_UNLIKE)
    tree.directory(b"lax", b"perceptual")
    with pool.held():
        for name in (b"lax", b""):
            _, handle = core.filesystem.create(tree.number(name), b"photo", 0o644, 0, 0)
            core.files.write(handle, 0, PHOTO)
            core.files.fsync(handle)
            core.files.release(handle)
        core.volume.store.commit()
        core.volume.store.read_only = True
    core.crash()
    core = Core(volume_directory, LaxPool())
    tree = Tree(core)
    try:
        core.filesystem.settle()
        assert tree.read(b"photo") == PHOTO
        assert tree.read(b"lax/photo") == rendition_of(PHOTO)
        assert core.problems() == []
    finally:
        core.filesystem.close()


def test_perceptual_changes_nothing_for_files_that_were_verified(tree: Tree) -> None:
    """A better picture by its fingerprint would take over the cluster of a photo that it does not look like."""
    tree.put(b"photo", PHOTO)
    tree.put(b"copy", COPY)
    tree.directory(b"lax", b"perceptual")
    tree.put(b"lax/better", BETTER_BUT_UNLIKE)
    assert tree.read(b"photo") == PHOTO
    content = tree.content(b"photo")
    assert isinstance(content, Exact) and content.state is ContentState.PICTURE


@pytest.mark.parametrize("lax_first", [False, True])
def test_the_same_bytes_are_verified_where_they_are_to_be(tree: Tree, lax_first: bool) -> None:
    tree.directory(b"lax", b"perceptual")
    tree.put(b"unlike", BETTER_BUT_UNLIKE)
    for path in (b"lax/photo", b"photo") if lax_first else (b"photo", b"lax/photo"):
        tree.put(path, PHOTO)
    assert tree.read(b"photo") == PHOTO
    assert tree.read(b"lax/photo") == rendition_of(PHOTO)


@pytest.fixture
def off_tree(tmp_path: Path, pool: LaxPool) -> Iterator[Tree]:
    core = Core(make_volume(tmp_path / "off", Policy.OFF), pool)
    yield Tree(core)
    assert core.problems() == []
    core.filesystem.close()


def test_a_volume_that_is_off_can_have_a_folder_that_is_not(off_tree: Tree) -> None:
    off_tree.directory(b"photos", b"verified")
    for name in (b"photo", b"photos/photo"):
        off_tree.put(name, PHOTO)
    for name in (b"copy", b"photos/copy"):
        off_tree.put(name, COPY)
    assert off_tree.read(b"copy") == COPY
    assert off_tree.read(b"photos/copy") == rendition_of(COPY)


def test_nobody_looks_for_the_name_of_a_file_that_has_none(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary file that is written after it was removed would have every name looked at, again and again."""
    tree.directory(b"evidence", b"off")
    number, handle = tree.filesystem.create(ROOT, b"temporary", 0o600, 0, 0)
    tree.filesystem.unlink(ROOT, b"temporary")
    monkeypatch.setattr(Whereabouts, "directory_of", None)
    assert tree.core.files.policies.of_file(number) is Policy.VERIFIED
    monkeypatch.undo()
    tree.core.files.release(handle)


def test_in_place_edits_of_what_is_off(tree: Tree) -> None:
    tree.directory(b"evidence", b"off")
    number = tree.put(b"evidence/photo", PHOTO)
    handle = tree.core.files.open(number, readable=True, writable=True)
    tree.core.files.write(handle, 200_000, b"edited")
    tree.core.files.fsync(handle)
    tree.core.files.write(handle, 100, b"again")
    tree.core.files.release(handle)
    tree.filesystem.settle()
    assert tree.read(b"evidence/photo") == PHOTO[:100] + b"again" + PHOTO[105:200_000] + b"edited" + PHOTO[200_006:]


def test_attributes_say_how_a_file_is_kept(tree: Tree, pool: LaxPool) -> None:
    tree.directory(b"holiday")
    tree.directory(b"holiday/beach")
    tree.put(b"holiday/beach/photo", PHOTO)
    tree.put(b"copy", COPY)
    tree.put(b"notes", b"text")
    assert tree.xattr(b"copy", b"user.dedupfs.kind") == b"rendition"
    assert tree.xattr(b"holiday/beach/photo", b"user.dedupfs.kind") == b"picture"
    assert tree.xattr(b"notes", b"user.dedupfs.kind") == b"plain"
    assert tree.xattr(b"copy", b"user.dedupfs.cluster") == tree.xattr(b"holiday/beach/photo", b"user.dedupfs.cluster")
    for path in (b"copy", b"holiday/beach/photo"):
        assert tree.xattr(path, b"user.dedupfs.representative") == b"holiday/beach/photo"
    tree.filesystem.rename(tree.number(b"holiday"), b"beach", ROOT, b"shore")
    assert tree.xattr(b"copy", b"user.dedupfs.representative") == b"shore/photo"
    with pool.held():
        tree.core.put(b"waiting", sketch(9))
        assert tree.xattr(b"waiting", b"user.dedupfs.kind") == b"undecided"
    for path, name in ((b"notes", b"cluster"), (b"notes", b"representative"), (b"copy", b"else"), (b"shore", b"kind")):
        with pytest.raises(NoAttributeError):
            tree.xattr(path, b"user.dedupfs." + name)


def test_attributes_of_dedupfs_are_its_own(tree: Tree) -> None:
    photo = tree.put(b"photo", PHOTO)
    folder = tree.directory(b"folder")
    for number, name in ((photo, b"kind"), (photo, b"policy"), (folder, b"cluster"), (ROOT, b"anything")):
        with pytest.raises(NotPermittedError):
            tree.filesystem.set_xattr(number, b"user.dedupfs." + name, b"off")
    for value in (b"", b"lossless", b"off\n", b"\xff"):
        with pytest.raises(InvalidRequestError):
            tree.filesystem.set_xattr(folder, POLICY_XATTR, value)
    assert not tree.core.volume.is_mixed
    assert tree.filesystem.list_xattrs(photo) == []
