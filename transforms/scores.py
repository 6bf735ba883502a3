"""From the windows' scores to a track's label.

Scores are the softmax of the mean of the windows' log-probabilities, weighted by the seconds of
sound in each window (the geometric mean of their probabilities). A best score under the
checkpoint's threshold, or a track without any sound, is labelled ``unknown``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transforms.records import UNKNOWN_LABEL, FloatArray, WindowPrediction


@dataclass(frozen=True)
class LabelRule:
    """How scores become a label."""

    labels: tuple[str, ...]
    unknown_threshold: float = 0.0
    top_k: int = 5


def mean_scores(log_probs: FloatArray, weights: FloatArray) -> FloatArray:
    """Softmax of the weighted mean of log-probabilities.

    Parameters
    ----------
    log_probs : float32, shape (windows, labels)
    weights : float32, shape (windows,), not negative
        Where all are 0 every window weighs the same.

    Returns
    -------
    float32, shape (labels,), in [0, 1], summing to 1
    """
    weights = weights.astype(np.float64)
    if not weights.any():
        weights = np.ones_like(weights)
    # A probability of 0 in one window must not turn into 0 * -inf = NaN.
    finite = np.maximum(log_probs.astype(np.float64), np.log(np.finfo(np.float32).tiny))
    mean = (weights[:, None] * finite).sum(axis=0) / weights.sum()
    scores = np.exp(mean - mean.max())
    return np.asarray(scores / scores.sum(), dtype=np.float32)


def choose_label(scores: FloatArray, rule: LabelRule, *, has_sound: bool = True) -> str:
    """The label of the best score, or ``unknown`` (see the module)."""
    best = int(scores.argmax())
    if not has_sound or scores[best] < rule.unknown_threshold:
        return UNKNOWN_LABEL
    return rule.labels[best]


def top_scores(scores: FloatArray, rule: LabelRule) -> list[dict[str, Any]]:
    """The ``top_k`` labels with their scores, best first; ties in label order."""
    order = np.argsort(-scores, kind="stable")[: rule.top_k]
    return [{"label": rule.labels[i], "score": float(scores[i])} for i in order]


def mean_embedding(windows: Sequence[WindowPrediction], weights: FloatArray) -> list[float] | None:
    """Weighted mean of the windows' embeddings, (hidden,), or None where there are none."""
    vectors = [w.embedding for w in windows if w.embedding is not None]
    if len(vectors) != len(windows):
        return None
    chosen = weights if weights.any() else np.ones_like(weights)
    mean: list[float] = np.average(vectors, axis=0, weights=chosen).astype(np.float32).tolist()
    return mean
