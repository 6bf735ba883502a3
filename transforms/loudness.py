"""Integrated loudness and true peak of ITU-R BS.1770-4, block by block over a whole track.

What a meter holds does not grow with the track, but for ten numbers of 8 bytes a second.
"""

from __future__ import annotations

import functools
from array import array
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pyloudnorm
from numpy.lib.stride_tricks import as_strided
from scipy import signal

from transforms.records import FloatArray

Float64Array = npt.NDArray[np.float64]

GATING_SECONDS = 0.4
"""Length of a gating block (BS.1770-4, Annex 1)."""

STEP = 0.25
"""From one gating block to the next, as a share of its length: they overlap by 75 %."""

ABSOLUTE_GATE_LUFS = -70.0
RELATIVE_GATE_LU = -10.0
OFFSET_LUFS = -0.691
"""Makes a 997 Hz sine at full scale in one front channel -3.01 LUFS."""

MIN_RATE_HZ = 3_000
"""The K-weighting's shelf turns at 1,500 Hz, which has to lie under half the rate."""

CHANNEL_WEIGHTS = MappingProxyType(
    {
        # Up to five as pyloudnorm has them: left, right, centre, left and right surround.
        **{count: (1.0, 1.0, 1.0, 1.41, 1.41)[:count] for count in range(1, 6)},
        # More in the order of WAV, FLAC and FFmpeg. The fourth is the low-frequency channel, which
        # does not count; of the surrounds only those at the side weigh more (Annex 3, Table 4).
        6: (1.0, 1.0, 1.0, 0.0, 1.41, 1.41),  # 5.1
        7: (1.0, 1.0, 1.0, 0.0, 1.0, 1.41, 1.41),  # 6.1: back, sides
        8: (1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.41, 1.41),  # 7.1: backs, sides
    }
)
"""By the number of channels. Of more than eight nobody says where the loudspeakers stand."""


class LoudnessMeter:
    """Integrated loudness of what is added; pyloudnorm.Meter's, which needs the whole at once.

    Parameters
    ----------
    sample_rate_hz : int
    channels : int
    """

    def __init__(self, sample_rate_hz: int, channels: int) -> None:
        self._rate_hz = sample_rate_hz
        self._weights = np.array(CHANNEL_WEIGHTS.get(channels, ()))
        self._frames = 0
        self._energy = array("d")  # weighted sum of squares in each quarter of a gating block
        self._can_tell = bool(self._weights.size) and sample_rate_hz > MIN_RATE_HZ
        if self._can_tell:
            self._sections = k_weighting(sample_rate_hz)
            self._state = np.zeros((len(self._sections), channels, 2))

    def add(self, block: FloatArray) -> None:
        """Add samples, (frames, channels); full scale is 1.0."""
        if not self._can_tell or not len(block):
            return
        weighted, self._state = signal.sosfilt(
            self._sections, block.T.astype(np.float64), axis=1, zi=self._state
        )
        self._count(self._weights @ np.square(weighted, out=weighted))

    def _count(self, power: Float64Array) -> None:
        """Add the frames' weighted squares to the quarters in which they lie."""
        begun, end = len(self._energy), self._frames + len(power)
        edges = self._edges(
            begun, begun + 2 + int(len(power) / (GATING_SECONDS * STEP * self._rate_hz))
        )
        starts = edges[edges < end] - self._frames
        before = int(starts[0]) if len(starts) else len(power)
        if before:
            self._energy[-1] += float(power[:before].sum())
        if len(starts):
            self._energy.extend(np.add.reduceat(power, starts))
        self._frames = end

    def _edges(self, first: int, last: int) -> npt.NDArray[np.int64]:
        """First frames of some quarters, rounded as pyloudnorm does it."""
        return (GATING_SECONDS * (np.arange(first, last) * STEP) * self._rate_hz).astype(np.int64)

    def integrated(self) -> float | None:
        """Loudness of all that was added, in LUFS.

        Returns
        -------
        float or None
            None of less than 400 ms, of what is nowhere louder than -70 LUFS, of more than eight
            channels, and of rates up to 3,000 Hz.
        """
        block_frames = GATING_SECONDS * self._rate_hz
        if not self._can_tell or self._frames < block_frames:
            return None
        seconds = self._frames / self._rate_hz
        # pyloudnorm rounds, so that the last block may lack up to half a step.
        count = int(np.round((seconds - GATING_SECONDS) / (GATING_SECONDS * STEP)) + 1)
        quarters = np.zeros(count + 3)
        held = min(len(self._energy), len(quarters))
        quarters[:held] = np.frombuffer(self._energy)[:held]
        power = np.convolve(quarters, np.ones(4), mode="valid") / block_frames
        loud = power[power >= _power(ABSOLUTE_GATE_LUFS)]
        if not len(loud):
            return None
        gate = loud.mean() * 10 ** (RELATIVE_GATE_LU / 10)
        return float(OFFSET_LUFS + 10 * np.log10(loud[loud > gate].mean()))


