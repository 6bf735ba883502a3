"""From labelled tracks to a trained model: windows, teacher, batches, folds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.labelled import LabelledTrack
from pipeline.prepare import WindowSet, prepare_windows
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
from transforms.errors import InputError
from transforms.models.front_end import FrontEnd
from transforms.models.statistics import (
    StatisticsTeacher,
    image_statistics,
    statistics_weights,
)
from transforms.models.vit_training import (
    Batch,
    Trained,
    ViTSettings,
    build_vit,
    log_probabilities,
    start_patches,
    train_vit,
)
from transforms.records import FloatArray
from transforms.scores import mean_scores

IntArray: TypeAlias = npt.NDArray[np.int64]

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


@dataclass(frozen=True)
class TrainingSet:
    """Labelled tracks as arrays."""

    labels: tuple[str, ...]
    truth: IntArray  # (tracks,) label indices
    artists: tuple[str, ...]
    folds: IntArray  # (tracks,); -1 where there is none
    segments: list[list[npt.NDArray[np.float16]]]  # by track: (n_mels, frames), -1 to 1
    windows: WindowSet  # what labelling would see

    def of(self, tracks: IntArray) -> tuple[FloatArray, IntArray]:
        """Windows of some tracks, and the track of each."""
        chosen = np.isin(self.windows.track, tracks)
        return self.windows.images[chosen], self.windows.track[chosen]


def load_training_set(tracks: Sequence[LabelledTrack], recipe: Recipe) -> TrainingSet:
    """Run the tracks through the stages, twice: as segments to crop, and as labelled.

    Raises
    ------
    InputError
        If a track cannot be decoded or holds nothing but silence; it names the first one.
    """
    uris = [track.uri for track in tracks]
    windows = prepare_windows(uris, recipe.front_end)
    for uri, message in windows.failures.items():
        raise InputError(f"{uri}: {message}; remove it from --data ({len(windows.failures)} such)")
    silent = [uris[index] for index in set(range(len(uris))) - set(windows.track.tolist())]
    if silent:
        raise InputError(f"{min(silent)}: only silence; remove it from --data ({len(silent)} such)")
    labels = tuple(sorted({track.label for track in tracks}))
    return TrainingSet(
        labels=labels,
        truth=np.array([labels.index(track.label) for track in tracks]),
        artists=tuple(track.artist for track in tracks),
        folds=np.array([-1 if track.fold is None else track.fold for track in tracks]),
        segments=_segments(uris, recipe),
        windows=windows,
    )


def _segments(uris: Sequence[str], recipe: Recipe) -> list[list[npt.NDArray[np.float16]]]:
    """By track, segments that are long enough for the longest crop."""
    front_end = segment_front_end(recipe.front_end, SEGMENT_SECONDS)
    found = prepare_windows(uris, front_end, dtype="float16")
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

    def batches(self, teacher: StatisticsTeacher) -> Iterator[Batch]:
        """Endless augmented and mixed batches, labelled by the teacher before they are masked."""
        how, size = self._recipe.augmentation, self._recipe.batch_size
        sample = image_statistics(self.augmented(self._tracks, how.stretch))
        mean, deviation = sample.mean(axis=0), sample.std(axis=0) + 1e-6
        scale = np.sqrt(statistics_weights())  # a scaled target is a weighted square error
        queue: IntArray = np.empty(0, dtype=np.int64)
        while True:
            while len(queue) < size:
                queue = np.concatenate([queue, self._rng.permutation(self._tracks)])
            images = mix(self.augmented(queue[:size], how.stretch), how, self._rng)
            queue = queue[size:]
            statistics = image_statistics(images)
            side = np.clip((statistics - mean) / deviation, -5, 5)
            yield Batch(mask(images, how, self._rng), teacher.predict(statistics), side * scale)


def fit(
    data: TrainingSet,
    tracks: IntArray,
    recipe: Recipe,
    *,
    held_out: IntArray | None = None,
    stop_after: int | None = None,
) -> Trained:
    """Train one model.

    Parameters
    ----------
    data : TrainingSet
    tracks : int, shape (tracks,)
        What to train on.
    recipe : Recipe
    held_out : int, shape (tracks,), optional
        Tracks of other artists: training stops when their loss no longer falls.
    stop_after : int, optional
        Steps, where nothing is held out.
    """
    import torch

    torch.manual_seed(recipe.seed)
    crops = Crops(data, tracks, recipe, np.random.default_rng(recipe.seed))
    model = build_vit(recipe.settings, recipe.front_end, data.labels)
    start_patches(model, crops.plain(tracks))
    batches = crops.batches(crops.fit_teacher())
    validate = None
    if held_out is not None:

        def validate(candidate: Any) -> tuple[float, float]:
            return _loss_and_accuracy(data, held_out, track_log_probs(candidate, data, held_out))

    return train_vit(model, batches, recipe.settings, validate, stop_after)


def track_log_probs(model: Any, data: TrainingSet, tracks: IntArray) -> FloatArray:
    """Log-probabilities of tracks, (tracks, labels), by the rule of RollUp."""
    images, owner = data.of(tracks)
    return pool(data, tracks, owner, log_probabilities(model, images))


def pool(
    data: TrainingSet, tracks: IntArray, owner: IntArray, log_probs: FloatArray
) -> FloatArray:
    """Windows' log-probabilities to tracks' (tracks, labels), weighted by their sound."""
    chosen = np.isin(data.windows.track, tracks)
    weights = data.windows.content_s[chosen].astype(np.float32)
    scores = [mean_scores(log_probs[owner == t], weights[owner == t]) for t in tracks]
    floored = np.maximum(np.stack(scores), np.finfo(np.float32).tiny)
    return np.asarray(np.log(floored), dtype=np.float32)


def _loss_and_accuracy(
    data: TrainingSet, tracks: IntArray, log_probs: FloatArray
) -> tuple[float, float]:
    truth = data.truth[tracks]
    loss = -log_probs[np.arange(len(tracks)), truth].mean()
    return float(loss), float((log_probs.argmax(axis=1) == truth).mean())


def split_artists(
    data: TrainingSet, tracks: IntArray, share: float, seed: int
) -> tuple[IntArray, IntArray]:
    """Tracks to train on and tracks to hold out, without a common artist, alike in labels.

    Parameters
    ----------
    data : TrainingSet
    tracks : int, shape (tracks,)
    share : float
        Of the artists to hold out, about; at most 0.5.
    seed : int

    Raises
    ------
    InputError
        If there are too few tracks or artists to hold out so small a share of them.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    artists = [data.artists[track] for track in tracks]
    parts = round(1 / share)
    most = min(len(set(artists)), np.unique(data.truth[tracks], return_counts=True)[1].min())
    if parts > most:
        raise InputError(
            f"--held_out_share={share} makes {parts} parts, but a fold trains on {most} artists, "
            "or tracks of one label, only; hold out more, or 0"
        )
    splitter = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
    train, held_out = next(splitter.split(tracks, data.truth[tracks], artists))
    return tracks[train], tracks[held_out]


