"""The picture of streams against the whole: what it shows, and that it loses no difference."""

import numpy as np
import pytest
from matplotlib import image

from pipeline.compare_picture import best_labels, largest_of_parts, plot_comparisons
from transforms.streaming.comparing import Comparison

LABELS = ["folk", "jazz", "rock", "pop"]
BLUE, VERMILION, LIMIT, CURVE = (0, 114, 178), (213, 94, 0), (204, 121, 167), (51, 34, 136)


def comparison(differences, scores=None, name="gru"):
    if scores is None:
        scores = np.tile(np.float32([0.1, 0.6, 0.05, 0.25]), (len(differences), 1))
    return Comparison(name, scores, scores, np.float32(differences), True, 0.0, 1.0, 1, 0.025)


def rgb(tmp_path, *found):
    path = tmp_path / "picture.png"
    plot_comparisons(found, LABELS, "a title", path)
    return np.round(image.imread(path)[:, :, :3] * 255).astype(int)


def rows_of(picture, colour):
    """Rows with pixels of a colour."""
    return np.flatnonzero((np.abs(picture - colour).max(axis=2) < 3).any(axis=1))


def test_the_best_labels_come_first():
    scores = np.float32([[0.1, 0.2, 0.3, 0.4], [0.1, 0.7, 0.1, 0.1]])
    assert best_labels(scores) == [1, 3, 2]
    assert best_labels(scores[:, :2]) == [1, 0]
    assert best_labels(np.full((2, 4), 0.25)) == [0, 1, 2]


@pytest.mark.parametrize("count", [1, 7, 10, 23])
def test_no_peak_is_lost_where_points_are_joined(count):
    values = np.random.default_rng(count).uniform(size=count)
    found, size = largest_of_parts(values, most=10)
    assert len(found) <= 10
    expected = [values[at : at + size].max() for at in range(0, count, size)]
    np.testing.assert_array_equal(found, expected)
    assert np.isnan(largest_of_parts(np.array([1, np.nan, 2, 3]), most=2)[0]).tolist() == [
        True,
        False,
    ]


def test_a_row_of_two_panels_for_each_at_1200_pixels(tmp_path):
    one = rgb(tmp_path, comparison([0.0, 1e-7] * 40))
    two = rgb(tmp_path, *[comparison([0.0, 1e-7] * 40)] * 2)
    assert one.shape[1] == two.shape[1] == 1_200
    assert two.shape[0] > 1.6 * one.shape[0]
    for colour in (BLUE, VERMILION, LIMIT, CURVE):
        assert len(rows_of(one, colour)) > 0


def test_a_difference_over_the_limit_is_drawn_over_its_line(tmp_path):
    def panels(largest):
        differences = np.full(50, 1e-8)
        differences[20] = largest
        picture = rgb(tmp_path, comparison(differences))
        return rows_of(picture, CURVE).min(), rows_of(picture, LIMIT).min()

    curve, limit = panels(1e-7)
    assert curve > limit  # rows count from above
    curve, limit = panels(1e-4)
    assert curve < limit


def test_one_frame_of_24_000_is_seen(tmp_path):
    differences = np.full(24_000, 1e-8)
    differences[12_345] = 1e-4
    picture = rgb(tmp_path, comparison(differences))
    assert rows_of(picture, CURVE).min() < rows_of(picture, LIMIT).min()


@pytest.mark.parametrize("odd", [np.nan, np.inf, 0.0])
def test_no_difference_and_no_number_are_drawn(tmp_path, odd):
    assert rgb(tmp_path, comparison([odd] * 5)).shape[1] == 1_200
    assert rgb(tmp_path, comparison([odd])).shape[1] == 1_200
    scores = np.full((5, 4), odd, dtype=np.float32)
    assert rgb(tmp_path, comparison([odd] * 5, scores)).shape[1] == 1_200


def test_samples_are_drawn_by_their_peaks(tmp_path):
    sound = np.sin(np.arange(50_000) / 9).astype(np.float32)[:, None]
    quiet = rgb(tmp_path, comparison(np.zeros(50_000), np.zeros((50_000, 1), np.float32)))
    loud = rgb(tmp_path, comparison(np.zeros(50_000), sound))
    assert len(rows_of(quiet, BLUE)) > 0
    assert not np.array_equal(quiet, loud)


def test_nothing_is_left_open(tmp_path):
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    rgb(tmp_path, comparison([1e-7] * 9))
    assert pyplot.get_fignums() == before
