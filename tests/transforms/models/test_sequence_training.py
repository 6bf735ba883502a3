"""Training of sequence models: what it learns, when it stops, and that it can be interrupted."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

from tests.interruptions import InterruptionError, after
from transforms.errors import CatalogError, CheckpointError
from transforms.models.sequence import CELLS, SequenceSettings
from transforms.models.sequence_network import SequenceNetwork
from transforms.models.sequence_training import FitSettings, Work, fit_sequence, standardise

SETTINGS = FitSettings(epochs=5, learning_rate=0.02, average=0.8, seed=3)


def new_network(cell="gru", dropout=0.3, hidden_size=6, head="recognition", seed=0):
    torch.manual_seed(seed)
    return SequenceNetwork(
        SequenceSettings(
            head=head, cell=cell, inputs=3, outputs=2, hidden_size=hidden_size, layers=2,
            dropout=dropout,
        )
    )  # fmt: skip


def batches(epoch, count=3):
    """Sequences whose first feature rises or falls, and which of both."""
    rng = np.random.default_rng(epoch)
    for _ in range(count):
        truth = rng.integers(0, 2, 8)
        frames = rng.normal(0, 0.3, (8, 7, 3)).astype(np.float32)
        slopes = np.where(truth == 1, 1, -1)[:, None] * np.linspace(-1, 1, 7)
        frames[:, :, 0] += slopes.astype(np.float32)
        yield torch.from_numpy(frames), torch.from_numpy(truth)


def loss(network, batch):
    frames, truth = batch
    return F.nll_loss(network(frames)[0][:, -1].float(), truth)


WORK = Work(batches, 3, loss)
UNSEEN = next(batches(1000))


def validate(network):
    assert not network.training
    with torch.no_grad():
        right = network(UNSEEN[0])[0][:, -1].argmax(1) == UNSEEN[1]
        return {"loss": float(loss(network, UNSEEN)), "accuracy": float(right.float().mean())}


def assert_same(found, expected):
    assert found.history == expected.history
    assert found.best_epoch == expected.best_epoch
    weights = expected.network.state_dict()
    for name, tensor in found.network.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


def test_learns_what_can_be_learnt():
    settings = dataclasses.replace(SETTINGS, epochs=30)
    found = fit_sequence(new_network(dropout=0.0), WORK, settings, validate=validate)
    assert found.history[-1]["validation_accuracy"] == 1.0
    assert found.history[-1]["train_loss"] < 0.2 < found.history[0]["train_loss"]
    assert not found.network.training


@pytest.mark.parametrize("stop", [1, 3, 4])
@pytest.mark.parametrize("check", [None, validate], ids=["plain", "validated"])
@pytest.mark.parametrize("cell", CELLS)
def test_an_interrupted_training_ends_as_another(tmp_path, cell, check, stop):
    """Interrupted in the middle of an epoch: the state is that of the epoch before."""
    path = tmp_path / "all.safetensors"
    whole = fit_sequence(new_network(cell), WORK, SETTINGS, validate=check)
    broken = Work(batches, 3, after(3 * stop + 1, loss))
    with pytest.raises(InterruptionError):
        fit_sequence(new_network(cell), broken, SETTINGS, validate=check, state_path=path)
    torch.manual_seed(99)  # another process
    seen = []
    counted = Work(lambda epoch: seen.append(epoch) or batches(epoch), 3, loss)
    again = fit_sequence(
        new_network(cell, seed=0), counted, SETTINGS, validate=check, state_path=path
    )
    assert seen == list(range(stop, 5))
    assert_same(again, whole)


@pytest.mark.parametrize("what", ["loss", "validation", "last step"])
def test_a_training_that_diverges_is_no_success(tmp_path, what):
    """In its third epoch; the last step's loss is still a number, but not its gradient."""
    path, calls = tmp_path / "all.safetensors", []

    def diverging(network, batch):
        calls.append(1)
        found = loss(network, batch)
        if what == "loss" and len(calls) == 7:
            return found * torch.nan
        if what == "last step" and len(calls) == 9:
            return found + torch.sqrt(0 * found)
        return found

    def check(network):
        return {"loss": torch.nan if what == "validation" and len(calls) == 9 else 0.5}

    work, lines = Work(batches, 3, diverging), []
    with pytest.raises(CatalogError, match=r"diverged in epoch 3 \(.*; remove its fo.* --seed$"):
        fit_sequence(
            new_network(), work, SETTINGS, validate=check, state_path=path, report=lines.append
        )
    assert [line["epoch"] for line in lines] == [1, 2]
    with safe_open(path, "pt") as state:
        assert all(state.get_tensor(name).isfinite().all() for name in state.keys())  # noqa: SIM118


