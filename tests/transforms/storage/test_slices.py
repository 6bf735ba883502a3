"""Slices of a catalog: every track and every value of a manifest comes back as it was."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import zoneinfo
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.memory_files import CodedError, MemoryFileSystem
from transforms.errors import StorageError
from transforms.journal import commit_count, count_rows, list_segments
from transforms.manifest import read_manifest
from transforms.records import Listing, Track
from transforms.storage.slices import (
    decode,
    encode,
    read_slice,
    slice_size,
    to_line,
    to_track,
    write_slice,
)

UTC = dt.timezone.utc
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
NIGHT = dt.datetime(2024, 10, 27, 0, 30, 0, 1, tzinfo=UTC)  # 02:30 in Berlin, which comes twice
PLAIN = Track("a.mp3")


@pytest.fixture(params=["local", "remote"])
def folder(request, tmp_path, memory_files):
    return str(tmp_path / "slices") if request.param == "local" else "memtest://bucket/slices"


def times(unit, zone=None):
    return pa.array([0, 1_720_000_000, -(10**9), None], pa.timestamp(unit, zone))


COLUMNS = {
    "text": pa.array(["", 'q"uote', "two\nlines\r\u2028\x00", "日本 🎵", "NaN", "null", "\\ud800"]),
    "large text": pa.array(["x" * 100_000], pa.large_string()),
    "whole": pa.array([0, -1, 2**63 - 1, -(2**63)]),
    "unsigned": pa.array([2**64 - 1], pa.uint64()),
    "small": pa.array([-128, 127, None], pa.int8()),
    "yes or no": pa.array([True, False, None]),
    "nothing": pa.nulls(2),
    "float": pa.array([0.1, -0.0, 5e-324, 1.7976931348623157e308, 1e16, 3.0]),
    "no number": pa.array([float("nan"), float("inf"), -float("inf")]),
    "single": pa.array([0.1, 3.4028235e38], pa.float32()),
    "half": pa.array([1.5, 65504.0], pa.float16()),
    "bytes": pa.array([b"", b"\x00\xff", bytes(range(256))]),
    "fixed bytes": pa.array([b"1234"], pa.binary(4)),
    "decimal": pa.array([Decimal("1.50"), Decimal("-0.00"), None], pa.decimal128(38, 2)),
    "wide decimal": pa.array([Decimal("9" * 60)], pa.decimal256(60, 0)),
    "day": pa.array([dt.date(2020, 2, 29), dt.date(1, 1, 1), dt.date(9999, 12, 31)]),
    "day in ms": pa.array([dt.date(1969, 12, 31)], pa.date64()),
    "hour": pa.array([dt.time(23, 59, 59, 999_999), dt.time(0)]),
    "hour in ms": pa.array([dt.time(1, 2, 3, 4_000)], pa.time32("ms")),
    "hour in ns": pa.array([5_000], pa.time64("ns")),
    "moment in s": times("s"),
    "moment in ms": times("ms", "Asia/Kolkata"),
    "moment": times("us"),
    "moment in UTC": times("us", "UTC"),
    "moment with offset": times("us", "-03:30"),
    "first and last": pa.array([dt.datetime.min, dt.datetime.max]),
    "night": pa.array([NIGHT, NIGHT + dt.timedelta(hours=1)], pa.timestamp("us", "Europe/Berlin")),
    "moment in ns": times("ns"),
    "moment in ns and UTC": times("ns", "UTC"),
    "moment in ns and Berlin": times("ns", "Europe/Berlin"),
    "span": pa.array([dt.timedelta(days=-2, microseconds=1), dt.timedelta(days=40_000)]),
    "span in ns": pa.array([-1, 1_001], pa.duration("ns")),
    "list": pa.array([[], [1, None], None]),
    "list of days": pa.array([[dt.date(2020, 1, 1)], [None]]),
    "fixed list": pa.array([[0.5, 1.5]], pa.list_(pa.float32(), 2)),
    "struct": pa.array([{"who": "a", "how": [{"at": NIGHT}]}, {"who": None, "how": None}]),
    "like a kind": pa.array([{"date": "2020-01-01"}, {"tuple": "[1]"}]),
    "map": pa.array([[("a", 1), ("b", None)], []], pa.map_(pa.string(), pa.int64())),
    "words": pa.array(["rock", "pop", "rock"]).dictionary_encode(),
    "uuid": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(range(16))], pa.binary(16))),
}


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)
def test_every_type_of_a_manifest_survives(column, tmp_path):
    manifest = str(tmp_path / "m.parquet")
    uris = [f"{number}.mp3" for number in range(len(column))]
    pq.write_table(pa.table({"uri": uris, "c": column}), manifest)
    tracks = [Track(uri, listings=(listing,)) for uri, listing in read_manifest(manifest)]
    found = list(read_slice(write_slice(str(tmp_path), tracks)))
    assert repr(found) == repr(tracks)  # tells NaN, -0.0, and a time zone from another
    values = [track.listings[0].columns["c"] for track in (*found, *tracks)]
    half = len(column)
    assert list(map(type, values[:half])) == list(map(type, values[half:]))
    assert [track.uri for track in found] == [f"{tmp_path}/{uri}" for uri in uris]


def test_the_types_are_those_that_the_test_means(tmp_path):
    """Arrow might read its own types back as others."""
    kinds = ("moment in ns", "map", "uuid", "span in ns", "words")
    table = pa.table({name: COLUMNS[name].slice(0, 1) for name in kinds} | {"uri": ["a"]})
    pq.write_table(table, tmp_path / "m.parquet")
    ((_, listing),) = read_manifest(str(tmp_path / "m.parquet"))
    assert [type(listing.columns[name]).__name__ for name in kinds] == [
        "Timestamp", "list", "UUID", "Timedelta", "str",
    ]  # fmt: skip
    assert listing.columns["map"] == [("a", 1), ("b", None)]


def test_nanoseconds_are_kept():
    moment = pa.scalar(1_720_000_000_000_000_001, pa.timestamp("ns", "UTC")).as_py()
    assert encode(moment) == {"timestamp": [1_720_000_000_000_000_001, "ns", "UTC"]}
    assert decode(encode(moment)).value == 1_720_000_000_000_000_001


def test_an_interval_of_arrow():
    interval = pa.MonthDayNano([1, -2, 3])
    found = decode(json.loads(json.dumps(encode([interval]))))
    assert found == [interval]
    assert type(found[0]) is pa.MonthDayNano


SPAN = dt.timedelta(days=100_000_000)  # what Arrow's durations can hold
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.dates()
    | st.times().map(lambda time: time.replace(fold=0))  # nor have Arrow's times a fold
    | st.datetimes().map(lambda moment: moment.replace(fold=0))
    | st.datetimes(
        min_value=dt.datetime(1900, 1, 1),
        timezones=st.sampled_from([UTC, BERLIN]),
        allow_imaginary=False,
    )
    | st.timedeltas(-SPAN, SPAN)
    | st.decimals()
    | st.uuids(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner)
    ),
    max_leaves=10,
)


@given(VALUES)
def test_any_value_survives(value):
    found = decode(json.loads(json.dumps(encode(value))))
    assert normal(found) == normal(value)


def normal(value):
    """Text that tells values and types apart, but not the two spellings of UTC."""
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [normal(item) for item in value]
    if isinstance(value, dict):
        return [(normal(name), normal(item)) for name, item in value.items()]
    if isinstance(value, dt.datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).isoformat(), value.isoformat()
    return repr(value)


@pytest.mark.parametrize("value", [object(), {1}, 1j, [object()], {"a": {1}}])
def test_a_value_of_no_manifest_is_refused(value):
    with pytest.raises(TypeError, match="a column of a manifest holds a"):
        to_line(Track("a", listings=(Listing(None, {"c": value}),)))


TRACKS = [
    PLAIN,
    Track("/ü 日本/🎵 'a\".mp3", 2**40, NIGHT, (Listing("é/2", {"day": dt.date(2020, 1, 2)}),)),
    Track("b", 0, dt.datetime(1969, 12, 31, tzinfo=UTC), (Listing("1"), Listing("2", {"x": None}))),
    Track("c", 5, NIGHT, copies=(Track("d", 5, None, (Listing("3"),)), Track("e", 5, NIGHT))),
]


def test_tracks_survive_in_their_order(folder):
    path = write_slice(folder, TRACKS)
    assert path.startswith(f"{folder}/")
    assert list(read_slice(path)) == TRACKS
    assert list(read_slice(path)) == TRACKS  # a cluster may repeat a bundle


def test_a_slice_is_read_as_it_is_asked_for(folder):
    tracks = read_slice(write_slice(folder, TRACKS))
    assert next(tracks) == PLAIN
    assert next(tracks) == TRACKS[1]


def test_lines_are_plain_text():
    line = to_line(TRACKS[1])
    assert line.isascii()
    assert "\n" not in line
    assert to_track(line.encode()) == TRACKS[1]
    assert json.loads(line)[3] == [["é/2", {"day": {"date": "2020-01-02"}}]]


def test_slices_have_names_of_their_own_and_are_no_segments(tmp_path):
    folder = str(tmp_path)
    commit_count(folder, "listed", 3)
    before = list_segments(folder)
    paths = {write_slice(folder, [PLAIN]) for _ in range(5)}
    assert len(paths) == 5
    assert list_segments(folder) == before
    assert count_rows(folder) == {"listed": 3}


# Sizes


def sizes(tracks):
    """The sizes of a bundle's slices."""
    found = []
    while (left := tracks - sum(found)) > 0:
        found.append(min(left, slice_size(sum(found))))
    return found


