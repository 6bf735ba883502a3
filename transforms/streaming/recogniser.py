"""The recogniser of a stream: blocks of samples of any length in, the running scores out.

What it gives for a stream is what the whole recording would have given, however the stream was
cut; every cut gives the same bits. What is carried from one block to the next is a dict of arrays,
the state of the resampler (transforms.streaming.resampling) and of the model
(transforms.models.sequence), and

============  ===================  ================================================================
name          shape                of
============  ===================  ================================================================
``samples``   (n,), float32        sound at the model's rate that the next spectral frame begins
                                   with, n < n_fft + hop_length
``heard``     (1,), int64          spectral frames made so far
============  ===================  ================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from transforms.mel import log_mel, mel_power_within, refer, to_decibels, to_pixels
from transforms.models.front_end import FrontEnd
from transforms.models.sequence import Array, SequenceModel, State
from transforms.preprocess import fit_length
from transforms.records import FloatArray
from transforms.samples import resample
from transforms.streaming.resampling import StreamResampler, resampler
from transforms.windows import Grid


@dataclass(frozen=True)
class Heard:
    """What was heard frame by frame."""

    first: int  # the stream's number of the first frame; frame n is centred n * hop_seconds in
    scores: FloatArray  # (frames, labels), running: of all that was heard up to that frame
    sound: npt.NDArray[np.bool_]  # (frames,), whether any band is over the front end's floor

    def __len__(self) -> int:
        return len(self.scores)


class StreamRecogniser:
    """Running scores of one stream after the other, whose states the caller keeps.

    Parameters
    ----------
    model : SequenceModel
        Of head recognition.
    front_end : FrontEnd
        Causal: transforms.models.recogniser checks that of a checkpoint.
    """

    def __init__(self, model: SequenceModel, front_end: FrontEnd) -> None:
        self._model = model
        self.front_end = front_end
        self._none = np.zeros((0, model.settings.outputs), dtype=np.float32)
        self._names = tuple(model.initial_state(1))

    @property
    def frame_seconds(self) -> float:
        """From one frame to the next."""
        return self.front_end.hop_length / self.front_end.sample_rate_hz

    def initial_state(self) -> State:
        """The state before the first sample: silence before it."""
        return {
            **resampler(1, 1, "VHQ").initial_state(),
            "samples": np.zeros(self.front_end.n_fft // 2, dtype=np.float32),
            "heard": np.zeros(1, dtype=np.int64),
            **self._model.initial_state(1),
        }

    def step(
        self, samples: FloatArray, rate_hz: int, state: Mapping[str, Array]
    ) -> tuple[Heard, State]:
        """Hear the samples that come next.

        Parameters
        ----------
        samples : float32, shape (samples,)
            Mono, full scale is 1.0; any number of them.
        rate_hz : int
            Their sample rate, the same for all of a stream.
        state : dict of arrays
            As the call before gave it; it is not changed.

        Returns
        -------
        Heard
            Of the frames that are finished.
        state : dict of arrays
        """
        pieces, resampled = self._resampler(rate_hz).step(samples, state)
        heard, after = self._hear(pieces, state)
        return heard, {**after, **resampled}

    def finish(self, rate_hz: int, state: Mapping[str, Array]) -> Heard:
        """The frames that are still to come: behind the last sample is silence."""
        pieces = self._resampler(rate_hz).finish(state)
        silence = np.zeros(self.front_end.n_fft // 2, dtype=np.float32)
        return self._hear([*pieces, silence], state)[0]

    def whole(self, samples: FloatArray, rate_hz: int) -> Heard:
        """A whole recording at once, by the functions that the batch pipeline has.

        Parameters
        ----------
        samples : float32, shape (samples,)
        rate_hz : int
        """
        target_hz = self.front_end.sample_rate_hz
        length = Grid(rate_hz, target_hz).total_target(len(samples))
        resampled = resample(samples, rate_hz, target_hz, self.front_end.resampler)
        frames = log_mel(fit_length(resampled, length), self.front_end).T
        scores = self._model.forward(to_pixels(frames, self.front_end)[None])[0]
        return Heard(0, scores, self._has_sound(frames))

    def _resampler(self, rate_hz: int) -> StreamResampler:
        front_end = self.front_end
        return resampler(rate_hz, front_end.sample_rate_hz, front_end.resampler)

    def _hear(
        self, pieces: Iterable[FloatArray], state: Mapping[str, Array]
    ) -> tuple[Heard, State]:
        """Piece by piece, so that sums are made of the same parts in every cut."""
        held, (first,) = state["samples"], (int(count) for count in state["heard"])
        own: Mapping[str, Array] = {name: state[name] for name in self._names}
        scores, sound = [self._none], [np.zeros(0, dtype=np.bool_)]
        hop, n_fft = self.front_end.hop_length, self.front_end.n_fft
        for piece in pieces:
            held = np.concatenate([held, piece])
            if len(held) < n_fft:
                continue
            power = mel_power_within(held, self.front_end).T
            decibels = refer(to_decibels(power), self.front_end)
            held = held[len(decibels) * hop :]
            found, own = self._model.step(to_pixels(decibels, self.front_end)[None], own)
            scores.append(found[0])
            sound.append(self._has_sound(decibels))
        heard = Heard(first, np.concatenate(scores), np.concatenate(sound))
        after: State = {**state, **own, "samples": held.copy()}
        after["heard"] = np.array([first + len(heard)], dtype=np.int64)
        return heard, after

    def _has_sound(self, decibels: FloatArray) -> npt.NDArray[np.bool_]:
        return np.asarray((decibels > -self.front_end.top_db).any(axis=1))
