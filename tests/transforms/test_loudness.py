"""Loudness against pyloudnorm and the standard's own examples, true peak against closed forms."""

from __future__ import annotations

import numpy as np
import pyloudnorm
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.audio_files import Samples, noise
from transforms.loudness import CHANNEL_WEIGHTS, LoudnessMeter, TruePeakMeter

RATE = 48_000


def tone(hz: float, seconds: float = 2.0, rate: int = RATE, peak: float = 1.0) -> Samples:
    """A sine in one channel, (frames, 1)."""
    t = np.arange(round(seconds * rate)) / rate
    return (peak * np.sin(2 * np.pi * hz * t)).astype(np.float32)[:, np.newaxis]


def uneven(seconds: float, rate: int, channels: int, seed: int) -> Samples:
    """Noise whose level changes every 0.7 s, silence included: both gates have work."""
    sound = noise(seconds, rate, channels, seed)
    levels = np.random.default_rng(seed).choice([0.0, 1e-4, 0.02, 0.3, 2.0], 1 + len(sound))
    return sound * levels[np.arange(len(sound)) // int(0.7 * rate)].astype(np.float32)[:, None]


def cut(samples: Samples, at: list[int]) -> list[Samples]:
    return np.split(samples, sorted(min(place, len(samples)) for place in at))


def loudness(parts: list[Samples], rate: int = RATE) -> float | None:
    meter = LoudnessMeter(rate, parts[0].shape[1])
    for part in parts:
        meter.add(part)
    return meter.integrated()


def true_peak(parts: list[Samples]) -> float | None:
    meter = TruePeakMeter(parts[0].shape[1])
    for part in parts:
        meter.add(part)
    return meter.dbtp()


def oracle(samples: Samples, rate: int = RATE) -> float:
    return float(pyloudnorm.Meter(rate).integrated_loudness(samples.astype(np.float64)))


# Loudness


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_loudness_is_that_of_the_whole(rate, channels):
    sound = uneven(4.37, rate, channels, seed=channels)
    expected = oracle(sound, rate)
    assert -30 < expected < 10
    assert loudness([sound], rate) == pytest.approx(expected, abs=1e-6)
    assert loudness(np.array_split(sound, 17), rate) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    frames=st.integers(4_410, 30_000),
    at=st.lists(st.integers(0, 30_000), max_size=12),
    channels=st.sampled_from([1, 2, 5]),
    seed=st.integers(0, 1_000),
)
def test_wherever_it_is_cut_and_however_long_it_is(frames, at, channels, seed):
    sound = uneven(3.0, 11_025, channels, seed)[:frames]
    expected = oracle(sound, 11_025)
    found = loudness(cut(sound, at), 11_025)
    if np.isinf(expected):
        assert found is None
    else:
        assert found == pytest.approx(expected, abs=1e-6)


def test_a_full_scale_sine_in_one_channel():
    """The example of BS.1770-4, Annex 1: 997 Hz at 0 dB FS reads -3.01 LKFS.

    EBU Tech 3341 allows 0.1 LU; pyloudnorm's filter is 0.04 LU lower there.
    """
    sine = tone(997.0, 5.0)
    assert loudness([sine]) == pytest.approx(-3.01, abs=0.05)
    assert loudness([np.hstack([sine, 0 * sine])]) == pytest.approx(-3.01, abs=0.05)
    both = loudness([np.hstack([sine, sine])])
    assert both == pytest.approx(loudness([sine]) + 10 * np.log10(2), abs=1e-6)


def test_what_is_quiet_does_not_count():
    loud, quiet = tone(997.0, 8.0, peak=0.1), tone(997.0, 8.0, peak=0.0001)
    alone = loudness([loud])
    assert loudness([loud, quiet]) == pytest.approx(alone, abs=0.1)  # the relative gate
    assert loudness([loud, 0 * loud, 0 * loud]) == pytest.approx(alone, abs=0.1)  # the absolute


@pytest.mark.parametrize(
    "sound",
    [
        np.zeros((RATE, 2), np.float32),
        tone(997.0, 2.0, peak=1e-5),
        tone(997.0, 0.399),
        np.zeros((0, 1), np.float32),
        noise(1.0, RATE, 9),
    ],
    ids=["silent", "under the gate", "under 400 ms", "nothing", "nine channels"],
)
def test_what_has_no_loudness(sound):
    assert loudness([sound]) is None


def test_exactly_one_gating_block():
    sound = noise(0.4, RATE, 1)
    assert loudness([sound]) == pytest.approx(oracle(sound), abs=1e-6)


