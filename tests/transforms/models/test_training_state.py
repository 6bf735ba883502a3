"""The state of a training on disk: what comes back, and what is refused."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from transforms.errors import CheckpointError
from transforms.models.training_state import (
    optimiser_tensors,
    read_state,
    restore_optimiser,
    under,
    write_state,
)

SETTINGS = {"steps": 3, "rates": (0.1, 0.2)}
STREAM = np.random.default_rng(0).bit_generator.state  # integers of 128 bits


@pytest.fixture
def path(tmp_path):
    write_state(tmp_path / "fold-0.safetensors", {"a.b": torch.arange(6.0)}, STREAM, SETTINGS)
    return tmp_path / "fold-0.safetensors"


def test_what_is_written_is_read(path):
    tensors, facts = read_state(path, SETTINGS)
    assert tensors["a.b"].tolist() == [0, 1, 2, 3, 4, 5]
    assert facts == STREAM
    generator = np.random.default_rng(9)
    generator.bit_generator.state = facts
    assert generator.random() == np.random.default_rng(0).random()


def test_it_is_plain_safetensors(path):
    np.testing.assert_array_equal(load_file(path)["a.b"], np.arange(6.0))


def test_tensors_that_share_memory_and_views(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    path = tmp_path / "s.safetensors"
    write_state(path, {"whole": whole, "same": whole, "turned": whole.T}, {}, {})
    tensors, _ = read_state(path, {})
    assert torch.equal(tensors["same"], whole)
    assert torch.equal(tensors["turned"], whole.T)


def test_no_state(tmp_path):
    assert read_state(tmp_path / "none.safetensors", {}) is None


def test_a_state_of_other_settings_is_refused(path):
    with pytest.raises(CheckpointError, match=r"fold-0\.safetensors.*other settings; remove it"):
        read_state(path, {**SETTINGS, "steps": 4})


@pytest.mark.parametrize("kept", [0, 5, 100])
def test_a_damaged_state_is_refused(path, kept):
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"fold-0\.safetensors: not the state.*remove it"):
        read_state(path, SETTINGS)


def test_other_safetensors_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match="not the state"):
        read_state(tmp_path / "weights.safetensors", {})


def test_a_state_takes_the_place_of_the_one_before_as_a_whole(path, monkeypatch):
    """A kill while it is written leaves the one before, and a draft that does no harm."""
    from safetensors import torch as safetensors

    def half(tensors, draft, metadata):
        draft.write_bytes(b"half of it")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(safetensors, "save_file", half)
        with pytest.raises(KeyboardInterrupt):
            write_state(path, {"a.b": torch.zeros(1)}, {}, SETTINGS)
    assert len(list(path.parent.iterdir())) == 2
    assert read_state(path, SETTINGS)[1] == STREAM
    write_state(path, {"a.b": torch.zeros(1)}, {}, SETTINGS)
    assert [found.name for found in path.parent.iterdir()] == [path.name]
    assert read_state(path, SETTINGS)[1] == {}


def test_names_under_a_prefix():
    tensors = {"best.a": torch.zeros(1), "best.b.c": torch.ones(1), "average.a": torch.ones(1)}
    assert list(under("best.", tensors)) == ["a", "b.c"]


def test_an_optimiser_goes_on_as_if_nothing_had_happened():
    def start():
        torch.manual_seed(0)
        network = torch.nn.Linear(3, 2)
        return network, torch.optim.AdamW(network.parameters(), lr=0.1)

    def step(network, optimiser, number):
        optimiser.zero_grad()
        network(torch.full((1, 3), float(number))).square().sum().backward()
        optimiser.step()

    network, optimiser = start()
    for number in range(4):
        step(network, optimiser, number)
        if number == 1:
            parameters = dict(network.named_parameters())
            kept = {n: t.clone() for n, t in optimiser_tensors(optimiser, parameters).items()}
            weights = {n: t.clone() for n, t in network.state_dict().items()}
    other, fresh = start()
    other.load_state_dict(weights)
    restore_optimiser(fresh, dict(other.named_parameters()), kept)
    for number in (2, 3):
        step(other, fresh, number)
    assert json.dumps(sorted(kept)) == json.dumps(
        [f"optimiser.{key}.{name}" for key in ("exp_avg", "exp_avg_sq", "step")
         for name in ("bias", "weight")]
    )  # fmt: skip
    assert torch.equal(other.weight, network.weight)
