from __future__ import annotations

import json
import math
import pickle
import resource
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoints import Booby, edit_config, make_recogniser, random_network
from tests.sequence_oracle import hidden_vectors, recognised, sigmoid
from transforms.errors import CheckpointError
from transforms.models.checkpoint import read_config
from transforms.models.sequence import (
    CELLS,
    SequenceModel,
    SequenceSettings,
    load_weights,
    save_weights,
    settings_of,
    split_state,
    stack_states,
    state_from_bytes,
    state_to_bytes,
)

HEADS = ("recognition", "enhancement")
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}


def shape(head="recognition", cell="gru", **changes) -> SequenceSettings:
    sizes = {"inputs": 5, "outputs": 3, "hidden_size": 7, "layers": 2, **changes}
    return SequenceSettings(head=head, cell=cell, **sizes)


def make_model(settings, number_type="float32", seed=0) -> SequenceModel:
    # Rounding grows where a layer amplifies: in float32 within 1e-6 only where it does not.
    network = random_network(settings, seed, gain=1.5 if number_type == "float64" else 0.6)
    return SequenceModel(network.double() if number_type == "float64" else network)


def random_frames(batch, length, seed=0, inputs=5):
    return np.random.default_rng(seed).normal(size=(batch, length, inputs)).astype(np.float32)


lengths_and_cuts = st.integers(0, 300).flatmap(
    lambda length: st.tuples(
        st.just(length), st.lists(st.integers(0, length), max_size=10).map(sorted)
    )
)
"""A length, and where it is cut: pieces may be empty, or single frames."""


# Steps


@pytest.mark.parametrize("number_type", TOLERANCE)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("cell", CELLS)
@settings(max_examples=20, deadline=None)
@given(
    cut=lengths_and_cuts, layers=st.integers(1, 4), batch=st.integers(1, 8), seed=st.integers(0, 99)
)
def test_steps_equal_the_whole_sequence(cell, head, number_type, cut, layers, batch, seed):
    length, cuts = cut
    model = make_model(shape(head, cell, layers=layers, dilation_cycle=3), number_type, seed)
    frames = random_frames(batch, length, seed)
    whole = model.forward(frames)
    assert (whole.shape, whole.dtype) == ((batch, length, 3), np.dtype(number_type))
    state, parts = model.initial_state(batch), []
    for first, last in zip([0, *cuts], [*cuts, length], strict=True):
        outputs, state = model.step(frames[:, first:last], state)
        parts.append(outputs)
        state = state_from_bytes(state_to_bytes(state))
    tolerance = TOLERANCE[number_type]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=0, atol=tolerance)
    assert np.isfinite(whole).all()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("cell", CELLS)
def test_single_frames_equal_the_whole_sequence(cell, head):
    model, frames = make_model(shape(head, cell)), random_frames(3, 120)
    state, parts = model.initial_state(3), []
    for t in range(120):
        outputs, state = model.step(frames[:, t : t + 1], state)
        parts.append(outputs)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), model.forward(frames), atol=1e-6)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("cell", CELLS)
