"""Written rows: what readers of Parquet and JSON Lines get, over several runs."""

from __future__ import annotations

import datetime as dt
import json
import os

import apache_beam as beam
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from transforms.records import FailureRow, PredictionRow, WindowRow, row_dict, schema_of
from transforms.write import WriteToJsonLines, WriteToParquet, to_json_line

LABELS = ("rock", "hip-hop", "ünïcödé")
SCORES = [float(np.float32(score)) for score in (0.7, 0.2, 0.1)]
CARRIED = pa.schema([("mood", pa.string()), ("year", pa.int64()), ("day", pa.date32())])
SCHEMA = schema_of(PredictionRow, labels=LABELS, extra=CARRIED)


def prediction(number: int, run_id: str) -> dict:
    row = PredictionRow(
        uri=f"/müsic/{number}.flac",
        track_id=None if number % 2 else f"{number:03}",
        content_sha256="0" * 64,
        size_bytes=1 << 33,
        duration_s=1 / 3,
        sample_rate_hz=44_100,
        channels=2,
        container="flac",
        codec="flac",
        decoder="soundfile",
        decode_warnings=["truncated"] if number else [],
        label="rock",
        confidence=SCORES[0],
        top_k=[{"label": "rock", "score": SCORES[0]}],
        scores=SCORES,
        window_count=3,
        embedding=None,
        model_fingerprint="m",
        front_end_fingerprint="f",
        pipeline_version="0",
        run_id=run_id,
        labelled_at=dt.datetime(2024, 2, 29, 23, 59, 59, 123456, tzinfo=dt.timezone.utc),
    )
    carried = {"mood": 'a "b"\n', "year": 1999, "day": dt.date(2020, 2, 29)}
    return {**row_dict(row), **carried}


def write(folder, run_id, rows, schema=SCHEMA):
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pipeline | beam.Create(rows) | WriteToParquet(str(folder), run_id, schema)


def files(folder):
    return sorted(
        os.path.join(base, name) for base, _, names in os.walk(folder) for name in names
    )  # fmt: skip


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """A dataset of two runs of three and two rows."""
    folder = tmp_path_factory.mktemp("out") / "labels v2 ü" / "predictions"
    rows = [prediction(number, "run-1") for number in range(3)]
    write(folder, "run-1", rows)
    before = {path: os.stat(path).st_mtime_ns for path in files(folder)}
    later = [prediction(number, "run-2") for number in range(2)]
    write(folder, "run-2", later)
    return folder, before, rows + later


def by_run(rows):
    return sorted(rows, key=lambda row: (row["run_id"], row["uri"]))


def test_a_second_run_leaves_the_first_ones_files_alone(two_runs):
    folder, before, _ = two_runs
    assert len(before) == 1
    after = files(folder)
    assert len(after) == 2
    assert {path: os.stat(path).st_mtime_ns for path in after if path in before} == before


def test_nothing_but_parquet_is_left(two_runs):
    folder = two_runs[0]
    assert [path for path in files(folder.parent) if not path.endswith(".parquet")] == []
    assert [path.name for path in folder.parent.iterdir()] == ["predictions"]


def test_pyarrow_reads_two_runs_as_one_dataset(two_runs):
    folder, _, rows = two_runs
    table = ds.dataset(str(folder)).to_table()
    assert table.schema.equals(SCHEMA)
    assert by_run(table.to_pylist()) == by_run(rows)


def test_duckdb_reads_two_runs_as_one_dataset(two_runs):
    folder, _, rows = two_runs
    query = "SELECT uri, scores, top_k, day FROM read_parquet(?) ORDER BY run_id, uri"
    found = duckdb.execute(query, [f"{folder}/*.parquet"]).fetchall()
    columns = ("uri", "scores", "top_k", "day")
    assert found == [tuple(row[name] for name in columns) for row in by_run(rows)]


