"""Where rows go: standard output, Kafka, or Parquet files of a minute each.

A file of Parquet holds the rows of one window of event time. Its name says which, so that a window
that a runner writes again, after a worker's death, replaces the file and adds none: every row is
there once. Kafka and standard output get the rows of repeated work again; ``row_id`` tells them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.transforms import window
from apache_beam.transforms.trigger import (
    AccumulationMode,
    AfterProcessingTime,
    AfterWatermark,
)
from apache_beam.utils.timestamp import Duration

from transforms.records import row_dict, schema_of
from transforms.storage.durable import commit, committed
from transforms.streaming.blocks import Block, encode_block
from transforms.streaming.rows import Row, to_json, utc

# Rows that come behind their window's file share one for so long. Beam hands the number to other
# runners as milliseconds.
_LATE_FILE_SECONDS = 60
_ALLOWED_LATENESS_SECONDS = 7 * 86_400  # after that a row would be lost; Beam keeps an open window


@dataclass
class PrintRows(beam.PTransform):  # type: ignore[misc]
    """Rows of any kind to standard output, a line of JSON each."""

    def expand(self, rows: beam.PCollection) -> beam.PCollection:
        return rows | beam.Map(_print)


def _print(row: Row) -> None:
    sys.stdout.write(to_json(row) + "\n")
    sys.stdout.flush()


def file_name(start_s: float, run_id: str, pane: int) -> str:
    """Name of the file of a window that begins at ``start_s``, seconds since 1970.

    Its ``pane`` is 0 for the rows that came in time, and counts those that came later.
    """
    return f"{utc_name(start_s)}-{run_id}-{pane:03d}.parquet"


def utc_name(start_s: float) -> str:
    """A time of whole seconds as 20260131T235900Z, which sorts; of what has none, ``undated``."""
    if start_s < 0:  # a file that is no block has no event time: Beam's least one
        return "undated"
    return utc(round(1e6 * start_s)).strftime("%Y%m%dT%H%M%SZ")


class _WriteFileDoFn(beam.DoFn):  # type: ignore[misc]
    def __init__(self, folder: str, schema: pa.Schema, run_id: str) -> None:
        self._folder, self._schema, self._run_id = folder, schema, run_id

    def process(
        self,
        element: tuple[int, Iterable[Row]],
        rows_window: Any = beam.DoFn.WindowParam,
        pane: Any = beam.DoFn.PaneInfoParam,
    ) -> Iterator[str]:
        # In one order, whatever the order in which they came: the same file again.
        rows = sorted((row_dict(row) for row in element[1]), key=lambda row: row["row_id"])
        name = file_name(float(rows_window.start), self._run_id, pane.index)
        path = f"{self._folder}/{name}"
        with committed(path) as draft:
            table = pa.Table.from_pylist(rows, schema=self._schema)
            pq.write_table(table, draft, compression="zstd")
        yield path


@dataclass
class WriteWindows(beam.PTransform):  # type: ignore[misc]
    """Rows to Parquet files, ``FOLDER/START-RUN_ID-PANE.parquet``; gives their paths.

    A window is of the event time at which a row was known: that of the block that completed it.
    Its file is there when event time has passed its end; what comes later is in further files.

    Parameters
    ----------
    folder : str
        Local, or of a file system of Beam's.
    row_class : type
        Of the rows.
    run_id : str
    window_seconds : float
    labels : tuple of str
        The model's, for the schema's metadata.
    """

    folder: str
    row_class: type
    run_id: str
    window_seconds: float
    labels: tuple[str, ...] = ()

    def expand(self, rows: beam.PCollection) -> beam.PCollection:
        schema = schema_of(self.row_class, labels=self.labels)
        late = AfterProcessingTime(_LATE_FILE_SECONDS)
        return (
            rows
            | "Windows" >> beam.WindowInto(
                window.FixedWindows(self.window_seconds),
                trigger=AfterWatermark(late=late),
                allowed_lateness=Duration(seconds=_ALLOWED_LATENESS_SECONDS),
                accumulation_mode=AccumulationMode.DISCARDING,
            )
            | "Key" >> beam.WithKeys(0)  # few rows: one file for each window
            | "Group" >> beam.GroupByKey()
            | "WriteFile" >> beam.ParDo(_WriteFileDoFn(self.folder, schema, self.run_id))
        )  # fmt: skip


def to_message(row: Row) -> tuple[bytes, bytes]:
    """A row as key and value of a Kafka message: its stream, whose rows stay in order, and JSON."""
    return (row.stream_id or "").encode(), to_json(row).encode()


class _WriteBlocksDoFn(beam.DoFn):  # type: ignore[misc]
    def __init__(self, folder: str) -> None:
        self._folder = folder

    def process(self, block: Block) -> Iterator[str]:
        path = f"{self._folder}/{block.file_name}"
        commit(path, encode_block(block))
        yield path


@dataclass
class WriteBlocks(beam.PTransform):  # type: ignore[misc]
    """Blocks to files of a folder, in which pipeline.stream reads them again; gives their paths.

    Parameters
    ----------
    folder : str
        Local, or of a file system of Beam's.
    """

    folder: str

    def expand(self, blocks: beam.PCollection) -> beam.PCollection:
        return blocks | beam.ParDo(_WriteBlocksDoFn(self.folder))
