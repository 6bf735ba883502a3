"""Augmentation of log-mel segments for training: pure functions, numpy in, numpy out.

They work on decibels in front of the same referencing and resizing that labelling uses
(transforms.mel), so that an augmented image is one that the front end could have made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from transforms.mel import decibels_to_image, refer
from transforms.models.front_end import FrontEnd
from transforms.records import FloatArray

_SEGMENT_TOP_DB = 120.0  # deeper than any front end's floor: a crop is referred to its own peak


@dataclass(frozen=True)
class Augmentation:
    """How strongly to augment; 0 turns a step off."""

    stretch: float = 0.25  # tempo and pitch-free duration change, share of the window
    eq_db: float = 3.0  # deviation of a random equaliser's knots, decibels
    eq_knots: int = 6  # over the mel range
    mel_shift_bands: int = 3  # largest shift up or down, in mel bands
    cutmix: float = 0.2  # share of batches in which a stretch of time comes from another window
    mixup: float = 0.64  # share of batches that are blended with other windows, Beta(1, 1)
    mask_bands: int = 0  # SpecAugment: widest band of frequency that is blanked
    mask_columns: int = 0  # SpecAugment: longest stretch of time that is blanked


def segment_front_end(front_end: FrontEnd, segment_seconds: float) -> FrontEnd:
    """A front end whose images are plain log-mel segments, neither resized nor floored.

    Parameters
    ----------
    front_end : FrontEnd
        The model's.
    segment_seconds : float
        Length of the segments; they follow one another without overlap.
    """
    frames = 1 + round(segment_seconds * front_end.sample_rate_hz) // front_end.hop_length
    return replace(
        front_end,
        top_db=_SEGMENT_TOP_DB,
        image_height=front_end.n_mels,
        image_width=frames,
        window_seconds=segment_seconds,
        hop_seconds=segment_seconds,
        windows="all",
    )


def segment_decibels(images: FloatArray) -> FloatArray:
    """Undo the mapping of a segment front end: images in [-1, 1] to decibels."""
    return (images - np.float32(1.0)) * np.float32(_SEGMENT_TOP_DB / 2)


def crop(decibels: FloatArray, frames: int, rng: np.random.Generator) -> FloatArray:
    """A random stretch of ``frames`` columns of a segment (n_mels, at least as many)."""
    start = int(rng.integers(0, decibels.shape[1] - frames + 1))
    return decibels[:, start : start + frames]


def equalise(
    decibels: FloatArray, amount_db: float, knots: int, rng: np.random.Generator
) -> FloatArray:
    """Add a random piecewise-linear curve over the mel bands."""
    bands = np.linspace(0, knots - 1, len(decibels))
    curve = np.interp(bands, np.arange(knots), rng.normal(0, amount_db, knots))
    return np.asarray(decibels + curve[:, None].astype(np.float32))


def shift_bands(decibels: FloatArray, bands: int) -> FloatArray:
    """Shift up by some mel bands (down if negative), repeating the edge band."""
    source = np.clip(np.arange(len(decibels)) - bands, 0, len(decibels) - 1)
    return decibels[source]


def finish(decibels: FloatArray, front_end: FrontEnd) -> FloatArray:
    """A segment's decibels as the model's image, through labelling's own functions."""
    return decibels_to_image(refer(decibels, front_end), front_end)


def augmented_image(
    segment: FloatArray, frames: int, how: Augmentation, front_end: FrontEnd,
    rng: np.random.Generator,
) -> FloatArray:  # fmt: skip
    """One augmented image of a segment.

    Parameters
    ----------
    segment : float32, shape (n_mels, frames of the segment)
        Decibels.
    frames : int
        Columns to crop; another number than the window's is a change of tempo.
    how : Augmentation
    front_end : FrontEnd
    rng : numpy.random.Generator

    Returns
    -------
    float32, shape (image_height, image_width), in [-1, 1]
    """
    decibels = equalise(crop(segment, frames, rng), how.eq_db, how.eq_knots, rng)
    shift = int(rng.integers(-how.mel_shift_bands, how.mel_shift_bands + 1))
    return finish(shift_bands(decibels, shift), front_end)


def mix(images: FloatArray, how: Augmentation, rng: np.random.Generator) -> FloatArray:
    """Cutmix in time, or mixup, of a batch with itself in another order.

    Parameters
    ----------
    images : float32, shape (images, height, width)
    how : Augmentation
    rng : numpy.random.Generator

    Returns
    -------
    float32, same shape
    """
    others = images[rng.permutation(len(images))]
    draw = rng.random()
    if draw < how.cutmix:
        width = int(rng.integers(1, images.shape[2]))
        start = int(rng.integers(0, images.shape[2] - width + 1))
        images = images.copy()
        images[:, :, start : start + width] = others[:, :, start : start + width]
    elif draw < how.cutmix + how.mixup:
        share = rng.random((len(images), 1, 1), dtype=np.float32)
        images = share * images + (1 - share) * others
    return images


def mask(images: FloatArray, how: Augmentation, rng: np.random.Generator) -> FloatArray:
    """SpecAugment (Park et al., 2019): blank one band and one stretch of time of each image."""
    images = images.copy()
    for image in images:
        bands, columns = rng.integers(0, [how.mask_bands + 1, how.mask_columns + 1])
        band = rng.integers(0, image.shape[0] - bands + 1)
        column = rng.integers(0, image.shape[1] - columns + 1)
        mean = image.mean()
        image[band : band + bands] = mean
        image[:, column : column + columns] = mean
    return images
