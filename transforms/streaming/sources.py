"""ReadFolder and ReadLive: from where blocks are to (stream_id, block on the wire).

ReadFolder reads what is there now and is bounded: it runs on every runner that sees the folder.
ReadLive goes on for ever and runs on BundleBasedDirectRunner (see transforms.streaming.live_root).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp

from transforms.stage_metrics import FAILED_PREFIX, FAILURES, OUT_METRIC
from transforms.streaming.arrivals import BLOCKS, Arrived, SourceFailure, SourceSpec
from transforms.streaming.folder import FolderSpec, check_folder, strays, stream_ids
from transforms.streaming.live_root import LiveRoot, Stop

STAGE = "ReadBlocks"
KeyedBlock = tuple[str, bytes]


class _Outputs:
    """Sends each item to its output, and counts it."""

    def __init__(self) -> None:
        self._out = Metrics.counter(STAGE, OUT_METRIC)

    def of(self, item: Arrived | SourceFailure) -> Any:
        if isinstance(item, Arrived):
            self._out.inc()
            value = (item.stream_id, item.content)
            return TimestampedValue(value, Timestamp(micros=item.event_time_us))
        Metrics.counter(STAGE, FAILED_PREFIX + item.reason.value).inc()
        return beam.pvalue.TaggedOutput(FAILURES, item)


class _Sort(beam.DoFn):  # type: ignore[misc]
    def __init__(self) -> None:
        self._outputs = _Outputs()

    def process(self, item: Arrived | SourceFailure) -> Iterator[Any]:
        yield self._outputs.of(item)


class _ReadStream(beam.DoFn):  # type: ignore[misc]
    """Reads a folder's streams to their end, each in one worker and in order."""

    def __init__(self, spec: FolderSpec) -> None:
        self._spec = spec
        self._outputs = _Outputs()

    def process(self, stream_id: str) -> Iterator[Any]:
        source = replace(self._spec, only=stream_id).open()
        try:
            ended = False
            while not ended:
                polled = source.poll()
                yield from map(self._outputs.of, polled.items)
                ended = polled.ended
        finally:
            source.close()


@dataclass
class ReadFolder(beam.PTransform):  # type: ignore[misc]
    """The blocks and audio files that are in a folder now; a dictionary of BLOCKS and FAILURES.

    The blocks of a stream come in order, and those of one before or behind those of others.

    Parameters
    ----------
    spec : FolderSpec
        With ``follow=False``.

    Raises
    ------
    InputError
        If the folder is not there.
    """

    spec: FolderSpec

    def __post_init__(self) -> None:
        super().__init__()
        if self.spec.follow:
            raise ValueError("ReadLive follows a folder")
        check_folder(self.spec.folder)

    def expand(self, begin: Any) -> Any:
        folder = self.spec.folder
        strays_of_it = begin | "Strays" >> beam.Create(strays(folder), reshuffle=False)
        read = (
            begin
            | "Streams" >> beam.Create(stream_ids(folder), reshuffle=True)
            | "Read" >> _sorted(beam.ParDo(_ReadStream(self.spec)))
        )
        lone = strays_of_it | "Sort" >> _sorted(beam.ParDo(_Sort()))
        failures = (read[FAILURES], lone[FAILURES]) | beam.Flatten()
        return {BLOCKS: read[BLOCKS], FAILURES: failures}


def _sorted(into: Any) -> Any:
    return into.with_output_types(tuple[str, bytes]).with_outputs(FAILURES, main=BLOCKS)


@dataclass
class ReadLive(beam.PTransform):  # type: ignore[misc]
    """Blocks as they come; an outputs tuple of BLOCKS and FAILURES.

    A block is timestamped with its event time. The watermark is the least of all sources.

    Parameters
    ----------
    specs : sequence of SourceSpec
    stop : Stop
        Ends them, as their own end and ``for_seconds`` do; all that came is then labelled.
    for_seconds : float or None
    """

    specs: Sequence[SourceSpec]
    stop: Stop = field(default_factory=Stop.new)
    for_seconds: float | None = None

    def __post_init__(self) -> None:
        super().__init__()
        for spec in self.specs:
            if isinstance(spec, FolderSpec):
                check_folder(spec.folder)

    def expand(self, begin: Any) -> Any:
        return (
            begin | LiveRoot(self.specs, self.stop, self.for_seconds) | _sorted(beam.ParDo(_Sort()))
        )
