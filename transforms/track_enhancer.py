"""Enhancing one recording at its own rate with all its channels, block by block.

A model hears up to half its own sample rate. So what it takes out is brought back to the file's
rate and taken out there, and what lies above is scaled by the gain that the model has for the
highest frequencies it hears:

    y = x - up(low - enhanced) - (x - up(low)) * up(1 - treble_gain)

where ``low`` is x at the model's rate and ``up`` resamples from there. A mask of one gives x. How
the blocks are cut makes no difference, and memory is bounded by a block and what the resamplers
hold back, a part of a second.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import soxr

from transforms.griffin_lim import heard_through_log_mel
from transforms.models.enhancer import Enhancer
from transforms.preprocess import spectral_gate
from transforms.records import FloatArray
from transforms.samples import without_noise
from transforms.segments import Fifo, Segments

SEGMENT_SECONDS, FADE_SHARE = 30.0, 1 / 30
"""Of what works in segments: 30 s, of which one is faded."""
MAX_SEGMENT_SAMPLES = 1 << 24  # of all channels: shorter segments for many channels at high rates
_PIECE_SECONDS = 4.0  # a block of a file at 1,000 Hz would be long in the model's rate


class SoundEnhancer(Protocol):
    """What takes a recording's samples as they come and gives as many back, in their order."""

    def step(self, samples: FloatArray) -> FloatArray:
        """Take (frames, channels); gives the frames that are finished."""

    def finish(self) -> FloatArray:
        """The frames that are still to come."""


class Unchanged:
    """Gives back what it gets."""

    def __init__(self, channels: int) -> None:
        self._none = np.zeros((0, channels), np.float32)

    def step(self, samples: FloatArray) -> FloatArray:
        """The same samples."""
        return samples

    def finish(self) -> FloatArray:
        """None."""
        return self._none


class InTurn:
    """One enhancer behind another."""

    def __init__(self, first: SoundEnhancer, second: SoundEnhancer) -> None:
        self._first = first
        self._second = second

    def step(self, samples: FloatArray) -> FloatArray:
        """Through both."""
        return self._second.step(self._first.step(samples))

    def finish(self) -> FloatArray:
        """What both still hold."""
        passed = self._second.step(self._first.finish())
        return np.concatenate([passed, self._second.finish()])


class _Resampler:
    """soxr at its HQ setting, in a stream: no delay once it is finished."""

    def __init__(self, from_hz: int, to_hz: int, channels: int) -> None:
        self._same = from_hz == to_hz
        self._none = np.zeros((0, channels), np.float32)
        if not self._same:
            self._stream = soxr.ResampleStream(
                from_hz, to_hz, channels, dtype="float32", quality="HQ"
            )

    def step(self, samples: FloatArray, *, last: bool = False) -> FloatArray:
        if self._same:
            return samples
        if not last and not len(samples):
            return self._none
        made: FloatArray = self._stream.resample_chunk(np.ascontiguousarray(samples), last=last)
        return made.reshape(-1, self._none.shape[1])


class ModelEnhancer:
    """A mask model's enhancement of a recording at any rate, see the module's formula.

    Parameters
    ----------
    enhancer : Enhancer
    sample_rate_hz : int
        The recording's.
    channels : int
        Each is a stream of its own to the model.
    """

    def __init__(self, enhancer: Enhancer, sample_rate_hz: int, channels: int) -> None:
        self._enhancer = enhancer
        self._state = enhancer.initial_state(channels)
        self._channels = channels
        model_hz = enhancer.front_end.sample_rate_hz
        self._piece = max(1, round(_PIECE_SECONDS * sample_rate_hz))
        self._down = _Resampler(sample_rate_hz, model_hz, channels)
        self._up = _Resampler(model_hz, sample_rate_hz, 3 * channels)
        # Silence behind the end, so that rounding leaves no sample without its counterpart.
        self._margin = 2 * math.ceil(sample_rate_hz / model_hz)
        none = np.zeros((0, channels), np.float32)
        self._waiting, self._low = Fifo(none), Fifo(none)

    def step(self, samples: FloatArray) -> FloatArray:
        """Take the samples that come next; gives what is finished."""
        finished = [samples[:0]]
        for start in range(0, len(samples), self._piece):
            piece = samples[start : start + self._piece].copy()  # it waits here
            self._waiting.put(piece)
            finished.append(self._applied(*self._enhanced(self._down.step(piece))))
        return np.concatenate(finished)

    def finish(self) -> FloatArray:
        """The samples that are still to come: as many as were taken."""
        silence = np.zeros((self._margin, self._channels), np.float32)
        first = self._enhanced(self._down.step(silence, last=True))
        rest = (np.ascontiguousarray(part.T) for part in self._enhancer.finish(self._state))
        enhanced, gain = (np.concatenate(pair) for pair in zip(first, rest, strict=True))
        return self._applied(enhanced, gain, last=True)

    def _enhanced(self, low: FloatArray) -> tuple[FloatArray, FloatArray]:
        """What the model has finished, and its treble gain: (samples, channels)."""
        self._low.put(low)
        enhanced, gain, self._state = self._enhancer.step(low.T, self._state)
        return np.ascontiguousarray(enhanced.T), np.ascontiguousarray(gain.T)

    def _applied(self, enhanced: FloatArray, gain: FloatArray, *, last: bool = False) -> FloatArray:
        """The recording's samples as far as the model's are there."""
        low = self._low.take(len(enhanced))
        signals = np.concatenate([low - enhanced, low, 1 - gain], axis=1)
        noise, below, cut = np.split(self._up.step(signals, last=last), 3, axis=1)
        samples = self._waiting.take(len(noise))
        noise, below, cut = (part[: len(samples)] for part in (noise, below, cut))
        return without_noise(samples, noise, below, cut)


def in_segments(
    work: Callable[[FloatArray], FloatArray], sample_rate_hz: int, channels: int
) -> Segments:
    """Segments of 30 s, shorter where many channels at a high rate would take too much memory."""
    frames = min(round(SEGMENT_SECONDS * sample_rate_hz), MAX_SEGMENT_SAMPLES // channels)
    return Segments(work, frames, max(1, round(FADE_SHARE * frames)))


def gate(sample_rate_hz: int, channels: int) -> Segments:
    """Stationary spectral gating of each channel (transforms.preprocess.spectral_gate).

    The noise floor of each band is that of its segment.
    """

    def gated(samples: FloatArray) -> FloatArray:
        columns = (np.ascontiguousarray(samples[:, channel]) for channel in range(channels))
        return np.stack([spectral_gate(one, sample_rate_hz) for one in columns], axis=1)

    return in_segments(gated, sample_rate_hz, channels)


def make_enhancer(
    method: str,
    reconstruct: str,
    sample_rate_hz: int,
    channels: int,
    model: Callable[[], Enhancer],
) -> SoundEnhancer:
    """The enhancer of one recording.

    Parameters
    ----------
    method : {"model", "spectral_gate", "none"}
    reconstruct : {"phase", "griffin_lim"}
    sample_rate_hz, channels : int
        The recording's.
    model : callable
        Gives the model; asked only by the method of that name.
    """
    made: SoundEnhancer
    if method == "model":
        made = ModelEnhancer(model(), sample_rate_hz, channels)
    elif method == "spectral_gate":
        made = gate(sample_rate_hz, channels)
    else:
        made = Unchanged(channels)
    if reconstruct == "griffin_lim":
        heard = functools.partial(heard_through_log_mel, sample_rate_hz=sample_rate_hz)
        made = InTurn(made, in_segments(heard, sample_rate_hz, channels))
    return made
