"""Written rows: what readers of Parquet and JSON Lines get, over several runs."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
from pathlib import Path

import apache_beam as beam
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.util import assert_that, equal_to

from tests.rows import LABELS, PROVENANCE, labelled_rows, track
from transforms.errors import Reason
from transforms.journal import commit_segment, count_rows, list_segments
from transforms.records import (
    Failure,
    FailureRow,
    Listing,
    PredictionRow,
    Track,
    journal_schema,
    schema_of,
)
from transforms.storage.dataset import Target
from transforms.track_rows import failure_rows
from transforms.write import WriteToParquet

CARRIED = pa.schema([("mood", pa.string()), ("year", pa.int64()), ("day", pa.date32())])
SCHEMA = schema_of(PredictionRow, labels=LABELS, extra=CARRIED)
SCORES = np.float32([0.8, 0.1, 0.1])


def tracks(count: int, run_id: str, first: int = 0) -> list[dict]:
    """Rows of whole tracks, each with a manifest's columns."""
    columns = {"mood": 'a "b"\n', "year": 1999, "day": dt.date(2020, 2, 29)}
    found = []
    for number in range(first, first + count):
        listing = Listing(None if number % 2 else f"{number:03}", columns)
        of = track(f"/müsic/{number}.flac", listing)
        (row,) = labelled_rows(of, number + 1, run_id=run_id)
        top_k = [{"label": "jazz", "score": float(SCORES[0])}]
        own = {"scores": SCORES.tolist(), "confidence": float(SCORES[0]), "top_k": top_k}
        found.append(row | own)
    return found


def failures(*uris: str, reason: Reason = Reason.CORRUPT) -> list[Failure]:
    return [Failure(Track(uri, 5), "Decode", reason, "broken") for uri in uris]


def write(output, run_id, *, check=None, json_lines=False, **results) -> None:
    """Run the transform; ``failures_X`` stands for ``failures/X``."""
    target = Target(str(output), run_id, json_lines)
    journal = f"{output}/journal/{run_id}"
    provenance = dataclasses.replace(PROVENANCE, run_id=run_id)
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        collections = {
            name.replace("_", "/"): pipeline | name >> beam.Create(elements(rows))
            for name, rows in results.items()
        }
        published = collections | WriteToParquet(journal, target, SCHEMA, provenance)
        if check is not None:
            assert_that(published, check)


def elements(rows: list) -> list:
    """Each row as those of a track of its own; failures as they are."""
    return [[row] if isinstance(row, dict) else row for row in rows]


def files(folder) -> list[str]:
    return sorted(
        os.path.join(base, name) for base, _, names in os.walk(folder) for name in names
    )  # fmt: skip


def of_predictions(rows):
    """Journal rows without what is the journal's own."""
    return [{name: row.get(name) for name in SCHEMA.names} for row in rows]


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """A dataset of two runs of three and two rows."""
    output = tmp_path_factory.mktemp("out") / "labels v2 ü"
    rows = tracks(3, "run-1")
    write(output, "run-1", tracks=rows[:1], parts=rows[1:], failures_Decode=failures("x.mp3"))
    before = {path: os.stat(path).st_mtime_ns for path in files(output)}
    later = tracks(2, "run-2")
    write(output, "run-2", tracks=later, parts=[], failures_Decode=[])
    assert {path: os.stat(path).st_mtime_ns for path in before} == before
    return output / "predictions", of_predictions(rows + later)


def by_run(rows):
    return sorted(rows, key=lambda row: (row["run_id"], row["uri"]))


def test_each_run_has_its_own_files(two_runs):
    output = two_runs[0].parent
    found = [os.path.relpath(path, output) for path in files(output) if "journal" not in path]
    assert found == [
        "failures/run-1-00000.parquet",
        "predictions/run-1-00000.parquet",
        "predictions/run-2-00000.parquet",
        "windows/run-1-00000.parquet",
        "windows/run-2-00000.parquet",
    ]


def test_pyarrow_reads_two_runs_as_one_dataset(two_runs):
    folder, rows = two_runs
    table = ds.dataset(str(folder)).to_table()
    assert table.schema.equals(SCHEMA)
    assert by_run(table.to_pylist()) == by_run(rows)


def test_duckdb_reads_two_runs_as_one_dataset(two_runs):
    folder, rows = two_runs
    query = "SELECT uri, scores, top_k, day FROM read_parquet(?) ORDER BY run_id, uri"
    found = duckdb.execute(query, [f"{folder}/*.parquet"]).fetchall()
    columns = ("uri", "scores", "top_k", "day")
    assert found == [tuple(row[name] for name in columns) for row in by_run(rows)]


def test_pandas_reads_two_runs_as_one_dataset(two_runs):
    folder, rows = two_runs
    frame = pd.read_parquet(folder).sort_values(["run_id", "uri"])
    assert list(frame.columns) == SCHEMA.names
    assert frame["uri"].tolist() == [row["uri"] for row in by_run(rows)]
    assert frame["labelled_at"].iloc[0] == pd.Timestamp(rows[0]["labelled_at"])
    np.testing.assert_array_equal(np.stack(frame["scores"]), np.stack([SCORES] * len(rows)))


