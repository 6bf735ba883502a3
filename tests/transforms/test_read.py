"""ReadFiles: mentions merged to tracks, counted, and dealt out to the workers."""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
import json
import os
from decimal import Decimal
from functools import partial
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.testing.util import assert_that, equal_to

from tests.files import touch
from transforms import mentions, read, spread
from transforms.books import to_books
from transforms.errors import Reason, StorageError
from transforms.journal import count_rows
from transforms.manifest import read_manifest
from transforms.read import ReadFiles
from transforms.records import Listing, Track

COLLECTED: dict[str, list] = {}  # FnApiRunner runs in this process


def collect(name, item):
    COLLECTED[name].append(item)


def read_all(inputs, **options):
    """Tracks, failures, counts and the duplicates' counter of ReadFiles."""
    COLLECTED.update(tracks=[], failures=[], counts=[])
    pipeline = beam.Pipeline(runner="FnApiRunner")
    outputs = pipeline | beam.Create(inputs) | ReadFiles(**options)
    for name in COLLECTED:
        outputs[name] | name >> beam.Map(partial(collect, name))
    result = pipeline.run()
    result.wait_until_finish()
    counters = result.metrics().query(MetricsFilter().with_name(read.DUPLICATES_METRIC))["counters"]
    return (
        COLLECTED["tracks"],
        COLLECTED["failures"],
        to_books(COLLECTED["counts"]),
        sum(c.result for c in counters),
    )


def track(path, *listings, size=5, seconds=1_700_000_000) -> Track:
    """A track as it is listed where :func:`touch` made its file."""
    modified_at = dt.datetime.fromtimestamp(seconds, dt.timezone.utc)
    return Track(str(path), size, modified_at, listings or (Listing(),))


def test_readfiles_as_a_transform(tmp_path):
    touch(tmp_path, "x.mp3")
    (tmp_path / "y.mp3").write_bytes(b"another size")
    os.utime(tmp_path / "y.mp3", (1, 1))
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        outputs = pipeline | beam.Create([str(tmp_path)]) | ReadFiles()
        expected = [track(tmp_path / "x.mp3"), track(tmp_path / "y.mp3", size=12, seconds=1)]
        assert_that(outputs["tracks"], equal_to(expected), "tracks")
        assert_that(outputs["failures"], equal_to([]), "failures")
        assert_that(outputs["counts"] | beam.CombinePerKey(sum), equal_to([(("listed", ""), 2)]))


def test_a_name_that_is_not_utf8_becomes_a_failure(tmp_path):
    raw = os.fsencode(tmp_path) + b"/caf\xe9.mp3"
    try:
        with open(raw, "wb") as file:
            file.write(b"x")
    except OSError:
        pytest.skip("this file system refuses such names")
    touch(tmp_path, "good.mp3")
    tracks, failures, books, _ = read_all([str(tmp_path)])
    assert tracks == [track(tmp_path / "good.mp3")]
    (failure,) = failures
    assert (failure.stage, failure.reason) == ("ReadFiles", Reason.UNREADABLE)
    assert failure.track.uri == f"{tmp_path}/caf\\udce9.mp3"
    assert failure.track.size_bytes == 1
    assert "UTF-8" in failure.message
    failure.track.uri.encode("utf-8")
    assert (books.listed, books.skipped) == (2, 0)


@pytest.fixture
def overlapping(tmp_path):
    """Inputs that name x.mp3 seven times, and what must come of it."""
    touch(tmp_path, "x.mp3", "y.mp3")
    (tmp_path / "y.mp3").write_bytes(b"1234567")
    os.utime(tmp_path / "y.mp3", (1_700_000_000, 1_700_000_000))
    rows = ["x.mp3,1,rock", "x.mp3,2,rock", "x.mp3,1,rock", "x.mp3,1,pop"]
    (tmp_path / "one.csv").write_text("\n".join(["uri,track_id,mood", *rows]) + "\n")
    (tmp_path / "two.csv").write_text(f"uri,track_id,mood\n{tmp_path}/x.mp3,1,rock\n")
    inputs = [
        f"{tmp_path}/*.mp3",
        f"{tmp_path}/x.mp3",
        f"{tmp_path}/one.csv",
        f"{tmp_path}/two.csv",
    ]
    listings = (
        Listing("1", {"mood": "pop"}),
        Listing("1", {"mood": "rock"}),
        Listing("2", {"mood": "rock"}),
    )
    return inputs, [track(tmp_path / "x.mp3", *listings), track(tmp_path / "y.mp3", size=7)]


