"""Real clusters of which a part is killed in mid-run: the rows are those of an undisturbed run."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.audio_files import noise, sine, write_soundfile
from tests.catalog import Run, label_here
from tests.pipeline.processes import Started, segments, wait_until
from tests.pipeline.real_clusters import Cluster, process_of, started

pytestmark = [pytest.mark.cluster, pytest.mark.fault, pytest.mark.slow]

TRACKS, RATE_HZ = 24, 22_050
PATIENCE_S = 300.0  # clusters start Java, notice a death late, and do work again


@pytest.fixture(scope="module")
def options(tiny_checkpoint, tmp_path_factory) -> list[str]:
    """Tracks of many windows each, slow enough to be disturbed, and two failures."""
    music = tmp_path_factory.mktemp("music")
    for number in range(TRACKS):
        seconds = (4.0, 8.0)[number % 2]
        sound = sine(seconds, RATE_HZ, 1, 100.0 + 40 * number)
        sound += noise(seconds, RATE_HZ, 1, number)
        write_soundfile(music / f"{number:02}.flac", sound, RATE_HZ, "FLAC", "PCM_16")
    (music / "empty.mp3").write_bytes(b"")
    (music / "text.mp3").write_text("no music")
    return [f"--input={music}", f"--model={tiny_checkpoint}", "--precision=float32",
            "--hop_seconds=0.01", "--progress=none"]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(options, tmp_path_factory) -> Run:
    run = label_here(tmp_path_factory.mktemp("undisturbed") / "out", *options)
    assert (len(run.rows("predictions")), len(run.rows("failures"))) == (TRACKS, 2)
    return run


@pytest.fixture
def flink(tmp_path) -> Iterator[Cluster]:
    with started("flink", tmp_path / "flink") as up:
        yield up


@pytest.fixture
def spark(tmp_path) -> Iterator[Cluster]:
    with started("spark", tmp_path / "spark") as up:
        yield up


def sdk_workers(session: int) -> list[int]:
    """SDK workers that a TaskManager or a Spark worker has started: they share its session."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (folder / "cmdline").read_bytes().split(b"\0")
            if b"pipeline.worker" in line and os.getsid(int(folder.name)) == session:
                found.append(int(folder.name))
    return found


def disturbed(
    cluster: Cluster, output: Path, options: list[str], disturb: Callable[[], None]
) -> Run:
    """A run during which, after the first tracks, something happens."""
    with contextlib.closing(Started(output, *cluster.options, *options)) as run:
        wait_until(lambda: run.is_over or segments(output), "a segment of the journal", PATIENCE_S)
        assert not run.is_over, "\n".join(run.stderr)
        disturb()
        status = run.wait(PATIENCE_S)
        assert status == 0, "\n".join(run.stderr[-30:])
    return Run(output, status, "", "")


def assert_undisturbed(run: Run, undisturbed: Run) -> None:
    assert run.content == undisturbed.content
    counts = run.record["counts"]
    assert counts["listed"] == TRACKS + 2 == counts["labelled"] + counts["failed"]


def assert_work_was_repeated(run: Run) -> None:
    """The fault was one, and what was finished before it was not done again."""
    assert run.record["stages"]["ReadFiles"]["slices_read_again"] > 0
    assert run.record["stages"]["Decode"]["elements_out"] < len(run.rows("windows"))


def test_an_sdk_worker_is_killed_on_flink(flink, options, undisturbed, tmp_path) -> None:
    def kill() -> None:
        manager = process_of(flink, "flink-taskmanager-1")
        os.kill(wait_until(lambda: sdk_workers(manager), "an SDK worker")[0], signal.SIGKILL)

    run = disturbed(flink, tmp_path / "out", options, kill)
    assert_undisturbed(run, undisturbed)
    assert_work_was_repeated(run)


def test_a_taskmanager_is_killed_and_the_other_takes_over(
    flink, options, undisturbed, tmp_path
) -> None:
    """The Java process alone: its SDK workers see that it is gone."""

    def kill() -> None:
        os.kill(process_of(flink, "flink-taskmanager-1"), signal.SIGKILL)

    run = disturbed(flink, tmp_path / "out", options, kill)
    assert_undisturbed(run, undisturbed)
    assert_work_was_repeated(run)


def test_a_spark_worker_is_killed(spark, options, undisturbed, tmp_path) -> None:
    def kill() -> None:
        os.killpg(process_of(spark, "spark-worker-1"), signal.SIGKILL)

    assert_undisturbed(disturbed(spark, tmp_path / "out", options, kill), undisturbed)


@pytest.mark.parametrize("name", ["flink", "spark"])
def test_the_client_is_killed_and_a_rerun_goes_on(
    name, options, undisturbed, tmp_path, request
) -> None:
    """Its job on Flink is cancelled by the rerun; on Spark it ends with the client."""
    cluster = request.getfixturevalue(name)
    output = tmp_path / "out"
    with contextlib.closing(Started(output, *cluster.options, *options)) as run:
        wait_until(lambda: run.is_over or segments(output), "a segment of the journal", PATIENCE_S)
        assert not run.is_over, "\n".join(run.stderr)
        run.kill_launcher()
        run.wait()
        wait_until(lambda: not run.family(), "the end of what the client started here")
    with contextlib.closing(Started(output, *cluster.options, *options)) as run:
        assert run.wait(PATIENCE_S) == 0, "\n".join(run.stderr[-30:])
        cancelled = [line for line in run.stderr if line.startswith("cancelled what outlived")]
    assert len(cancelled) == (name == "flink")
    runs = Run(output, 0, "", "")
    assert runs.content == undisturbed.content
    assert [record["status"] for record in runs.records] == ["recovered", "done"]
    assert runs.record["counts"]["skipped"] > 0
