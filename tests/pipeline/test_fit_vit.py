"""The ViT's training: what it crops from, and the batches that it learns from."""

import numpy as np
import pytest

from pipeline.fit_vit import Crops, Recipe, load_training_set
from pipeline.labelled import LabelledTrack
from pipeline.prepare import Shards
from pipeline.runner import run_locally
from tests.audio_files import noise, write_soundfile
from tests.checkpoints import tiny_front_end
from tests.training_sets import training_set
from transforms.augment import finish, segment_decibels
from transforms.errors import InputError

FRONT_END = tiny_front_end(remove_dc=False)
RATE_HZ = FRONT_END.sample_rate_hz


def here(build):
    """In this process, which saves the start of others."""
    run_locally(build, 1)


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


def test_a_training_set_has_windows_and_segments(tmp_path):
    """A segment's beginning is the first window; a short track keeps its padding."""
    for name, seconds in (("long", 33.0), ("short", 1.0)):
        samples = noise(seconds, RATE_HZ, 1, 1)
        write_soundfile(tmp_path / f"{name}.flac", samples, RATE_HZ, "FLAC", "PCM_16")
    recipe = Recipe(front_end=FRONT_END)
    tracks = [LabelledTrack(str(tmp_path / "long.flac"), "pop", "A", 1),
              LabelledTrack(str(tmp_path / "short.flac"), "folk", "B")]  # fmt: skip
    data = load_training_set(tracks, recipe, Shards(tmp_path / "shards", here))
    assert (data.labels, data.artists) == (("folk", "pop"), ("A", "B"))
    assert (data.truth.tolist(), data.folds.tolist()) == ([1, 0], [1, -1])
    assert data.windows.track.tolist() == [0] * 17 + [1]
    lengths = [[segment.shape for segment in segments] for segments in data.segments]
    held = [int(seconds * RATE_HZ / 512) for seconds in (30.0, 3.0)]
    assert lengths == [[(128, n) for n in held], [(128, recipe.frames(0.25))]]
    begin = segment_decibels(data.segments[0][0][:, : recipe.frames()].astype(np.float32))
    image, expected = finish(begin, FRONT_END), data.windows.images[0]
    np.testing.assert_allclose(image[:, :-4], expected[:, :-4], atol=0.02)


@pytest.mark.parametrize("kind", ["silent", "broken"])
def test_tracks_that_cannot_be_trained_on(tmp_path, kind):
    path = tmp_path / "bad.flac"
    if kind == "silent":
        write_soundfile(path, 0 * noise(1.0, RATE_HZ, 1), RATE_HZ, "FLAC", "PCM_16")
    else:
        path.write_text("no music")
    message = {"silent": "only silence", "broken": "not_audio"}[kind]
    tracks = [LabelledTrack(str(path), "pop", "A")]
    with pytest.raises(InputError, match=rf"bad\.flac: {message}.*remove it.*1 such"):
        load_training_set(tracks, Recipe(front_end=FRONT_END), Shards(tmp_path / "s", here))
