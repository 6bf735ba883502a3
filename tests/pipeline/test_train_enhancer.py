"""Training of an enhancer as a program, on synthesised sound: two kinds, four performers each."""

import json

import numpy as np
import pytest

from pipeline import fit_enhancer, prepare, train, train_enhancer
from tests.audio_files import noise, sine, write_soundfile
from tests.interruptions import InterruptionError, after
from transforms.models.enhancer import load_enhancer
from transforms.noises import NOISES

RATE_HZ = 16_000
TINY = [
    "--task=denoise", "--cell=gru", "--hidden_size=8", "--layers=1", "--epochs=2",
    "--steps_per_epoch=2", "--clip_seconds=0.3", "--test_mixtures=1", "--threads=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder KIND/PERFORMER/1.flac; one recording is longer than a piece of ten seconds."""
    folder = tmp_path_factory.mktemp("clean")
    for performer in range(4):
        seconds = 12.0 if performer == 0 else 1.5
        tone = sine(seconds, RATE_HZ, 1, 200.0 + 90 * performer)
        beating = tone * np.abs(sine(seconds, RATE_HZ, 1, 3.0))
        for kind, sound in (("music", tone), ("speech", beating)):
            path = folder / kind / f"performer {performer}" / "1.flac"
            path.parent.mkdir(parents=True)
            write_soundfile(path, sound, RATE_HZ, "FLAC", "PCM_16")
    return folder


@pytest.fixture(scope="module", autouse=True)
def one_worker():
    """In this process, which saves the start of others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "available_cores", lambda: 1)
        yield


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("models") / "denoise"
    assert train.main([f"--data={data}", f"--output={output}", *TINY, "--terms=our own"]) == 0
    return output


def read_report(output):
    report = json.loads((output / "training.json").read_text())
    return {key: value for key, value in report.items() if key not in ("command", "name")}


def test_the_checkpoint_is_an_enhancer(trained):
    assert sorted(path.name for path in trained.iterdir()) == [
        "README.md", "config.json", "improvement.png", "learning_curve.png", "model.safetensors",
        "preprocessor_config.json", "training.json",
    ]  # fmt: skip
    enhancer = load_enhancer(str(trained))
    samples = noise(1.0, RATE_HZ, 1).T
    enhanced, _ = enhancer.enhance(samples)
    assert enhanced.shape == samples.shape
    assert np.isfinite(enhanced).all()


def test_the_report_has_every_epoch_and_every_figure(trained):
    report = read_report(trained)
    assert (report["kinds"], report["performers"]) == (["music", "speech"], 6)
    assert [metrics["epoch"] for metrics in report["history"]] == [1, 2]
    assert np.isfinite([metrics["train_loss"] for metrics in report["history"]]).all()
    recipe = report["recipe"]
    assert (recipe["steps_per_epoch"], recipe["clip_seconds"], recipe["hidden_size"]) == (2, 0.3, 8)
    assert list(report["improvement_db"]) == ["model", "spectral gate", "spectral gate, moving"]
    for found in report["improvement_db"].values():
        assert list(found["by_noise_and_level"]) == list(NOISES)
        assert np.isfinite([*found["by_kind"].values(), *found["clean"].values()]).all()


def test_the_card_and_the_pictures(trained, data):
    card = (trained / "README.md").read_text()
    mean = read_report(trained)["improvement_db"]["model"]["mean"]
    assert f"this model {mean:+.1f} dB on average" in card
    assert "A causal GRU that removes noise" in card and "our own" in card
    assert f"    python -m pipeline.train --data={data} --output={trained} --task=denoise" in card
    assert "| noise | 0 dB | 5 dB | 10 dB | 15 dB | 20 dB | mean |" in card
    for noise_name in NOISES:
        assert f"| {noise_name} | " in card
    assert "nan" not in card.lower()
    for name in ("improvement.png", "learning_curve.png"):
        assert (trained / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_weights(data, trained, tmp_path, monkeypatch):
    """Killed in its second epoch, and again while it is judged."""
    command = [f"--data={data}", f"--output={tmp_path / 'm'}", *TINY, "--terms=our own"]
    with monkeypatch.context() as patch, pytest.raises(InterruptionError):
        batches = after(2, fit_enhancer.make_batches)  # the first are a sample of the inputs
        patch.setattr(fit_enhancer, "make_batches", batches)
        train.main(command)
    with monkeypatch.context() as patch, pytest.raises(InterruptionError):
        patch.setattr(train_enhancer, "judge", after(0, train_enhancer.judge))
        train.main(command)
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["training_state"]
    monkeypatch.setattr(
        fit_enhancer, "make_batches", after(1, fit_enhancer.make_batches)
    )
    assert train.main(command) == 0
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == (
        trained / "model.safetensors"
    ).read_bytes()
    assert read_report(tmp_path / "m") == read_report(trained)


def test_performers_of_the_test_fold_are_not_learned_from(data, tmp_path, monkeypatch):
    heard = {}

    def fit(recordings, *args, **kwargs):
        heard["learned"] = set(recordings.performers)
        heard["pieces"] = max(map(len, recordings.samples)) / RATE_HZ
        raise InterruptionError

    monkeypatch.setattr(train_enhancer, "fit_enhancer", fit)
    rows = [f"{path},{path.parts[-3]},{path.parts[-2]},{path.parts[-2][-1]}"
            for path in sorted(data.rglob("*.flac"))]  # fmt: skip
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["uri,label,artist,fold", *rows]) + "\n")
    with pytest.raises(InterruptionError):
        train.main([f"--data={table}", f"--output={tmp_path / 'm'}", *TINY, "--test_fold=2"])
    assert heard["learned"] == {"performer 0", "performer 1", "performer 3"}
    assert heard["pieces"] == 10.0


def test_a_silent_recording_is_named(data, tmp_path, capsys):
    for performer in range(4):
        path = tmp_path / "clean" / "music" / f"{performer}" / "1.flac"
        path.parent.mkdir(parents=True)
        sound = (performer > 0) * sine(0.5, RATE_HZ, 1)
        write_soundfile(path, sound, RATE_HZ, "FLAC", "PCM_16")
    command = [f"--data={tmp_path / 'clean'}", f"--output={tmp_path / 'm'}", *TINY]
    assert train.main(command) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "music/0/1.flac: only silence; remove it from --data (1 such)" in line
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cell=vit"], "--cell=vit cannot --task=denoise"),
        (["--test_fold=7"], "--test_fold=7: no performer is in that fold alone"),
        (["--clip_seconds=0.01"], "--clip_seconds=0.01: must be from 0.1 to 60"),
        (["--clip_seconds=nan"], "--clip_seconds=nan: must be from 0.1 to 60"),
        (["--steps_per_epoch=0"], "--steps_per_epoch=0: must be 1 or more"),
        (["--test_mixtures=0"], "--test_mixtures=0: must be 1 or more"),
        (["--no-cross_validate"], "--cross_validate is no setting of --task=denoise"),
        (["--merge=a+b"], "--merge is no setting of --task=denoise"),
        (["--also=x.csv"], "--also is no setting of --task=denoise"),
        (["--front_end=spectra"], "--front_end is no setting of --task=denoise"),
    ],
)
def test_wrong_calls(data, tmp_path, capsys, options, message):
    assert train.main([f"--data={data}", f"--output={tmp_path / 'm'}", *TINY, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "m").exists()
