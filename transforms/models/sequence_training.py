"""Training of sequence models, epoch by epoch, such that an interruption changes nothing.

Whoever calls makes the batches and the loss; here are the optimiser, the average of the weights,
early stopping, and the file from which an interrupted training goes on. Everything random in an
epoch is drawn from the seed and the epoch's number, so that no generator's state need be kept.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

import torch

from transforms.models.sequence_network import SequenceNetwork
from transforms.models.training_state import (
    optimiser_tensors,
    read_state,
    refuse_diverged,
    restore_optimiser,
    under,
    write_state,
)

Batch = TypeVar("Batch")
Metrics: TypeAlias = dict[str, float]
Validate: TypeAlias = Callable[[SequenceNetwork], Metrics]
"""Takes a network in evaluation mode; the key ``loss`` of what it gives is what must fall."""


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How a sequence model is optimised."""

    epochs: int
    learning_rate: float = 3e-3  # the highest; it rises over the first tenth, then falls to zero
    weight_decay: float = 0.02  # of matrices; vectors have none
    average: float = 0.998  # of the exponential moving average of the weights, which is kept
    clip_norm: float = 1.0
    patience: int = 10  # epochs without a lower validation loss before training stops
    seed: int = 0


@dataclass
class Fitted:
    """A trained network and what was measured on the way, one entry per epoch."""

    network: SequenceNetwork  # the averaged weights of the best epoch, or of the last
    best_epoch: int
    history: list[Metrics] = field(default_factory=list)


@dataclass(frozen=True)
class Work(Generic[Batch]):
    """What is learned: the batches of an epoch, and the loss of one."""

    batches: Callable[[int], Iterable[Batch]]  # by the epoch's number, always the same ones
    batches_per_epoch: int
    loss: Callable[[SequenceNetwork, Batch], torch.Tensor]


def fit_sequence(
    network: SequenceNetwork,
    work: Work[Batch],
    settings: FitSettings,
    *,
    stop_after: int | None = None,
    validate: Validate | None = None,
    state_path: Path | None = None,
    report: Callable[[Metrics], None] = lambda metrics: None,
) -> Fitted:
    """Train a network.

    Parameters
    ----------
    network : SequenceNetwork
        Trained in place; its state at the end is not what is kept, see :class:`Fitted`.
    work : Work
    settings : FitSettings
    stop_after : int, optional
        Epochs after which to stop; the schedule stays that of ``settings.epochs``.
    validate : callable, optional
        Stops training when its loss no longer falls; None trains for all the epochs.
    state_path : Path, optional
        Where the state is kept after each epoch. If the file is there, training goes on from it.
    report : callable
        Is told each epoch's metrics.

    Returns
    -------
    Fitted
        The same whether the training was interrupted or not.

    Raises
    ------
    CheckpointError
        If the state is damaged, or of a training with other settings.
    CatalogError
        If a loss or a weight is no longer a number; the state stays that of the epoch before.
    """
    training = _Training(network, settings, settings.epochs * work.batches_per_epoch)
    if state_path is not None:
        training.load(state_path)
    last = min(settings.epochs, stop_after or settings.epochs)
    while not training.is_over(last, early=validate is not None):
        epoch = len(training.history)
        torch.manual_seed(settings.seed * 100_003 + epoch)  # dropout
        losses = [training.step(work.loss(network, batch)) for batch in work.batches(epoch)]
        metrics = {"epoch": epoch + 1.0, "train_loss": sum(losses) / len(losses)}
        if validate is not None:
            found = validate(training.averaged())
            metrics |= {f"validation_{name}": value for name, value in found.items()}
        losses_of = {name: metrics[name] for name in metrics if name.endswith("_loss")}
        refuse_diverged(f"epoch {epoch + 1}", losses_of, training.average.values())
        training.close_epoch(metrics)
        report(metrics)
        if state_path is not None:
            training.save(state_path)
    return Fitted(training.best(), training.best_epoch, training.history)


