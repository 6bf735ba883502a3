"""Which windows a track has, and how they are cut from a stream of decoded blocks.

Windows are defined in *target samples*: samples at the front end's rate, of which a track of
``n`` frames at rate ``sr`` has ``ceil(n * target / sr)`` (librosa's length). What is cut are
*frames* at the file's own rate, with a margin on both sides, beginning on a frame that falls on
a whole target sample. So a window resampled alone equals the same part of the track resampled
at once, and the stages behind need nothing but the window.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from transforms.errors import Reason, StageError
from transforms.models.front_end import FrontEnd
from transforms.records import AudioWindow, FloatArray, Track

MARGIN_SECONDS = 0.02
"""Least margin on either side of a window; twice what soxr HQ was measured to need."""
MARGIN_SAMPLES = 256
"""Least margin in samples of the lower of the two rates, whose filter is the longer in time."""

_ENDLESS = sys.maxsize  # end of a window "up to the end of the track", whose length is unknown

Span = tuple[int, int]
"""First target sample of a window and the one behind its last."""


@dataclass(frozen=True)
class Grid:
    """How frames of a file and target samples lie on each other.

    Parameters
    ----------
    frame_rate_hz : int
        The file's own rate.
    target_rate_hz : int
        The front end's rate.
    """

    frame_rate_hz: int
    target_rate_hz: int

    @property
    def frame_step(self) -> int:
        """Frames between two that fall on a whole target sample."""
        return self.frame_rate_hz // math.gcd(self.frame_rate_hz, self.target_rate_hz)

    @property
    def target_step(self) -> int:
        """Target samples between two of these."""
        return self.target_rate_hz // math.gcd(self.frame_rate_hz, self.target_rate_hz)

    @property
    def margin_frames(self) -> int:
        """Frames that the resampler needs on either side of a window."""
        lower_hz = min(self.frame_rate_hz, self.target_rate_hz)
        seconds = max(MARGIN_SECONDS, MARGIN_SAMPLES / lower_hz)
        return math.ceil(seconds * self.frame_rate_hz)

    def total_target(self, total_frames: int) -> int:
        """Target samples of a track of ``total_frames`` frames."""
        return _ceil_div(total_frames * self.target_rate_hz, self.frame_rate_hz)

    def frames_of(self, span: Span) -> Span:
        """First frame that the window needs and the one behind the last, margins included.

        The second may lie behind the end of the track.
        """
        start, end = (n * self.frame_rate_hz for n in span)
        first = max(0, start // self.target_rate_hz - self.margin_frames)
        last = _ceil_div(end, self.target_rate_hz) + self.margin_frames
        return first - first % self.frame_step, last


def _ceil_div(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)


def needs_total(front_end: FrontEnd) -> bool:
    """Whether the track's length must be known before its first window can be cut."""
    return front_end.windows not in ("all", "whole")


def window_spans(front_end: FrontEnd, total_target: int) -> Iterator[Span]:
    """List the windows of a track, in order.

    Parameters
    ----------
    front_end : FrontEnd
    total_target : int
        The track's length in target samples.

    Yields
    ------
    (int, int)
        First target sample and the one behind the last; never empty, never behind the end.
        With ``windows="all"`` a window that would only repeat the end of the one before it is
        left out.
    """
    previous_end = 0
    for index, (start, end) in enumerate(_unclipped(front_end, total_target)):
        if start >= total_target or (index > 0 and previous_end >= total_target):
            return
        previous_end = end
        yield start, min(end, total_target)


def _unclipped(front_end: FrontEnd, total_target: int) -> Iterator[Span]:
    """List the same without the end of the track: endless for "all"."""
    if front_end.windows == "whole":
        yield 0, _ENDLESS
    elif front_end.windows == "all":
        yield from _hopping(front_end)
    else:
        count = 1 if front_end.windows == "middle" else int(front_end.windows)
        yield from _spread(count, front_end.window_samples, total_target)


def _hopping(front_end: FrontEnd) -> Iterator[Span]:
    index = 0
    while True:
        start = round(index * front_end.hop_seconds * front_end.sample_rate_hz)
        yield start, start + front_end.window_samples
        index += 1


def _spread(count: int, length: int, total: int) -> Iterator[Span]:
    """One window centred in each of ``count`` equal segments; clamped, without duplicates."""
    last_start = max(0, total - length)
    previous = -1
    for index in range(count):
        # Integers throughout: the middle of the segment less half a window, rounded down.
        start = ((2 * index + 1) * total - count * length) // (2 * count)
        start = min(max(0, start), last_start)
        if start != previous:
            yield start, start + length
        previous = start


