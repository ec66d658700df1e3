"""A store does what a dictionary does, whatever is committed, fails, is rolled back or opened again in between."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dedupfs.crypto.keys import Keyring
from dedupfs.errors import StoreError
from dedupfs.storage import records
from dedupfs.storage.records import BANDS, ENTRIES, INODES, Table
from dedupfs.storage.store import Store
from tests.storage.engines import FaultyEngine, MemoryEngine

Model = dict[tuple[str, bytes], bytes]

tables = st.sampled_from([INODES, ENTRIES, BANDS])
keys = st.builds(
    lambda group, rest: group + rest,
    st.sampled_from([b"group  1", b"group  2"]),
    st.sampled_from("abc").map(str.encode),
)
values = st.none() | st.binary(min_size=1, max_size=4)
changes = st.lists(st.tuples(tables, keys, values), max_size=4)


class StoreAgainstDictionary(RuleBasedStateMachine):
    """`now` is what a reader must see, `durable` what a crash must leave."""

    @initialize()
    def open(self) -> None:
        self.engine = FaultyEngine(MemoryEngine(table.name for table in records.TABLES))
        self.now: Model = {}
        self.durable: Model = {}
        self.files = self.durable_files = 0
        self._open()

    def _open(self) -> None:
        self.store = Store(self.engine, Keyring(bytes(32)), group_seconds=3600)

    @rule(wanted=changes, raises=st.booleans())
    def transact(self, wanted: list[tuple[Table, bytes, bytes | None]], raises: bool) -> None:
        after = dict(self.now)
        try:
            with self.store.transaction() as transaction:
                for table, key, value in wanted:
                    if value is None:
                        transaction.delete(table, key)
                        after.pop((table.name, key), None)
                    else:
                        transaction.put(table, key, value)
                        after[table.name, key] = value
                    assert self.store.get(table, key) == value
                    compare(self.store, after)
                transaction.count("files", len(wanted))
                if raises:
                    raise RuntimeError
        except RuntimeError:
            return
        self.now = after
        self.files += len(wanted)

    @rule(table=tables, key=keys)
    def get(self, table: Table, key: bytes) -> None:
        assert self.store.get(table, key) == self.now.get((table.name, key))

    @rule()
    def commit(self) -> None:
        if self.engine.failure is not None:
            before = self.store.waiting_bytes
            if before:
                with pytest.raises(StoreError):
                    self.store.commit()
            return
        self.store.commit()
        self.durable, self.durable_files = dict(self.now), self.files

    @rule()
    def break_engine(self) -> None:
        self.engine.failure = StoreError("broken")

    @rule()
    def repair_engine(self) -> None:
        self.engine.failure = None

    @rule()
    def close_and_open(self) -> None:
        self.engine.failure = None
        self.store.close()
        self.durable, self.durable_files = dict(self.now), self.files
        self._open()

    @precondition(lambda self: hasattr(self, "store"))
    @rule()
    def crash(self) -> None:
        self._abandon()
        self.now, self.files = dict(self.durable), self.durable_files
        self._open()

    def _abandon(self) -> None:
        """End the store's thread without letting it write anything."""
        failure, self.engine.failure = self.engine.failure, StoreError("gone")
        with contextlib.suppress(StoreError):
            self.store.close()
        self.engine.failure = failure

    @invariant()
    def agrees(self) -> None:
        compare(self.store, self.now)
        assert self.store.counters.get("files", 0) == self.files
        left = Store(self.engine, Keyring(bytes(32)), read_only=True)
        compare(left, self.durable)
        assert left.counters.get("files", 0) == self.durable_files

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self._abandon()


def compare(store: Store, model: Model) -> None:
    for table in (INODES, ENTRIES, BANDS):
        expected = sorted((key, value) for (name, key), value in model.items() if name == table.name)
        assert store.scan(table) == expected
        assert store.keys(table) == [key for key, _ in expected]
    for group in (b"group  1", b"group  2"):
        expected = sorted(
            (key, value) for (name, key), value in model.items() if name == "entries" and key[:8] == group
        )
        assert store.scan(ENTRIES, group) == expected


TestStoreAgainstDictionary = StoreAgainstDictionary.TestCase
TestStoreAgainstDictionary.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)
