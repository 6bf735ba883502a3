"""From a run's journal to its datasets: predictions, windows and failures.

Publishing is a pure function of the segments, so that a run that was killed, even while it
published, is published by the next one with the same result: its own files are written anew.
Each listing gets one row. A segment may hold one twice (a cluster repeats a bundle whose worker
died); a track with several failures shows the earliest stage's.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pyarrow as pa
import pyarrow.compute as pc

from transforms.errors import Reason
from transforms.journal import list_segments, read_segment
from transforms.records import (
    LISTING_COLUMN,
    WINDOWS_COLUMN,
    FailureRow,
    WindowRow,
    schema_of,
)
from transforms.results import LABELS, Results, results_of
from transforms.storage.dataset import DatasetWriter, JsonLinesWriter, Target, remove_datasets
from transforms.storage.extras import extras_of
from transforms.storage.reuse import Reuse, Row, to_table

STAGE_ORDER = ("ReadFiles", "Decode", "Preprocess", "MelSpectrogram", "RunInference", "RollUp",
               "Enhance")  # fmt: skip

_BATCH_ROWS = 1_000
_COPIES = 50_000  # held at once; each such part reads the earlier runs' rows once

Outcome = tuple[str, str]
"""("labelled", label) or ("failed", reason)."""


def publish(
    paths: Sequence[str], target: Target, predictions: pa.Schema | None = None
) -> Counter[Outcome]:
    """Write the datasets of a run from its segments.

    Parameters
    ----------
    paths : sequence of str
        Segments, in any order; entries that are no segments of rows are passed over.
    target : Target
    predictions : pyarrow.Schema, optional
        Schema of the predictions; when None that of the first segment, and neither predictions
        nor windows are written where there is none.

    Returns
    -------
    Counter
        Published rows by outcome.

    Raises
    ------
    StorageError
        If a dataset cannot be written; the journal stays as it is.
    """
    tracks, copies = _of_kind(paths, "tracks"), _of_kind(paths, "copies")
    if predictions is None and (tracks or copies):
        schema = read_segment([*tracks, *copies][0]).schema
        own = [name for name in schema.names if name not in (LISTING_COLUMN, WINDOWS_COLUMN)]
        predictions = pa.schema([schema.field(name) for name in own], metadata=schema.metadata)
    remove_datasets(target)
    counts: Counter[Outcome] = Counter()
    labelled: set[bytes] = set()
    missing: list[Row] = []
    if predictions is not None:
        with _Tracks(target, predictions, labelled, counts) as writers:
            for path in tracks:
                writers.add(read_segment(path))
            rows = itertools.chain.from_iterable(map(_rows, copies))
            while part := list(itertools.islice(rows, _COPIES)):
                missing += writers.add_copies(part)
    failures = _of_kind(paths, "failures")
    results = LABELS if predictions is None else results_of(predictions)
    gone = [_gone(row, results) for row in missing]
    _publish_failures(failures, gone, target, labelled, counts)
    return counts


def publish_journal(journal: str, target: Target) -> Counter[Outcome]:
    """Publish all that a run's journal folder holds; see :func:`publish`."""
    return publish([path for path, _, _ in list_segments(journal)], target)


def _of_kind(paths: Sequence[str], kind: str) -> list[str]:
    named = ((path, path.rpartition("/")[2]) for path in paths)
    return sorted(p for p, n in named if n.startswith(f"{kind}-") and n.endswith(".parquet"))


def listing_key(uri: str, listing: int) -> bytes:
    """16 bytes that stand for one listing of one file."""
    return hashlib.blake2b(f"{listing} {uri}".encode(), digest_size=16).digest()


def listing_keys(table: pa.Table) -> list[bytes]:
    """The key of each row of a segment."""
    uris, listings = table["uri"].to_pylist(), table[LISTING_COLUMN].to_pylist()
    return [listing_key(uri, listing) for uri, listing in zip(uris, listings, strict=True)]


