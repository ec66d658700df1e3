"""Extended attributes: those that are stored, and those that say how a file is kept.

Names that begin with RESERVED_XATTRS are dedupfs's own. `user.dedupfs.policy` is stored and belongs to directories. The
others are worked out when somebody asks, cannot be set, and are not listed: a copying tool would take them along to
where they mean nothing.
"""

from __future__ import annotations

import builtins
import stat

from dedupfs.errors import (
    AttributeTooLargeError,
    EntryExistsError,
    NameTooLongError,
    NoAttributeError,
    NotPermittedError,
    NotSupportedError,
)
from dedupfs.filesystem.files import Files
from dedupfs.filesystem.inodes import Inodes
from dedupfs.filesystem.namespace import NAME_MAX_BYTES
from dedupfs.filesystem.policies import parse
from dedupfs.filesystem.privileges import Privileges
from dedupfs.filesystem.survey import kind_of
from dedupfs.filesystem.whereabouts import Whereabouts
from dedupfs.model import InodeNo
from dedupfs.storage.metadata import POLICY_XATTR
from dedupfs.storage.records import Exact, Inode, Rendition, Xattr
from dedupfs.storage.volume import Volume

XATTR_MAX_BYTES = 64 << 10
XATTR_TOTAL_MAX_BYTES = 1 << 20
RESERVED_XATTRS = b"user.dedupfs."
KIND_XATTR = b"user.dedupfs.kind"
"""plain, picture, rendition or undecided, as `dedupfs why` says it."""
CLUSTER_XATTR = b"user.dedupfs.cluster"
"""The number of the cluster that a picture belongs to."""
REPRESENTATIVE_XATTR = b"user.dedupfs.representative"
"""A path, relative to the root, of the picture that the cluster is kept as."""


class Xattrs:
    """Extended attributes of the inodes of one volume. Any thread."""

    def __init__(
        self, volume: Volume, inodes: Inodes, files: Files, privileges: Privileges, whereabouts: Whereabouts
    ) -> None:
        self._volume = volume
        self._store = volume.store
        self._metadata = volume.metadata
        self._inodes = inodes
        self._files = files
        self._privileges = privileges
        self._whereabouts = whereabouts

    def get(self, number: InodeNo, name: bytes) -> bytes:
        """Return an attribute. Raises NoAttributeError."""
        _check_name(name)
        if _is_virtual(name):
            return self._about(number, name)
        value = self._metadata.find_xattr(number, name)
        if value is None:
            raise NoAttributeError("no such attribute")
        return value

    def list(self, number: InodeNo) -> builtins.list[bytes]:
        """Return the names of all attributes that are stored."""
        return [xattr.name for xattr in self._metadata.xattrs(number)]

    def set(self, number: InodeNo, name: bytes, value: bytes, *, create: bool = False, replace: bool = False) -> None:
        """Set an attribute.

        Raises:
            EntryExistsError, NoAttributeError, AttributeTooLargeError, NameTooLongError: as setxattr(2) has it.
            NotPermittedError: the attribute is dedupfs's own.
            InvalidRequestError: no policy has this name.
        """
        _check_name(name)
        if _is_virtual(name):
            raise NotPermittedError("attributes of this name are dedupfs's own")
        if len(name) > NAME_MAX_BYTES:
            raise NameTooLongError(f"the name of an attribute has at most {NAME_MAX_BYTES} bytes")
        if len(value) > XATTR_MAX_BYTES:
            raise AttributeTooLargeError(f"an attribute has at most {XATTR_MAX_BYTES} bytes")
        with self._store.transaction() as transaction:
            inode = self._metadata.inode(number)
            if name == POLICY_XATTR:
                _check_policy(inode, value)
                self._volume.mix_policies(transaction)
                transaction.afterwards(self._files.reconsider)
            present = self._metadata.xattrs(number)
            exists = any(xattr.name == name for xattr in present)
            if create and exists:
                raise EntryExistsError("the attribute exists")
            if replace and not exists:
                raise NoAttributeError("no such attribute")
            total = sum(len(xattr.name) + len(xattr.value) for xattr in present if xattr.name != name)
            if total + len(name) + len(value) > XATTR_TOTAL_MAX_BYTES:
                raise AttributeTooLargeError(f"an inode has at most {XATTR_TOTAL_MAX_BYTES} bytes of attributes")
            self._metadata.put_xattr(transaction, number, Xattr(name, value))
            self._inodes.change(transaction, number)
            self._privileges.note(number)

    def remove(self, number: InodeNo, name: bytes) -> None:
        """Remove an attribute. Raises NoAttributeError, and NotPermittedError for those of dedupfs."""
        _check_name(name)
        if _is_virtual(name):
            raise NotPermittedError("attributes of this name are dedupfs's own")
        with self._store.transaction() as transaction:
            self.get(number, name)
            self._metadata.delete_xattr(transaction, number, name)
            if name == POLICY_XATTR:
                transaction.afterwards(self._files.reconsider)
            self._inodes.change(transaction, number)

    def _about(self, number: InodeNo, name: bytes) -> bytes:
        """Return what a virtual attribute says of a file as it is stored. Raises NoAttributeError."""
        with self._store.lock:
            inode = self._metadata.inode(number)
            if not stat.S_ISREG(inode.mode):
                raise NoAttributeError("no such attribute")
            file = self._files.find(number)
            waits = file is not None and file.unsaved
            content = None if inode.content is None or waits else self._volume.contents.get(inode.content)
        if name == KIND_XATTR:
            return b"undecided" if waits else kind_of(content).encode()
        if content is None or content.cluster is None:
            raise NoAttributeError("no such attribute")
        if name == CLUSTER_XATTR:
            return b"%d" % content.cluster
        if name == REPRESENTATIVE_XATTR:
            return self._representative(number, inode, content)
        raise NoAttributeError("no such attribute")

    def _representative(self, number: InodeNo, inode: Inode, content: Exact | Rendition) -> bytes:
        assert content.cluster is not None
        record = self._volume.clusters.find(content.cluster)
        if record is not None and record.representative == inode.content:
            path = self._whereabouts.path_of_file(number)
        else:
            path = self._whereabouts.path_of_representative(content.cluster)
        if path is None:
            raise NoAttributeError("no file holds it")
        return path


def _is_virtual(name: bytes) -> bool:
    return name.startswith(RESERVED_XATTRS) and name != POLICY_XATTR


def _check_policy(inode: Inode, value: bytes) -> None:
    if not stat.S_ISDIR(inode.mode):
        raise NotPermittedError("directories have policies, files do not")
    parse(value)


def _check_name(name: bytes) -> None:
    """Refuse what would have to mean something here: a tool that sets an access control list sets no mode then."""
    if not name.startswith((b"user.", b"trusted.", b"security.")):
        raise NotSupportedError("no such attributes here")