def test_slices_grow_from_one_track_to_a_thousand():
    assert sizes(60) == [1] * 60
    million = sizes(500_000)
    assert sum(million) == 500_000
    assert million[:-1] == sorted(million[:-1])
    assert max(million) == 1_000
    assert 2 * len(million) < 3_000  # a million tracks on two workers


@pytest.mark.parametrize("workers", [2, 5, 16])
@pytest.mark.parametrize("tracks", [1_000, 5_000, 100_000])
def test_workers_get_about_the_same(tracks, workers):
    """Each worker writes the slices of its part; all slices are dealt out like cards."""
    part = tracks // workers
    dealt = list(itertools.chain.from_iterable(sizes(part + worker) for worker in range(workers)))
    shares = [sum(dealt[worker::workers]) for worker in range(workers)]
    assert max(shares) < 1.1 * sum(shares) / workers


# Faults


def test_a_slice_that_cannot_be_written(tmp_path, memory_files, no_waiting):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be written"):
        write_slice(f"{tmp_path}/file/slices", [PLAIN])
    MemoryFileSystem.stops.append(CodedError(403))
    with pytest.raises(StorageError, match="status 403"):
        write_slice("memtest://bucket", [PLAIN])
    assert memory_files == {}


def test_a_slice_that_is_not_there(folder):
    with pytest.raises(StorageError, match=r"slice-1\.jsonl cannot be read: .*start the run again"):
        next(read_slice(f"{folder}/slice-1.jsonl"))


def test_a_slice_that_may_not_be_read(memory_files, no_waiting):
    path = write_slice("memtest://bucket", TRACKS)
    MemoryFileSystem.stops.append(CodedError(403))
    with pytest.raises(StorageError, match="cannot be read: status 403"):
        next(read_slice(path))
    MemoryFileSystem.stops.append(CodedError(503))
    assert list(read_slice(path)) == TRACKS
    assert len(no_waiting.slept) == 1


@pytest.mark.parametrize("damage", [b"[1, 2", b"\xff\xfe\x00", b"[]", b"[1, 2]\n"])
def test_a_damaged_slice(tmp_path, damage):
    path = tmp_path / "slice.jsonl"
    path.write_bytes(f"{to_line(PLAIN)}\n".encode() + damage)
    tracks = read_slice(str(path))
    assert next(tracks) == PLAIN
    with pytest.raises(StorageError, match="cannot be read"):
        next(tracks)


def test_what_is_no_fault_of_storage_passes(tmp_path, monkeypatch):
    monkeypatch.setattr("transforms.storage.slices.read_file", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(read_slice(f"{tmp_path}/a"))
