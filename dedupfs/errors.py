"""The exception tree of dedupfs; imports nothing from the package.

    DedupfsError
        UsageError                  the caller asked for something that makes no sense (exit code 2)
        StoreError                  the volume cannot serve this
            StoreNotFoundError      no volume there, or its header cannot be read
            FormatVersionError      a volume of a format this version does not know
            StoreLockedError        another process writes to this volume
            StoreFullError          no room left on the disk below the volume
            StoreReadOnlyError      a change to a volume that is open for reading only
        IntegrityError              bytes from the disk are not what was written
        WrongKeyError               no key slot opens with this passphrase
        IngestError                 a picture could not be worked on
            UnfitPictureError       the picture is not one that can be compared; it is stored exactly
                OversizeError       no encoding of a rendition comes out at the written size
                MemoryShortError    the picture takes more memory to decode or compare than there is for it
            UndecodableError        the bytes do not decode as the picture they claim to be
            SourceError             an ordinary file, outside any volume, cannot be read or has changed
            WorkerError             the worker process failed, hung or ran out of memory
                WorkerStartError    no worker process could be started at all
        NamespaceError              what a POSIX caller can get wrong
            EntryNotFoundError
                StaleInodeError     the inode has gone since somebody learned its number
            EntryExistsError, NotEmptyError, NotDirectoryError, IsDirectoryError,
            BadHandleError, NameTooLongError, TooManyLinksError, NoAttributeError, InvalidRequestError,
            NotPermittedError, NotSupportedError, FileTooLargeError, AttributeTooLargeError, InUseError

Foreign exceptions are translated into these once, beside the import of their library. Only `mount` knows errno values,
only `cli` knows exit codes.
"""


class DedupfsError(Exception):
    """Base of everything dedupfs raises on purpose; its text is one line a user can act on."""


class UsageError(DedupfsError):
    """The request itself makes no sense, whatever the state of the volume."""


class StoreError(DedupfsError):
    """The volume cannot serve the request."""


class StoreNotFoundError(StoreError):
    """There is no volume at this place, or its header is damaged beyond reading."""


class FormatVersionError(StoreError):
    """The volume has a format version that this dedupfs does not know."""


class StoreLockedError(StoreError):
    """Another process holds the volume open for writing."""


class StoreFullError(StoreError):
    """The disk (or the quota) below the volume has no room for this."""


class StoreReadOnlyError(StoreError):
    """A change was asked of a volume that is open for reading only."""


class IntegrityError(DedupfsError):
    """Bytes from the disk failed authentication, or two records contradict each other."""


class WrongKeyError(DedupfsError):
    """No key slot opens with this passphrase."""


class IngestError(DedupfsError):
    """A picture could not be worked on; the file itself is stored exactly all the same."""


class UnfitPictureError(IngestError):
    """A sound picture of a sort that is not compared: animated, 16-bit, CMYK, tiny, too large."""


class OversizeError(UnfitPictureError):
    """No encoding of a rendition comes out at its written size; the smallest was `missing_bytes` too large.

    0 where it was not too large, but the gap cannot be filled.
    """

    def __init__(self, missing_bytes: int) -> None:
        super().__init__(f"{missing_bytes} bytes more than were written")
        self.missing_bytes = missing_bytes


class MemoryShortError(UnfitPictureError):
    """It would take `needed_bytes` of memory, which is more than is allowed."""

    def __init__(self, needed_bytes: int, allowed_bytes: int | None = None) -> None:
        limit = (
            "" if allowed_bytes is None else f", and a mount with this memory= has {_megabytes(allowed_bytes)} for it"
        )
        super().__init__(f"it takes {_megabytes(needed_bytes)} of memory{limit}")
        self.needed_bytes = needed_bytes


def _megabytes(size_bytes: int) -> str:
    return f"{-(-size_bytes // 1_000_000):,} MB"


class UndecodableError(IngestError):
    """The bytes look like a picture and do not decode as one."""


class SourceError(IngestError):
    """A file outside any volume cannot be read, or is not any more what it was."""


class WorkerError(IngestError):
    """A worker process crashed, took too long or ran out of memory."""


class WorkerStartError(WorkerError):
    """No worker process could be started, which says nothing about the picture."""


class NamespaceError(DedupfsError):
    """A request that POSIX answers with an error of its own."""


class EntryNotFoundError(NamespaceError):
    """No entry of this name, or no inode of this number."""


class StaleInodeError(EntryNotFoundError):
    """No inode of this number any more; its name may lead to another one by now."""


class EntryExistsError(NamespaceError):
    """The name is taken."""


class NotEmptyError(NamespaceError):
    """The directory still holds entries."""


class NotDirectoryError(NamespaceError):
    """A directory was needed and something else is there."""


class IsDirectoryError(NamespaceError):
    """Something other than a directory was needed."""


class BadHandleError(NamespaceError):
    """The handle is closed, or was opened for something else."""


class NameTooLongError(NamespaceError):
    """A name longer than 255 bytes or a link target longer than 4095."""


class TooManyLinksError(NamespaceError):
    """The link count of the inode is at its limit."""


class NoAttributeError(NamespaceError):
    """The inode has no extended attribute of this name."""


class InvalidRequestError(NamespaceError):
    """An argument outside what the operation takes, such as moving a directory below itself."""


class NotPermittedError(NamespaceError):
    """The operation is not allowed on this kind of inode, such as a hard link to a directory."""


class NotSupportedError(NamespaceError):
    """This filesystem does not have what was asked for, such as access control lists."""


class FileTooLargeError(NamespaceError):
    """An offset or size past the largest file this format can hold."""


class InUseError(NamespaceError):
    """Somebody has the file open, or its bytes are still on their way."""


class AttributeTooLargeError(NamespaceError):
    """An extended attribute past the size or number that an inode can hold."""
