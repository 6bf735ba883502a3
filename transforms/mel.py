"""MelSpectrogram: prepared samples to log-mel to the model's image.

The references are librosa's ``melspectrogram`` and ``power_to_db`` (with ``ref=numpy.max``, or 1.0
where the front end refers to full scale), and the resize of
``torch.nn.functional.interpolate(mode="bilinear", antialias=True)``. All are written here on
numpy, scipy's sparse matrices and PyTorch's FFT, several times faster than the references.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import apache_beam as beam
import numpy as np
import torch
from scipy import sparse

from transforms.models.front_end import FrontEnd
from transforms.records import FloatArray, LogMelWindow, PreparedWindow
from transforms.stage_metrics import FAILURES, StageMeter
from transforms.stopwatch import Timed, untimed

_AMIN = 1e-10  # librosa.power_to_db's floor under any power
_FRAMES_PER_BLOCK = 256  # a block's spectrum stays in the processor's cache
_BANDS = 8  # products that the mel filters are cut into, see _bands


def _hz_to_mel(hz: FloatArray) -> FloatArray:
    """Slaney's Auditory Toolbox: 3 mels per 200 Hz up to 1 kHz, then 27 per factor of 6.4."""
    over = np.log(np.maximum(hz, 1e-9) / 1_000.0) * (27.0 / np.log(6.4))
    return np.where(hz < 1_000.0, hz * 3.0 / 200.0, 15.0 + over)


def _mel_to_hz(mels: FloatArray) -> FloatArray:
    over = 1_000.0 * np.exp((mels - 15.0) * (np.log(6.4) / 27.0))
    return np.where(mels < 15.0, mels * 200.0 / 3.0, over)


def mel_filters(front_end: FrontEnd) -> FloatArray:
    """Triangular mel filters of unit area, equal to ``librosa.filters.mel``.

    Returns
    -------
    float32, shape (n_mels, 1 + n_fft // 2)
    """
    bins_hz = np.fft.rfftfreq(front_end.n_fft, 1.0 / front_end.sample_rate_hz)
    lowest, highest = _hz_to_mel(np.array([front_end.fmin_hz, front_end.fmax_hz]))
    corners_hz = _mel_to_hz(np.linspace(lowest, highest, front_end.n_mels + 2))
    widths_hz = np.diff(corners_hz)[:, None]
    slopes = corners_hz[:, None] - bins_hz
    rising, falling = -slopes[:-2] / widths_hz[:-1], slopes[2:] / widths_hz[1:]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    filters = triangles * (2.0 / (corners_hz[2:] - corners_hz[:-2]))[:, None]
    return np.asarray(filters, dtype=np.float32)


@lru_cache(maxsize=8)
def _bands(front_end: FrontEnd) -> tuple[tuple[slice, slice, FloatArray], ...]:
    """The filters in groups of neighbours, each with the few bins that it needs.

    Most of the matrix is zero: so cut, its product takes a fourth of the time, and less than
    that of a sparse matrix.
    """
    filters = mel_filters(front_end)
    bands = []
    for rows in np.array_split(np.arange(front_end.n_mels), min(_BANDS, front_end.n_mels)):
        group = filters[rows]
        (used,) = np.nonzero(group.any(axis=0))
        bins = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1)
        weights = np.ascontiguousarray(group[:, bins].T)
        bands.append((slice(int(rows[0]), int(rows[-1]) + 1), bins, weights))
    return tuple(bands)


