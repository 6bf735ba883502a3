"""What more than one stage does with samples: resampling, and telling sound from damage."""

from __future__ import annotations

import numpy as np
import soxr

from transforms.models.front_end import Resampler
from transforms.records import FloatArray

LARGEST = 1e12
"""Larger samples (full scale is 1.0) are damage; the spectrogram's float32 has room for these."""


def all_sound(samples: FloatArray) -> bool:
    """Whether no sample is NaN, infinite or over ``LARGEST``."""
    return bool((np.abs(samples) <= LARGEST).all())  # NaN is not less than anything


def resample(
    samples: FloatArray, from_hz: int, to_hz: int, quality: Resampler = "HQ"
) -> FloatArray:
    """Resample with soxr, scaled as is.

    Parameters
    ----------
    samples : float32, shape (frames,)
    from_hz, to_hz : int
        Sample rates.
    quality : {"HQ", "VHQ"}
        HQ is librosa's default. It computes in float32, so that a part resampled alone differs
        from that part of the whole by some 1e-7; of VHQ both are the same.

    Returns
    -------
    float32, shape (about frames * to_hz / from_hz,)
    """
    if from_hz == to_hz:
        return samples
    resampled: FloatArray = soxr.resample(samples, from_hz, to_hz, quality=quality)
    return resampled


def without_noise(
    samples: FloatArray, noise: FloatArray, heard: FloatArray, cut: FloatArray
) -> FloatArray:
    """Samples without what an enhancer takes for noise: a mask of one changes nothing.

    Parameters
    ----------
    samples : float32, any shape
    noise : float32, same shape
        What the enhancer took out, at the rate of ``samples``.
    heard : float32, same shape
        What it heard of them. The rest lies over its own rate, and
    cut : float32, same shape
        is lowered by this share, limited to [0, 1]: one less the enhancer's treble gain.
    """
    cleaned: FloatArray = samples - noise - (samples - heard) * np.clip(cut, 0, 1)
    return cleaned
