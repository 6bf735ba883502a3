from __future__ import annotations

import dataclasses
import itertools
import math

import librosa
import numpy as np
import pytest
import soxr

from tests.audio_files import noise, sine
from tests.rows import FACTS
from transforms.errors import Reason, StageError
from transforms.models.front_end import PRESETS
from transforms.preprocess import (
    Preprocess,
    check_samples,
    fit_length,
    normalize_peak,
    prepare,
    remove_dc,
    spectral_gate,
    trim_silence,
)
from transforms.records import AudioWindow, Track
from transforms.samples import resample
from transforms.windows import cut_windows

CCMUSIC = PRESETS["ccmusic"]
RATE = CCMUSIC.sample_rate_hz
FRONT_END = dataclasses.replace(CCMUSIC, window_seconds=2.0, hop_seconds=2.0)
WHOLE = dataclasses.replace(CCMUSIC, windows="whole")


def window(samples, rate=RATE, *, start_s=0.0, seconds=None, first_frame=0) -> AudioWindow:
    seconds = len(samples) / rate if seconds is None else seconds
    return AudioWindow(
        track=Track("a.mp3"),
        window_index=3,
        start_s=start_s,
        end_s=start_s + seconds,
        sample_rate_hz=rate,
        first_frame=first_frame,
        samples=samples,
    )


def cut(samples, rate, front_end):
    return list(
        cut_windows([samples], track=Track("a.mp3"), sample_rate_hz=rate, front_end=front_end)
    )


# Sample rates


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 32_000, 44_100, 48_000, 96_000, 44_056])
def test_whole_track_equals_librosa(rate):
    samples = noise(1.337, rate)
    prepared = prepare(window(samples, rate), WHOLE)
    expected = librosa.resample(librosa.to_mono(samples.T), orig_sr=rate, target_sr=RATE)
    assert len(prepared.samples) == len(expected) == math.ceil(len(samples) * RATE / rate)
    np.testing.assert_allclose(prepared.samples, expected, atol=1e-6)


def test_the_same_rate_changes_nothing():
    samples = noise(0.1, channels=1)[:, 0]
    np.testing.assert_array_equal(resample(samples, 44_100, 44_100), samples)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_windows_equal_the_whole_track_resampled_at_once(rate, channels):
    samples = noise(6.789, rate, channels)
    track = soxr.resample(samples.mean(axis=1), rate, RATE, quality="HQ")
    windows = cut(samples, rate, FRONT_END)
    assert len(windows) == 4
    for index, one in enumerate(windows):
        prepared = prepare(one, FRONT_END)
        start = index * 2 * RATE
        expected = track[start : start + 2 * RATE]
        assert prepared.samples.shape == (2 * RATE,)
        found = prepared.samples[: len(expected)]
        np.testing.assert_allclose(found, expected, atol=2e-6)
        # Behind the track's end there is padding; soxr may leave out the last part of a sample.
        assert not prepared.samples[len(expected) + 1 :].any()


def test_overlapping_windows_agree_where_they_overlap():
    front_end = dataclasses.replace(FRONT_END, hop_seconds=0.5)
    prepared = [prepare(one, front_end) for one in cut(noise(4.0, 48_000), 48_000, front_end)]
    assert len(prepared) == 5
    hop = RATE // 2
    for before, after in itertools.pairwise(prepared):
        np.testing.assert_allclose(before.samples[hop:], after.samples[:-hop], atol=2e-6)


# Length


@pytest.mark.parametrize(
    ("length", "expected"), [(0, []), (1, [1]), (2, [1, 2]), (3, [1, 2, 0]), (5, [1, 2, 0, 0, 0])]
)
def test_fit_length(length, expected):
    np.testing.assert_array_equal(fit_length(np.array([1, 2], np.float32), length), expected)


