"""A topic as a live source, on the broker for tests that Kafka's client has within it."""

from __future__ import annotations

import time

import pytest

from transforms.errors import Reason
from transforms.streaming.arrivals import Arrived, SourceFailure
from transforms.streaming.blocks import Block, encode_block
from transforms.streaming.kafka_client import KafkaTopic, Sender, check_takes, partitions_of
from transforms.streaming.kafka_live import KafkaSource, KafkaSpec

kafka = pytest.importorskip("confluent_kafka")
START_US = 1_700_000_000_000_000


@pytest.fixture
def topic():
    broker = kafka.Producer({"test.mock.num.brokers": 1, "log_level": 2})
    (address,) = broker.list_topics(timeout=10).brokers.values()
    broker.list_topics("blocks", timeout=10)  # makes it
    yield KafkaTopic(f"{address.host}:{address.port}", "blocks")
    del broker


def content(stream_id: str, sequence: int) -> bytes:
    return encode_block(
        Block(stream_id=stream_id, sequence=sequence, event_time_us=START_US + sequence,
              sample_rate_hz=8_000, channels=1, payload=bytes(400))
    )  # fmt: skip


def send(topic: KafkaTopic, *contents: bytes) -> None:
    sender = Sender(topic, 10.0)
    for one in contents:
        sender.send(one[-1:], one, START_US // 1_000)
    sender.flush()


def taken(source: KafkaSource, number: int) -> tuple[list, list[int | None]]:
    """So many items, and the watermarks that were told on the way and a little behind."""
    items, marks, until_s = [], [], time.monotonic() + 20
    while len(items) < number and time.monotonic() < until_s:
        polled = source.poll()
        items += polled.items
        marks.append(polled.watermark_us)
        time.sleep(0.01)
    for _ in range(50):
        polled = source.poll()
        items += polled.items
        marks.append(polled.watermark_us)
        time.sleep(0.01)
    return items, marks


def test_blocks_of_several_streams_and_what_is_none(topic):
    sent = [content(name, number) for number in range(20) for name in ("a", "b")]
    send(topic, *sent, b"no block")
    source = KafkaSpec(topic, from_start=True).open()
    items, marks = taken(source, 41)
    source.close()
    blocks = [item for item in items if isinstance(item, Arrived)]
    assert sorted(item.content for item in blocks) == sorted(sent)
    for name in ("a", "b"):
        own = [item.event_time_us - START_US for item in blocks if item.stream_id == name]
        assert own == list(range(20))
    (failure,) = [item for item in items if isinstance(item, SourceFailure)]
    assert failure.reason is Reason.MALFORMED_BLOCK
    assert failure.source.startswith(f"{topic}#sha256:")
    assert marks[-1] == START_US + 19
    assert None in marks  # while the end was not reached, no time was told


def test_what_is_there_already_is_left_out(topic):
    send(topic, content("old", 0))
    source = KafkaSpec(topic).open()
    assert taken(source, 0)[0] == []
    send(topic, content("new", 1))
    items, _ = taken(source, 1)
    source.close()
    assert [item.stream_id for item in items] == ["new"]


def test_topics_are_asked_for_before_any_work(topic):
    assert len(partitions_of(topic)) > 0
    check_takes(topic)
