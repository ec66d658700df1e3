"""Policies: which one holds for a file, from the attribute of the nearest directory above it that has one."""

from __future__ import annotations

import logging

from dedupfs.errors import EntryNotFoundError, IntegrityError, InvalidRequestError
from dedupfs.filesystem.whereabouts import Whereabouts
from dedupfs.model import InodeNo, Policy
from dedupfs.storage.metadata import POLICY_XATTR
from dedupfs.storage.volume import Volume

log = logging.getLogger(__name__)


class Policies:
    """The policies of one volume. Any thread."""

    def __init__(self, volume: Volume, whereabouts: Whereabouts) -> None:
        self._volume = volume
        self._metadata = volume.metadata
        self._whereabouts = whereabouts

    def of_file(self, number: InodeNo) -> Policy:
        """Return the policy for a file where it is now; the volume's own where no directory says otherwise.

        `off` where that is damaged: what is stored bit for bit is never wrong.
        """
        default = self._volume.config.policy
        if not self._volume.is_mixed:
            return default
        try:
            # To find no name takes a look at all of them.
            directory = self._whereabouts.directory_of(number) if self._metadata.inode(number).nlink else None
            if directory is None:
                return default
            for above in self._whereabouts.above(directory):
                value = self._metadata.find_xattr(above, POLICY_XATTR)
                if value is not None:
                    return parse(value)
        except EntryNotFoundError:
            return default
        except (IntegrityError, InvalidRequestError) as exc:
            log.error("the policy for inode %d cannot be told, it is stored bit for bit: %s", number, exc)
            return Policy.OFF
        return default


def parse(value: bytes) -> Policy:
    """Return the policy that an attribute's value names. Raises InvalidRequestError."""
    try:
        return Policy(value.decode())
    except ValueError as exc:
        raise InvalidRequestError("a policy is one of verified, perceptual and off") from exc
