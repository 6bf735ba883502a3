"""Sound of any length through work that wants a whole stretch at once: in crossfaded segments."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

from transforms.records import FloatArray


class Fifo:
    """Arrays of (frames, ...) as one queue of frames.

    Parameters
    ----------
    empty : numpy.ndarray
        What is taken out of an empty one, (0, ...).
    """

    def __init__(self, empty: FloatArray) -> None:
        self._empty = empty
        self._parts: deque[FloatArray] = deque()
        self._frames = 0

    def __len__(self) -> int:
        return self._frames

    def put(self, part: FloatArray) -> None:
        """Add frames at the end."""
        if len(part):
            self._parts.append(part)
            self._frames += len(part)

    def take(self, frames: int) -> FloatArray:
        """Remove and give the first frames, at most as many as there are."""
        taken: list[FloatArray] = []
        left = min(frames, self._frames)
        self._frames -= left
        while left:
            part = self._parts.popleft()
            if len(part) > left:
                self._parts.appendleft(part[left:])
                part = part[:left]
            taken.append(part)
            left -= len(part)
        if len(taken) == 1:
            return taken[0]
        return np.concatenate(taken) if taken else self._empty


class Segments:
    """Work on sound in segments that overlap, with a linear crossfade from one to the next.

    The last segment ends with the sound and is as long as the others, so that it overlaps more.
    Sound that is shorter than a segment is one. Holds less than two segments; how the samples
    come cut makes no difference.

    Parameters
    ----------
    work : callable
        Takes (frames, channels) and gives the same shape.
    segment_frames : int
    fade_frames : int
        Less than half of ``segment_frames``.
    """

    def __init__(
        self, work: Callable[[FloatArray], FloatArray], segment_frames: int, fade_frames: int
    ) -> None:
        self._work = work
        self._segment = segment_frames
        self._hop = segment_frames - fade_frames
        self._ramp = ((np.arange(fade_frames) + 0.5) / fade_frames).astype(np.float32)[:, None]
        self._held: list[FloatArray] = []  # from the start of the newest finished segment on
        self._frames = 0  # held
        self._tail: FloatArray | None = None  # of its result, to be faded out

    def step(self, samples: FloatArray) -> FloatArray:
        """Take the samples that come next; gives what is finished, (frames, channels)."""
        self._held.append(samples.copy())  # the caller may write over them
        self._frames += len(samples)
        finished = [samples[:0]]
        while self._frames >= self._due:
            held = np.concatenate(self._held)[0 if self._tail is None else self._hop :]
            made = self._faded_in(self._work(held[: self._segment]))
            finished.append(made[: self._hop])
            self._tail = made[self._hop :]
            self._held, self._frames = [held], len(held)
        return np.concatenate(finished)

    @property
    def _due(self) -> int:
        """Frames held at which the next segment is whole."""
        return self._segment if self._tail is None else self._hop + self._segment

    def _faded_in(self, made: FloatArray) -> FloatArray:
        if self._tail is None:
            return made
        fade = len(self._ramp)
        mixed = self._tail * (1 - self._ramp) + made[:fade] * self._ramp
        return np.concatenate([mixed, made[fade:]])

    def finish(self) -> FloatArray:
        """What is still to come."""
        assert self._held, "no samples came, not even an empty array"
        held = np.concatenate(self._held)
        if self._tail is None:
            return self._work(held) if len(held) else held
        if len(held) == self._segment:  # nothing came behind the newest one
            return self._tail
        last = self._work(held[-self._segment :])
        return self._faded_in(last[self._hop + self._segment - len(held) :])
