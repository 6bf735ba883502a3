"""Features against librosa on the whole signal, and against sounds whose facts are known."""

from __future__ import annotations

import dataclasses
import math

import librosa
import numpy as np
import pyloudnorm
import pytest
from threadpoolctl import threadpool_limits

from tests.audio_files import Samples, noise, sine
from transforms import features
from transforms.features import (
    SAMPLE_RATE_HZ,
    TONICS,
    estimate_key,
    even_blocks,
    musical_facts,
    track_features,
    tuning,
)
from transforms.records import TrackFeatures

RATE = SAMPLE_RATE_HZ
MUSICAL = {field.name for field in dataclasses.fields(TrackFeatures)} - {
    "loudness_lufs", "true_peak_dbtp", "features_seconds",
}  # fmt: skip


def chord(names: str, seconds: float = 4.0, detune: float = 0.0) -> Samples:
    """Tones, each with its octave, (samples,)."""
    t = np.arange(round(seconds * RATE)) / RATE
    hz = librosa.note_to_hz(names.split()) * 2 ** (detune / 12)
    tones = [np.sin(2 * np.pi * f * k * t) / k for f in hz for k in (1, 2)]
    return (0.1 * np.sum(tones, axis=0)).astype(np.float32)


def clicks(bpm: float, seconds: float = 20.0) -> Samples:
    times = np.arange(0.0, seconds, 60 / bpm)
    sound = librosa.clicks(times=times, sr=RATE, length=round(seconds * RATE))
    return sound.astype(np.float32)