class _Buffer:
    """The frames that windows still to come may need."""

    def __init__(self, first: int = 0) -> None:
        self._blocks: list[FloatArray] = []
        self._first = first  # the track's frame at the beginning of _blocks[0]
        self.end = first  # behind the last frame seen so far

    def append(self, block: FloatArray) -> None:
        self._blocks.append(block)
        self.end += len(block)

    def drop_before(self, frame: int) -> None:
        while self._blocks and self._first + len(self._blocks[0]) <= frame:
            self._first += len(self._blocks.pop(0))

    def copy(self, first: int, last: int) -> FloatArray:
        """Frames ``first`` to ``last`` as an array of its own, (frames, channels)."""
        parts: list[FloatArray] = []
        at = self._first
        for block in self._blocks:
            parts.append(block[max(0, first - at) : max(0, last - at)])
            at += len(block)
        return np.concatenate(parts)


def cut_windows(
    blocks: Iterable[FloatArray],
    *,
    track: Track,
    sample_rate_hz: int,
    front_end: FrontEnd,
    total_frames: int | None = None,
) -> Iterator[AudioWindow]:
    """Cut a track's windows from its decoded blocks, holding no more than open windows need.

    Parameters
    ----------
    blocks : iterable of numpy.ndarray
        (frames, channels) float32 each, in order, of any lengths.
    track : Track
    sample_rate_hz : int
        The file's own rate.
    front_end : FrontEnd
    total_frames : int, optional
        The track's length as counted by an earlier decode. Only ``windows`` that are placed by
        the track's length ("middle" and a count) need it, see :func:`needs_total`.

    Yields
    ------
    AudioWindow
        In order of ``window_index``; the same ones however the track was cut into blocks.

    Raises
    ------
    ValueError
        If ``total_frames`` is missing and needed.
    """
    if needs_total(front_end) and total_frames is None:
        raise ValueError(f"windows={front_end.windows!r} needs total_frames: count them first")
    grid = Grid(sample_rate_hz, front_end.sample_rate_hz)
    planned = _unclipped(front_end, grid.total_target(total_frames or 0))
    buffer = _Buffer()
    index = 0
    span = next(planned, None)
    for block in blocks:
        buffer.append(block)
        while span is not None and grid.frames_of(span)[1] <= buffer.end:
            yield _cut(buffer, grid, span, track, index)
            index, span = index + 1, next(planned, None)
        if span is None:  # only where the length was known: the rest need not be decoded
            return
        buffer.drop_before(grid.frames_of(span)[0])
    # The length is known now: what is still open may be clipped by the end of the track.
    for late, span in enumerate(window_spans(front_end, grid.total_target(buffer.end))):
        if late >= index:
            yield _cut(buffer, grid, span, track, late)


def cut_parts(
    part: Callable[[int, int], Iterable[FloatArray]],
    *,
    track: Track,
    sample_rate_hz: int,
    front_end: FrontEnd,
    total_frames: int,
) -> Iterator[AudioWindow]:
    """Cut a track's windows where any part of it can be had alone.

    Parameters
    ----------
    part : callable
        Gives the frames from a first to before a last as blocks, (frames, channels) float32.
    track, sample_rate_hz, front_end, total_frames
        As for :func:`cut_windows`.

    Yields
    ------
    AudioWindow
        The same as :func:`cut_windows` cuts from the whole track.
    """
    grid = Grid(sample_rate_hz, front_end.sample_rate_hz)
    for index, span in enumerate(window_spans(front_end, grid.total_target(total_frames))):
        first, last = grid.frames_of(span)
        buffer = _Buffer(first)
        for block in part(first, min(last, total_frames)):
            buffer.append(block)
        if buffer.end == first:
            raise StageError(Reason.CORRUPT, f"no sound can be decoded from frame {first} on")
        yield _cut(buffer, grid, span, track, index)


def _cut(buffer: _Buffer, grid: Grid, span: Span, track: Track, index: int) -> AudioWindow:
    first, last = grid.frames_of(span)
    end_s = span[1] / grid.target_rate_hz
    if last >= buffer.end:  # perhaps the last window: never behind the sound itself
        end_s = min(end_s, buffer.end / grid.frame_rate_hz)
    return AudioWindow(
        track=track,
        window_index=index,
        start_s=span[0] / grid.target_rate_hz,
        end_s=end_s,
        sample_rate_hz=grid.frame_rate_hz,
        first_frame=first,
        samples=buffer.copy(first, min(last, buffer.end)),
    )


def target_slice(window: AudioWindow, front_end: FrontEnd) -> tuple[int, int]:
    """Where the window lies in its own samples once they are resampled to the front end's rate.

    Parameters
    ----------
    window : AudioWindow
    front_end : FrontEnd

    Returns
    -------
    offset : int
        Target samples of margin in front of the window.
    length : int
        Target samples of the window. At the end of a track the resampler may give one sample
        less than ``offset + length``: pad with zero, as librosa does.
    """
    target = front_end.sample_rate_hz
    origin = window.first_frame * target // window.sample_rate_hz  # exact: see Grid.frame_step
    start = round(window.start_s * target)
    # end_s is a whole target sample, or the end of the track, whose last sample is a part of one.
    rounding = 0.5 / window.sample_rate_hz
    end = math.ceil(window.end_s * target - rounding)
    return start - origin, end - start
