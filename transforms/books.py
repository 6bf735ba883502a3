"""Books: every input has exactly one outcome.

What goes in is counted as ReadFiles hands it on (repetitions of one listing merged, and counted
in the metric ``duplicate_listings``), what comes out as rows are published. Neither count knows
of the other, so a stage that loses or doubles a track is found out.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from transforms.errors import BooksError
from transforms.results import LABELS, Results
from transforms.storage.durable import commit, read_file

LISTED, SKIPPED, LABELLED, FAILED = "listed", "skipped", "labelled", "failed"

Count = tuple[tuple[str, str], int]
"""((outcome, its label or reason), inputs)."""


@dataclass(frozen=True)
class Books:
    """Counts of one run; one listing of a track is one input."""

    listed: int
    labelled: int
    failed: int
    skipped: int  # labelled already by the same content, model and front end; or see there
    labelled_by_label: dict[str, int] = dataclasses.field(default_factory=dict)
    failed_by_reason: dict[str, int] = dataclasses.field(default_factory=dict)
    skipped_by_outcome: dict[str, int] = dataclasses.field(default_factory=dict)

    def check(self, done: str = LABELLED) -> None:
        """Raise BooksError unless listed = labelled (or what ``done`` says) + failed + skipped."""
        outcomes = self.labelled + self.failed + self.skipped
        if self.listed != outcomes:
            raise BooksError(
                f"the books do not balance: {self.listed} inputs, but {self.labelled} {done} + "
                f"{self.failed} failed + {self.skipped} skipped = {outcomes}"
            )

    def told(self, results: Results = LABELS) -> dict[str, Any]:
        """The counts under a program's own names, as a run's JSON has them."""
        by_kind = f"{results.done}_by_{results.kind_column}"
        names = {"labelled": results.done, "labelled_by_label": by_kind}
        return {names.get(name, name): value for name, value in dataclasses.asdict(self).items()}

    @property
    def failure_rate(self) -> float:
        """Share of the inputs that failed, in this run or one that it goes on with, 0 to 1."""
        failed = self.failed + self.skipped_by_outcome.get(FAILED, 0)
        return failed / self.listed if self.listed else 0.0


def to_books(counts: Iterable[Count], done: str = LABELLED) -> Books:
    """Add up counts by outcome; ``done`` is the one that stands under ``labelled``."""
    sums: dict[str, dict[str, int]] = {key: {} for key in (LISTED, SKIPPED, done, FAILED)}
    for (outcome, kind), number in sorted(counts):
        sums[outcome][kind] = sums[outcome].get(kind, 0) + number
    return Books(
        listed=sum(sums[LISTED].values()),
        labelled=sum(sums[done].values()),
        failed=sum(sums[FAILED].values()),
        skipped=sum(sums[SKIPPED].values()),
        labelled_by_label=sums[done],
        failed_by_reason=sums[FAILED],
        skipped_by_outcome=sums[SKIPPED],
    )


class _CloseDoFn(beam.DoFn):  # type: ignore[misc]
    """Write the books, then fail the run if they do not balance."""

    def __init__(self, path: str, done: str) -> None:
        self._path = path
        self._done = done

    def process(self, _impulse: bytes, counts: Iterable[Count]) -> Iterator[Books]:
        books = to_books(counts, self._done)
        commit(self._path, json.dumps(dataclasses.asdict(books)).encode())
        books.check(self._done)
        yield books


def read_books(path: str) -> Books:
    """The books that a run wrote."""
    return Books(**json.loads(read_file(path)))


@dataclass
class CloseBooks(beam.PTransform):  # type: ignore[misc]
    """Reconcile a run: PCollections of Count to one Books, which is also written to ``path``.

    The run fails with BooksError if they do not balance.

    Parameters
    ----------
    path : str
        JSON file to write.
    done : str
        The outcome of a finished input (transforms.results).
    """

    path: str
    done: str = LABELLED

    def expand(self, counts: Sequence[beam.PCollection]) -> beam.PCollection:
        summed = counts | beam.Flatten() | beam.CombinePerKey(sum)
        impulse = summed.pipeline | beam.Impulse()
        return impulse | "Close" >> beam.ParDo(
            _CloseDoFn(self.path, self.done), counts=beam.pvalue.AsList(summed)
        )