def test_outputs_do_not_know_of_later_frames(cell, head):
    model = make_model(shape(head, cell, layers=3), "float64")
    frames, other = random_frames(2, 90), random_frames(2, 90, 1)
    other[:, :50] = frames[:, :50]
    first, second = model.forward(frames), model.forward(other)
    np.testing.assert_allclose(first[:, :50], second[:, :50], rtol=0, atol=1e-12)
    assert np.abs(first[:, 50:] - second[:, 50:]).max() > 1e-3
    other[:, 50:] = np.nan
    np.testing.assert_allclose(model.forward(other)[:, :50], first[:, :50], rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_streams_in_one_batch_do_not_know_of_each_other(cell):
    model, frames = make_model(shape(cell=cell)), random_frames(5, 40)
    together, states = model.step(frames, model.initial_state(5))
    for stream, expected, state in zip(frames, together, split_state(states), strict=True):
        alone, own = model.step(stream[None], model.initial_state())
        np.testing.assert_allclose(alone[0], expected, atol=1e-6)
        for name in own:
            np.testing.assert_allclose(own[name], state[name], atol=1e-5)


def test_a_step_changes_neither_frames_nor_state():
    for cell in CELLS:
        model, frames = make_model(shape(cell=cell)), random_frames(2, 9)
        _, state = model.step(frames, model.initial_state(2))
        before = {name: array.copy() for name, array in state.items()}
        model.step(frames, state)
        np.testing.assert_array_equal(frames, random_frames(2, 9))
        for name, array in before.items():
            np.testing.assert_array_equal(state[name], array)


def test_frames_and_states_may_be_read_only():
    model, frames = make_model(shape()), random_frames(1, 9)
    expected = model.forward(frames)
    frames.flags.writeable = False
    state = model.initial_state()
    for array in state.values():
        array.flags.writeable = False
    np.testing.assert_array_equal(model.step(frames, state)[0], expected)


# Against the equations


@pytest.mark.parametrize("cell", CELLS)
def test_running_scores_are_those_of_the_equations(tmp_path, cell):
    folder = make_recogniser(tmp_path, cell, hidden_size=9)
    frames = random_frames(1, 45, inputs=20)
    model = SequenceModel(load_weights(folder, settings_of(read_config(folder))))
    scores = model.forward(frames)[0]
    np.testing.assert_allclose(scores.sum(axis=1), 1.0, atol=1e-6)
    for t in (0, 1, 20, 44):
        expected, _ = recognised(folder, frames[0, : t + 1])
        np.testing.assert_allclose(scores[t], np.exp(expected), atol=1e-5)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_masks_are_those_of_the_equations(tmp_path, cell, layers):
    network = random_network(shape("enhancement", cell, layers=layers, dilation_cycle=2))
    save_weights(network, tmp_path, {})
    frames = random_frames(1, 30)
    hidden, weights = hidden_vectors(tmp_path, frames[0])
    expected = sigmoid(hidden @ weights["head.mask.weight"].T + weights["head.mask.bias"])
    masks = SequenceModel(network).forward(frames)[0]
    assert masks.min() >= 0
    assert masks.max() <= 1
    np.testing.assert_allclose(masks, expected, atol=1e-5)


def test_dropout_is_for_training_alone():
    for cell in CELLS:
        model = make_model(shape(cell=cell, dropout=0.9))
        frames = random_frames(2, 20)
        np.testing.assert_array_equal(model.forward(frames), model.forward(frames))


# States


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("rnn", {"hidden": (2, 2, 7)}),
        ("gru", {"hidden": (2, 2, 7)}),
        ("lstm", {"hidden": (2, 2, 7), "cell": (2, 2, 7)}),
        ("cnn", {"context.0": (2, 2, 7), "context.1": (2, 4, 7)}),
    ],
)
def test_a_state_is_as_documented(cell, names):
    model = make_model(shape(cell=cell))
    fresh = model.initial_state(2)
    _, used = model.step(random_frames(2, 3), fresh)
    for state in (fresh, used):
        shapes = {name: array.shape for name, array in state.items()}
        assert shapes == {**names, "evidence": (2, 8)}
        assert {array.dtype for name, array in state.items() if name != "evidence"} == {
            np.dtype(np.float32)
        }
        assert state["evidence"].dtype == np.float64
    assert not any(array.any() for array in fresh.values())
    assert make_model(shape("enhancement", cell)).initial_state(2).keys() == names.keys()


@pytest.mark.parametrize("number_type", TOLERANCE)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("cell", CELLS)
def test_states_round_trip(cell, head, number_type):
    model = make_model(shape(head, cell), number_type)
    _, state = model.step(random_frames(4, 11), model.initial_state(4))
    parts = split_state(state)
    assert len(parts) == 4
    assert all(len(array) == 1 for part in parts for array in part.values())
    for other in (state_from_bytes(state_to_bytes(state)), stack_states(parts)):
        assert other.keys() == state.keys()
        for name, array in state.items():
            assert other[name].dtype == array.dtype
            np.testing.assert_array_equal(other[name], array)


def test_states_of_streams_of_different_lengths_stack():
    model = make_model(shape())
    first, second = (model.step(random_frames(1, n, n), model.initial_state())[1] for n in (5, 60))
    frames = random_frames(2, 8, 3)
    together, _ = model.step(frames, stack_states([second, first]))
    for stream, state, found in zip(frames, (second, first), together, strict=True):
        np.testing.assert_allclose(model.step(stream[None], state)[0][0], found, atol=1e-6)


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00" * 40, pickle.dumps({"hidden": [0.0]})])
def test_bytes_that_are_no_state(content):
    with pytest.raises(ValueError, match="not the state of a sequence model"):
        state_from_bytes(content)


