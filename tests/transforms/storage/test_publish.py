"""From segments to datasets: each listing once, the same result however often."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.rows import (
    LABELS,
    PREDICTIONS,
    failed_rows,
    labelled_rows,
    segment,
    stored,
    track,
)
from transforms.errors import Reason, StorageError
from transforms.journal import commit_count, commit_segment
from transforms.records import (
    FailureRow,
    Listing,
    PredictionRow,
    WindowRow,
    journal_schema,
    schema_of,
)
from transforms.storage.dataset import Target
from transforms.storage.publish import publish, publish_journal

TWICE = track("b.mp3", Listing("1"), Listing("2"))


@pytest.fixture
def journal(tmp_path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def target(tmp_path) -> Target:
    return Target(str(tmp_path / "out"), "run-1")


def names(target):
    root = Path(target.output)
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def contents(target):
    return {name: (Path(target.output) / name).read_bytes() for name in names(target)}


# What is written


def test_rows_of_all_segments(journal, target):
    paths = [
        segment(journal, labelled_rows("a.mp3", 3) + labelled_rows(TWICE, 2, best=1)),
        segment(journal, labelled_rows("c.mp3", 1)),
        segment(journal, failed_rows("d.mp3") + failed_rows("e.mp3", reason=Reason.TIMEOUT)),
    ]
    counts = publish(paths, target, PREDICTIONS)
    assert counts == {
        ("labelled", "jazz"): 2,
        ("labelled", "pop"): 2,
        ("failed", "corrupt"): 1,
        ("failed", "timeout"): 1,
    }
    found = [
        (row["uri"], row["track_id"], row["label"]) for row in stored(target.output, "predictions")
    ]
    assert found == [
        ("a.mp3", None, "jazz"), ("b.mp3", "1", "pop"), ("b.mp3", "2", "pop"),
        ("c.mp3", None, "jazz"),
    ]  # fmt: skip
    windows = [(row["uri"], row["window_index"]) for row in stored(target.output, "windows")]
    assert windows == [
        ("a.mp3", 0), ("a.mp3", 1), ("a.mp3", 2), ("b.mp3", 0), ("b.mp3", 1), ("c.mp3", 0),
    ]  # fmt: skip
    assert [row["uri"] for row in stored(target.output, "failures")] == ["d.mp3", "e.mp3"]


def test_every_value_is_that_of_the_row(journal, target):
    (row,) = labelled_rows("ü.mp3", 2)
    (failure,) = failed_rows("x.mp3")
    publish([segment(journal, [row]), segment(journal, [failure])], target, PREDICTIONS)
    (found,) = stored(target.output, "predictions")
    single = {"scores", "confidence", "top_k"}  # float32 in the file
    assert {k: v for k, v in found.items() if k not in single} == {
        name: row[name] for name in PREDICTIONS.names if name not in single
    }
    assert found["scores"] == np.float32(row["scores"]).tolist()
    assert stored(target.output, "failures") == [
        {k: failure[k] for k in schema_of(FailureRow).names}
    ]
    for window, kept in zip(row["_windows"], stored(target.output, "windows"), strict=True):
        assert kept["scores"] == np.float32(window["scores"]).tolist()
        for name in ("window_index", "start_s", "end_s", "label"):
            assert kept[name] == window[name]
        for name in ("uri", "content_sha256", "run_id"):
            assert kept[name] == row[name]


def test_columns_and_labels_of_the_files(journal, target):
    publish([segment(journal, labelled_rows())], target, PREDICTIONS)
    for name, row_class in (
        ("predictions", PredictionRow), ("windows", WindowRow), ("failures", FailureRow),
    ):  # fmt: skip
        (path,) = (Path(target.output) / name).iterdir()
        schema = pq.read_schema(path)
        assert schema.equals(schema_of(row_class))
        if name != "failures":
            assert json.loads(schema.metadata[b"labels"]) == list(LABELS)


def test_windows_come_out_under_their_own_tracks_uri(journal, target):
    copies = (track("a2.mp3"), track("a3.mp3", Listing("1"), Listing("2")))
    rows = labelled_rows(track("a.mp3", copies=copies), 3)
    other = labelled_rows("z.mp3", 2, sha256="beef")
    publish([segment(journal, rows + other)], target, PREDICTIONS)
    found = Counter((row["uri"], row["content_sha256"]) for row in stored(target.output, "windows"))
    assert found == {
        ("a.mp3", "c0ffee"): 3, ("a2.mp3", "c0ffee"): 3, ("a3.mp3", "c0ffee"): 3,
        ("z.mp3", "beef"): 2,
    }  # fmt: skip


# Again, and beside other runs


def test_publishing_twice_gives_the_same_files(journal, target):
    segment(journal, labelled_rows("a.mp3", 3) + labelled_rows(TWICE))
    segment(journal, failed_rows("d.mp3"))
    first = publish_journal(str(journal), target)
    before = contents(target)
    assert len(before) == 3
    assert publish_journal(str(journal), target) == first
    assert contents(target) == before


def test_publishing_again_replaces_what_was_there_of_the_run(journal, target):
    """As after a run that was killed while it published more files than are needed now."""
    for number in range(3):
        path = Path(target.output) / "predictions" / f"run-1-{number:05}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist([], PREDICTIONS), path)
    publish([segment(journal, labelled_rows())], target, PREDICTIONS)
    assert [name for name in names(target) if "predictions" in name] == [
        "predictions/run-1-00000.parquet"
    ]
    assert len(stored(target.output, "predictions")) == 1


def test_other_runs_files_stay(tmp_path, target):
    other = Target(target.output, "run-0")
    publish([segment(tmp_path / "0", labelled_rows(run_id="run-0"))], other, PREDICTIONS)
    before = contents(target)
    publish([segment(tmp_path / "1", labelled_rows())], target, PREDICTIONS)
    after = contents(target)
    assert {name: after[name] for name in before} == before
    found = {row["run_id"] for row in stored(target.output, "predictions")}
    assert found == {"run-0", "run-1"}


def test_the_order_of_the_paths_does_not_matter(journal, target):
    paths = [segment(journal, labelled_rows(uri)) for uri in "abcdef"]
    publish(paths, target, PREDICTIONS)
    before = contents(target)
    publish(paths[::-1], target, PREDICTIONS)
    assert contents(target) == before


# Nothing to publish


def test_a_first_run_without_rows_leaves_datasets_that_can_be_queried(target):
    assert publish([], target, PREDICTIONS) == {}
    for name in ("predictions", "windows", "failures"):
        assert stored(target.output, name) == []
    assert len(names(target)) == 3


def test_a_later_run_without_rows_leaves_no_files(journal, target):
    publish([segment(journal, labelled_rows())], target, PREDICTIONS)
    before = contents(target)
    assert publish([], Target(target.output, "run-2"), PREDICTIONS) == {}
    assert contents(target) == before


def test_a_journal_without_tracks_publishes_its_failures(journal, target):
    segment(journal, failed_rows())
    commit_count(str(journal), "listed", 7)
    assert publish_journal(str(journal), target) == {("failed", "corrupt"): 1}
    assert names(target) == ["failures/run-1-00000.parquet"]


def test_a_journal_that_is_not_there(target, tmp_path):
    assert publish_journal(str(tmp_path / "nothing"), target) == {}


def test_what_is_no_segment_is_passed_over(journal, target):
    segment(journal, labelled_rows())
    commit_count(str(journal), "listed", 7)
    for name in ("tracks-000009-abc.tmp", ".tracks-000001-abc.parquet.tmp", "books.json"):
        (journal / name).write_text("no Parquet")
    assert publish_journal(str(journal), target) == {("labelled", "jazz"): 1}


# Schemas and storage


def test_a_journal_knows_its_own_columns(journal, target):
    extra = pa.schema([("mood", pa.string()), ("year", pa.int64())])
    schema = schema_of(PredictionRow, labels=LABELS, extra=extra)
    rows = labelled_rows(track("a.mp3", Listing("1", {"mood": "calm", "year": 1999}), Listing("2")))
    commit_segment(str(journal), "tracks", rows, journal_schema(schema))
    publish_journal(str(journal), target)
    found = [(row["mood"], row["year"]) for row in stored(target.output, "predictions")]
    assert found == [("calm", 1999), (None, None)]
    (path,) = (Path(target.output) / "predictions").iterdir()
    assert pq.read_schema(path).names == schema.names


def test_on_an_object_store_it_is_the_same(memory_files, journal, target):
    rows = labelled_rows("a.mp3", 2)
    publish([segment(journal, rows)], target, PREDICTIONS)
    remote = Target("memtest://bucket/out", "run-1")
    segment("memtest://bucket/journal", rows)
    publish_journal("memtest://bucket/journal", remote)
    for name in names(target):
        there = pq.read_table(pa.BufferReader(memory_files[f"memtest://bucket/out/{name}"]))
        assert there.equals(pq.read_table(f"{target.output}/{name}")), name


def test_a_full_disk_stops_and_the_journal_stays(journal, target, monkeypatch, no_waiting):
    paths = [segment(journal, labelled_rows()), segment(journal, failed_rows("d.mp3"))]
    real = Path.replace

    def refuse(self, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StorageError, match="No space left"):
        publish(paths, target, PREDICTIONS)
    monkeypatch.setattr(Path, "replace", real)
    assert names(target) == []
    assert publish(paths, target, PREDICTIONS).total() == 2
