"""Journal: makes results durable in front of RollUp, where a GroupByKey waits for the whole run.

Every worker writes small Parquet segments under ``OUTPUT/journal/RUN_ID``, by rows or seconds
and not by bundle, each committed at once (write, fsync, rename). A segment's name states its
kind and its rows, ``tracks-000120-….parquet``, so that progress is a listing of names.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from transforms.manifest import is_local
from transforms.records import Failure, TrackFacts, WindowPrediction, row_dict

Kind = Literal["tracks", "windows", "failures", "window_failures"]
T = TypeVar("T")

_SEGMENT = re.compile(r"(tracks|windows|failures|window_failures)-(\d+)-[0-9a-f]+\.parquet")
_MAX_ROWS = 2_000
_FIRST_FLUSH_S, _MAX_FLUSH_S = 1.0, 30.0  # doubling: a short run shows progress, a long one
#                                           writes few files and loses half a minute at most

_FLOATS = pa.list_(pa.float32())
_FAILURE = pa.schema(
    [
        ("uri", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("message", pa.string()),
        ("size_bytes", pa.int64()),
    ]
)
_SCHEMAS: dict[Kind, pa.Schema] = {
    "tracks": pa.schema(
        [
            ("uri", pa.string()),
            ("content_sha256", pa.string()),
            ("size_bytes", pa.int64()),
            ("duration_s", pa.float64()),
            ("sample_rate_hz", pa.int32()),
            ("channels", pa.int32()),
            ("container", pa.string()),
            ("codec", pa.string()),
            ("decoder", pa.string()),
            ("window_count", pa.int32()),
            ("decode_warnings", pa.list_(pa.string())),
        ]
    ),
    "windows": pa.schema(
        [
            ("uri", pa.string()),
            ("window_index", pa.int32()),
            ("start_s", pa.float64()),
            ("end_s", pa.float64()),
            ("content_s", pa.float64()),
            ("log_probs", _FLOATS),
            ("embedding", _FLOATS),
        ]
    ),
    "failures": _FAILURE,
    "window_failures": _FAILURE,
}


def to_table(kind: Kind, records: list[Any]) -> pa.Table:
    """Records of one kind (TrackFacts, WindowPrediction or Failure) as an Arrow table."""
    return pa.Table.from_pylist([row_dict(record) for record in records], _SCHEMAS[kind])


def commit_segment(folder: str, kind: Kind, records: list[Any]) -> str:
    """Write one segment so that it is either there whole or not at all.

    Returns
    -------
    str
        The segment's path.
    """
    name = f"{kind}-{len(records):06d}-{uuid.uuid4().hex}.parquet"
    buffer = pa.BufferOutputStream()
    pq.write_table(to_table(kind, records), buffer, compression="zstd")
    path = f"{folder}/{name}"
    if is_local(folder):
        _commit_local(Path(path), buffer.getvalue())
    else:  # an object store shows an object when its upload is complete
        with FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
            stream.write(buffer.getvalue().to_pybytes())
    return path


def _commit_local(path: Path, content: pa.Buffer) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def count_rows(folder: str) -> Counter[str]:
    """Journalled rows by kind, read from the segments' names."""
    counts: Counter[str] = Counter()
    if is_local(folder):
        names = [path.name for path in Path(folder).glob("*.parquet")]
    else:
        (result,) = FileSystems.match([f"{folder}/*"])
        names = [metadata.path.rpartition("/")[2] for metadata in result.metadata_list]
    for name in names:
        if found := _SEGMENT.fullmatch(name):
            counts[found[1]] += int(found[2])
    return counts


class SegmentBuffer(Generic[T]):
    """Collects records and decides when they are due to be committed.

    Parameters
    ----------
    commit : callable
        Takes the collected records.
    clock : callable
        Seconds, monotonic.
    """

    def __init__(
        self, commit: Callable[[list[T]], Any], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._commit = commit
        self._clock = clock
        self._records: list[T] = []
        self._interval_s = _FIRST_FLUSH_S
        self._due = clock() + self._interval_s

    def add(self, record: T) -> None:
        """Collect a record; commit when the rows or the seconds are full."""
        self._records.append(record)
        if len(self._records) >= _MAX_ROWS or self._clock() >= self._due:
            self.flush()

    def flush(self) -> None:
        """Commit what is there."""
        if self._records:
            self._commit(self._records)
            self._records = []
        self._interval_s = min(2 * self._interval_s, _MAX_FLUSH_S)
        self._due = self._clock() + self._interval_s


class _JournalDoFn(beam.DoFn):  # type: ignore[misc]
    _buffer: SegmentBuffer[Any]  # from setup on

    def __init__(self, folder: str, kind: Kind) -> None:
        self._folder = folder
        self._kind: Kind = kind

    def setup(self) -> None:
        self._buffer = SegmentBuffer(lambda rows: commit_segment(self._folder, self._kind, rows))

    def process(self, record: TrackFacts | WindowPrediction | Failure) -> Iterator[Any]:
        self._buffer.add(record)
        yield record

    def finish_bundle(self) -> None:
        self._buffer.flush()


@dataclass
class Journal(beam.PTransform):  # type: ignore[misc]
    """Pass records through and write them to the journal on the way.

    Parameters
    ----------
    folder : str
        ``OUTPUT/journal/RUN_ID``.
    kind : {"tracks", "windows", "failures", "window_failures"}
        Which records these are: TrackFacts, WindowPrediction, or the Failure of a whole track or
        of one window of a track that has its facts.
    """

    folder: str
    kind: Kind

    def expand(self, records: beam.PCollection) -> beam.PCollection:
        return records | beam.ParDo(_JournalDoFn(self.folder, self.kind))
