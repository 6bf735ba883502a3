"""Enhancement: a magnitude mask on the short-time spectrum, the phase kept, and overlap-add.

Both windows are the square root of a periodic Hann window, whose square overlaps to one: a mask of
one gives the samples back. Samples come in any cut; what is carried from one to the next is a
dict of arrays, as for the model itself (transforms.models.sequence):

============  ================================  ==============================================
name          shape                             of
============  ================================  ==============================================
``samples``   (streams, n), n_fft - hop_length  samples that the next frame begins with
              <= n < n_fft
``overlap``   (streams, 2, n_fft - hop_length)  unfinished ends of the enhanced samples and of
                                                the treble gain
``counts``    (streams, 2), int64               samples taken, frames made
...                                             the model's own state
============  ================================  ==============================================
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from transforms.errors import CheckpointError, FrontEndError
from transforms.models.checkpoint import (
    CONFIG_FILE,
    find_checkpoint,
    find_same,
    read_config,
    shipped_models,
)
from transforms.models.front_end import FRONT_END_FILE, TYPE_KEY
from transforms.models.sequence import Array, SequenceModel, State, load_weights, settings_of

TYPE = "SpectrumFrontEnd"
DEFAULT_ENHANCER = "denoise-lstm"

# What a checkpoint from outside may make of a second of sound.
_MOST_N_FFT, _MOST_OTHERS, _MOST_OVERLAPPING = 8_190, 1_000_000, 16  # 4,096 bins: as many inputs
SMALLEST = 1e-5  # magnitude: 100 dB under that of a constant of 1 summed over some 1,000 samples
_TREBLE_SHARE = 0.75  # of the bins: above, their mean mask stands for what the model cannot hear

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class SpectrumFrontEnd:
    """Settings from samples to the frames of an enhancer, and back.

    Raises
    ------
    FrontEndError
        If a value is out of range; the message names it.
    """

    sample_rate_hz: int = 16_000
    n_fft: int = 512  # samples of a frame; the model masks n_fft // 2 + 1 bins
    hop_length: int = 256  # samples from one frame to the next, an even part of n_fft

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            most = _MOST_N_FFT if field.name == "n_fft" else _MOST_OTHERS
            if type(value) is not int or not 1 <= value <= most:
                raise FrontEndError(f"enhancer's front end: {field.name} must not be {value!r}")
        if self.n_fft % (2 * self.hop_length):
            raise FrontEndError(
                f"enhancer's front end: n_fft {self.n_fft} must be an even multiple of hop_length "
                f"{self.hop_length}, or the frames do not overlap to one"
            )
        if self.n_fft > _MOST_OVERLAPPING * self.hop_length:
            raise FrontEndError(
                f"enhancer's front end: n_fft {self.n_fft} must be at most {_MOST_OVERLAPPING} "
                f"times hop_length {self.hop_length}"
            )

    @property
    def bins(self) -> int:
        """Frequencies of a frame."""
        return self.n_fft // 2 + 1

    @property
    def overlap(self) -> int:
        """Samples that a frame shares with those before it: the delay of the enhancement."""
        return self.n_fft - self.hop_length

    def save(self, folder: Path) -> None:
        """Write ``preprocessor_config.json`` into ``folder``."""
        content = {TYPE_KEY: TYPE, **dataclasses.asdict(self)}
        (folder / FRONT_END_FILE).write_text(json.dumps(content, indent=2) + "\n")


def load_spectrum_front_end(folder: Path) -> SpectrumFrontEnd:
    """The front end saved beside an enhancer's weights.

    Raises
    ------
    FrontEndError
        If there is none, or it states something else.
    """
    path = folder / FRONT_END_FILE
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        if content.pop(TYPE_KEY, None) != TYPE:
            raise FrontEndError(f"{path}: {TYPE_KEY} is not {TYPE}")
        return SpectrumFrontEnd(**content)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise FrontEndError(f"{path}: not the front end of an enhancer: {error}") from error


def analysis_window(front_end: SpectrumFrontEnd) -> FloatArray:
    """The square root of a periodic Hann window, scaled so that its squares overlap to one.

    Returns
    -------
    float32, shape (n_fft,)
    """
    phase = np.arange(front_end.n_fft) / front_end.n_fft
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * phase)
    overlapping = front_end.n_fft / (2 * front_end.hop_length)
    return np.sqrt(hann / overlapping).astype(np.float32)


def spectra(samples: Array, front_end: SpectrumFrontEnd) -> npt.NDArray[np.complexfloating]:
    """Short-time spectra of all frames that lie in ``samples`` wholly.

    Parameters
    ----------
    samples : float, shape (streams, samples)

    Returns
    -------
    complex, shape (streams, frames, bins)
    """
    views = np.lib.stride_tricks.sliding_window_view(samples, front_end.n_fft, axis=1)
    frames = views[:, :: front_end.hop_length] * analysis_window(front_end)
    return np.fft.rfft(frames, axis=2)


def log_magnitudes(spectrum: npt.NDArray[np.complexfloating]) -> Array:
    """What an enhancer looks at: decimal logarithms of the magnitudes, of the same shape."""
    logarithms: Array = np.log10(np.maximum(np.abs(spectrum), SMALLEST))
    return logarithms


def overlap_add(frames: Array, tail: Array, hop_length: int) -> tuple[Array, Array]:
    """Add frames, one hop after the other, to what frames before them left.

    Parameters
    ----------
    frames : float, shape (streams, frames, n_fft)
    tail : float, shape (streams, n_fft - hop_length)
        The unfinished end of the frames before.
    hop_length : int

    Returns
    -------
    finished : float, shape (streams, frames * hop_length)
    tail : float, shape (streams, n_fft - hop_length)
    """
    streams, count, n_fft = frames.shape
    added = np.zeros((streams, count * hop_length + n_fft - hop_length), dtype=frames.dtype)
    added[:, : tail.shape[1]] = tail
    for start in range(0, n_fft, hop_length):  # each part of all frames at once
        part = frames[:, :, start : start + hop_length].reshape(streams, -1)
        added[:, start : start + part.shape[1]] += part
    return added[:, : count * hop_length], added[:, count * hop_length :]


class MaskModel(Protocol):
    """What masks: a :class:`transforms.models.sequence.SequenceModel` of head enhancement."""

    def initial_state(self, batch: int = 1) -> State:
        """The state before the first frame."""

    def step(self, frames: Array, state: Mapping[str, Array]) -> tuple[Array, State]:
        """Masks, (batch, frames, bins) in [0, 1], and the next state."""


class Enhancer:
    """Enhances streams of samples at the front end's rate, all of a call in step.

    Parameters
    ----------
    model : MaskModel
    front_end : SpectrumFrontEnd
    """

    def __init__(self, model: MaskModel, front_end: SpectrumFrontEnd) -> None:
        self._model = model
        self.front_end = front_end
        self._window = analysis_window(front_end)

    def initial_state(self, streams: int = 1) -> State:
        """The state before the first sample: silence before it."""
        overlap = self.front_end.overlap
        return {
            "samples": np.zeros((streams, overlap), dtype=np.float32),
            "overlap": np.zeros((streams, 2, overlap), dtype=np.float32),
            "counts": np.zeros((streams, 2), dtype=np.int64),
            **self._model.initial_state(streams),
        }

    def step(self, samples: Array, state: Mapping[str, Array]) -> tuple[Array, Array, State]:
        """Enhance the samples that come next.

        Parameters
        ----------
        samples : float32, shape (streams, samples)
            Full scale is 1.0; any number of them.
        state : dict of arrays
            As the call before gave it; it is not changed.

        Returns
        -------
        enhanced : float32, shape (streams, n)
            What is finished by now: n_fft - hop_length to n_fft samples are still to come.
        treble_gain : float32, shape (streams, n)
            The gain that the mask has for the highest quarter of its bins, in [0, 1]: what to do
            with frequencies over the model's, where a recording has them.
        state : dict of arrays
        """
        front_end, hop = self.front_end, self.front_end.hop_length
        held = np.concatenate([state["samples"], np.asarray(samples, np.float32)], axis=1)
        frames = max(0, (held.shape[1] - front_end.overlap) // hop)
        counts = state["counts"] + np.array([samples.shape[1], frames])
        if frames == 0:
            none = np.zeros((len(held), 0), dtype=np.float32)
            return none, none, {**state, "samples": held, "counts": counts}
        used = held[:, : front_end.overlap + frames * hop]
        enhanced, gain, overlap, after = self._masked(used, state)
        early = min(frames, max(0, front_end.overlap // hop - int(state["counts"][0, 1])))
        left = {"samples": held[:, frames * hop :], "overlap": overlap, "counts": counts}
        return enhanced[:, early * hop :], gain[:, early * hop :], {**after, **left}

    def _masked(
        self, samples: Array, state: Mapping[str, Array]
    ) -> tuple[Array, Array, Array, State]:
        spectrum = spectra(samples, self.front_end)
        own = {name: state[name] for name in self._model.initial_state(1)}
        mask, after = self._model.step(log_magnitudes(spectrum), own)
        frames = np.fft.irfft(spectrum * mask, n=self.front_end.n_fft, axis=2) * self._window
        treble = mask[:, :, int(_TREBLE_SHARE * mask.shape[2]) :].mean(axis=2)
        gains = treble[:, :, None] * self._window**2
        hop, tails = self.front_end.hop_length, state["overlap"]
        enhanced, tail = overlap_add(frames.astype(np.float32), tails[:, 0], hop)
        gain, gain_tail = overlap_add(gains.astype(np.float32), tails[:, 1], hop)
        return enhanced, gain, np.stack([tail, gain_tail], axis=1), after

    def finish(self, state: Mapping[str, Array]) -> tuple[Array, Array]:
        """The samples that are still to come, and their treble gain: as many as were taken."""
        taken, frames = (int(count) for count in state["counts"][0])
        due = taken - max(0, frames * self.front_end.hop_length - self.front_end.overlap)
        silence = np.zeros((len(state["samples"]), 2 * self.front_end.n_fft), dtype=np.float32)
        enhanced, gain, _ = self.step(silence, state)
        return enhanced[:, :due], gain[:, :due]

    def enhance(self, samples: Array) -> tuple[Array, Array]:
        """Whole recordings, (streams, samples): enhanced, and their treble gain."""
        first, gain, state = self.step(samples, self.initial_state(len(samples)))
        last, last_gain = self.finish(state)
        return np.concatenate([first, last], axis=1), np.concatenate([gain, last_gain], axis=1)


def load_enhancer(name: str) -> Enhancer:
    """The enhancer of a shipped model's name or of a checkpoint folder.

    Raises
    ------
    CheckpointError, FrontEndError
        With the folder and what is wrong there.
    """
    folder = find_checkpoint(name, enhancing=True)
    config = read_config(folder)
    if config.get("head") in (None, "recognition"):
        raise CheckpointError(
            f"{folder / CONFIG_FILE}: this model labels, it does not enhance (model_type is "
            f"{config['model_type']!r}); shipped ones that do: "
            f"{', '.join(shipped_models(enhancing=True)) or 'none'}"
        )
    settings = settings_of(config)
    front_end = load_spectrum_front_end(folder)
    if not settings.inputs == settings.outputs == front_end.bins:
        raise CheckpointError(
            f"{folder}: the model masks {settings.outputs} bins, its front end makes "
            f"{front_end.bins}; one of the two files belongs to another model"
        )
    return Enhancer(SequenceModel(load_weights(folder, settings)), front_end)


@functools.lru_cache(maxsize=1)
def load_same_enhancer(model: str, fingerprint: str) -> Enhancer:
    """Load an enhancer that was looked up elsewhere, once in a process.

    Parameters
    ----------
    model : str
        A checkpoint's name or path.
    fingerprint : str
        Of the checkpoint: another one there is refused.

    Raises
    ------
    WorkerError
        If that checkpoint is not on this machine.
    """
    return load_enhancer(str(find_same(model, fingerprint)))
