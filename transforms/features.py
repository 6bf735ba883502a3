"""What a track sounds like, as numbers: loudness, tempo, key, spectrum, MFCC, chroma.

Loudness and true peak are of the whole track and all its channels (transforms.loudness). The
others are librosa's, of one mono signal and mostly one short-time spectrum, which is made some
seconds at a time: a worker holds at most the first 300 seconds of samples.

Import this module only where features are asked for: with librosa that takes seconds.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import librosa
import numpy as np
import numpy.typing as npt
import soxr
from threadpoolctl import ThreadpoolController

from transforms.audio.channels import to_mono
from transforms.loudness import LoudnessMeter, TruePeakMeter
from transforms.records import FloatArray, TrackFeatures
from transforms.samples import all_sound

FEATURES_SECONDS = 300.0
"""All but loudness and true peak are of this much of a track at most."""

SAMPLE_RATE_HZ = 22_050
N_FFT, HOP = 2_048, 512
"""librosa's defaults, as the rate: 93 ms and 23 ms."""

MFCC_COUNT = 20
TEMPO_MIN_SECONDS = 3.0
"""Less has no tempo: three beats at 60 a minute."""

TONICS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
KEY_PROFILES = {
    "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}
"""How well each pitch class fits a key, from its tonic upwards: probe-tone ratings of Krumhansl and
Kessler, "Tracing the dynamic changes in perceived tonal organization in a spatial representation of
musical keys", Psychological Review 89 (1982)."""

_BLOCK_FRAMES = 65_536  # the decoder's own
_PIECE_FRAMES = 1_024  # spectra at once, 24 s: 4 MB for each of their kind
_TUNING_STRIDE = 8  # every eighth spectrum tells how the track is tuned


def track_features(blocks: Iterable[FloatArray], *, sample_rate_hz: int) -> TrackFeatures | None:
    """Listen to a whole track.

    Parameters
    ----------
    blocks : iterable of float32, shape (frames, channels)
        The track's samples, full scale 1.0, in whatever pieces: no number depends on the cuts.
    sample_rate_hz : int

    Returns
    -------
    TrackFeatures or None
        None where a sample is damage (transforms.samples.all_sound), wherever it lies: no number
        would be the track's.
    """
    with _controller().limit(limits=1, user_api="blas"):
        return _heard(blocks, sample_rate_hz)


@functools.cache
def _controller() -> ThreadpoolController:
    """On one thread products are rounded in the same way whatever the worker's settings are."""
    return ThreadpoolController()


def _heard(blocks: Iterable[FloatArray], sample_rate_hz: int) -> TrackFeatures | None:
    mono = _Mono(sample_rate_hz)
    loudness: LoudnessMeter | None = None
    peak: TruePeakMeter | None = None
    for block in even_blocks(blocks, _BLOCK_FRAMES):
        if not all_sound(block):
            return None
        if loudness is None or peak is None:
            channels = block.shape[1]
            loudness, peak = LoudnessMeter(sample_rate_hz, channels), TruePeakMeter(channels)
        loudness.add(block)
        peak.add(block)
        mono.add(block)
    return TrackFeatures(
        loudness_lufs=None if loudness is None else loudness.integrated(),
        true_peak_dbtp=None if peak is None else peak.dbtp(),
        features_seconds=mono.seconds,
        **musical_facts(mono.end()),
    )


def even_blocks(blocks: Iterable[FloatArray], frames: int) -> Iterator[FloatArray]:
    """Cut samples anew, (frames, channels) each but the last: rounding then is the same too."""
    held: list[FloatArray] = []
    count = 0
    for block in blocks:
        held.append(block)
        count += len(block)
        if count < frames:
            continue
        joined = block if len(held) == 1 else np.concatenate(held)
        whole = count - count % frames
        for start in range(0, whole, frames):
            yield joined[start : start + frames]
        held, count = [joined[whole:]], count - whole
    if count:
        yield np.concatenate(held)


class _Mono:
    """The beginning of a track as one channel at librosa's rate, as ``librosa.load`` gives it."""

    def __init__(self, sample_rate_hz: int) -> None:
        self._rate_hz = sample_rate_hz
        self._left = round(FEATURES_SECONDS * sample_rate_hz)
        self._frames = 0
        self._parts: list[FloatArray] = []
        self._resampler: soxr.ResampleStream | None = None
        if sample_rate_hz != SAMPLE_RATE_HZ:
            self._resampler = soxr.ResampleStream(
                sample_rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32", quality="HQ"
            )

    @property
    def seconds(self) -> float:
        return self._frames / self._rate_hz

    def add(self, block: FloatArray) -> None:
        """Add samples, (frames, channels); those behind the first 300 s are left away."""
        block = block[: self._left - self._frames]
        if len(block):
            self._frames += len(block)
            mono = to_mono(block, "mean")
            if self._resampler is not None:
                mono = self._resampler.resample_chunk(mono)
            self._parts.append(mono)

    def end(self) -> FloatArray:
        """All of it, (samples,)."""
        if self._resampler is not None:
            self._parts.append(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        return np.concatenate([np.zeros(0, np.float32), *self._parts])


def musical_facts(samples: FloatArray) -> dict[str, Any]:
    """All facts but loudness and true peak.

    Parameters
    ----------
    samples : float32, shape (samples,)
        Mono at 22,050 Hz.

    Returns
    -------
    dict
        Fields of TrackFeatures. Of silence only rms and zero_crossing_rate, of nothing none.
    """
    if not len(samples):
        return {}
    if not samples.any():
        return {"rms": 0.0, "zero_crossing_rate": 0.0}
    means, mel = _spectral_means(samples, tuning(samples))
    decibels = librosa.power_to_db(mel)
    mfcc = librosa.feature.mfcc(S=decibels, n_mfcc=MFCC_COUNT)
    chroma = means.pop("chroma")
    return {
        **{name: float(value) for name, value in means.items()},
        **estimate_key(chroma),
        "chroma_mean": chroma.tolist(),
        "mfcc_mean": mfcc.mean(axis=1).tolist(),
        "mfcc_std": mfcc.std(axis=1).tolist(),
        "tempo_bpm": tempo(decibels),
    }


def _spectral_means(
    samples: FloatArray, tuned: float
) -> tuple[dict[str, npt.NDArray[np.float64]], FloatArray]:
    """Means over all frames by name, and the mel spectrogram, (128, frames), in power."""
    mel = functools.partial(librosa.feature.melspectrogram, sr=SAMPLE_RATE_HZ)
    sums: dict[str, npt.NDArray[np.float64]] = {}
    mels = []
    for piece, zero_padded in zip(_pieces(samples, "edge"), _pieces(samples), strict=True):
        spectrum = np.abs(librosa.stft(zero_padded, n_fft=N_FFT, hop_length=HOP, center=False))
        mels.append(mel(S=spectrum**2))
        for name, values in _frame_values(zero_padded, piece, spectrum, tuned).items():
            sums[name] = sums.get(name, 0.0) + values.sum(axis=-1, dtype=np.float64)
    joined: FloatArray = np.concatenate(mels, axis=1)
    return {name: np.squeeze(total / joined.shape[1]) for name, total in sums.items()}, joined


def _frame_values(
    zero_padded: FloatArray, edge_padded: FloatArray, spectrum: FloatArray, tuned: float
) -> dict[str, FloatArray]:
    """What librosa says of each frame: (1, frames), chroma (12, frames)."""
    of_rate: dict[str, Any] = {"S": spectrum, "sr": SAMPLE_RATE_HZ}
    framed: dict[str, Any] = {"frame_length": N_FFT, "hop_length": HOP, "center": False}
    feature = librosa.feature
    centroid = feature.spectral_centroid(**of_rate)
    return {
        "spectral_centroid_hz": centroid,
        "spectral_bandwidth_hz": feature.spectral_bandwidth(**of_rate, centroid=centroid),
        "spectral_rolloff_hz": feature.spectral_rolloff(**of_rate),
        "zero_crossing_rate": feature.zero_crossing_rate(edge_padded, **framed),
        "rms": feature.rms(y=zero_padded, **framed),
        "chroma": feature.chroma_stft(S=spectrum**2, sr=SAMPLE_RATE_HZ, tuning=tuned),
    }


def _pieces(samples: FloatArray, mode: Any = "constant") -> Iterator[FloatArray]:
    """Samples of some frames at a time, which together are librosa's centred ones."""
    padded = np.pad(samples, N_FFT // 2, mode=mode)
    frames = 1 + len(samples) // HOP
    for first in range(0, frames, _PIECE_FRAMES):
        last = min(first + _PIECE_FRAMES, frames)
        yield padded[first * HOP : (last - 1) * HOP + N_FFT]


def tuning(samples: FloatArray) -> float:
    """How far a track is tuned from A = 440 Hz, in semitones, -0.5 to 0.5.

    As ``librosa.estimate_tuning`` of every eighth spectrum; that of all would take half the time of
    all features. 0 where nothing has a pitch.
    """
    padded = np.pad(samples, N_FFT // 2)
    spectrum = librosa.stft(padded, n_fft=N_FFT, hop_length=_TUNING_STRIDE * HOP, center=False)
    pitches, magnitudes = librosa.piptrack(S=np.abs(spectrum) ** 2, sr=SAMPLE_RATE_HZ, n_fft=N_FFT)
    pitched = pitches > 0
    if not pitched.any():
        return 0.0
    strong = pitched & (magnitudes >= np.median(magnitudes[pitched]))
    return float(librosa.pitch_tuning(pitches[strong]))


def tempo(decibels: FloatArray) -> float | None:
    """Beats per minute by ``librosa.feature.tempo``, 30 to 320 with a preference for 120.

    Parameters
    ----------
    decibels : float32, shape (mels, frames)
        Mel spectrogram in dB.

    Returns
    -------
    float or None
        None of less than three seconds, and where nothing ever begins.
    """
    timing: dict[str, Any] = {"sr": SAMPLE_RATE_HZ, "hop_length": HOP}
    onsets = librosa.onset.onset_strength(S=decibels, **timing)
    if decibels.shape[1] * HOP < TEMPO_MIN_SECONDS * SAMPLE_RATE_HZ or not onsets.any():
        return None
    # The mean of librosa's tempogram, some frames at a time: all of 300 s take 150 MB.
    window = int(librosa.time_to_frames(8.0, **timing))
    padded = np.pad(onsets, window // 2, mode="linear_ramp", end_values=0)
    total = np.zeros(window)
    for first in range(0, len(onsets), _PIECE_FRAMES):
        last = min(first + _PIECE_FRAMES, len(onsets))
        total += librosa.feature.tempogram(
            onset_envelope=padded[first : last + window - 1],
            win_length=window,
            center=False,
            **timing,
        ).sum(axis=-1)
    return float(librosa.feature.tempo(tg=(total / len(onsets))[:, np.newaxis], **timing)[0])


def estimate_key(chroma: npt.NDArray[np.floating]) -> dict[str, Any]:
    """The key whose profile is most like a track's chroma.

    Parameters
    ----------
    chroma : float, shape (12,)
        Mean strength of each pitch class, from C.

    Returns
    -------
    dict
        ``key``, and ``key_confidence``: Pearson's correlation of the chroma with that key's
        profile, the best of 24. They sum to 0 over the tonics, so that it is never under 0.
        Empty where all pitch classes are equally strong.
    """
    if np.ptp(chroma) < 1e-9:
        return {}
    found = {
        f"{tonic} {mode}": float(np.corrcoef(chroma, np.roll(profile, place))[0, 1])
        for mode, profile in KEY_PROFILES.items()
        for place, tonic in enumerate(TONICS)
    }
    best = max(found, key=found.__getitem__)
    return {"key": best, "key_confidence": found[best]}
