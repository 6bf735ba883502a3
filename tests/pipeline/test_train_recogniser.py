"""Training of recognisers as a program, on synthesised recordings: two labels, some speakers."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from pipeline import fit_recogniser, prepare, train
from tests.audio_files import noise, sine, write_soundfile
from tests.interruptions import InterruptionError, after
from transforms.models.checkpoint import load_checkpoint, read_config
from transforms.models.front_end import PRESETS
from transforms.models.sequence import SequenceModel, load_weights, settings_of

RATE_HZ = 8_000
SMALL = ["--epochs=2", "--hidden_size=8", "--layers=1", "--threads=1"]
GRU = ["--task=recognise", "--cell=gru", *SMALL]


def write_recordings(folder, speakers):
    """A short hiss and a short tone by each speaker; gives rows of a table."""
    rows = []
    for speaker in speakers:
        seconds = 0.4 + 0.05 * speaker
        hiss = noise(seconds, RATE_HZ, 1, speaker)
        tone = sine(seconds, RATE_HZ, 1, 300.0 + 50 * speaker) + 0.02 * hiss
        for label, sound in (("hiss", hiss), ("tone", tone)):
            path = folder / f"{label}-{speaker}.flac"
            write_soundfile(path, sound, RATE_HZ, "FLAC", "PCM_16")
            rows.append(f"{path},{label},speaker {speaker}")
    return rows


def write_table(path, rows):
    path.write_text("\n".join(["uri,label,artist", *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    return write_table(folder / "labels.csv", write_recordings(folder, range(6)))


@pytest.fixture(scope="module", autouse=True)
def one_worker():
    """In this process, which saves the start of others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "available_cores", lambda: 1)
        yield


@pytest.fixture(scope="module")
def trained(table, tmp_path_factory):
    output = tmp_path_factory.mktemp("models") / "hiss-or-tone"
    assert train.main([f"--data={table}", f"--output={output}", *GRU, "--merge=hiss+tone"]) == 0
    return output


def read_report(output):
    """What training.json says, but for the command, which names the folder."""
    report = json.loads((output / "training.json").read_text())
    return {key: value for key, value in report.items() if key not in ("command", "name")}


def one_line(capsys):
    lines = capsys.readouterr().err.splitlines()
    (line,) = [line for line in lines if line.startswith("error: ")]
    assert line == lines[-1]
    return line


def test_the_checkpoint_is_a_recogniser_that_knows_its_front_end(trained):
    assert sorted(path.name for path in trained.iterdir()) == [
        "README.md", "config.json", "confusion.png", "learning_curves.png", "model.safetensors",
        "preprocessor_config.json", "training.json",
    ]  # fmt: skip
    checkpoint = load_checkpoint(str(trained))
    assert checkpoint.labels == ("hiss", "tone")
    assert checkpoint.front_end == PRESETS["speech_frames"]
    settings = settings_of(read_config(trained))
    assert (settings.cell, settings.hidden_size, settings.layers) == ("gru", 8, 1)
    model = SequenceModel(load_weights(trained, settings))
    scores = model.forward(np.zeros((1, 5, settings.inputs), np.float32))
    np.testing.assert_allclose(scores.sum(axis=2), 1, atol=1e-5)


def test_the_report_has_every_epoch(trained):
    report = read_report(trained)
    assert (report["task"], report["cell"]) == ("recognise", "gru")
    assert (report["tracks"], report["tested_tracks"], report["artists"]) == (12, 12, 6)
    for curve in (report["curve"], *report["fold_curves"]):
        assert curve["step"] == [1, 2]
        assert np.isfinite(curve["train_loss"]).all() and len(curve["train_loss"]) == 2
        assert curve["validation_loss"] == curve["validation_accuracy"] == []
    assert len(report["fold_curves"]) == 4
    tested = report["cross_validation"]["all labels"]
    assert np.sum(tested["confusion"]) == tested["tracks"] == 12
    assert report["cross_validation"]["hiss+tone as one"]["accuracy"] == 1.0
    assert report["recipe"]["front_end"]["n_mels"] == report["recipe"]["front_end"]["image_height"]
    weights = load_file(trained / "model.safetensors")
    counted = sum(w.size for n, w in weights.items() if not n.startswith("input_"))
    assert report["parameters"] == counted


def test_the_card_and_the_pictures(trained, table):
    card = (trained / "README.md").read_text()
    accuracy = read_report(trained)["cross_validation"]["all labels"]["accuracy"]
    assert f"accuracy           {accuracy:.3f}" in card
    assert "A causal GRU that labels short recordings with one of 2 labels (hiss, tone)" in card
    assert f"    python -m pipeline.train --data={table} --output={trained} --task=rec" in card
    assert "nan" not in card.lower() and "in no test" not in card
    for name in ("confusion.png", "learning_curves.png"):
        assert (trained / name).read_bytes().startswith(b"\x89PNG")