def test_interrupted_twice_and_before_the_first_state(tmp_path):
    path = tmp_path / "all.safetensors"
    for calls in (2, 5, 4):
        with pytest.raises(InterruptionError):
            broken = Work(batches, 3, after(calls, loss))
            fit_sequence(new_network(), broken, SETTINGS, state_path=path)
    again = fit_sequence(new_network(), WORK, SETTINGS, state_path=path)
    assert_same(again, fit_sequence(new_network(), WORK, SETTINGS))


def test_interrupted_between_the_report_and_the_state(tmp_path):
    """What was reported and not kept is done again, alike."""
    path, lines = tmp_path / "all.safetensors", []
    report = after(2, lines.append)
    with pytest.raises(InterruptionError):
        fit_sequence(new_network(), WORK, SETTINGS, state_path=path, report=report)
    again = fit_sequence(new_network(), WORK, SETTINGS, state_path=path, report=lines.append)
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5]
    assert_same(again, fit_sequence(new_network(), WORK, SETTINGS))


def test_a_finished_training_is_not_done_again(tmp_path):
    path = tmp_path / "all.safetensors"
    once = fit_sequence(new_network(), WORK, SETTINGS, state_path=path)
    written = path.stat().st_mtime_ns
    nothing = Work(after(0, batches), 3, loss)
    assert_same(fit_sequence(new_network(), nothing, SETTINGS, state_path=path), once)
    assert path.stat().st_mtime_ns == written


def losses_of(values):
    """A validation that says these losses, and what weights it saw."""
    seen, said = [], iter(values)

    def check(network):
        seen.append({name: t.clone() for name, t in network.state_dict().items()})
        return {"loss": next(said)}

    return check, seen


@pytest.mark.parametrize(
    ("values", "best", "epochs"),
    [
        ([0.9, 0.5, 0.7, 0.6, 0.1], 2, 4),  # the last is never reached
        ([0.9, 0.5, 0.7, 0.4, 0.5], 4, 5),
        ([0.5, 0.5, 0.5, 0.5, 0.5], 1, 3),  # as low as before is not lower
    ],
)
def test_early_stopping_keeps_the_best_epoch(values, best, epochs):
    check, seen = losses_of(values)
    settings = dataclasses.replace(SETTINGS, patience=2)
    found = fit_sequence(new_network(), WORK, settings, validate=check)
    assert found.best_epoch == best
    assert [m["validation_loss"] for m in found.history] == values[:epochs]
    for name, tensor in found.network.state_dict().items():
        assert torch.equal(tensor, seen[best - 1][name]), name


def test_an_early_stop_stays_one_after_an_interruption(tmp_path):
    path, settings = tmp_path / "s.safetensors", dataclasses.replace(SETTINGS, patience=2)
    whole_check, _ = losses_of([0.9, 0.5, 0.7, 0.6])
    whole = fit_sequence(new_network(), WORK, settings, validate=whole_check)
    for values, stop in (([0.9, 0.5, 0.7], 3), ([0.6], None), ([], None)):
        check, _ = losses_of(values)
        work = WORK if stop is None else Work(batches, 3, after(3 * stop, loss))
        train = functools.partial(
            fit_sequence, new_network(), work, settings, validate=check, state_path=path
        )
        if stop is None:
            assert_same(train(), whole)
        else:
            with pytest.raises(InterruptionError):
                train()


