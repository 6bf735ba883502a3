"""Journal: finished tracks made durable as a run goes, because a killed run leaves nothing else.

Every worker writes small Parquet segments under ``OUTPUT/journal/RUN_ID``, by rows or seconds
and not by bundle, each committed at once (write, fsync, rename). A finished track is one row per
listing, with its windows nested in the first, all in one segment: there whole or not at all. A
segment's name states its kind and its rows, ``tracks-000120-….parquet``, so that progress is a
listing of names; ``listed-…`` and ``skipped-…`` are such names without content.

transforms.storage.publish makes the datasets out of the segments.
"""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from transforms.stage_metrics import count_parts
from transforms.stopwatch import StopWatch
from transforms.storage.durable import commit, list_folder, read_file

Kind = Literal["tracks", "copies", "failures", "listed", "skipped"]
T = TypeVar("T")

_SEGMENT = re.compile(r"(tracks|copies|failures|listed|skipped)-(\d+)-[0-9a-f]+\.(?:parquet|count)")
_MAX_ROWS = 2_000
_MAX_WINDOWS = 20_000  # of the rows together: a track of a day has thousands
_FIRST_FLUSH_S, _MAX_FLUSH_S = 1.0, 30.0  # doubling: a short run shows progress, a long one
#                                           writes few files and loses half a minute at most


def commit_segment(folder: str, kind: Kind, rows: list[dict[str, Any]], schema: pa.Schema) -> str:
    """Write one segment so that it is either there whole or not at all.

    Returns
    -------
    str
        The segment's path.

    Raises
    ------
    StorageError
        If it cannot be written, though tried again for a while.
    """
    path = f"{folder}/{kind}-{len(rows):06d}-{uuid.uuid4().hex}.parquet"
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema), buffer, compression="zstd")
    commit(path, buffer.getvalue().to_pybytes())
    return path


def commit_count(folder: str, kind: Kind, count: int) -> None:
    """Leave a name that counts ``count`` entries of ``kind``, for the progress."""
    commit(f"{folder}/{kind}-{count:06d}-{uuid.uuid4().hex}.count", b"counted\n")


def read_segment(path: str, columns: list[str] | None = None) -> pa.Table:
    """The rows of a segment, or some of their columns."""
    return pq.read_table(pa.BufferReader(read_file(path)), columns=columns)


def list_segments(folder: str) -> list[tuple[str, str, int]]:
    """(path, kind, rows) of every entry of a journal folder, by name; empty if there is none."""
    paths = list_folder(folder)
    found = [(path, _SEGMENT.fullmatch(path.rpartition("/")[2])) for path in paths]
    return [(path, name[1], int(name[2])) for path, name in found if name]


def count_rows(folder: str) -> Counter[str]:
    """Journalled rows by kind, read from the names."""
    counts: Counter[str] = Counter()
    for _, kind, rows in list_segments(folder):
        counts[kind] += rows
    return counts


class SegmentBuffer(Generic[T]):
    """Collects records and commits them when rows, windows or seconds are full.

    A thread of its own looks at the seconds: the next record may be an hour away.

    Parameters
    ----------
    commit : callable
        Takes the collected records, returns the segment's path.
    clock : callable
        Seconds, monotonic.
    """

    def __init__(
        self, commit: Callable[[list[T]], str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._commit = commit
        self._clock = clock
        self._lock = threading.Lock()
        self._records: list[T] = []
        self._windows = 0
        self._paths: list[str] = []  # committed, not handed out yet
        self._error: Exception | None = None  # of the thread
        self._interval_s = _FIRST_FLUSH_S
        self._due = clock() + self._interval_s
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="journal", daemon=True)

    def start(self) -> None:
        """Begin to look at the seconds."""
        self._thread.start()

    def close(self) -> None:
        """Stop doing so."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(timeout=_FIRST_FLUSH_S):
            try:
                self.commit_if_due()
            except Exception as error:
                self._error = error  # for the next call in the worker's own thread
                return

    def commit_if_due(self) -> None:
        """Commit if the seconds are over."""
        with self._lock:
            if self._clock() >= self._due:
                self._commit_records()

    def add(self, *records: T, windows: int = 0) -> None:
        """Collect records that are committed together and hold ``windows`` windows."""
        with self._lock:
            self._records += records
            self._windows += windows
            if len(self._records) >= _MAX_ROWS or self._windows >= _MAX_WINDOWS:
                self._commit_records()
        self.commit_if_due()

    def flush(self) -> None:
        """Commit what is there."""
        with self._lock:
            self._commit_records()

    def take_paths(self) -> list[str]:
        """Paths of the segments committed since the last call.

        Raises
        ------
        StorageError
            If a commit of the thread failed.
        """
        with self._lock:
            if self._error is not None:
                raise self._error
            paths, self._paths = self._paths, []
            return paths

    def _commit_records(self) -> None:
        if self._records:
            self._paths.append(self._commit(self._records))
            self._interval_s = min(2 * self._interval_s, _MAX_FLUSH_S)
        self._records, self._windows = [], 0
        self._due = self._clock() + self._interval_s


class _JournalDoFn(beam.DoFn):  # type: ignore[misc]
    _buffer: SegmentBuffer[dict[str, Any]]  # from setup on
    _timed: StopWatch

    def __init__(self, folder: str, kind: Kind, schema: pa.Schema, nested: str | None) -> None:
        self._folder = folder
        self._kind: Kind = kind
        self._schema = schema
        self._nested = nested

    def setup(self) -> None:
        self._timed = StopWatch()
        self._buffer = SegmentBuffer(self._commit)
        self._buffer.start()

    def _commit(self, rows: list[dict[str, Any]]) -> str:
        with self._timed("write"):
            return commit_segment(self._folder, self._kind, rows, self._schema)

    def process(self, rows: list[dict[str, Any]]) -> Iterator[str]:
        windows = sum(len(row[self._nested]) for row in rows) if self._nested else 0
        self._buffer.add(*rows, windows=windows)
        yield from self._buffer.take_paths()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        self._buffer.flush()
        count_parts(self._timed)
        for path in self._buffer.take_paths():
            yield GlobalWindows.windowed_value(path)

    def teardown(self) -> None:
        self._buffer.close()


@dataclass
class Journal(beam.PTransform):  # type: ignore[misc]
    """Rows to durable segments: PCollection of lists of rows to PCollection of segments' paths.

    The rows of one element, those of one track, become durable together.

    Parameters
    ----------
    folder : str
        ``OUTPUT/journal/RUN_ID``.
    kind : {"tracks", "copies", "failures"}
    schema : pyarrow.Schema
        Of the rows.
    nested : str, optional
        Column of lists whose items count towards a segment's size.
    """

    folder: str
    kind: Kind
    schema: pa.Schema
    nested: str | None = None

    def expand(self, rows: beam.PCollection) -> beam.PCollection:
        return rows | beam.ParDo(_JournalDoFn(self.folder, self.kind, self.schema, self.nested))