@dataclass(frozen=True)
class FoldResult:
    """One fold of a cross-validation."""

    fold: int
    tracks: IntArray  # tested
    trained: Trained
    window_log_probs: FloatArray  # of the tested tracks' windows


def _split(data: TrainingSet, fold: int, recipe: Recipe) -> tuple[IntArray, IntArray | None]:
    """Tracks to train on when ``fold`` is tested, and those to hold out, if any."""
    train: IntArray = np.flatnonzero(data.folds != fold)
    held_out: IntArray | None = None
    if recipe.held_out_share > 0:
        train, held_out = split_artists(data, train, recipe.held_out_share, recipe.seed)
    for index, label in enumerate(data.labels):
        if index not in data.truth[train]:
            raise InputError(
                f"--data: when fold {fold} is tested no track of {label!r} is left to train on; "
                "spread its artists over the folds, or train with --no-cross_validate"
            )
    return train, held_out


def cross_validate(data: TrainingSet, recipe: Recipe) -> Iterator[FoldResult]:
    """Train on all folds but one and predict that one, for every fold.

    Raises
    ------
    InputError
        Before the first training, if one would lack a label.
    """
    folds = [int(fold) for fold in np.unique(data.folds)]
    splits = [_split(data, fold, recipe) for fold in folds]
    for fold, (train, held_out) in zip(folds, splits, strict=True):
        tested = np.flatnonzero(data.folds == fold)
        seeded = dataclasses.replace(recipe, seed=recipe.seed * 100 + fold)
        trained = fit(data, train, seeded, held_out=held_out)
        images, _ = data.of(tested)
        yield FoldResult(fold, tested, trained, log_probabilities(trained.model, images))


def out_of_fold_scores(
    data: TrainingSet, folds: Sequence[FoldResult], temperature: float = 1.0
) -> FloatArray:
    """Scores of every track from the model that did not see its artist, (tracks, labels)."""
    scores = np.zeros((len(data.truth), len(data.labels)), dtype=np.float32)
    for fold in folds:
        _, owner = data.of(fold.tracks)
        logits = fold.window_log_probs / np.float32(temperature)
        cooled = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        scores[fold.tracks] = np.exp(pool(data, fold.tracks, owner, cooled))
    return scores


def calibrate(data: TrainingSet, folds: Sequence[FoldResult]) -> tuple[float, float]:
    """A temperature and a threshold for ``unknown``, from out-of-fold scores.

    Returns
    -------
    temperature : float
        Divides the logits; the one of a grid with the lowest log-loss (Guo et al., 2017).
    threshold : float
        The 5th percentile of the confidence of right answers: one in twenty is given up.
    """
    every = np.arange(len(data.truth))

    def log_loss(temperature: float) -> float:
        scores = out_of_fold_scores(data, folds, temperature)
        return float(-np.log(np.maximum(scores[every, data.truth], 1e-12)).mean())

    temperature = float(min(np.geomspace(0.25, 4.0, 41), key=log_loss))
    scores = out_of_fold_scores(data, folds, temperature)
    right = scores.argmax(axis=1) == data.truth
    threshold = float(np.percentile(scores.max(axis=1)[right], 5)) if right.any() else 0.0
    return temperature, threshold
