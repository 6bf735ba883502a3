"""What a recording gives as a stream, against what it gives whole: by how much the two differ.

Every cut of a stream should give the same bits. Beside the whole recording a stream is resampled
in pieces, and its products are of fewer rows: the two differ by rounding, which is measured here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from transforms.models.enhancer import Enhancer
from transforms.models.sequence import Array, State
from transforms.preprocess import fit_length
from transforms.records import FloatArray
from transforms.samples import resample
from transforms.streaming.denoising import StreamDenoiser
from transforms.streaming.recogniser import Heard, StreamRecogniser
from transforms.windows import Grid

TOLERANCE = 1e-6
"""The most that a score, or a sample, may differ by."""

BLOCK_SECONDS = (0.25,)
"""Lengths of blocks that a stream is cut into, unless others are asked for."""

_LONGEST_RANDOM_SECONDS = 1.0


class Stream(Protocol):
    """What follows a stream whose state the caller keeps."""

    def initial_state(self) -> State:
        """The state before the first sample."""

    def step(
        self, samples: FloatArray, rate_hz: int, state: Mapping[str, Array]
    ) -> tuple[Any, State]:
        """What is finished with these samples, and the state behind them."""

    def finish(self, rate_hz: int, state: Mapping[str, Array]) -> Any:
        """What is still to come."""


@dataclass(frozen=True)
class Subject:
    """What is compared: it follows a stream, and it takes a recording whole."""

    name: str
    stream: Stream
    whole: Callable[[FloatArray, int], FloatArray]  # samples and rate to (steps, values)
    rate_hz: int  # its own, that everything is resampled to
    step_seconds: float  # from one row of values to the next


@dataclass(frozen=True)
class Streamed:
    """What a stream gave in one cut."""

    values: FloatArray  # (steps, values)
    seconds: float  # that it took
    state_bytes: int  # at most, between two blocks


@dataclass(frozen=True)
class Comparison:
    """What one subject gave, whole and streamed."""

    name: str
    whole: FloatArray  # (steps, values)
    streamed: FloatArray  # same, in the first cut
    differences: FloatArray  # (steps,), the largest over all values and cuts
    equal_cuts: bool  # whether all cuts gave the same bits
    at_own_rate: float  # the largest difference where nothing has to be resampled
    ms_per_second: float  # milliseconds that a second of sound took in the first cut
    state_bytes: int
    step_seconds: float

    @property
    def largest(self) -> float:
        """The largest difference; infinite where the lengths differ, NaN where a score is."""
        return float(np.max(self.differences))

    @property
    def largest_at_s(self) -> float:
        """Where that is, in seconds."""
        return float(np.argmax(self.differences)) * self.step_seconds

    @property
    def kept(self) -> bool:
        """Whether it is as it should be: within the tolerance, and the same bits in all cuts."""
        return self.equal_cuts and self.largest <= TOLERANCE


def recognising(name: str, recogniser: StreamRecogniser) -> Subject:
    """A recogniser, whose values are the running scores."""
    rate_hz = recogniser.front_end.sample_rate_hz
    return Subject(
        name,
        recogniser,
        lambda samples, from_hz: recogniser.whole(samples, from_hz).scores,
        rate_hz,
        recogniser.frame_seconds,
    )


def denoising(name: str, enhancer: Enhancer) -> Subject:
    """An enhancer, whose values are samples."""
    rate_hz = enhancer.front_end.sample_rate_hz

    def whole(samples: FloatArray, from_hz: int) -> FloatArray:
        return _values(enhancer.enhance(at_rate(samples, from_hz, rate_hz)[None])[0][0])

    return Subject(name, StreamDenoiser(enhancer), whole, rate_hz, 1 / rate_hz)


def at_rate(samples: FloatArray, from_hz: int, to_hz: int) -> FloatArray:
    """A whole recording at another rate, (samples,), as long as the batch pipeline makes it."""
    length = Grid(from_hz, to_hz).total_target(len(samples))
    return fit_length(resample(samples, from_hz, to_hz, "VHQ"), length)


def even_blocks(frames: int, block_frames: int) -> list[int]:
    """Lengths of blocks that make up a recording; the last may be shorter."""
    full, rest = divmod(frames, block_frames)
    return [block_frames] * full + [rest] * bool(rest)


def random_blocks(frames: int, most: int, seed: int) -> list[int]:
    """The same of random lengths, as often from 1 to 10 as from 1,000 to 10,000."""
    random, left = np.random.default_rng(seed), frames
    lengths: list[int] = []
    while left > 0:
        lengths.append(min(left, int(np.exp(random.uniform(0, math.log(most + 1))))))
        left -= lengths[-1]
    return lengths


def cuts(
    frames: int, rate_hz: int, seed: int, block_seconds: Sequence[float] = BLOCK_SECONDS
) -> Iterator[list[int]]:
    """Blocks of each of these lengths, blocks of random lengths, and one block.

    Parameters
    ----------
    frames : int
        Of the recording.
    rate_hz : int
        Its sample rate.
    seed : int
        Of the random lengths, from one sample to a second.
    block_seconds : sequence of float

    Yields
    ------
    list of int
        Lengths in frames, which make up the recording.
    """
    for seconds in block_seconds:
        yield even_blocks(frames, max(1, round(seconds * rate_hz)))
    yield random_blocks(frames, round(_LONGEST_RANDOM_SECONDS * rate_hz), seed)
    yield [frames]


def streamed(stream: Stream, samples: FloatArray, rate_hz: int, lengths: Sequence[int]) -> Streamed:
    """A recording as a stream.

    Parameters
    ----------
    stream : Stream
    samples : float32, shape (samples,)
    rate_hz : int
    lengths : sequence of int
        Of the blocks, which make up the recording.
    """
    state, found, largest, at = stream.initial_state(), [], 0, 0
    started = time.perf_counter()
    for length in lengths:
        part, state = stream.step(samples[at : at + length], rate_hz, state)
        found.append(_values(part))
        largest, at = max(largest, _bytes_of(state)), at + length
    found.append(_values(stream.finish(rate_hz, state)))
    return Streamed(np.concatenate(found), time.perf_counter() - started, largest)


def compare(
    subject: Subject, samples: FloatArray, rate_hz: int, all_cuts: Sequence[Sequence[int]]
) -> Comparison:
    """A recording as a stream in several cuts, against the whole.

    Parameters
    ----------
    subject : Subject
    samples : float32, shape (samples,)
        Mono, one at least.
    rate_hz : int
    all_cuts : sequence of sequences of int
        As :func:`cuts` gives them, one at least.
    """
    whole = subject.whole(samples, rate_hz)
    runs = [streamed(subject.stream, samples, rate_hz, lengths) for lengths in all_cuts]
    bits = {run.values.tobytes() for run in runs}
    differences = np.max([step_differences(run.values, whole) for run in runs], axis=0)
    return Comparison(
        name=subject.name,
        whole=whole,
        streamed=runs[0].values,
        differences=differences,
        equal_cuts=len(bits) == 1,
        at_own_rate=_at_own_rate(subject, samples, rate_hz, differences),
        ms_per_second=1e3 * runs[0].seconds * rate_hz / len(samples),
        state_bytes=max(run.state_bytes for run in runs),
        step_seconds=subject.step_seconds,
    )


def step_differences(found: FloatArray, whole: FloatArray) -> FloatArray:
    """The largest absolute difference of each step, (steps,) of the whole.

    Infinite in every step where there are more or fewer of them; NaN where a value is.
    """
    if found.shape != whole.shape:
        return np.full(len(whole), np.inf, dtype=np.float32)
    largest: FloatArray = np.abs(found - whole).max(axis=1)
    return largest


def _at_own_rate(
    subject: Subject, samples: FloatArray, rate_hz: int, differences: FloatArray
) -> float:
    if rate_hz == subject.rate_hz:
        return float(np.max(differences))
    low = at_rate(samples, rate_hz, subject.rate_hz)
    found = streamed(subject.stream, low, subject.rate_hz, [len(low)]).values
    return float(np.max(step_differences(found, subject.whole(low, subject.rate_hz))))


def _values(found: Heard | FloatArray) -> FloatArray:
    return found.scores if isinstance(found, Heard) else found[:, None]


def _bytes_of(state: Mapping[str, Array]) -> int:
    return sum(array.nbytes for array in state.values())
