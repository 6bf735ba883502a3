"""Training of a small ViT on batches that somebody else makes: torch in here, numpy outside."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from transforms.models.checkpoint import THRESHOLD_KEY, WEIGHTS_FILE
from transforms.models.front_end import FrontEnd

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


@dataclass
class Trained:
    """A trained model and its learning curve, one entry per validation."""

    model: Any  # ViTForImageClassification, with averaged weights, on the CPU
    best_step: int
    curve: dict[str, list[float]]


Validate: TypeAlias = Callable[[Any], tuple[float, float]]
"""Takes a model, gives (loss, accuracy) on tracks of unseen artists."""


def build_vit(settings: ViTSettings, front_end: FrontEnd, labels: Sequence[str]) -> Any:
    """A ViT for one-channel images of ``front_end``, weights from torch's current seed."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=[front_end.image_height, front_end.image_width],
        patch_size=[front_end.image_height, settings.patch_columns],
        num_channels=1,
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        intermediate_size=4 * settings.hidden_size,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    return ViTForImageClassification(config)


def start_patches(model: Any, images: FloatArray) -> None:
    """Start the patch projection as a softly whitened, randomly rotated PCA of the patches.

    Parameters
    ----------
    model : ViTForImageClassification
        Changed in place.
    images : float32, shape (images, height, width)
        A sample of what it will see.
    """
    import torch

    projection = model.vit.embeddings.patch_embeddings.projection
    hidden, _, height, columns = projection.weight.shape
    patches = torch.from_numpy(images).unfold(2, columns, columns)  # (n, height, time, columns)
    patches = patches.permute(0, 2, 1, 3).reshape(-1, height * columns)
    mean = patches.mean(0)
    _, spread, directions = torch.linalg.svd(patches - mean, full_matrices=False)
    deviation = spread[:hidden] / len(patches) ** 0.5
    whitened = 0.3 * directions[:hidden] / (deviation[:, None] + 0.1 * deviation[0])
    rotation = torch.linalg.qr(torch.randn(hidden, hidden))[0][:, : len(whitened)]
    weight = rotation @ whitened
    with torch.no_grad():
        projection.weight.copy_(weight.reshape(projection.weight.shape))
        projection.bias.copy_(-weight @ mean)


def train_vit(
    model: Any,
    batches: Iterator[Batch],
    settings: ViTSettings,
    validate: Validate | None = None,
    stop_after: int | None = None,
) -> Trained:
    """Fit the model to soft targets, with early stopping where there is a validation.

    Parameters
    ----------
    model : ViTForImageClassification
    batches : iterator of Batch
        Endless; one batch per step.
    settings : ViTSettings
    validate : callable, optional
        Stops training when its loss no longer falls; None trains for all the steps.
    stop_after : int, optional
        Stop after so many steps of the schedule, which stays that of ``settings.steps``.

    Returns
    -------
    Trained
        With the averaged weights of the best validation, or of the last step.
    """
    import torch

    last = min(settings.steps, stop_after or settings.steps)
    batch = next(batches)
    side = torch.nn.Linear(settings.hidden_size, batch.statistics.shape[1])
    parameters = [*model.parameters(), *side.parameters()]
    optimiser, schedule = _optimiser(parameters, settings)
    average = _Average(model, settings.average)
    progress = _Progress(settings, validate, last)
    for step in range(1, last + 1):
        loss = _loss(model, side, batch, settings)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
        optimiser.step()
        schedule.step()
        average.update(step)
        if progress.check(step, float(loss.detach()), average) or step == last:
            break
        batch = next(batches)
    return progress.finish(average)


def _loss(model: Any, side: Any, batch: Batch, settings: ViTSettings) -> torch.Tensor:
    """Cross-entropy to the soft targets, and the side head's error on the statistics."""
    import torch

    token = model.vit(torch.from_numpy(batch.images)[:, None]).last_hidden_state[:, 0]
    log_probs = torch.log_softmax(model.classifier(token), dim=-1)
    entropy = -(torch.from_numpy(batch.targets) * log_probs).sum(1).mean()
    error = (side(token) - torch.from_numpy(batch.statistics)).square().mean()
    total: torch.Tensor = entropy + settings.statistics_weight * error
    return total


