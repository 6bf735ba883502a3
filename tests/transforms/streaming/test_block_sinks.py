"""Sinks: a folder that is read meanwhile, and a Kafka producer that a stub stands for."""

from __future__ import annotations

import os
import socket
import threading
from types import SimpleNamespace

import pytest

from transforms.errors import RunError, StorageError, UsageError
from transforms.streaming.block_sinks import FolderSink, KafkaSink, open_sink
from transforms.streaming.blocks import Block, decode_block
from transforms.streaming.kafka_client import KafkaTopic

HOUR_US = 3_600_000_000
TOPIC = KafkaTopic("h:1", "blocks")


def block(sequence: int = 0, **changes) -> Block:
    fields = {"stream_id": "radio", "session": 3, "sequence": sequence, "sample_rate_hz": 8_000,
              "event_time_us": HOUR_US + 999, "channels": 1, "payload": bytes(20_000)}  # fmt: skip
    return Block(**{**fields, **changes})


def test_a_file_for_each_block(tmp_path):
    sink = FolderSink(tmp_path / "deep" / "er")
    sent = [block(0), block(1, last=True), block(0, stream_id="other")]
    for one in sent:
        sink.send(one)
    sink.close()
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert [str(path.relative_to(tmp_path)) for path in files] == [
        "deep/er/other/3-0000000000.block",
        "deep/er/radio/3-0000000000.block",
        "deep/er/radio/3-0000000001.block",
    ]
    assert [decode_block(path.read_bytes()) for path in files] == [sent[2], *sent[:2]]


def test_nothing_is_overwritten(tmp_path):
    sink = FolderSink(tmp_path)
    sink.send(block())
    with pytest.raises(StorageError, match="nothing is overwritten"):
        sink.send(block(payload=b""))
    (path,) = tmp_path.glob("*/*")
    assert decode_block(path.read_bytes()) == block()


def test_a_reader_sees_whole_blocks_only(tmp_path):
    sink, seen, over = FolderSink(tmp_path), [], threading.Event()

    def watch() -> None:
        while not over.is_set():
            for path in tmp_path.glob("radio/[!.]*"):
                seen.append(decode_block(path.read_bytes()).frames)

    reader = threading.Thread(target=watch)
    reader.start()
    for number in range(150):
        sink.send(block(number))
    over.set()
    reader.join()
    assert set(seen) <= {10_000}


def test_a_crash_leaves_only_a_hidden_file(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    sink = FolderSink(tmp_path)
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StorageError, match="No space left on device; make room"):
        sink.send(block())
    assert list(tmp_path.glob("radio/*")) == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="give another folder"):
        open_sink(str(tmp_path / "file" / "folder"))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("kafka://h:9092/blocks", ("h:9092", "blocks")),
        ("kafka://h:1,i.example:2/a.b-c_d", ("h:1,i.example:2", "a.b-c_d")),
        ("kafka://[::1]:9092/t", ("[::1]:9092", "t")),
        ("kafka://h/blocks", None),
        ("kafka://h:9092", None),
        ("kafka://h:9092/", None),
        ("kafka://h:9092/a/b", None),
        ("kafka://h:9092/a b", None),
    ],
)
def test_addresses(address, expected):
    if expected is None:
        with pytest.raises(UsageError, match="write kafka://HOST:PORT/TOPIC"):
            open_sink(address)
    else:
        assert KafkaTopic.parse(address) == KafkaTopic(*expected)
        assert str(KafkaTopic.parse(address)) == address


kafka = pytest.importorskip("confluent_kafka")


class Producer:
    """Confirms a message at the next poll; has room for a few."""

    room = 2

    def __init__(self, *problems: object) -> None:
        self.problems = list(problems)  # of the topic, question by question
        self.fails_with: object = None
        self.sent: list[dict] = []
        self._waiting: list = []
        self.full = 0

    def list_topics(self, topic: str, timeout: float) -> object:
        problem = self.problems.pop(0) if self.problems else None
        return SimpleNamespace(topics={topic: SimpleNamespace(error=problem)})

    def produce(self, topic: str, *, on_delivery, **message) -> None:
        if len(self._waiting) >= self.room:
            self.full += 1
            raise BufferError
        self.sent.append({"topic": topic, **message})
        self._waiting.append(on_delivery)

    def poll(self, timeout: float) -> None:
        if timeout:
            self.flush(timeout)

    def flush(self, timeout: float) -> int:
        while self._waiting:
            self._waiting.pop(0)(self.fails_with, None)
        return 0


def error(code: int) -> object:
    return kafka.KafkaError(code)


def test_messages():
    producer = Producer()
    sink = KafkaSink(TOPIC, producer)
    sent = [block(number) for number in range(7)]
    for one in sent:
        sink.send(one)
    sink.close()
    assert [decode_block(message["value"]) for message in producer.sent] == sent
    assert {message["topic"] for message in producer.sent} == {"blocks"}
    assert {message["key"] for message in producer.sent} == {b"radio"}
    assert {message["timestamp"] for message in producer.sent} == {HOUR_US // 1_000}
    assert producer.full  # it waited, and lost nothing


def test_what_does_not_arrive_is_told():
    producer = Producer()
    sink = KafkaSink(TOPIC, producer)
    producer.fails_with = error(kafka.KafkaError._MSG_TIMED_OUT)
    sink.send(block())
    with pytest.raises(RunError, match=r"h:1/blocks: records did not arrive \(.*timed out"):
        sink.close()
    with pytest.raises(RunError, match="did not arrive"):
        sink.send(block(1))


def test_a_topic_that_is_being_made():
    coming = error(kafka.KafkaError.LEADER_NOT_AVAILABLE)
    KafkaSink(TOPIC, Producer(coming, coming)).close()


def test_a_topic_that_must_not_be_used():
    denied = error(kafka.KafkaError.TOPIC_AUTHORIZATION_FAILED)
    with pytest.raises(UsageError, match="h:1/blocks: cannot be written"):
        KafkaSink(TOPIC, Producer(denied))


def test_no_broker(monkeypatch):
    monkeypatch.setattr("transforms.streaming.kafka_client._ANSWER_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(UsageError, match="no broker answers") as caught:
        open_sink(f"kafka://127.0.0.1:{port}/blocks")
    assert "\n" not in str(caught.value)
