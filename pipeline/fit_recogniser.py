"""The recurrent and convolutional recognisers' training: augmented sequences, hard labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.cross_validation import IntArray, TrainingSet, loss_and_accuracy, pool
from transforms.models.checkpoint import THRESHOLD_KEY
from transforms.models.front_end import FrontEnd
from transforms.models.sequence import Cell, SequenceSettings, save_weights
from transforms.models.vit_training import Trained
from transforms.records import FloatArray
from transforms.sequence_augment import SequenceAugmentation, augmented_batch, pad_sequences

if TYPE_CHECKING:
    import torch

    from transforms.models.sequence_training import FitSettings

_SAMPLE = 400  # windows from which the inputs' mean and scale are taken
_PREDICTED = 64  # windows at a time


@dataclass(frozen=True, kw_only=True)
class RecogniserRecipe:
    """All settings of a recogniser's training."""

    front_end: FrontEnd
    cell: Cell
    epochs: int
    hidden_size: int = 128
    layers: int = 2
    kernel_size: int = 5  # cnn only
    dropout: float = 0.2
    batch_size: int = 64
    learning_rate: float = 8e-3
    patience: int = 10  # epochs, where artists are held out
    label_smoothing: float = 0.1
    peak_range_db: float = 0.0  # frames under the running peak, this deep; 0: of full scale
    peak_decay_db: float = 0.0  # of the running peak, a second
    seed: int = 0
    held_out_share: float = 0.0  # of the training artists, for early stopping; 0: none
    augmentation: SequenceAugmentation = field(default_factory=SequenceAugmentation)

    @property
    def fit(self) -> FitSettings:
        """What the optimiser is told."""
        from transforms.models.sequence_training import FitSettings

        return FitSettings(
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            patience=self.patience,
            seed=self.seed,
        )


@dataclass(frozen=True)
class RecogniserBatch:
    """What one step learns from."""

    frames: FloatArray  # (windows, frames, inputs)
    last: IntArray  # (windows,) index of each one's last frame
    truth: IntArray  # (windows,)
    weights: FloatArray  # (windows,) such that all labels count alike; mean about 1


