"""WriteToParquet: rows to one folder of Parquet files, added to what earlier runs left there."""

from __future__ import annotations

import datetime as dt
import json
import math
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
    """A row as one line of JSON; times in ISO 8601, and null for what is not a finite number."""

    def encode(value: Any) -> str:
        return value.isoformat() if isinstance(value, (dt.date, dt.time)) else str(value)

    return json.dumps(_finite(row), ensure_ascii=False, default=encode, allow_nan=False)


def _finite(value: Any) -> Any:
    """``value`` with None for NaN and infinities, which JSON cannot say."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


@dataclass
class WriteToJsonLines(beam.PTransform):  # type: ignore[misc]
    """PCollection of row dictionaries to one file, ``FOLDER/RUN_ID.jsonl``.

    Parameters
    ----------
    folder : str
    run_id : str
    schema : pyarrow.Schema, optional
        Its columns come in every line, null where a row has none, as they do in Parquet.
    """

    folder: str
    run_id: str
    schema: pa.Schema | None = None

    def expand(self, rows: beam.PCollection) -> beam.PCollection:
        names = () if self.schema is None else tuple(self.schema.names)
        return (
            rows
            | beam.Map(lambda row: to_json_line(dict.fromkeys(names) | row))
            | WriteToText(
                f"{self.folder}/{self.run_id}",
                file_name_suffix=".jsonl",
                num_shards=1,
                shard_name_template="",
            )
        )
