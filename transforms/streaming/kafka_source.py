"""A Kafka topic read in Python, where Beam's KafkaIO is not: each partition is a range of offsets.

What is not read yet, a partition's next offset, is the remainder of a splittable DoFn and so part
of a runner's checkpoint.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.coders import Coder
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.runners.sdf_utils import RestrictionTrackerView
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Duration, Timestamp

from transforms.errors import StorageError
from transforms.streaming.kafka_client import (
    KafkaTopic,
    confluent_kafka,
    consumer_settings,
    partitions_of,
)

Record = tuple[bytes | None, bytes]

_RANGE = struct.Struct(">qq")  # a partition's next offset, and the end
_NO_END = (1 << 63) - 1
_AT_ONCE = 500  # records of one partition, before the next one has its turn
_PAUSE_S = 0.03  # until a partition is looked at again
_IDLE_S = 1.0  # how far an idle partition's watermark stays behind the clock
_ANSWER_SECONDS = 30.0

_readers: dict[tuple[str, str, int], _Reader] = {}  # of this process, those not at work


@dataclass
class ReadKafkaInPython(beam.PTransform):  # type: ignore[misc]
    """As transforms.streaming.kafka.ReadKafka, whose attributes it has."""

    topic: KafkaTopic
    from_start: bool = False

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[Record]:
        read = _ReadPartition(self.topic, self.from_start)
        return (
            begin
            | "Partitions" >> beam.Create(partitions_of(self.topic))
            | "Read" >> beam.ParDo(read).with_output_types(Record)
        )


class _Reader:
    """A consumer of one partition, which fetches ahead while others have their turn."""

    def __init__(self, topic: KafkaTopic, partition: int) -> None:
        self._library = confluent_kafka()
        self._at = topic.name, partition
        # Of records that the broker has dropped since, the oldest left.
        settings = {**consumer_settings(topic), "auto.offset.reset": "earliest"}
        self._consumer = self._library.Consumer(settings)
        self._next = -1

    def bounds(self) -> tuple[int, int]:
        """The first offset that is there, and the next one that will be."""
        there = self._library.TopicPartition(*self._at)
        low, high = self._consumer.get_watermark_offsets(there, timeout=_ANSWER_SECONDS)
        return low, high

    def take(self, offset: int) -> list[Any]:
        """What has arrived at ``offset`` and behind it; does not wait."""
        if offset != self._next:
            self._consumer.assign([self._library.TopicPartition(*self._at, offset)])
            self._next = offset
        messages: list[Any] = self._consumer.consume(_AT_ONCE, timeout=0)
        for message in messages:
            if message.error() is not None:
                raise StorageError(f"topic {self._at[0]}: {message.error().str()}")
            self._next = message.offset() + 1
        return messages


def _reader(topic: KafkaTopic, partition: int) -> _Reader:
    kept = _readers.pop((topic.brokers, topic.name, partition), None)
    return kept or _Reader(topic, partition)


def _keep(reader: _Reader, topic: KafkaTopic, partition: int) -> None:
    _readers[topic.brokers, topic.name, partition] = reader


class _RangeCoder(Coder):  # type: ignore[misc]
    """Two integers; Beam would pickle the object."""

    def encode(self, value: OffsetRange) -> bytes:
        return _RANGE.pack(value.start, value.stop)

    def decode(self, encoded: bytes) -> OffsetRange:
        return OffsetRange(*_RANGE.unpack(encoded))

    def is_deterministic(self) -> bool:
        return True


class _ReadPartition(beam.DoFn, RestrictionProvider):  # type: ignore[misc]
    def __init__(self, topic: KafkaTopic, from_start: bool) -> None:
        self._topic = topic
        self._from_start = from_start

    def initial_restriction(self, partition: int) -> OffsetRange:
        reader = _reader(self._topic, partition)
        low, high = reader.bounds()
        _keep(reader, self._topic, partition)
        return OffsetRange(low if self._from_start else high, _NO_END)

    def create_tracker(self, restriction: OffsetRange) -> OffsetRestrictionTracker:
        return OffsetRestrictionTracker(restriction)

    def split(self, partition: int, restriction: OffsetRange) -> Iterable[OffsetRange]:
        return [restriction]  # a partition is read in its order

    def restriction_size(self, partition: int, restriction: OffsetRange) -> float:
        return 1.0

    def restriction_coder(self) -> Coder:
        return _RangeCoder()

    def truncate(self, partition: int, restriction: OffsetRange) -> None:
        return None  # a job that is drained reads no more

    @beam.DoFn.unbounded_per_element()  # type: ignore[untyped-decorator]
    def process(
        self,
        partition: int,
        tracker: RestrictionTrackerView = beam.DoFn.RestrictionParam(),  # noqa: B008
        watermark: Any = beam.DoFn.WatermarkEstimatorParam(  # noqa: B008
            ManualWatermarkEstimator.default_provider()  # noqa: B008
        ),
    ) -> Iterator[TimestampedValue]:
        reader = _reader(self._topic, partition)
        latest = Timestamp(time.time() - _IDLE_S)  # where nothing arrives, the clock says
        for message in reader.take(tracker.current_restriction().start):
            if not tracker.try_claim(message.offset()):
                return
            latest = Timestamp(micros=message.timestamp()[1] * 1000)
            if message.value() is not None:
                yield TimestampedValue((message.key(), message.value()), latest)
        before = watermark.current_watermark()
        if before is None or latest > before:
            watermark.set_watermark(latest)
        _keep(reader, self._topic, partition)
        tracker.defer_remainder(Duration(_PAUSE_S))
