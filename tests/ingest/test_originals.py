"""Originals stay within their bound, and the latest stay."""

from __future__ import annotations

from dedupfs.ingest.originals import Originals
from dedupfs.model import ContentId


def content(number: int) -> ContentId:
    return ContentId(bytes([number]) * 32)


def test_the_latest_are_kept() -> None:
    originals = Originals(limit_bytes=100)
    for number in range(5):
        originals.put(content(number), bytes([number]) * 40)
    assert [number for number in range(5) if originals.get(content(number)) is not None] == [3, 4]
    assert originals.get(content(4)) == bytes([4]) * 40


def test_a_content_counts_once() -> None:
    originals = Originals(limit_bytes=100)
    originals.put(content(1), bytes(40))
    for _ in range(3):
        originals.put(content(2), bytes(40))
    assert originals.get(content(1)) is not None


def test_what_is_larger_than_the_bound_is_not_kept() -> None:
    originals = Originals(limit_bytes=100)
    originals.put(content(1), bytes(101))
    originals.put(content(2), bytes(10))
    assert originals.get(content(1)) is None
    assert originals.get(content(2)) is not None