def _optimiser(parameters: list[Any], settings: ViTSettings) -> tuple[Any, Any]:
    """AdamW without decay on vectors; linear warm-up, then a cosine to zero."""
    import torch

    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))
    warm_up = max(1.0, settings.warm_up * settings.steps)

    def factor(step: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        return min(1.0, (step + 1) / warm_up) * cosine

    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


class _Average:
    """An exponential moving average of a model's weights (Polyak averaging)."""

    def __init__(self, model: Any, decay: float) -> None:
        self._model = model
        self._decay = decay
        self.weights = [p.detach().clone() for p in model.parameters()]

    def update(self, step: int) -> None:
        import torch

        decay = min(self._decay, (1 + step) / (10 + step))  # young averages forget faster
        with torch.no_grad():
            torch._foreach_lerp_(self.weights, list(self._model.parameters()), 1 - decay)

    def model(self, weights: list[Any]) -> Any:
        """A copy of the model with ``weights``."""
        import copy

        import torch

        averaged = copy.deepcopy(self._model).eval()
        with torch.no_grad():
            for parameter, weight in zip(averaged.parameters(), weights, strict=True):
                parameter.copy_(weight)
        return averaged


class _Progress:
    """The learning curve, the best weights so far, and whether to stop."""

    def __init__(self, settings: ViTSettings, validate: Validate | None, last: int) -> None:
        self._settings = settings
        self._last = last
        self._validate = validate
        self._losses: list[float] = []
        self._best: tuple[float, int, list[Any]] | None = None
        self._curve: dict[str, list[float]] = {
            "step": [], "train_loss": [], "validation_loss": [], "validation_accuracy": []
        }  # fmt: skip

    def check(self, step: int, loss: float, average: _Average) -> bool:
        """Note a step; every ``check_every`` validate. True when it is time to stop."""
        self._losses.append(loss)
        if step % self._settings.check_every and step != self._last:
            return False
        self._curve["step"].append(step)
        self._curve["train_loss"].append(float(np.mean(self._losses)))
        self._losses = []
        if self._validate is None:
            self._best = (0.0, step, average.weights)
            return False
        found, accuracy = self._validate(average.model(average.weights))
        self._curve["validation_loss"].append(found)
        self._curve["validation_accuracy"].append(accuracy)
        if self._best is None or found < self._best[0]:
            self._best = (found, step, [w.clone() for w in average.weights])
        return step - self._best[1] >= self._settings.patience * self._settings.check_every

    def finish(self, average: _Average) -> Trained:
        """The model with the best weights."""
        if self._best is None:
            raise ValueError("training ended before its first validation")
        _, step, weights = self._best
        return Trained(average.model(weights), step, self._curve)


def log_probabilities(model: Any, images: FloatArray, batch_size: int = 64) -> FloatArray:
    """Log-probabilities, float32 (images, labels), of a model in training."""
    import torch

    parts = []
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            pixels = torch.from_numpy(images[start : start + batch_size])[:, None]
            parts.append(torch.log_softmax(model(pixels).logits, dim=-1).numpy())
    return np.concatenate(parts)


def sharpen(model: Any, temperature: float) -> None:
    """Divide the logits by ``temperature`` for good, in the classifier's weights."""
    import torch

    with torch.no_grad():
        model.classifier.weight /= temperature
        model.classifier.bias /= temperature


def save_checkpoint(
    model: Any, folder: Path, front_end: FrontEnd, unknown_threshold: float
) -> None:
    """Write config.json, model.safetensors and preprocessor_config.json."""
    setattr(model.config, THRESHOLD_KEY, unknown_threshold)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    (folder / WEIGHTS_FILE).chmod(0o644)  # safetensors makes it its owner's alone
    front_end.save(folder)