class _Tracks(ExitStack):
    """Writes predictions and windows; ``labelled`` and ``counts`` learn what is written."""

    def __init__(
        self, target: Target, schema: pa.Schema, labelled: set[bytes], counts: Counter[Outcome]
    ) -> None:
        super().__init__()
        self._target, self._schema = target, schema
        self._labelled, self._counts = labelled, counts
        self._results = results_of(schema)
        self._windows_schema = schema_of(WindowRow).with_metadata(schema.metadata)
        dataset = DatasetWriter(target, self._results.dataset, schema)
        self._predictions = self.enter_context(dataset)
        if self._results.has_windows:
            windows = DatasetWriter(target, "windows", self._windows_schema)
            self._windows = self.enter_context(windows)
        self._lines = self.enter_context(JsonLinesWriter(target))

    def add(self, table: pa.Table) -> None:
        """Add finished tracks as the journal has them; those that are there already are not."""
        table = table.take(pa.array(self._unseen(table), pa.int64()))
        if self._results.has_windows:
            self._windows.write(unnested_windows(table, self._windows_schema))
        self._write(table.select(self._schema.names).cast(self._schema))

    def add_copies(self, rows: list[Row]) -> list[Row]:
        """Add copies of what earlier runs have labelled; gives back those that none has."""
        new = [row for row in rows if self._is_new(listing_key(row["uri"], row[LISTING_COLUMN]))]
        extras = extras_of(self._schema)
        reuse = Reuse(self._target, new, extras=extras, results=self._results)
        for found in reuse.predictions():
            self._write(to_table(found, self._schema))
        for found in reuse.windows() if self._results.has_windows else ():
            self._windows.write(to_table(found, self._windows_schema))
        missing = reuse.missing
        self._labelled -= {listing_key(row["uri"], row[LISTING_COLUMN]) for row in missing}
        return missing

    def _write(self, tracks: pa.Table) -> None:
        self._lines.write(tracks)
        self._predictions.write(tracks)
        for kind in tracks[self._results.kind_column].value_counts().to_pylist():
            self._counts[self._results.done, kind["values"]] += kind["counts"]

    def _unseen(self, table: pa.Table) -> list[int]:
        return [index for index, key in enumerate(listing_keys(table)) if self._is_new(key)]

    def _is_new(self, key: bytes) -> bool:
        new = key not in self._labelled
        self._labelled.add(key)
        return new


def unnested_windows(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The windows nested in finished tracks as rows of their own, in the order of the tracks."""
    nested = table[WINDOWS_COLUMN].combine_chunks()
    items, parents = pc.list_flatten(nested), pc.list_parent_indices(nested)
    in_window = {field.name for field in items.type}
    columns = [
        pc.struct_field(items, name) if name in in_window else table[name].take(parents)
        for name in schema.names
    ]
    return pa.Table.from_arrays(columns, names=schema.names).cast(schema)


def _gone(row: Row, results: Results) -> Row:
    """The failure of a copy whose other row is not there any more."""
    message = "another file's row of the same bytes has been removed; start the run again"
    failure = {"stage": results.stage, "reason": Reason.INCOMPLETE.value, "message": message}
    names = [*schema_of(FailureRow).names, LISTING_COLUMN]
    return (
        {name: row.get(name) for name in names} | failure | {"failed_at": row[results.time_column]}
    )


def _publish_failures(
    paths: Sequence[str],
    further: Sequence[Row],
    target: Target,
    labelled: set[bytes],
    counts: Counter[Outcome],
) -> None:
    """Write the first failure of each listing that is not labelled."""

    def keyed() -> Iterator[tuple[bytes, Row]]:
        for row in itertools.chain(itertools.chain.from_iterable(map(_rows, paths)), further):
            yield listing_key(row["uri"], row[LISTING_COLUMN]), row

    first: dict[bytes, tuple[int, str, str, str]] = {}
    for key, row in keyed():
        if key not in labelled:
            first[key] = min(first.get(key, failure_rank(row)), failure_rank(row))
    schema = schema_of(FailureRow)
    batch: list[Row] = []
    with DatasetWriter(target, "failures", schema) as failures:
        for key, row in keyed():
            if first.get(key) == failure_rank(row):
                del first[key]
                counts["failed", row["reason"]] += 1
                batch.append(row)
            if len(batch) >= _BATCH_ROWS:
                failures.write(to_table(batch, schema))
                batch = []
        failures.write(to_table(batch, schema))


def _rows(path: str) -> list[Row]:
    rows: list[Row] = read_segment(path).to_pylist()
    return rows


def failure_rank(row: Row) -> tuple[int, str, str, str]:
    """Order of failures: the earliest stage first; no order of arrival shows."""
    stage = row["stage"]
    place = STAGE_ORDER.index(stage) if stage in STAGE_ORDER else len(STAGE_ORDER)
    return place, stage, row["reason"], row["message"]
