"""Training on a problem that can be solved, with hand-made averages and stopping."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from tests.checkpoints import tiny_front_end
from tests.interruptions import InterruptionError
from transforms.errors import CatalogError, CheckpointError
from transforms.models.checkpoint import load_checkpoint
from transforms.models.trainable_vit import (
    build_vit,
    log_probabilities,
    save_checkpoint,
    sharpen,
    start_patches,
)
from transforms.models.vit import ViT
from transforms.models.vit_training import Batch, ViTSettings, train_vit

FRONT_END = tiny_front_end()
SIZE = FRONT_END.image_height, FRONT_END.image_width
SETTINGS = ViTSettings(
    patch_columns=8, hidden_size=32, layers=1, heads=2, steps=40, check_every=10, average=0.8
)
LABELS = ("low", "high")


def make_batch(rng):
    """Images whose lower or upper half is bright, and targets that say which."""
    truth = rng.integers(0, 2, 16)
    images = rng.normal(0, 0.2, (16, *SIZE)).astype(np.float32)
    half = SIZE[0] // 2
    for image, label in zip(images, truth, strict=True):
        image[label * half : (label + 1) * half] += 0.5
    targets = np.eye(2, dtype=np.float32)[truth]
    return Batch(images, targets, np.zeros((16, 3), np.float32))


def batches(seed=0):
    rng = np.random.default_rng(seed)
    while True:
        yield make_batch(rng)


def new_model(seed=0):
    torch.manual_seed(seed)
    return build_vit(SETTINGS, FRONT_END, LABELS)


@pytest.fixture(scope="module")
def trained():
    model = new_model()
    start_patches(model, next(batches(9)).images)
    return train_vit(model, batches(), SETTINGS)


def test_learns_what_can_be_learnt(trained):
    unseen = next(batches(1))
    predicted = log_probabilities(trained.model, unseen.images).argmax(axis=1)
    assert (predicted == unseen.targets.argmax(axis=1)).all()
    assert trained.best_step == 40
    assert trained.curve["step"] == [10, 20, 30, 40]
    assert trained.curve["train_loss"][-1] < trained.curve["train_loss"][0]


def test_the_same_seed_gives_the_same_weights(trained):
    model = new_model()
    start_patches(model, next(batches(9)).images)
    again = train_vit(model, batches(), SETTINGS)
    for name, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, trained.model.state_dict()[name]), name


def test_stops_after_so_many_steps():
    seen = itertools.count()
    counted = (batch for batch in batches() if next(seen) >= 0)
    found = train_vit(new_model(), counted, SETTINGS, stop_after=13)
    assert found.best_step == 13
    assert next(seen) == 13


def test_early_stopping_returns_the_best_weights():
    losses = iter([0.9, 0.5, 0.7, 0.8, 0.1])  # the last is never reached
    seen = []

    def validate(model):
        seen.append({name: t.clone() for name, t in model.state_dict().items()})
        return next(losses), 0.0

    settings = ViTSettings(
        patch_columns=8, hidden_size=32, layers=1, heads=2, steps=100, check_every=5, patience=2
    )
    found = train_vit(new_model(), batches(), settings, validate)
    assert found.best_step == 10
    assert found.curve["validation_loss"] == [0.9, 0.5, 0.7, 0.8]
    for name, tensor in found.model.state_dict().items():
        assert torch.equal(tensor, seen[1][name]), name


def test_a_training_that_diverges_is_no_success():
    broken = (
        dataclasses.replace(batch, images=batch.images * np.float32(np.nan if n == 12 else 1))
        for n, batch in enumerate(batches())
    )
    with pytest.raises(CatalogError, match=r"diverged in step 20 \(train loss nan"):
        train_vit(new_model(), broken, SETTINGS)
    with pytest.raises(CatalogError, match=r"diverged in step 10 \(.*validation loss nan"):
        train_vit(new_model(), batches(), SETTINGS, lambda model: (float("nan"), 0.0))


def test_weights_are_averaged(monkeypatch):
    """Against the recurrence of an exponential average, from the optimiser's own weights."""
    steps = []
    step_of = torch.optim.AdamW.step

    def spy(self, *args, **kwargs):
        result = step_of(self, *args, **kwargs)
        steps.append(self.param_groups[0]["params"][0].detach().double().numpy().copy())
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    model = new_model()
    name, first = next((n, p) for n, p in model.named_parameters() if p.ndim >= 2)
    average = first.detach().double().numpy().copy()
    found = train_vit(model, batches(), SETTINGS, stop_after=6)
    for number, weights in enumerate(steps, start=1):
        decay = min(SETTINGS.average, (1 + number) / (10 + number))
        average = decay * average + (1 - decay) * weights
    np.testing.assert_allclose(found.model.state_dict()[name], average, atol=1e-6)


