"""Training, evaluation and conversion as programs, on synthesised labelled tracks."""

import json
import math

import numpy as np
import pyarrow.dataset as ds
import pytest
import torch
from safetensors.numpy import load_file
from sklearn.metrics import accuracy_score, confusion_matrix

from pipeline import convert, evaluate, prepare, train
from tests.audio_files import noise, sine, write_soundfile
from tests.catalog import label_here
from transforms.models.checkpoint import load_checkpoint
from transforms.models.front_end import PRESETS

SECONDS, RATE_HZ = 13.0, 22_050
STEPS = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two labels of four artists each, one track an artist: hiss, and tones over less hiss."""
    folder = tmp_path_factory.mktemp("labelled")
    for artist in range(4):
        hiss = noise(SECONDS, RATE_HZ, 1, artist)
        tone = sine(SECONDS, RATE_HZ, 1, 200.0 + 130 * artist)
        for label, sound in (("hiss", hiss), ("tone", tone + 0.02 * hiss)):
            (folder / label / f"artist {artist}").mkdir(parents=True)
            path = folder / label / f"artist {artist}" / "1.flac"
            write_soundfile(path, sound, RATE_HZ, "FLAC", "PCM_16")
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A checkpoint of a short training with cross-validation."""
    output = tmp_path_factory.mktemp("models") / "hiss-or-tone"
    status = train.main(
        [f"--data={data}", f"--output={output}", f"--steps={STEPS}", "--threads=1",
         "--merge=hiss+tone", "--terms=synthesised, free to use"]
    )  # fmt: skip
    assert status == 0
    return output


@pytest.fixture(scope="module")
def report(trained):
    return json.loads((trained / "training.json").read_text())


def test_the_checkpoint_is_complete(trained):
    checkpoint = load_checkpoint(str(trained))
    assert checkpoint.labels == ("hiss", "tone")
    assert checkpoint.front_end == PRESETS["spectra"]
    assert 0 < checkpoint.unknown_threshold < 1
    weights = load_file(trained / "model.safetensors")
    assert all(np.isfinite(tensor).all() for tensor in weights.values())
    assert sum(path.stat().st_size for path in trained.iterdir()) < 30e6


def test_the_report_states_what_was_done(report):
    assert (report["tracks"], report["artists"], report["steps"]) == (8, 8, STEPS)
    assert report["recipe"]["settings"]["steps"] == STEPS
    assert len(report["fold_curves"]) == 4
    assert all(math.isfinite(loss) for loss in report["curve"]["train_loss"])
    folds = report["cross_validation"]["all labels"]["accuracy_by_group"]
    assert set(folds) == {"0", "1", "2", "3"}
    assert report["cross_validation"]["hiss+tone as one"]["accuracy"] == 1.0


def test_the_card_has_command_terms_and_figures(trained, data, report):
    card = (trained / "README.md").read_text()
    accuracy = report["cross_validation"]["all labels"]["accuracy"]
    assert f"accuracy           {accuracy:.3f}" in card
    assert "synthesised, free to use" in card
    command = f"python -m pipeline.train --data={data} --output={trained} --steps={STEPS} "
    assert f"    {command}--threads=1 --merge=hiss+tone '--terms=synthesised, free to use'" in card
    assert "nan" not in card.lower().replace("finance", "")


def test_pictures(trained):
    for name in ("confusion.png", "learning_curves.png"):
        assert (trained / name).read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def one_worker(monkeypatch):
    """In this process, which saves the start of others."""
    monkeypatch.setattr(prepare, "available_cores", lambda: 1)


@pytest.mark.usefixtures("one_worker")
def test_early_stopping_holds_artists_out(data, tmp_path):
    """With half of three artists a label held out, every fold has validation losses."""
    status = train.main(
        [f"--data={data}", f"--output={tmp_path / 'm'}", "--steps=4", "--threads=1",
         "--held_out_share=0.34", "--mask_bands=8", "--mask_columns=4"]
    )  # fmt: skip
    assert status == 0
    curves = json.loads((tmp_path / "m" / "training.json").read_text())["fold_curves"]
    assert [len(curve["validation_loss"]) for curve in curves] == [1, 1, 1, 1]


