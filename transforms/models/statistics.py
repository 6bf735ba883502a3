"""A teacher for small data: second-order statistics of an image, and a kernel classifier.

Means, deviations and correlations of the first cepstral coefficients with an RBF kernel tell
genres apart from a few hundred tracks, where a transformer alone learns the artists by heart.
The teacher labels as many augmented windows as a model cares to see (knowledge distillation,
Hinton et al., 2015).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import fft

FloatArray: TypeAlias = npt.NDArray[np.float32]

_SMALLEST_DEVIATION = 1e-2  # of a coefficient, in image units; silence has none


def image_statistics(images: FloatArray, coefficients: int = 20) -> FloatArray:
    """Statistics of the cepstral coefficients over time.

    Parameters
    ----------
    images : float32, shape (images, height, width)
        Mel bands by time.
    coefficients : int
        Number n of orthonormal DCT-II coefficients of each column.

    Returns
    -------
    float32, shape (images, 3 n + n (n - 1) / 2)
        Means, log deviations, log deviations of the differences, correlations.
    """
    cepstrum = fft.dct(images, axis=1, norm="ortho")[:, :coefficients]
    mean = cepstrum.mean(axis=2)
    centred = cepstrum - mean[:, :, None]
    deviation = centred.std(axis=2) + _SMALLEST_DEVIATION
    change = np.diff(cepstrum, axis=2).std(axis=2) + _SMALLEST_DEVIATION
    scaled = centred / deviation[:, :, None]
    correlation = scaled @ scaled.transpose(0, 2, 1) / scaled.shape[2]
    first, second = np.triu_indices(coefficients, 1)
    parts = [mean, np.log(deviation), np.log(change), correlation[:, first, second]]
    return np.asarray(np.concatenate(parts, axis=1), dtype=np.float32)


def statistics_weights(coefficients: int = 20) -> FloatArray:
    """How much each statistic counts in a regression, float32 (features,), mean 1.

    The many correlations together count as much as the means and deviations together.
    """
    plain, pairs = 3 * coefficients, coefficients * (coefficients - 1) // 2
    weights = np.concatenate([np.ones(plain), np.full(pairs, plain / pairs)])
    return np.asarray(weights / weights.mean(), dtype=np.float32)


class StatisticsTeacher:
    """Logistic regression on a Nystroem map of the RBF kernel, classes weighted equally.

    Parameters
    ----------
    landmarks : int
        Components of the kernel map.
    strength : float
        Inverse regularisation of the logistic regression.
    seed : int
    """

    def __init__(self, *, landmarks: int = 1000, strength: float = 3.0, seed: int = 0) -> None:
        self._landmarks = landmarks
        self._strength = strength
        self._seed = seed
        self._model: Any = None

    def fit(self, statistics: FloatArray, truth: npt.NDArray[np.int64]) -> StatisticsTeacher:
        """Fit on statistics (windows, features) and label indices (windows,)."""
        from sklearn.kernel_approximation import Nystroem
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        kernel = Nystroem(
            gamma=1 / statistics.shape[1],
            n_components=min(self._landmarks, len(statistics)),
            random_state=self._seed,
        )
        regression = LogisticRegression(C=self._strength, max_iter=300, class_weight="balanced")
        self._model = make_pipeline(StandardScaler(), kernel, regression)
        self._model.fit(statistics, truth)
        return self

    def predict(self, statistics: FloatArray) -> FloatArray:
        """Probabilities, float32, (windows, labels)."""
        return np.asarray(self._model.predict_proba(statistics), dtype=np.float32)