def test_stopping_after_so_many_epochs_keeps_the_schedule():
    weights = []

    def check(network):
        weights.append({n: t.clone() for n, t in network.state_dict().items()})
        return {"loss": -len(weights)}

    fit_sequence(new_network(), WORK, SETTINGS, validate=check)
    short = fit_sequence(new_network(), WORK, SETTINGS, stop_after=2)
    assert short.best_epoch == len(short.history) == 2
    for name, tensor in short.network.state_dict().items():
        assert torch.equal(tensor, weights[1][name]), name


@pytest.mark.parametrize(
    ("network", "changes"),
    [
        ({}, {"epochs": 6}),
        ({}, {"seed": 4}),
        ({"hidden_size": 7}, {}),
        ({"cell": "rnn"}, {}),
    ],
)
def test_the_state_of_another_training_is_refused(tmp_path, network, changes):
    path = tmp_path / "all.safetensors"
    fit_sequence(new_network(), WORK, SETTINGS, stop_after=1, state_path=path)
    settings = dataclasses.replace(SETTINGS, **changes)
    with pytest.raises(CheckpointError, match="other settings; remove it") as caught:
        fit_sequence(new_network(**network), WORK, settings, state_path=path)
    assert "\n" not in str(caught.value)


def test_another_length_of_epochs_is_refused(tmp_path):
    """The schedule would be another."""
    path = tmp_path / "all.safetensors"
    fit_sequence(new_network(), WORK, SETTINGS, stop_after=1, state_path=path)
    longer = Work(lambda epoch: batches(epoch, 4), 4, loss)
    with pytest.raises(CheckpointError, match="other settings"):
        fit_sequence(new_network(), longer, SETTINGS, state_path=path)


def test_a_half_written_draft_does_no_harm(tmp_path):
    path = tmp_path / "all.safetensors"
    (tmp_path / "all.draft").write_bytes(b"half of it")
    with pytest.raises(InterruptionError):
        fit_sequence(
            new_network(), Work(batches, 3, after(4, loss)), SETTINGS, state_path=path
        )
    (tmp_path / "all.draft").write_bytes(b"half of it")
    again = fit_sequence(new_network(), WORK, SETTINGS, state_path=path)
    assert_same(again, fit_sequence(new_network(), WORK, SETTINGS))
    assert [found.name for found in tmp_path.iterdir()] == ["all.safetensors"]


def test_weights_are_averaged(monkeypatch):
    """Against the recurrence of an exponential average, from the optimiser's own weights."""
    steps, step_of = [], torch.optim.AdamW.step

    def spy(self, *args, **kwargs):
        result = step_of(self, *args, **kwargs)
        steps.append(self.param_groups[0]["params"][0].detach().double().numpy().copy())
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    network = new_network()
    name, first = next((n, p) for n, p in network.named_parameters() if p.ndim >= 2)
    average = first.detach().double().numpy().copy()
    found = fit_sequence(network, WORK, SETTINGS, stop_after=2)
    assert len(steps) == 6
    for number, weights in enumerate(steps, start=1):
        decay = min(SETTINGS.average, (1 + number) / (10 + number))
        average = decay * average + (1 - decay) * weights
    np.testing.assert_allclose(found.network.state_dict()[name], average, atol=1e-6)


def test_inputs_are_standardised():
    rng = np.random.default_rng(0)
    frames = rng.normal([1, -5, 2], [2, 0.1, 0], (500, 3)).astype(np.float32)
    network = new_network()
    standardise(network, torch.from_numpy(frames))
    np.testing.assert_allclose(network.input_mean, frames.mean(axis=0), atol=1e-5)
    deviation = np.maximum(frames.std(axis=0, ddof=1), 1e-3)  # a constant feature has none
    np.testing.assert_allclose(network.input_scale, 1 / deviation, rtol=1e-4)
