"""Sequence models that have learned nothing: any cell, in the place of one that has."""

from __future__ import annotations

import dataclasses
from typing import Any

from transforms.models.sequence import Cell

_BIAS = 0.2
_HEAD_GAINS: dict[Cell, float] = {"rnn": 4.0, "lstm": 16.0, "gru": 8.0, "cnn": 1.5}
"""The hidden vectors of an LSTM are small, those of convolutions that are added up large."""


def untrained_like(network: Any, cell: Cell, seed: int) -> Any:
    """A network of the same size and input with another cell, and with random weights.

    They are wider than those that a training begins with, whose scores hardly depend on the
    sound: a layer passes on about as much as it gets, and labels are told apart.

    Parameters
    ----------
    network : transforms.models.sequence_network.SequenceNetwork
        Of head recognition; what it subtracts from its frames and multiplies them with is kept.
    cell : {"rnn", "lstm", "gru", "cnn"}
    seed : int

    Returns
    -------
    transforms.models.sequence_network.SequenceNetwork
        The same for the same seed; torch's own random numbers are left as they were.
    """
    import torch

    from transforms.models.sequence_network import SequenceNetwork

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        made = SequenceNetwork(dataclasses.replace(network.settings, cell=cell))
        for name, parameter in made.named_parameters():
            if "norms" in name:
                continue
            inputs = parameter.numel() / len(parameter)
            gain = _HEAD_GAINS[cell] if name.startswith("head") else 1.0
            wide = gain / inputs**0.5 if parameter.dim() > 1 else _BIAS
            torch.nn.init.normal_(parameter, std=wide)
        made.input_mean.copy_(network.input_mean)
        made.input_scale.copy_(network.input_scale)
    return made
