"""The sample catalog, checked with soundfile, PyAV and librosa as oracles."""

from __future__ import annotations

import hashlib
from pathlib import Path

import av
import librosa
import numpy as np
import pytest
import soundfile

from pipeline import sample
from transforms.errors import UsageError

SECONDS = 2.0
FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3"}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "catalog"
    sample.write_catalog(folder, seed=0, seconds=SECONDS)
    return folder


def digests(folder: Path, suffixes: tuple[str, ...] = (".wav", ".flac")) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.suffix in suffixes
    }


def mean_mel_db(path: Path) -> np.ndarray:
    samples, rate = librosa.load(path, sr=16_000, mono=True)
    mel = librosa.feature.melspectrogram(y=samples, sr=rate, n_mels=40)
    return librosa.power_to_db(mel, ref=np.max).mean(axis=1)


@pytest.mark.parametrize("recipe", sample.RECIPES, ids=lambda recipe: recipe.path)
def test_every_track_is_what_its_recipe_says(catalog: Path, recipe: sample.Recipe) -> None:
    path = catalog / recipe.path
    info = soundfile.info(path)
    assert info.format == FORMATS[path.suffix]
    assert (info.samplerate, info.channels) == (recipe.sample_rate_hz, recipe.channels)
    assert info.duration == pytest.approx(SECONDS, abs=0.1)

    samples, _ = soundfile.read(path)
    assert np.isfinite(samples).all()
    assert 0.5 < np.abs(samples).max() <= 1.0
    assert np.sqrt(np.mean(samples**2)) > 0.02


def test_the_catalog_has_every_format_rate_and_channel_count() -> None:
    assert {Path(recipe.path).suffix for recipe in sample.RECIPES} == set(FORMATS)
    assert {recipe.channels for recipe in sample.RECIPES} == {1, 2}
    assert len({recipe.sample_rate_hz for recipe in sample.RECIPES}) >= 5
    assert len({recipe.path for recipe in sample.RECIPES}) == len(sample.RECIPES) == 20


def test_stereo_tracks_differ_from_side_to_side(catalog: Path) -> None:
    for recipe in sample.RECIPES:
        if recipe.channels == 2:
            samples, _ = soundfile.read(catalog / recipe.path)
            assert np.abs(samples[:, 0] - samples[:, 1]).max() > 0.01, recipe.path


def test_kinds_have_distinct_spectra(catalog: Path) -> None:
    by_kind = {recipe.kind: mean_mel_db(catalog / recipe.path) for recipe in sample.RECIPES}
    spectra = list(by_kind.values())
    for i, one in enumerate(spectra):
        for other in spectra[:i]:
            assert np.sqrt(np.mean((one - other) ** 2)) > 3.0  # dB


def test_tracks_of_one_kind_differ(catalog: Path) -> None:
    assert len(set(digests(catalog, tuple(FORMATS)).values())) == len(sample.RECIPES) + 2


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not(
    catalog: Path, tmp_path: Path
) -> None:
    sample.write_catalog(tmp_path / "again", seed=0, seconds=SECONDS)
    sample.write_catalog(tmp_path / "other", seed=1, seconds=SECONDS)
    first, again, other = (digests(f) for f in (catalog, tmp_path / "again", tmp_path / "other"))
    assert first == again
    assert all(first[path] != other[path] for path in first)


@pytest.mark.parametrize("path", [sample.DAMAGED, sample.NOT_AUDIO])
def test_no_decoder_gets_sound_from_the_broken_files(catalog: Path, path: str) -> None:
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.read(catalog / path)
    with pytest.raises(av.FFmpegError), av.open(str(catalog / path)) as container:
        next(container.decode(audio=0))


@pytest.mark.parametrize("seed", range(8))
def test_the_damaged_file_is_unreadable_for_any_seed(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "damaged.flac"
    path.write_bytes(sample.damaged_flac(seed))
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.read(path)
    with pytest.raises(av.FFmpegError), av.open(str(path)) as container:
        next(container.decode(audio=0))


def test_struck_and_sung_notes_have_the_pitch_asked_for() -> None:
    rate = 22_050
    for note in (
        sample.tone(57, 1.0, rate),
        sample.struck(57, 1.0, rate),
        sample.sung(57, 1.0, rate, sample.VOWELS_HZ[0]),
        sample.plucked(57, 1.0, rate, np.random.default_rng(0)),
    ):
        pitch = librosa.yin(note, fmin=110, fmax=440, sr=rate)
        assert np.median(pitch) == pytest.approx(220.0, rel=0.02)


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(seed: int) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(sample, "RECIPES", sample.RECIPES[:1])
    monkeypatch.setattr(sample, "damaged_flac", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sample.write_catalog(tmp_path / "catalog", seconds=1.0)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_already_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    with pytest.raises(UsageError, match="remove it"):
        sample.write_catalog(tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_main_writes_the_catalog_and_lists_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "RECIPES", sample.RECIPES[3:5])
    folder = tmp_path / "deep" / "catalog"
    assert sample.main([f"--output={folder}", "--seed=3", "--seconds=1"]) == 0
    assert "4 files" in capsys.readouterr().out
    assert sum(path.is_file() for path in folder.rglob("*")) == 4


@pytest.mark.parametrize("wrong", ["--seconds=0", "--seconds=nan", "--seed=-1", "--seed=x"])
def test_a_wrong_call_is_said_in_one_line_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        sample.main([f"--output={tmp_path / 'catalog'}", wrong])
    assert stopped.value.code == 2
    assert "error: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
