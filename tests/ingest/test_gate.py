"""The gate: who waits for memory, and for how long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from dedupfs.ingest.gate import Gate


class Customer(threading.Thread):
    """Takes bytes from a gate and keeps them until it is told to leave."""

    def __init__(self, gate: Gate, size_bytes: int, *, hurry: bool = False) -> None:
        super().__init__(daemon=True)
        self.inside, self.leave = threading.Event(), threading.Event()
        self._gate, self._size_bytes, self._hurry = gate, size_bytes, hurry
        before = waiting(gate)
        self.start()
        until(lambda: self.inside.is_set() or waiting(gate) > before)

    def run(self) -> None:
        with self._gate.taken(self._size_bytes, hurry=self._hurry):
            self.inside.set()
            assert self.leave.wait(20)


def waiting(gate: Gate) -> int:
    return len(gate._waiting) + len(gate._hurried)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def end(*customers: Customer) -> None:
    for customer in customers:
        assert customer.inside.wait(20)
        customer.leave.set()
        customer.join(20)


def test_what_fits_goes_in_at_once() -> None:
    gate = Gate(10)
    first, second = Customer(gate, 4), Customer(gate, 6)
    assert first.inside.is_set()
    assert second.inside.is_set()
    end(first, second)


def test_a_large_one_waits_and_no_small_one_passes_it() -> None:
    gate = Gate(10)
    first, large, small = Customer(gate, 4), Customer(gate, 8), Customer(gate, 1)
    assert not large.inside.is_set()
    assert not small.inside.is_set()
    end(first)
    assert large.inside.wait(20)
    assert small.inside.wait(20)
    end(large, small)


def test_a_reader_goes_first() -> None:
    gate = Gate(10)
    first, large, reader = Customer(gate, 8), Customer(gate, 10), Customer(gate, 5, hurry=True)
    assert not reader.inside.is_set()
    end(first)
    assert reader.inside.wait(20)
    assert not large.inside.is_set()
    end(reader, large)


def test_more_than_all_is_all() -> None:
    gate = Gate(10)
    alone = Customer(gate, 1_000)
    assert alone.inside.is_set()
    other = Customer(gate, 1)
    assert not other.inside.is_set()
    end(alone, other)


def test_what_fails_inside_gives_back() -> None:
    gate = Gate(10)
    with pytest.raises(ZeroDivisionError), gate.taken(10):
        raise ZeroDivisionError
    end(Customer(gate, 10))
