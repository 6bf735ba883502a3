"""The labelling program with a recogniser in place of the ViT, against librosa and equations."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import softmax

from pipeline.main import main
from tests.audio_files import noise, sine, write_soundfile
from tests.catalog import label, label_here, without_run_columns
from tests.checkpoints import LABELS, make_enhancer, make_recogniser, recogniser_front_end
from tests.sequence_oracle import recognised_file
from transforms.models.sequence import CELLS

RATE = 8_000
FRONT_END = recogniser_front_end()


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """Three full windows and most of a fourth; less than a window; silence."""
    folder = tmp_path_factory.mktemp("music")
    long = np.concatenate([sine(1.3, RATE, 1, 440.0), noise(2.3, RATE, 1, 1)])
    sounds = {"long": long, "short": noise(0.53, RATE, 1, 2), "silence": 0 * noise(1.5, RATE, 1, 0)}
    for name, sound in sounds.items():
        write_soundfile(folder / f"{name}.wav", sound, RATE, "WAV", "PCM_16")
    return folder


def rows_by_name(run, dataset):
    found = {}
    for row in run.rows(dataset):
        found.setdefault(row["uri"].rpartition("/")[2].removesuffix(".wav"), []).append(row)
    return found


@pytest.mark.parametrize("cell", CELLS)
def test_rows_are_those_of_librosa_and_the_equations(tmp_path, music, cell):
    model = make_recogniser(tmp_path / "model", cell)
    run = label_here(
        tmp_path / "out", f"--input={music}", f"--model={model}", "--embeddings", "--batch_size=3"
    )
    assert run.status == 0
    tracks, windows = rows_by_name(run, "predictions"), rows_by_name(run, "windows")
    assert {name: len(rows) for name, rows in windows.items()} == {
        "long": 4, "short": 1, "silence": 2
    }  # fmt: skip
    for name in ("long", "short"):
        expected = recognised_file(model, music / f"{name}.wav", FRONT_END)
        for row, (log_probs, _, _) in zip(windows[name], expected, strict=True):
            np.testing.assert_allclose(row["scores"], np.exp(log_probs), atol=1e-4)
        weights = [length for *_, length in expected]
        (track,) = tracks[name]
        scores = softmax(np.average([log for log, _, _ in expected], axis=0, weights=weights))
        np.testing.assert_allclose(track["scores"], scores, atol=1e-4)
        pooled = np.average([vector for _, vector, _ in expected], axis=0, weights=weights)
        np.testing.assert_allclose(track["embedding"], pooled, atol=1e-3)
        assert track["label"] == LABELS[int(scores.argmax())]
        assert track["front_end_fingerprint"] == FRONT_END.fingerprint()
    assert tracks["silence"][0]["label"] == "unknown"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_recogniser(tmp_path_factory.mktemp("model") / "gru", unknown_threshold=0.2)


def test_the_record_says_which_kind_of_model(tmp_path, music, model):
    run = label_here(tmp_path / "out", f"--input={music}", f"--model={model}")
    record = run.record
    assert record["model"]["type"] == "catalog_sequence"
    assert (record["resources"]["device"], record["resources"]["precision"]) == ("cpu", "float32")
    assert record["front_end"]["reference"] == "full_scale"
    stage = record["stages"]["RunInference"]
    assert stage["model_seconds"] > 0
    assert stage["elements_in"] == 7


def test_two_forked_workers_give_the_rows_of_one(tmp_path, music, model):
    one = label_here(tmp_path / "one", f"--input={music}", f"--model={model}", "--embeddings")
    two = label(
        tmp_path / "two", f"--input={music}", f"--model={model}", "--embeddings", "--workers=2",
        "--progress=none", "--batch_size=2",
    )  # fmt: skip
    assert (two.status, two.stderr) == (0, "")
    for dataset in ("predictions", "windows"):
        expected = without_run_columns(one.rows(dataset))
        assert without_run_columns(two.rows(dataset)) == expected != []


def test_the_same_call_again_skips_and_another_model_does_not(tmp_path, music, model):
    call = (tmp_path / "out", f"--input={music}")
    label_here(*call, f"--model={model}")
    again = label_here(*call, f"--model={model}")
    assert again.record["counts"]["skipped"] == 3
    other = make_recogniser(tmp_path / "other", seed=1)
    assert label_here(*call, f"--model={other}").record["counts"]["labelled"] == 3


@pytest.mark.parametrize(
    "options",
    [("--windows=middle",), ("--windows=2", "--window_seconds=0.7"), ("--window_seconds=2",),
     ("--denoise=spectral_gate", "--trim_silence_db=60", "--normalize_peak")],
    ids=" ".join,
)  # fmt: skip
def test_options_of_the_front_end(tmp_path, music, model, options):
    run = label_here(tmp_path / "out", f"--input={music}", f"--model={model}", *options)
    assert run.record["counts"]["labelled"] == 3
    (track,) = rows_by_name(run, "predictions")["long"]
    expected = {"--windows=middle": 1, "--windows=2": 2, "--window_seconds=2": 2}
    assert track["window_count"] == expected.get(options[0], 4)
    assert track["front_end_fingerprint"] != FRONT_END.fingerprint()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--precision=bfloat16", "use --precision=float32"),
        ("--device=cuda", "use --device=cpu"),
        ("--windows=whole", "use --windows=all"),
    ],
)
def test_what_a_recogniser_cannot_is_one_line(tmp_path, music, model, capsys, option, said):
    call = [f"--input={music}", f"--output={tmp_path / 'out'}", f"--model={model}", option]
    assert main(call) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert option in line
    assert said in line


def test_an_enhancer_as_the_model_is_one_line(tmp_path, music, capsys):
    enhancer = make_enhancer(tmp_path / "enhancer")
    call = [f"--input={music}", f"--output={tmp_path / 'out'}", f"--model={enhancer}"]
    assert main(call) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pipeline.enhance" in line
    assert json.loads((enhancer / "config.json").read_text())["head"] == "enhancement"
    assert not (tmp_path / "out").exists()
