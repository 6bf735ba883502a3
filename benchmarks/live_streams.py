"""How long a block of a live stream waits for its row, with ever more streams at once.

    deploy/local_cluster.sh kafka up && WORKERS=1 deploy/local_cluster.sh flink up
    python -m benchmarks.live_streams --streams=1,5,10,20 --seconds=60

One process sends blocks of noise to a topic in real time, each stream at a phase of its own; a job
on Flink labels them; the rows are taken from its topic. The delay of a row is from the sending of
the block that completed it (the row's ``sequence``) to its arrival here. Everything runs on this
machine: broker, cluster, sender and reader share its cores.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import confluent_kafka
import numpy as np
from confluent_kafka.admin import AdminClient, NewTopic

from transforms.streaming.blocks import Block, encode_block

PARTITIONS = 4
START_SECONDS = 120.0  # until the job labels what it is sent
LAST_SECONDS = 10.0  # for rows behind the last block
WARM_SECONDS = 10.0  # whose rows do not count
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Sent:
    """When each block was handed to Kafka's client, by stream and sequence; seconds."""

    times: dict[tuple[str, int], float] = field(default_factory=dict)
    late_s: float = 0.0  # the most that the sender itself was behind


def block_of(
    stream: str, session: int, sequence: int, sound: bytes, options: Any, last: bool
) -> Block:
    step_us = round(1e6 * options.block_seconds)
    return Block(
        stream_id=stream,
        session=session,
        sequence=sequence,
        event_time_us=session + sequence * step_us,
        sample_rate_hz=options.sample_rate_hz,
        channels=options.channels,
        last=last,
        payload=sound,
    )


def send(producer: Any, topic: str, streams: list[str], seconds: float, options: Any) -> Sent:
    """Send blocks of all streams in real time."""
    frames = round(options.block_seconds * options.sample_rate_hz)
    rng = np.random.default_rng(0)
    sounds = [
        (rng.standard_normal(frames * options.channels) * 3_000).astype("<i2").tobytes()
        for _ in range(16)
    ]
    start, session = time.monotonic(), time.time_ns() // 1_000
    count = round(seconds / options.block_seconds)
    phase_s = options.block_seconds / len(streams)
    due = [(start + number * phase_s, 0, name) for number, name in enumerate(streams)]
    heapq.heapify(due)
    sent = Sent()
    while due:
        at, sequence, name = heapq.heappop(due)
        time.sleep(max(0.0, at - time.monotonic()))
        block = block_of(
            name, session, sequence, sounds[sequence % 16], options, sequence == count - 1
        )
        now = time.monotonic()
        sent.late_s = max(sent.late_s, now - at)
        sent.times[name, sequence] = now
        producer.produce(
            topic, key=name.encode(), value=encode_block(block),
            timestamp=block.event_time_us // 1_000,
        )  # fmt: skip
        producer.poll(0)
        if sequence + 1 < count:
            heapq.heappush(due, (at + options.block_seconds, sequence + 1, name))
    producer.flush(10)
    return sent


class Rows(threading.Thread):
    """Takes rows from a topic, with the time of their arrival."""

    def __init__(self, brokers: str, topic: str) -> None:
        super().__init__(daemon=True)
        self._consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": brokers, "group.id": uuid.uuid4().hex,
             "auto.offset.reset": "earliest", "fetch.wait.max.ms": 5}
        )  # fmt: skip
        self._consumer.subscribe([topic])
        self.rows: list[tuple[float, dict[str, Any]]] = []
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            message = self._consumer.poll(0.05)
            if message is not None and message.error() is None:
                self.rows.append((time.monotonic(), json.loads(message.value())))
        self._consumer.close()


def make_topics(brokers: str, names: list[str]) -> None:
    admin = AdminClient({"bootstrap.servers": brokers})  # its end would cancel what it was asked
    by_arrival = {"message.timestamp.type": "LogAppendTime"}
    made = admin.create_topics([NewTopic(name, PARTITIONS, 1, config=by_arrival) for name in names])
    for future in made.values():
        future.result(30)


