"""Which exit code tells of which exception; the only table of its kind."""

from __future__ import annotations

from dedupfs import errors

DONE = 0
FAILED = 1
USAGE = 2
WRONG_PASSPHRASE = 3
IN_USE = 4
NO_VOLUME = 5

_CODES: tuple[tuple[type[errors.DedupfsError], int], ...] = (
    (errors.UsageError, USAGE),
    (errors.WrongKeyError, WRONG_PASSPHRASE),
    (errors.StoreLockedError, IN_USE),
    (errors.StoreNotFoundError, NO_VOLUME),
    (errors.FormatVersionError, NO_VOLUME),
)


def exit_code_of(exc: errors.DedupfsError) -> int:
    """Return the exit code for an exception."""
    return next((code for kind, code in _CODES if isinstance(exc, kind)), FAILED)
