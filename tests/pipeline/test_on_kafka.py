"""Records from a real Kafka through state and timers and back, on a real Flink and on Prism."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.catalog import ROOT
from tests.pipeline import real_clusters
from tests.pipeline.counting import IN, NUMBERS, OUT
from tests.pipeline.processes import wait_until
from tests.pipeline.real_clusters import Cluster, process_of
from transforms.errors import UsageError
from transforms.streaming.kafka_client import KafkaTopic, partitions_of

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

library = pytest.importorskip("confluent_kafka", reason="the extra [kafka] is not installed")

KEYS, PARTITIONS = 3, 8  # some partitions stay empty
LONG_S = 120.0
# Imported, so that workers import it, too: of a main program Beam pickles the code.
COUNTING = "import sys; from tests.pipeline.counting import main; main(*sys.argv[1:])"


@pytest.fixture
def broker(tmp_path) -> Iterator[str]:
    with real_clusters.started("kafka", tmp_path / "kafka") as kafka:
        (address,) = kafka.options
        from confluent_kafka.admin import AdminClient, NewTopic

        admin = AdminClient({"bootstrap.servers": address, "log_level": 2})
        made = admin.create_topics(
            [NewTopic(IN, PARTITIONS, 1, config={"message.timestamp.type": "LogAppendTime"}),
             NewTopic(OUT, PARTITIONS, 1)]
        )  # fmt: skip
        for topic in made.values():
            topic.result(30)
        yield address


@contextmanager
def counting(source: str, address: str, cluster: Cluster, *options: str) -> Iterator[None]:
    given = [one for one in cluster.options if not one.startswith("--runner")]
    command = [sys.executable, "-c", COUNTING, source, address, *given, *options]
    log = cluster.state / "counting.log"
    with log.open("w") as said, subprocess.Popen(command, cwd=ROOT, stderr=said) as process:
        try:
            yield
        finally:
            ended = process.poll()
            process.send_signal(signal.SIGINT)
            process.wait(60)
            assert ended is None, log.read_text()[-3000:]


def send(address: str, numbers: range, pause_s: float = 0.0) -> None:
    producer = library.Producer({"bootstrap.servers": address, "log_level": 2})
    for number in numbers:
        for key in range(KEYS):
            producer.produce(IN, str(number), f"key{key}")
        producer.poll(0)
        time.sleep(pause_s)
    assert producer.flush(30) == 0


def counts(address: str) -> tuple[Callable[[], dict], Callable[[], None]]:
    """What has come out by key, as far as it has, and what ends the looking."""
    consumer = library.Consumer({"bootstrap.servers": address, "group.id": "test",
                                 "enable.auto.commit": False, "log_level": 2})  # fmt: skip
    consumer.assign([library.TopicPartition(OUT, each, 0) for each in range(PARTITIONS)])
    found = defaultdict(list)

    def look() -> dict:
        for message in consumer.consume(1000, timeout=0.2):
            assert message.error() is None
            found[message.key().decode()].append(NUMBERS.unpack(message.value()))
        return found

    return look, consumer.close


def all_counted(found: dict, upto: int) -> bool:
    """Whether each key's timer has fired behind its last number."""
    return len(found) == KEYS and all((-1, upto) in rows for rows in found.values())


def check(found: dict, upto: int) -> None:
    """Each number was counted once, whatever was done and written twice."""
    for rows in found.values():
        outcomes = {row for row in rows if row[0] >= 0}
        assert outcomes == {(number, number + 1) for number in range(upto)}


def test_a_taskmanager_dies_and_each_record_is_counted_once(broker, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with (
        real_clusters.started("flink", tmp_path / "flink") as flink,
        counting("java", broker, flink, "--checkpointing_interval=1000"),
    ):
        look, close = counts(broker)
        send(broker, range(20))
        wait_until(lambda: all_counted(look(), 20), "the first numbers", LONG_S)
        (job,) = [one["jid"] for one in flink.ask("jobs/overview")["jobs"]]
        taken = flink.ask(f"jobs/{job}/checkpoints")["counts"]["completed"]
        wait_until(
            lambda: flink.ask(f"jobs/{job}/checkpoints")["counts"]["completed"] > taken,
            "a checkpoint",
        )
        send(broker, range(20, 40), pause_s=0.02)
        os.killpg(process_of(flink, "flink-taskmanager-1"), signal.SIGKILL)
        send(broker, range(40, 60), pause_s=0.02)
        wait_until(lambda: all_counted(look(), 60), "the last numbers", LONG_S)
        check(look(), 60)
        close()
        execution = flink.ask(f"jobs/{job}/config")["execution-config"]
        assert "#1000 restart" in execution["restart-strategy"]  # a batch job has few


def test_python_reads_where_java_does_not(broker, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with (
        real_clusters.started("prism", tmp_path / "prism") as prism,
        counting("python", broker, prism),
    ):
        look, close = counts(broker)
        send(broker, range(20))
        wait_until(lambda: all_counted(look(), 20), "the numbers", LONG_S)
        check(look(), 20)
        close()


def test_a_topic_that_is_not_there(broker) -> None:
    assert partitions_of(KafkaTopic(broker, IN)) == list(range(PARTITIONS))
    with pytest.raises(UsageError, match=r"nothere: .*[Uu]nknown topic"):
        partitions_of(KafkaTopic(broker, "nothere"))