class _Training:
    """Everything that an epoch hands to the next."""

    def __init__(self, network: SequenceNetwork, settings: FitSettings, steps: int) -> None:
        self._network = network.train()
        self._settings = settings
        self._steps = max(1, steps)
        self._step = 0
        self._parameters = dict(network.named_parameters())
        self._optimiser = torch.optim.AdamW(_groups(self._parameters, settings), betas=(0.9, 0.98))
        self.average = {n: p.detach().clone() for n, p in self._parameters.items()}
        self._best = dict(self.average)
        self.best_epoch = 0
        self.history: list[Metrics] = []

    def is_over(self, last: int, *, early: bool) -> bool:
        stale = len(self.history) - self.best_epoch
        return len(self.history) >= last or (early and stale >= self._settings.patience)

    def step(self, loss: torch.Tensor) -> float:
        rate = self._settings.learning_rate * _schedule(self._step / self._steps)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), self._settings.clip_norm)
        self._optimiser.step()
        self._step += 1
        decay = min(self._settings.average, (1 + self._step) / (10 + self._step))
        with torch.no_grad():
            for name, average in self.average.items():
                average.lerp_(self._parameters[name], 1 - decay)
        return float(loss.detach())

    def close_epoch(self, metrics: Metrics) -> None:
        self.history.append(metrics)
        best = self.history[self.best_epoch - 1]
        if self.best_epoch == 0 or _must_fall(metrics) < _must_fall(best):
            self.best_epoch = len(self.history)
            self._best = {n: a.clone() for n, a in self.average.items()}

    def averaged(self) -> SequenceNetwork:
        return self._with(self.average)

    def best(self) -> SequenceNetwork:
        return self._with(self._best)

    def _with(self, weights: Mapping[str, torch.Tensor]) -> SequenceNetwork:
        network = SequenceNetwork(self._network.settings)
        network.load_state_dict({**self._network.state_dict(), **weights})
        return network.eval()

    def save(self, path: Path) -> None:
        tensors = {f"network.{n}": t for n, t in self._network.state_dict().items()}
        tensors |= {f"average.{n}": t for n, t in self.average.items()}
        tensors |= {f"best.{n}": t for n, t in self._best.items()}
        tensors |= optimiser_tensors(self._optimiser, self._parameters)
        facts = {"step": self._step, "best_epoch": self.best_epoch, "history": self.history}
        write_state(path, tensors, facts, self._stated())

    def load(self, path: Path) -> None:
        """Go on from a state, if there is one."""
        saved = read_state(path, self._stated())
        if saved is None:
            return
        tensors, facts = saved
        self._network.load_state_dict(under("network.", tensors))
        self.average = under("average.", tensors)
        self._best = under("best.", tensors)
        restore_optimiser(self._optimiser, self._parameters, tensors)
        self._step, self.best_epoch = facts["step"], facts["best_epoch"]
        self.history = facts["history"]

    def _stated(self) -> dict[str, Any]:
        """What a state must be of."""
        shape, settings = self._network.settings, self._settings
        return {
            "steps": self._steps,
            "network": dataclasses.asdict(shape),
            "optimiser": dataclasses.asdict(settings),
        }


def _must_fall(metrics: Metrics) -> float:
    return metrics.get("validation_loss", -metrics["epoch"])  # no validation: the last is best


def _groups(
    parameters: Mapping[str, torch.nn.Parameter], settings: FitSettings
) -> Iterator[dict[str, Any]]:
    matrices = [p for p in parameters.values() if p.ndim >= 2]
    vectors = [p for p in parameters.values() if p.ndim < 2]
    yield {"params": matrices, "weight_decay": settings.weight_decay}
    yield {"params": vectors, "weight_decay": 0.0}


def _schedule(done: float) -> float:
    """Share of the highest learning rate: a linear warm-up over a tenth, then a cosine."""
    return min(1.0, 10 * done + 0.01) * 0.5 * (1 + math.cos(math.pi * done))


def standardise(network: SequenceNetwork, frames: torch.Tensor) -> None:
    """Set a network's input mean and scale from a sample of frames, (frames, inputs)."""
    with torch.no_grad():
        network.input_mean.copy_(frames.mean(dim=0))
        network.input_scale.copy_(1.0 / frames.std(dim=0).clamp_min(1e-3))
