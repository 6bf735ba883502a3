"""How near an estimate of a signal is to it: the measures of an enhancement."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]

_SMALLEST = 1e-12


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
        At most 120 for an estimate that is the signal at any scale.

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
    target = (float(estimate @ reference) / energy) * reference
    distortion = estimate - target
    signal = float(target @ target)
    return float(
        10 * np.log10(max(signal, _SMALLEST * energy))
        - 10 * np.log10(max(float(distortion @ distortion), _SMALLEST * max(signal, 1e-300)))
    )


def energy_loss_db(reference: Array, estimate: Array) -> float:
    """How much quieter the estimate is than the reference, decibels of energy."""
    energies = (float(np.sum(np.square(x, dtype=np.float64))) for x in (reference, estimate))
    before, after = (max(energy, _SMALLEST) for energy in energies)
    return float(10 * np.log10(before / after))
