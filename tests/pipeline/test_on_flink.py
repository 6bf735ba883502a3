"""On a real Flink: both TaskManagers work, metrics are told, errors too, S3, worker pools."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.audio_files import noise, sine, write_soundfile
from tests.catalog import ROOT, Run, label, label_here
from tests.pipeline import s3_server
from tests.pipeline.processes import Started, wait_until
from tests.pipeline.real_clusters import Cluster, free_ports, process_of, started

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

TRACKS, SECONDS, RATE_HZ = 200, 2.0, 22_050
LARGEST_BYTES = 1_000_000
WORKER = Path(sys.executable).parent / "catalog-labels-worker"


@pytest.fixture(scope="module")
def flink(tmp_path_factory) -> Iterator[Cluster]:
    with started("flink", tmp_path_factory.mktemp("flink")) as up:
        yield up


@pytest.fixture(scope="module")
def options(tiny_checkpoint, tmp_path_factory) -> list[str]:
    music = tmp_path_factory.mktemp("music")
    for number in range(TRACKS):
        sound = sine(SECONDS, RATE_HZ, 1, 100.0 + number) + noise(SECONDS, RATE_HZ, 1, number)
        write_soundfile(music / f"{number:03}.flac", sound, RATE_HZ, "FLAC", "PCM_16")
    (music / "empty.mp3").write_bytes(b"")
    return [f"--input={music}", f"--model={tiny_checkpoint}", "--precision=float32",
            "--progress=none"]  # fmt: skip


@pytest.fixture(scope="module")
def here(options, tmp_path_factory) -> Run:
    return label_here(tmp_path_factory.mktemp("here") / "out", *options)


@pytest.fixture(scope="module")
def on_flink(flink, options, tmp_path_factory) -> Run:
    run = label(tmp_path_factory.mktemp("out") / "out", *flink.options, *options)
    assert run.status == 0, run.stderr
    return run


@pytest.fixture(scope="module")
def job(flink, on_flink) -> dict:
    """The job's entry in what deploy/flink_metrics.py prints."""
    (found,) = flink_metrics(flink)
    return found


def flink_metrics(flink: Cluster) -> list[dict]:
    program = ROOT / "deploy" / "flink_metrics.py"
    done = subprocess.run([sys.executable, str(program), flink.options[-1].partition("=")[2]],
                          capture_output=True, text=True, timeout=60, check=True)  # fmt: skip
    return json.loads(done.stdout)


def test_a_healthy_run_says_nothing_on_stderr(on_flink, here) -> None:
    assert on_flink.stderr == ""
    assert on_flink.content == here.content


def test_both_taskmanagers_decode_their_share(flink, on_flink) -> None:
    managers = [process_of(flink, f"flink-taskmanager-{number}") for number in (1, 2)]
    tracks = dict.fromkeys(managers, 0)
    for worker in on_flink.record["workers"]:
        tracks[worker["parent_pid"]] += worker["tracks"]
    assert sum(tracks.values()) == TRACKS
    assert all(0.35 <= count / TRACKS <= 0.65 for count in tracks.values()), tracks


def test_less_than_a_megabyte_crosses_all_shuffles_together(flink, job) -> None:
    """So that no element of one is larger; the samples are 200 times 176 KB."""
    vertices = flink.ask(f"jobs/{job['job']}")["vertices"]
    written = {vertex["name"]: vertex["metrics"]["write-bytes"] for vertex in vertices}
    assert 10_000 < sum(written.values()) < LARGEST_BYTES, written


