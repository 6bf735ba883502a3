"""Noises for mixtures: white, pink, hum, clicks and babble, and sound at a stated ratio to them.

Everything is made from a numpy random generator, so that a seed gives the same mixtures again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from transforms.records import FloatArray

Noise = Literal["white", "pink", "hum", "clicks", "babble"]
NOISES: tuple[Noise, ...] = get_args(Noise)

_HUM_PARTIALS = 12
_CLICKS_PER_SECOND = 2.0, 20.0
_CLICK_SECONDS = 0.0005, 0.004
_VOICES = 3, 6


def white(length: int, rng: np.random.Generator) -> FloatArray:
    """Gaussian noise of equal power at all frequencies, float32 (length,), deviation 1."""
    return rng.standard_normal(length, dtype=np.float32)


def pink(length: int, rng: np.random.Generator, exponent: float = 1.0) -> FloatArray:
    """Gaussian noise whose power falls with the frequency to the power of ``exponent``.

    1 is pink noise (3 dB per octave); the lowest frequency is that of one period in ``length``.

    Returns
    -------
    float32, shape (length,)
        Deviation about 1.
    """
    spectrum = np.fft.rfft(white(length, rng))
    spectrum /= np.maximum(np.arange(len(spectrum)), 1.0) ** (exponent / 2)
    spectrum[0] = 0.0
    coloured = np.fft.irfft(spectrum, n=length)
    return np.asarray(coloured / max(coloured.std(), 1e-9), dtype=np.float32)


def hum(length: int, rng: np.random.Generator, sample_rate_hz: int) -> FloatArray:
    """Mains hum: 50 or 60 Hz, within half a percent, and partials of random strength.

    Returns
    -------
    float32, shape (length,)
    """
    seconds = np.arange(length) / sample_rate_hz
    mains_hz = rng.choice([50.0, 60.0]) * rng.uniform(0.995, 1.005)
    total = np.zeros(length)
    for partial in range(1, _HUM_PARTIALS + 1):
        frequency_hz = partial * mains_hz
        if frequency_hz < 0.45 * sample_rate_hz:
            level = rng.uniform(0.1, 1.0) / partial
            total += level * np.sin(2 * np.pi * (frequency_hz * seconds + rng.random()))
    return total.astype(np.float32)


def clicks(length: int, rng: np.random.Generator, sample_rate_hz: int) -> FloatArray:
    """Crackle of a record: short decaying bursts at random moments, at least one.

    Returns
    -------
    float32, shape (length,)
    """
    total = np.zeros(length, dtype=np.float32)
    rate = rng.uniform(*_CLICKS_PER_SECOND)
    for _ in range(1 + rng.poisson(rate * length / sample_rate_hz)):
        start = int(rng.integers(length))
        decay = rng.uniform(*_CLICK_SECONDS) * sample_rate_hz
        burst = white(max(2, int(3 * decay)), rng)[: length - start]
        burst *= np.exp(-np.arange(len(burst)) / decay) * rng.lognormal(0.0, 0.7)
        total[start : start + len(burst)] += burst
    return total


def babble(
    length: int, rng: np.random.Generator, voice: Callable[[int, np.random.Generator], FloatArray]
) -> FloatArray:
    """Several other recordings at once.

    Parameters
    ----------
    length : int
    rng : numpy.random.Generator
    voice : callable
        Takes a length and the generator, and gives float32 (length,) of another recording.
    """
    count = int(rng.integers(*_VOICES, endpoint=True))
    total = np.zeros(length, dtype=np.float32)
    for _ in range(count):
        one = voice(length, rng)
        total += one / max(float(np.sqrt(np.mean(one**2))), 1e-6)
    return total


def make_noise(
    kind: Noise,
    length: int,
    sample_rate_hz: int,
    rng: np.random.Generator,
    voice: Callable[[int, np.random.Generator], FloatArray],
) -> FloatArray:
    """A noise of some kind, float32 (length,); ``voice`` as for :func:`babble`."""
    if kind == "white":
        return white(length, rng)
    if kind == "pink":
        return pink(length, rng)
    if kind == "hum":
        return hum(length, rng, sample_rate_hz)
    if kind == "clicks":
        return clicks(length, rng, sample_rate_hz)
    return babble(length, rng, voice)


def mixed(clean: FloatArray, noise: FloatArray, snr_db: float) -> FloatArray:
    """Sound with noise, so that the powers over the whole length are ``snr_db`` apart.

    Silence of either leaves ``clean`` as it is.

    Parameters
    ----------
    clean, noise : float32, shape (samples,)
    snr_db : float
        Decibels of the sound over the noise.
    """
    power, noise_power = (float(np.mean(np.square(x, dtype=np.float64))) for x in (clean, noise))
    if power == 0 or noise_power == 0:
        return clean
    gain = np.sqrt(power / noise_power) * 10.0 ** (-snr_db / 20)
    return np.asarray(clean + np.float32(gain) * noise, dtype=np.float32)
