"""Resampling a stream that comes in any cut, with a state that can be kept between two blocks.

soxr's own streams cannot be saved. So the stream is resampled in pieces that begin at fixed
places, each with a margin of sound on both sides (transforms.windows): a piece equals that part of
the whole within rounding, and every cut of a stream gives the same pieces, bit for bit. What is
carried:

============  ===================  ================================================================
name          shape                of
============  ===================  ================================================================
``frames``    (n,), float32        sound from the margin of the next piece on
``resampled`` (2,), int64          frames taken so far, pieces made
============  ===================  ================================================================
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np

from transforms.models.front_end import Resampler
from transforms.models.sequence import Array, State
from transforms.preprocess import fit_length
from transforms.records import FloatArray
from transforms.samples import resample
from transforms.windows import Grid

PIECE_SECONDS = 0.1
"""Of sound resampled at once: by this, and the margin, the labels come later than the sound."""


class StreamResampler:
    """From one sample rate to another, in mono.

    Parameters
    ----------
    from_hz, to_hz : int
    quality : {"HQ", "VHQ"}
        Of HQ the pieces equal the whole within some 1e-7, of VHQ within float32's last bit.
    """

    def __init__(self, from_hz: int, to_hz: int, quality: Resampler) -> None:
        self._grid, self._quality = Grid(from_hz, to_hz), quality
        step = self._grid.target_step
        self._piece = max(1, round(PIECE_SECONDS * to_hz / step)) * step

    def initial_state(self) -> State:
        """The state before the first sample."""
        return {
            "frames": np.zeros(0, dtype=np.float32),
            "resampled": np.zeros(2, dtype=np.int64),
        }

    def step(
        self, samples: FloatArray, state: Mapping[str, Array]
    ) -> tuple[list[FloatArray], State]:
        """Take the samples that come next.

        Parameters
        ----------
        samples : float32, shape (samples,)
        state : dict of arrays
            As the call before gave it; it is not changed.

        Returns
        -------
        list of float32 arrays, shape (samples at to_hz,)
            The pieces that are finished, in order; empty ones are none of them.
        state : dict of arrays
        """
        taken, made = (int(count) for count in state["resampled"])
        held = np.concatenate([state["frames"], np.asarray(samples, np.float32)])
        first, taken = taken - len(state["frames"]), taken + len(samples)
        pieces = []
        while self._frames_of(made)[1] <= taken:
            start, end = self._frames_of(made)
            pieces.append(self._resampled(held[start - first : end - first], start, made))
            made += 1
        kept = held[max(0, self._frames_of(made)[0] - first) :]
        return pieces, {
            "frames": kept.copy(),  # a view would keep all of a long block
            "resampled": np.array([taken, made], dtype=np.int64),
        }

    def finish(self, state: Mapping[str, Array]) -> list[FloatArray]:
        """The pieces that are still to come."""
        taken, made = (int(count) for count in state["resampled"])
        first, total = taken - len(state["frames"]), self._grid.total_target(taken)
        pieces = []
        while made * self._piece < total:
            start, _ = self._frames_of(made)
            piece = self._resampled(state["frames"][start - first :], start, made)
            pieces.append(piece[: total - made * self._piece])
            made += 1
        return pieces

    def _frames_of(self, piece: int) -> tuple[int, int]:
        """First frame that a piece needs and the one behind the last, margins included."""
        span = piece * self._piece, (piece + 1) * self._piece
        if self._grid.frame_rate_hz == self._grid.target_rate_hz:
            return span
        return self._grid.frames_of(span)

    def _resampled(self, frames: FloatArray, start: int, piece: int) -> FloatArray:
        grid = self._grid
        offset = piece * self._piece - start * grid.target_rate_hz // grid.frame_rate_hz
        sound = resample(frames, grid.frame_rate_hz, grid.target_rate_hz, self._quality)
        return fit_length(sound[offset:], self._piece)


@functools.lru_cache(maxsize=64)
def resampler(from_hz: int, to_hz: int, quality: Resampler) -> StreamResampler:
    """The resampler of two rates: it keeps nothing of a stream."""
    return StreamResampler(from_hz, to_hz, quality)
