"""A session's rows as files, read back by others."""

from __future__ import annotations

import datetime as dt
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.serving.page.downloads import write_downloads
from tests.pipeline.serving.page.stand_in import LABELS, MADE_AT, prediction
from tests.rows import labelled_rows, published

ROWS = [
    prediction('a, "b".wav', decode_warnings=["clipped", "silent"]),
    prediction("二.mp3", label="rock", confidence=np.float32(0.7), duration_s=1.25),
]


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, Path]:
    return write_downloads(ROWS, LABELS, tmp_path)


def test_parquet_has_the_columns_and_types_of_a_run(
    written: tuple[Path, Path], tmp_path: Path
) -> None:
    run = published(tmp_path / "run", labelled_rows())
    of_run = pq.read_schema(next(Path(run, "predictions").glob("**/*.parquet")))
    table = pq.read_table(written[1])
    assert table.schema.remove_metadata() == of_run.remove_metadata()
    assert json.loads(table.schema.metadata[b"labels"]) == list(LABELS)


def test_parquet_reads_back_in_duckdb(written: tuple[Path, Path]) -> None:
    rows = duckdb.sql(
        "SELECT uri, label, confidence, decode_warnings, top_k[1].label, scores[6], duration_s,"
        f" epoch_us(labelled_at) FROM '{written[1]}'"
    ).fetchall()
    made_at = (MADE_AT - dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)) // dt.timedelta(
        microseconds=1
    )
    assert rows == [
        ('a, "b".wav', "jazz", pytest.approx(0.7), ["clipped", "silent"], "jazz",
         pytest.approx(0.1), 3.5, made_at),
        ("二.mp3", "rock", pytest.approx(0.7), [], "rock", pytest.approx(0.7), 1.25, made_at),
    ]  # fmt: skip


def test_json_says_the_same(written: tuple[Path, Path]) -> None:
    rows = json.loads(written[0].read_text(encoding="utf-8"))
    assert [row["uri"] for row in rows] == ['a, "b".wav', "二.mp3"]
    assert rows[0]["labelled_at"] == "2026-01-02T03:04:05.678901+00:00"
    assert rows[0]["track_id"] is None
    table = pq.read_table(written[1])
    assert [row["scores"] for row in rows] == table.column("scores").to_pylist()
    assert set(rows[0]) == set(table.column_names)
    counted = duckdb.sql(f"SELECT label, count(*) FROM read_json('{written[0]}') GROUP BY ALL")
    assert sorted(counted.fetchall()) == [("jazz", 1), ("rock", 1)]


def test_a_second_time_replaces_the_first(written: tuple[Path, Path]) -> None:
    again = write_downloads(ROWS[:1], LABELS, written[0].parent)
    assert again == written
    assert pq.read_table(written[1]).num_rows == 1
    assert len(json.loads(written[0].read_text(encoding="utf-8"))) == 1
    assert sorted(path.name for path in written[0].parent.iterdir()) == [
        "labels.json", "labels.parquet",
    ]  # fmt: skip


def test_many_write_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: write_downloads(ROWS, LABELS, tmp_path), range(64)))
    assert pq.read_table(tmp_path / "labels.parquet").num_rows == 2
    assert len(json.loads((tmp_path / "labels.json").read_text(encoding="utf-8"))) == 2
    assert len(list(tmp_path.iterdir())) == 2
