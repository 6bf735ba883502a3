"""Augmentation of batches of log-mel sequences of any length: pure functions on numpy arrays.

Tempo and pitch (a warp of the mel scale, which stands for another vocal tract or tuning), level,
an equaliser, a steady noise floor, blanks (SpecAugment) and silence around: what differs from one
speaker, room and microphone to the next, and must not change the label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from transforms.records import FloatArray

_SILENCE_DB = -140.0
_KNOTS = 6  # of an equaliser's curve over the mel range


@dataclass(frozen=True, kw_only=True)
class SequenceAugmentation:
    """How strongly to augment; 0 turns a step off."""

    stretch: float = 0.2  # largest change of tempo, natural logarithm
    warp: float = 0.15  # largest warp of the mel scale, natural logarithm
    eq_db: float = 4.0  # deviation of a random equaliser's knots
    gain_db: float = 15.0  # largest change of level
    noise: float = 0.5  # share of the sequences that get a noise floor
    noise_under_db: tuple[float, float] = (5.0, 40.0)  # its distance under the bands' peaks
    trim: float = 0.5  # share of the sequences whose quiet edges are cut off
    trim_under_db: tuple[float, float] = (12.0, 50.0)  # range of what is quiet, under the loudest
    pad_frames: int = 12  # most frames of silence on either side
    mask_bands: int = 6  # SpecAugment: widest band that is blanked
    mask_frames: int = 6  # SpecAugment: longest stretch that is blanked


def pad_sequences(
    sequences: Sequence[FloatArray], fill: float
) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Sequences as one array.

    Parameters
    ----------
    sequences : sequence of float32, shape (frames, bands) each
    fill : float
        What stands behind the end of the shorter ones.

    Returns
    -------
    batch : float32, shape (sequences, most frames, bands)
    lengths : int64, shape (sequences,)
    """
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    batch = np.full((len(sequences), lengths.max(), sequences[0].shape[1]), fill, np.float32)
    for row, sequence in zip(batch, sequences, strict=True):
        row[: len(sequence)] = sequence
    return batch, lengths


def trimmed(sequence: FloatArray, under_db: float) -> FloatArray:
    """Cut off both edges that stay ``under_db`` under the loudest frame (frames, bands)."""
    loudness = sequence.max(axis=1)
    (kept,) = np.nonzero(loudness >= loudness.max() - under_db)
    return sequence[kept[0] : kept[-1] + 1]


def _trimmed_some(
    sequences: Sequence[FloatArray], how: SequenceAugmentation, rng: np.random.Generator
) -> list[FloatArray]:
    """Cut recordings as other people cut them: whoever trims silence may trim a consonant."""
    chosen = rng.random(len(sequences)) < how.trim
    limits = rng.uniform(*how.trim_under_db, len(sequences))
    return [
        trimmed(sequence, limit) if cut else sequence
        for sequence, cut, limit in zip(sequences, chosen, limits, strict=True)
    ]


def _between(values: FloatArray, positions: npt.NDArray[np.floating]) -> FloatArray:
    """Linear interpolation along axis 1 at positions (rows, n), clamped at the ends."""
    positions = np.clip(positions, 0, values.shape[1] - 1)
    below = np.minimum(positions.astype(np.int64), max(0, values.shape[1] - 2))
    share = (positions - below).astype(np.float32)[:, :, None]
    above = np.minimum(below + 1, values.shape[1] - 1)
    low = np.take_along_axis(values, below[:, :, None], axis=1)
    high = np.take_along_axis(values, above[:, :, None], axis=1)
    return np.asarray(low + share * (high - low))


