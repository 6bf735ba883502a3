"""Reconstruction from log-mel alone by Griffin-Lim (librosa).

Hears what a model sees: all that a log-mel spectrogram leaves out is gone, the phase first of
all. Lossy by design, and no way to restore a recording.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from transforms.records import FloatArray

N_FFT, HOP_LENGTH, N_MELS = 2048, 512, 128
"""Of the 16-genre recipe, at the file's own rate and up to its highest frequency."""
TOP_DB = 80.0  # under the segment's peak nothing is kept
ITERATIONS = 32


def _mel_settings(sample_rate_hz: int) -> dict[str, Any]:
    return {"sr": sample_rate_hz, "n_fft": N_FFT, "fmin": 0.0, "fmax": sample_rate_hz / 2}


def to_log_mel(samples: FloatArray, sample_rate_hz: int) -> FloatArray:
    """Log-mel spectrogram of one channel.

    Parameters
    ----------
    samples : float32, shape (frames,)
        At least one.
    sample_rate_hz : int

    Returns
    -------
    float32, shape (N_MELS, 1 + frames // HOP_LENGTH)
        Decibels of power relative to a magnitude of 1, at most TOP_DB under their largest.
    """
    import librosa  # an option: its import takes a second

    with warnings.catch_warnings():
        # Sound shorter than a frame, and mel bands narrower than a bin: nothing to tell a user.
        warnings.simplefilter("ignore", UserWarning)
        mel = librosa.feature.melspectrogram(
            y=samples, hop_length=HOP_LENGTH, n_mels=N_MELS, **_mel_settings(sample_rate_hz)
        )
    decibels: FloatArray = librosa.power_to_db(mel, ref=1.0, top_db=TOP_DB)
    return decibels


def from_log_mel(log_mel: FloatArray, sample_rate_hz: int, frames: int) -> FloatArray:
    """Sound whose log-mel spectrogram is near the given one.

    As librosa.feature.inverse.mel_to_audio does it (non-negative least squares from mel bands to
    bins, then Griffin-Lim), with seeded first phases: the same input gives the same sound.

    Parameters
    ----------
    log_mel : float, shape (N_MELS, n)
        As :func:`to_log_mel` gives it.
    sample_rate_hz : int
    frames : int
        Length of the result.

    Returns
    -------
    float32, shape (frames,)
    """
    import librosa

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        magnitudes = librosa.feature.inverse.mel_to_stft(
            librosa.db_to_power(log_mel), power=2.0, **_mel_settings(sample_rate_hz)
        )
        sound = librosa.griffinlim(
            magnitudes,
            n_iter=ITERATIONS,
            hop_length=HOP_LENGTH,
            n_fft=N_FFT,
            length=frames,
            random_state=0,
        )
    return np.asarray(sound, dtype=np.float32)


def heard_through_log_mel(samples: FloatArray, sample_rate_hz: int) -> FloatArray:
    """Each channel turned to log-mel and back.

    Parameters
    ----------
    samples : float32, shape (frames, channels)
    sample_rate_hz : int

    Returns
    -------
    float32, shape (frames, channels)
        A channel of digital silence stays so.
    """
    heard = np.zeros_like(samples)
    for channel in np.flatnonzero(samples.any(axis=0)):
        one = np.ascontiguousarray(samples[:, channel])
        padded = np.pad(one, (0, max(0, N_FFT - len(one))))
        log_mel = to_log_mel(padded, sample_rate_hz)
        heard[:, channel] = from_log_mel(log_mel, sample_rate_hz, len(padded))[: len(one)]
    return heard
