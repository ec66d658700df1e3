"""Messages between mount and workers: what is sent arrives, and nothing but plain values can arrive."""

from __future__ import annotations

import io
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedupfs.errors import WorkerError
from dedupfs.ingest import wire
from dedupfs.ingest.facts import PictureFacts
from dedupfs.ingest.outcome import Fit, Misfit
from dedupfs.model import Differences, Fingerprint, PictureFormat, Policy

LEVELS = st.floats(0, 255)
DIFFERENCES = st.builds(Differences, LEVELS, LEVELS, LEVELS, LEVELS, LEVELS)
SCALARS = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | LEVELS | st.text(max_size=20)
VALUES = (
    SCALARS
    | st.binary(max_size=300)
    | st.sampled_from(PictureFormat)
    | st.sampled_from(Policy)
    | st.builds(Misfit, st.text(max_size=10), st.none() | DIFFERENCES, st.text(max_size=9), LEVELS, st.integers(0, 99))
    | st.builds(Fit, st.binary(), st.binary(), DIFFERENCES, st.booleans(), st.binary(), st.binary())
    | st.builds(
        PictureFacts,
        st.sampled_from(PictureFormat),
        st.integers(1, 9999),
        st.integers(1, 9999),
        st.integers(1, 8),
        st.integers(0, 99),
        st.booleans(),
        st.none() | st.binary(min_size=32, max_size=32).map(Fingerprint),
    )
)


def sent(value: object) -> bytes:
    stream = io.BytesIO()
    wire.write(stream, value)
    return stream.getvalue()


@given(st.lists(VALUES, max_size=3))
def test_what_is_sent_arrives(values: list[Any]) -> None:
    stream = io.BytesIO(sent(values) + sent("next"))
    assert wire.read(stream) == values
    assert wire.read(stream) == "next"


@given(st.lists(VALUES, max_size=3), st.data())
def test_a_message_cut_short_is_refused(values: list[Any], data: st.DataObject) -> None:
    message = sent(values)
    with pytest.raises(WorkerError):
        wire.read(io.BytesIO(message[: data.draw(st.integers(0, len(message) - 1))]))


@given(st.lists(VALUES, max_size=2), st.data())
def test_a_damaged_message_is_refused_or_read_as_another(values: list[Any], data: st.DataObject) -> None:
    """Whatever comes, nothing but WorkerError leaves, and no memory is asked for that is not there."""
    message = bytearray(sent(values))
    message[data.draw(st.integers(16, max(16, len(message) - 1))) % len(message)] ^= data.draw(st.integers(1, 255))
    try:
        wire.read(io.BytesIO(bytes(message)))
    except WorkerError:
        return


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        '{"type": "Path", "fields": {}}',
        '{"type": "Fit", "fields": {}}',
        '{"type": "Fit", "fields": [1]}',
        '{"type": "Fit", "fields": {"recipe": 1, "unknown": 2}}',
        '{"type": ["Fit"], "value": 1}',
        '{"type": "Policy", "value": "none"}',
        '{"type": "Policy", "value": []}',
        '{"blob": 0}',
        '{"blob": "0"}',
        "{}",
        "[" * 100_000,
        '"\\ud800',
    ],
)
def test_nonsense_is_refused(text: str) -> None:
    data = text.encode()
    with pytest.raises(WorkerError):
        wire.read(io.BytesIO(struct.pack(">II", len(data), 0) + data))


@pytest.mark.parametrize(
    "head",
    [
        struct.pack(">II", 1 << 31, 0),
        struct.pack(">II", 2, 1 << 31),
        struct.pack(">IIQ", 2, 1, 1 << 62) + b"{}",
        b"",
        b"\0",
    ],
)
def test_a_message_of_absurd_length_is_refused_at_once(head: bytes) -> None:
    with pytest.raises(WorkerError):
        wire.read(io.BytesIO(head))


@pytest.mark.parametrize("value", [object(), {"a": 1}, {1, 2}, 1j])
def test_what_cannot_be_sent_is_said(value: object) -> None:
    stream = io.BytesIO()
    with pytest.raises(TypeError, match="cannot be sent"):
        wire.write(stream, [b"blob", value])
    assert stream.getvalue() == b""


def test_no_pickle_in_a_message() -> None:
    message = sent(Misfit("pixels", None))
    length, count = struct.unpack_from(">II", message)
    assert count == 0
    fields = {"reason": "pixels", "differences": None, "limit": "", "excess": 0.0, "missing_bytes": 0, "note": ""}
    fields["both_ways"] = False
    assert json.loads(message[8 : 8 + length]) == {"type": "Misfit", "fields": fields}
