"""Topics as sources and sinks, without a broker; with a real one in tests/pipeline."""

from __future__ import annotations

import socket
import sys
import time
from dataclasses import dataclass

import apache_beam as beam
import pytest
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.utils.timestamp import Timestamp

from transforms.errors import StorageError, UsageError
from transforms.streaming import kafka, kafka_client, kafka_source
from transforms.streaming.kafka import ReadKafka, WriteKafka
from transforms.streaming.kafka_client import KafkaTopic, partitions_of
from transforms.streaming.kafka_source import _RangeCoder, _ReadPartition


@pytest.fixture
def nobody() -> KafkaTopic:
    """A topic of a broker that does not answer."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        return KafkaTopic(f"127.0.0.1:{held.getsockname()[1]}", "blocks")


def test_a_topic_is_written_as_a_uri() -> None:
    topic = KafkaTopic.parse("kafka://a.example:9092,b:9093/live.blocks", {"x": "y"})
    assert topic == KafkaTopic("a.example:9092,b:9093", "live.blocks", {"x": "y"})


@pytest.mark.parametrize(
    "uri",
    ["kafka://a:9092", "kafka://a:9092/", "kafka://a/t", "kafka:///t", "http://a:1/t",
     "kafka://a:9092/t/u", "kafka://a:9092/t?x=1", "kafka://a:9092,/t", "t"],
)  # fmt: skip
def test_anything_else_is_refused(uri) -> None:
    with pytest.raises(UsageError, match="kafka://HOST:PORT/TOPIC"):
        KafkaTopic.parse(uri)


def test_without_the_client_a_line_says_what_to_install(nobody, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(UsageError, match=r"pip install 'catalog-labels\[kafka\]'"):
        partitions_of(nobody)
    with pytest.raises(UsageError, match=r"catalog-labels\[kafka\]"):
        [(b"k", b"v")] | WriteKafka(nobody)


def test_a_broker_that_does_not_answer_is_told_before_any_work(nobody, monkeypatch) -> None:
    pytest.importorskip("confluent_kafka")
    monkeypatch.setattr(kafka_client, "_ANSWER_SECONDS", 0.3)
    with pytest.raises(UsageError, match="no broker answers"):
        partitions_of(nobody)
    with pytest.raises(UsageError, match="no broker answers"):
        beam.Pipeline(runner="FnApiRunner") | ReadKafka(nobody)


def test_records_that_no_broker_takes_fail_their_bundle(nobody) -> None:
    pytest.importorskip("confluent_kafka")
    produce = kafka._Produce(nobody, lost_s=0.5)
    produce.start_bundle()
    produce.process((b"k", b"v"), Timestamp(1))
    begun = time.monotonic()
    with pytest.raises(StorageError, match="blocks: records did not arrive"):
        produce.finish_bundle()
    assert time.monotonic() - begun < 5


def test_the_buffer_is_bounded(nobody) -> None:
    pytest.importorskip("confluent_kafka")
    topic = KafkaTopic(nobody.brokers, nobody.name, {"queue.buffering.max.messages": "10"})
    produce = kafka._Produce(topic, lost_s=0.5)
    produce.start_bundle()
    with pytest.raises(StorageError, match="did not arrive"):
        for _ in range(20):
            produce.process((b"k", b"v"), Timestamp(1))


def test_a_record_that_is_too_large_is_told(nobody) -> None:
    pytest.importorskip("confluent_kafka")
    produce = kafka._Produce(nobody, lost_s=0.5)
    produce.start_bundle()
    with pytest.raises(StorageError, match=r"[Mm]essage size too large"):
        produce.process((b"k", bytes(2_000_000)), Timestamp(1))


def test_bundles_share_a_producer_until_one_fails(nobody) -> None:
    pytest.importorskip("confluent_kafka")
    failures = KafkaTopic(nobody.brokers, "blocks-failures")
    first = kafka_client.producer_of_thread(nobody, 0.5)
    assert kafka_client.producer_of_thread(failures, 0.5) is first
    assert kafka_client.producer_of_thread(nobody, 0.6) is not first
    produce = kafka._Produce(nobody, lost_s=0.5)
    produce.start_bundle()
    produce.process((b"k", b"v"), Timestamp(1))
    with pytest.raises(StorageError):
        produce.finish_bundle()
    assert kafka_client.producer_of_thread(nobody, 0.5) is not first
    produce.start_bundle()  # whose failure is not this one's
    produce.finish_bundle()


@dataclass
class Message:
    at: int
    ms: int
    content: bytes | None = b"v"

    def offset(self) -> int:
        return self.at

    def timestamp(self) -> tuple[int, int]:
        return 1, self.ms

    def key(self) -> bytes:
        return b"k"

    def value(self) -> bytes | None:
        return self.content


class Log:
    """Stands in for a reader of a partition."""

    def __init__(self, *messages: Message) -> None:
        self.messages = messages

    def bounds(self) -> tuple[int, int]:
        return 3, 8

    def take(self, offset: int) -> list[Message]:
        return [message for message in self.messages if message.at >= offset]


class View:
    """What Beam makes of a tracker for a DoFn."""

    def __init__(self, start: int) -> None:
        self.tracker = OffsetRestrictionTracker(OffsetRange(start, 1 << 62))
        self.rest: OffsetRange | None = None

    def current_restriction(self) -> OffsetRange:
        return self.tracker.current_restriction()

    def try_claim(self, offset: int) -> bool:
        return self.tracker.try_claim(offset)

    def defer_remainder(self, _delay: object) -> None:
        self.rest = self.tracker.try_split(0)[1]


def partition(log: Log) -> _ReadPartition:
    kafka_source._readers.clear()
    topic = KafkaTopic("nobody:1", "blocks")
    kafka_source._readers["nobody:1", "blocks", 0] = log  # type: ignore[assignment]
    return _ReadPartition(topic, from_start=False)


def test_a_partition_goes_on_behind_what_was_read() -> None:
    # Offset 6 is missing, as after a compaction, and 7 is a deleted key.
    log = Log(Message(4, 1000), Message(5, 1500), Message(7, 1700, None))
    view, watermark = View(5), ManualWatermarkEstimator(None)
    found = list(partition(log).process(0, view, watermark))  # type: ignore[arg-type]
    assert [(one.value, float(one.timestamp)) for one in found] == [((b"k", b"v"), 1.5)]
    assert view.rest == OffsetRange(8, 1 << 62)
    view.tracker.check_done()
    assert float(watermark.current_watermark()) == 1.7


def test_an_idle_partition_follows_the_clock() -> None:
    view, watermark = View(8), ManualWatermarkEstimator(Timestamp(5))
    assert list(partition(Log()).process(0, view, watermark)) == []  # type: ignore[arg-type]
    assert view.rest == OffsetRange(8, 1 << 62)
    assert 0.9 < time.time() - float(watermark.current_watermark()) < 3


def test_a_watermark_does_not_go_back() -> None:
    late = Timestamp(time.time() + 10)
    watermark = ManualWatermarkEstimator(late)
    list(partition(Log(Message(8, 1000))).process(0, View(8), watermark))  # type: ignore[arg-type]
    assert watermark.current_watermark() == late


@pytest.mark.parametrize(("from_start", "first"), [(True, 3), (False, 8)])
def test_where_a_partition_begins(from_start, first) -> None:
    read = partition(Log())
    read._from_start = from_start
    begin = read.initial_restriction(0)
    assert begin.start == first
    assert _RangeCoder().decode(_RangeCoder().encode(begin)) == begin
