"""The recognisers' training: its batches, its loss, what it asks a model, and that it learns."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from pipeline.fit_recogniser import (
    RecogniserBatch,
    RecogniserLearner,
    RecogniserRecipe,
    Sequences,
    to_curve,
    to_decibels,
    to_frames,
    to_line,
)
from tests.training_sets import training_set
from transforms.models.checkpoint import load_checkpoint
from transforms.models.front_end import FrontEnd
from transforms.models.recogniser import Recogniser
from transforms.models.sequence import SequenceModel
from transforms.sequence_augment import SequenceAugmentation

FRONT_END = FrontEnd(
    sample_rate_hz=8_000, n_fft=256, hop_length=160, n_mels=8, fmin_hz=60.0, fmax_hz=4_000.0,
    top_db=80.0, image_height=8, image_width=51, window_seconds=1.0, hop_seconds=1.0,
    remove_dc=False, reference="full_scale",
)  # fmt: skip
NOTHING = SequenceAugmentation(
    stretch=0.0, warp=0.0, eq_db=0.0, gain_db=0.0, noise=0.0, trim=0.0, pad_frames=0,
    mask_bands=0, mask_frames=0,
)  # fmt: skip
RECIPE = RecogniserRecipe(
    front_end=FRONT_END, cell="gru", epochs=2, hidden_size=8, layers=1, batch_size=4, seed=5,
    augmentation=NOTHING,
)  # fmt: skip
TRUTH = [0, 0, 0, 0, 0, 0, 1, 1, 1]
WINDOWS_OF = [1, 2, 1, 1, 1, 1, 1, 1, 2]


@pytest.fixture(scope="module")
def data():
    """Nine tracks of eleven windows of 3 to 13 frames; b is louder in the upper bands."""
    rng = np.random.default_rng(0)
    truth = np.repeat(TRUTH, WINDOWS_OF)
    images = []
    for index, label in enumerate(truth):
        image = rng.uniform(-0.9, 0.3, (3 + index, 8))
        image[:, 4:] += 0.6 * label
        images.append(image.astype(np.float16))
    return training_set(TRUTH, WINDOWS_OF, images=images)


def test_decibels_and_back():
    """A front end's image says -1 at its floor and 1 at full scale."""
    frames = np.array([[-1.0, 0.0, 1.0]], np.float16)
    assert to_decibels(frames, FRONT_END).tolist() == [[-80.0, -40.0, 0.0]]
    back = to_frames(to_decibels(frames, FRONT_END), FRONT_END)
    assert back.tolist() == frames.tolist()
    assert back.dtype == np.float32


def rows(batches):
    """Each window of some batches: its frames without the padding, its truth and its weight."""
    return [
        (batch.frames[i, : batch.last[i] + 1], int(batch.truth[i]), float(batch.weights[i]))
        for batch in batches
        for i in range(len(batch.truth))
    ]


def test_an_epoch_sees_every_window_of_its_tracks_once(data):
    tracks = np.array([0, 1, 6, 8])
    sequences = Sequences(data, tracks, RECIPE)
    batches = list(sequences.epoch(0))
    assert len(batches) == sequences.batches_per_epoch == 2
    chosen = np.flatnonzero(np.isin(data.windows.track, tracks))
    found = sorted(rows(batches), key=lambda row: len(row[0]))  # all differ in length
    assert len(found) == len(chosen) == 6
    for (frames, truth, _), window in zip(found, chosen, strict=True):
        np.testing.assert_allclose(frames, data.windows.images[window], atol=1e-3)
        assert truth == TRUTH[data.windows.track[window]]


def test_all_labels_count_alike(data):
    """Seven windows of a and four of b; of one label alone as well."""
    found = rows(Sequences(data, np.arange(9), RECIPE).epoch(0))
    sums = [sum(weight for _, truth, weight in found if truth == label) for label in (0, 1)]
    np.testing.assert_allclose(sums, [5.5, 5.5], rtol=1e-5)
    alone = rows(Sequences(data, np.arange(4), RECIPE).epoch(0))
    assert [weight for _, _, weight in alone] == [1.0] * 5


def test_epochs_repeat_and_differ(data):
    recipe = dataclasses.replace(RECIPE, augmentation=SequenceAugmentation())
    sequences, again = (Sequences(data, np.arange(9), recipe) for _ in range(2))
    list(sequences.epoch(0))  # what was drawn before is of no matter
    one, two = list(sequences.epoch(1)), list(again.epoch(1))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.frames, b.frames)
        np.testing.assert_array_equal(a.truth, b.truth)
    other = list(again.epoch(2))
    assert [b.frames.shape for b in other] != [b.frames.shape for b in one] or not np.array_equal(
        other[0].frames, one[0].frames
    )
    for a, b in zip(sequences.sample(), again.sample(), strict=True):
        np.testing.assert_array_equal(a, b)


def under_the_running_peak(image, range_db, decay_db):
    """Frame by frame: decibels under the loudest so far, which falls a little each frame."""
    peak, found = -np.inf, []
    for frame in (image.astype(np.float64) - 1) * 40:  # decibels of full scale
        peak = max(peak - decay_db * 160 / 8_000, frame.max())
        found.append(np.maximum(frame - peak, -range_db))
    return np.array(found) / 40