@contextlib.contextmanager
def labelling(options: Any, blocks: str, labels: str) -> Iterator[subprocess.Popen[bytes]]:
    """The job, until the end of the block."""
    command = [
        sys.executable, "-m", "pipeline.stream", "--runner=FlinkRunner", "--from_start",
        f"--flink_master={options.flink_master}", f"--model={options.model}",
        f"--source=kafka://{options.brokers}/{blocks}", f"--to=kafka://{options.brokers}/{labels}",
        *options.beam,
    ]  # fmt: skip
    job = subprocess.Popen(command)
    try:
        yield job
    finally:
        job.send_signal(signal.SIGINT)
        try:
            job.wait(60)
        except subprocess.TimeoutExpired:
            job.kill()


def wait_until_it_labels(job: Any, producer: Any, topic: str, rows: Rows, options: Any) -> None:
    """Send a stream of two seconds again and again until one has a row."""
    give_up = time.monotonic() + START_SECONDS
    while not rows.rows:
        if job.poll() is not None or time.monotonic() > give_up:
            raise SystemExit("the job did not start to label")
        send(producer, topic, [f"warm-{uuid.uuid4().hex[:6]}"], 2.0, options)


def cpu_seconds() -> float:
    """Of all processes of this machine since its start, work alone."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _, _, interrupts, soft = (int(field) for field in fields[:7])
    return (user + nice + system + interrupts + soft) / TICKS


def measure(options: Any, streams: int) -> dict[str, Any]:
    """One job with so many streams."""
    mark = uuid.uuid4().hex[:8]
    blocks, labels = f"blocks-{mark}", f"labels-{mark}"
    make_topics(options.brokers, [blocks, labels, f"{labels}-failures"])
    producer = confluent_kafka.Producer({"bootstrap.servers": options.brokers, "linger.ms": 0})
    rows = Rows(options.brokers, labels)
    rows.start()
    with labelling(options, blocks, labels) as job:
        wait_until_it_labels(job, producer, blocks, rows, options)
        before, started = cpu_seconds(), time.monotonic()
        names = [f"s{number:03d}" for number in range(streams)]
        sent = send(producer, blocks, names, options.seconds + WARM_SECONDS, options)
        cores = (cpu_seconds() - before) / (time.monotonic() - started)
        time.sleep(LAST_SECONDS)
    rows.over.set()
    rows.join()
    return summary(rows.rows, sent, names, options, cores)


def summary(
    rows: list[tuple[float, dict[str, Any]]],
    sent: Sent,
    names: list[str],
    options: Any,
    cores: float,
) -> dict[str, Any]:
    """Delays and books of one job."""
    own = [(at, row) for at, row in rows if row["stream_id"] in set(names)]
    seconds = [(at, row) for at, row in own if row["kind"] == "second"]
    delays_ms = np.array([
        1e3 * (at - sent.times[row["stream_id"], row["sequence"]])
        for at, row in seconds if row["start_s"] >= WARM_SECONDS
    ])  # fmt: skip
    expected = len(names) * round(options.seconds + WARM_SECONDS)
    ids = [row["row_id"] for _, row in own]
    p50, p95, p99 = np.percentile(delays_ms, [50, 95, 99]) if len(delays_ms) else [np.nan] * 3
    return {
        "streams": len(names),
        "p50_ms": round(float(p50)), "p95_ms": round(float(p95)), "p99_ms": round(float(p99)),
        "largest_ms": round(float(delays_ms.max())) if len(delays_ms) else None,
        "rows": len(seconds), "expected_rows": expected,
        "repeated": len(ids) - len(set(ids)),
        "gaps": sum(row["kind"] == "gap" for _, row in own),
        "cores": round(cores, 2), "sender_late_ms": round(1e3 * sent.late_s),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--streams", default="1,5,10,20")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--block_seconds", type=float, default=0.25)
    parser.add_argument("--sample_rate_hz", type=int, default=16_000)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--brokers", default="127.0.0.1:9092")
    parser.add_argument("--flink_master", default="127.0.0.1:8081")
    parser.add_argument("--model", default="digits-gru")
    options, options_of_beam = parser.parse_known_args()
    options.beam = options_of_beam
    for streams in options.streams.split(","):
        print(json.dumps(measure(options, int(streams))), flush=True)


if __name__ == "__main__":
    main()