@pytest.mark.parametrize("rate", [1, 100, 1_000, 2_999, 3_000])
def test_no_loudness_where_the_weighting_has_no_room(rate):
    assert loudness([noise(10.0, rate, 1)], rate) is None


def test_the_low_frequency_channel_of_surround_does_not_count():
    sound = uneven(4.0, RATE, 6, seed=6)
    five = np.delete(sound, 3, axis=1)
    assert loudness([sound]) == pytest.approx(oracle(five), abs=1e-6)


@pytest.mark.parametrize("channels", [7, 8])
def test_of_more_surrounds_those_at_the_side_weigh_more(channels):
    sine = tone(997.0, 3.0)
    alone = loudness([sine])
    for place, weight in enumerate(CHANNEL_WEIGHTS[channels]):
        sound = np.zeros((len(sine), channels), np.float32)
        sound[:, place] = sine[:, 0]
        expected = None if place == 3 else pytest.approx(alone + 10 * np.log10(weight), abs=1e-6)
        assert loudness([sound]) == expected
    assert CHANNEL_WEIGHTS[channels][-2:] == (1.41, 1.41)


# True peak


def faded(sound: Samples, frames: int = 4_000) -> Samples:
    """Without the jump at either end, which has a peak of its own."""
    ramp = np.sin(np.linspace(0, np.pi / 2, frames)) ** 2
    envelope = np.ones(len(sound))
    envelope[:frames], envelope[-frames:] = ramp, ramp[::-1]
    return (sound * envelope[:, np.newaxis]).astype(np.float32)


def test_a_peak_between_samples():
    """A quarter of the rate, 45 degrees off: every sample is at 0.7071 of the peak."""
    t = np.arange(RATE)
    sound = faded(0.5 * np.sin(np.pi / 2 * t + np.pi / 4)[:, np.newaxis])
    assert 20 * np.log10(np.abs(sound).max()) == pytest.approx(-9.03, abs=0.001)
    assert true_peak([sound]) == pytest.approx(-6.02, abs=0.02)


@pytest.mark.parametrize("share", [0.001, 0.02, 0.1, 0.25, 0.33, 0.4, 0.44])
def test_a_tone_has_its_own_peak(share):
    sound = faded(tone(share * RATE * 1.00037, 1.0))
    assert true_peak([sound]) == pytest.approx(0.0, abs=0.05)


def test_clipping_that_no_sample_shows():
    """Full scale everywhere, alternating in pairs: the wave between them is 3 dB higher."""
    t = np.arange(RATE)
    sound = faded(np.sign(np.sin(np.pi / 2 * t + np.pi / 4))[:, np.newaxis])
    assert np.abs(sound).max() == 1.0
    assert true_peak([sound]) == pytest.approx(3.01, abs=0.02)


def test_a_peak_is_never_under_the_highest_sample():
    for seed in range(5):
        sound = noise(0.5, RATE, 2, seed)
        sample_peak = 20 * np.log10(np.abs(sound).max())
        assert sample_peak <= true_peak([sound]) < sample_peak + 3


@pytest.mark.parametrize("frames", [1, 2, 31, 32, 33, 63, 64, 100])
def test_one_loud_sample_anywhere(frames):
    for place in {0, frames // 2, frames - 1}:
        sound = np.zeros((frames, 2), np.float32)
        sound[place, 1] = -0.5
        assert true_peak([sound]) == pytest.approx(-6.02, abs=0.001)


def test_a_peak_in_any_channel_counts():
    sound = np.hstack([faded(tone(997.0, 0.5, peak=peak)) for peak in (0.1, 0.25, 0.05)])
    assert true_peak([sound]) == pytest.approx(20 * np.log10(0.25), abs=0.01)


@settings(max_examples=40, deadline=None)
@given(
    frames=st.integers(1, 3_000),
    at=st.lists(st.integers(0, 3_000), max_size=12),
    seed=st.integers(0, 1_000),
)
def test_cuts_do_not_move_the_peak(frames, at, seed):
    sound = uneven(0.1, 30_000, 2, seed)[:frames] + np.float32(1e-3)
    assert true_peak(cut(sound, at)) == pytest.approx(true_peak([sound]), abs=1e-5)


def test_silence_has_no_peak():
    assert true_peak([np.zeros((RATE, 2), np.float32)]) is None
    assert true_peak([np.zeros((0, 2), np.float32)]) is None