def by_uri(tracks):
    return sorted(tracks, key=lambda one: one.uri)


def test_a_file_named_by_several_inputs_is_one_track(overlapping):
    inputs, expected = overlapping
    tracks, failures, books, duplicates = read_all(inputs)
    assert by_uri(tracks) == expected
    assert failures == []
    assert (books.listed, duplicates) == (4, 4)  # seven mentions of x.mp3, three listings


def test_the_order_of_inputs_does_not_matter(overlapping):
    inputs, expected = overlapping
    orders = list(itertools.permutations(inputs))
    for order in (orders[7], orders[-1]):
        assert by_uri(read_all(list(order))[0]) == expected


def test_plain_duplicates_collapse(tmp_path):
    touch(tmp_path, "x.mp3")
    inputs = [str(tmp_path), str(tmp_path), f"{tmp_path}/*.mp3"]
    tracks, _, books, duplicates = read_all(inputs)
    assert tracks == [track(tmp_path / "x.mp3")]
    assert (books.listed, duplicates) == (1, 2)


def test_a_row_without_a_uri_keeps_its_listing_under_its_row_number(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("uri,track_id\na.mp3,1\n,2\n,3\n")
    tracks, failures, books, _ = read_all([str(path)])
    assert failures == []
    assert {t.uri: (t.size_bytes, t.modified_at, t.listings) for t in tracks} == {
        f"{tmp_path}/a.mp3": (None, None, (Listing("1"),)),
        f"{path}#row=2": (None, None, (Listing("2"),)),
        f"{path}#row=3": (None, None, (Listing("3"),)),
    }
    assert books.listed == 3


def test_root_is_for_relative_uris_of_manifests_alone(tmp_path):
    (tmp_path / "m.csv").write_text("uri\na.mp3\n/abs/b.mp3\nnosuch://bucket/c.mp3\n")
    tracks, _, _, _ = read_all([f"{tmp_path}/m.csv"], root="/music")
    uris = sorted(one.uri for one in tracks)
    assert uris == ["/abs/b.mp3", "/music/a.mp3", "nosuch://bucket/c.mp3"]


def test_a_manifests_rows_on_an_object_store_are_looked_up(tmp_path, memory_files):
    rows = [f"memtest://bucket/{number}.mp3" for number in range(40)]
    memory_files |= {uri: b"x" * (number + 1) for number, uri in enumerate(rows[:-1])}
    (tmp_path / "m.csv").write_text("\n".join(["uri", *rows]) + "\n")
    tracks, _, _, _ = read_all([f"{tmp_path}/m.csv"])
    assert {one.uri: one.size_bytes for one in tracks} == {
        uri: len(memory_files[uri]) if uri in memory_files else None for uri in rows
    }


def test_many_files_of_one_size_are_listed_once_each(tmp_path):
    """More than one chunk, all in one bucket."""
    names = [f"{number:03}.mp3" for number in range(150)]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(number.to_bytes(4, "big"))
    tracks, _, books, duplicates = read_all([str(tmp_path)])
    assert sorted(os.path.basename(one.uri) for one in tracks) == names
    assert (books.listed, duplicates) == (150, 0)


def test_a_file_that_grows_between_two_inputs_is_one_track(tmp_path, monkeypatch):
    touch(tmp_path, "a.mp3")
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"uri,track_id\n{tmp_path / 'a.mp3'},7\n")
    look_up = mentions.look_up
    monkeypatch.setattr(
        mentions, "look_up", lambda path: dataclasses.replace(look_up(path), size_bytes=9_999)
    )
    read_all([str(tmp_path / "*.mp3"), str(manifest)])
    (track,) = COLLECTED["tracks"]
    assert [listing.track_id for listing in track.listings] == ["7"]
    assert to_books(COLLECTED["counts"]).listed == 1


# Slices: what a run with a journal does with its tracks


def lines(journal) -> list[list[str]]:
    """The lines of each slice in a journal."""
    return [path.read_text().splitlines() for path in Path(journal, "slices").glob("*.jsonl")]


