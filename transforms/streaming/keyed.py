"""From bytes to blocks with the key that Listen wants, and from what is no block to its row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from transforms.provenance import Provenance
from transforms.stage_metrics import FAILURES
from transforms.streaming.arrivals import BLOCKS, Arrived, SourceFailure, arrival
from transforms.streaming.rows import StreamFailureRow
from transforms.streaming.telling import failure_row


class _KeyDoFn(beam.DoFn):  # type: ignore[misc]
    def __init__(self, source: str) -> None:
        self._source = source

    def process(self, content: bytes) -> Iterator[Any]:
        item = arrival(content, self._source)
        if isinstance(item, Arrived):
            yield item.stream_id, item.content
        else:
            yield beam.pvalue.TaggedOutput(FAILURES, item)


@dataclass
class KeyBlocks(beam.PTransform):  # type: ignore[misc]
    """Bytes to (stream id, block on the wire), BLOCKS, and SourceFailure, FAILURES.

    Parameters
    ----------
    source : str
        Where they come from, for failures.
    """

    source: str

    def expand(self, contents: beam.PCollection) -> beam.pvalue.DoOutputsTuple:
        return contents | beam.ParDo(_KeyDoFn(self.source)).with_output_types(
            tuple[str, bytes]
        ).with_outputs(FAILURES, main=BLOCKS)


@dataclass
class TellFailures(beam.PTransform):  # type: ignore[misc]
    """SourceFailure to StreamFailureRow.

    Parameters
    ----------
    provenance : Provenance
    """

    provenance: Provenance

    def expand(self, failures: beam.PCollection) -> beam.PCollection:
        return failures | beam.Map(_row, self.provenance)


def _row(failure: SourceFailure, provenance: Provenance) -> StreamFailureRow:
    return failure_row(
        provenance,
        failure.reason,
        failure.message,
        row_id=f"{failure.source}/{failure.reason.value}",
        stream_id=failure.stream_id,
        source=failure.source,
    )
