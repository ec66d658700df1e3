"""A root directory and its files, as short as can be: what makes a volume with contents sound for `check`."""

from __future__ import annotations

import stat
from dataclasses import replace

from dedupfs.model import ClusterId, ContentId, Differences, Fingerprint, InodeNo
from dedupfs.storage.check import check
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.records import ContentState, Entry, Exact, Inode, Rendition
from dedupfs.storage.report import Problem
from dedupfs.storage.store import Transaction
from dedupfs.storage.volume import Volume

FILE_MODE = stat.S_IFREG | 0o644
DIRECTORY_MODE = stat.S_IFDIR | 0o755


class Tree:
    """Files by name, each with one content."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.inodes: dict[bytes, InodeNo] = {}
        with volume.store.transaction() as transaction:
            assert self._make(transaction, Inode(DIRECTORY_MODE, 0, 0, 0, 2, 0, 0, 0, 0)) == ROOT

    def add(self, name: bytes, data: bytes, *, cuts: tuple[int, ...] = ()) -> ContentId:
        """Store a file bit for bit."""
        prepared = self.volume.contents.prepare(data, cuts)
        with self.volume.store.transaction() as transaction:
            content = self.volume.contents.store_exact(transaction, prepared)
            self.enter(transaction, name, content, len(data))
        return content

    def enter(self, transaction: Transaction, name: bytes, content: ContentId, size: int) -> None:
        """Name a content that exists."""
        self.volume.contents.link(transaction, content)
        number = self._make(transaction, Inode(FILE_MODE, 0, 0, 0, 1, size, 0, 0, 0, content=content))
        self.volume.metadata.put_entry(transaction, ROOT, Entry(number, stat.S_IFREG, name))
        transaction.count("logical_bytes", size)
        self.inodes[name] = number

    def write(self, name: bytes, data: bytes) -> ContentId:
        """Replace the bytes of a file in the way of a file that is still being written."""
        prepared = self.volume.contents.prepare(data)
        number = self.inodes[name]
        inode = self.volume.metadata.inode(number)
        with self.volume.store.transaction() as transaction:
            content = self.volume.contents.succeed(transaction, inode.content, prepared)
            self.volume.metadata.put_inode(transaction, number, replace(inode, content=content, size=len(data)))
            transaction.count("logical_bytes", len(data) - inode.size)
        return content

    def remove(self, name: bytes) -> None:
        """Remove a file and its hold on its content."""
        number = self.inodes.pop(name)
        inode = self.volume.metadata.inode(number)
        assert inode.content is not None
        with self.volume.store.transaction() as transaction:
            self.volume.metadata.delete_entry(transaction, ROOT, name)
            self.volume.metadata.delete_inode(transaction, number)
            self.volume.contents.unlink(transaction, inode.content)
            transaction.count("files", -1)
            transaction.count("logical_bytes", -inode.size)

    def read(self, name: bytes) -> bytes:
        """Return the bytes of a file that is stored exactly."""
        content_id = self.volume.metadata.inode(self.inodes[name]).content
        assert content_id is not None
        content = self.volume.contents.get(content_id)
        assert isinstance(content, Exact)
        return self.volume.contents.read_all(content.layout)

    def found_cluster(self, picture: ContentId, fingerprint: Fingerprint | None) -> ClusterId:
        """Make a cluster that a stored picture represents."""
        with self.volume.store.transaction() as transaction:
            cluster = self.volume.clusters.create(transaction, picture, fingerprint, b"facts")
            self.volume.contents.join(transaction, picture, cluster)
        return cluster

    def make_rendition(self, content: ContentId, representative: ContentId, *, own: bytes = b"own metadata") -> None:
        """Keep a stored content as a rendition of a picture that represents its cluster."""
        with self.volume.store.transaction() as transaction:
            prepared = self.volume.contents.prepare(own)
            rendition = self.rendition(content, representative)
            rendition = replace(rendition, own=prepared.layout)
            self.volume.contents.become_rendition(transaction, content, rendition, prepared)

    def rendition(self, content: ContentId, representative: ContentId) -> Rendition:
        """Return the record of a rendition as large as the stored content."""
        stored, base = self.volume.contents.get(content), self.volume.contents.get(representative)
        assert base.cluster is not None
        size = stored.layout.size if isinstance(stored, Exact) else stored.size
        return Rendition(
            size=size,
            cluster=base.cluster,
            representative=representative,
            recipe=b"recipe",
            own=self.volume.contents.prepare(b"").layout,
            digest=bytes(32),
            sketch=b"sketch",
            codecs=b"codecs",
            differences=Differences(1, 2, 3, 4, 0),
            distance_bits=3,
            bit_exact=True,
        )

    def set_state(self, content: ContentId, state: ContentState) -> None:
        """Note what is known of a content."""
        with self.volume.store.transaction() as transaction:
            self.volume.contents.set_state(transaction, content, state)

    def _make(self, transaction: Transaction, inode: Inode) -> InodeNo:
        transaction.count("directories" if stat.S_ISDIR(inode.mode) else "files", 1)
        return self.volume.metadata.new_inode(transaction, inode)


def problems(volume: Volume) -> list[Problem]:
    """Return what `check` finds once everything is committed."""
    volume.store.commit()
    return check(volume, data=True).problems


def stored_rows(volume: Volume, table: str) -> dict[bytes, bytes]:
    """Return a table as it is on the disk."""
    volume.store.commit()
    with volume.store.engine.snapshot() as snapshot:
        return dict(snapshot.scan(table))
