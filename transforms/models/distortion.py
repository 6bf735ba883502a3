"""How near an estimate of a signal is to it: the measures of an enhancement."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]

_MOST_DB = 120.0
_SMALLEST = 10 ** (-_MOST_DB / 10)


def si_sdr_db(reference: Array, estimate: Array) -> float:
    """Scale-invariant signal-to-distortion ratio, decibels.

    Le Roux et al. (2019), "SDR: half-baked or well done?", equation 3, without removing means.

    Parameters
    ----------
    reference, estimate : float, shape (samples,)
        The signal, which must not be silence, and what was made of it.

    Returns
    -------
    float
        120 for an estimate that is the signal at any scale, -120 for one that has nothing of it
        or is silence.

    Raises
    ------
    ValueError
        If the shapes differ or the reference is silence.
    """
    reference, estimate = (np.asarray(x, dtype=np.float64) for x in (reference, estimate))
    if reference.shape != estimate.shape or reference.ndim != 1:
        raise ValueError(f"reference {reference.shape} and estimate {estimate.shape} do not fit")
    energy = float(reference @ reference)
    if energy == 0:
        raise ValueError("the reference is silence")
    loudest = float(np.abs(estimate).max())
    if loudest == 0:
        return -_MOST_DB
    estimate = estimate / loudest  # else the squares of a very quiet one would vanish
    target = (float(estimate @ reference) / energy) * reference
    distortion = estimate - target
    signal_db, distortion_db = (
        10 * np.log10(max(float(part @ part) / float(estimate @ estimate), _SMALLEST))
        for part in (target, distortion)
    )
    return float(signal_db - distortion_db)


def energy_loss_db(reference: Array, estimate: Array) -> float:
    """How much quieter the estimate is than the reference, decibels of energy."""
    energies = (float(np.sum(np.square(x, dtype=np.float64))) for x in (reference, estimate))
    before, after = (max(energy, _SMALLEST) for energy in energies)
    return float(10 * np.log10(before / after))
