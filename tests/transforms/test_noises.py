"""Noises by their spectra, levels and moments; mixtures by their powers."""

import itertools

import numpy as np
import pytest

from transforms.noises import NOISES, babble, clicks, hum, make_noise, mixed, pink, white

RATE_HZ = 16_000


def slope_db_per_octave(samples, low_hz=50, high_hz=6_000):
    """A straight line through the levels of third octaves."""
    power = np.abs(np.fft.rfft(samples)) ** 2
    hertz = np.fft.rfftfreq(len(samples), 1 / RATE_HZ)
    edges = low_hz * 2 ** np.arange(0, np.log2(high_hz / low_hz), 1 / 3)
    bands = [(hertz >= a) & (hertz < b) for a, b in itertools.pairwise(edges)]
    levels = [10 * np.log10(power[band].mean()) for band in bands]
    return np.polyfit(np.arange(len(levels)) / 3, levels, 1)[0]


def rng(seed=0):
    return np.random.default_rng(seed)


def test_white_is_flat():
    samples = white(8 * RATE_HZ, rng())
    assert samples.dtype == np.float32
    assert slope_db_per_octave(samples) == pytest.approx(0, abs=0.2)
    assert samples.std() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("exponent", "slope"), [(0.0, 0.0), (1.0, -3.01), (2.0, -6.02)])
def test_coloured_noise_falls_by_its_exponent(exponent, slope):
    samples = pink(8 * RATE_HZ, rng(1), exponent)
    assert samples.dtype == np.float32
    assert slope_db_per_octave(samples) == pytest.approx(slope, abs=0.2)
    assert samples.std() == pytest.approx(1, abs=1e-3)
    assert samples.mean() == pytest.approx(0, abs=1e-3)


def test_pink_is_so_unless_told_otherwise():
    assert slope_db_per_octave(pink(8 * RATE_HZ, rng(2))) == pytest.approx(-3.01, abs=0.2)


@pytest.mark.parametrize("seed", range(6))
def test_hum_is_mains_and_its_partials(seed):
    """With ten seconds a partial is a peak a few tenths of a hertz wide."""
    samples = hum(10 * RATE_HZ, rng(seed), RATE_HZ)
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    hertz = np.fft.rfftfreq(len(samples), 1 / RATE_HZ)
    low = (hertz > 40) & (hertz < 70)
    mains_hz = hertz[low][power[low].argmax()]
    assert min(abs(mains_hz / 50 - 1), abs(mains_hz / 60 - 1)) < 0.007
    distance = np.abs(hertz[:, None] - mains_hz * np.arange(1, 13)).min(axis=1)
    assert power[distance < 2].sum() > 0.999 * power.sum()
    for partial in range(1, 13):
        near = np.abs(hertz - partial * mains_hz) < 2
        assert power[near].sum() > 1e-5 * power.sum()


def test_partials_that_the_rate_cannot_hold_are_left_out():
    """At 1 kHz those from 450 Hz on would be folded back."""
    samples = hum(10_000, rng(), 1_000)
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    hertz = np.fft.rfftfreq(len(samples), 1 / 1_000)
    assert power[hertz > 455].sum() < 1e-6 * power.sum()


@pytest.mark.parametrize("seed", range(4))
def test_clicks_are_short_and_rare(seed):
    samples = clicks(4 * RATE_HZ, rng(seed), RATE_HZ)
    assert samples.dtype == np.float32
    assert 0 < (samples != 0).mean() < 0.35
    assert np.abs(samples).max() > 5 * np.sqrt(np.mean(samples**2))


@pytest.mark.parametrize("length", [1, 2, 7, 100])
def test_even_a_short_clip_has_a_click(length):
    for seed in range(20):
        assert clicks(length, rng(seed), RATE_HZ).any()


def test_babble_is_three_to_six_voices_of_equal_power():
    counts = set()
    for seed in range(40):
        voices = iter(range(100))

        def voice(length, _, voices=voices):
            one = np.zeros(length, np.float32)
            number = next(voices)
            one[number] = 0.001 * 10**number  # each somewhere else, and as loud as it likes
            return one

        total = babble(64, rng(seed), voice)
        heard = np.flatnonzero(total)
        np.testing.assert_allclose(total[heard], 8.0, rtol=1e-4)  # of 64 samples: a power of 1
        counts.add(len(heard))
    assert counts == {3, 4, 5, 6}


def test_silent_voices_are_silence():
    assert not babble(64, rng(), lambda length, _: np.zeros(length, np.float32)).any()


@pytest.mark.parametrize("length", [1, 2, 999, 16_000])
@pytest.mark.parametrize("kind", NOISES)
def test_every_noise_repeats_with_its_seed(kind, length):
    first, again, other = (
        make_noise(kind, length, RATE_HZ, rng(seed), white) for seed in (3, 3, 4)
    )
    assert first.shape == (length,)
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, again)
    assert length < 3 or not np.array_equal(first, other)


@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 3.0, 25.0])
@pytest.mark.parametrize(("loudness", "noise_loudness"), [(1.0, 1.0), (1e-3, 20.0), (5.0, 1e-4)])
def test_mixtures_have_the_ratio_that_is_asked_for(snr_db, loudness, noise_loudness):
    clean = (loudness * np.sin(np.arange(RATE_HZ))).astype(np.float32)
    noisy = mixed(clean, noise_loudness * white(RATE_HZ, rng()), snr_db)
    added = noisy.astype(np.float64) - clean
    found = 10 * np.log10(np.mean(clean.astype(np.float64) ** 2) / np.mean(added**2))
    assert noisy.dtype == np.float32
    assert found == pytest.approx(snr_db, abs=0.01)


def test_silence_of_either_changes_nothing():
    clean, silence = white(100, rng()), np.zeros(100, np.float32)
    np.testing.assert_array_equal(mixed(clean, silence, 0.0), clean)
    np.testing.assert_array_equal(mixed(silence, clean, 0.0), silence)
