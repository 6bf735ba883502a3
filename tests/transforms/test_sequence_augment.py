"""Augmentation of sequences, step by step on sequences of which the answer is known."""

import dataclasses

import numpy as np
import pytest

from transforms.sequence_augment import (
    SequenceAugmentation,
    augmented_batch,
    pad_sequences,
    trimmed,
)

NOTHING = SequenceAugmentation(
    stretch=0.0, warp=0.0, eq_db=0.0, gain_db=0.0, noise=0.0, trim=0.0, pad_frames=0,
    mask_bands=0, mask_frames=0,
)  # fmt: skip
FLOOR_DB = -80.0
BANDS = 20


def augment(sequences, seed=0, **changes):
    how = dataclasses.replace(NOTHING, **changes)
    return augmented_batch(sequences, how, FLOOR_DB, np.random.default_rng(seed))


def random_sequences(lengths=(30, 1, 17), seed=0):
    rng = np.random.default_rng(seed)
    return [rng.uniform(-70, 0, (length, BANDS)).astype(np.float32) for length in lengths]


def flat(frames, db=-20.0):
    return np.full((frames, BANDS), db, np.float32)


def test_padding():
    sequences = random_sequences()
    batch, lengths = pad_sequences(sequences, -1.0)
    assert batch.shape == (3, 30, BANDS)
    assert lengths.tolist() == [30, 1, 17]
    for row, sequence in zip(batch, sequences, strict=True):
        np.testing.assert_array_equal(row[: len(sequence)], sequence)
        assert (row[len(sequence) :] == -1.0).all()


def test_nothing_is_the_identity():
    sequences = random_sequences()
    batch, lengths = augment(sequences)
    expected, expected_lengths = pad_sequences(sequences, FLOOR_DB)
    assert batch.dtype == np.float32
    np.testing.assert_allclose(batch, expected, atol=1e-3)
    assert lengths.tolist() == expected_lengths.tolist()


def test_what_is_under_the_floor_is_raised_to_it():
    batch, _ = augment([flat(5, -200.0), flat(7, -79.0)])
    assert (batch[0] == FLOOR_DB).all()
    np.testing.assert_allclose(batch[1], -79.0, atol=1e-3)


def test_arguments_are_left_alone():
    sequences = random_sequences()
    copies = [sequence.copy() for sequence in sequences]
    augmented_batch(sequences, SequenceAugmentation(), FLOOR_DB, np.random.default_rng(0))
    for sequence, copy in zip(sequences, copies, strict=True):
        np.testing.assert_array_equal(sequence, copy)


@pytest.mark.parametrize("seed", range(5))
def test_a_stretched_ramp_has_another_slope(seed):
    """Frame n says n - 60: at another tempo neighbours differ by that tempo."""
    ramp = np.repeat(np.arange(50, dtype=np.float32)[:, None] - 60, BANDS, axis=1)
    batch, lengths = augment([ramp] * 8, seed, stretch=0.4)
    slopes = []
    for row, length in zip(batch, lengths, strict=True):
        slope = row[1, 0] - row[0, 0]
        expected = np.minimum(-60 + slope * np.arange(length), -11)
        np.testing.assert_allclose(row[:length], np.repeat(expected[:, None], BANDS, 1), atol=1e-2)
        assert length == pytest.approx(50 / slope, abs=1.001)
        assert (row[length:] == FLOOR_DB).all()
        slopes.append(slope)
    assert np.exp(-0.4) - 1e-3 < min(slopes) < 1 < max(slopes) < np.exp(0.4) + 1e-3


def test_silence_on_either_side():
    batch, lengths = augment([flat(10)] * 200, pad_frames=3)
    sounding = batch[:, :, 0] > FLOOR_DB
    assert (sounding.sum(axis=1) == 10).all()
    before = sounding.argmax(axis=1)
    after = lengths - before - 10
    assert set(before) == set(after) == {0, 1, 2, 3}
    for row, start in zip(sounding, before, strict=True):
        assert row[start : start + 10].all()


def test_a_warped_ramp_over_the_bands():
    """Band n says n - 60: warped by w it says w n - 60, up to the last band."""
    ramp = np.repeat(np.arange(BANDS, dtype=np.float32)[None] - 60, 6, axis=0)
    batch, lengths = augment([ramp] * 50, warp=0.3)
    assert (lengths == 6).all()
    factors = batch[:, 0, 1] + 60
    for row, factor in zip(batch, factors, strict=True):
        expected = np.minimum(factor * np.arange(BANDS), BANDS - 1) - 60
        np.testing.assert_allclose(row, np.repeat(expected[None], 6, 0), atol=1e-2)
    assert np.exp(-0.3) - 1e-3 < factors.min() < 0.9 < 1.1 < factors.max() < np.exp(0.3) + 1e-3


def test_an_equaliser_is_steady_and_its_own_for_each():
    sequences = [np.maximum(s, -40) for s in random_sequences([9] * 300)]
    batch, _ = augment(sequences, eq_db=4.0)
    curves = batch - np.stack(sequences)
    np.testing.assert_allclose(curves, np.repeat(curves[:, :1], 9, axis=1), atol=1e-3)
    assert curves[:, 0, [0, -1]].std() == pytest.approx(4.0, rel=0.15)  # the knots at both ends
    assert abs(curves.mean()) < 0.3
    assert np.ptp(curves[0, 0]) > 0.5


