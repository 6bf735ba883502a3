"""One file streamed and whole: the table, the verdict, the picture, and wrong calls."""

import dataclasses
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from pipeline import compare as module
from pipeline.compare import read_beginning, run_compare, to_table, verdict
from tests.audio_files import noise, sine, write_soundfile
from tests.checkpoints import make_enhancer, make_recogniser, recogniser_front_end
from transforms.errors import CheckpointError, InputError, Reason, StageError, UsageError
from transforms.streaming import comparing
from transforms.streaming.comparing import Comparison


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "quiet-gru"
    return str(make_recogniser(folder, front_end=recogniser_front_end(remove_dc=False)))


@pytest.fixture
def song(tmp_path):
    return write_soundfile(tmp_path / "song.wav", sine(1.5) + noise(1.5), 44_100, "WAV", "PCM_16")


def call(path, model, tmp_path, **changes):
    options = {"half_life_seconds": 2.0, "denoise": None, "picture": tmp_path / "cells.png",
               "block_seconds": None, "seed": 0, **changes}  # fmt: skip
    return run_compare(str(path), model=model, **options)


def figures(output):
    """The table's rows by name: steps, largest difference, where, at own rate, and cuts."""
    cells = [line.split("  ") for line in output.splitlines()[2:]]
    rows = [[cell.strip() for cell in line if cell.strip()] for line in cells]
    return {row[0]: row[1:] for row in rows if len(row) == 8}