@pytest.mark.parametrize("range_db", [0.0, 30.0])
def test_inputs_are_standardised_by_sound_alone(data, range_db):
    """Mean and deviation over the frames of all windows, none of them padding."""
    recipe = dataclasses.replace(RECIPE, epochs=1, peak_range_db=range_db, peak_decay_db=200.0)
    network = RecogniserLearner(recipe).fit(data, np.arange(9), name="x", seed=1).model
    images = data.windows.images
    if range_db:
        images = [under_the_running_peak(image, range_db, 200.0) for image in images]
    frames = np.concatenate([image.astype(np.float64) for image in images])
    np.testing.assert_allclose(network.input_mean, frames.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(network.input_scale, 1 / frames.std(axis=0, ddof=1), rtol=1e-3)


def test_the_loss_is_a_smoothed_weighted_cross_entropy_at_the_last_frame():
    rng = np.random.default_rng(0)
    log_probs = log_softmax(rng.normal(size=(3, 6, 2)), axis=2)
    batch = RecogniserBatch(
        frames=np.zeros((3, 6, 8), np.float32),
        last=np.array([5, 0, 3]),
        truth=np.array([1, 0, 1]),
        weights=np.array([1.5, 0.5, 1.0], np.float32),
    )
    learner = RecogniserLearner(dataclasses.replace(RECIPE, label_smoothing=0.2))
    found = learner._loss(lambda frames: (torch.from_numpy(log_probs), {}), batch)
    expected = 0.0
    for row, last, truth, weight in ((0, 5, 1, 1.5), (1, 0, 0, 0.5), (2, 3, 1, 1.0)):
        at_end = log_probs[row, last]
        target = np.full(2, 0.1)
        target[truth] += 0.8
        expected -= weight * (target @ at_end) / 3
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.fixture(scope="module")
def trained(data):
    learner = RecogniserLearner(dataclasses.replace(RECIPE, epochs=40))
    return learner, learner.fit(data, np.arange(9), name="all", seed=1)


def test_windows_are_asked_alone_and_in_their_order(data, trained):
    """The padding of a batch changes nothing: each equals itself alone, by the model in use."""
    learner, found = trained
    tracks = np.array([1, 4, 8])
    log_probs = learner.log_probs(found.model, data, tracks)
    windows = np.flatnonzero(np.isin(data.windows.track, tracks))
    model = SequenceModel(found.model)
    assert log_probs.shape == (len(windows), 2)
    for row, window in zip(log_probs, windows, strict=True):
        alone = model.forward(data.windows.images[window][None].astype(np.float32))[0, -1]
        np.testing.assert_allclose(np.exp(row), alone, atol=1e-5)


def test_learns_what_can_be_learnt(data, trained):
    learner, found = trained
    predicted = learner.log_probs(found.model, data, np.arange(9)).argmax(axis=1)
    assert predicted.tolist() == np.repeat(TRUTH, WINDOWS_OF).tolist()
    assert found.best_step == 40
    assert found.curve["train_loss"][-1] < found.curve["train_loss"][0]


def test_held_out_tracks_are_validated_by_track(data):
    learner = RecogniserLearner(RECIPE)
    found = learner.fit(
        data, np.array([0, 1, 2, 6, 7]), name="x", seed=1, held_out=np.array([3, 4, 5, 8])
    )
    assert len(found.curve["validation_loss"]) == 2
    assert set(found.curve["validation_accuracy"]) <= {0, 0.25, 0.5, 0.75, 1.0}


def test_a_saved_recogniser_has_cooler_scores(data, trained, tmp_path):
    learner, found = trained
    images = [data.windows.images[w][None].astype(np.float32) for w in range(4)]
    before = [np.log(SequenceModel(found.model).forward(image)[0, -1]) for image in images]
    weights = {name: tensor.clone() for name, tensor in found.model.state_dict().items()}
    learner.save(found, tmp_path / "m", ("a", "b"), temperature=2.0, unknown_threshold=0.4)
    found.model.load_state_dict(weights)
    checkpoint = load_checkpoint(str(tmp_path / "m"))
    assert (checkpoint.labels, checkpoint.unknown_threshold) == (("a", "b"), 0.4)
    assert checkpoint.front_end == FRONT_END
    in_use = Recogniser(checkpoint.folder)
    for image, log_probs in zip(images, before, strict=True):
        found = in_use.predict(image.transpose(0, 2, 1), np.array([image.shape[1]]))
        np.testing.assert_allclose(found.log_probs[0], log_softmax(log_probs / 2.0), atol=1e-4)


def test_an_epoch_in_a_line():
    metrics = {"epoch": 3.0, "train_loss": 0.123456}
    assert to_line(metrics) == "epoch 3, train loss 0.1235"


def test_curves_have_a_vit_s_names():
    history = [{"epoch": 1.0, "train_loss": 0.5, "validation_loss": 0.6,
                "validation_accuracy": 0.7}]  # fmt: skip
    assert to_curve(history) == {
        "step": [1.0], "train_loss": [0.5], "validation_loss": [0.6],
        "validation_accuracy": [0.7],
    }  # fmt: skip
    assert to_curve([{"epoch": 1.0, "train_loss": 0.5}])["validation_loss"] == []
