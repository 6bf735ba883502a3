"""A run with --features: the columns are filled, and it is told what they cost."""

from __future__ import annotations

import os

import pytest
import soundfile as sf

from tests.audio_files import noise, write_soundfile
from tests.catalog import label_here
from tests.pipeline.shelf import counts
from transforms.features import track_features
from transforms.records import row_dict
from transforms.storage.extras import EXTRAS


def test_features_fill_their_columns(shelf, tmp_path):
    run = label_here(
        tmp_path / "new", f"--input={shelf.music}", f"--model={shelf.model}", "--features",
        "--format=json",
    )  # fmt: skip
    assert counts(run) == {"listed": 4, "labelled": 3, "failed": 1, "skipped": 0}
    for row in run.rows("predictions"):
        samples, rate_hz = sf.read(row["uri"], dtype="float32", always_2d=True)
        expected = row_dict(track_features([samples], sample_rate_hz=rate_hz))
        assert set(expected) == set(EXTRAS["features"])
        for name, value in expected.items():
            found = row[name]
            assert found == (value if value is None or name == "key" else pytest.approx(value))
        assert row["loudness_lufs"] is not None
        is_short = os.path.basename(row["uri"]) == "a.flac"  # one second
        assert (row["tempo_bpm"] is None) == is_short
    profile = run.record["profile"]["parts"]
    assert profile["features"]["seconds"] > 0
    assert run.record["config"]["features"] is True


@pytest.mark.parametrize("at", [0.5, 304.0])  # among the first 300 s or behind them
def test_features_of_a_file_with_damage_are_of_what_decoding_makes_of_it(shelf, tmp_path, at):
    sound, frame = noise(305.0, 8_000, 1), round(at * 8_000)
    sound[frame] = float("nan")
    path = write_soundfile(tmp_path / "damage.wav", sound, 8_000, "WAV", "FLOAT")
    run = label_here(
        tmp_path / "out", f"--input={path}", f"--model={shelf.model}", "--features",
        "--windows=middle",
    )  # fmt: skip
    assert counts(run) == {"listed": 1, "labelled": 1, "failed": 0, "skipped": 0}
    (row,) = run.rows("predictions")
    sound[frame] = 0.0
    expected = row_dict(track_features([sound], sample_rate_hz=8_000))
    assert row["loudness_lufs"] == pytest.approx(expected["loudness_lufs"])
    assert row["mfcc_mean"] == pytest.approx(expected["mfcc_mean"])


def test_without_the_option_they_are_null_and_cost_nothing(shelf):
    run = shelf.label("--relabel")
    assert counts(run)["labelled"] == 3
    for row in run.newest["predictions"]:
        assert [row[name] for name in EXTRAS["features"]] == [None] * len(EXTRAS["features"])
    assert run.record["profile"]["parts"]["features"]["seconds"] == 0