def music(seconds: float = 30.0, seed: int = 0) -> Samples:
    """Chords over clicks and noise, with a pause: (samples,)."""
    each = seconds / 3
    parts = [chord(names, each) for names in ("C4 E4 G4", "A3 C4 E4", "F4 A4 C5")]
    sound = np.concatenate(parts)
    sound = sound + clicks(110, seconds)[: len(sound)] + noise(seconds, RATE, 1, seed)[:, 0] / 10
    sound[len(sound) // 2 :][:RATE] = 0.0
    return sound.astype(np.float32)


def check_against_librosa(samples: Samples) -> None:
    """Every musical fact is what librosa says of the whole."""
    found = musical_facts(samples)
    of_all = {"y": samples, "sr": RATE}
    feature = librosa.feature
    for name, values in {
        "spectral_centroid_hz": feature.spectral_centroid(**of_all),
        "spectral_bandwidth_hz": feature.spectral_bandwidth(**of_all),
        "spectral_rolloff_hz": feature.spectral_rolloff(**of_all),
        "zero_crossing_rate": feature.zero_crossing_rate(samples),
        "rms": feature.rms(y=samples),
    }.items():
        assert found[name] == pytest.approx(values.mean(dtype=np.float64), rel=1e-5), name
    mfcc = feature.mfcc(**of_all, n_mfcc=20)
    np.testing.assert_allclose(found["mfcc_mean"], mfcc.mean(axis=1), atol=1e-3)
    np.testing.assert_allclose(found["mfcc_std"], mfcc.std(axis=1), atol=1e-3)
    chroma = feature.chroma_stft(**of_all, tuning=tuning(samples))
    np.testing.assert_allclose(found["chroma_mean"], chroma.mean(axis=1), atol=1e-5)
    assert found["tempo_bpm"] == pytest.approx(feature.tempo(**of_all)[0])


# Against librosa


@pytest.mark.parametrize("seconds", [3.1, 23.7, 24.0, 60.0])
def test_all_is_what_librosa_says(seconds):
    check_against_librosa(music(seconds))


def test_the_number_of_spectra_at_once_does_not_show(monkeypatch):
    sound = music(12.0)
    monkeypatch.setattr(features, "_PIECE_FRAMES", 100)
    check_against_librosa(sound)


@pytest.mark.parametrize("frames", [1, 2, 511, 512, 1_000, 2_047, 2_048, 5_000])
@pytest.mark.filterwarnings("ignore:n_fft=2048 is too large:UserWarning")  # librosa's, of the whole
def test_short_sounds(frames):
    sound = noise(1.0, RATE, 1)[:frames, 0]
    found = musical_facts(sound)
    centroid = librosa.feature.spectral_centroid(y=sound, sr=RATE)
    assert found["spectral_centroid_hz"] == pytest.approx(centroid.mean(), rel=1e-5)
    mfcc = librosa.feature.mfcc(y=sound, sr=RATE, n_mfcc=20)
    np.testing.assert_allclose(found["mfcc_mean"], mfcc.mean(axis=1), atol=1e-3)
    assert found["tempo_bpm"] is None


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_any_rate_and_channels_as_librosa_loads_them(rate, channels):
    sound = noise(4.0, rate, channels) + sine(4.0, rate, channels, 200.0)
    found = track_features([sound], sample_rate_hz=rate)
    mono = librosa.resample(
        librosa.to_mono(sound.T), orig_sr=rate, target_sr=RATE, res_type="soxr_hq"
    )
    expected = musical_facts(mono)
    for name in ("spectral_centroid_hz", "zero_crossing_rate", "rms", "mfcc_std", "chroma_mean"):
        np.testing.assert_allclose(getattr(found, name), expected[name], rtol=1e-3, atol=1e-4)
    assert (found.tempo_bpm, found.key) == (expected["tempo_bpm"], expected["key"])
    assert found.features_seconds == 4.0


@pytest.mark.parametrize("detune", [-0.4, -0.13, 0.0, 0.25])
def test_tuning(detune):
    """Librosa's estimate of all spectra is off by up to 0.05 here too."""
    sound = chord("C4 E4 G4 B4", 12.0, detune)
    assert tuning(sound) == pytest.approx(detune, abs=0.1)
    assert tuning(sound) == pytest.approx(librosa.estimate_tuning(y=sound, sr=RATE), abs=0.1)


def test_nothing_with_a_pitch_is_in_tune():
    assert tuning(np.full(RATE, 0.25, np.float32)) == 0.0


# Known sounds


@pytest.mark.parametrize("bpm", [70, 96, 120, 165])
def test_tempo_of_clicks(bpm):
    """Within librosa's grid of lags, 23 ms."""
    lag_s = 60 / bpm
    found = musical_facts(clicks(bpm))["tempo_bpm"]
    assert 60 / found == pytest.approx(lag_s, abs=512 / RATE)


def cadence(tonic: int, mode: str) -> Samples:
    """Tonic, subdominant, dominant, tonic."""
    third = 4 if mode == "major" else 3
    home, fourth, fifth = (0, third, 7), (5, 5 + third, 12), (7, 11, 14)
    parts = []
    for degrees in (home, fourth, fifth, home):
        notes = [librosa.midi_to_note(60 + tonic + step, unicode=False) for step in degrees]
        parts.append(chord(" ".join(notes), 1.5))
    return np.concatenate(parts)


@pytest.mark.parametrize("mode", ["major", "minor"])
@pytest.mark.parametrize("tonic", range(12))
def test_key_of_a_cadence(tonic, mode):
    found = musical_facts(cadence(tonic, mode))
    assert found["key"] == f"{TONICS[tonic]} {mode}"
    assert 0.7 < found["key_confidence"] <= 1


@pytest.mark.parametrize("names", ["C5 E5 G5", "A4 C5 E5", "F#5 A#5 C#6", "D5 F5 A5"])
def test_chroma_of_a_chord(names):
    tones = {TONICS.index(name[:-1]) for name in names.split()}
    assert set(np.argsort(musical_facts(chord(names))["chroma_mean"])[-3:]) == tones


def test_a_key_out_of_tune():
    assert musical_facts(chord("A3 C4 E4", detune=0.3))["key"] == "A minor"


@pytest.mark.parametrize("mode", ["major", "minor"])
@pytest.mark.parametrize("place", range(12))
def test_a_profile_is_its_own_key(mode, place):
    chroma = 0.3 + 0.1 * np.roll(features.KEY_PROFILES[mode], place)
    found = estimate_key(chroma)
    assert found["key"] == f"{TONICS[place]} {mode}"
    assert found["key_confidence"] == pytest.approx(1.0)


def test_the_confidence_is_never_negative():
    rng = np.random.default_rng(0)
    assert all(0 <= estimate_key(rng.random(12))["key_confidence"] <= 1 for _ in range(100))


@pytest.mark.parametrize("chroma", [np.zeros(12), np.full(12, 0.5)])
def test_no_key_where_no_pitch_class_stands_out(chroma):
    assert estimate_key(chroma) == {}


def test_a_tone():
    t = np.arange(10 * 44_100) / 44_100
    tone = (0.5 * np.sin(2 * np.pi * 997.0 * t)).astype(np.float32)[:, np.newaxis]
    found = track_features([tone], sample_rate_hz=44_100)
    assert found.rms == pytest.approx(0.5 / math.sqrt(2), rel=0.01)
    assert found.zero_crossing_rate == pytest.approx(2 * 997 / RATE, rel=0.01)
    assert found.spectral_centroid_hz == pytest.approx(997, rel=0.02)
    assert found.loudness_lufs == pytest.approx(-9.03, abs=0.05)
    assert found.true_peak_dbtp == pytest.approx(-6.02, abs=0.1)
    assert np.argmax(found.chroma_mean) == TONICS.index("B")


# What cannot be told


def numbers(found: TrackFeatures) -> list[float]:
    values = dataclasses.asdict(found).values()
    lists = [value if isinstance(value, list) else [value] for value in values]
    return [value for values in lists for value in values if isinstance(value, float)]


def test_of_silence_only_that_it_is_silent():
    found = track_features([np.zeros((44_100, 2), np.float32)], sample_rate_hz=44_100)
    assert found == TrackFeatures(rms=0.0, zero_crossing_rate=0.0, features_seconds=1.0)


def test_of_nothing_nothing():
    assert track_features([], sample_rate_hz=44_100) == TrackFeatures(features_seconds=0.0)


def test_channels_that_cancel_each_other_are_loud_and_have_no_music():
    left = noise(3.5, 44_100, 1)
    found = track_features([np.hstack([left, -left])], sample_rate_hz=44_100)
    assert found.loudness_lufs is not None
    assert found.rms == 0.0
    assert (found.key, found.tempo_bpm, found.mfcc_mean, found.chroma_mean) == (None,) * 4


@pytest.mark.parametrize("damage", [math.nan, math.inf, -math.inf, 1e13])
@pytest.mark.parametrize("seconds", [1.0, 5.5])
def test_of_damaged_samples_nothing_is_said_wherever_they_lie(monkeypatch, damage, seconds):
    monkeypatch.setattr(features, "FEATURES_SECONDS", 2.0)  # the later one is loudness alone
    sound = noise(6.0, RATE, 2)
    assert track_features([sound], sample_rate_hz=RATE) is not None
    sound[round(seconds * RATE), 1] = damage
    assert track_features([sound], sample_rate_hz=RATE) is None


SOUNDS = {
    "one sample": np.full((1, 1), 0.5, np.float32),
    "constant": np.full((40_000, 2), -0.25, np.float32),
    "hardly anything": noise(4.0, 8_000, 1) * np.float32(1e-30),
    "far too loud": noise(4.0, 8_000, 2) * np.float32(1e10),
    "a click in silence": np.eye(100_000, 1, -50_000, np.float32),
    "a low hum": sine(5.0, 8_000, 1, 20.0),
    "many channels": noise(1.0, 8_000, 12),
    "a low rate": noise(8.0, 1_000, 1),
    "a high rate": noise(0.5, 384_000, 1),
}


@pytest.mark.parametrize("name", SOUNDS)
def test_every_number_is_one(name):
    rate = {"a low rate": 1_000, "a high rate": 384_000}.get(name, 8_000)
    found = track_features([SOUNDS[name]], sample_rate_hz=rate)
    assert all(map(math.isfinite, numbers(found)))
    assert found.features_seconds == len(SOUNDS[name]) / rate


# The whole track and its beginning


def test_only_the_beginning_is_music_but_all_of_it_is_loud(monkeypatch):
    monkeypatch.setattr(features, "FEATURES_SECONDS", 4.0)
    quiet, loud = chord("A3 C4 E4", 4.0)[:, None] / 10, chord("F#3 A#3 C#4", 6.0)[:, None]
    whole = np.concatenate([quiet, loud])
    found = track_features([whole], sample_rate_hz=RATE)
    with threadpool_limits(1, "blas"):
        expected = musical_facts(quiet[:, 0])
    assert {name: getattr(found, name) for name in MUSICAL} == expected
    assert (found.features_seconds, found.key) == (4.0, "A minor")
    meter = pyloudnorm.Meter(RATE)
    assert found.loudness_lufs == pytest.approx(meter.integrated_loudness(whole.astype(float)))


@pytest.mark.parametrize("seed", range(5))
def test_cuts_do_not_show(seed):
    rng = np.random.default_rng(seed)
    sound = noise(6.0, 44_100, 2) + sine(6.0)[:1].mean()
    places = np.sort(rng.integers(0, len(sound), rng.integers(0, 40)))
    whole = track_features([sound], sample_rate_hz=44_100)
    assert track_features(np.split(sound, places), sample_rate_hz=44_100) == whole


def test_the_number_of_threads_does_not_show():
    sound = music(30.0)[:, np.newaxis]
    alone = track_features([sound], sample_rate_hz=RATE)
    for threads in (1, 2, 4):
        with threadpool_limits(threads, "blas"):
            assert track_features([sound], sample_rate_hz=RATE) == alone


@pytest.mark.parametrize("sizes", [[], [0], [7], [3, 3, 3], [10, 0, 25, 1], [1] * 23, [5, 5]])
def test_even_blocks(sizes):
    samples = np.arange(2 * sum(sizes), dtype=np.float32).reshape(-1, 2)
    found = list(even_blocks(np.split(samples, np.cumsum(sizes)[:-1]), 5))
    assert [len(block) for block in found[:-1]] == [5] * (len(found) - 1)
    assert all(0 < len(block) <= 5 for block in found)
    np.testing.assert_array_equal(np.concatenate([samples[:0], *found]), samples)
