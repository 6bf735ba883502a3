from __future__ import annotations

import numpy as np
import pytest
import soundfile as sf
import torch

from benchmarks.throughput import floor as floors
from benchmarks.throughput.measuring import (
    check_rows,
    run_program,
)
from benchmarks.throughput.peers import beam_textbook, dask_bag, handwritten, loop, ray_data
from benchmarks.throughput.peers.command import model_labels, to_rows
from benchmarks.throughput.systems import System
from tests.benchmarks.recipe_by_hand import (
    BFLOAT16_TOLERANCE,
    TOLERANCE,
    assert_scored,
    image_by_hand,
    strings,
)


def test_tracks_are_told_apart(expected):
    first, *others = expected.values()
    assert all(np.abs(first - other).max() > 100 * TOLERANCE for other in others)


def test_loop(model, tracks, expected):
    assert_scored(loop.label_tracks(strings(tracks), str(model)), expected)


def test_dask_bag(model, tracks, expected):
    threads = torch.get_num_threads()
    try:
        scored = [dask_bag.score(path, str(model)) for path in strings(tracks)]
    finally:
        torch.set_num_threads(threads)
    assert_scored(scored, expected)


def test_ray_data(model, tracks, expected):
    rows = [ray_data.decode({"path": path}) for path in strings(tracks)]
    batch = {
        "path": np.array([row["path"] for row in rows]),
        "pixels": np.stack([row["pixels"] for row in rows]),
    }
    answer = ray_data.Classifier(str(model))(batch)
    assert_scored(zip(answer["path"], answer["scores"], strict=True), expected)


def test_beam_textbook(model, tracks, expected):
    assert_scored(beam_textbook.label_tracks(strings(tracks), str(model)), expected)


def test_handwritten_images(tracks):
    for index, path in enumerate(tracks):
        name, pixels = handwritten.Tracks(strings(tracks))[index]
        assert name == str(path)
        by_hand = np.broadcast_to(image_by_hand(path) / 40 + 1, (3, 224, 224))
        np.testing.assert_allclose(pixels.numpy(), by_hand, atol=1e-3)


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float32", TOLERANCE), ("bfloat16", BFLOAT16_TOLERANCE)]
)
def test_handwritten(tmp_path, model, tracks, expected, precision, tolerance):
    system = System("handwritten", precision)
    run_program(system.command(tracks, model, tmp_path), tmp_path / "log.txt", 120)
    rows = system.read_rows(tmp_path)
    check_rows(rows, tracks)
    assert_scored([(row["path"], row["scores"]) for row in rows], expected, tolerance)


def test_rows_name_the_best_label(model):
    labels = model_labels(str(model))
    assert labels == {0: "classical", 1: "electronic", 2: "pop", 3: "rock"}
    rows = to_rows([("x.mp3", np.float32([0.25, 0.0, 0.75, 0.0]))], labels)
    assert rows == [{"path": "x.mp3", "label": "pop", "scores": [0.25, 0.0, 0.75, 0.0]}]


def test_floor_stages_do_the_same_in_each_way(model, tracks):
    for path in tracks:
        mono = floors.to_mono(floors.decode_whole(str(path)))
        np.testing.assert_allclose(floors.decode_in_blocks(str(path))[:, 0], mono, atol=1e-7)
        np.testing.assert_allclose(mono, sf.read(path, always_2d=True)[0].mean(axis=1), atol=1e-6)
        resampled = floors.resample(mono, sf.info(path).samplerate)
        for image in (floors.image_by_project(resampled), floors.image_by_torch(resampled)):
            np.testing.assert_allclose(image, image_by_hand(path) / 40 + 1, atol=1e-3)


def test_floor_times_every_stage(model, tracks):
    threads = torch.get_num_threads()
    try:
        found = floors.measure_floor(strings(tracks), model, ["float32"], cores=2, repeats=1)
    finally:
        torch.set_num_threads(threads)
    stages = found["float32"].stages_ms
    assert list(stages) == ["decode, mono", "resample", "log-mel image", "model"]
    assert len(stages["model"]) == 2 * len(floors.BATCHES)
    assert all(milliseconds > 0 for ways in stages.values() for milliseconds in ways.values())
    total_s = sum(min(ways.values()) for ways in stages.values()) / 1_000
    assert found["float32"].tracks_per_s == pytest.approx(2 / total_s)
