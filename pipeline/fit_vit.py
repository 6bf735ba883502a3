"""The ViT's training: crops of labelled tracks, their augmentation, and a teacher's labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.cross_validation import (
    IntArray,
    TrainingSet,
    load_windows,
    loss_and_accuracy,
    pool,
)
from pipeline.labelled import LabelledTrack
from pipeline.prepare import Shards
from transforms.augment import (
    Augmentation,
    augmented_image,
    crop,
    finish,
    mask,
    mix,
    segment_decibels,
    segment_front_end,
)
from transforms.models.front_end import FrontEnd
from transforms.models.statistics import (
    StatisticsTeacher,
    image_statistics,
    statistics_weights,
)
from transforms.models.trainable_vit import (
    build_vit,
    log_probabilities,
    save_checkpoint,
    sharpen,
    start_patches,
)
from transforms.models.vit_training import Batch, Trained, ViTSettings, train_vit
from transforms.records import FloatArray

SEGMENT_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings of a training."""

    front_end: FrontEnd
    seed: int = 0
    held_out_share: float = 0.0  # of the training artists, for early stopping; 0: none
    batch_size: int = 48
    teacher_passes: int = 20  # crops of each track that the teacher sees, half of them augmented
    augmentation: Augmentation = field(default_factory=Augmentation)
    settings: ViTSettings = field(default_factory=ViTSettings)

    def frames(self, stretch: float = 0.0) -> int:
        """Spectrogram frames of one window, stretched."""
        front_end = self.front_end
        seconds = front_end.window_seconds * (1 + stretch)
        return 1 + int(seconds * front_end.sample_rate_hz) // front_end.hop_length


def load_training_set(
    tracks: Sequence[LabelledTrack], recipe: Recipe, shards: Shards
) -> TrainingSet:
    """Run the tracks through the stages, twice: as labelled, and as segments to crop.

    Raises
    ------
    InputError
        As :func:`pipeline.cross_validation.load_windows`.
    """
    data = load_windows(tracks, recipe.front_end, "images", shards)
    segments = _segments([track.uri for track in tracks], recipe, shards)
    return replace(data, segments=segments)


def _segments(
    uris: Sequence[str], recipe: Recipe, shards: Shards
) -> list[list[npt.NDArray[np.float16]]]:
    """By track, segments that are long enough for the longest crop."""
    front_end = segment_front_end(recipe.front_end, SEGMENT_SECONDS)
    found = shards.windows(uris, front_end, "half_images")
    longest = recipe.frames(recipe.augmentation.stretch)
    frames_per_second = recipe.front_end.sample_rate_hz / recipe.front_end.hop_length
    segments: list[list[npt.NDArray[np.float16]]] = [[] for _ in uris]
    for image, track, content_s in zip(found.images, found.track, found.content_s, strict=True):
        held = int(content_s * frames_per_second)
        if held >= longest or not segments[track]:  # a short track keeps its padding
            segments[track].append(image[:, : max(held, longest)])
    return segments


class Crops:
    """Random crops of some tracks of a training set.

    Parameters
    ----------
    data : TrainingSet
    tracks : int, shape (tracks,)
    recipe : Recipe
    rng : numpy.random.Generator
    """

    def __init__(
        self, data: TrainingSet, tracks: IntArray, recipe: Recipe, rng: np.random.Generator
    ) -> None:
        self._data = data
        self._tracks = tracks
        self._recipe = recipe
        self._rng = rng

    def _segment(self, track: int) -> FloatArray:
        segments = self._data.segments[track]
        segment = segments[int(self._rng.integers(len(segments)))]
        return segment_decibels(segment.astype(np.float32))

    def plain(self, tracks: IntArray) -> FloatArray:
        """One unchanged crop of each track, (tracks, height, width)."""
        frames, front_end = self._recipe.frames(), self._recipe.front_end
        crops = (crop(self._segment(int(track)), frames, self._rng) for track in tracks)
        return np.stack([finish(decibels, front_end) for decibels in crops])

    def augmented(self, tracks: IntArray, stretch: float) -> FloatArray:
        """One augmented crop of each track; all are stretched alike, by up to ``stretch``."""
        frames = self._recipe.frames(self._rng.uniform(-stretch, stretch) if stretch else 0.0)
        how, front_end = self._recipe.augmentation, self._recipe.front_end
        return np.stack(
            [
                augmented_image(self._segment(int(track)), frames, how, front_end, self._rng)
                for track in tracks
            ]
        )

    def fit_teacher(self) -> StatisticsTeacher:
        """A teacher for these tracks, from plain and augmented crops."""
        passes = self._recipe.teacher_passes
        statistics = [
            image_statistics(
                self.plain(self._tracks) if number % 2 else self.augmented(self._tracks, 0.0)
            )
            for number in range(passes)
        ]
        truth = np.tile(self._data.truth[self._tracks], passes)
        return StatisticsTeacher(seed=self._recipe.seed).fit(np.concatenate(statistics), truth)

    def batches(self) -> CropBatches:
        """Endless augmented and mixed batches."""
        return CropBatches(self, self._tracks, self._recipe, self._rng)