def test_polars_reads_two_runs_as_one_dataset(two_runs):
    folder, rows = two_runs
    frame = pl.read_parquet(files(folder), glob=False)
    found = frame.sort("run_id", "uri").to_dicts()
    assert [(row["uri"], row["track_id"], row["scores"], row["year"]) for row in found] == [
        (row["uri"], row["track_id"], row["scores"], row["year"]) for row in by_run(rows)
    ]


def test_labels_survive_in_the_metadata(two_runs):
    for path in files(two_runs[0]) + files(two_runs[0].parent / "windows"):
        metadata = pq.read_schema(path).metadata
        assert json.loads(metadata[b"labels"]) == list(LABELS)


def test_everything_is_in_the_journal(two_runs):
    output = two_runs[0].parent
    assert count_rows(f"{output}/journal/run-1") == {"tracks": 3, "failures": 1}
    assert count_rows(f"{output}/journal/run-2") == {"tracks": 2}


def test_windows_and_failures(two_runs):
    output = two_runs[0].parent
    windows = ds.dataset(str(output / "windows")).to_table().to_pylist()
    found = sorted((row["run_id"], row["uri"], row["window_index"]) for row in windows)
    assert found == sorted(
        (run_id, f"/müsic/{number}.flac", index)
        for run_id, count in (("run-1", 3), ("run-2", 2))
        for number in range(count)
        for index in range(number + 1)
    )
    (failure,) = ds.dataset(str(output / "failures")).to_table().to_pylist()
    assert (failure["uri"], failure["reason"], failure["size_bytes"]) == ("x.mp3", "corrupt", 5)
    assert failure["run_id"] == "run-1"


def test_published_counts_are_given(tmp_path):
    listed_twice = Failure(
        Track("y.mp3", listings=(Listing("1"), Listing("2"))), "RollUp", Reason.INCOMPLETE, ""
    )
    write(
        tmp_path,
        "run",
        tracks=tracks(2, "run"),
        parts=tracks(1, "run", first=7),
        failures_Decode=failures("x.mp3", "z.mp3"),
        failures_RollUp=[listed_twice, *failures("x.mp3")],
        check=equal_to(
            [(("labelled", "jazz"), 3), (("failed", "corrupt"), 2), (("failed", "incomplete"), 2)]
        ),
    )


def test_a_dead_worker_s_finished_tracks_are_published_and_its_failures_are_not(tmp_path):
    """Another worker does again what it had in work, but for the finished tracks."""
    folder, rows = f"{tmp_path}/journal/run", journal_schema(SCHEMA)
    (before,) = tracks(1, "run", first=5)
    commit_segment(folder, "tracks", [before], rows)
    commit_segment(folder, "tracks", tracks(1, "run"), rows)  # done again all the same
    failed = failure_rows(failures("5", "x.mp3")[1], dataclasses.replace(PROVENANCE, run_id="run"))
    commit_segment(folder, "failures", failed, journal_schema(schema_of(FailureRow)))
    write(tmp_path, "run", tracks=tracks(2, "run"), check=equal_to([(("labelled", "jazz"), 3)]))
    found = ds.dataset(str(tmp_path / "predictions")).to_table()["uri"].to_pylist()
    assert sorted(found) == ["/müsic/0.flac", "/müsic/1.flac", "/müsic/5.flac"]
    assert ds.dataset(str(tmp_path / "failures")).count_rows() == 0


def test_no_results_give_datasets_that_can_be_queried(tmp_path):
    write(tmp_path, "run", tracks=[], parts=[], failures_Decode=[], check=equal_to([]))
    for name in ("predictions", "windows", "failures"):
        (path,) = files(tmp_path / name)
        assert pq.read_table(path).num_rows == 0
        query = "SELECT count(*) FROM read_parquet(?)"
        assert duckdb.execute(query, [path]).fetchall() == [(0,)]
    (path,) = files(tmp_path / "predictions")
    assert pq.read_schema(path).equals(SCHEMA)
    assert list_segments(f"{tmp_path}/journal/run") == []


def test_a_row_with_an_unknown_type_fails_the_run_and_leaves_no_dataset(tmp_path):
    wrong = [row | {"size_bytes": "no number"} for row in tracks(1, "run")]
    with pytest.raises(Exception, match="no number"):
        write(tmp_path, "run", tracks=wrong, parts=[], failures_Decode=[])
    assert [path for path in files(tmp_path) if path.endswith(".parquet")] == []


def as_written(value):
    """What JSON makes of a value: times become text."""
    return value.isoformat() if isinstance(value, (dt.date, dt.datetime)) else value


def test_json_lines_equal_the_parquet_rows(tmp_path):
    rows = tracks(3, "run")
    del rows[1]["mood"]  # a track that no manifest names
    write(tmp_path, "run", tracks=rows, parts=[], failures_Decode=[], json_lines=True)
    lines = (tmp_path / "json/run.jsonl").read_text(encoding="utf-8").splitlines()
    parsed = sorted(map(json.loads, lines), key=lambda row: row["uri"])
    stored = ds.dataset(str(tmp_path / "predictions")).to_table().sort_by("uri").to_pylist()
    assert len(stored) == 3
    assert parsed == [{name: as_written(v) for name, v in row.items()} for row in stored]
    assert dt.datetime.fromisoformat(parsed[0]["labelled_at"]) == rows[0]["labelled_at"]
    assert [path.name for path in Path(tmp_path / "json").iterdir()] == ["run.jsonl"]
