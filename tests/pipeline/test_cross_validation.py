"""Folds that share no artist, a model for each, and what they say about the whole."""

import numpy as np
import pytest

from pipeline.cross_validation import (
    FoldResult,
    calibrate,
    cross_validate,
    out_of_fold_scores,
    pool,
    split_artists,
)
from tests.training_sets import training_set
from transforms.errors import InputError
from transforms.models.vit_training import Trained


def test_tracks_pool_their_windows_by_seconds_of_sound():
    data = training_set([0, 1], [2, 1], content_s=[3.0, 1.0, 1.0])
    windows = np.log(np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]], np.float32))
    found = np.exp(pool(data, np.array([0, 1]), windows))
    first = np.array([0.9**0.75 * 0.2**0.25, 0.1**0.75 * 0.8**0.25])
    np.testing.assert_allclose(found[0], first / first.sum(), rtol=1e-5)
    np.testing.assert_allclose(found[1], [0.3, 0.7], rtol=1e-5)


def test_held_out_tracks_share_no_artist():
    artists = [f"{n // 3}" for n in range(48)]
    data = training_set([n // 24 for n in range(48)], [1] * 48, artists=artists)
    tracks = np.arange(6, 48)
    train, held_out = split_artists(data, tracks, 0.25, seed=1)
    assert sorted([*train, *held_out]) == tracks.tolist()
    assert not {artists[n] for n in train} & {artists[n] for n in held_out}
    assert set(data.truth[held_out]) == {0, 1}
    assert 6 <= len(held_out) <= 15


def fold_result(data, fold, log_probs):
    tracks = np.flatnonzero(data.folds == fold)
    return FoldResult(fold, tracks, Trained(None, 1, {}), np.asarray(log_probs, np.float32))


@pytest.fixture
def folds():
    """200 tracks of one window; right 80 % of the time, and always as sure as 0.99."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 200)
    data = training_set(truth.tolist(), [1] * 200, folds=[n % 2 for n in range(200)])
    said = np.where(np.arange(200) % 10 < 8, truth, 1 - truth)
    scores = np.where(np.arange(2) == said[:, None], 0.99, 0.01)
    results = [fold_result(data, fold, np.log(scores[data.folds == fold])) for fold in (0, 1)]
    return data, results, scores


def test_every_track_is_scored_by_its_own_fold(folds):
    data, results, scores = folds
    np.testing.assert_allclose(out_of_fold_scores(data, results), scores, rtol=1e-5)


def test_temperature_makes_confidence_honest(folds):
    """Right 80 % of the time: the best constant confidence is 0.8."""
    data, results, _ = folds
    temperature, threshold = calibrate(data, results)
    cooled = out_of_fold_scores(data, results, temperature)
    assert cooled.max(axis=1).mean() == pytest.approx(0.8, abs=0.02)
    odds = np.log(0.99 / 0.01) / np.log(0.8 / 0.2)
    assert temperature == pytest.approx(odds, rel=0.05)
    assert threshold == pytest.approx(cooled.max(), rel=1e-5)


class FakeLearner:
    """Notes who is trained on what; its n-th model gives every window 0.1 n and the rest."""

    recipe = None
    seed = 7

    def __init__(self, held_out_share=0.0):
        self.held_out_share = held_out_share
        self.calls = []
        self.names = []

    def fit(self, data, tracks, *, name, seed, held_out=None, stop_after=None):
        assert stop_after is None
        self.calls.append((tracks, held_out, seed))
        self.names.append(name)
        return Trained(len(self.calls), 1, {})

    def log_probs(self, model, data, tracks):
        windows = len(data.chosen(tracks))
        return np.log(np.full((windows, 2), [0.1 * model, 1 - 0.1 * model], np.float32))


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_cross_validation_tests_only_artists_that_were_not_seen(share):
    fake = FakeLearner(share)
    artists = [f"{n // 2}" for n in range(24)]
    folds = [n // 2 % 3 for n in range(24)]
    data = training_set([n // 12 for n in range(24)], [2] * 24, artists=artists, folds=folds)
    results = list(cross_validate(data, fake))
    assert [result.fold for result in results] == [0, 1, 2]
    assert fake.names == ["fold-0", "fold-1", "fold-2"]
    assert sorted(n for result in results for n in result.tracks) == list(range(24))
    for result, (train, held_out, _) in zip(results, fake.calls, strict=True):
        parts = [result.tracks, train, [] if held_out is None else held_out]
        names = [{artists[n] for n in part} for part in parts]
        assert not names[0] & names[1] and not names[0] & names[2] and not names[1] & names[2]
        assert sum(map(len, parts)) == 24
        assert bool(names[2]) == (share > 0)
    assert len({seed for _, _, seed in fake.calls}) == 3
    scores = out_of_fold_scores(data, results)
    np.testing.assert_allclose(scores[:, 0], [0.1 * (fold + 1) for fold in folds], rtol=1e-5)


def test_tracks_without_a_fold_are_trained_on_and_never_tested():
    fake = FakeLearner()
    data = training_set([0, 1] * 4, [1] * 8, folds=[0, 0, 1, 1, -1, -1, 0, 1])
    results = list(cross_validate(data, fake))
    assert [result.tracks.tolist() for result in results] == [[0, 1, 6], [2, 3, 7]]
    assert [train.tolist() for train, _, _ in fake.calls] == [[2, 3, 4, 5, 7], [0, 1, 4, 5, 6]]


def test_tracks_without_a_fold_do_not_calibrate(folds):
    """As many again that no fold has tested change neither temperature nor threshold."""
    data, results, _ = folds
    more = training_set(
        [*data.truth, *data.truth], [1] * 400, folds=[*data.folds.tolist(), *[-1] * 200]
    )
    assert calibrate(more, results) == calibrate(data, results)


def test_a_fold_that_leaves_a_label_without_tracks_ends_it_early():
    fake = FakeLearner()
    data = training_set([0, 0, 1, 1], [1] * 4, folds=[0, 1, 1, 1])
    with pytest.raises(InputError, match="when fold 1 is tested no track of 'b'"):
        list(cross_validate(data, fake))
    assert fake.calls == []


@pytest.mark.parametrize("artists", ["aabbccddeeff", "abcdefghijkl"])
def test_too_small_a_share_to_hold_out(artists):
    data = training_set([0, 1] * 6, [1] * 12, artists=list(artists))
    with pytest.raises(InputError, match=r"held_out_share=0\.1 makes 10 parts.*6 artists"):
        split_artists(data, np.arange(12), 0.1, seed=0)


def brute_force_temperature(data, log_probs, grid):
    """The log-loss of every temperature, written out track by track."""
    losses = []
    for temperature in grid:
        total = 0.0
        for track, label in enumerate(data.truth):
            mine = np.flatnonzero(data.windows.track == track)
            mean = np.zeros(2)
            for window in mine:
                powers = np.exp(log_probs[window].astype(float)) ** (1 / temperature)
                weight = data.windows.content_s[window] / data.windows.content_s[mine].sum()
                mean += weight * np.log(powers / powers.sum())
            total -= mean[label] - np.log(np.exp(mean).sum())
        losses.append(total)
    return grid[int(np.argmin(losses))]


def test_temperature_equals_brute_force():
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 2, 60)
    folds = [n % 3 for n in range(60)]
    data = training_set(truth, [3] * 60, content_s=rng.uniform(0.5, 2, 180), folds=folds)
    logits = rng.normal(0, 4, (180, 2)) + 3 * np.eye(2)[truth[data.windows.track]]
    log_probs = (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)
    owner_fold = data.folds[data.windows.track]
    results = [fold_result(data, fold, log_probs[owner_fold == fold]) for fold in range(3)]
    grid = np.geomspace(0.25, 4.0, 41)
    expected = brute_force_temperature(data, log_probs, grid)
    assert grid[0] < expected < grid[-1]
    assert expected != pytest.approx(1.0)
    assert calibrate(data, results)[0] == pytest.approx(expected)