def test_music_with_a_stack_of_convolutions(table, tmp_path):
    output = tmp_path / "m"
    options = ["--task=genre", "--cell=cnn", *SMALL, "--epochs=1", "--held_out_share=0.5"]
    assert train.main([f"--data={table}", f"--output={output}", *options]) == 0
    checkpoint = load_checkpoint(str(output))
    assert checkpoint.front_end == PRESETS["music_frames"]
    assert load_weights(output, settings_of(read_config(output))).settings.cell == "cnn"
    report = read_report(output)
    for curve in report["fold_curves"]:
        assert len(curve["validation_loss"]) == len(curve["validation_accuracy"]) == 1
    assert "A causal stack of dilated convolutions that labels music" in (
        output / "README.md"
    ).read_text()


def test_without_cross_validation_there_are_no_figures(table, tmp_path):
    output = tmp_path / "m"
    options = [*GRU, "--no-cross_validate", "--epochs=1"]
    assert train.main([f"--data={table}", f"--output={output}", *options]) == 0
    report = read_report(output)
    assert (report["cross_validation"], report["unknown_threshold"]) == ({}, 0.0)
    assert "Not cross-validated." in (output / "README.md").read_text()
    assert not (output / "confusion.png").exists()
    assert (output / "learning_curves.png").read_bytes().startswith(b"\x89PNG")
    card = (output / "README.md").read_text()
    assert "one of 2 labels (hiss, tone).\n" in card
    assert "Its scores are not calibrated" in card
    for untrue in ("`unknown`", "had not seen", "confusion matrix"):
        assert untrue not in card


@pytest.mark.parametrize("epochs", [0, 3, 8, 9])  # of 2 in each of 4 folds and in the last model
def test_a_killed_training_goes_on_to_the_same_weights(
    table, trained, tmp_path, monkeypatch, epochs
):
    output = tmp_path / trained.name
    command = [f"--data={table}", f"--output={output}", *GRU, "--merge=hiss+tone"]
    count = after(epochs, fit_recogniser.Sequences.epoch)
    with monkeypatch.context() as patch, pytest.raises(InterruptionError):
        patch.setattr(fit_recogniser.Sequences, "epoch", lambda *args: count(*args))
        train.main(command)
    assert [path.name for path in output.iterdir()] == ["training_state"]
    done = []
    epoch = fit_recogniser.Sequences.epoch
    monkeypatch.setattr(
        fit_recogniser.Sequences, "epoch", lambda *args: done.append(1) or epoch(*args)
    )
    assert train.main(command) == 0
    assert len(done) == 10 - epochs
    assert (output / "model.safetensors").read_bytes() == (
        trained / "model.safetensors"
    ).read_bytes()
    assert read_report(output) == read_report(trained)
    assert not (output / "training_state").exists()


@pytest.fixture
def interrupted(table, tmp_path, monkeypatch):
    """An output after one epoch, and the command that goes on."""
    command = [f"--data={table}", f"--output={tmp_path / 'm'}", *GRU]
    count = after(1, fit_recogniser.Sequences.epoch)
    with monkeypatch.context() as patch, pytest.raises(InterruptionError):
        patch.setattr(fit_recogniser.Sequences, "epoch", lambda *args: count(*args))
        train.main(command)
    return tmp_path / "m", command


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed=1"], "with --seed=0, not with 1"),
        (["--epochs=3"], "with --epochs=2, not with 3"),
        (["--mask_bands=2"], "without --mask_bands, not with 2"),
        (["--cell=lstm"], "with --cell=gru, not with lstm"),
    ],
)
def test_an_interrupted_training_does_not_go_on_with_other_options(
    interrupted, capsys, options, message
):
    output, command = interrupted
    files = sorted(path for path in output.rglob("*"))
    assert train.main([*command, *options]) == 2
    line = one_line(capsys)
    assert f"{output} is an interrupted training {message}; go on as before, or remove" in line
    assert sorted(output.rglob("*")) == files


def test_options_that_change_no_weight_may_change(interrupted, tmp_path):
    _, command = interrupted
    assert train.main([*command, "--terms=mine", f"--shards={tmp_path / 'shards'}"]) == 0


def test_a_damaged_state_is_named_in_one_line(interrupted, capsys):
    output, command = interrupted
    path = output / "training_state" / "fold-0.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    assert train.main(command) == 2
    assert f"{path}: not the state of an interrupted training" in one_line(capsys)
    assert path.exists()


def test_a_finished_output_is_refused(table, trained, capsys):
    before = {path: path.stat().st_mtime_ns for path in trained.iterdir()}
    assert train.main([f"--data={table}", f"--output={trained}", *GRU]) == 2
    assert "is there already; nothing is overwritten, name another" in one_line(capsys)
    assert {path: path.stat().st_mtime_ns for path in trained.iterdir()} == before


