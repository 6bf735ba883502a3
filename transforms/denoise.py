"""Denoising by a model: an enhancer on the windows of a front end at another rate.

A window is enhanced alone, from the enhancer's zero state, so that it does not depend on how many
windows of its track are labelled, or on which worker had the one before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from transforms.errors import CheckpointError, FrontEndError
from transforms.models.checkpoint import find_checkpoint, fingerprint_of, name_of
from transforms.models.enhancer import Enhancer, load_enhancer, load_same_enhancer
from transforms.models.front_end import DENOISE_METHODS
from transforms.records import FloatArray
from transforms.samples import resample, without_noise

_PIECE_SECONDS = 4


@dataclass(frozen=True)
class Denoiser:
    """An enhancer's checkpoint, as it travels to where it works."""

    model: str  # its path, or a shipped model's name
    fingerprint: str

    @property
    def setting(self) -> str:
        """The value of ``FrontEnd.denoise`` that stands for it, wherever the checkpoint lies."""
        return f"model:{self.fingerprint}"

    def load(self) -> Enhancer:
        """The enhancer, loaded once in a process.

        Raises
        ------
        WorkerError
            If it is not on this machine.
        """
        return load_same_enhancer(self.model, self.fingerprint)


def find_denoiser(denoise: str | None) -> Denoiser | None:
    """The enhancer that ``--denoise`` gives; None where it is a method, or not given.

    Raises
    ------
    FrontEndError, CheckpointError
        If there is no such checkpoint, or it does not enhance.
    """
    if denoise is None or denoise in DENOISE_METHODS:
        return None
    try:
        folder = find_checkpoint(denoise)
    except CheckpointError as error:
        raise FrontEndError(
            f"--denoise={denoise}: neither {' nor '.join(DENOISE_METHODS)}, and no checkpoint of "
            "an enhancer"
        ) from error
    load_enhancer(str(folder))
    return Denoiser(name_of(folder), fingerprint_of(folder))


def enhanced_window(samples: FloatArray, rate_hz: int, enhancer: Enhancer) -> FloatArray:
    """A window without what the enhancer takes for noise.

    The noise is resampled and taken out, not the sound: what lies over the enhancer's own rate
    stays, with the gain of the highest frequencies that it hears, and a mask of one changes
    nothing.

    Parameters
    ----------
    samples : float32, shape (samples,)
    rate_hz : int
        Their sample rate.
    enhancer : Enhancer

    Returns
    -------
    float32, same shape
    """
    model_hz = enhancer.front_end.sample_rate_hz
    low = resample(samples, rate_hz, model_hz)
    if not len(low) or not samples.any():
        return samples
    enhanced, treble_gain = _enhanced(low, enhancer)
    noise, heard, cut = (
        _fitted(resample(part, model_hz, rate_hz), len(samples))
        for part in (low - enhanced, low, 1 - treble_gain)
    )
    return without_noise(samples, noise, heard, cut)


def _enhanced(low: FloatArray, enhancer: Enhancer) -> tuple[FloatArray, FloatArray]:
    """A window at the enhancer's rate, enhanced, and its treble gain.

    In pieces: the spectra of a long window take many times the memory of its samples.
    """
    state, size = enhancer.initial_state(), _PIECE_SECONDS * enhancer.front_end.sample_rate_hz
    parts = []
    for start in range(0, len(low), size):
        *part, state = enhancer.step(low[None, start : start + size], state)
        parts.append(part)
    parts.append([*enhancer.finish(state)])
    enhanced, treble_gain = (
        np.concatenate([part[0] for part in of_all]) for of_all in zip(*parts, strict=True)
    )
    return enhanced, treble_gain


def _fitted(samples: FloatArray, length: int) -> FloatArray:
    """Rounding may make what was resampled there and back a sample longer or shorter."""
    return np.pad(samples, (0, max(0, length - len(samples))))[:length]