def _stretched(
    batch: FloatArray,
    lengths: npt.NDArray[np.int64],
    how: SequenceAugmentation,
    rng: np.random.Generator,
) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Change tempo and add silence on either side."""
    rates = np.exp(rng.uniform(-how.stretch, how.stretch, len(batch)))
    before, after = rng.integers(0, how.pad_frames + 1, (2, len(batch)))
    sounding = np.maximum(1, (lengths / rates).astype(np.int64))
    new_lengths = before + sounding + after
    frames = np.arange(new_lengths.max(), dtype=np.float64)[None] - before[:, None]
    inside = (frames >= 0) & (frames < sounding[:, None])
    positions = np.minimum(frames * rates[:, None], lengths[:, None] - 1.0)
    moved = _between(batch, positions)
    return np.where(inside[:, :, None], moved, np.float32(_SILENCE_DB)), new_lengths


def _curves(rows: int, bands: int, amount_db: float, rng: np.random.Generator) -> FloatArray:
    """Random piecewise-linear curves over the bands, (rows, 1, bands)."""
    places = np.linspace(0, _KNOTS - 1, bands)
    tents = np.maximum(0, 1 - np.abs(places[None] - np.arange(_KNOTS)[:, None]))
    curves = rng.normal(0, amount_db, (rows, _KNOTS)) @ tents
    return np.asarray(curves[:, None], dtype=np.float32)


def _with_floor(
    decibels: FloatArray, how: SequenceAugmentation, rng: np.random.Generator
) -> FloatArray:
    """Add the power of a steady noise, each bin of it exponentially distributed."""
    rows, _, bands = decibels.shape
    level = decibels.max(axis=1, keepdims=True).mean(axis=2, keepdims=True)
    level = level - rng.uniform(*how.noise_under_db, (rows, 1, 1)) + _curves(rows, bands, 6.0, rng)
    level[rng.random(rows) >= how.noise] = _SILENCE_DB
    power = 10 ** (level / 10) * rng.standard_exponential(decibels.shape, dtype=np.float32)
    return np.asarray(10 * np.log10(10 ** (decibels / 10) + power + 1e-16), dtype=np.float32)


def _blanked(
    values: FloatArray, axis: int, most: int, room: npt.NDArray[np.int64], rng: np.random.Generator
) -> FloatArray:
    """Set one stretch of each row to the row's mean; at most a fifth of its ``room``."""
    widths = np.minimum(rng.integers(0, most + 1, len(values)), room // 5)
    starts = (rng.random(len(values)) * (room - widths + 1)).astype(np.int64)
    places = np.arange(values.shape[axis])[None]
    inside = (places >= starts[:, None]) & (places < (starts + widths)[:, None])
    inside = inside[:, :, None] if axis == 1 else inside[:, None]
    return np.where(inside, values.mean(axis=(1, 2), keepdims=True), values)


def augmented_batch(
    sequences: Sequence[FloatArray],
    how: SequenceAugmentation,
    floor_db: float,
    rng: np.random.Generator,
) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Augment sequences and pad them to one array.

    Parameters
    ----------
    sequences : sequence of float32, shape (frames, bands) each
        Log-mel spectrograms, decibels of full scale.
    how : SequenceAugmentation
    floor_db : float
        The front end's floor (minus its top_db), to which everything lower is raised.
    rng : numpy.random.Generator

    Returns
    -------
    batch : float32, shape (sequences, most frames, bands)
        Decibels.
    lengths : int64, shape (sequences,)
    """
    batch, lengths = pad_sequences(_trimmed_some(sequences, how, rng), floor_db)
    batch, lengths = _stretched(batch, lengths, how, rng)
    rows, _, bands = batch.shape
    warps = np.exp(rng.uniform(-how.warp, how.warp, (rows, 1)))
    places = np.arange(bands, dtype=np.float64)[None] * warps
    batch = _between(batch.transpose(0, 2, 1), places).transpose(0, 2, 1)
    batch = _with_floor(batch + _curves(rows, bands, how.eq_db, rng), how, rng)
    gains = rng.uniform(-how.gain_db, how.gain_db, (rows, 1, 1))
    batch = np.maximum(batch + gains, floor_db).astype(np.float32)
    batch = _blanked(batch, 2, how.mask_bands, np.full(rows, bands), rng)
    batch = _blanked(batch, 1, how.mask_frames, lengths, rng)
    return batch.astype(np.float32), lengths
