"""The teacher's statistics against a naive computation, and what it learns."""

import numpy as np
import pytest
from scipy import fft

from transforms.models.statistics import StatisticsTeacher, image_statistics, statistics_weights


def images(count, seed=0, size=(16, 12)):
    return np.random.default_rng(seed).uniform(-1, 1, (count, *size)).astype(np.float32)


def test_statistics_of_each_image():
    batch = images(3)
    found = image_statistics(batch, coefficients=5)
    assert found.shape == (3, 3 * 5 + 10)
    for row, image in zip(found, batch, strict=True):
        cepstrum = fft.dct(image.astype(float), axis=0, norm="ortho")[:5]
        np.testing.assert_allclose(row[:5], cepstrum.mean(axis=1), atol=1e-5)
        np.testing.assert_allclose(row[5:10], np.log(cepstrum.std(axis=1) + 0.01), atol=1e-4)
        change = np.diff(cepstrum, axis=1).std(axis=1)
        np.testing.assert_allclose(row[10:15], np.log(change + 0.01), atol=1e-4)
        deviation = cepstrum.std(axis=1)
        shrunk = np.outer(deviation, deviation) / np.outer(deviation + 0.01, deviation + 0.01)
        expected = (np.corrcoef(cepstrum) * shrunk)[np.triu_indices(5, 1)]
        np.testing.assert_allclose(row[15:], expected, atol=1e-4)


def test_constant_images_have_finite_statistics():
    assert np.isfinite(image_statistics(np.full((2, 32, 8), -1, np.float32))).all()


def test_weights_balance_plain_statistics_and_correlations():
    weights = statistics_weights(20)
    assert weights.shape == (3 * 20 + 190,)
    assert weights.mean() == pytest.approx(1.0)
    assert weights[:60].sum() == pytest.approx(weights[60:].sum(), rel=1e-5)


def test_teacher_tells_classes_apart_that_differ_in_correlation_only():
    """Equal means and deviations; in one class two bands move together."""
    rng = np.random.default_rng(0)
    batch = rng.normal(0, 0.3, (120, 8, 40)).astype(np.float32)
    truth = np.arange(120) % 2
    batch[truth == 1, 1] = batch[truth == 1, 0]
    statistics = image_statistics(batch, coefficients=8)
    teacher = StatisticsTeacher(landmarks=60).fit(statistics[:80], truth[:80])
    scores = teacher.predict(statistics[80:])
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    assert (scores.argmax(axis=1) == truth[80:]).mean() > 0.9


def test_rare_classes_weigh_as_much_as_common_ones():
    """With nothing to learn from, scores are even, not those of the class sizes."""
    rng = np.random.default_rng(1)
    statistics = rng.normal(size=(300, 4)).astype(np.float32)
    truth = (np.arange(300) % 10 == 0).astype(np.int64)
    teacher = StatisticsTeacher(landmarks=20, strength=0.01).fit(statistics, truth)
    scores = teacher.predict(statistics)
    assert scores[:, 1].mean() == pytest.approx(0.5, abs=0.05)