@pytest.mark.parametrize("kept", [3, 50, -1])
def test_cut_off_bytes_are_no_state(kept):
    content = state_to_bytes(make_model(shape()).initial_state())
    with pytest.raises(ValueError, match="not the state of a sequence model"):
        state_from_bytes(content[:kept])


# Settings and files


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, bad) for name in ("inputs", "outputs", "hidden_size", "layers", "kernel_size",
                                   "dilation_cycle")
          for bad in (0, -1, 10**9, 2.0, "3", None, True, math.nan)),
        ("layers", 65),
        ("dilation_cycle", 11),
        ("hidden_size", 4_097),
        ("dropout", -0.1),
        ("dropout", 1),
        ("dropout", math.nan),
        ("dropout", "0.1"),
        ("cell", "transformer"),
        ("cell", None),
        ("cell", ["gru"]),
        ("head", "translation"),
        ("head", 1),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(CheckpointError, match=name):
        shape(**{name: value})


def test_settings_of_a_configuration():
    stated = {"head": "recognition", "cell": "cnn", "inputs": 5, "outputs": 3, "hidden_size": 7,
              "layers": 2, "kernel_size": 5, "model_type": "catalog_sequence"}  # fmt: skip
    assert settings_of(stated) == shape(cell="cnn", kernel_size=5)
    with pytest.raises(CheckpointError, match="states no cell, layers"):
        settings_of({n: v for n, v in stated.items() if n not in ("cell", "layers")})


def test_context_is_what_a_convolution_needs():
    settings = shape(cell="cnn", kernel_size=4, dilation_cycle=3, layers=5)
    assert [settings.dilation(layer) for layer in range(5)] == [1, 2, 4, 1, 2]
    assert [settings.context_frames(layer) for layer in range(5)] == [3, 6, 12, 3, 6]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("cell", CELLS)
def test_saved_and_loaded_it_is_the_same(tmp_path, cell, head):
    network = random_network(shape(head, cell))
    save_weights(network, tmp_path / "new", {"note": "kept"})
    config = read_config(tmp_path / "new", ("catalog_sequence",))
    assert config["note"] == "kept"
    assert settings_of(config) == shape(head, cell)
    loaded = SequenceModel(load_weights(tmp_path / "new", settings_of(config)))
    frames = random_frames(2, 15)
    np.testing.assert_array_equal(loaded.forward(frames), SequenceModel(network).forward(frames))
    assert (tmp_path / "new" / "model.safetensors").stat().st_mode & 0o777 == 0o644


@pytest.fixture
def folder(tmp_path):
    return make_recogniser(tmp_path / "model", "lstm", hidden_size=7)


def load(folder):
    return load_weights(folder, settings_of(json.loads((folder / "config.json").read_text())))


def test_a_configuration_alone_makes_nothing_large(folder):
    edit_config(folder, hidden_size=1024, layers=32)  # a gigabyte of float32
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not the weights of lstm"):
        load(folder)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < (100_000_000 if sys.platform == "darwin" else 100_000)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("head", HEADS)
def test_the_largest_configuration_is_compared_at_once(tmp_path, cell, head):
    save_weights(random_network(shape(head, cell)), tmp_path, {})
    edit_config(tmp_path, hidden_size=4096, layers=64, kernel_size=64)
    with pytest.raises(CheckpointError, match=f"not the weights of {cell}"):
        load(tmp_path)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_cut_off_weights_are_refused(folder, kept):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not the weights of lstm"):
        load(folder)


@pytest.mark.parametrize(
    "change",
    [{"cell": "gru"}, {"hidden_size": 8}, {"layers": 3}, {"outputs": 5}, {"inputs": 21},
     {"head": "enhancement"}],
    ids=str,
)  # fmt: skip
def test_weights_of_another_shape_are_refused(folder, change):
    edit_config(folder, **change)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not the weights of"):
        load(folder)


def test_missing_weights_are_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load(folder)


def test_a_pickle_is_never_opened(folder, tmp_path):
    written = tmp_path / "written-by-the-pickle"
    torch.save(Booby(written), folder / "model.safetensors")
    with pytest.raises(CheckpointError):
        load(folder)
    assert not written.exists()