def test_flink_tells_the_metrics_that_the_run_wrote_down(job, on_flink) -> None:
    stages, found = on_flink.record["stages"], job["metrics"]
    assert found["ReadFiles"]["elements_out"] == TRACKS + 1
    assert found["Decode"]["elements_in"] == TRACKS + 1
    assert found["Decode"]["failed_empty_file"] == 1
    assert found["Decode"]["audio_milliseconds"] == 1000 * SECONDS * TRACKS
    windows = len(on_flink.rows("windows"))
    assert found["RunInference"]["elements_in"] == windows
    batches = found["BeamML_ViT"]["inference_request_batch_size"]
    assert round(batches["count"] * batches["mean"]) == windows
    for stage in ("Decode", "Preprocess", "MelSpectrogram"):
        busy = found[stage]["busy_microseconds"]
        assert busy["count"] * busy["mean"] / 1e6 == pytest.approx(
            stages[stage]["busy_seconds"], abs=0.001
        )


def test_a_model_that_workers_have_not_got_is_told_in_one_line(
    flink, options, tiny_checkpoint, tmp_path
) -> None:
    """The checkpoint is gone when the workers look for it."""
    model = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    options = [*options, f"--model={model}"]
    with contextlib.closing(Started(tmp_path / "out", *flink.options, *options)) as run:
        wait_until(lambda: list(tmp_path.glob("out/runs/2*.json")), "the run's record", 60)
        shutil.rmtree(model)
        assert run.wait(300) == 1
        (line,) = run.stderr
    assert line.startswith("error: on ")
    assert f"--model={model}: no config.json there" in line
    assert Run(tmp_path / "out", 1, "", "").record["status"] == "failed"


def test_an_interrupt_cancels_the_job(flink, options, tmp_path) -> None:
    options = [*options, "--window_seconds=1", "--hop_seconds=0.001"]
    with contextlib.closing(Started(tmp_path / "out", *flink.options, *options)) as run:
        wait_until(lambda: "RUNNING" in states(flink), "the job", 60)
        os.kill(run.pid, signal.SIGTERM)
        assert run.wait(60) == 130
    wait_until(lambda: "RUNNING" not in states(flink), "the job's end", 60)
    assert "CANCELED" in states(flink)


def states(flink: Cluster) -> list[str]:
    return [job["status"] for job in flink.ask("jobs")["jobs"]]


def test_input_and_output_on_s3(flink, tiny_checkpoint, tmp_path) -> None:
    pytest.importorskip("boto3", reason="the extra [aws] is not installed")
    pytest.importorskip("moto", reason="moto is not installed")
    with s3_server.running_server() as server:
        client = s3_server.bucket_of_music(server, tmp_path)
        places = ("--input=s3://music/cat/", "--output=s3://music/flink")
        done = s3_server.label(server, tiny_checkpoint, *places, *flink.options)
        assert (done.returncode, done.stderr) == (0, "")
        here = (places[0], "--output=s3://music/here")
        assert s3_server.label_here(server, tiny_checkpoint, *here) == 0
        rows = s3_server.read_rows(client, "flink")
        assert (len(rows["predictions"]), len(rows["failures"])) == (3, 1)
        assert rows == s3_server.read_rows(client, "here")
        again = s3_server.label(server, tiny_checkpoint, *places, *flink.options)
        assert again.returncode == 0, again.stderr
        _, second = s3_server.read_records(client, "flink")
        assert (second["counts"]["labelled"], second["counts"]["skipped"]) == (0, 3)


def test_workers_out_of_a_pool(flink, options, here, tmp_path) -> None:
    """EXTERNAL: a pool beside each TaskManager starts the workers, as a sidecar does."""
    port = free_ports(("POOL",))["POOL"]
    pool = subprocess.Popen(
        [sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main",
         f"--service_port={port}", f"--container_executable={WORKER}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        run = label(tmp_path / "out", *flink.options, *options, "--environment_type=EXTERNAL",
                    f"--environment_config=127.0.0.1:{port}")  # fmt: skip
        assert run.status == 0, run.stderr
        assert run.content == here.content
        assert {worker["parent_pid"] for worker in run.record["workers"]} == {pool.pid}
    finally:
        pool.terminate()
        pool.wait(30)
