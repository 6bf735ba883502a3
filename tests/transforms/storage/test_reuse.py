"""Rows of equal bytes: filled in from earlier runs, under their own names."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tests.rows import (
    MODIFIED,
    PREDICTIONS,
    PROVENANCE,
    failed_rows,
    labelled_rows,
    segment,
    track,
)
from transforms.journal import commit_segment
from transforms.records import KnownContent, Listing, Track, journal_schema
from transforms.storage.dataset import Target
from transforms.storage.extras import EXTRA_COLUMNS, EXTRAS, with_extras
from transforms.storage.publish import publish, publish_journal
from transforms.storage.reuse import copy_rows

EMBEDDED = with_extras(PREDICTIONS, {"embeddings"})
OF_FILE = ("uri", "track_id", "size_bytes", "modified_at", "run_id", "labelled_at")


@pytest.fixture
def target(tmp_path) -> Target:
    """Where the second run goes; the first has labelled a.mp3 (c0ffee) and b.mp3 (beef)."""
    rows = labelled_rows("a.mp3", 3, run_id="run-1")
    rows += labelled_rows("b.mp3", 2, run_id="run-1", best=1, sha256="beef")
    path = segment(tmp_path / "journal-1", rows)
    publish([path], Target(str(tmp_path / "out"), "run-1"), PREDICTIONS)
    return Target(str(tmp_path / "out"), "run-2")


def copies(target, of: Track, sha256="c0ffee", schema=PREDICTIONS, **changes) -> str:
    """A segment of a file whose bytes are known."""
    provenance = dataclasses.replace(PROVENANCE, run_id=target.run_id, **changes)
    rows = list(copy_rows(KnownContent(of, sha256, 777), provenance))
    folder = f"{target.output}/journal/{target.run_id}"
    return commit_segment(folder, "copies", rows, journal_schema(schema))


def stored(target, name, run_id=None):
    rows = ds.dataset(f"{target.output}/{name}").to_table().to_pylist()
    return [row for row in rows if row["run_id"] == (run_id or target.run_id)]


def test_rows_of_a_known_content_have_no_scores():
    of = track("n.mp3", Listing("1", {"mood": "calm"}), Listing("2"), copies=(track("m.mp3"),))
    rows = list(copy_rows(KnownContent(of, "c0ffee", 777), PROVENANCE))
    assert [(row["uri"], row["track_id"], row["_listing"]) for row in rows] == [
        ("n.mp3", "1", 0), ("n.mp3", "2", 1), ("m.mp3", None, 0),
    ]  # fmt: skip
    for row in rows:
        assert (row["content_sha256"], row["size_bytes"], row["modified_at"]) == (
            "c0ffee",
            777,
            MODIFIED,
        )
        assert row["label"] is row["scores"] is None
        assert row["_windows"] == []
    assert rows[0]["mood"] == "calm"


def test_a_moved_file_has_the_row_and_the_windows_of_the_old_one(target):
    earlier = {row["content_sha256"]: row for row in stored(target, "predictions", "run-1")}
    counts = publish([copies(target, track("moved.mp3", Listing("9")))], target, PREDICTIONS)
    assert counts == {("labelled", "jazz"): 1}
    (row,) = stored(target, "predictions")
    assert (row["uri"], row["track_id"], row["size_bytes"]) == ("moved.mp3", "9", 777)
    assert row["run_id"] == "run-2"
    assert row["labelled_at"] >= earlier["c0ffee"]["labelled_at"]
    for name, value in earlier["c0ffee"].items():
        assert name in OF_FILE or row[name] == value, name
    old = {
        row["window_index"]: row
        for row in stored(target, "windows", "run-1")
        if row["uri"] == "a.mp3"
    }
    new = {row["window_index"]: row for row in stored(target, "windows")}
    assert len(new) == 3
    for index, window in new.items():
        assert window == old[index] | {"uri": "moved.mp3", "run_id": "run-2"}


def test_several_files_and_listings_of_one_content(target):
    of = track("n.mp3", Listing("1"), Listing("2"), copies=(track("m.mp3"),))
    paths = [copies(target, of), copies(target, track("k.mp3"), "beef")]
    counts = publish(paths, target, PREDICTIONS)
    assert counts == {("labelled", "jazz"): 3, ("labelled", "pop"): 1}
    windows = Counter(row["uri"] for row in stored(target, "windows"))
    assert windows == {"n.mp3": 3, "m.mp3": 3, "k.mp3": 2}
    assert {row["uri"]: row["label"] for row in stored(target, "predictions")} == {
        "n.mp3": "jazz",
        "m.mp3": "jazz",
        "k.mp3": "pop",
    }


def test_a_content_that_several_runs_have_labelled_gives_one_row(target, tmp_path):
    again = labelled_rows("a2.mp3", 3, run_id="run-1b")
    publish([segment(tmp_path / "j", again)], Target(target.output, "run-1b"), PREDICTIONS)
    assert publish([copies(target, track("n.mp3"))], target, PREDICTIONS).total() == 1
    assert len(stored(target, "predictions")) == 1
    assert len(stored(target, "windows")) == 3


def test_segments_that_repeat_change_nothing(target):
    paths = [copies(target, track("n.mp3", Listing("1"), Listing("2"))) for _ in range(3)]
    assert publish(paths, target, PREDICTIONS).total() == 2
    assert len(stored(target, "windows")) == 3


def test_publishing_twice_gives_the_same_files(target):
    copies(target, track("n.mp3"))

    def contents():
        files = Path(target.output).rglob("*.parquet")
        return {str(path): path.read_bytes() for path in files}

    journal = f"{target.output}/journal/run-2"
    first = publish_journal(journal, target)
    before = contents()
    assert publish_journal(journal, target) == first == {("labelled", "jazz"): 1}
    assert contents() == before


def test_a_labelled_row_of_this_run_outweighs_a_copy(target):
    own = segment(
        f"{target.output}/journal/run-2", labelled_rows("n.mp3", 1, best=2, run_id="run-2")
    )
    assert publish([copies(target, track("n.mp3")), own], target, PREDICTIONS) == {
        ("labelled", "rock"): 1
    }
    assert len(stored(target, "windows")) == 1


def test_a_copy_outweighs_a_failure(target):
    failed = segment(f"{target.output}/journal/run-2", failed_rows("n.mp3", run_id="run-2"))
    counts = publish([copies(target, track("n.mp3")), failed], target, PREDICTIONS)
    assert counts == {("labelled", "jazz"): 1}


@pytest.mark.parametrize(
    "changes",
    [{"sha256": "dead"}, {"model_fingerprint": "x"}, {"front_end_fingerprint": "x"}],
    ids=str,
)
def test_a_copy_without_another_row_is_a_failure(target, changes):
    of = track("n.mp3", Listing("1"), Listing("2"))
    counts = publish([copies(target, of, **changes)], target, PREDICTIONS)
    assert counts == {("failed", "incomplete"): 2}
    rows = stored(target, "failures")
    assert sorted(row["track_id"] for row in rows) == ["1", "2"]
    for row in rows:
        assert (row["uri"], row["stage"], row["size_bytes"]) == ("n.mp3", "Decode", 777)
        assert "start the run again" in row["message"]
    assert stored(target, "predictions") == stored(target, "windows") == []


@pytest.mark.parametrize("extra", EXTRAS)
def test_rows_without_an_extra_will_not_do_where_it_is_asked_for(target, extra):
    schema = with_extras(PREDICTIONS, {extra})
    path = copies(target, track("n.mp3"), schema=schema)
    assert publish([path], target, schema) == {("failed", "incomplete"): 1}


@pytest.mark.parametrize(("schema", "expected"), [(EMBEDDED, [0.5, 1.0]), (PREDICTIONS, None)])
def test_embeddings_come_where_they_are_asked_for(target, tmp_path, schema, expected):
    rows = [
        row | {"embedding": [0.5, 1.0]}
        for row in labelled_rows("e.mp3", run_id="run-1e", sha256="e3b0")
    ]
    path = commit_segment(str(tmp_path / "j"), "tracks", rows, journal_schema(EMBEDDED))
    publish([path], Target(target.output, "run-1e"), EMBEDDED)
    publish([copies(target, track("n.mp3"), "e3b0", schema=schema)], target, schema)
    (row,) = stored(target, "predictions")
    assert row["embedding"] == expected


@pytest.mark.parametrize("asked", [True, False])
def test_features_come_where_they_are_asked_for(target, tmp_path, asked):
    schema = with_extras(PREDICTIONS, {"features"})
    heard = {"key": "A minor", "features_seconds": 3.5, "mfcc_mean": [0.5] * 20}
    rows = labelled_rows("e.mp3", run_id="run-1e", sha256="e3b0")
    rows = [row | heard for row in rows]
    path = commit_segment(str(tmp_path / "j"), "tracks", rows, journal_schema(schema))
    publish([path], Target(target.output, "run-1e"), schema)
    wanted = schema if asked else PREDICTIONS
    publish([copies(target, track("n.mp3"), "e3b0", schema=wanted)], target, wanted)
    (row,) = stored(target, "predictions")
    assert {name: row[name] for name in heard} == (heard if asked else dict.fromkeys(heard))


def without_features(output: str) -> None:
    """Rewrite predictions as a version has them that did not know of features."""
    for path in (Path(output) / "predictions").glob("*.parquet"):
        table = pq.read_table(path).drop_columns(EXTRAS["features"])
        metadata = {k: v for k, v in table.schema.metadata.items() if k != b"features"}
        pq.write_table(table.replace_schema_metadata(metadata), path)


def test_rows_of_a_version_without_features_are_copied(target):
    without_features(target.output)
    publish([copies(target, track("n.mp3"))], target, PREDICTIONS)
    (path,) = (Path(target.output) / "predictions").glob("run-2-*")
    (row,) = pq.read_table(path).to_pylist()
    assert (row["uri"], row["label"]) == ("n.mp3", "jazz")
    assert all(row[name] is None for name in EXTRA_COLUMNS)


def test_rows_of_a_version_without_features_will_not_do_where_they_are_asked_for(target):
    without_features(target.output)
    schema = with_extras(PREDICTIONS, {"features"})
    path = copies(target, track("n.mp3"), schema=schema)
    assert publish([path], target, schema) == {("failed", "incomplete"): 1}


def test_the_journal_of_a_version_without_features_is_published(target):
    """Its segments, copies too, lack the columns: the rows are as that version had them."""
    names = [name for name in PREDICTIONS.names if name not in EXTRAS["features"]]
    old = pa.schema([PREDICTIONS.field(name) for name in names], metadata=PREDICTIONS.metadata)
    folder = f"{target.output}/journal/run-2"
    without_features(target.output)
    rows = labelled_rows("m.mp3", run_id="run-2", best=2, sha256="fade")
    commit_segment(folder, "tracks", rows, journal_schema(old))
    copies(target, track("n.mp3"), schema=old)
    counts = publish_journal(folder, target)
    assert counts == {("labelled", "jazz"): 1, ("labelled", "rock"): 1}
    (path,) = (Path(target.output) / "predictions").glob("run-2-*")
    assert pq.read_schema(path).names == names


def test_a_manifests_columns_are_the_copys_own(target):
    extra = pa.schema([*PREDICTIONS, ("mood", pa.string())], metadata=PREDICTIONS.metadata)
    of = track("n.mp3", Listing("1", {"mood": "calm"}))
    publish([copies(target, of, schema=extra)], target, extra)
    (path,) = (Path(target.output) / "predictions").glob("run-2-*")
    (row,) = ds.dataset(str(path)).to_table().to_pylist()
    assert (row["mood"], row["label"]) == ("calm", "jazz")


def test_copies_are_among_the_json_lines(target):
    target = dataclasses.replace(target, json_lines=True)
    publish([copies(target, track("n.mp3"))], target, PREDICTIONS)
    (line,) = (Path(target.output) / "json/run-2.jsonl").read_text().splitlines()
    assert (json.loads(line)["uri"], json.loads(line)["label"]) == ("n.mp3", "jazz")