def test_shards_serve_other_trainings_without_the_audio(tmp_path, capsys):
    (tmp_path / "audio").mkdir()
    rows = write_recordings(tmp_path / "audio", range(4))
    table = write_table(tmp_path / "labels.csv", rows)
    options = [f"--data={table}", f"--shards={tmp_path / 'shards'}", *GRU, "--epochs=1"]
    assert train.main([*options, f"--output={tmp_path / 'a'}"]) == 0
    shutil.rmtree(tmp_path / "audio")
    assert train.main([*options, f"--output={tmp_path / 'b'}", "--cell=rnn"]) == 0
    write_table(table, rows[:-1])
    assert train.main([*options, f"--output={tmp_path / 'c'}", "--no-cross_validate"]) == 2
    assert "holds what was prepared of other tracks; remove it, or name" in one_line(capsys)
    assert not (tmp_path / "c").exists()


def test_tracks_beside_the_data_are_in_no_test(table, tmp_path, capsys):
    """--also: three more speakers of one label, of whom only the model knows."""
    rows = [row for row in write_recordings(tmp_path, range(6, 9)) if ",tone," in row]
    also = write_table(tmp_path / "also.csv", rows)
    base = [f"--data={table}", *GRU, "--epochs=1"]
    assert train.main([*base, f"--also={also}", f"--output={tmp_path / 'm'}"]) == 0
    report = read_report(tmp_path / "m")
    assert (report["tracks"], report["tested_tracks"]) == (15, 12)
    assert np.sum(report["cross_validation"]["all labels"]["confusion"], axis=1).tolist() == [6, 6]
    assert "15 recordings by 9 artists or speakers" in (tmp_path / "m" / "README.md").read_text()
    assert "(3 of them were in no test)" in (tmp_path / "m" / "README.md").read_text()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x.flac,jazz,a", "jazz: not among --data's labels"),
        ("{known},tone,a", "hiss-0.flac is in --data too, and would be tested"),
    ],
)
def test_tracks_that_cannot_be_beside_the_data(table, tmp_path, capsys, row, message):
    known = table.parent / "hiss-0.flac"
    also = write_table(tmp_path / "also.csv", [row.format(known=known)])
    options = [f"--data={table}", f"--also={also}", f"--output={tmp_path / 'm'}", *GRU]
    assert train.main(options) == 2
    line = one_line(capsys)
    assert line.startswith(f"error: --also={also}: ") and message in line
    assert not (tmp_path / "m").exists()


def test_a_broken_recording_leaves_nothing_behind(tmp_path, capsys):
    rows = write_recordings(tmp_path, range(4))
    (tmp_path / "hiss-2.flac").write_text("no sound")
    table = write_table(tmp_path / "labels.csv", rows)
    command = [f"--data={table}", f"--output={tmp_path / 'm'}", *GRU, "--epochs=1"]
    assert train.main(command) == 2
    assert "hiss-2.flac: not_audio" in (line := one_line(capsys))
    assert "remove it from the data (1 such)" in line
    assert not (tmp_path / "m").exists()
    write_table(table, [row for row in rows if "hiss-2" not in row])
    assert train.main([*command, "--no-cross_validate"]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cell=vit"], "--cell=vit cannot --task=recognise; one of rnn, lstm, gru, cnn can"),
        (["--steps=3"], "--steps is no setting of --cell=gru"),
        (["--epochs=0"], "--epochs=0: must be 1 or more"),
        (["--hidden_size=0"], "--hidden_size=0: must be from 1 to 4096"),
        (["--hidden_size=5000"], "--hidden_size=5000: must be from 1 to 4096"),
        (["--mask_columns=500"], "--mask_columns=500: must be from 0 to"),
        (["--held_out_share=0.6"], "--held_out_share=0.6: must be from 0 to 0.5"),
        (["--front_end=spectra"], "--cell=gru takes music_frames or speech_frames"),
        (["--clip_seconds=3"], "--clip_seconds is no setting of --task=recognise"),
        (["--test_fold=1"], "--test_fold is no setting of --task=recognise"),
        (["--epoch=3"], "--epoch=3: not an option of this program or of Apache Beam"),
        (["--runner=NoRunner"], "--runner=NoRunner"),
        (["--no-cross_validate", "--held_out_share=0.3"], "--held_out_share is of no use with --n"),
        (["--no-cross_validate", "--merge=hiss+tone"], "--merge is of no use with --no-cross_vali"),
        (["--task=genre", "--cell=vit", "--steps=1"], "--epochs is no setting of --cell=vit"),
    ],
)
def test_wrong_calls(table, tmp_path, capsys, options, message):
    output = tmp_path / "m"
    assert train.main([f"--data={table}", f"--output={output}", *GRU, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not output.exists()


def test_folds_that_cannot_be_split_are_refused_before_anything_is_made(
    table, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(prepare.Shards, "windows", None)
    command = [f"--data={table}", f"--output={tmp_path / 'm'}", *GRU, "--held_out_share=0.01"]
    assert train.main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--held_out_share=0.01 makes 100 parts, but a fold trains on" in line
    assert not (tmp_path / "m").exists()


def test_too_few_speakers_to_fold(tmp_path, capsys):
    table = write_table(tmp_path / "labels.csv", write_recordings(tmp_path, range(3)))
    assert train.main([f"--data={table}", f"--output={tmp_path / 'm'}", *GRU]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "3 artists, fewer than the 4 folds; add some, state every track's fold" in line
