"""Networks that have learned nothing."""

import numpy as np
import pytest
import torch

from tests.checkpoints import random_network
from transforms.models.sequence import CELLS, SequenceModel, SequenceSettings
from transforms.models.untrained import untrained_like


def trained():
    settings = SequenceSettings(
        head="recognition", cell="gru", inputs=20, outputs=5, hidden_size=64, layers=2,
        peak_range=1.0, peak_decay=0.01,
    )  # fmt: skip
    return random_network(settings, seed=7)


def weights(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@pytest.mark.parametrize("cell", CELLS)
def test_size_and_input_are_those_of_the_other(cell):
    like = trained()
    made = untrained_like(like, cell, seed=0)
    assert made.settings.cell == cell
    assert {**vars(made.settings), "cell": "gru"} == vars(like.settings)
    assert torch.equal(made.input_mean, like.input_mean)
    assert torch.equal(made.input_scale, like.input_scale)
    assert not any(torch.equal(a, b) for a, b in zip(made.parameters(), like.parameters(),
                                                     strict=False) if a.dim() > 1)  # fmt: skip


@pytest.mark.parametrize("cell", CELLS)
def test_the_seed_alone_decides(cell):
    like = trained()
    first = weights(untrained_like(like, cell, seed=0))
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    assert torch.equal(weights(untrained_like(like, cell, seed=0)), first)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.equal(weights(untrained_like(like, cell, seed=1)), first)


@pytest.mark.parametrize("cell", CELLS)
def test_its_scores_depend_on_what_is_heard(cell):
    random = np.random.default_rng(0)
    model = SequenceModel(untrained_like(trained(), cell, seed=0))
    frames = random.uniform(-1, 1, (2, 50, 20)).astype(np.float32)
    one, other = model.forward(frames)
    assert np.abs(one - other).max() > 0.1  # where a training begins: 0.002 to 0.05
    assert np.ptp(one[-1]) > 0.1