class Sequences:
    """Augmented batches of some tracks of a training set.

    Parameters
    ----------
    data : TrainingSet
        Of windows of the kind ``frames``.
    tracks : int, shape (tracks,)
    recipe : RecogniserRecipe
    """

    def __init__(self, data: TrainingSet, tracks: IntArray, recipe: RecogniserRecipe) -> None:
        self._recipe = recipe
        self._windows = data.chosen(tracks)
        self._images = data.windows.images
        self._truth = data.truth[data.windows.track]
        counts = np.bincount(self._truth[self._windows], minlength=len(data.labels))
        self._weights = len(self._windows) / (np.maximum(counts, 1) * np.count_nonzero(counts))

    @property
    def batches_per_epoch(self) -> int:
        """Steps that see each window once."""
        return -(-len(self._windows) // self._recipe.batch_size)

    def _augmented(
        self, windows: IntArray, rng: np.random.Generator
    ) -> tuple[FloatArray, IntArray]:
        front_end = self._recipe.front_end
        decibels = [to_decibels(self._images[window], front_end) for window in windows]
        batch, lengths = augmented_batch(
            decibels, self._recipe.augmentation, -front_end.top_db, rng
        )
        return to_frames(batch, front_end), lengths

    def sample(self) -> tuple[FloatArray, IntArray]:
        """A few hundred augmented windows, (windows, frames, inputs), and their lengths."""
        rng = np.random.default_rng([self._recipe.seed, 0])
        return self._augmented(rng.permutation(self._windows)[:_SAMPLE], rng)

    def epoch(self, number: int) -> Iterator[RecogniserBatch]:
        """All windows once, in an order and an augmentation of this epoch's own."""
        rng = np.random.default_rng([self._recipe.seed, 1 + number])
        for windows in np.array_split(rng.permutation(self._windows), self.batches_per_epoch):
            frames, lengths = self._augmented(windows, rng)
            truth = self._truth[windows]
            weights = self._weights[truth].astype(np.float32)
            yield RecogniserBatch(frames, lengths - 1, truth, weights)


def to_decibels(frames: Any, front_end: FrontEnd) -> FloatArray:
    """Undo the mapping of a front end's image: its values to decibels of full scale."""
    half = np.float32(front_end.top_db / 2)
    return np.asarray((frames.astype(np.float32) - np.float32(1.0)) * half)


def to_frames(decibels: FloatArray, front_end: FrontEnd) -> FloatArray:
    """Decibels of full scale as the values of a front end's image."""
    return decibels * np.float32(2.0 / front_end.top_db) + np.float32(1.0)


@dataclass(frozen=True)
class RecogniserLearner:
    """How a recogniser is trained: a pipeline.cross_validation.Learner.

    Parameters
    ----------
    recipe : RecogniserRecipe
    state_folder : Path, optional
        Where the state of interrupted trainings is kept.
    report : callable
        Is told of each epoch, in a line.
    """

    recipe: RecogniserRecipe
    state_folder: Path | None = None
    report: Callable[[str], None] = lambda line: None

    @property
    def held_out_share(self) -> float:
        return self.recipe.held_out_share

    @property
    def seed(self) -> int:
        return self.recipe.seed

    def fit(
        self,
        data: TrainingSet,
        tracks: IntArray,
        *,
        name: str,
        seed: int,
        held_out: IntArray | None = None,
        stop_after: int | None = None,
    ) -> Trained:
        from transforms.models.sequence_training import Work, fit_sequence

        recipe = replace(self.recipe, seed=seed)
        sequences = Sequences(data, tracks, recipe)
        network = self._build(data, sequences, seed)
        fitted = fit_sequence(
            network,
            Work(sequences.epoch, sequences.batches_per_epoch, self._loss),
            recipe.fit,
            stop_after=stop_after,
            validate=None if held_out is None else self._validation(data, held_out),
            state_path=None
            if self.state_folder is None
            else self.state_folder / f"{name}.safetensors",
            report=lambda metrics: self.report(f"{name} {to_line(metrics)}"),
        )
        return Trained(fitted.network, fitted.best_epoch, to_curve(fitted.history))

    def _build(self, data: TrainingSet, sequences: Sequences, seed: int) -> Any:
        import torch

        from transforms.models.sequence_network import SequenceNetwork
        from transforms.models.sequence_training import standardise

        recipe, front_end = self.recipe, self.recipe.front_end
        image_units = 2.0 / front_end.top_db  # a decibel in the values of an image
        seconds_per_frame = front_end.hop_length / front_end.sample_rate_hz
        torch.manual_seed(seed)
        network = SequenceNetwork(
            SequenceSettings(
                head="recognition",
                cell=recipe.cell,
                inputs=front_end.n_mels,
                outputs=len(data.labels),
                hidden_size=recipe.hidden_size,
                layers=recipe.layers,
                kernel_size=recipe.kernel_size,
                dropout=recipe.dropout,
                peak_range=recipe.peak_range_db * image_units,
                peak_decay=recipe.peak_decay_db * image_units * seconds_per_frame,
            )
        )
        frames, lengths = sequences.sample()
        levelled = network.levelled(torch.from_numpy(frames))
        heard = torch.arange(frames.shape[1]) < torch.from_numpy(lengths)[:, None]
        standardise(network, levelled[heard])
        return network

    def _loss(self, network: Any, batch: RecogniserBatch) -> torch.Tensor:
        """Cross-entropy of the running label at each sequence's end, smoothed."""
        import torch

        log_probs, _ = network(torch.from_numpy(batch.frames))
        rows = torch.arange(len(batch.truth))
        at_end = log_probs[rows, torch.from_numpy(batch.last)].float()
        right = at_end[rows, torch.from_numpy(batch.truth)]
        smoothing = self.recipe.label_smoothing
        likelihood = (1 - smoothing) * right + smoothing * at_end.mean(dim=1)
        loss: torch.Tensor = -(torch.from_numpy(batch.weights) * likelihood).mean()
        return loss

    def _validation(
        self, data: TrainingSet, held_out: IntArray
    ) -> Callable[[Any], dict[str, float]]:
        def validate(network: Any) -> dict[str, float]:
            log_probs = pool(data, held_out, self.log_probs(network, data, held_out))
            loss, accuracy = loss_and_accuracy(data, held_out, log_probs)
            return {"loss": loss, "accuracy": accuracy}

        return validate

    def log_probs(self, model: Any, data: TrainingSet, tracks: IntArray) -> FloatArray:
        import torch

        parts = []
        windows = data.chosen(tracks)
        with torch.inference_mode():
            for start in range(0, len(windows), _PREDICTED):
                images = [data.windows.images[w] for w in windows[start : start + _PREDICTED]]
                frames, lengths = pad_sequences(images, -1.0)
                log_probs, _ = model(torch.from_numpy(frames))
                parts.append(log_probs.numpy()[np.arange(len(images)), lengths - 1])
        return np.concatenate(parts).astype(np.float32)

    def save(
        self,
        trained: Trained,
        folder: Path,
        labels: Sequence[str],
        *,
        temperature: float,
        unknown_threshold: float,
    ) -> None:
        """Write the checkpoint, its logits divided by ``temperature``."""
        import torch

        with torch.no_grad():
            trained.model.head.classifier.weight /= temperature
            trained.model.head.classifier.bias /= temperature
        names = {str(index): label for index, label in enumerate(labels)}
        config = {"id2label": names, THRESHOLD_KEY: unknown_threshold}
        save_weights(trained.model, folder, config)
        self.recipe.front_end.save(folder)


def to_line(metrics: dict[str, float]) -> str:
    """An epoch's metrics for a person."""
    return ", ".join(
        f"{name.replace('_', ' ')} {value:.4g}" for name, value in metrics.items()
    )


def to_curve(history: list[dict[str, float]]) -> dict[str, list[float]]:
    """An epoch's metrics by name, under the names that a ViT's curve has."""
    names = {"step": "epoch", "train_loss": "train_loss", "validation_loss": "validation_loss",
             "validation_accuracy": "validation_accuracy"}  # fmt: skip
    return {key: [m[name] for m in history if name in m] for key, name in names.items()}
