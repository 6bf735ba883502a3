"""Pictures of results: what they show, and that they leave nothing behind."""

import numpy as np
import pytest
from matplotlib import image

from pipeline.plots import plot_confusion, plot_learning_curves
from transforms.models.metrics import Evaluation

LABELS = ["folk", "jazz", "rock & roll"]
CURVE = {
    "step": [10, 20, 30],
    "train_loss": [1.0, 0.6, 0.5],
    "validation_loss": [1.1, 0.9, 0.95],
    "validation_accuracy": [0.3, 0.6, 0.6],
}


@pytest.fixture(autouse=True)
def no_display(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)


def evaluation(confusion):
    return Evaluation(
        tracks=int(np.sum(confusion)), accuracy=0.5, macro_f1=0.5, top2_accuracy=0.8,
        calibration_error=0.1, confusion=np.array(confusion).tolist(), labels=LABELS,
        accuracy_by_group={"all": 0.5}, accuracy_spread=0.0,
    )  # fmt: skip


def pixels(path):
    """Height, width and RGB of a PNG, 0 to 1."""
    return image.imread(path)[:, :, :3]


def blue_share(picture):
    """Share of pixels of the colour map's darkest blue, that of a whole row in one cell."""
    dark_blue = np.array([8, 48, 107]) / 255
    return (np.abs(picture - dark_blue).max(axis=2) < 0.01).mean()


def confusion_picture(path, confusion):
    plot_confusion(evaluation(confusion), "a title", path)
    return pixels(path)


def test_a_confusion_matrix_is_shaded_by_the_share_of_each_row(tmp_path):
    diagonal = confusion_picture(tmp_path / "a.png", np.diag([1, 20, 300]))
    even = confusion_picture(tmp_path / "b.png", np.full((3, 3), 7))
    assert diagonal.shape == even.shape
    assert blue_share(diagonal) > 3 * blue_share(even)
    cells = diagonal.shape[0] * diagonal.shape[1] * blue_share(diagonal)
    assert cells > 3 * 40 * 40  # the three cells, whatever their counts


def test_a_label_without_tracks_is_drawn_empty(tmp_path):
    empty = confusion_picture(tmp_path / "a.png", np.diag([5, 0, 5]))
    full = confusion_picture(tmp_path / "b.png", np.diag([5, 5, 5]))
    assert 0 < blue_share(empty) < blue_share(full)


def colours(path):
    picture = pixels(path).reshape(-1, 3)
    return {tuple(colour) for colour in np.round(picture * 255).astype(int)}


@pytest.mark.parametrize("validated", [True, False])
def test_each_fold_has_a_colour_of_its_own(tmp_path, validated):
    curve = CURVE if validated else {**CURVE, "validation_loss": [], "validation_accuracy": []}
    plot_learning_curves([curve], tmp_path / "one.png")
    plot_learning_curves([curve, {**curve, "train_loss": [1.3, 1.2, 0.9]}], tmp_path / "two.png")
    blue, orange = (31, 119, 180), (255, 127, 14)
    assert blue in colours(tmp_path / "one.png") & colours(tmp_path / "two.png")
    assert orange not in colours(tmp_path / "one.png")
    assert orange in colours(tmp_path / "two.png")


def test_validation_is_drawn_where_there_is_one(tmp_path):
    plot_learning_curves([CURVE], tmp_path / "with.png")
    without = {**CURVE, "validation_loss": [], "validation_accuracy": []}
    plot_learning_curves([without], tmp_path / "without.png")
    blue = [
        (np.abs(pixels(tmp_path / name) - np.array([31, 119, 180]) / 255).max(axis=2) < 0.01).sum()
        for name in ("with.png", "without.png")
    ]
    assert blue[0] > 1.3 * blue[1] > 0


def test_pictures_leave_no_figures_open(tmp_path):
    """pyplot would keep every figure that it makes, and warn at the 21st."""
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    plot_confusion(evaluation(np.eye(3, dtype=int)), "title", tmp_path / "a.png")
    plot_learning_curves([CURVE], tmp_path / "b.png")
    assert pyplot.get_fignums() == before