def mel_power(samples: FloatArray, front_end: FrontEnd) -> FloatArray:
    """Mel power spectrogram, equal to ``librosa.feature.melspectrogram``.

    Parameters
    ----------
    samples : float32, shape (samples,)
        Mono, at ``front_end.sample_rate_hz``.
    front_end : FrontEnd

    Returns
    -------
    float32, shape (n_mels, 1 + samples // hop_length)
        Frames are centred; the edges are padded with zeros.
    """
    return mel_power_within(np.pad(samples, front_end.n_fft // 2), front_end)


def mel_power_within(samples: FloatArray, front_end: FrontEnd) -> FloatArray:
    """The same of the frames that lie in ``samples`` wholly, n_fft of them at least; not padded."""
    n_fft = front_end.n_fft
    frames = torch.from_numpy(samples).unfold(0, n_fft, front_end.hop_length)
    bands, window = _bands(front_end), torch.hann_window(n_fft)
    needed = max(bins.stop for _, bins, _ in bands)
    mel = np.empty((len(frames), front_end.n_mels), dtype=np.float32)
    for start in range(0, len(frames), _FRAMES_PER_BLOCK):
        block = slice(start, start + _FRAMES_PER_BLOCK)
        spectrum = torch.fft.rfft(frames[block] * window).numpy()[:, :needed]
        power = spectrum.real**2 + spectrum.imag**2
        for rows, bins, weights in bands:
            np.matmul(power[:, bins], weights, out=mel[block, rows])
    return mel.T


def power_to_db(power: FloatArray, top_db: float) -> FloatArray:
    """Decibels under the peak, equal to ``librosa.power_to_db(power, ref=numpy.max)``.

    Parameters
    ----------
    power : float32, any shape, not negative
    top_db : float
        Everything lower than this under the peak is raised to it.

    Returns
    -------
    float32, same shape, in [-top_db, 0]; all 0 for silence
    """
    return under_peak(to_decibels(power), top_db)


def to_decibels(power: FloatArray) -> FloatArray:
    """Decibels over a power of 1, float32, -100 for the least."""
    decibels: FloatArray = np.float32(10.0) * np.log10(np.maximum(power, np.float32(_AMIN)))
    return decibels


def under_peak(decibels: FloatArray, top_db: float) -> FloatArray:
    """Refer decibels to their peak and raise what is lower than ``top_db`` under it."""
    floored: FloatArray = np.maximum(decibels - decibels.max(), np.float32(-top_db))
    return floored


def refer(decibels: FloatArray, front_end: FrontEnd) -> FloatArray:
    """Decibels over a power of 1 to those over the front end's reference, floored.

    Parameters
    ----------
    decibels : float32, any shape
        As :func:`to_decibels` gives them.
    front_end : FrontEnd

    Returns
    -------
    float32, same shape
        In [-top_db, 0] under the window's peak. Over full scale, where a frame's values depend on
        no other frame, -top_db at least, and over 0 where a band holds more than a power of 1.
    """
    if front_end.reference == "peak":
        return under_peak(decibels, front_end.top_db)
    floored: FloatArray = np.maximum(decibels, np.float32(-front_end.top_db))
    return floored


def log_mel(samples: FloatArray, front_end: FrontEnd) -> FloatArray:
    """Log-mel spectrogram, float32, (n_mels, frames), in decibels as :func:`refer` gives them."""
    return refer(to_decibels(mel_power(samples, front_end)), front_end)


@lru_cache(maxsize=8)
def _resize_matrix(size_in: int, size_out: int) -> sparse.csr_array:
    """Antialiased bilinear interpolation along one axis, sparse float32, (size_out, size_in).

    A triangle as wide as the larger of the two pixel pitches, centred on each output pixel
    (align_corners=False), normalised at the edges: what torch's antialias=True does.
    """
    scale = size_in / size_out
    support = max(scale, 1.0)
    centres = scale * (np.arange(size_out) + 0.5)
    first = np.floor(centres - support).astype(int)
    columns = first[:, None] + np.arange(int(np.ceil(2 * support)) + 2)
    weights = 1.0 - np.abs(columns + 0.5 - centres[:, None]) / support
    weights[(columns < 0) | (columns >= size_in) | (weights < 0)] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    rows = np.broadcast_to(np.arange(size_out)[:, None], columns.shape)
    kept = weights > 0
    entries = (weights[kept].astype(np.float32), (rows[kept], columns[kept]))
    return sparse.csr_array(entries, shape=(size_out, size_in))


def resize(image: FloatArray, height: int, width: int) -> FloatArray:
    """Resize (bilinear, antialiased) a float32 image of shape (rows, columns)."""
    rows, columns = image.shape
    if columns != width:
        image = (_resize_matrix(columns, width) @ image.T).T
    if rows != height:
        image = _resize_matrix(rows, height) @ image
    return np.ascontiguousarray(image, dtype=np.float32)


def to_image(samples: FloatArray, front_end: FrontEnd, timed: Timed = untimed) -> FloatArray:
    """Mono samples to the model's image.

    Parameters
    ----------
    samples : float32, shape (samples,)
    front_end : FrontEnd
    timed : Timed
        Counts the seconds of the parts mel and resize.

    Returns
    -------
    float32, shape (image_height, image_width)
        -1 is ``top_db`` under the reference, 1 the reference: the window's peak, or full scale,
        which may be exceeded. Low frequencies come first.
    """
    with timed("mel"):
        decibels = log_mel(samples, front_end)
    with timed("resize"):
        return decibels_to_image(decibels, front_end)


def decibels_to_image(decibels: FloatArray, front_end: FrontEnd) -> FloatArray:
    """A log-mel spectrogram to an image: [-top_db, 0] becomes [-1, 1], what is over 0 over 1.

    Parameters
    ----------
    decibels : float32, shape (n_mels, frames)
    front_end : FrontEnd

    Returns
    -------
    float32, shape (image_height, image_width)
    """
    return to_pixels(resize(decibels, front_end.image_height, front_end.image_width), front_end)


def to_pixels(decibels: FloatArray, front_end: FrontEnd) -> FloatArray:
    """Decibels of any shape as values of an image: -top_db is -1, and 0 is 1."""
    return decibels * np.float32(2.0 / front_end.top_db) + np.float32(1.0)


def convert(
    window: PreparedWindow, front_end: FrontEnd, timed: Timed = untimed
) -> LogMelWindow:
    """All of MelSpectrogram for one window; ``timed`` as for :func:`to_image`."""
    return LogMelWindow(
        window.track,
        window.window_index,
        window.start_s,
        window.end_s,
        window.content_s,
        to_image(window.samples, front_end, timed),
        window.facts,
        time.monotonic(),
    )


class _MelDoFn(beam.DoFn):  # type: ignore[misc]
    def __init__(self, front_end: FrontEnd) -> None:
        self._front_end = front_end
        self._meter = StageMeter("MelSpectrogram")

    def process(self, window: PreparedWindow) -> Iterator[Any]:
        yield from self._meter.run(window.track, lambda: [self._convert(window)])

    def _convert(self, window: PreparedWindow) -> LogMelWindow:
        return convert(window, self._front_end, self._meter.timed)


@dataclass
class MelSpectrogram(beam.PTransform):  # type: ignore[misc]
    """PCollection[PreparedWindow] to ``.windows`` (LogMelWindow) and ``.failures`` (Failure).

    Parameters
    ----------
    front_end : FrontEnd
    """

    front_end: FrontEnd

    def expand(self, windows: beam.PCollection) -> beam.pvalue.DoOutputsTuple:
        return windows | beam.ParDo(_MelDoFn(self.front_end)).with_outputs(
            FAILURES, main="windows"
        )
