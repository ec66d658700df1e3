"""Messages between the mount and its worker processes: plain values and bytes, never pickles.

A worker reads hostile pictures, so what it sends back is not trusted either: only scalars, bytes, the dataclasses and
the enums registered here can come out of a message. Layout: length of the JSON part (4), number of blobs (4), length of
each blob (8 each), JSON part, blobs; big-endian. A byte string stands in the JSON part as the number of its blob.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import struct
from collections.abc import Sequence
from typing import Any, BinaryIO

from dedupfs.errors import WorkerError
from dedupfs.ingest.facts import PictureFacts
from dedupfs.ingest.outcome import Fit, Misfit
from dedupfs.model import Differences, PictureFormat, Policy

_HEAD = struct.Struct(">II")
_BLOB_LENGTH = struct.Struct(">Q")
_MAX_JSON_BYTES = 16 << 20
_MAX_BLOBS = 16
_MAX_BLOB_BYTES = 1 << 30

_TYPES: dict[str, Any] = {
    kind.__name__: kind for kind in (PictureFacts, Fit, Misfit, Differences, PictureFormat, Policy)
}


def write(stream: BinaryIO, value: object) -> None:
    """Write one message. Raises OSError when nobody reads."""
    blobs: list[bytes] = []
    text = json.dumps(_flatten(value, blobs)).encode()
    lengths = b"".join(_BLOB_LENGTH.pack(len(blob)) for blob in blobs)
    stream.write(_HEAD.pack(len(text), len(blobs)) + lengths + text)
    stream.writelines(blobs)
    stream.flush()


def read(stream: BinaryIO) -> Any:
    """Read one message. Raises WorkerError for an end of the stream and for anything that is no message."""
    text_length, count = _HEAD.unpack(_exactly(stream, _HEAD.size))
    if text_length > _MAX_JSON_BYTES or count > _MAX_BLOBS:
        raise WorkerError("a message between mount and worker is too long")
    lengths = [_BLOB_LENGTH.unpack(_exactly(stream, _BLOB_LENGTH.size))[0] for _ in range(count)]
    if sum(lengths) > _MAX_BLOB_BYTES:
        raise WorkerError("a message between mount and worker is too long")
    text = _exactly(stream, text_length)
    blobs = [_exactly(stream, length) for length in lengths]
    try:
        return _rebuild(json.loads(text), blobs)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as exc:
        raise WorkerError("a message between mount and worker makes no sense") from exc


def _flatten(value: object, blobs: list[bytes]) -> object:
    if value is None or (isinstance(value, (bool, int, float, str)) and not isinstance(value, enum.Enum)):
        return value
    if isinstance(value, (bytes, bytearray)):
        blobs.append(bytes(value))
        return {"blob": len(blobs) - 1}
    if isinstance(value, enum.Enum):
        return {"type": type(value).__name__, "value": value.value}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _flatten(getattr(value, field.name), blobs) for field in dataclasses.fields(value)}
        return {"type": type(value).__name__, "fields": fields}
    if isinstance(value, (list, tuple)):
        return [_flatten(item, blobs) for item in value]
    raise TypeError(f"{type(value).__name__} cannot be sent")


def _rebuild(value: Any, blobs: Sequence[bytes]) -> Any:
    if isinstance(value, list):
        return [_rebuild(item, blobs) for item in value]
    if not isinstance(value, dict):
        return value
    if "blob" in value:
        return blobs[value["blob"]]
    kind = _TYPES[value["type"]]
    if "value" in value:
        return kind(value["value"])
    return kind(**{name: _rebuild(item, blobs) for name, item in value["fields"].items()})


def _exactly(stream: BinaryIO, length: int) -> bytes:
    data = stream.read(length)
    if len(data) != length:
        raise WorkerError("the worker process ended")
    return data
