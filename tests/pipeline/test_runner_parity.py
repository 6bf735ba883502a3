"""One catalog on every runner: the rows are the same, bit for bit, run columns aside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.catalog import Run, label
from tests.pipeline.real_clusters import Cluster, started

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture(scope="module", params=["prism", "flink", "spark"])
def cluster(request, tmp_path_factory) -> Iterator[Cluster]:
    with started(request.param, tmp_path_factory.mktemp(request.param)) as up:
        yield up


@pytest.fixture(scope="module")
def on_cluster(cluster, catalog, tiny_checkpoint, tmp_path_factory) -> Run:
    output: Path = tmp_path_factory.mktemp("out") / "labels"
    return label(output, f"--model={tiny_checkpoint}", "--precision=float32", "--embeddings",
                 "--features", "--progress=none", *cluster.options, *catalog.inputs)  # fmt: skip


def test_rows_are_those_of_one_worker(on_cluster, one_worker) -> None:
    assert on_cluster.status == 0, on_cluster.stderr
    for name, expected in one_worker.content.items():
        assert on_cluster.content[name] == expected, name


def test_rows_of_two_workers_are_those_of_one(two_workers, one_worker) -> None:
    assert two_workers.content == one_worker.content


def test_the_books_and_the_stages_are_those_of_one_worker(on_cluster, one_worker) -> None:
    """On Spark a stage may do work again, and counts it: cached blocks cannot be fetched there."""
    assert on_cluster.record["counts"] == one_worker.record["counts"]
    expected = one_worker.record["stages"]
    stages = on_cluster.record["stages"]
    counts = ("elements_in", "elements_out")
    for stage in ("Decode", "Preprocess", "MelSpectrogram"):
        found, wanted = ([of[stage][count] for count in counts] for of in (stages, expected))
        if on_cluster.record["resources"]["runner"] == "SparkRunner":
            assert all(count >= least for count, least in zip(found, wanted, strict=True)), stage
        else:
            assert found == wanted, stage
