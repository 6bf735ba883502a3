"""WriteToParquet: rows to one folder of Parquet files, added to what earlier runs left there."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.io import WriteToText
from apache_beam.io.parquetio import WriteToParquet as BeamWriteToParquet


@dataclass
class WriteToParquet(beam.PTransform):  # type: ignore[misc]
    """PCollection of row dictionaries to ``FOLDER/RUN_ID-SHARD-of-SHARDS.parquet``.

    Beam writes to a temporary folder and renames at the end. The run's name in the file's
    keeps runs from overwriting one another. No rows give one file with the schema alone.

    Parameters
    ----------
    folder : str
    run_id : str
    schema : pyarrow.Schema
    """

    folder: str
    run_id: str
    schema: pa.Schema

    def expand(self, rows: beam.PCollection) -> beam.PCollection:
        return rows | BeamWriteToParquet(
            f"{self.folder}/{self.run_id}",
            self.schema,
            codec="zstd",
            file_name_suffix=".parquet",
        )


def to_json_line(row: dict[str, Any]) -> str:
    """A row as one line of JSON; times in ISO 8601."""

    def encode(value: Any) -> str:
        return value.isoformat() if isinstance(value, (dt.date, dt.time)) else str(value)

    return json.dumps(row, ensure_ascii=False, default=encode)


@dataclass
class WriteToJsonLines(beam.PTransform):  # type: ignore[misc]
    """PCollection of row dictionaries to one file, ``FOLDER/RUN_ID.jsonl``.

    Parameters
    ----------
    folder : str
    run_id : str
    """

    folder: str
    run_id: str

    def expand(self, rows: beam.PCollection) -> beam.PCollection:
        return (
            rows
            | beam.Map(to_json_line)
            | WriteToText(
                f"{self.folder}/{self.run_id}",
                file_name_suffix=".jsonl",
                num_shards=1,
                shard_name_template="",
            )
        )
