"""pipeline.stream on a real Flink, from and to a real Kafka: the rows, whatever dies meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.dataset as ds
import pytest
import soundfile

from tests.audio_files import noise
from tests.catalog import ROOT
from tests.pipeline import real_clusters
from tests.pipeline.processes import wait_until
from tests.pipeline.real_clusters import Cluster, process_of

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.fault]

library = pytest.importorskip("confluent_kafka", reason="the extra [kafka] is not installed")

STREAMS, SECONDS, RATE_HZ = 4, 20.0, 16_000
LONG_S = 150.0
OF_THIS_RUN = ("run_id", "labelled_at", "failed_at")
FIXED = ["--session=1", "--event_time=2026-01-31T20:00:00+00:00", "--progress=none"]


def program(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"pipeline.{name}", *arguments]


def publish(source: Path, to: str, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        program("publish", f"--source={source}", f"--to={to}", f"--copies={STREAMS}",
                *FIXED, *options), cwd=ROOT,
    )  # fmt: skip


@contextmanager
def labelling(flink: Cluster, topic: str, labels: str, output: Path) -> Iterator[None]:
    """The job, which is cancelled at the end."""
    command = program(
        "stream", *flink.options, f"--source={topic}", "--from_start", f"--to={labels}",
        f"--to={output}", "--file_seconds=5", "--checkpointing_interval=1000",
    )  # fmt: skip
    log = flink.state / f"{output.name}.log"
    with log.open("w") as said, subprocess.Popen(command, cwd=ROOT, stderr=said) as job:
        try:
            yield
        finally:
            ended = job.poll()
            job.send_signal(signal.SIGINT)
            job.wait(90)
            assert ended is None, log.read_text()[-3_000:]


def plain(rows: list[dict]) -> list[dict]:
    """What does not tell of the run, by id; every row must be there once."""
    assert len({row["row_id"] for row in rows}) == len(rows)
    kept = [{name: row[name] for name in row if name not in OF_THIS_RUN} for row in rows]
    return sorted(kept, key=lambda row: row["row_id"])


def in_parquet(output: Path) -> list[dict]:
    folder = output / "labels"
    return ds.dataset(folder, format="parquet").to_table().to_pylist() if folder.exists() else []


def in_topic(broker: str, topic: str) -> list[dict]:
    """Rows as their first copy has them, and how many copies there are."""
    consumer = library.Consumer({"bootstrap.servers": broker, "group.id": uuid.uuid4().hex,
                                 "auto.offset.reset": "earliest"})  # fmt: skip
    consumer.subscribe([topic])
    found, give_up = [], time.monotonic() + 30
    while time.monotonic() < give_up:
        messages = consumer.consume(1_000, timeout=3.0)
        if not messages and found:
            break
        found += [json.loads(message.value()) for message in messages if not message.error()]
    consumer.close()
    return found


@pytest.fixture(scope="module")
def clusters(tmp_path_factory) -> Iterator[tuple[Cluster, str]]:
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", str(ROOT))
    folder = tmp_path_factory.mktemp("clusters")
    with (
        real_clusters.started("kafka", folder / "kafka") as kafka,
        real_clusters.started("flink", folder / "flink") as flink,
    ):
        yield flink, kafka.options[0]
    patch.undo()


def make_topics(broker: str, *names: str) -> None:
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": broker})
    for made in admin.create_topics([NewTopic(name, 4, 1) for name in names]).values():
        made.result(30)


def wait_for_a_checkpoint(flink: Cluster) -> None:
    def is_taken() -> bool:
        running = [one for one in flink.ask("jobs/overview")["jobs"] if one["state"] == "RUNNING"]
        counts = [flink.ask(f"jobs/{one['jid']}/checkpoints")["counts"] for one in running]
        return any(one["completed"] > 0 for one in counts)

    wait_until(is_taken, "a checkpoint", LONG_S)


def run_on_flink(
    flink: Cluster, broker: str, source: Path, output: Path, rows: int, kill: str | None = None
) -> str:
    """Label the streams in real time until so many rows are there; the name of their topic."""
    blocks, labels = f"blocks-{output.name}", f"labels-{output.name}"
    make_topics(broker, blocks, labels, f"{labels}-failures")
    kafka = f"kafka://{broker}"
    with labelling(flink, f"{kafka}/{blocks}", f"{kafka}/{labels}", output):
        wait_for_a_checkpoint(flink)
        sender = publish(source, f"{kafka}/{blocks}", "--real_time")
        if kill is not None:
            time.sleep(SECONDS / 2)
            assert sender.poll() is None  # in mid-stream
            os.killpg(process_of(flink, kill), signal.SIGKILL)
        assert sender.wait(LONG_S) == 0
        wait_until(lambda: len(in_parquet(output)) >= rows, f"{rows} rows in files", LONG_S)
    return labels


def test_a_taskmanager_is_killed_and_the_rows_are_the_same(clusters, tmp_path):
    """Undisturbed, killed in mid-stream, and as a batch: nothing lost, nothing there twice."""
    flink, broker = clusters
    source = tmp_path / "noise.wav"
    soundfile.write(source, noise(SECONDS, RATE_HZ, 1), RATE_HZ)
    assert publish(source, str(tmp_path / "blocks")).wait(60) == 0
    batch = program("stream", f"--source={tmp_path / 'blocks'}", "--once",
                    f"--to={tmp_path / 'batch'}")  # fmt: skip
    subprocess.run(batch, cwd=ROOT, check=True, timeout=LONG_S)
    expected = plain(in_parquet(tmp_path / "batch"))
    assert sum(row["kind"] == "second" for row in expected) == STREAMS * SECONDS

    run_on_flink(flink, broker, source, tmp_path / "undisturbed", len(expected))
    assert plain(in_parquet(tmp_path / "undisturbed")) == expected
    labels = run_on_flink(
        flink, broker, source, tmp_path / "killed", len(expected), "flink-taskmanager-1"
    )
    assert plain(in_parquet(tmp_path / "killed")) == expected
    # The topic has repetitions of what was written since the checkpoint: alike, but for the clock.
    written = in_topic(broker, labels)
    assert {row["row_id"] for row in written} == {row["row_id"] for row in expected}
    told = {json.dumps({k: v for k, v in row.items() if k not in OF_THIS_RUN}) for row in written}
    assert len(told) == len(expected)
