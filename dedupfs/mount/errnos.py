"""Which errno answers which exception; the only table of its kind."""

from __future__ import annotations

import errno
import logging

from dedupfs import errors

log = logging.getLogger(__name__)

_ERRNOS: tuple[tuple[type[Exception], int], ...] = (
    # The kernel looks the path up again, so that a file just replaced by a rename is found under its new inode.
    (errors.StaleInodeError, errno.ESTALE),
    (errors.EntryNotFoundError, errno.ENOENT),
    (errors.EntryExistsError, errno.EEXIST),
    (errors.NotEmptyError, errno.ENOTEMPTY),
    (errors.NotDirectoryError, errno.ENOTDIR),
    (errors.IsDirectoryError, errno.EISDIR),
    (errors.BadHandleError, errno.EBADF),
    (errors.NameTooLongError, errno.ENAMETOOLONG),
    (errors.TooManyLinksError, errno.EMLINK),
    (errors.NoAttributeError, errno.ENODATA),
    (errors.InvalidRequestError, errno.EINVAL),
    (errors.NotPermittedError, errno.EPERM),
    (errors.NotSupportedError, errno.EOPNOTSUPP),
    (errors.FileTooLargeError, errno.EFBIG),
    (errors.AttributeTooLargeError, errno.E2BIG),
    (errors.InUseError, errno.EBUSY),
    (errors.StoreFullError, errno.ENOSPC),
    (errors.StoreReadOnlyError, errno.EROFS),
    (MemoryError, errno.ENOMEM),
)


def errno_of(exc: BaseException) -> int | None:
    """Return the errno for an exception that a caller may see as such, or None for one that must become EIO."""
    for kind, number in _ERRNOS:
        if isinstance(exc, kind):
            return number
    return None


def errno_after(operation: str, exc: BaseException) -> int:
    """Return the errno to answer with when an operation has raised; what nobody foresaw is logged and becomes EIO."""
    number = errno_of(exc)
    if number is not None:
        return number
    if isinstance(exc, errors.DedupfsError):
        log.error("%s failed: %s", operation, exc)
        return errno.EIO
    if isinstance(exc, OSError) and exc.errno and exc.errno > 0:
        return exc.errno
    log.error("%s failed in a way nobody foresaw", operation, exc_info=exc)
    return errno.EIO
