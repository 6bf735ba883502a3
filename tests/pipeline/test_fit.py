"""The parts of a training: windows, splits, pooling, calibration."""

import numpy as np
import pytest
import soundfile as sf

from pipeline import fit as fit_module
from pipeline import prepare
from pipeline.fit import (
    Crops,
    FoldResult,
    Recipe,
    TrainingSet,
    calibrate,
    cross_validate,
    load_training_set,
    out_of_fold_scores,
    pool,
    split_artists,
)
from pipeline.labelled import LabelledTrack
from pipeline.prepare import WindowSet, prepare_windows
from tests.audio_files import noise, write_soundfile
from tests.checkpoints import tiny_front_end
from transforms.augment import finish, segment_decibels
from transforms.errors import InputError
from transforms.mel import to_image
from transforms.models.vit_training import Trained

FRONT_END = tiny_front_end(remove_dc=False)
RATE_HZ = FRONT_END.sample_rate_hz


def training_set(truth, windows_of, content_s=None, artists=None, folds=None):
    """Tracks with so many windows each; images are of no interest."""
    owner = np.repeat(np.arange(len(truth)), windows_of)
    contents = np.ones(len(owner)) if content_s is None else np.array(content_s)
    windows = WindowSet(np.zeros((len(owner), 2, 2), np.float32), owner, contents, {})
    return TrainingSet(
        labels=("a", "b"),
        truth=np.array(truth),
        artists=tuple(artists or map(str, range(len(truth)))),
        folds=np.array(folds or [0] * len(truth)),
        segments=[],
        windows=windows,
    )


def test_prepared_windows_are_what_the_stages_make(tmp_path):
    long, short, silent = (tmp_path / f"{name}.flac" for name in ("long", "short", "silent"))
    write_soundfile(long, noise(5.0, RATE_HZ, 1, 1), RATE_HZ, "FLAC", "PCM_16")
    write_soundfile(short, noise(1.0, RATE_HZ, 1, 2), RATE_HZ, "FLAC", "PCM_16")
    write_soundfile(silent, 0 * noise(1.0, RATE_HZ, 1, 3), RATE_HZ, "FLAC", "PCM_16")
    missing = str(tmp_path / "missing.flac")
    uris = [missing, str(short), str(silent), str(long)]
    found = prepare_windows(uris, FRONT_END, workers=1)
    assert found.track.tolist() == [1, 3, 3, 3]
    np.testing.assert_allclose(found.content_s, [1, 2, 2, 1], atol=1e-6)
    assert list(found.failures) == [missing]
    assert found.failures[missing].startswith("not_found")
    samples, _ = sf.read(long, dtype="float32")
    size = FRONT_END.window_samples
    for index, image in enumerate(found.images[1:3]):
        expected = to_image(samples[index * size : (index + 1) * size], FRONT_END)
        np.testing.assert_allclose(image, expected, atol=1e-5)


def test_half_precision_is_close(tmp_path):
    path = tmp_path / "a.flac"
    write_soundfile(path, noise(2.0, RATE_HZ, 1, 1), RATE_HZ, "FLAC", "PCM_16")
    full, half = (
        prepare_windows([str(path)], FRONT_END, workers=1, dtype=dtype).images
        for dtype in ("float32", "float16")
    )
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, full, atol=1e-3)


def test_tracks_pool_their_windows_by_seconds_of_sound():
    data = training_set([0, 1], [2, 1], content_s=[3.0, 1.0, 1.0])
    windows = np.log(np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]], np.float32))
    found = np.exp(pool(data, np.array([0, 1]), np.array([0, 0, 1]), windows))
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


def test_crops_and_batches():
    rng = np.random.default_rng(0)
    recipe = Recipe(front_end=FRONT_END, batch_size=5, teacher_passes=2)
    frames = recipe.frames(recipe.augmentation.stretch)
    data = training_set([0, 1, 0, 1], [1] * 4)
    for _ in range(4):
        data.segments.append([rng.uniform(-1, 1, (128, frames)).astype(np.float16)])
    crops = Crops(data, np.arange(4), recipe, rng)
    batch = next(crops.batches(crops.fit_teacher()))
    assert batch.images.shape == (5, 64, 64)
    assert (batch.images.dtype, batch.targets.dtype) == (np.float32, np.float32)
    np.testing.assert_allclose(batch.targets.sum(axis=1), 1, atol=1e-5)
    assert batch.statistics.shape == (5, 250)
    assert np.isfinite(batch.statistics).all()


