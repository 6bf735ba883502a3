"""Files of a dataset: bounded, whole or not at all, and readable by everyone."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tests.memory_files import CodedError, MemoryFileSystem
from transforms.errors import StorageError
from transforms.storage import dataset
from transforms.storage.dataset import DatasetWriter, JsonLinesWriter, Target, remove_datasets

SCHEMA = pa.schema([("uri", pa.string()), ("number", pa.int64())], metadata={"labels": "[]"})


@pytest.fixture
def target(tmp_path) -> Target:
    return Target(str(tmp_path / "labels v2 ü"), "run-1", json_lines=True)


def table(first: int, last: int) -> pa.Table:
    rows = [{"uri": f"{number:06}.mp3", "number": number} for number in range(first, last)]
    return pa.Table.from_pylist(rows, SCHEMA)


def left(target) -> list[str]:
    root = Path(target.output)
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def numbers(target, name="predictions") -> list[int]:
    return ds.dataset(f"{target.output}/{name}").to_table()["number"].to_pylist()


def write(target, *tables, name="predictions") -> None:
    with DatasetWriter(target, name, SCHEMA) as writer:
        for part in tables:
            writer.write(part)


def test_rows_in_their_order_with_schema_and_metadata(target):
    write(target, table(0, 3), table(3, 3), table(3, 10))
    assert left(target) == ["predictions/run-1-00000.parquet"]
    assert numbers(target) == list(range(10))
    schema = pq.read_schema(f"{target.output}/predictions/run-1-00000.parquet")
    assert schema.equals(SCHEMA, check_metadata=True)


def test_files_are_compressed(target):
    write(target, table(0, 3))
    file = pq.ParquetFile(f"{target.output}/predictions/run-1-00000.parquet")
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_row_groups_are_bounded(target, monkeypatch):
    monkeypatch.setattr(dataset, "_GROUP_ROWS", 100)
    write(target, *(table(30 * number, 30 * number + 30) for number in range(10)))
    metadata = pq.ParquetFile(f"{target.output}/predictions/run-1-00000.parquet").metadata
    groups = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    assert groups == [120, 120, 60]


def test_row_groups_are_bounded_in_bytes(target, monkeypatch):
    monkeypatch.setattr(dataset, "_GROUP_BYTES", table(0, 50).nbytes)
    write(target, table(0, 50), table(50, 100))
    assert pq.ParquetFile(f"{target.output}/predictions/run-1-00000.parquet").num_row_groups == 2


@pytest.mark.parametrize("tables", [1, 4, 7])
def test_a_new_file_is_begun_when_one_is_large(target, monkeypatch, tables):
    monkeypatch.setattr(dataset, "_GROUP_ROWS", 10)
    monkeypatch.setattr(dataset, "_FILE_BYTES", 1)
    write(target, *(table(10 * number, 10 * number + 10) for number in range(tables)))
    expected = [f"predictions/run-1-{number:05}.parquet" for number in range(tables)]
    assert left(target) == expected
    assert numbers(target) == list(range(10 * tables))


def test_no_rows_give_one_file_with_the_schema_and_only_the_first_time(target):
    write(target)
    assert left(target) == ["predictions/run-1-00000.parquet"]
    assert numbers(target) == []
    (path,) = (Path(target.output) / "predictions").iterdir()
    assert duckdb.execute("SELECT count(*) FROM read_parquet(?)", [str(path)]).fetchall() == [(0,)]
    write(Target(target.output, "run-2"), table(0, 0))
    assert left(target) == ["predictions/run-1-00000.parquet"]


# What fails


def test_an_exception_leaves_nothing(target):
    with pytest.raises(ZeroDivisionError), DatasetWriter(target, "windows", SCHEMA) as writer:
        writer.write(table(0, 3))
        raise ZeroDivisionError
    assert left(target) == []


def test_an_exception_leaves_the_files_that_were_full(target, monkeypatch):
    monkeypatch.setattr(dataset, "_GROUP_ROWS", 10)
    monkeypatch.setattr(dataset, "_FILE_BYTES", 2_000)
    with pytest.raises(ZeroDivisionError), DatasetWriter(target, "windows", SCHEMA) as writer:
        full = 0
        while not full:
            writer.write(table(0, 10))
            full = len(left(target)) if writer._draft is None else 0
        writer.write(table(10, 20))
        assert writer._draft is not None and writer._draft.exists()
        raise ZeroDivisionError
    assert left(target) == ["windows/run-1-00000.parquet"]
    assert set(numbers(target, "windows")) == set(range(10))


def test_a_disk_that_fills_while_a_group_is_written(target, monkeypatch):
    def full(_self, _table):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(StorageError, match="No space left"):
        write(target, table(0, 3))
    assert left(target) == []


def test_a_disk_that_is_full_at_the_rename(target, monkeypatch, no_waiting):
    def full(_self, _path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StorageError, match="No space left"):
        write(target, table(0, 3))
    assert left(target) == []
    assert no_waiting.slept


def test_an_object_store_that_refuses(memory_files, no_waiting):
    target = Target("memtest://bucket/out", "run-1")
    write(target, table(0, 3))
    assert list(memory_files) == ["memtest://bucket/out/predictions/run-1-00000.parquet"]
    MemoryFileSystem.stops.append(CodedError(403))
    with pytest.raises(StorageError, match="403"):
        write(target, table(0, 3), name="windows")
    assert len(memory_files) == 1


# Removal


def test_removing_is_for_the_runs_own_files_alone(target):
    for name in ("predictions", "windows", "failures"):
        for run_id in ("run-1", "run-10", "run-2"):
            write(Target(target.output, run_id), table(0, 1), name=name)
    (Path(target.output) / "predictions" / "notes.txt").write_text("mine")
    remove_datasets(target)
    expected = {
        f"{name}/{run_id}-00000.parquet"
        for name in ("predictions", "windows", "failures")
        for run_id in ("run-10", "run-2")
    }
    assert set(left(target)) == expected | {"predictions/notes.txt"}
    remove_datasets(target)
    assert set(left(target)) == expected | {"predictions/notes.txt"}


def test_removing_where_nothing_is(tmp_path):
    remove_datasets(Target(str(tmp_path / "nothing"), "run-1"))
    assert list(tmp_path.iterdir()) == []


# JSON Lines


def test_json_lines_are_one_file_of_all_rows(target):
    with JsonLinesWriter(target) as writer:
        writer.write(table(0, 2))
        writer.write(table(2, 2))
        writer.write(table(2, 5))
    assert left(target) == ["json/run-1.jsonl"]
    lines = (Path(target.output) / "json/run-1.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == table(0, 5).to_pylist()


def test_json_lines_where_they_are_not_asked_for(tmp_path):
    with JsonLinesWriter(Target(str(tmp_path), "run-1")) as writer:
        writer.write(table(0, 2))
    assert list(tmp_path.iterdir()) == []


def test_json_lines_are_whole_or_not_there(target):
    with pytest.raises(ZeroDivisionError), JsonLinesWriter(target) as writer:
        writer.write(table(0, 2))
        raise ZeroDivisionError
    assert left(target) == []