def test_tracks_that_go_through_slices_are_the_same(overlapping, tmp_path):
    inputs, expected = overlapping
    (tmp_path / "z.mp3").write_bytes((tmp_path / "y.mp3").read_bytes())
    os.utime(tmp_path / "z.mp3", (1_700_000_000, 1_700_000_000))
    without = read_all(inputs)
    journal = f"{tmp_path}/journal"
    tracks, failures, books, duplicates = read_all(inputs, journal=journal)
    assert by_uri(tracks) == by_uri(without[0])
    assert (failures, books, duplicates) == ([], *without[2:])
    assert by_uri(tracks)[0] == expected[0]
    assert by_uri(tracks)[1].copies == (track(tmp_path / "z.mp3", size=7),)
    assert [len(found) for found in lines(journal)] == [1, 1]
    assert count_rows(journal) == {"listed": 5}


@pytest.mark.parametrize("size", [lambda _: 5, lambda number: number], ids=["one", "many"])
def test_each_of_many_files_is_in_one_slice(tmp_path, size):
    """More than a chunk, of one size or of sizes of their own."""
    (tmp_path / "music").mkdir()
    for number in range(400):
        content = number.to_bytes(4, "big").ljust(size(number), b"x")
        (tmp_path / "music" / f"{number:03}.mp3").write_bytes(content)
    journal = f"{tmp_path}/journal"
    tracks, _, books, duplicates = read_all([f"{tmp_path}/music"], journal=journal)
    expected = sorted(str(path) for path in (tmp_path / "music").iterdir())
    assert [one.uri for one in by_uri(tracks)] == expected
    assert (books.listed, duplicates) == (400, 0)
    found = lines(journal)
    assert sorted(json.loads(line)[0] for line in itertools.chain(*found)) == expected
    assert 256 < len(found) < 400
    assert max(map(len, found)) <= 400 // 128


def test_columns_of_all_types_reach_the_tracks(tmp_path):
    columns = {
        "day": [dt.date(2020, 2, 29), None],
        "at": pa.array([1, 2], pa.timestamp("ns", "Europe/Berlin")),
        "price": [Decimal("1.50"), Decimal("-0.25")],
        "pairs": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
        "credits": [[{"who": "a", "parts": [1, 2]}], None],
    }
    path = f"{tmp_path}/m.parquet"
    pq.write_table(pa.table({"uri": ["a.mp3", "b.mp3"], **columns}), path)
    tracks, _, _, _ = read_all([path], journal=f"{tmp_path}/journal")
    found = [one.listings[0] for one in by_uri(tracks)]
    assert repr(found) == repr([listing for _, listing in read_manifest(path)])


def test_a_journal_on_an_object_store(tmp_path, memory_files):
    touch(tmp_path, "x.mp3", "y.mp3")
    tracks, _, _, _ = read_all([str(tmp_path)], journal="memtest://bucket/journal/1")
    assert [member.uri for one in tracks for member in one.members] == [
        f"{tmp_path}/x.mp3",
        f"{tmp_path}/y.mp3",
    ]
    (path,) = (path for path in memory_files if path.endswith(".jsonl"))
    assert memory_files[path].count(b"\n") == 1  # the two are copies


def test_a_slice_that_goes_missing_stops_the_run(tmp_path, monkeypatch):
    touch(tmp_path, "x.mp3")
    write = spread.write_slice

    def write_and_lose(folder, tracks):
        path = write(folder, tracks)
        Path(path).unlink()
        return path

    monkeypatch.setattr(spread, "write_slice", write_and_lose)
    with pytest.raises(StorageError, match=r"slice-.* cannot be read"):
        read_all([str(tmp_path)], journal=f"{tmp_path}/journal")


def test_a_slice_that_cannot_be_written_stops_the_run(tmp_path):
    touch(tmp_path, "music/x.mp3", "journal/slices")
    with pytest.raises(StorageError, match="cannot be written"):
        read_all([f"{tmp_path}/music"], journal=f"{tmp_path}/journal")


def test_files_of_unknown_sizes_do_not_meet(tmp_path, monkeypatch):
    """They are no copies; on some object stores they are the whole catalog."""
    rows = [f"nosuch://bucket/{number}.mp3" for number in range(300)]
    (tmp_path / "m.csv").write_text("\n".join(["uri", *rows]) + "\n")
    met = []

    def spy(tracks):
        held = list(tracks)
        met.append(len(held))
        return mentions.with_copies(held)

    monkeypatch.setattr(read, "with_copies", spy)
    tracks, _, _, _ = read_all([f"{tmp_path}/m.csv"])
    assert sorted(one.uri for one in tracks) == sorted(rows)
    assert len(met) > 100
