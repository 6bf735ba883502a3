"""Metrics against scikit-learn's and against numbers worked out by hand."""

import numpy as np
import pytest
from sklearn import metrics as sk

from transforms.models.metrics import calibration_error, evaluate, merge_labels

LABELS = ["classical", "electronic", "pop", "rock"]


@pytest.fixture
def case():
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 4, 200)
    scores = rng.dirichlet(np.ones(4), 200)
    scores[np.arange(200), truth] += 0.3
    return truth, scores / scores.sum(axis=1, keepdims=True)


def test_equals_scikit_learn(case):
    truth, scores = case
    predicted = scores.argmax(axis=1)
    found = evaluate(truth, scores, LABELS)
    assert found.tracks == 200
    assert found.accuracy == pytest.approx(sk.accuracy_score(truth, predicted))
    assert found.macro_f1 == pytest.approx(sk.f1_score(truth, predicted, average="macro"))
    assert found.top2_accuracy == pytest.approx(sk.top_k_accuracy_score(truth, scores, k=2))
    assert found.confusion == sk.confusion_matrix(truth, predicted).tolist()


def test_by_group(case):
    truth, scores = case
    groups = ["a"] * 50 + ["b"] * 150
    found = evaluate(truth, scores, LABELS, groups)
    right = scores.argmax(axis=1) == truth
    expected = {"a": right[:50].mean(), "b": right[50:].mean()}
    assert found.accuracy_by_group == pytest.approx(expected)
    assert found.accuracy_spread == pytest.approx(abs(right[:50].mean() - right[50:].mean()) / 2)


def test_calibration_error_by_hand():
    # Confidence 0.9 twice, right once: |0.5 - 0.9|; confidence 0.6 twice, right twice: |1 - 0.6|.
    scores = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    assert calibration_error(np.array([0, 1, 0, 0]), scores) == pytest.approx(0.4)


def test_a_calibrated_classifier_has_no_error():
    scores = np.tile([0.75, 0.25], (4, 1))
    assert calibration_error(np.array([0, 0, 0, 1]), scores) == pytest.approx(0.0)


def test_merged_labels():
    scores = np.array([[0.1, 0.2, 0.3, 0.4], [0.4, 0.1, 0.3, 0.2]])
    truth, merged, labels = merge_labels(np.array([2, 0]), scores, LABELS, ["pop", "rock"])
    assert labels == ["classical", "electronic", "pop+rock"]
    np.testing.assert_allclose(merged, [[0.1, 0.2, 0.7], [0.4, 0.1, 0.5]])
    assert truth.tolist() == [2, 0]


def test_unknown_label_cannot_be_merged():
    with pytest.raises(ValueError, match="jazz"):
        merge_labels(np.array([0]), np.ones((1, 4)) / 4, LABELS, ["jazz", "rock"])


@pytest.mark.parametrize(
    ("truth", "scores", "message"),
    [
        ([0, 1], np.ones((3, 4)), "do not fit"),
        ([], np.ones((0, 4)), "no tracks"),
        ([0], np.full((1, 4), np.nan), "finite"),
        ([4], np.ones((1, 4)), "without a label"),
    ],
)
def test_what_cannot_be_evaluated(truth, scores, message):
    with pytest.raises(ValueError, match=message):
        evaluate(np.array(truth, dtype=int), scores, LABELS)
