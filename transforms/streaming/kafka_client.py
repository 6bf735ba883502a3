"""Kafka as its client sees it: addresses of topics, the library and its settings, and sending.

Free of Beam; sources and sinks share it. The library is confluent-kafka, the extra ``kafka``, and
is imported when it is needed.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from transforms.errors import StorageError, UsageError

KAFKA = "kafka://"
Clock = Literal["CreateTime", "LogAppendTime"]
_ADDRESS = re.compile(
    r"kafka://([^/\s,?#@]+:\d{1,5}(?:,[^/\s,?#@]+:\d{1,5})*)/([A-Za-z0-9._-]{1,249})", re.ASCII
)
_ANSWER_SECONDS = 10.0
_QUIET = 2  # a broker that is away would be told twice a second; who waits for it says so
_BUFFER_KILOBYTES = 1 << 14  # of what is not yet acknowledged; then senders wait
_MAX_MESSAGE_BYTES = 1_048_588  # the broker's own default: a block, and its envelope
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class KafkaTopic:
    """Where a topic is.

    Attributes
    ----------
    brokers : str
        HOST:PORT, or several with commas.
    name : str
    settings : mapping
        More settings of Kafka's clients by their names, of encryption and passwords for example.
    """

    brokers: str
    name: str
    settings: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, address: str, settings: Mapping[str, str] | None = None) -> KafkaTopic:
        """Read ``kafka://HOST:PORT[,HOST:PORT...]/TOPIC``.

        Raises
        ------
        UsageError
            If it is not of this form.
        """
        found = _ADDRESS.fullmatch(address)
        if found is None:
            raise UsageError(f"{address}: write kafka://HOST:PORT/TOPIC")
        return cls(found[1], found[2], dict(settings or {}))

    def __str__(self) -> str:
        return f"{KAFKA}{self.brokers}/{self.name}"


def confluent_kafka() -> Any:
    """The client library, which is an extra.

    Raises
    ------
    UsageError
        If it is not installed.
    """
    try:
        import confluent_kafka as library
    except ImportError as error:
        raise UsageError(
            f"Kafka needs a client ({error}): pip install 'catalog-labels[kafka]'"
        ) from error
    return library


def consumer_settings(topic: KafkaTopic) -> dict[str, Any]:
    """What a reader of partitions that are assigned by hand needs."""
    return {
        "bootstrap.servers": topic.brokers,
        "group.id": "catalog-labels",  # must be there, and is not used
        "enable.auto.commit": False,
        "allow.auto.create.topics": False,
        "log_level": _QUIET,
        **topic.settings,
    }


def producer_settings(topic: KafkaTopic, lost_s: float) -> dict[str, Any]:
    """What a sender needs; a record that no broker takes for ``lost_s`` is lost."""
    return {
        "bootstrap.servers": topic.brokers,
        "enable.idempotence": True,  # with acks=all: no repeats and no changes of order
        "partitioner": "murmur2_random",  # as clients in Java do it
        "message.max.bytes": _MAX_MESSAGE_BYTES,
        "message.timeout.ms": round(1_000 * lost_s),
        "queue.buffering.max.kbytes": _BUFFER_KILOBYTES,
        "log_level": _QUIET,  # to stderr; what matters fails a delivery
        **topic.settings,
    }


def partitions_of(topic: KafkaTopic) -> list[int]:
    """Ask a broker for the partitions of a topic that is to be read, before any work.

    Raises
    ------
    UsageError
        If no broker answers or there is no such topic.
    """
    consumer = confluent_kafka().Consumer(consumer_settings(topic))
    try:
        found = _found(consumer, topic, _ANSWER_SECONDS)
    finally:
        consumer.close()
    if found.error is not None:
        raise UsageError(f"{topic}: {found.error.str()}; check the name")
    return sorted(found.partitions)


def clock_of(topic: KafkaTopic) -> Clock:
    """Ask a broker whose clock gives a topic's records their time.

    Raises
    ------
    UsageError
        As :func:`partitions_of`.
    """
    partitions_of(topic)
    from confluent_kafka.admin import (  # type: ignore[attr-defined]
        AdminClient,
        ConfigResource,
    )

    admin = AdminClient({"bootstrap.servers": topic.brokers, "log_level": _QUIET, **topic.settings})
    (asked,) = admin.describe_configs([ConfigResource("topic", topic.name)]).values()
    return cast(Clock, asked.result(_ANSWER_SECONDS)["message.timestamp.type"].value)


def check_takes(topic: KafkaTopic, producer: Any = None) -> None:
    """Ask a broker for a topic that is to be written, before any work.

    Where the brokers make topics that are asked for, this one is made.

    Parameters
    ----------
    topic : KafkaTopic
    producer : Any, optional
        Who asks; one of its own when None.

    Raises
    ------
    UsageError
        If no broker answers, or the topic is not there and is not made.
    """
    library = confluent_kafka()
    if producer is None:
        producer = library.Producer(producer_settings(topic, _ANSWER_SECONDS))
    end_s = time.monotonic() + _ANSWER_SECONDS
    while True:  # a topic that the broker makes is not there at once
        problem = _found(producer, topic, max(1.0, end_s - time.monotonic())).error
        if problem is None:
            return
        if time.monotonic() >= end_s or not _may_pass(library, problem):
            raise UsageError(f"{topic}: cannot be written ({_text(problem)}); make the topic, or "
                             "name another")  # fmt: skip
        time.sleep(_POLL_SECONDS)


def _found(client: Any, topic: KafkaTopic, timeout_s: float) -> Any:
    """What a broker says of a topic."""
    try:
        return client.list_topics(topic.name, timeout=timeout_s).topics[topic.name]
    except confluent_kafka().KafkaException as error:
        raise UsageError(
            f"{topic}: no broker answers ({_text(error.args[0])}); check the address, and that it "
            "runs"
        ) from error


def _may_pass(library: Any, problem: Any) -> bool:
    passing = {library.KafkaError.LEADER_NOT_AVAILABLE, library.KafkaError.UNKNOWN_TOPIC_OR_PART}
    return problem.code() in passing


def _text(error: Any) -> str:
    return str(error.str() if hasattr(error, "str") else error)


class Sender:
    """Sends records to a topic, and tells whether they arrived; for several threads.

    Parameters
    ----------
    topic : KafkaTopic
    lost_s : float
        A record that no broker takes for so long is lost.
    producer : Any, optional
        Who sends them; one of its own when None.
    """

    def __init__(self, topic: KafkaTopic, lost_s: float, producer: Any = None) -> None:
        self._topic, self._lost_s = topic, lost_s
        self._library = confluent_kafka()
        if producer is None:
            producer = self._library.Producer(producer_settings(topic, lost_s))
        self._producer = producer
        self._lost: str | None = None  # why a record did not arrive

    def check_topic(self) -> None:
        """As :func:`check_takes`."""
        check_takes(self._topic, self._producer)

    def send(self, key: bytes, value: bytes, at_ms: int) -> None:
        """Hand a record over; waits while the buffer is full.

        Raises
        ------
        StorageError
            If this record, or one before it, does not arrive.
        """
        give_up_s = time.monotonic() + self._lost_s
        while True:
            self._raise_lost()
            try:
                self._producer.produce(self._topic.name, key=key, value=value, timestamp=at_ms,
                                       on_delivery=self._delivered)  # fmt: skip
                break
            except BufferError:  # full: wait for acknowledgements
                self._producer.poll(_POLL_SECONDS)
                if time.monotonic() > give_up_s:
                    self._lost = self._lost or f"nothing was taken for {self._lost_s:g} s"
            except self._library.KafkaException as error:
                self._lost = self._lost or _text(error.args[0])
        self._producer.poll(0)

    def flush(self) -> None:
        """Wait until all has arrived.

        Raises
        ------
        StorageError
            If something has not.
        """
        self._raise_lost()
        left = self._producer.flush(self._lost_s + _ANSWER_SECONDS)
        self._raise_lost()
        if left:
            self._lost = f"{left} are left"
            self._raise_lost()

    def _delivered(self, error: Any, _message: Any) -> None:
        if error is not None:
            self._lost = self._lost or _text(error)

    def _raise_lost(self) -> None:
        if self._lost is not None:
            raise StorageError(f"{self._topic}: records did not arrive ({self._lost}); check the "
                               "broker, and start again")  # fmt: skip


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.producers: dict[tuple[tuple[str, Any], ...], Any] = {}


_of_thread = _OfThread()


def producer_of_thread(topic: KafkaTopic, lost_s: float) -> Any:
    """A producer that a thread keeps for all topics of the same brokers.

    A connection takes longer than a bundle. Threads do not share one: each waits for its own
    records alone.
    """
    settings = producer_settings(topic, lost_s)
    key = tuple(sorted(settings.items()))
    if key not in _of_thread.producers:
        _of_thread.producers[key] = confluent_kafka().Producer(settings)
    return _of_thread.producers[key]


def forget_producers() -> None:
    """Drop this thread's producers with all that they hold, after a failure."""
    for producer in _of_thread.producers.values():
        producer.purge()
    _of_thread.producers.clear()
