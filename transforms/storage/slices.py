"""Slices of a catalog: files of tracks, so that only their names cross a shuffle.

Runners may keep what crosses a shuffle in memory until the run ends. A slice holds one track per
line, as JSON, and lies in the run's journal, with which it is removed. What is no JSON is an
object whose one key says its kind, ``{"date": "2020-02-29"}``: every value of a manifest comes
back as it was, and nothing in a file is executed.
"""

from __future__ import annotations

import base64
import datetime as dt
import io
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa

from transforms.errors import StorageError
from transforms.records import Listing, Track
from transforms.storage.durable import commit, mark, read_file
from transforms.storage.known import microseconds
from transforms.storage.retry import is_storage_error

_MAX_TRACKS = 1_000  # of a slice: a million tracks are some thousand objects in a store
_GROWTH = 128

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
_NAIVE_EPOCH = dt.datetime(1970, 1, 1)
_MICROSECOND = dt.timedelta(microseconds=1)
_JSON_TYPES = frozenset({type(None), bool, int, float, str})  # themselves, not their subclasses


def slice_size(tracks_before: int) -> int:
    """How many tracks the next slice has: a small part of those before it, 1 to 1,000.

    Slices are dealt out to workers like cards. As each is small, workers get about the same, and
    small catalogs spread over all of them.
    """
    return min(_MAX_TRACKS, max(1, tracks_before // _GROWTH))


def write_slice(folder: str, tracks: Sequence[Track]) -> str:
    """Write tracks to a new file in ``folder``.

    Returns
    -------
    str
        The file's path.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    path = f"{folder}/slice-{len(tracks):06d}-{uuid.uuid4().hex}.jsonl"
    commit(path, "".join(f"{to_line(track)}\n" for track in tracks).encode())
    return path


def read_slice(path: str) -> Iterator[Track]:
    """Yield the tracks of a slice, in their order.

    Raises
    ------
    StorageError
        If it cannot be read.
    """
    try:
        content = read_file(path)
    except Exception as error:
        if not is_storage_error(error):
            raise
        raise _unreadable(path, error) from error
    for line in io.BytesIO(content):
        try:
            track = to_track(line)
        except ValueError as error:
            raise _unreadable(path, error) from error
        yield track


def begin_slice(path: str) -> bool:
    """Leave a mark that a slice is in work; False if a worker has begun with it before.

    Raises
    ------
    StorageError
        If the mark cannot be written.
    """
    return mark(f"{path}.begun")


def _unreadable(path: str, error: Exception) -> StorageError:
    told = str(error) or type(error).__name__
    return StorageError(f"{path} cannot be read: {told}; start the run again to go on")


def to_line(track: Track) -> str:
    """A track as one line of JSON, in ASCII.

    Raises
    ------
    TypeError
        If a column's value is of a type that no manifest gives.
    """
    return json.dumps(_to_json(track))


def to_track(line: str | bytes) -> Track:
    """The track that :func:`to_line` made a line of."""
    return _from_json(json.loads(line))


def _to_json(track: Track) -> list[Any]:
    listings = [
        [item.track_id, {name: encode(value) for name, value in item.columns.items()}]
        for item in track.listings
    ]
    copies = [_to_json(copy) for copy in track.copies]
    return [track.uri, track.size_bytes, microseconds(track.modified_at), listings, copies]


def _from_json(fields: list[Any]) -> Track:
    uri, size_bytes, modified_us, listings, copies = fields
    return Track(
        uri,
        size_bytes,
        None if modified_us is None else _EPOCH + modified_us * _MICROSECOND,
        tuple(
            Listing(track_id, {name: decode(value) for name, value in columns.items()})
            for track_id, columns in listings
        ),
        tuple(map(_from_json, copies)),
    )


def encode(value: Any) -> Any:
    """A value of a manifest as JSON; what is no JSON as ``{kind: JSON}``.

    Raises
    ------
    TypeError
        If no manifest gives values of its type.
    """
    if type(value) in _JSON_TYPES:
        return value
    if type(value) is list:
        return [encode(item) for item in value]
    return dict([_kind_and_json(value)])


def decode(value: Any) -> Any:
    """The value that :func:`encode` was given."""
    if type(value) is list:
        return [decode(item) for item in value]
    if type(value) is dict:
        ((kind, content),) = value.items()
        return _DECODERS[kind](content)
    return value


def _kind_and_json(value: Any) -> tuple[str, Any]:
    match value:
        case dict():  # as pairs: the keys may be like a kind
            return "dict", [[name, encode(item)] for name, item in value.items()]
        case pa.MonthDayNano():
            return "interval", list(value)
        case tuple():
            return "tuple", [encode(item) for item in value]
        case bytes():
            return "bytes", base64.b64encode(value).decode()
        case dt.datetime():  # which is a date as well
            return "timestamp", _timestamp(value)
        case dt.timedelta():
            return "duration", _duration(value)
        case dt.date() | dt.time():
            return type(value).__name__, value.isoformat()
        case Decimal():
            return "decimal", str(value)
        case uuid.UUID():
            return "uuid", value.hex
    raise TypeError(f"a column of a manifest holds a {type(value).__name__}: {value!r}")


def _timestamp(value: dt.datetime) -> list[Any]:
    """Number since 1970, its unit, time zone."""
    zone = None if value.tzinfo is None else pa.lib.tzinfo_to_string(value.tzinfo)
    if (nanoseconds := _nanoseconds(value)) is not None:
        return [nanoseconds, "ns", zone]
    epoch = _NAIVE_EPOCH if value.tzinfo is None else _EPOCH
    return [(value - epoch) // _MICROSECOND, "us", zone]


def _duration(value: dt.timedelta) -> list[Any]:
    if (nanoseconds := _nanoseconds(value)) is not None:
        return [nanoseconds, "ns"]
    return [value // _MICROSECOND, "us"]


def _nanoseconds(value: dt.datetime | dt.timedelta) -> int | None:
    """Of the kinds of pandas, which Arrow gives for times in nanoseconds; None of Python's own."""
    return getattr(value, "value", None)


def _arrow_value(number: int, kind: pa.DataType) -> Any:
    """As it came out of the manifest, of the same class and time zone."""
    return pa.scalar(number, kind).as_py()


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "dict": lambda pairs: {name: decode(item) for name, item in pairs},
    "interval": pa.MonthDayNano,
    "tuple": lambda items: tuple(map(decode, items)),
    "bytes": base64.b64decode,
    "timestamp": lambda parts: _arrow_value(parts[0], pa.timestamp(*parts[1:])),
    "duration": lambda parts: _arrow_value(parts[0], pa.duration(*parts[1:])),
    "date": dt.date.fromisoformat,
    "time": dt.time.fromisoformat,
    "decimal": Decimal,
    "uuid": uuid.UUID,
}