def test_pandas_reads_two_runs_as_one_dataset(two_runs):
    folder, _, rows = two_runs
    frame = pd.read_parquet(folder).sort_values(["run_id", "uri"])
    assert list(frame.columns) == SCHEMA.names
    assert frame["uri"].tolist() == [row["uri"] for row in by_run(rows)]
    assert frame["labelled_at"].iloc[0] == pd.Timestamp(rows[0]["labelled_at"])
    np.testing.assert_array_equal(np.stack(frame["scores"]), np.float32([SCORES] * len(rows)))


def test_polars_reads_two_runs_as_one_dataset(two_runs):
    folder, _, rows = two_runs
    frame = pl.read_parquet(files(folder), glob=False)
    found = frame.sort("run_id", "uri").to_dicts()
    assert [(row["uri"], row["track_id"], row["scores"], row["year"]) for row in found] == [
        (row["uri"], row["track_id"], row["scores"], row["year"]) for row in by_run(rows)
    ]


def test_labels_survive_in_the_metadata(two_runs):
    for path in files(two_runs[0]):
        metadata = pq.read_schema(path).metadata
        assert json.loads(metadata[b"labels"]) == list(LABELS)


def test_files_are_compressed(two_runs):
    column = pq.ParquetFile(files(two_runs[0])[0]).metadata.row_group(0).column(0)
    assert column.compression == "ZSTD"


@pytest.mark.parametrize("row_class", [PredictionRow, WindowRow, FailureRow])
def test_no_rows_give_a_readable_file_with_the_schema(tmp_path, row_class):
    schema = schema_of(row_class, labels=LABELS)
    write(tmp_path / "rows", "run", [], schema)
    (path,) = files(tmp_path)
    table = pq.read_table(path)
    assert table.num_rows == 0
    assert table.schema.equals(schema, check_metadata=True)
    assert duckdb.execute("SELECT count(*) FROM read_parquet(?)", [path]).fetchone() == (0,)


def test_a_row_with_an_unknown_type_fails_the_run_and_leaves_no_file(tmp_path):
    with pytest.raises(Exception, match="no number"):
        write(tmp_path / "p", "run", [prediction(0, "run") | {"size_bytes": "no number"}])
    assert [path for path in files(tmp_path) if path.endswith(".parquet")] == []


def as_written(value):
    """What JSON makes of a value: times become text."""
    return value.isoformat() if isinstance(value, (dt.date, dt.datetime)) else value


def test_json_lines_equal_the_parquet_rows(tmp_path):
    rows = [prediction(number, "run") for number in range(3)]
    del rows[1]["mood"]  # a track that no manifest names
    write(tmp_path / "predictions", "run", rows)
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pipeline | beam.Create(rows) | WriteToJsonLines(str(tmp_path / "json"), "run", SCHEMA)
    lines = (tmp_path / "json/run.jsonl").read_text(encoding="utf-8").splitlines()
    parsed = sorted(map(json.loads, lines), key=lambda row: row["uri"])
    stored = ds.dataset(str(tmp_path / "predictions")).to_table().sort_by("uri").to_pylist()
    assert parsed == [{name: as_written(v) for name, v in row.items()} for row in stored]
    assert dt.datetime.fromisoformat(parsed[0]["labelled_at"]) == rows[0]["labelled_at"]
    assert [path.name for path in (tmp_path / "json").iterdir()] == ["run.jsonl"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_has_no_word_for_what_is_no_number(value):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    line = to_json_line({"a": value, "b": [1.5, value], "c": {"d": value}, "e": "NaN"})
    expected = {"a": None, "b": [1.5, None], "c": {"d": None}, "e": "NaN"}
    assert json.loads(line, parse_constant=refuse) == expected


def test_a_json_line_is_one_line():
    line = to_json_line({"a": "x\ny\u2028", "b": b"\x00", "c": dt.time(1, 2)})
    assert "\n" not in line
    assert json.loads(line) == {"a": "x\ny\u2028", "b": "b'\\x00'", "c": "01:02:00"}
