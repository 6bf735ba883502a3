"""Labelled tracks, a model for each fold of them, and what the folds say about the whole.

Folds share no artist (or speaker), and nothing of a fold reaches the model that is tested on it.
What is learned, and how, is a :class:`Learner`'s affair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.labelled import LabelledTrack
from pipeline.prepare import Kind, Shards, WindowSet
from transforms.errors import InputError
from transforms.models.front_end import FrontEnd
from transforms.models.vit_training import Trained
from transforms.records import FloatArray
from transforms.scores import mean_scores

IntArray: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TrainingSet:
    """Labelled tracks as arrays."""

    labels: tuple[str, ...]
    truth: IntArray  # (tracks,) label indices
    artists: tuple[str, ...]
    folds: IntArray  # (tracks,); -1 where there is none
    windows: WindowSet  # what labelling would see
    segments: list[list[npt.NDArray[np.float16]]] = field(default_factory=list)
    """By track, (n_mels, frames) in [-1, 1]: what some learners crop windows from."""

    def chosen(self, tracks: IntArray) -> IntArray:
        """Indices of the windows of some tracks."""
        return np.flatnonzero(np.isin(self.windows.track, tracks))


def load_windows(
    tracks: Sequence[LabelledTrack], front_end: FrontEnd, kind: Kind, shards: Shards
) -> TrainingSet:
    """Run the tracks through the stages.

    Raises
    ------
    InputError
        If a track cannot be decoded or holds nothing but silence; it names the first one.
    """
    uris = [track.uri for track in tracks]
    windows = shards.windows(uris, front_end, kind)
    for uri, message in windows.failures.items():
        such = len(windows.failures)
        raise InputError(f"{uri}: {message}; remove it from the data ({such} such)")
    silent = [uris[index] for index in set(range(len(uris))) - set(windows.track.tolist())]
    if silent:
        such = len(silent)
        raise InputError(f"{min(silent)}: only silence; remove it from the data ({such} such)")
    return _training_set(tracks, windows)


def _training_set(tracks: Sequence[LabelledTrack], windows: WindowSet) -> TrainingSet:
    labels = tuple(sorted({track.label for track in tracks}))
    return TrainingSet(
        labels=labels,
        truth=np.array([labels.index(track.label) for track in tracks]),
        artists=tuple(track.artist for track in tracks),
        folds=np.array([-1 if track.fold is None else track.fold for track in tracks]),
        windows=windows,
    )


class Learner(Protocol):
    """How a model is trained and asked."""

    @property
    def recipe(self) -> Any:
        """All settings, a dataclass."""

    @property
    def held_out_share(self) -> float:
        """Share of the training artists that is held out to stop early; 0: none."""

    @property
    def seed(self) -> int:
        """Of everything random."""

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
        """Train a model.

        Parameters
        ----------
        data : TrainingSet
        tracks : int, shape (tracks,)
            What to train on.
        name : str
            Of this training, under which its state is kept.
        seed : int
        held_out : int, shape (tracks,), optional
            Tracks of other artists: training stops when their loss no longer falls.
        stop_after : int, optional
            Steps or epochs, where nothing is held out.
        """

    def log_probs(self, model: Any, data: TrainingSet, tracks: IntArray) -> FloatArray:
        """Log-probabilities of the tracks' windows, in the order of the windows."""

    def save(
        self,
        trained: Trained,
        folder: Path,
        labels: Sequence[str],
        *,
        temperature: float,
        unknown_threshold: float,
    ) -> None:
        """Write a checkpoint, its logits divided by ``temperature``."""


def pool(data: TrainingSet, tracks: IntArray, log_probs: FloatArray) -> FloatArray:
    """Windows' log-probabilities to tracks' (tracks, labels), weighted by their sound.

    The rule is that of RollUp.
    """
    chosen = data.chosen(tracks)
    owner = data.windows.track[chosen]
    weights = data.windows.content_s[chosen].astype(np.float32)
    scores = [mean_scores(log_probs[owner == t], weights[owner == t]) for t in tracks]
    floored = np.maximum(np.stack(scores), np.finfo(np.float32).tiny)
    return np.asarray(np.log(floored), dtype=np.float32)


def loss_and_accuracy(
    data: TrainingSet, tracks: IntArray, log_probs: FloatArray
) -> tuple[float, float]:
    """Mean negative log-probability of the truth, and the share of tracks that are right."""
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


def check_splits(tracks: Sequence[LabelledTrack], held_out_share: float, seed: int) -> None:
    """Raise what :func:`cross_validate` would, before the windows are made, which takes long."""
    nothing = WindowSet([], np.zeros(0, np.int64), np.zeros(0), {})
    _splits(_training_set(tracks, nothing), held_out_share, seed)


def _splits(
    data: TrainingSet, held_out_share: float, seed: int
) -> dict[int, tuple[IntArray, IntArray | None]]:
    folds = [int(fold) for fold in np.unique(data.folds) if fold >= 0]
    return {fold: _split(data, fold, held_out_share, seed) for fold in folds}


def _split(
    data: TrainingSet, fold: int, held_out_share: float, seed: int
) -> tuple[IntArray, IntArray | None]:
    """Tracks to train on when ``fold`` is tested, and those to hold out, if any."""
    train: IntArray = np.flatnonzero(data.folds != fold)
    held_out: IntArray | None = None
    if held_out_share > 0:
        train, held_out = split_artists(data, train, held_out_share, seed)
    for index, label in enumerate(data.labels):
        if index not in data.truth[train]:
            raise InputError(
                f"--data: when fold {fold} is tested no track of {label!r} is left to train on; "
                "spread its artists over the folds, or train with --no-cross_validate"
            )
    return train, held_out


def cross_validate(data: TrainingSet, learner: Learner) -> Iterator[FoldResult]:
    """Train on all folds but one and predict that one, for every fold.

    Raises
    ------
    InputError
        Before the first training, if one would lack a label.
    """
    splits = _splits(data, learner.held_out_share, learner.seed)
    for fold, (train, held_out) in splits.items():
        tested = np.flatnonzero(data.folds == fold)
        trained = learner.fit(
            data, train, name=f"fold-{fold}", seed=learner.seed * 100 + fold, held_out=held_out
        )
        log_probs = learner.log_probs(trained.model, data, tested)
        yield FoldResult(fold, tested, trained, log_probs)


def out_of_fold_scores(
    data: TrainingSet, folds: Sequence[FoldResult], temperature: float = 1.0
) -> FloatArray:
    """Scores of every track from the model that did not see its artist, (tracks, labels)."""
    scores = np.zeros((len(data.truth), len(data.labels)), dtype=np.float32)
    for fold in folds:
        logits = fold.window_log_probs / np.float32(temperature)
        cooled = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        scores[fold.tracks] = np.exp(pool(data, fold.tracks, cooled))
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
    tested = np.flatnonzero(data.folds >= 0)
    truth = data.truth[tested]

    def scored(temperature: float) -> FloatArray:
        return out_of_fold_scores(data, folds, temperature)[tested]

    def log_loss(temperature: float) -> float:
        right_scores = scored(temperature)[np.arange(len(tested)), truth]
        return float(-np.log(np.maximum(right_scores, 1e-12)).mean())

    temperature = float(min(np.geomspace(0.25, 4.0, 41), key=log_loss))
    scores = scored(temperature)
    right = scores.argmax(axis=1) == truth
    threshold = float(np.percentile(scores.max(axis=1)[right], 5)) if right.any() else 0.0
    return temperature, threshold
