"""Books: every input has exactly one outcome, counted inside the graph.

What goes in is counted as ReadFiles hands it on (repetitions of one listing merged, and counted
in the metric ``duplicate_listings``), what comes out where rows leave for Parquet. Neither count
knows of the other, so a stage that loses or doubles a track is found out.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from transforms.errors import BooksError
from transforms.records import Failure, Track


@dataclass(frozen=True)
class Books:
    """Counts of one run; one listing of a track is one input."""

    listed: int
    labelled: int
    failed: int
    skipped: int  # already labelled by the same content, model and front end
    labelled_by_label: dict[str, int] = dataclasses.field(default_factory=dict)
    failed_by_reason: dict[str, int] = dataclasses.field(default_factory=dict)

    def check(self) -> None:
        """Raise BooksError unless listed = labelled + failed + skipped."""
        outcomes = self.labelled + self.failed + self.skipped
        if self.listed != outcomes:
            raise BooksError(
                f"the books do not balance: {self.listed} inputs, but {self.labelled} labelled + "
                f"{self.failed} failed + {self.skipped} skipped = {outcomes}"
            )

    @property
    def failure_rate(self) -> float:
        """Share of the inputs that failed, 0 to 1."""
        return self.failed / self.listed if self.listed else 0.0


_LISTED, _LABELLED, _FAILED = "listed", "labelled", "failed"


def _count_track(track: Track) -> tuple[tuple[str, str], int]:
    return (_LISTED, ""), len(track.listings)


def _count_read_failure(_failure: Failure) -> tuple[tuple[str, str], int]:
    return (_LISTED, ""), 1


def _count_labelled(row: dict[str, Any]) -> tuple[tuple[str, str], int]:
    return (_LABELLED, str(row["label"])), 1


def _count_failed(row: dict[str, Any]) -> tuple[tuple[str, str], int]:
    return (_FAILED, str(row["reason"])), 1


def to_books(counts: Iterable[tuple[tuple[str, str], int]]) -> Books:
    """Counts keyed by (outcome, its label or reason) as Books."""
    by_key = dict(counts)
    labels = {label: n for (outcome, label), n in by_key.items() if outcome == _LABELLED}
    reasons = {reason: n for (outcome, reason), n in by_key.items() if outcome == _FAILED}
    return Books(
        listed=by_key.get((_LISTED, ""), 0),
        labelled=sum(labels.values()),
        failed=sum(reasons.values()),
        skipped=0,
        labelled_by_label=dict(sorted(labels.items())),
        failed_by_reason=dict(sorted(reasons.items())),
    )


class _CloseDoFn(beam.DoFn):  # type: ignore[misc]
    """Write the books, then fail the run if they do not balance."""

    def __init__(self, path: str) -> None:
        self._path = path

    def process(
        self, _impulse: bytes, counts: Iterable[tuple[tuple[str, str], int]]
    ) -> Iterator[Books]:
        books = to_books(counts)
        content = json.dumps(dataclasses.asdict(books)).encode()
        with FileSystems.create(
            self._path, compression_type=CompressionTypes.UNCOMPRESSED
        ) as stream:
            stream.write(content)
        books.check()
        yield books


def read_books(path: str) -> Books:
    """The books that a run wrote."""
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
        return Books(**json.loads(stream.read()))


@dataclass
class CloseBooks(beam.PTransform):  # type: ignore[misc]
    """Reconcile a run: a dict of PCollections to one Books, which is also written to ``path``.

    Takes ``tracks`` (Track), ``read_failures`` (Failure, of ReadFiles), ``predictions`` and
    ``failures`` (rows as written). The run fails with BooksError if they do not balance.

    Parameters
    ----------
    path : str
        JSON file to write.
    """

    path: str

    def expand(self, inputs: dict[str, beam.PCollection]) -> beam.PCollection:
        counts = (
            inputs["tracks"] | "CountTracks" >> beam.Map(_count_track),
            inputs["read_failures"] | "CountReadFailures" >> beam.Map(_count_read_failure),
            inputs["predictions"] | "CountLabelled" >> beam.Map(_count_labelled),
            inputs["failures"] | "CountFailed" >> beam.Map(_count_failed),
        )
        summed = counts | beam.Flatten() | beam.CombinePerKey(sum)
        impulse = inputs["tracks"].pipeline | beam.Impulse()
        return impulse | "Close" >> beam.ParDo(
            _CloseDoFn(self.path), counts=beam.pvalue.AsList(summed)
        )
