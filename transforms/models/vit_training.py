"""Training of a small ViT on batches that somebody else makes: torch in here, numpy outside."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from transforms.models.training_state import (
    optimiser_tensors,
    read_state,
    refuse_diverged,
    restore_optimiser,
    under,
    write_state,
)

if TYPE_CHECKING:
    import torch

FloatArray: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ViTSettings:
    """Shape of the model and of its optimisation."""

    patch_columns: int = 1  # a patch is the full height by so many columns: a short-time spectrum
    hidden_size: int = 192
    layers: int = 2
    heads: int = 6
    steps: int = 1200
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    warm_up: float = 0.1  # share of the steps
    average: float = 0.98  # of the exponential moving average of the weights, which is kept
    clip_norm: float = 1.0
    statistics_weight: float = 0.5  # of the side loss, see Batch.statistics
    check_every: int = 100  # steps between validations
    patience: int = 5  # validations without a lower loss before training stops


@dataclass(frozen=True)
class Batch:
    """What one step learns from."""

    images: FloatArray  # (images, height, width)
    targets: FloatArray  # (images, labels), probabilities
    statistics: FloatArray  # (images, features), standardised, scaled; a side head predicts them


@runtime_checkable
class BatchStream(Protocol):
    """Batches of which an interrupted training gets the same ones as another."""

    def __next__(self) -> Batch:
        """One more."""

    def state(self) -> Any:
        """What the next batch depends on, as JSON can say it."""

    def restore(self, state: Any) -> None:
        """Go on where :meth:`state` was asked for."""


@dataclass
class Trained:
    """A trained model and its learning curve, one entry per validation."""

    model: Any  # ViTForImageClassification, with averaged weights, on the CPU
    best_step: int
    curve: dict[str, list[float]]


Validate: TypeAlias = Callable[[Any], tuple[float, float]]
"""Takes a model, gives (loss, accuracy) on tracks of unseen artists."""


def train_vit(
    model: Any,
    batches: Iterator[Batch] | BatchStream,
    settings: ViTSettings,
    validate: Validate | None = None,
    stop_after: int | None = None,
    state_path: Path | None = None,
) -> Trained:
    """Fit the model to soft targets, with early stopping where there is a validation.

    Parameters
    ----------
    model : ViTForImageClassification
        Trained in place; its weights at the end are not what is kept, see :class:`Trained`.
    batches : iterator of Batch
        Endless; one batch per step. Where the state is kept, a :class:`BatchStream`.
    settings : ViTSettings
    validate : callable, optional
        Stops training when its loss no longer falls; None trains for all the steps.
    stop_after : int, optional
        Stop after so many steps of the schedule, which stays that of ``settings.steps``.
    state_path : Path, optional
        Where the state is kept every ``settings.check_every`` steps and at the end. If the file is
        there, training goes on from it.

    Returns
    -------
    Trained
        With the averaged weights of the best validation, or of the last step; the same whether
        the training was interrupted or not.

    Raises
    ------
    CheckpointError
        If the state is damaged, or of a training with other settings.
    CatalogError
        If a loss or a weight is no longer a number; the state stays that of the check before.
    """
    if state_path is not None and not isinstance(batches, BatchStream):
        raise TypeError("batches whose state cannot be kept")
    average = _Average(model, settings.average)
    progress = _Progress(settings, validate, min(settings.steps, stop_after or settings.steps))
    stated = dataclasses.asdict(settings)
    saved = None if state_path is None else read_state(state_path, stated)
    if saved is not None:
        progress.restore(*saved)
    if progress.is_over():  # before the first batch, which may be dear
        return progress.finish(average)
    first = next(batches)
    training = _Training(model, first.statistics.shape[1], average, settings)
    unused = [first]
    if saved is not None:
        training.restore(saved[0])
        batches.restore(saved[1]["batches"])  # type: ignore[union-attr]
        unused = []
    while not progress.is_over():
        batch = unused.pop() if unused else next(batches)
        loss = training.step(batch, progress.step + 1)
        if progress.check(loss, average) and state_path is not None:
            facts = progress.facts() | {"batches": batches.state()}  # type: ignore[union-attr]
            write_state(state_path, training.tensors() | progress.tensors(), facts, stated)
    return progress.finish(average)


class _Training:
    """The weights, and everything that one step of the optimiser hands to the next."""

    def __init__(
        self, model: Any, features: int, average: _Average, settings: ViTSettings
    ) -> None:
        import torch

        self._model = model
        self._side = torch.nn.Linear(settings.hidden_size, features)
        self._average = average
        self._settings = settings
        parts = {"model": model, "side": self._side}
        self._parameters: dict[str, torch.nn.Parameter] = {
            f"{part}.{name}": parameter
            for part, module in parts.items()
            for name, parameter in module.named_parameters()
        }
        self._optimiser = _optimiser(list(self._parameters.values()), settings)

    def step(self, batch: Batch, number: int) -> float:
        """Learn from one batch, the ``number``-th from 1 on; gives its loss."""
        import torch

        for group in self._optimiser.param_groups:
            group["lr"] = self._settings.learning_rate * _schedule(number - 1, self._settings)
        loss = _loss(self._model, self._side, batch, self._settings)
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters.values(), self._settings.clip_norm)
        self._optimiser.step()
        self._average.update(number)
        return float(loss.detach())

    def tensors(self) -> dict[str, torch.Tensor]:
        averages = {f"average.{i}": w for i, w in enumerate(self._average.weights)}
        return self._parameters | averages | optimiser_tensors(self._optimiser, self._parameters)

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        import torch

        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(tensors[name])
        self._average.weights = _numbered("average.", tensors)
        restore_optimiser(self._optimiser, self._parameters, tensors)


def _numbered(prefix: str, tensors: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    found = under(prefix, tensors)
    return [found[str(index)] for index in range(len(found))]


def _loss(model: Any, side: Any, batch: Batch, settings: ViTSettings) -> torch.Tensor:
    """Cross-entropy to the soft targets, and the side head's error on the statistics."""
    import torch

    token = model.vit(torch.from_numpy(batch.images)[:, None]).last_hidden_state[:, 0]
    log_probs = torch.log_softmax(model.classifier(token), dim=-1)
    entropy = -(torch.from_numpy(batch.targets) * log_probs).sum(1).mean()
    error = (side(token) - torch.from_numpy(batch.statistics)).square().mean()
    total: torch.Tensor = entropy + settings.statistics_weight * error
    return total


