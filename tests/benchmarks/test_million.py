"""benchmarks/million.py: its files, its arithmetic, and a small run through the real graph."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from benchmarks import million
from benchmarks.growth import Run
from benchmarks.stand_ins import StubModel, noise_window
from transforms.records import Track

COUNTS = {"listed": 1_000, "labelled": 1_000, "failed": 0, "skipped": 0}
STAGES = {"Preprocess": {"busy_seconds": 1.0}, "MelSpectrogram": {"busy_seconds": 3.0},
          "RollUp": {"busy_seconds": 5.0}}  # fmt: skip
RUN = Run(1_000, 10.0, 15.0, 1_500.0, 1_000, COUNTS, STAGES, 2)
TWICE = dataclasses.replace(
    RUN, tracks=2_000, seconds=11.0, cpu_seconds=15.5, rows=2_000,
    counts=COUNTS | {"listed": 2_000, "labelled": 2_000},
    stages={"Preprocess": {"busy_seconds": 1.5}, "MelSpectrogram": {"busy_seconds": 3.5}},
)  # fmt: skip


def test_files_have_sizes_of_their_own(tmp_path):
    million.make_files(tmp_path / "files", 1_030)
    files = sorted((tmp_path / "files").rglob("*.wav"))
    assert len(files) == 1_030
    assert len({path.stat().st_size for path in files}) == 1_030
    assert Counter(path.parent.name for path in files) == {"0000": 1_000, "0001": 30}


def test_files_that_are_there_stay(tmp_path):
    million.make_files(tmp_path, 3)
    before = [path.stat().st_ino for path in sorted(tmp_path.rglob("*.wav"))]
    million.make_files(tmp_path, 4)
    after = [path.stat().st_ino for path in sorted(tmp_path.rglob("*.wav"))]
    assert after[:3] == before
    assert len(after) == 4


def test_the_manifest_names_the_first_files(tmp_path):
    million.make_files(tmp_path / "files", 30)
    million.write_manifest(tmp_path / "catalog.parquet", tmp_path / "files", 20)
    rows = pq.read_table(tmp_path / "catalog.parquet").to_pydict()
    assert rows["uri"] == [str(path) for path in sorted(tmp_path.rglob("*.wav"))[:20]]
    assert len(set(rows["track_id"])) == 20


def test_the_framework_is_what_the_noise_does_not_cost():
    assert million.core_seconds(RUN) == 20.0
    assert million.framework_seconds(RUN) == 16.0


def test_lines_state_per_track_and_per_further_track():
    first, second = million.to_lines([TWICE, RUN])
    assert (first.core_ms, first.framework_ms, first.cpu_ms) == (20.0, 16.0, 15.0)
    assert first.marginal_core_ms is first.marginal_framework_ms is first.marginal_cpu_ms is None
    assert (second.core_ms, second.framework_ms, second.cpu_ms) == (11.0, 8.5, 7.75)
    assert second.marginal_core_ms == pytest.approx(2.0)
    assert second.marginal_framework_ms == pytest.approx(1.0)
    assert second.marginal_cpu_ms == pytest.approx(0.5)


def test_the_table_has_a_cell_for_every_column():
    lines = million.to_lines([RUN, dataclasses.replace(TWICE, rows=1_999)])
    header, _, *rows = [line.split(" | ") for line in million.table(lines).splitlines()]
    assert {len(row) for row in rows} == {len(header)}
    assert [row[-1] for row in rows] == ["balanced |", "WRONG |"]


def test_the_stub_answers_with_probabilities_by_the_image():
    model = StubModel(labels=4, embedding_size=8)
    images = np.random.default_rng(0).normal(0, 1, (64, 5, 3)).astype(np.float32)
    output = model.predict(images)
    np.testing.assert_allclose(np.exp(output.log_probs).sum(axis=1), 1.0, rtol=1e-5)
    assert output.embeddings.shape == (64, 8)
    np.testing.assert_array_equal(model.predict(images[::-1]).log_probs[::-1], output.log_probs)
    assert len(np.unique(output.log_probs, axis=0)) > 1


def test_the_window_of_noise_has_facts_that_hold():
    window = noise_window(Track("a.wav", 1_234), np.zeros((4_410, 1), np.float32), 22_050)
    assert (window.start_s, window.end_s, window.window_index) == (0.0, 0.2, 0)
    assert window.facts is not None
    assert (window.facts.duration_s, window.facts.window_count) == (0.2, 1)
    assert window.facts.size_bytes == 1_234


@pytest.mark.parametrize("workers", [1, 2])
def test_every_row_comes_through_once(workers, tmp_path):
    million.make_files(tmp_path / "files", 30)
    run = million.measure(30, tmp_path, workers)
    assert run.balanced
    assert (run.tracks, run.workers) == (30, workers)
    assert run.stages["MelSpectrogram"]["elements_out"] == 30  # it was the real one
    assert run.stages["RunInference"]["batches"] >= 4  # so was all of this but the model
    table = ds.dataset(tmp_path / "labels-30" / "predictions").to_table()
    listed = pq.read_table(tmp_path / "manifest-30.parquet").to_pylist()
    rows = table.select(["uri", "track_id"]).to_pylist()
    assert sorted(rows, key=lambda row: row["uri"]) == listed
    assert set(table["duration_s"].to_pylist()) == {0.1}
    assert table["size_bytes"].to_pylist() == [
        1_000 + int(uri.rpartition("/")[2].removesuffix(".wav")) for uri in table["uri"].to_pylist()
    ]
