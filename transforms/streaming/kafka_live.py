"""A topic followed by this process, as a source of transforms.streaming.live_root."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from transforms.errors import StorageError
from transforms.streaming.arrivals import (
    MAX_POLL_BYTES,
    Arrived,
    Polled,
    Source,
    SourceFailure,
    SourceSpec,
    arrival,
)
from transforms.streaming.kafka_client import (
    KafkaTopic,
    confluent_kafka,
    consumer_settings,
    partitions_of,
)
from transforms.streaming.watermark import DEFAULT_IDLE_SECONDS, Watermark

_AT_ONCE = 16  # messages, of a megabyte at most
_NOT_READ = "?"  # in place of the streams that may be in what was not read yet; no stream's name


@dataclass(frozen=True)
class KafkaSpec(SourceSpec):
    """A topic, and how it is read.

    Parameters
    ----------
    topic : KafkaTopic
    from_start : bool
        Read what is there already, too. Event time stands still until that is read.
    idle_seconds : float
        Without a block for so long, a stream does not hold up the others.
    """

    topic: KafkaTopic
    from_start: bool = False
    idle_seconds: float = DEFAULT_IDLE_SECONDS

    def open(self) -> KafkaSource:
        return KafkaSource(self)


class KafkaSource(Source):
    """Made by :meth:`KafkaSpec.open`.

    Parameters
    ----------
    spec : KafkaSpec
    clock : callable
        Seconds, of which only differences count.
    """

    def __init__(self, spec: KafkaSpec, clock: Callable[[], float] = time.monotonic) -> None:
        self._address = str(spec.topic)
        self._watermark = Watermark(spec.idle_seconds, clock)
        self._library = library = confluent_kafka()
        self._not_read = set(partitions_of(spec.topic))  # to the end that they had at first
        self._consumer = library.Consumer(
            {**consumer_settings(spec.topic), "auto.offset.reset": "earliest",
             "enable.partition.eof": True}
        )  # fmt: skip
        begin = library.OFFSET_BEGINNING if spec.from_start else library.OFFSET_END
        self._consumer.assign(
            [library.TopicPartition(spec.topic.name, each, begin) for each in self._not_read]
        )

    def poll(self) -> Polled:
        items: list[Arrived | SourceFailure] = []
        size = 0
        while size < MAX_POLL_BYTES and (contents := list(self._contents())):
            for content in contents:
                item = arrival(content, self._address)
                if isinstance(item, Arrived):
                    self._watermark.saw(item.stream_id, item.event_time_us, last=item.last)
                items.append(item)
                size += len(content)
        pending = {_NOT_READ} if self._not_read else set()
        return Polled(tuple(items), self._watermark.now_us(pending))

    def _contents(self) -> Iterator[bytes]:
        """Of some messages that are there now."""
        for message in self._consumer.consume(_AT_ONCE, timeout=0):
            if self._is_end(message):
                self._not_read.discard(message.partition())
            elif message.value() is not None:  # None is Kafka's mark for a deleted key
                yield message.value()

    def _is_end(self, message: Any) -> bool:
        error = message.error()
        if error is None:
            return False
        if error.code() == self._library.KafkaError._PARTITION_EOF:
            return True
        raise StorageError(f"{self._address}: cannot be read ({error.str()}); check the broker")

    def close(self) -> None:
        self._consumer.close()