def _optimiser(parameters: list[Any], settings: ViTSettings) -> torch.optim.Optimizer:
    """AdamW without decay on vectors."""
    import torch

    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def _schedule(done: int, settings: ViTSettings) -> float:
    """Share of the learning rate after ``done`` steps: a linear warm-up times a cosine to zero."""
    warm_up = max(1.0, settings.warm_up * settings.steps)
    cosine = 0.5 * (1 + math.cos(math.pi * done / settings.steps))
    return min(1.0, (done + 1) / warm_up) * cosine


class _Average:
    """An exponential moving average of a model's weights (Polyak averaging)."""

    def __init__(self, model: Any, decay: float) -> None:
        self._model = model
        self._decay = decay
        self.weights: list[torch.Tensor] = [p.detach().clone() for p in model.parameters()]

    def update(self, step: int) -> None:
        import torch

        decay = min(self._decay, (1 + step) / (10 + step))  # young averages forget faster
        with torch.no_grad():
            torch._foreach_lerp_(self.weights, list(self._model.parameters()), 1 - decay)

    def model(self, weights: list[torch.Tensor]) -> Any:
        """A copy of the model with ``weights``."""
        import copy

        import torch

        averaged = copy.deepcopy(self._model).eval()
        with torch.no_grad():
            for parameter, weight in zip(averaged.parameters(), weights, strict=True):
                parameter.copy_(weight)
        return averaged


@dataclass
class _Best:
    """The averaged weights of the best validation so far."""

    loss: float
    step: int
    weights: list[torch.Tensor]


class _Progress:
    """How far a training is: the learning curve, the best weights so far, and whether to stop."""

    def __init__(self, settings: ViTSettings, validate: Validate | None, last: int) -> None:
        self._settings = settings
        self._last = last
        self._validate = validate
        self._losses: list[float] = []
        self._best: _Best | None = None
        self._curve: dict[str, list[float]] = {
            "step": [], "train_loss": [], "validation_loss": [], "validation_accuracy": []
        }  # fmt: skip
        self.step = 0

    def is_over(self) -> bool:
        if self._validate is None or self._best is None:
            return self.step >= self._last
        stale = self.step - self._best.step >= self._settings.patience * self._settings.check_every
        return stale or self.step >= self._last

    def check(self, loss: float, average: _Average) -> bool:
        """Note a step's loss; every ``check_every`` validate. True where it did."""
        self.step += 1
        self._losses.append(loss)
        if self.step % self._settings.check_every and self.step != self._last:
            return False
        self._curve["step"].append(self.step)
        self._curve["train_loss"].append(float(np.mean(self._losses)))
        losses, self._losses = {"train_loss": self._curve["train_loss"][-1]}, []
        found = 0.0
        if self._validate is not None:
            found, accuracy = self._validate(average.model(average.weights))
            self._curve["validation_loss"].append(found)
            self._curve["validation_accuracy"].append(accuracy)
        losses["validation_loss"] = found
        refuse_diverged(f"step {self.step}", losses, average.weights)
        if self._validate is None or self._best is None or found < self._best.loss:
            self._best = _Best(found, self.step, [w.clone() for w in average.weights])
        return True

    def finish(self, average: _Average) -> Trained:
        """The model with the best weights."""
        if self._best is None:
            raise ValueError("training ended before its first validation")
        return Trained(average.model(self._best.weights), self._best.step, self._curve)

    def facts(self) -> dict[str, Any]:
        """What is known right after a check, when no loss waits for the next one."""
        best = self._best and {"loss": self._best.loss, "step": self._best.step}
        return {"step": self.step, "best": best, "curve": self._curve}

    def tensors(self) -> dict[str, torch.Tensor]:
        weights = [] if self._best is None else self._best.weights
        return {f"best.{index}": weight for index, weight in enumerate(weights)}

    def restore(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        self.step, self._curve = facts["step"], facts["curve"]
        if facts["best"]:
            self._best = _Best(**facts["best"], weights=_numbered("best.", tensors))