def test_all_cells_are_compared_printed_and_drawn(song, model, tmp_path, capsys):
    largest = call(song, model, tmp_path)
    output = capsys.readouterr().out
    rows = figures(output)
    assert output.startswith("song.wav, 1.5 s at 44100 Hz; half-life 2 s; seed 0\n")
    assert list(rows) == ["quiet-gru (gru)", "rnn, untrained", "lstm, untrained",
                          "gru, untrained", "cnn, untrained"]  # fmt: skip
    assert {row[0] for row in rows.values()} == {str(1 + math.ceil(1.5 * 8_000) // 128)}
    assert {row[4] for row in rows.values()} == {"equal"}
    assert max(float(row[1]) for row in rows.values()) == pytest.approx(largest, rel=0.06)
    assert 0 < largest < 5e-5  # of these weights; the resampler's rounding, and theirs
    assert image.imread(tmp_path / "cells.png").shape[1] == 1_200


def test_the_same_call_gives_the_same_difference(song, model, tmp_path):
    assert call(song, model, tmp_path) == call(song, model, tmp_path)


def test_an_enhancer_too(song, model, tmp_path, capsys):
    enhancer = make_enhancer(tmp_path / "soft", all_pass=True)
    call(song, model, tmp_path, denoise=str(enhancer), half_life_seconds=None)
    output = capsys.readouterr().out
    assert "half-life none" in output
    assert figures(output)["soft (samples)"][0] == str(math.ceil(1.5 * 8_000))


def test_other_blocks_make_other_cuts(song, model, tmp_path, monkeypatch):
    seen = []

    def compared(subject, samples, rate_hz, all_cuts):
        seen.append(all_cuts)
        return finding()

    monkeypatch.setattr(comparing, "compare", compared)
    call(song, model, tmp_path, block_seconds=[0.5, 1.0])
    assert seen[0][0] == [22_050] * 3
    assert seen[0][1] == [44_100, 22_050]
    assert seen[0][-1] == [66_150]
    assert all(cut == seen[0] for cut in seen)


def test_mono_is_made_by_the_channel_rule(tmp_path):
    samples = np.rint(noise(0.2, 48_000, 3) * 2**15) / 2**15
    path = write_soundfile(tmp_path / "three.wav", samples, 48_000, "WAV", "PCM_16")
    mean = read_beginning(path, "mean", 600.0)
    assert (mean.rate_hz, mean.seconds, mean.warnings) == (48_000, 0.2, ())
    np.testing.assert_allclose(mean.samples, samples.mean(axis=1), atol=1e-7)
    np.testing.assert_array_equal(read_beginning(path, "first", 600.0).samples, samples[:, 0])


def test_a_long_file_is_cut_and_that_is_said(song, model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "MOST_SECONDS", 0.5)
    call(song, model, tmp_path)
    output = capsys.readouterr().out
    assert "song.wav, 0.5 s at 44100 Hz" in output
    assert "the file is longer: only its first 0.5 s are compared" in output


def test_silence_and_a_single_sample(model, tmp_path, capsys):
    for frames in (1, 8_000):
        path = tmp_path / f"{frames}.wav"
        write_soundfile(path, np.zeros((frames, 1), np.float32), 8_000, "WAV", "PCM_16")
        assert call(path, model, tmp_path) <= 5e-6
    assert "decoding: silent" in capsys.readouterr().out


def test_what_is_no_sound_is_told(model, tmp_path):
    path = tmp_path / "text.wav"
    path.write_text("no sound at all, but more than enough letters to look at")
    with pytest.raises(StageError) as caught:
        call(path, model, tmp_path)
    assert caught.value.reason is Reason.NOT_AUDIO
    write_soundfile(path, np.zeros((0, 1), np.float32), 8_000, "WAV", "PCM_16")
    with pytest.raises(StageError):
        call(path, model, tmp_path)


def test_wrong_calls_are_refused_before_any_work(
    song, model, tmp_path, monkeypatch, tiny_checkpoint
):
    monkeypatch.setattr(comparing, "compare", None)
    enhancer = str(make_enhancer(tmp_path / "enhancer"))
    with pytest.raises(InputError, match=r"none\.wav: no such file"):
        call(tmp_path / "none.wav", model, tmp_path)
    with pytest.raises(CheckpointError, match="does not follow a stream; give a recogniser"):
        call(song, str(tiny_checkpoint), tmp_path)
    with pytest.raises(CheckpointError, match="enhances, it does not label"):
        call(song, enhancer, tmp_path)
    with pytest.raises(CheckpointError, match="labels, it does not enhance"):
        call(song, model, tmp_path, denoise=model)
    for seconds in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(UsageError, match="give seconds over 0"):
            call(song, model, tmp_path, block_seconds=[0.25, seconds])
    for picture in (song, tmp_path, tmp_path / "no" / "folder.png"):
        with pytest.raises(UsageError, match=r"name a file"):
            call(song, model, tmp_path, picture=Path(picture))
    assert song.stat().st_size > 1_000


def test_without_matplotlib_the_remedy_is_told(song, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"pip install 'matplotlib.*\[train\]"):
        call(song, model, tmp_path)


def finding(**changes):
    scores = np.full((4, 4), 0.25, np.float32)
    return dataclasses.replace(
        Comparison("gru", scores, scores, np.float32([0, 1e-7, 3e-7, 0]), True, 1e-7, 8.0, 1_234,
                   0.5),
        **changes,
    )  # fmt: skip


def test_the_table_has_a_line_for_each():
    head, first, second = to_table([finding(), finding(name="a longer name")]).splitlines()
    assert len(head) == len(first) == len(second)
    assert first.split() == ["gru", "4", "3e-07", "1.000", "1e-07", "equal", "8.0", "1234"]
    assert second.startswith("a longer name  ")


def test_the_verdict_names_what_does_not_hold():
    over = {"differences": np.float32([0, 0, 5e-6, 0])}
    found = [
        finding(),
        finding(name="rounded", **over),
        finding(name="wrong", at_own_rate=4e-6, **over),
        finding(name="cut", equal_cuts=False),
        finding(name="nan", differences=np.float32([np.nan, 0, 0, 0]), at_own_rate=math.nan),
    ]
    lines = verdict(found).splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("rounded: differs by 5e-06, over 1e-06; 1e-07 of the same sound at")
    assert lines[1] == "wrong: differs by 5e-06, over 1e-06"
    assert lines[2] == "cut: the bits depend on how the stream is cut"
    assert lines[3] == "nan: differs by nan, over 1e-06"
    assert verdict(found[:1]) == "all within 1e-06, and the same bits in every cut"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 3e-7),
        ({"equal_cuts": False}, math.inf),
        ({"differences": np.float32([np.nan, 1, 1, 1])}, math.nan),
        ({"differences": np.float32([1, np.inf, 1, 1])}, math.inf),
    ],
)
def test_one_that_does_not_hold_is_enough(song, model, tmp_path, monkeypatch, changes, expected):
    answers = iter([finding(), finding(**changes), *[finding()] * 3])
    monkeypatch.setattr(comparing, "compare", lambda *_: next(answers))
    assert call(song, model, tmp_path) == pytest.approx(expected, nan_ok=True)
