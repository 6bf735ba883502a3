"""The parts of a training: windows, splits, pooling, calibration."""

import numpy as np
import pytest
import soundfile as sf

from pipeline.fit import (
    Crops,
    FoldResult,
    Recipe,
    TrainingSet,
    calibrate,
    out_of_fold_scores,
    pool,
    split_artists,
)
from pipeline.prepare import WindowSet, prepare_windows
from tests.audio_files import noise, write_soundfile
from tests.checkpoints import tiny_front_end
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
