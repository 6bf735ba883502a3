"""The labelling program with an enhancer in its front end."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from pipeline.main import main
from tests.audio_files import noise, write_soundfile
from tests.catalog import label, label_here, without_run_columns
from tests.checkpoints import make_enhancer, make_recogniser, recogniser_front_end
from transforms.models.checkpoint import fingerprint_of
from transforms.models.enhancer import SpectrumFrontEnd


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    folder = tmp_path_factory.mktemp("music")
    for name, seconds in {"long": 3.6, "short": 0.7}.items():
        sound = noise(seconds, 22_050, 1, 2)
        write_soundfile(folder / f"{name}.wav", sound, 22_050, "WAV", "PCM_16")
    return folder


@pytest.fixture(scope="module")
def enhancer(tmp_path_factory):
    return make_enhancer(tmp_path_factory.mktemp("enhancer") / "gru")


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory):
    return make_recogniser(tmp_path_factory.mktemp("recogniser") / "gru")


@pytest.fixture(params=["vit", "recogniser"])
def model(request, tiny_checkpoint):
    return {"vit": tiny_checkpoint}.get(request.param) or request.getfixturevalue("recogniser")


def scores(run):
    return np.array([row["scores"] for row in run.rows("windows")])


def test_a_mask_of_one_changes_no_score_and_another_does(tmp_path, music, model, enhancer):
    all_pass = make_enhancer(tmp_path / "all-pass", all_pass=True)
    call = (f"--input={music}", f"--model={model}", "--precision=float32")
    plain = label_here(tmp_path / "plain", *call)
    passed = label_here(tmp_path / "passed", *call, f"--denoise={all_pass}")
    enhanced = label_here(tmp_path / "enhanced", *call, f"--denoise={enhancer}")
    np.testing.assert_allclose(scores(passed), scores(plain), atol=2e-4)
    assert np.abs(scores(enhanced) - scores(plain)).max() > 2e-3
    fingerprints = {run.record["front_end"]["fingerprint"] for run in (plain, passed, enhanced)}
    assert len(fingerprints) == 3


def test_an_enhancer_is_known_by_its_content_not_its_path(tmp_path, music, model, enhancer):
    call = (tmp_path / "out", f"--input={music}", f"--model={model}")
    first = label_here(*call, f"--denoise={enhancer}")
    assert first.record["counts"]["labelled"] == 2
    assert first.record["front_end"]["denoise"] == f"model:{fingerprint_of(enhancer)}"
    assert first.record["config"]["front_end_changes"]["denoise"] == str(enhancer)
    copy = shutil.copytree(enhancer, tmp_path / "elsewhere")
    assert label_here(*call, f"--denoise={copy}").record["counts"]["skipped"] == 2
    other = make_enhancer(tmp_path / "other", seed=1)
    assert label_here(*call, f"--denoise={other}").record["counts"]["labelled"] == 2
    SpectrumFrontEnd(sample_rate_hz=16_000, n_fft=128, hop_length=64).save(copy)
    assert label_here(*call, f"--denoise={copy}").record["counts"]["labelled"] == 2
    assert label_here(*call).record["counts"]["labelled"] == 2


def test_two_workers_give_the_rows_of_one(tmp_path, music, recogniser, enhancer):
    call = (f"--input={music}", f"--model={recogniser}", f"--denoise={enhancer}")
    one = label_here(tmp_path / "one", *call)
    two = label(tmp_path / "two", *call, "--workers=2", "--progress=none")
    assert (two.status, two.stderr) == (0, "")
    for dataset in ("predictions", "windows"):
        expected = without_run_columns(one.rows(dataset))
        assert without_run_columns(two.rows(dataset)) == expected != []


def test_a_checkpoint_that_states_its_enhancer_needs_that_one(
    tmp_path, music, enhancer, capsys
):
    setting = f"model:{fingerprint_of(enhancer)}"
    front_end = recogniser_front_end(denoise=setting)
    model = make_recogniser(tmp_path / "model", front_end=front_end)
    call = [f"--input={music}", f"--output={tmp_path / 'out'}", f"--model={model}"]
    other = make_enhancer(tmp_path / "other", seed=1)
    for options in ([], ["--denoise=none"], [f"--denoise={other}"]):
        assert main([*call, *options]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"the enhancer {setting.removeprefix('model:')}" in line
        assert "--denoise" in line
    assert main([*call, f"--denoise={enhancer}", "--workers=1", "--progress=none"]) == 0
    (path,) = (tmp_path / "out" / "runs").glob("*.json")
    record = json.loads(path.read_text())
    assert record["front_end"]["fingerprint"] == front_end.fingerprint()


@pytest.mark.parametrize(
    ("denoise", "said"),
    [
        ("rnnoise", "--denoise=rnnoise: neither none nor spectral_gate, and no checkpoint"),
        ("genre-vit", "model_type is 'vit'"),
    ],
)
def test_what_is_no_enhancer_is_one_line(tmp_path, music, capsys, denoise, said):
    call = [f"--input={music}", f"--output={tmp_path / 'out'}", f"--denoise={denoise}"]
    assert main(call) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "out").exists()
