"""How good scores are: validated input, one function per metric, :func:`evaluate` for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.floating]
IntArray: TypeAlias = npt.NDArray[np.integer]

CALIBRATION_BINS = 10


@dataclass(frozen=True)
class Evaluation:
    """Named scores of a classifier on one set of tracks."""

    tracks: int
    accuracy: float
    macro_f1: float
    top2_accuracy: float
    calibration_error: float  # expected calibration error, 0 to 1
    confusion: list[list[int]]  # rows: truth, columns: prediction, in label order
    labels: list[str]
    accuracy_by_group: dict[str, float]  # for example by fold
    accuracy_spread: float  # standard deviation over the groups; 0 where there is one


def validate(truth: IntArray, scores: FloatArray, labels: Sequence[str]) -> None:
    """Raise ValueError unless truth is (tracks,) of label indices and scores (tracks, labels)."""
    if truth.ndim != 1 or scores.shape != (len(truth), len(labels)):
        raise ValueError(f"truth {truth.shape} and scores {scores.shape} do not fit together")
    if len(truth) == 0:
        raise ValueError("there are no tracks to evaluate")
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    if truth.min() < 0 or truth.max() >= len(labels):
        raise ValueError("truth holds an index without a label")


def confusion_matrix(truth: IntArray, predicted: IntArray, labels: int) -> IntArray:
    """Counts, int64, (labels, labels): rows truth, columns prediction."""
    matrix = np.zeros((labels, labels), dtype=np.int64)
    np.add.at(matrix, (truth, predicted), 1)
    return matrix


def macro_f1(truth: IntArray, predicted: IntArray, labels: int) -> float:
    """Mean over the labels of the F1 score; 0 for a label that never occurs."""
    from sklearn.metrics import f1_score

    every = range(labels)
    return float(f1_score(truth, predicted, labels=every, average="macro", zero_division=0.0))


def top_k_accuracy(truth: IntArray, scores: FloatArray, k: int) -> float:
    """Share of tracks whose label is among the ``k`` best scores."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float((best == truth[:, None]).any(axis=1).mean())


def calibration_error(
    truth: IntArray, scores: FloatArray, bins: int = CALIBRATION_BINS
) -> float:
    """Expected calibration error: |accuracy - confidence| over equal-width bins of confidence.

    Guo et al. (2017), "On Calibration of Modern Neural Networks", equation 3.

    Returns
    -------
    float
        0 (a confidence of 0.8 is right 80 % of the time) to 1.
    """
    confidence = scores.max(axis=1)
    correct = scores.argmax(axis=1) == truth
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(correct[bin_of == b].mean() - confidence[bin_of == b].mean()) * (bin_of == b).mean()
        for b in np.unique(bin_of)
    ]
    return float(np.sum(gaps))


def merge_labels(
    truth: IntArray, scores: FloatArray, labels: Sequence[str], merged: Sequence[str]
) -> tuple[IntArray, FloatArray, list[str]]:
    """Treat several labels as one: its score is the sum of theirs.

    Returns
    -------
    truth, scores, labels
        The merged label, named "a+b", comes last.

    Raises
    ------
    ValueError
        If ``merged`` names a label that is not there.
    """
    if missing := sorted(set(merged) - set(labels)):
        raise ValueError(f"no such labels: {', '.join(missing)}")
    kept = [index for index, label in enumerate(labels) if label not in merged]
    gone = [index for index, label in enumerate(labels) if label in merged]
    new_index = np.full(len(labels), len(kept))
    new_index[kept] = np.arange(len(kept))
    together = scores[:, gone].sum(axis=1, keepdims=True)
    names = [*(labels[index] for index in kept), "+".join(labels[index] for index in gone)]
    return new_index[truth], np.concatenate([scores[:, kept], together], axis=1), names


def evaluate(
    truth: IntArray,
    scores: FloatArray,
    labels: Sequence[str],
    groups: Sequence[str] | None = None,
) -> Evaluation:
    """All metrics of one set of tracks.

    Parameters
    ----------
    truth : int, shape (tracks,)
        Indices into ``labels``.
    scores : float, shape (tracks, labels)
        Probabilities.
    labels : sequence of str
    groups : sequence of str, optional
        One name per track (its fold); accuracy is given by group too.

    Raises
    ------
    ValueError
        If the shapes do not fit, there are no tracks, or a score is not finite.
    """
    validate(truth, scores, labels)
    predicted = scores.argmax(axis=1)
    correct = predicted == truth
    names = np.array(["all"] * len(truth) if groups is None else list(groups))
    by_group: Mapping[str, float] = {
        str(name): float(correct[names == name].mean()) for name in np.unique(names)
    }
    return Evaluation(
        tracks=len(truth),
        accuracy=float(correct.mean()),
        macro_f1=macro_f1(truth, predicted, len(labels)),
        top2_accuracy=top_k_accuracy(truth, scores, 2),
        calibration_error=calibration_error(truth, scores),
        confusion=confusion_matrix(truth, predicted, len(labels)).tolist(),
        labels=list(labels),
        accuracy_by_group=dict(by_group),
        accuracy_spread=float(np.std(list(by_group.values()))),
    )
