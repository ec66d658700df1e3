"""Where a page goes: a new file that only its owner can read, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from dedupfs.errors import StoreError, UsageError


def refuse(target: Path, *, force: bool, volume: Path | None = None) -> None:
    """Refuse a place before any work is done for it.

    Raises:
        UsageError: something is there already, there is no folder for it that may be written to, or it lies inside the
            volume's directory.
    """
    folder = target.parent
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}")
    if target.is_dir():
        raise UsageError(f"{target} is a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        # The page is written when everything has been looked at, which may take hours.
        raise UsageError(f"nothing may be written to {folder}")
    if volume is not None and volume.is_dir():
        real = folder.resolve()
        if any(os.path.samefile(above, volume) for above in (real, *real.parents)):
            raise UsageError(f"{target} lies inside the volume, where nothing may be in the clear")
    if not force and os.path.lexists(target):
        raise UsageError(f"{target} exists; --force replaces it")


def write(target: Path, pieces: Iterable[str], *, force: bool) -> None:
    """Write the pieces to a file of mode 0600 and put it in its place when all of them are there.

    Raises:
        UsageError: something has come there meanwhile.
        StoreError: it cannot be written.
    """
    made: str | None = None
    try:
        descriptor, made = tempfile.mkstemp(prefix=f".{target.name[:80]}.", dir=target.parent)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.writelines(pieces)
        if not force and os.path.lexists(target):
            raise UsageError(f"{target} exists; --force replaces it")
        os.replace(made, target)
        made = None
    except OSError as exc:
        raise StoreError(f"cannot write {target}: {exc.strerror}") from exc
    finally:
        if made is not None:
            with contextlib.suppress(OSError):
                os.unlink(made)
