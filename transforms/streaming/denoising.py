"""A stream without its noise: in mono and at the enhancer's rate, in blocks of its own.

What is carried is the state of the resampler and of the enhancer, each name with ``clean.`` before
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from transforms.models.enhancer import Enhancer
from transforms.models.sequence import Array, State
from transforms.records import FloatArray
from transforms.streaming.resampling import StreamResampler, resampler

_PREFIX = "clean."


class StreamDenoiser:
    """Takes the noise out of one stream after the other, whose states the caller keeps.

    Parameters
    ----------
    enhancer : Enhancer
    """

    def __init__(self, enhancer: Enhancer) -> None:
        self._enhancer = enhancer

    def _resampler(self, rate_hz: int) -> StreamResampler:
        return resampler(rate_hz, self.sample_rate_hz, "VHQ")

    @property
    def sample_rate_hz(self) -> int:
        """Of what is given out."""
        return self._enhancer.front_end.sample_rate_hz

    def initial_state(self) -> State:
        """The state before the first sample."""
        zeros = {**resampler(1, 1, "VHQ").initial_state(), **self._enhancer.initial_state()}
        return {_PREFIX + name: array for name, array in zeros.items()}

    def step(
        self, samples: FloatArray, rate_hz: int, state: Mapping[str, Array]
    ) -> tuple[FloatArray, State]:
        """Take mono samples, (samples,); gives those that are finished, and its own state."""
        own = _own(state)
        pieces, resampled = self._resampler(rate_hz).step(samples, own)
        clean, after = self._enhanced(pieces, own)
        return clean, {_PREFIX + name: array for name, array in {**after, **resampled}.items()}

    def finish(self, rate_hz: int, state: Mapping[str, Array]) -> FloatArray:
        """The samples that are still to come: as many as were taken, in seconds."""
        own = _own(state)
        pieces = self._resampler(rate_hz).finish(own)
        clean, after = self._enhanced(pieces, own)
        return np.concatenate([clean, self._enhancer.finish(after)[0][0]])

    def _enhanced(self, pieces: Iterable[FloatArray], own: State) -> tuple[FloatArray, State]:
        """Piece by piece: the same bits in every cut of the stream."""
        parts = [np.zeros(0, dtype=np.float32)]
        for piece in pieces:
            enhanced, _, own = self._enhancer.step(piece[None], own)
            parts.append(enhanced[0])
        return np.concatenate(parts), own


def _own(state: Mapping[str, Array]) -> State:
    return {
        name.removeprefix(_PREFIX): array
        for name, array in state.items()
        if name.startswith(_PREFIX)
    }