def _power(lufs: float) -> float:
    """The weighted mean square that has a loudness."""
    return float(10 ** ((lufs - OFFSET_LUFS) / 10))


def k_weighting(sample_rate_hz: int) -> Float64Array:
    """The K-weighting as pyloudnorm has it, (2, 6): second-order sections as scipy takes them."""
    filters = pyloudnorm.Meter(sample_rate_hz)._filters.values()  # no public name has them
    return np.array([[*section.b, *section.a] for section in filters])


OVERSAMPLING = 4
"""BS.1770-4, Annex 2, asks for at least four times 48 kHz. At a quarter of a sample's distance a
tone of 0.45 of the rate is read 0.55 dB low at worst, one of a tenth 0.03 dB."""

_TAPS = 32  # on either side of a new sample 16: flat within 0.02 dB up to 0.44 of the rate
_KAISER_BETA = 5.65  # 60 dB (Kaiser: 0.1102 (60 - 8.7))
_ROW = 32  # samples of which the new neighbours are made by one row of a matrix product


class TruePeakMeter:
    """The highest magnitude of what is added, also between its samples.

    Parameters
    ----------
    channels : int
    """

    def __init__(self, channels: int) -> None:
        self._held = np.zeros((channels, _TAPS - 1), np.float32)
        self._peak = 0.0

    def add(self, block: FloatArray) -> None:
        """Add samples, (frames, channels); full scale is 1.0."""
        if len(block):
            self._peak = max(self._peak, float(block.max()), -float(block.min()))
            self._held = self._between(np.concatenate([self._held, block.T], axis=1))

    def _between(self, samples: FloatArray) -> FloatArray:
        """Look at the new samples between whole rows of old ones; gives back what is left."""
        rows = (samples.shape[1] - _TAPS + 1) // _ROW
        width = _ROW + _TAPS - 1
        if rows:
            for channel in samples:
                step = channel.strides[0]
                view = as_strided(channel, (rows, width), (_ROW * step, step), writeable=False)
                between = view @ interpolation()
                self._peak = max(self._peak, float(between.max()), -float(between.min()))
        return samples[:, rows * _ROW :].copy()

    def dbtp(self) -> float | None:
        """The peak in dB of full scale (dBTP); None of silence. Nothing may be added after it."""
        channels = len(self._held)
        self.add(np.zeros((2 * _TAPS, channels), np.float32))
        return float(20 * np.log10(self._peak)) if self._peak else None


@functools.cache
def interpolation() -> FloatArray:
    """The matrix from a row of samples to the new ones among them: a product is quickest here.

    Returns
    -------
    float32, shape (63, 96)
        From 63 samples to the three new ones behind each of the 16th to the 47th: a sinc under a
        Kaiser window, of gain 1 at 0 Hz.
    """
    taps = np.arange(_TAPS) - (_TAPS // 2 - 1)  # places of the old samples; the new lie in 0 to 1
    matrix = np.zeros((_ROW + _TAPS - 1, _ROW, OVERSAMPLING - 1))
    for phase in range(1, OVERSAMPLING):
        distance = phase / OVERSAMPLING - taps
        window = np.i0(_KAISER_BETA * np.sqrt(1 - (distance / (_TAPS / 2)) ** 2))
        kernel = np.sinc(distance) * window
        for row in range(_ROW):
            matrix[row : row + _TAPS, row, phase - 1] = kernel / kernel.sum()
    return matrix.reshape(len(matrix), -1).astype(np.float32)
