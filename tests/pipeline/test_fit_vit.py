"""The ViT's training: what it crops from, and the batches that it learns from."""

import json

import numpy as np
import pytest
import torch

from pipeline import fit_vit
from pipeline.fit_vit import Crops, Recipe, ViTLearner, load_training_set
from pipeline.labelled import LabelledTrack
from pipeline.prepare import Shards
from pipeline.runner import run_locally
from tests.audio_files import noise, write_soundfile
from tests.checkpoints import tiny_front_end
from tests.interruptions import InterruptionError, after
from tests.training_sets import training_set
from transforms.augment import finish, segment_decibels
from transforms.errors import InputError
from transforms.models.vit_training import ViTSettings

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
    batch = next(crops.batches())
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


def tiny_recipe(**changes):
    settings = ViTSettings(
        patch_columns=8, hidden_size=32, layers=1, heads=2, steps=12, check_every=4, average=0.8
    )
    return Recipe(
        front_end=FRONT_END, batch_size=5, teacher_passes=2, settings=settings, **changes
    )


@pytest.fixture(scope="module")
def crops_data():
    """Twelve tracks with one random segment and one window each."""
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (12, 64, 64)).astype(np.float32)
    data = training_set([0, 1] * 6, [1] * 12, images=images)
    frames = tiny_recipe().frames(0.25) + 7
    for _ in range(12):
        data.segments.append([rng.uniform(-1, 1, (128, frames)).astype(np.float16)])
    return data


def test_batches_go_on_where_their_state_was_asked_for(crops_data):
    def stream():
        rng = np.random.default_rng(1)
        return Crops(crops_data, np.arange(9), tiny_recipe(), rng).batches()

    whole, other = stream(), stream()
    for _ in range(3):
        next(whole)
    state = json.loads(json.dumps(whole.state()))
    other.restore(state)
    for _ in range(3):
        expected, found = next(whole), next(other)
        for field in ("images", "targets", "statistics"):
            np.testing.assert_array_equal(getattr(found, field), getattr(expected, field))


@pytest.mark.parametrize("held_out", [None, np.array([9, 10, 11])], ids=["plain", "validated"])
def test_an_interrupted_training_ends_as_another(crops_data, tmp_path, monkeypatch, held_out):
    def fit(folder):
        return ViTLearner(tiny_recipe(), folder).fit(
            crops_data, np.arange(9), name="fold-2", seed=3, held_out=held_out
        )

    whole = fit(None)
    with monkeypatch.context() as patch, pytest.raises(InterruptionError):
        patch.setattr(fit_vit, "mask", after(6, fit_vit.mask))
        fit(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["fold-2.safetensors"]
    again = fit(tmp_path)
    assert (again.best_step, again.curve) == (whole.best_step, whole.curve)
    for name, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, whole.model.state_dict()[name]), name

    monkeypatch.setattr(fit_vit, "mask", after(0, fit_vit.mask))
    monkeypatch.setattr(Crops, "fit_teacher", after(0, Crops.fit_teacher))
    finished = fit(tmp_path)  # without one more batch, and without its teacher
    assert finished.best_step == whole.best_step
    for name, tensor in finished.model.state_dict().items():
        assert torch.equal(tensor, whole.model.state_dict()[name]), name
