"""Preprocess: a decoded window to mono samples at the front end's rate.

The steps, in this order: channel rule, resampling and cutting off the margin, DC-offset
removal, denoising (a spectral gate, or a model), silence trim, peak normalisation, padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np

from transforms.audio.channels import to_mono
from transforms.denoise import Denoiser, enhanced_window
from transforms.errors import FrontEndError, Reason, StageError
from transforms.models.enhancer import Enhancer
from transforms.models.front_end import FrontEnd
from transforms.records import AudioWindow, FloatArray, PreparedWindow
from transforms.samples import LARGEST, all_sound, resample
from transforms.stage_metrics import FAILURES, StageMeter
from transforms.stopwatch import Timed, untimed
from transforms.windows import target_slice


def fit_length(samples: FloatArray, length: int) -> FloatArray:
    """Cut or zero-pad at the end to exactly ``length`` samples."""
    if len(samples) >= length:
        return samples[:length]
    return np.pad(samples, (0, length - len(samples)))


def remove_dc(samples: FloatArray) -> FloatArray:
    """Subtract the mean (float32, shape (samples,)), summed in float64."""
    return samples - np.float32(samples.mean(dtype=np.float64))


def normalize_peak(samples: FloatArray) -> FloatArray:
    """Scale so that the largest magnitude is 1.0; silence stays as it is."""
    peak = np.abs(samples).max(initial=0.0)
    return samples if peak == 0 else samples / np.float32(peak)


def trim_silence(samples: FloatArray, below_peak_db: float) -> FloatArray:
    """Cut both edges that stay ``below_peak_db`` decibels or more under the peak.

    Frames as in :func:`librosa.effects.trim` (2048 samples, hop 512). Silence and anything
    shorter than a frame stay as they are.
    """
    if len(samples) < 2048 or not samples.any():
        return samples
    from librosa.effects import trim  # an option: its import takes a second

    trimmed: FloatArray = trim(samples, top_db=below_peak_db)[0]
    return trimmed


def spectral_gate(samples: FloatArray, sample_rate_hz: int) -> FloatArray:
    """Denoise by stationary spectral gating (noisereduce's defaults: 1.5 deviations).

    The noise floor of each band is estimated over the window itself. Silence and windows
    shorter than two FFT frames stay as they are.
    """
    if len(samples) < 2048 or not samples.any():
        return samples
    from noisereduce import reduce_noise  # an option: its import takes a second

    denoised = reduce_noise(y=samples, sr=sample_rate_hz, stationary=True, n_jobs=1)
    return np.asarray(denoised, dtype=np.float32)


def check_samples(samples: FloatArray) -> None:
    """Raise StageError unless ``samples`` is (frames, channels), not empty and of real sound."""
    if samples.ndim != 2 or 0 in samples.shape:
        raise StageError(
            Reason.INVALID_SAMPLES, f"a window must be (frames, channels), got {samples.shape}"
        )
    if not all_sound(samples):
        raise StageError(
            Reason.INVALID_SAMPLES, f"a window holds NaN, infinite or over {LARGEST:g} as samples"
        )


def prepare(
    window: AudioWindow,
    front_end: FrontEnd,
    timed: Timed = untimed,
    enhancer: Enhancer | None = None,
) -> PreparedWindow:
    """All of Preprocess for one window.

    Parameters
    ----------
    window : AudioWindow
        float32 samples of shape (frames, channels), with the resampler's margin.
    front_end : FrontEnd
    timed : Timed
        Counts the seconds of the parts mono, resample, and clean (the optional steps).
    enhancer : Enhancer, optional
        The one that the front end names.

    Returns
    -------
    PreparedWindow
        float32 samples of shape (front_end.window_samples,), or of the track's length where
        the front end squeezes whole tracks. ``content_s`` is what they hold without padding,
        and 0 for digital silence.

    Raises
    ------
    StageError
        ``invalid_samples``: an empty window, NaN, infinite or absurdly large samples.
    """
    check_samples(window.samples)
    rate_hz = front_end.sample_rate_hz
    with timed("mono"):
        mono = to_mono(window.samples, front_end.channel_rule)
    offset, length = target_slice(window, front_end)
    with timed("resample"):
        resampled = resample(mono, window.sample_rate_hz, rate_hz, front_end.resampler)
        samples = fit_length(resampled[offset:], length)
    with timed("clean"):
        samples, silent = _cleaned(samples, front_end, enhancer)
    content_s = 0.0 if silent else len(samples) / rate_hz
    if front_end.windows != "whole":
        samples = fit_length(samples, front_end.window_samples)
    return PreparedWindow(
        window.track,
        window.window_index,
        window.start_s,
        window.end_s,
        content_s,
        samples,
        window.facts,
    )


def _cleaned(
    samples: FloatArray, front_end: FrontEnd, enhancer: Enhancer | None
) -> tuple[FloatArray, bool]:
    """What is left after the optional steps, and whether it was digital silence."""
    if front_end.remove_dc:
        samples = remove_dc(samples)
    silent = not samples.any()
    if front_end.denoise == "spectral_gate":
        samples = spectral_gate(samples, front_end.sample_rate_hz)
    if enhancer is not None:
        samples = enhanced_window(samples, front_end.sample_rate_hz, enhancer)
    if front_end.trim_silence_db is not None:
        samples = trim_silence(samples, front_end.trim_silence_db)
    if front_end.normalize_peak:
        samples = normalize_peak(samples)
    return samples, silent


class _PrepareDoFn(beam.DoFn):  # type: ignore[misc]
    def __init__(self, front_end: FrontEnd, denoiser: Denoiser | None) -> None:
        self._front_end = front_end
        self._denoiser = denoiser
        self._enhancer: Enhancer | None = None
        self._meter = StageMeter("Preprocess")

    def setup(self) -> None:
        if self._denoiser is not None:
            self._enhancer = self._denoiser.load()

    def process(self, window: AudioWindow) -> Iterator[Any]:
        yield from self._meter.run(window.track, lambda: [self._prepared(window)])

    def _prepared(self, window: AudioWindow) -> PreparedWindow:
        return prepare(window, self._front_end, self._meter.timed, self._enhancer)


@dataclass
class Preprocess(beam.PTransform):  # type: ignore[misc]
    """PCollection[AudioWindow] to ``.windows`` (PreparedWindow) and ``.failures`` (Failure).

    Parameters
    ----------
    front_end : FrontEnd
    denoiser : Denoiser, optional
        The enhancer that ``front_end.denoise`` names, where it names one.

    Raises
    ------
    FrontEndError
        If it is another one, or missing.
    """

    front_end: FrontEnd
    denoiser: Denoiser | None = None

    def __post_init__(self) -> None:
        given = None if self.denoiser is None else self.denoiser.setting
        if given != (self.front_end.denoise if self.front_end.needs_enhancer else None):
            raise FrontEndError(
                f"Preprocess: the front end's denoise is {self.front_end.denoise}, the denoiser is "
                f"{given}; give the one that it names"
            )

    def expand(self, windows: beam.PCollection) -> beam.pvalue.DoOutputsTuple:
        do_fn = _PrepareDoFn(self.front_end, self.denoiser)
        return windows | beam.ParDo(do_fn).with_outputs(FAILURES, main="windows")
