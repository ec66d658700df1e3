"""The directory tree put in order: every inode under its names, every directory in its place.

A directory whose inode is gone is made anew with the names that are still in it, for its owner alone: what it was and
who might look into it is not known any more. What has no name left goes into /lost+found as `#` and its number.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace

from dedupfs.model import InodeNo
from dedupfs.storage import records
from dedupfs.storage.check import is_name
from dedupfs.storage.mending import Mending
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.readout import number
from dedupfs.storage.records import Entry, Inode, Unfinished, number_key

LOST_AND_FOUND = b"lost+found"
_MADE_ANEW_MODE = stat.S_IFDIR | 0o700


def mend_tree(mending: Mending) -> None:
    """Put inodes, entries, attributes and marks in order."""
    tree = _Tree(mending)
    tree.make_directories()
    tree.choose_entries()
    tree.place_directories()
    tree.mend_marks()
    tree.place_files()
    tree.fill_lost_and_found()
    tree.count_links()
    tree.mend_xattrs()


class _Tree:
    """One run; the entries of the new state are kept by parent and name until all are known."""

    def __init__(self, mending: Mending) -> None:
        self._mending = mending
        self._old = mending.old.sources
        self._inodes = mending.new.inodes
        self._entries = mending.new.entries
        self._lost: list[InodeNo] = []

    # Directories that are gone

    def make_directories(self) -> None:
        """Make directories anew whose inodes are gone: the root, those that hold entries, those named as such."""
        if ROOT in self._inodes and not self._is_directory(ROOT):
            moved = self._mending.fresh_inode()
            self._inodes[moved] = self._inodes.pop(ROOT)
            self._mending.mended("what stood in the place of the root directory is moved away", [b"#%d" % moved])
        held: dict[InodeNo, list[InodeNo]] = defaultdict(list)
        wanted = {ROOT}
        for key, entry in self._old.entries.items():
            held[InodeNo(number(key))].append(entry.inode)
            wanted.add(InodeNo(number(key)))
            if stat.S_ISDIR(entry.type_bits):
                wanted.add(entry.inode)
        for directory in sorted(wanted - self._inodes.keys()):
            uid, gid = self._likely_owner(held[directory])
            now = self._mending.now_ns
            self._inodes[directory] = Inode(_MADE_ANEW_MODE, uid, gid, 0, 2, 0, now, now, now)
            self._mending.gone(
                "the mode, owner and times of a directory are gone; it is made anew for its owner alone",
                self._mending.paths.of_inode(directory),
            )

    def _likely_owner(self, held: Iterable[InodeNo]) -> tuple[int, int]:
        """Return who owns most of what is in a directory, or the root, or whoever repairs."""
        inodes = [self._inodes[inode] for inode in held if inode in self._inodes]
        owners = Counter((inode.uid, inode.gid) for inode in inodes)
        if owners:
            return owners.most_common(1)[0][0]
        root = self._inodes.get(ROOT)
        return (root.uid, root.gid) if root is not None else (os.getuid(), os.getgid())

    # Names

    def choose_entries(self) -> None:
        """Keep the entries that can be right, in their right place."""
        self._entries.clear()
        self._note_damaged_entries()
        # Those in their right place come first, so that none of them is displaced.
        for key, entry in sorted(self._old.entries.items(), key=lambda each: (each[0] != self._key_of(*each), each[0])):
            path = [self._mending.paths.of_name(InodeNo(number(key)), entry.name)]
            right = self._key_of(key, entry)
            if entry.inode not in self._inodes:
                self._mending.gone(
                    "a file is gone: its inode is damaged or missing; its bytes may be in /lost+found", path
                )
            elif not self._is_directory(InodeNo(number(key))) or entry.inode == ROOT or not is_name(entry.name):
                self._mending.mended("a name that cannot be one is removed", path)
            elif right in self._entries:
                self._mending.mended("a name that stands twice is removed once", path)
            else:
                if right != key:
                    self._mending.mended("a name is put where it belongs", path)
                type_bits = stat.S_IFMT(self._inodes[entry.inode].mode)
                if type_bits != entry.type_bits:
                    self._mending.mended("a name tells the type of its inode again", path)
                self._entries[right] = replace(entry, type_bits=type_bits)

    def _note_damaged_entries(self) -> None:
        damaged = Counter(
            InodeNo(number(record.key)) for record in self._mending.old.damaged if record.table is records.ENTRIES
        )
        for directory, count in damaged.items():
            self._mending.gone(
                f"{count} names in a directory cannot be read; what else had none is in /lost+found",
                [self._mending.paths.of_name(directory, b"?")],
            )

    def _key_of(self, key: bytes, entry: Entry) -> bytes:
        prefix = key[:8]
        return prefix + self._mending.keyring.name_token(b"entry" + prefix, entry.name)

    def _is_directory(self, inode: InodeNo) -> bool:
        return inode in self._inodes and stat.S_ISDIR(self._inodes[inode].mode)

    # Places

    def place_directories(self) -> None:
        """Leave each directory one name, and each within reach of the root."""
        names: dict[InodeNo, list[bytes]] = defaultdict(list)
        for key, entry in self._entries.items():
            if self._is_directory(entry.inode):
                names[entry.inode].append(key)
        for directory, keys in names.items():
            keep = next((key for key in keys if number(key) == self._inodes[directory].parent), keys[0])
            for key in keys:
                if key != keep:
                    self._remove(key, "a directory keeps one of its names")
            names[directory] = [keep]
        below: dict[InodeNo, list[InodeNo]] = defaultdict(list)
        for directory, (key,) in names.items():
            below[InodeNo(number(key))].append(directory)
        unreached = {inode for inode in self._inodes if self._is_directory(inode)}
        self._reach(ROOT, below, unreached)
        heads = sorted(directory for directory in unreached if directory not in names)
        for head in heads:
            self._reach(head, below, unreached)
        while unreached:
            # What is left are directories below themselves.
            head = min(unreached)
            self._remove(names[head][0], "a directory is no longer below itself")
            heads.append(head)
            self._reach(head, below, unreached)
        self._lost += heads

    @staticmethod
    def _reach(start: InodeNo, below: dict[InodeNo, list[InodeNo]], unreached: set[InodeNo]) -> None:
        waiting = [start]
        while waiting:
            directory = waiting.pop()
            if directory in unreached:
                unreached.discard(directory)
                waiting += below[directory]

    def _remove(self, key: bytes, why: str) -> None:
        entry = self._entries.pop(key)
        self._mending.mended(why, [self._mending.paths.of_name(InodeNo(number(key)), entry.name)])

    def mend_marks(self) -> None:
        """Keep marks of inodes that are on their way in or out; what is in doubt stays."""
        named = {entry.inode for entry in self._entries.values()}
        orphans, unfinished = self._mending.new.orphans, self._mending.new.unfinished
        for inode in sorted(orphans):
            if inode not in self._inodes or inode in named or self._is_directory(inode):
                orphans.discard(inode)
                self._mending.mended(f"inode {inode} is no longer to be removed")
        for inode, record in list(unfinished.items()):
            known = self._inodes.get(inode)
            if known is None or known.content is not None or not stat.S_ISREG(known.mode):
                del unfinished[inode]
                self._mending.mended(f"inode {inode} no longer counts as not stored yet")
                continue
            keys = tuple(key for key in record.entry_keys if self._is_name_of(key, inode))
            if keys != record.entry_keys:
                unfinished[inode] = Unfinished(keys)
                self._mending.mended(f"the names of inode {inode}, which is not stored yet, are put in order")

    def _is_name_of(self, key: bytes, inode: InodeNo) -> bool:
        entry = self._entries.get(key)
        return entry is not None and entry.inode == inode

    def place_files(self) -> None:
        """Note what has no name and is not on its way out."""
        named = {entry.inode for entry in self._entries.values()}
        for inode in sorted(self._inodes.keys() - named - self._mending.new.orphans):
            if not self._is_directory(inode):
                self._lost.append(inode)

    def fill_lost_and_found(self) -> None:
        """Name what has no name."""
        if not self._lost:
            return
        directory, folder = self._lost_and_found()
        for inode in self._lost:
            name = self._free_name(directory, b"#%d" % inode)
            self._enter(directory, name, inode)
            self._mending.mended(f"inode {inode} had no name", [folder + b"/" + name])
            unfinished = self._mending.new.unfinished.get(inode)
            if unfinished is not None:
                key = self._name_key(directory, name)
                self._mending.new.unfinished[inode] = Unfinished((*unfinished.entry_keys, key))

    def _lost_and_found(self) -> tuple[InodeNo, bytes]:
        found = self._entries.get(self._name_key(ROOT, LOST_AND_FOUND))
        if found is not None and self._is_directory(found.inode):
            return found.inode, LOST_AND_FOUND
        root, now = self._inodes[ROOT], self._mending.now_ns
        name = self._free_name(ROOT, LOST_AND_FOUND)
        made = self._mending.fresh_inode()
        self._inodes[made] = Inode(_MADE_ANEW_MODE, root.uid, root.gid, 0, 2, 0, now, now, now)
        self._enter(ROOT, name, made)
        return made, name

    def _free_name(self, directory: InodeNo, name: bytes) -> bytes:
        candidates = itertools.chain([name], (b"%s.%d" % (name, again) for again in itertools.count(1)))
        return next(each for each in candidates if self._name_key(directory, each) not in self._entries)

    def _enter(self, directory: InodeNo, name: bytes, inode: InodeNo) -> None:
        entry = Entry(inode, stat.S_IFMT(self._inodes[inode].mode), name)
        self._entries[self._name_key(directory, name)] = entry
        now = self._mending.now_ns
        self._inodes[directory] = replace(self._inodes[directory], mtime_ns=now, ctime_ns=now)

    def _name_key(self, directory: InodeNo, name: bytes) -> bytes:
        prefix = number_key(directory)
        return prefix + self._mending.keyring.name_token(b"entry" + prefix, name)

    # What follows from the names

    def count_links(self) -> None:
        """Let inodes know how many names they have, and directories where they are."""
        names = Counter(entry.inode for entry in self._entries.values())
        subdirectories: Counter[InodeNo] = Counter()
        parents: dict[InodeNo, InodeNo] = {}
        for key, entry in self._entries.items():
            if self._is_directory(entry.inode):
                parents[entry.inode] = InodeNo(number(key))
                subdirectories[InodeNo(number(key))] += 1
        for number_, inode in self._inodes.items():
            if stat.S_ISDIR(inode.mode):
                right = replace(inode, nlink=2 + subdirectories[number_], parent=parents.get(number_, InodeNo(0)))
            else:
                right = replace(inode, nlink=names[number_])
            old = self._old.inodes.get(number_)
            if old is not None and (right.nlink, right.parent) != (old.nlink, old.parent):
                self._mending.mended(f"inode {number_} knows its links and its place again")
            self._inodes[number_] = right

    def mend_xattrs(self) -> None:
        """Drop attributes of nothing, and put those where they belong that stand elsewhere."""
        for record in self._mending.old.damaged:
            if record.table is records.XATTRS:
                inode = InodeNo(number(record.key))
                self._mending.gone("an extended attribute is gone", self._mending.paths.of_inode(inode))
        xattrs = self._mending.new.xattrs
        for key, name in list(xattrs.items()):
            right = key[:8] + self._mending.keyring.name_token(b"xattr" + key[:8], name)
            if right == key and InodeNo(number(key)) in self._inodes:
                continue
            del xattrs[key]
            if InodeNo(number(key)) not in self._inodes:
                self._mending.mended("an attribute of nothing is removed")
            elif right not in xattrs:
                xattrs[right] = name
                self._mending.moved_xattrs[right] = key
                self._mending.mended("an attribute is put where it belongs")