def test_gain_moves_everything_alike():
    batch, _ = augment([flat(4)] * 200, gain_db=15.0)
    gains = batch[:, 0, 0] + 20
    np.testing.assert_allclose(batch, np.broadcast_to(gains[:, None, None] - 20, batch.shape))
    assert -15 <= gains.min() < -13 and 13 < gains.max() <= 15


def impulse(frames=120):
    """One frame at 0 dB in silence, which shows a noise floor alone."""
    sequence = flat(frames, -120.0)
    sequence[frames // 2] = 0.0
    return sequence


def test_a_noise_floor_lies_as_far_under_the_peaks_as_asked_for():
    """Its power is exponentially distributed: its mean over the frames is the level."""
    batch, _ = augment([impulse()] * 300, noise=1.0, noise_under_db=(20.0, 20.0))
    quiet = np.delete(batch, 60, axis=1).astype(np.float64)
    power = 10 ** (quiet / 10)
    levels = 10 * np.log10(power.mean(axis=1))  # a curve over the bands for each
    assert levels.mean() == pytest.approx(-20, abs=0.7)
    assert levels[:, [0, -1]].std() == pytest.approx(6.0, rel=0.15)
    ratio = power / power.mean(axis=1, keepdims=True)
    assert np.mean(ratio < np.log(2)) == pytest.approx(0.5, abs=0.01)  # an exponential's median
    np.testing.assert_allclose(batch[:, 60].mean(), 0.0, atol=0.5)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_the_sequences_gets_a_noise_floor(share):
    batch, _ = augment([impulse(20)] * 400, noise=share, noise_under_db=(10.0, 30.0))
    noisy = (batch[:, 0] > FLOOR_DB).any(axis=1)
    assert noisy.mean() == pytest.approx(share, abs=0.07)


def ladder():
    """Frames at -50, -30, -10, 0, -10, -60, -10, -30, -50 dB in their loudest band."""
    levels = np.array([-50, -30, -10, 0, -10, -60, -10, -30, -50], np.float32)
    sequence = flat(9, -75.0)
    sequence[:, 3] = levels
    return sequence


@pytest.mark.parametrize(
    ("under_db", "kept"), [(60, (0, 9)), (40, (1, 8)), (10, (2, 7)), (5, (3, 4))]
)
def test_quiet_edges_are_cut_off(under_db, kept):
    """What is quiet inside stays."""
    np.testing.assert_array_equal(trimmed(ladder(), under_db), ladder()[slice(*kept)])


def test_a_share_of_the_sequences_is_trimmed():
    _, lengths = augment([ladder()] * 400, trim=0.5, trim_under_db=(12.0, 28.0))
    assert set(lengths) == {9, 5}
    assert np.mean(lengths == 5) == pytest.approx(0.5, abs=0.07)


def test_steady_sound_and_silence_are_not_trimmed():
    for sequence in (flat(6), flat(6, -200.0), flat(1)):
        assert len(trimmed(sequence, 12.0)) == len(sequence)


@pytest.mark.parametrize(("name", "axis"), [("mask_bands", 2), ("mask_frames", 1)])
def test_one_stretch_is_blanked_with_the_mean(name, axis):
    """At most as wide as asked for, and as a fifth of what there is."""
    sequences = random_sequences([40] * 300, 1)
    batch, lengths = augment(sequences, **{name: 6})
    assert (lengths == 40).all()
    across = 3 - axis
    blanked = (np.abs(batch - np.stack(sequences)) > 0.05).mean(axis=across) > 0.8
    widths = blanked.sum(axis=1)
    assert set(widths) == set(range(0, min(6, batch.shape[axis] // 5) + 1))
    for row, columns, sequence in zip(batch, blanked, sequences, strict=True):
        assert np.diff(columns.astype(int)).clip(0).sum() + columns[0] <= 1  # one stretch
        values = row.compress(columns, axis=axis - 1)
        np.testing.assert_allclose(values, sequence.mean(), atol=0.05)


def test_no_frame_behind_the_end_is_blanked():
    batch, lengths = augment([flat(10), flat(60)] * 50, mask_frames=30)
    for row, length in zip(batch, lengths, strict=True):
        assert (row[length:] == FLOOR_DB).all()


def test_five_frames_lose_one_at_most():
    batch, _ = augment(random_sequences([5] * 100), mask_frames=6)
    changed = np.abs(batch - np.stack(random_sequences([5] * 100))) > 0.05
    assert (changed.mean(axis=2) > 0.8).sum(axis=1).max() == 1


@pytest.mark.parametrize("lengths", [(1,), (1, 1, 1), (2, 1), (25,), (3, 60)])
def test_everything_at_once(lengths):
    """Of one frame, of one sequence, silent or not: the same for a seed, and finite."""
    sequences = [*random_sequences(lengths), flat(4, -200.0)]
    for seed in range(30):
        found, again = (
            augmented_batch(
                sequences, SequenceAugmentation(), FLOOR_DB, np.random.default_rng(seed)
            )
            for _ in range(2)
        )
        np.testing.assert_array_equal(found[0], again[0])
        batch, new_lengths = found
        assert batch.dtype == np.float32
        assert np.isfinite(batch).all()
        assert batch.min() >= FLOOR_DB
        assert batch.shape == (len(sequences), new_lengths.max(), BANDS)
        assert new_lengths.min() >= 1


def test_seeds_differ():
    first, second = (
        augmented_batch(
            [flat(20)], SequenceAugmentation(), FLOOR_DB, np.random.default_rng(seed)
        )[0]
        for seed in (1, 2)
    )
    assert first.shape != second.shape or not np.allclose(first, second)
