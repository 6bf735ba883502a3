"""A session's rows as files: the columns of the batch pipeline's ``OUTPUT/predictions``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.records import PredictionRow, schema_of
from transforms.storage.json_lines import to_json_line

JSON_NAME, PARQUET_NAME = "labels.json", "labels.parquet"


def table_of(predictions: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> pa.Table:
    """Rows as a table of the batch pipeline's schema.

    Parameters
    ----------
    predictions : sequence of mapping
        PredictionRow's columns.
    labels : sequence of str
        The model's, in the order of the scores.
    """
    schema = schema_of(PredictionRow, labels=labels)
    return pa.Table.from_pylist([dict(row) for row in predictions], schema=schema)


def write_downloads(
    predictions: Sequence[Mapping[str, Any]], labels: Sequence[str], folder: Path
) -> tuple[Path, Path]:
    """Write rows as a JSON array and as Parquet, over what is there.

    Several threads may do so at once.

    Returns
    -------
    tuple of Path
        Of the JSON and of the Parquet file.
    """
    table = table_of(predictions, labels)
    lines = ",\n".join(to_json_line(row) for row in table.to_pylist())
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=folder) as own:
        unfinished = Path(own)
        (unfinished / JSON_NAME).write_text(f"[\n{lines}\n]\n", encoding="utf-8")
        pq.write_table(table, unfinished / PARQUET_NAME)
        for name in (JSON_NAME, PARQUET_NAME):
            os.replace(unfinished / name, folder / name)
    return folder / JSON_NAME, folder / PARQUET_NAME