def test_short_window_is_padded_and_weighs_what_it_holds():
    prepared = prepare(window(noise(0.5, RATE)), FRONT_END)
    assert prepared.samples.shape == (2 * RATE,)
    assert prepared.content_s == 0.5
    assert prepared.samples[: RATE // 2].any()
    assert not prepared.samples[RATE // 2 :].any()


def test_full_window_weighs_its_length():
    assert prepare(window(noise(2.0, RATE)), FRONT_END).content_s == 2.0


def test_the_margin_does_not_count():
    (_, middle, _) = cut(noise(6.0), 44_100, FRONT_END)
    assert len(middle.samples) > 2 * 44_100
    assert prepare(middle, FRONT_END).content_s == 2.0


def test_padding_is_silent_whatever_the_offset():
    front_end = dataclasses.replace(FRONT_END, remove_dc=True, normalize_peak=True)
    prepared = prepare(window(noise(0.5, RATE) + np.float32(0.5)), front_end)
    assert not prepared.samples[RATE // 2 :].any()


def test_place_in_the_track_is_carried_over():
    (_, second, _) = cut(noise(5.0), 44_100, FRONT_END)
    prepared = prepare(second, FRONT_END)
    assert prepared.track == Track("a.mp3")
    assert (prepared.window_index, prepared.start_s, prepared.end_s) == (1, 2.0, 4.0)


def test_facts_travel_on_the_window_that_has_them():
    one = window(noise(2.0, RATE))
    assert prepare(one, FRONT_END).facts is None
    assert prepare(dataclasses.replace(one, facts=FACTS), FRONT_END).facts is FACTS


# Odd content


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100])
@pytest.mark.parametrize("frames", [1, 2, 3])
def test_hardly_any_sample(rate, frames):
    prepared = prepare(window(np.full((frames, 2), 0.5, np.float32), rate), FRONT_END)
    assert prepared.samples.shape == (2 * RATE,)
    assert np.isfinite(prepared.samples).all()
    kept = math.ceil(frames * RATE / rate)
    assert prepared.content_s in (0.0, kept / RATE)  # 0: soxr may leave nothing of it


EVERYTHING = dataclasses.replace(
    FRONT_END, remove_dc=True, normalize_peak=True, trim_silence_db=60.0
)


@pytest.mark.parametrize("front_end", [FRONT_END, EVERYTHING], ids=["plain", "everything"])
@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_silence_stays_silence_and_weighs_nothing(front_end, rate):
    prepared = prepare(window(np.zeros((2 * rate, 2), np.float32), rate), front_end)
    np.testing.assert_array_equal(prepared.samples, np.zeros(2 * RATE))
    assert prepared.content_s == 0.0


def test_an_offset_alone_is_silence_once_it_is_removed():
    front_end = dataclasses.replace(EVERYTHING, trim_silence_db=None)
    prepared = prepare(window(np.full((RATE, 1), 0.25, np.float32)), front_end)
    assert not prepared.samples.any()
    assert prepared.content_s == 0.0


def test_faint_sound_is_not_silence():
    prepared = prepare(window(noise(2.0, RATE) * np.float32(1e-6)), FRONT_END)
    assert prepared.content_s == 2.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38, -3e38])
@pytest.mark.parametrize("place", [(0, 0), (500, 1), (-1, 0)])
def test_samples_that_are_no_sound(bad, place):
    samples = noise(0.1)
    samples[place] = bad
    with pytest.raises(StageError, match="NaN") as raised:
        prepare(window(samples, 44_100), FRONT_END)
    assert raised.value.reason is Reason.INVALID_SAMPLES


@pytest.mark.parametrize("shape", [(0, 2), (0, 0), (5, 0), (5,), (2, 3, 4)])
def test_samples_of_a_wrong_shape(shape):
    with pytest.raises(StageError, match=r"\(frames, channels\)") as raised:
        check_samples(np.zeros(shape, np.float32))
    assert raised.value.reason is Reason.INVALID_SAMPLES
    assert str(shape) in raised.value.message


def test_louder_than_full_scale_is_no_failure():
    loud = noise(2.0, RATE, 1) * np.float32(1e6)
    prepared = prepare(window(loud), FRONT_END)
    np.testing.assert_array_equal(prepared.samples, loud[:, 0])


# The options


@pytest.mark.parametrize("offset", [0.5, -0.25, 1e-3])
def test_offset_is_removed(offset):
    tone = sine(1.0, RATE, 1)[:, 0]  # whole periods: its own mean is 0
    np.testing.assert_allclose(remove_dc(tone + np.float32(offset)), tone, atol=1e-6)


def test_offset_of_a_long_track_is_summed_precisely():
    samples = np.full(20_000_000, 0.1, np.float32)
    assert not remove_dc(samples).any()


@pytest.mark.parametrize(("removed", "mean"), [(True, 0.0), (False, 0.5)])
def test_offset_is_removed_where_the_front_end_says_so(removed, mean):
    samples = sine(2.0, RATE) + np.float32(0.5)
    prepared = prepare(window(samples), dataclasses.replace(FRONT_END, remove_dc=removed))
    assert prepared.samples.mean(dtype=np.float64) == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([0.1, -0.5, 0.25], [0.2, -1.0, 0.5]),
        ([4.0, 2.0], [1.0, 0.5]),
        ([1e-30, 0.0], [1.0, 0.0]),
        ([0.0, 0.0], [0.0, 0.0]),
        ([], []),
    ],
)
def test_normalize_peak(samples, expected):
    found = normalize_peak(np.array(samples, np.float32))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_smallest_float_is_no_reason_for_infinity():
    assert np.isfinite(normalize_peak(np.array([1e-45, -1e-45], np.float32))).all()


@pytest.mark.parametrize(("normalised", "peak"), [(True, 1.0), (False, 0.125)])
def test_peak_of_a_window(normalised, peak):
    samples = np.full((2 * RATE, 1), 0.0, np.float32)
    samples[5_000] = -0.125
    front_end = dataclasses.replace(FRONT_END, normalize_peak=normalised)
    assert np.abs(prepare(window(samples), front_end).samples).max() == peak


def quiet_edges():
    edge = noise(0.3, RATE, 1, seed=1) * np.float32(1e-5)
    return np.concatenate([edge, sine(1.0, RATE, 1), edge])


