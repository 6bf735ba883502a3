"""Tracks dealt out again, after a worker died: those that the journal has do not come again."""

from __future__ import annotations

from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pytest

from transforms.journal import commit_segment
from transforms.records import LISTING_COLUMN, Listing, Track
from transforms.spread import AGAIN_METRIC, Finished, Spread, _ReadDoFn

SCHEMA = pa.schema([("uri", pa.string()), (LISTING_COLUMN, pa.int64())])
LISTINGS = (Listing("1", {}), Listing("2", {}))
PLAIN, TWICE = Track("/a", 1, None), Track("/b", 1, None, LISTINGS)
COPIED = Track("/c", 1, None, copies=(Track("/d", 1, None),))
TRACKS = [PLAIN, TWICE, COPIED]


def finish(journal, *listings):
    rows = [{"uri": uri, LISTING_COLUMN: number} for uri, number in listings]
    commit_segment(str(journal), "tracks", rows, SCHEMA)


def spread(journal, tracks=TRACKS):
    """The tracks that come, and the slices that were read again."""
    pipeline = beam.Pipeline()
    found = pipeline | beam.Create(tracks) | Spread("test", str(journal))
    came = journal / "came"
    found | beam.Map(lambda track: track.uri) | beam.io.WriteToText(str(came), num_shards=1)
    result = pipeline.run()
    result.wait_until_finish()
    counters = result.metrics().query(beam.metrics.MetricsFilter().with_name(AGAIN_METRIC))
    (path,) = journal.glob("came*")
    uris = path.read_text().split()
    path.unlink()
    return sorted(uris), sum(counter.committed for counter in counters["counters"])


def test_all_tracks_come_once(tmp_path):
    assert spread(tmp_path) == (["/a", "/b", "/c"], 0)


def test_failures_and_counts_are_no_finished_tracks(tmp_path):
    commit_segment(str(tmp_path), "failures", [{"uri": "/a", LISTING_COLUMN: 0}], SCHEMA)
    assert spread(tmp_path) == (["/a", "/b", "/c"], 0)


def test_tracks_that_are_dealt_out_anew_come_without_the_finished_ones(tmp_path):
    """The slices are new: the machine on which they were written may be gone as well."""
    finish(tmp_path, ("/a", 0), ("/b", 0), ("/b", 1), ("/c", 0))
    assert spread(tmp_path) == (["/c"], 3)  # its copy is not finished
    finish(tmp_path, ("/d", 0))
    assert spread(tmp_path) == ([], 3)


def test_a_slice_that_is_read_again_comes_without_the_finished_ones(tmp_path):
    spread(tmp_path)
    paths = sorted(map(str, Path(tmp_path).glob("slices/*.jsonl")))
    assert len(paths) == len(TRACKS)

    def again():
        do_fn = _ReadDoFn("test", str(tmp_path))
        do_fn.start_bundle()
        return sorted(track.uri for path in paths for track in do_fn.process(path))

    assert again() == ["/a", "/b", "/c"]
    finish(tmp_path, ("/b", 0), ("/b", 1), ("/a", 0))
    assert again() == ["/c"]


@pytest.mark.parametrize(
    ("track", "listings", "finished"),
    [
        (PLAIN, [("/a", 0)], True),
        (PLAIN, [("/a", 1), ("/b", 0)], False),
        (TWICE, [("/b", 0)], False),
        (TWICE, [("/b", 0), ("/b", 1)], True),
        (COPIED, [("/c", 0)], False),
        (COPIED, [("/d", 0)], False),
        (COPIED, [("/c", 0), ("/d", 0)], True),
    ],
)
def test_a_track_is_finished_with_all_its_listings_and_copies(tmp_path, track, listings, finished):
    found = Finished(str(tmp_path))
    found.look()
    assert not found.has(track)
    finish(tmp_path, *listings)
    found.look()
    assert found.has(track) == finished
