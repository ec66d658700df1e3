"""How the memory of a mount is divided."""

from __future__ import annotations

import pytest

from dedupfs.errors import UsageError
from dedupfs.filesystem.memory import DEFAULT_BYTES, LEAST_BYTES, MB, shares_of


@pytest.mark.parametrize("total", [LEAST_BYTES, 300 * MB, DEFAULT_BYTES, 1_000 * MB, 64_000 * MB])
@pytest.mark.parametrize("processors", [1, 2, 8, 256])
@pytest.mark.parametrize("readers", [1, 4])
def test_the_shares_are_no_more_than_the_whole(total: int, processors: int, readers: int) -> None:
    shares = shares_of(total, readers=readers, wanted_workers=processors)
    store = int(1.5 * shares.store.waiting) + shares.store.records + shares.store.plaintexts
    parts = (shares.spools, store, shares.decisions, shares.originals, shares.renditions, shares.jobs)
    assert all(part > 0 for part in parts)
    assert 1 <= shares.workers <= processors
    assert sum(parts) + 12 * MB * (shares.workers + readers) < total


def test_two_phone_photos_are_compared_by_default() -> None:
    """12 megapixels, as JPEGs of one size, one of them progressive, with the search that takes most."""
    assert shares_of(wanted_workers=2).jobs > 23.5 * 12 * MB


def test_more_memory_is_for_larger_pictures() -> None:
    assert shares_of(4_000 * MB).jobs > 6 * shares_of().jobs


def test_too_little_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 256M"):
        shares_of(LEAST_BYTES - 1)