def test_evaluation_equals_scikit_learn_on_the_pipeline_s_rows(trained, data, tmp_path, capsys):
    options = [f"--model={trained}", "--precision=float32", "--workers=1"]
    assert evaluate.main([f"--data={data}", f"--output={tmp_path / 'e'}", *options]) == 0
    found = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    labelled = label_here(tmp_path / "out", f"--input={data}", *options)
    rows = labelled.rows("predictions")
    names = ["hiss", "tone"]
    truth = [names.index(row["uri"].split("/")[-3]) for row in rows]
    predicted = [int(np.argmax(row["scores"])) for row in rows]
    assert found["tracks"] == len(rows) == 8
    assert found["failed"] == 0
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert found["confusion"] == confusion_matrix(truth, predicted, labels=[0, 1]).tolist()
    assert (tmp_path / "e" / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert f"accuracy           {found['accuracy']:.3f}" in capsys.readouterr().out


@pytest.mark.usefixtures("one_worker")
def test_a_broken_track_ends_a_training_and_is_counted_by_an_evaluation(trained, data, tmp_path):
    rows = [f"{path},{path.parts[-3]}\n" for path in sorted(data.rglob("*.flac"))]
    table = tmp_path / "l.csv"
    table.write_text("uri,label\n" + "".join(rows) + f"{tmp_path}/missing.flac,hiss\n")
    assert train.main([f"--data={table}", f"--output={tmp_path / 'm'}"]) == 2
    assert not (tmp_path / "m").exists()
    output = tmp_path / "e"
    options = [f"--model={trained}", f"--data={table}", f"--output={output}", "--workers=1"]
    assert evaluate.main(options) == 0
    assert json.loads((output / "evaluation.json").read_text())["failed"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output=."], "is there already"),
        (["--held_out_share=0.9"], "--held_out_share=0.9: must be from 0 to 0.5"),
        (["--mask_bands=128"], "--mask_bands=128: must be from 0 to 127"),
        (["--mask_columns=-1"], "--mask_columns=-1: must be 0 or more"),
        (["--steps=0"], "--steps=0: must be 1 or more"),
        (["--epochs=3"], "--epochs is no setting of --cell=vit; leave it away"),
        (["--stepz=3"], "--stepz=3: not an option of this program or of Apache Beam; see --help"),
        (["--front_end=ccmusic", "--cell=gru"], "--cell=gru takes music_frames or speech_frames"),
        (["--threads=0"], "--threads=0: must be 1 or more"),
        (["--seed=-1"], "--seed=-1: must be 0 or more"),
        (["--merge=hiss+jazz"], "the labels are hiss, tone"),
    ],
)
def test_wrong_calls_of_train(data, tmp_path, capsys, options, message):
    assert train.main([f"--data={data}", f"--output={tmp_path / 'new'}", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "new").exists()


def test_labels_that_the_model_does_not_know(trained, data, tmp_path, capsys):
    table = tmp_path / "l.csv"
    table.write_text("uri,label\na.flac,hiss\nb.flac,jazz\n")
    assert evaluate.main([f"--model={trained}", f"--data={table}"]) == 2
    assert "jazz: not among the model's labels" in capsys.readouterr().err


def state_dict(folder, labels=16):
    from torchvision.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    model = VisionTransformer(
        image_size=224, patch_size=112, num_layers=1, num_heads=1, hidden_dim=64, mlp_dim=32,
        num_classes=labels,
    )  # fmt: skip
    torch.save(model.state_dict(), folder / "vit.pth")
    return folder / "vit.pth"


def test_a_converted_model_labels(tmp_path, data):
    source = state_dict(tmp_path)
    options = [f"--output={tmp_path / 'm'}", "--front_end=ccmusic", "--windows=whole"]
    assert convert.main([f"--input={source}", *options]) == 0
    run = label_here(tmp_path / "out", f"--input={data}", f"--model={tmp_path / 'm'}")
    assert run.status == 0
    schema = ds.dataset(str(tmp_path / "out" / "predictions")).schema
    assert json.loads(schema.metadata[b"labels"])[0] == "blues"
    assert {row["window_count"] for row in run.rows("predictions")} == {1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output=."], "is there already"),
        (["--labels=a,b"], "16 logits, but 2 labels"),
        (["--unknown_threshold=2"], "unknown_threshold"),
    ],
)
def test_wrong_calls_of_convert(tmp_path, capsys, options, message):
    base = [f"--input={state_dict(tmp_path)}", f"--output={tmp_path / 'm'}", "--front_end=ccmusic"]
    assert convert.main([*base, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "m").exists()
