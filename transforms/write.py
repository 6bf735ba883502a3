"""WriteToParquet: finished tracks and failures to the journal at once, to the datasets at the end.

Beam's own Parquet sink leaves nothing behind when a run is killed. Here every row is durable
within seconds, in the journal's segments; when all of them are there, one worker makes the
datasets out of them. Only the segments' names cross a shuffle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa

from transforms.journal import Journal, Kind, list_segments
from transforms.provenance import Provenance
from transforms.records import (
    WINDOWS_COLUMN,
    FailureRow,
    journal_schema,
    schema_of,
)
from transforms.storage.dataset import Target
from transforms.storage.publish import Outcome, publish
from transforms.track_rows import failure_rows


class _PublishDoFn(beam.DoFn):  # type: ignore[misc]
    """Publish what was journalled, also the tracks that a worker finished before it died."""

    def __init__(self, journal: str, target: Target, predictions: pa.Schema) -> None:
        self._journal = journal
        self._target = target
        self._predictions = predictions

    def process(self, _impulse: bytes, paths: Iterable[str]) -> Iterator[tuple[Outcome, int]]:
        # What a dead worker failed at is told, or labelled, by the one that did it again.
        finished = {path for path, kind, _ in list_segments(self._journal) if kind == "tracks"}
        all_paths = sorted(finished.union(paths))
        yield from publish(all_paths, self._target, self._predictions).items()


@dataclass
class WriteToParquet(beam.PTransform):  # type: ignore[misc]
    """Results to Parquet: a dict of PCollections to the published counts by outcome.

    Takes rows of whole tracks (see transforms.rollup) under any names, under ``copies`` those that
    are to be filled in (see transforms.storage.reuse), and under ``failures/STAGE`` the Failures
    of each stage. Every collection is journalled where it is made. Gives PCollection[((outcome,
    label or reason), int)].

    Parameters
    ----------
    journal : str
        Folder of the run's journal.
    target : Target
        Where the datasets go.
    predictions : pyarrow.Schema
        Of the predictions (or other results, see transforms.results), a manifest's own columns
        included.
    provenance : Provenance
        Of the run, for the failures' rows.
    """

    journal: str
    target: Target
    predictions: pa.Schema
    provenance: Provenance

    def expand(self, results: dict[str, beam.PCollection]) -> beam.PCollection:
        paths = tuple(self._journalled(name, rows) for name, rows in results.items())
        all_paths = paths | "Segments" >> beam.Flatten()
        do_fn = _PublishDoFn(self.journal, self.target, self.predictions)
        return (
            next(iter(results.values())).pipeline
            | beam.Impulse()
            | "Publish" >> beam.ParDo(do_fn, paths=beam.pvalue.AsList(all_paths))
        )

    def _journalled(self, name: str, results: beam.PCollection) -> beam.PCollection:
        if name.startswith("failures"):
            rows = results | f"Rows/{name}" >> beam.Map(failure_rows, self.provenance)
            journal = Journal(self.journal, "failures", journal_schema(schema_of(FailureRow)))
        else:
            rows, schema = results, journal_schema(self.predictions)
            kind: Kind = "copies" if name == "copies" else "tracks"
            nested = WINDOWS_COLUMN if WINDOWS_COLUMN in schema.names else None
            journal = Journal(self.journal, kind, schema, nested=nested)
        return rows | f"Journal/{name}" >> journal
