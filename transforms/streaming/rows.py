"""The rows that streams are told in; docs/streaming.md says what each column means.

A row's id says what the row is about and never when it was made, so that work which a runner
repeats gives rows of the same ids.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pyarrow as pa

from transforms.records import row_dict
from transforms.storage.json_lines import to_json_line

Kind = Literal["second", "segment", "gap", "end"]

_TIMESTAMP = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True, kw_only=True)
class LabelRow:
    """One statement about a stretch of a stream."""

    row_id: Annotated[str, pa.string()]  # the same in every repetition of the work
    kind: Annotated[str, pa.string()]  # a Kind
    stream_id: Annotated[str, pa.string()]
    session: Annotated[int, pa.int64()]
    sequence: Annotated[int, pa.int64()]  # of the block that completed it
    start_s: Annotated[float, pa.float64()]  # since the first sample of the session
    end_s: Annotated[float, pa.float64()]
    started_at: Annotated[dt.datetime, _TIMESTAMP]  # the same in event time
    ended_at: Annotated[dt.datetime, _TIMESTAMP]
    label: Annotated[str | None, pa.string()] = None
    confidence: Annotated[float | None, pa.float32()] = None
    scores: Annotated[list[float] | None, pa.list_(pa.float32())] = None  # in the model's order
    gap_s: Annotated[float | None, pa.float64()] = None  # of kind gap: what is missing
    lost_blocks: Annotated[int | None, pa.int64()] = None  # of kind gap
    model_fingerprint: Annotated[str, pa.string()]
    front_end_fingerprint: Annotated[str, pa.string()]
    pipeline_version: Annotated[str, pa.string()]
    run_id: Annotated[str, pa.string()]
    labelled_at: Annotated[dt.datetime, _TIMESTAMP]


@dataclass(frozen=True, kw_only=True)
class StreamFailureRow:
    """A block, or a stretch of a stream, that could not be used."""

    row_id: Annotated[str, pa.string()]
    stream_id: Annotated[str | None, pa.string()]  # None: the bytes do not say
    session: Annotated[int | None, pa.int64()]
    sequence: Annotated[int | None, pa.int64()]
    started_at: Annotated[dt.datetime | None, _TIMESTAMP]  # event time of the block
    source: Annotated[str | None, pa.string()]  # a file, or topic:partition:offset, where known
    reason: Annotated[str, pa.string()]
    message: Annotated[str, pa.string()]
    pipeline_version: Annotated[str, pa.string()]
    run_id: Annotated[str, pa.string()]
    failed_at: Annotated[dt.datetime, _TIMESTAMP]


Row = LabelRow | StreamFailureRow


def to_json(row: Row) -> str:
    """A row as one line of JSON, without a line end; times in ISO 8601, UTC."""
    content: dict[str, Any] = row_dict(row)
    return to_json_line(content)


def utc(microseconds: int) -> dt.datetime:
    """An event time as a timestamp."""
    return dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc) + dt.timedelta(microseconds=microseconds)
