"""Augmentation: unaugmented crops are labelling's own images, and each step does what it says."""

import dataclasses

import numpy as np
import pytest

from tests.checkpoints import tiny_front_end
from transforms.augment import (
    Augmentation,
    augmented_image,
    crop,
    equalise,
    finish,
    mask,
    mix,
    segment_decibels,
    segment_front_end,
    shift_bands,
)
from transforms.mel import to_image

FRONT_END = tiny_front_end(remove_dc=False)
RATE = FRONT_END.sample_rate_hz


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def sound(seconds, seed=0):
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    tone = 0.4 * np.sin(2 * np.pi * 440 * time) * (1 + np.sin(2 * np.pi * 3 * time))
    return (tone + 0.01 * rng.normal(size=len(time))).astype(np.float32)


def segment(seconds=3.0):
    settings = segment_front_end(FRONT_END, seconds)
    return segment_decibels(to_image(sound(seconds), settings))


def test_a_segment_is_neither_resized_nor_floored():
    settings = segment_front_end(FRONT_END, 3.0)
    assert (settings.image_height, settings.image_width) == (128, 1 + 3 * RATE // 512)
    assert segment().shape == (128, 1 + 3 * RATE // 512)
    assert segment().max() == pytest.approx(0.0, abs=1e-4)


def test_a_crop_without_augmentation_is_what_labelling_sees(rng):
    """Frames inside a segment equal those of the cut samples, but for the cut's own edges."""
    hop, first, frames = FRONT_END.hop_length, 20, 1 + FRONT_END.window_samples // 512
    samples = sound(3.0)
    whole = segment()[:, first : first + frames]
    cut = samples[first * hop : first * hop + FRONT_END.window_samples]
    image, expected = finish(whole, FRONT_END), to_image(cut, FRONT_END)
    inner = slice(4, -4)  # columns of 64 that the edges' zero padding does not reach
    np.testing.assert_allclose(image[:, inner], expected[:, inner], atol=0.02)


def test_crops_come_from_anywhere(rng):
    ramp = np.tile(np.arange(50, dtype=np.float32), (4, 1))
    starts = {int(crop(ramp, 40, rng)[0, 0]) for _ in range(300)}
    assert starts == set(range(11))
    assert np.array_equal(crop(ramp, 50, rng), ramp)


def test_equaliser_is_one_smooth_curve_over_the_bands(rng):
    flat = np.zeros((128, 9), np.float32)
    curve = equalise(flat, 3.0, 6, rng)
    assert np.ptp(curve, axis=1).max() == 0  # the same in every column
    assert curve.std() > 0.5
    knots = np.arange(128) * 5 / 127
    corners = np.abs(np.diff(curve[:, 0], n=2)) > 1e-4
    assert corners.sum() <= 2 * 4  # straight between six knots
    assert knots[0] == 0
    assert np.array_equal(equalise(flat, 0.0, 6, rng), flat)


@pytest.mark.parametrize(
    ("bands", "expected"), [(1, [0, 0, 1, 2]), (-2, [2, 3, 3, 3]), (0, [0, 1, 2, 3])]
)
def test_shift_repeats_the_edge(bands, expected):
    assert shift_bands(np.arange(4.0)[:, None], bands)[:, 0].tolist() == expected


def test_augmented_images_differ_and_repeat_with_the_seed():
    how = Augmentation()
    frames = 1 + FRONT_END.window_samples // 512

    def make(seed):
        return augmented_image(segment(), frames, how, FRONT_END, np.random.default_rng(seed))

    assert np.array_equal(make(1), make(1))
    assert not np.array_equal(make(1), make(2))
    assert make(1).shape == (64, 64)
    assert make(1).dtype == np.float32
    assert -1 - 1e-5 <= make(1).min() < make(1).max() <= 1 + 1e-5


def test_cutmix_takes_a_stretch_of_time_from_another_image(rng):
    batch = np.arange(4, dtype=np.float32)[:, None, None] * np.ones((4, 5, 30), np.float32)
    mixed = mix(batch, Augmentation(cutmix=1.0, mixup=0.0), rng)
    for own, image in enumerate(mixed):
        assert np.ptp(image, axis=0).max() == 0  # whole columns
        assert set(np.unique(image)) <= {0.0, 1.0, 2.0, 3.0}
        changes = np.flatnonzero(np.diff(image[0]))
        assert len(changes) <= 2  # one stretch
        assert own in image[0] or len(changes) == 0
    assert (mixed != batch).any()


def test_mixup_is_a_convex_combination_of_two_images(rng):
    batch = np.eye(6, dtype=np.float32)[:, :, None] * np.ones((6, 6, 3), np.float32)
    mixed = mix(batch, Augmentation(cutmix=0.0, mixup=1.0), rng)
    np.testing.assert_allclose(mixed.sum(axis=1), 1.0, atol=1e-6)
    assert (mixed >= 0).all()
    assert ((mixed[:, :, 0] > 0).sum(axis=1) <= 2).all()
    assert ((mixed > 0) & (mixed < 1)).any()


def test_no_mixing(rng):
    batch = rng.normal(size=(3, 4, 5)).astype(np.float32)
    assert np.array_equal(mix(batch, Augmentation(cutmix=0.0, mixup=0.0), rng), batch)


def test_masks_blank_a_band_and_a_stretch(rng):
    batch = rng.normal(size=(50, 40, 30)).astype(np.float32)
    how = dataclasses.replace(Augmentation(), mask_bands=6, mask_columns=5)
    masked = mask(batch, how, rng)
    changed = masked != batch
    rows, columns = changed.all(axis=2).sum(axis=1), changed.all(axis=1).sum(axis=1)
    assert (rows.max(), columns.max()) == (6, 5)
    assert (rows.min(), columns.min()) == (0, 0)
    for image, own, where in zip(masked, batch, changed, strict=True):
        np.testing.assert_allclose(image[where], own.mean(), atol=1e-6)
    assert not np.array_equal(masked, batch)


def test_masks_are_off_by_default(rng):
    batch = rng.normal(size=(3, 40, 30)).astype(np.float32)
    assert np.array_equal(mask(batch, Augmentation(), rng), batch)


def test_a_quiet_passage_keeps_its_own_range():
    """A crop far under the segment's peak is referred to its own, down to labelling's floor."""
    samples = sound(4.0)
    quiet = samples[: 2 * RATE] * np.float32(0.02)  # 34 dB under what follows
    settings = segment_front_end(FRONT_END, 4.0)
    whole = segment_decibels(to_image(np.concatenate([quiet, samples[2 * RATE :]]), settings))
    inner = slice(4, -6)  # columns that the cut's edges do not reach
    image = finish(whole[:, : 1 + 2 * RATE // 512 - 4], FRONT_END)
    expected = to_image(quiet[: 2 * RATE - 4 * 512], FRONT_END)
    np.testing.assert_allclose(image[:, inner], expected[:, inner], atol=0.02)
