"""Kafka topics as endless sources and as sinks: ``kafka://HOST:PORT/TOPIC``.

A topic is read by Beam's own KafkaIO, which is Java, where an expansion service is given (on
Flink, see pipeline.kafka_java), and in Python by transforms.streaming.kafka_source on other
clusters; transforms.streaming.kafka_live follows one in this process. It is
written by transforms.streaming.kafka_client.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Optional

import apache_beam as beam
from apache_beam.transforms.external import ExternalTransform, NamedTupleBasedPayloadBuilder
from apache_beam.utils.timestamp import Timestamp

from transforms.errors import StorageError
from transforms.streaming.kafka_client import (
    Clock,
    KafkaTopic,
    Sender,
    confluent_kafka,
    forget_producers,
    producer_of_thread,
)
from transforms.streaming.kafka_source import ReadKafkaInPython, Record

# Of those that Beam's Java of deploy/job_servers knows, and with the fields that it has: Python's
# own ReadFromKafka sends newer ones, which it refuses.
_READ = "beam:transform:org.apache.beam:kafka_read_without_metadata:v1"
_AS_BYTES = "org.apache.kafka.common.serialization.ByteArrayDeserializer"
_ReadFields = NamedTuple(  # noqa: UP014, Beam wants the types and not their names
    "_ReadFields",
    [
        ("consumer_config", Mapping[str, str]),
        ("topics", list[str]),
        ("key_deserializer", str),
        ("value_deserializer", str),
        ("start_read_time", Optional[int]),  # noqa: UP045, as above
        ("max_num_records", Optional[int]),  # noqa: UP045
        ("max_read_time", Optional[int]),  # noqa: UP045
        ("commit_offset_in_finalize", bool),
        ("timestamp_policy", str),
    ],
)
_LOST_SECONDS = 60.0  # a record that no broker takes for so long fails its bundle


def _has_value(record: tuple[bytes | None, bytes | None]) -> bool:
    return record[1] is not None  # None is Kafka's mark for a deleted key


@dataclass
class ReadKafka(beam.PTransform):  # type: ignore[misc]
    """Read a topic without an end.

    A partition in which nothing arrives any more does not hold the others' watermark back. But by
    CreateTime, in Java, one in which nothing has ever arrived does: no timer of event time fires
    until each partition has had a record. A topic with ``message.timestamp.type=LogAppendTime``,
    read with that ``time``, knows no such wait.

    Attributes
    ----------
    topic : KafkaTopic
    expansion_service : str, optional
        HOST:PORT of one that knows KafkaIO; without it Python reads.
    from_start : bool
        Read what is there already, too. A job that goes on from a checkpoint goes on where that
        was taken.
    time : str
        What a record's time is: CreateTime, its sender's, or LogAppendTime, its broker's, as the
        topic is set.
    """

    topic: KafkaTopic
    expansion_service: str | None = None
    from_start: bool = False
    time: Clock = "CreateTime"

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[Record]:
        if self.expansion_service is None:
            return begin | ReadKafkaInPython(self.topic, self.from_start)
        read = ExternalTransform(_READ, self._payload(), self.expansion_service)
        records = begin | read
        return records | "Values" >> beam.Filter(_has_value).with_output_types(Record)

    def _payload(self) -> NamedTupleBasedPayloadBuilder:
        settings = {
            "bootstrap.servers": self.topic.brokers,
            "auto.offset.reset": "earliest" if self.from_start else "latest",
            **self.topic.settings,
        }
        fields = _ReadFields(settings, [self.topic.name], _AS_BYTES, _AS_BYTES, None, None, None,
                             False, self.time)  # fmt: skip
        return NamedTupleBasedPayloadBuilder(fields)


@dataclass
class WriteKafka(beam.PTransform):  # type: ignore[misc]
    """Write (key, value) pairs of bytes, each with its element's time.

    All that a bundle holds is acknowledged by all replicas before the bundle ends. Work that a
    runner repeats is written again: readers drop what they have by what stands in the value.

    Attributes
    ----------
    topic : KafkaTopic
    lost_s : float
        A record that no broker takes for so long fails its bundle.
    """

    topic: KafkaTopic
    lost_s: float = _LOST_SECONDS

    def expand(self, records: beam.PCollection[tuple[bytes, bytes]]) -> beam.PCollection[None]:
        confluent_kafka()
        return records | "Produce" >> beam.ParDo(_Produce(self.topic, self.lost_s))


class _Produce(beam.DoFn):  # type: ignore[misc]
    """Holds no producer: where setup is called for each bundle, each would have its own."""

    def __init__(self, topic: KafkaTopic, lost_s: float) -> None:
        self._topic, self._lost_s = topic, lost_s

    def start_bundle(self) -> None:
        producer = producer_of_thread(self._topic, self._lost_s)
        self._sender = Sender(self._topic, self._lost_s, producer)

    def process(
        self,
        element: tuple[bytes, bytes],
        timestamp: Timestamp = beam.DoFn.TimestampParam,
    ) -> None:
        at_ms = max(0, timestamp.micros // 1000)  # 0: now
        with _forgetting():
            self._sender.send(*element, at_ms)

    def finish_bundle(self) -> None:
        with _forgetting():
            self._sender.flush()


@contextlib.contextmanager
def _forgetting() -> Iterator[None]:
    """After a failure the bundle is done anew, by another producer."""
    try:
        yield
    except StorageError:
        forget_producers()
        raise