def test_trim_equals_librosa():
    samples = quiet_edges()[:, 0]
    expected = librosa.effects.trim(samples, top_db=40)[0]
    assert RATE <= len(expected) < 1.3 * RATE
    np.testing.assert_array_equal(trim_silence(samples, 40.0), expected)


@pytest.mark.parametrize("length", [0, 1, 100, 2_047])
def test_less_than_a_frame_is_not_trimmed(length):
    samples = np.zeros(length, np.float32)
    samples[length // 2 : length // 2 + 1] = 1.0
    np.testing.assert_array_equal(trim_silence(samples, 20.0), samples)


def test_trimmed_window_weighs_what_is_left_and_is_padded():
    samples = quiet_edges()
    expected = librosa.effects.trim(samples[:, 0], top_db=40)[0]
    front_end = dataclasses.replace(FRONT_END, trim_silence_db=40.0)
    prepared = prepare(window(samples), front_end)
    assert prepared.content_s == pytest.approx(len(expected) / RATE)
    np.testing.assert_array_equal(prepared.samples[: len(expected)], expected)
    assert not prepared.samples[len(expected) :].any()
    assert prepare(window(samples), FRONT_END).content_s == 1.6


def hiss_and_tone():
    hiss = noise(2.0, RATE, 1)[:, 0] * np.float32(0.1)
    tone = np.zeros_like(hiss)
    tone[RATE : RATE + RATE // 10] = sine(0.1, RATE, 1)[:, 0]  # what lasts counts as noise
    return hiss, tone


def test_spectral_gate_lowers_noise_and_keeps_the_tone():
    pytest.importorskip("noisereduce")
    hiss, tone = hiss_and_tone()
    cleaned = spectral_gate(hiss + tone, RATE)
    assert (cleaned.shape, cleaned.dtype) == (hiss.shape, np.float32)
    part = slice(RATE // 4, RATE * 3 // 4)  # nothing but hiss
    assert np.std(cleaned[part]) < 0.1 * np.std(hiss[part])
    part = slice(RATE + 500, RATE + RATE // 10 - 500)  # well inside the tone
    assert np.corrcoef(cleaned[part], tone[part])[0, 1] > 0.99
    assert np.std(cleaned[part]) > 0.5 * np.std(tone[part])


def test_spectral_gate_twice_gives_the_same():
    pytest.importorskip("noisereduce")
    hiss, tone = hiss_and_tone()
    first, second = (spectral_gate(hiss + tone, RATE) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("length", [2_048, 2_049, 10_000, 30_011])
def test_spectral_gate_keeps_the_length(length):
    pytest.importorskip("noisereduce")
    cleaned = spectral_gate(noise(2.0, RATE, 1)[:length, 0], RATE)
    assert len(cleaned) == length
    assert np.isfinite(cleaned).all()


@pytest.mark.parametrize("samples", [np.zeros(RATE), np.zeros(1), np.ones(1), np.zeros(0)])
def test_spectral_gate_leaves_silence_and_short_sounds(samples):
    samples = samples.astype(np.float32)
    np.testing.assert_array_equal(spectral_gate(samples, RATE), samples)


def test_spectral_gate_of_a_window():
    pytest.importorskip("noisereduce")
    hiss, tone = hiss_and_tone()
    samples = (hiss + tone)[:, None]
    gated = prepare(window(samples), dataclasses.replace(FRONT_END, denoise="spectral_gate"))
    plain = prepare(window(samples), FRONT_END)
    quiet = slice(RATE // 4, RATE * 3 // 4)
    assert np.std(gated.samples[quiet]) < 0.1 * np.std(plain.samples[quiet])
    assert gated.content_s == plain.content_s == 2.0


# The stage


def test_stage():
    bad = noise(2.0, RATE)
    bad[7] = np.nan
    windows = [
        dataclasses.replace(window(noise(2.0, RATE)), track=Track("good.mp3")),
        dataclasses.replace(window(bad), track=Track("nan.mp3")),
        dataclasses.replace(window(np.zeros((0, 2), np.float32)), track=Track("empty.mp3")),
        dataclasses.replace(window(np.zeros((RATE, 2), np.float32)), track=Track("silent.mp3")),
    ]
    result = windows | Preprocess(FRONT_END)
    found = {one.uri: one for one in result["windows"]}
    assert sorted(found) == ["good.mp3", "silent.mp3"]
    expected = librosa.to_mono(noise(2.0, RATE).T)
    np.testing.assert_allclose(found["good.mp3"].samples, expected, atol=1e-7)
    assert found["silent.mp3"].content_s == 0.0
    failures = {one.track.uri: one for one in result["failures"]}
    assert sorted(failures) == ["empty.mp3", "nan.mp3"]
    for failure in failures.values():
        assert failure.stage == "Preprocess"
        assert failure.reason is Reason.INVALID_SAMPLES


def test_nothing_in_nothing_out():
    result = [] | Preprocess(FRONT_END)
    assert result["windows"] == result["failures"] == []