class CropBatches:
    """Batches of crops, labelled by the teacher before they are masked.

    The teacher is fitted for the first of them. A BatchStream of transforms.models.vit_training:
    after it, all that a batch depends on are the generator and the queue of tracks.
    """

    def __init__(
        self, crops: Crops, tracks: IntArray, recipe: Recipe, rng: np.random.Generator
    ) -> None:
        self._crops = crops
        self._tracks = tracks
        self._recipe = recipe
        self._rng = rng
        self._labeller: _Labeller | None = None
        self._queue: IntArray = np.empty(0, dtype=np.int64)

    def __iter__(self) -> CropBatches:
        return self

    def __next__(self) -> Batch:
        how, size = self._recipe.augmentation, self._recipe.batch_size
        labeller = self._labeller = self._labeller or self._fit_labeller()
        while len(self._queue) < size:
            self._queue = np.concatenate([self._queue, self._rng.permutation(self._tracks)])
        chosen, self._queue = self._queue[:size], self._queue[size:]
        images = mix(self._crops.augmented(chosen, how.stretch), how, self._rng)
        targets, side = labeller.label(images)
        return Batch(mask(images, how, self._rng), targets, side)

    def _fit_labeller(self) -> _Labeller:
        teacher = self._crops.fit_teacher()
        stretch = self._recipe.augmentation.stretch
        sample = image_statistics(self._crops.augmented(self._tracks, stretch))
        return _Labeller(teacher, sample.mean(axis=0), sample.std(axis=0) + 1e-6)

    def state(self) -> dict[str, Any]:
        return {"rng": self._rng.bit_generator.state, "queue": self._queue.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        self._labeller = self._labeller or self._fit_labeller()  # as ever, from the seed
        self._rng.bit_generator.state = state["rng"]
        self._queue = np.array(state["queue"], dtype=np.int64)


@dataclass(frozen=True)
class _Labeller:
    """The teacher's labels of images, and the statistics that the side head learns."""

    teacher: StatisticsTeacher
    mean: FloatArray  # (features,) of the statistics
    deviation: FloatArray  # (features,)

    def label(self, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        statistics = image_statistics(images)
        side = np.clip((statistics - self.mean) / self.deviation, -5, 5)
        scale = np.sqrt(statistics_weights())  # a scaled target is a weighted square error
        return self.teacher.predict(statistics), side * scale


@dataclass(frozen=True)
class ViTLearner:
    """How the ViT is trained: a pipeline.cross_validation.Learner.

    Parameters
    ----------
    recipe : Recipe
    state_folder : Path, optional
        Where the state of interrupted trainings is kept.
    """

    recipe: Recipe
    state_folder: Path | None = None

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
        import torch

        recipe = replace(self.recipe, seed=seed)
        torch.manual_seed(seed)
        crops = Crops(data, tracks, recipe, np.random.default_rng(seed))
        model = build_vit(recipe.settings, recipe.front_end, data.labels)
        start_patches(model, crops.plain(tracks))
        validate = None if held_out is None else self._validation(data, held_out)
        path = self.state_folder and self.state_folder / f"{name}.safetensors"
        return train_vit(model, crops.batches(), recipe.settings, validate, stop_after, path)

    def _validation(
        self, data: TrainingSet, held_out: IntArray
    ) -> Callable[[Any], tuple[float, float]]:
        def validate(model: Any) -> tuple[float, float]:
            log_probs = pool(data, held_out, self.log_probs(model, data, held_out))
            return loss_and_accuracy(data, held_out, log_probs)

        return validate

    def log_probs(self, model: Any, data: TrainingSet, tracks: IntArray) -> FloatArray:
        return log_probabilities(model, data.windows.images[data.chosen(tracks)])

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
        sharpen(trained.model, temperature)
        save_checkpoint(trained.model, folder, self.recipe.front_end, unknown_threshold)