def test_sharpened_logits(trained):
    images = next(batches(2)).images
    before = log_probabilities(trained.model, images)
    model = new_model()
    model.load_state_dict(trained.model.state_dict())
    sharpen(model, 0.5)
    doubled = 2 * before
    expected = doubled - np.log(np.exp(doubled).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(log_probabilities(model, images), expected, atol=1e-4)


def test_a_saved_checkpoint_is_complete(trained, tmp_path):
    save_checkpoint(trained.model, tmp_path / "model", FRONT_END, 0.25)
    checkpoint = load_checkpoint(str(tmp_path / "model"))
    assert (checkpoint.labels, checkpoint.front_end) == (LABELS, FRONT_END)
    assert checkpoint.unknown_threshold == 0.25
    images = next(batches(3)).images
    loaded = ViT(checkpoint.folder, device="cpu", precision="float32").predict(images)
    np.testing.assert_allclose(
        loaded.log_probs, log_probabilities(trained.model, images), atol=1e-5
    )


def test_stopping_early_keeps_the_schedule():
    """Five steps of forty are the first five of the forty, with their learning rates."""
    seen = []

    def validate(model):
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return 1.0 / len(seen), 0.0

    settings = dataclasses.replace(SETTINGS, check_every=5)
    train_vit(new_model(), batches(), settings, validate)
    short = train_vit(new_model(), batches(), settings, stop_after=5)
    assert len(seen) == 8
    for name, tensor in short.model.state_dict().items():
        assert torch.equal(tensor, seen[0][name]), name


def test_patches_start_softly_whitened():
    """Variances along the principal axes, against numpy's eigenvalues of the covariance."""
    images = next(batches()).images
    images *= np.linspace(0.2, 2.0, SIZE[0], dtype=np.float32)[:, None]
    model = new_model()
    start_patches(model, images)
    patches = images.reshape(len(images), SIZE[0], -1, 8).transpose(0, 2, 1, 3)
    flat = patches.reshape(-1, SIZE[0] * 8).astype(np.float64)
    variances = np.linalg.eigvalsh(np.cov(flat.T, bias=True))[::-1][:32]
    deviations = np.sqrt(variances)
    expected = (0.3 * deviations / (deviations + 0.1 * deviations[0])) ** 2

    projection = model.vit.embeddings.patch_embeddings.projection
    with torch.no_grad():
        projected = projection(torch.from_numpy(images)[:, None])
    outputs = projected.permute(0, 2, 3, 1).reshape(-1, 32).double().numpy()
    np.testing.assert_allclose(outputs.mean(axis=0), 0, atol=1e-4)
    found = np.linalg.eigvalsh(np.cov(outputs.T, bias=True))[::-1]
    np.testing.assert_allclose(found, np.sort(expected)[::-1], rtol=1e-3)


def test_ends_before_the_batches_run_out():
    found = train_vit(new_model(), itertools.islice(batches(), 4), SETTINGS, stop_after=4)
    assert found.best_step == 4


class Stream:
    """What :func:`batches` makes, with a state."""

    def __init__(self, fail_at=None):
        self._rng = np.random.default_rng(0)
        self._left = fail_at
        self.drawn = 0

    def __next__(self):
        if self._left == self.drawn:
            raise InterruptionError
        self.drawn += 1
        return make_batch(self._rng)

    def state(self):
        return self._rng.bit_generator.state

    def restore(self, state):
        self._rng.bit_generator.state = state


def against_one_batch(model):
    """A validation on what no seed of these tests gives."""
    unseen = make_batch(np.random.default_rng(77))
    log_probs = log_probabilities(model, unseen.images)
    return float(-(log_probs * unseen.targets).sum(axis=1).mean()), 0.5


def assert_same(found, expected):
    assert (found.best_step, found.curve) == (expected.best_step, expected.curve)
    weights = expected.model.state_dict()
    for name, tensor in found.model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


@pytest.mark.parametrize("validate", [None, against_one_batch], ids=["plain", "validated"])
@pytest.mark.parametrize("stops", [(7,), (13,), (20,), (13, 16), (38,)])
def test_an_interrupted_training_ends_as_another(tmp_path, stops, validate):
    """Killed before so many batches, then given again; the state is that of the last check."""
    path = tmp_path / "all.safetensors"
    whole = train_vit(new_model(), batches(), SETTINGS, validate)
    for stop in stops:
        with pytest.raises(InterruptionError):
            train_vit(new_model(), Stream(stop), SETTINGS, validate, state_path=path)
        (tmp_path / "all.draft").write_bytes(b"half of it")
    torch.manual_seed(99)  # another process
    again = train_vit(new_model(), Stream(), SETTINGS, validate, state_path=path)
    assert_same(again, whole)


def test_an_interrupted_training_does_only_what_is_missing(tmp_path):
    path = tmp_path / "all.safetensors"
    with pytest.raises(InterruptionError):
        train_vit(new_model(), Stream(25), SETTINGS, state_path=path)
    rest = Stream()
    train_vit(new_model(), rest, SETTINGS, state_path=path)
    assert rest.drawn == 1 + 20  # the first shows the size of the side head


def test_a_finished_training_is_not_done_again(tmp_path):
    path = tmp_path / "all.safetensors"
    once = train_vit(new_model(), Stream(), SETTINGS, None, 13, path)
    again = train_vit(new_model(), Stream(fail_at=0), SETTINGS, None, 13, path)
    assert_same(again, once)
    assert once.best_step == 13


def test_an_early_stop_stays_one(tmp_path):
    path = tmp_path / "all.safetensors"
    losses = iter([0.9, 0.5, 0.7, 0.8])
    settings = dataclasses.replace(SETTINGS, check_every=5, patience=2)

    def validate(model):
        return next(losses), 0.0

    once = train_vit(new_model(), Stream(), settings, validate, state_path=path)
    again = train_vit(new_model(), Stream(0), settings, validate, state_path=path)
    assert_same(again, once)
    assert (once.best_step, len(once.curve["step"])) == (10, 4)


def test_the_state_of_another_training_is_refused(tmp_path):
    path = tmp_path / "all.safetensors"
    train_vit(new_model(), Stream(), SETTINGS, None, 10, path)
    with pytest.raises(CheckpointError, match="other settings; remove it"):
        settings = dataclasses.replace(SETTINGS, steps=50)
        train_vit(new_model(), Stream(), settings, state_path=path)


def test_batches_without_a_state_cannot_be_kept(tmp_path):
    with pytest.raises(TypeError, match="state"):
        train_vit(new_model(), batches(), SETTINGS, state_path=tmp_path / "all.safetensors")
