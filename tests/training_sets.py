"""Labelled tracks as arrays, made by hand for tests of what trains and judges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.cross_validation import TrainingSet
from pipeline.prepare import WindowSet


def training_set(
    truth: Sequence[int],
    windows_of: Sequence[int],
    content_s: Sequence[float] | None = None,
    artists: Sequence[str] | None = None,
    folds: Sequence[int] | None = None,
    images: Any = None,
) -> TrainingSet:
    """Tracks of the labels a and b with so many windows each; images are zeros unless given."""
    owner = np.repeat(np.arange(len(truth)), windows_of)
    contents = np.ones(len(owner)) if content_s is None else np.array(content_s)
    images = np.zeros((len(owner), 2, 2), np.float32) if images is None else images
    return TrainingSet(
        labels=("a", "b"),
        truth=np.array(truth),
        artists=tuple(artists or map(str, range(len(truth)))),
        folds=np.array(folds or [0] * len(truth)),
        segments=[],
        windows=WindowSet(images, owner, contents, {}),
    )