def test_frames_of_a_stretched_window():
    recipe = Recipe(front_end=FRONT_END)
    assert recipe.frames() == 1 + 2 * RATE_HZ // 512
    assert recipe.frames(0.25) == 1 + int(2.5 * RATE_HZ) // 512


@pytest.fixture
def one_worker(monkeypatch):
    """In this process, which saves the start of others."""
    monkeypatch.setattr(prepare, "available_cores", lambda: 1)


@pytest.mark.usefixtures("one_worker")
def test_a_training_set_has_windows_and_segments(tmp_path):
    """A segment's beginning is the first window; a short track keeps its padding."""
    for name, seconds in (("long", 33.0), ("short", 1.0)):
        samples = noise(seconds, RATE_HZ, 1, 1)
        write_soundfile(tmp_path / f"{name}.flac", samples, RATE_HZ, "FLAC", "PCM_16")
    recipe = Recipe(front_end=FRONT_END)
    tracks = [LabelledTrack(str(tmp_path / "long.flac"), "pop", "A", 1),
              LabelledTrack(str(tmp_path / "short.flac"), "folk", "B")]  # fmt: skip
    data = load_training_set(tracks, recipe)
    assert (data.labels, data.artists) == (("folk", "pop"), ("A", "B"))
    assert (data.truth.tolist(), data.folds.tolist()) == ([1, 0], [1, -1])
    assert data.windows.track.tolist() == [0] * 17 + [1]
    lengths = [[segment.shape for segment in segments] for segments in data.segments]
    held = [int(seconds * RATE_HZ / 512) for seconds in (30.0, 3.0)]
    assert lengths == [[(128, n) for n in held], [(128, recipe.frames(0.25))]]
    begin = segment_decibels(data.segments[0][0][:, : recipe.frames()].astype(np.float32))
    image, expected = finish(begin, FRONT_END), data.windows.images[0]
    np.testing.assert_allclose(image[:, :-4], expected[:, :-4], atol=0.02)


@pytest.mark.usefixtures("one_worker")
@pytest.mark.parametrize("kind", ["silent", "broken"])
def test_tracks_that_cannot_be_trained_on(tmp_path, kind):
    path = tmp_path / "bad.flac"
    if kind == "silent":
        write_soundfile(path, 0 * noise(1.0, RATE_HZ, 1), RATE_HZ, "FLAC", "PCM_16")
    else:
        path.write_text("no music")
    message = {"silent": "only silence", "broken": "not_audio"}[kind]
    with pytest.raises(InputError, match=rf"bad\.flac: {message}.*remove it.*1 such"):
        load_training_set([LabelledTrack(str(path), "pop", "A")], Recipe(front_end=FRONT_END))


class FakeTraining:
    """Takes the place of fit and of the model: notes who was trained on what."""

    def __init__(self, monkeypatch):
        self.calls = []
        monkeypatch.setattr(fit_module, "fit", self.fit)
        monkeypatch.setattr(fit_module, "log_probabilities", self.log_probabilities)

    def fit(self, data, tracks, recipe, *, held_out=None):
        self.calls.append((tracks, held_out, recipe.seed))
        return Trained(len(self.calls), 1, {})

    def log_probabilities(self, model, images):
        return np.log(np.full((len(images), 2), [0.1 * model, 1 - 0.1 * model], np.float32))


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_cross_validation_tests_only_artists_that_were_not_seen(monkeypatch, share):
    fake = FakeTraining(monkeypatch)
    artists = [f"{n // 2}" for n in range(24)]
    folds = [n // 2 % 3 for n in range(24)]
    data = training_set([n // 12 for n in range(24)], [2] * 24, artists=artists, folds=folds)
    results = list(cross_validate(data, Recipe(front_end=FRONT_END, held_out_share=share)))
    assert [result.fold for result in results] == [0, 1, 2]
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


def test_a_fold_that_leaves_a_label_without_tracks_ends_it_early(monkeypatch):
    fake = FakeTraining(monkeypatch)
    data = training_set([0, 0, 1, 1], [1] * 4, folds=[0, 1, 1, 1])
    with pytest.raises(InputError, match="when fold 1 is tested no track of 'b'"):
        list(cross_validate(data, Recipe(front_end=FRONT_END)))
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
