"""Sequence models over spectral frames: recognition and enhancement, causal, in steps.

A model takes frames of features, (batch, frames, inputs), in any cut: what :meth:`forward` gives
for a whole sequence, :meth:`step` gives piece by piece. Between two steps stands the state, a dict
of numpy arrays whose first axis is the batch, so that states of streams can be stacked:

================  =======================================  =================================
name              shape                                    of
================  =======================================  =================================
``hidden``        (batch, layers, hidden_size)             rnn, lstm, gru
``cell``          (batch, layers, hidden_size)             lstm
``context.N``     (batch, context_frames(N), hidden_size)  cnn: the last inputs of layer N
``peak``          (batch, 1), float64                      peak_range > 0: the running peak
``evidence``      (batch, hidden_size + 1), float64        recognition: the weighted sum of all
                                                           hidden vectors, then of the weights
================  =======================================  =================================

:func:`state_to_bytes` writes it as safetensors. All arrays are of the model's
own number type, but for those of float64. torch is imported on loading.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from transforms.errors import CheckpointError
from transforms.models.checkpoint import CONFIG_FILE, SEQUENCE, WEIGHTS_FILE

Array: TypeAlias = npt.NDArray[np.floating[Any]]
State: TypeAlias = dict[str, Array]
Cell = Literal["rnn", "lstm", "gru", "cnn"]
Head = Literal["recognition", "enhancement"]
CELLS: tuple[Cell, ...] = get_args(Cell)

_MOST = 4096  # of any size; load_weights compares what they make together with the weights


@dataclass(frozen=True, kw_only=True)
class SequenceSettings:
    """Shape of a sequence model.

    Raises
    ------
    CheckpointError
        If a value is out of range; the message names it.
    """

    head: Head
    cell: Cell
    inputs: int  # features of a frame
    outputs: int  # labels, or bins of the mask
    hidden_size: int
    layers: int
    kernel_size: int = 3  # frames under one convolution; cnn only
    dilation_cycle: int = 6  # layers after which the dilation begins at 1 again; cnn only
    peak_range: float = 0.0  # frames under the running peak, as deep as this; 0: frames as they are
    peak_decay: float = 0.0  # of the running peak, by frame; both in the units of the inputs
    dropout: float = 0.0  # between layers and in front of the head, in training

    def __post_init__(self) -> None:
        for name, known in {"head": get_args(Head), "cell": CELLS}.items():
            if getattr(self, name) not in known:
                raise CheckpointError(
                    f"sequence model: {name} must be one of {', '.join(known)}, not "
                    f"{getattr(self, name)!r}"
                )
        limits = {"inputs": _MOST, "outputs": _MOST, "hidden_size": _MOST, "layers": 64,
                  "kernel_size": 64, "dilation_cycle": 10}  # fmt: skip
        for name, most in limits.items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise CheckpointError(
                    f"sequence model: {name} must be from 1 to {most}, not {value!r}"
                )
        for name, above in {"dropout": 1.0, "peak_range": 1e3, "peak_decay": 1e3}.items():
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value < above:
                raise CheckpointError(
                    f"sequence model: {name} must be in [0, {above:g}), not {value!r}"
                )

    def dilation(self, layer: int) -> int:
        """Frames from one tap of a layer's convolution to the next."""
        return int(2 ** (layer % self.dilation_cycle))

    def context_frames(self, layer: int) -> int:
        """Earlier frames that a layer's convolution needs."""
        return (self.kernel_size - 1) * self.dilation(layer)


def settings_of(config: Mapping[str, Any]) -> SequenceSettings:
    """The settings in a checkpoint's config.json.

    Raises
    ------
    CheckpointError
        If one is missing or out of range.
    """
    fields = dataclasses.fields(SequenceSettings)
    missing = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in config]
    if missing:
        raise CheckpointError(f"sequence model: config.json states no {', '.join(missing)}")
    return SequenceSettings(**{f.name: config[f.name] for f in fields if f.name in config})


def state_to_bytes(state: Mapping[str, Array]) -> bytes:
    """A state as safetensors."""
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(array) for name, array in state.items()})


def state_from_bytes(content: bytes) -> State:
    """The state that :func:`state_to_bytes` wrote.

    Raises
    ------
    ValueError
        If these bytes are none.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return dict(load(content))
    except SafetensorError as error:
        raise ValueError(f"not the state of a sequence model: {error}") from error


def stack_states(states: Sequence[Mapping[str, Array]]) -> State:
    """States of several streams as one of a batch."""
    return {name: np.concatenate([state[name] for state in states]) for name in states[0]}


def split_state(state: Mapping[str, Array]) -> list[State]:
    """The state of a batch as one for each of its streams, each of batch 1."""
    batch = len(next(iter(state.values())))
    return [{name: array[i : i + 1] for name, array in state.items()} for i in range(batch)]


class SequenceModel:
    """A sequence model for inference: numpy in, numpy out, on the CPU.

    Parameters
    ----------
    network : transforms.models.sequence_network.SequenceNetwork
        Of float32 or float64; used as it is, in evaluation mode.
    half_life_frames : float, optional
        Of recognition: frames after which what was heard counts half. None: all counts alike.
    """

    def __init__(self, network: Any, half_life_frames: float | None = None) -> None:
        self.settings: SequenceSettings = network.settings
        self._network = network.eval()
        if half_life_frames is not None:
            network.head.kept = 0.5 ** (1 / half_life_frames)
        self._type = np.dtype(str(network.input_mean.dtype).removeprefix("torch."))

    def initial_state(self, batch: int = 1) -> State:
        """The state before the first frame."""
        return {name: t.numpy() for name, t in self._network.initial_state(batch).items()}

    def forward(self, frames: Array) -> Array:
        """Outputs of whole sequences.

        Parameters
        ----------
        frames : float, shape (batch, frames, inputs)

        Returns
        -------
        float, shape (batch, frames, outputs)
            Recognition: the running scores, probabilities of the labels by all frames so far,
            whose last are those of the sequence. Enhancement: masks in [0, 1].
        """
        return self.step(frames, self.initial_state(len(frames)))[0]

    def step(self, frames: Array, state: Mapping[str, Array]) -> tuple[Array, State]:
        """Outputs of the frames that come next, 0 or more of them, and the state behind them.

        Parameters
        ----------
        frames : float, shape (batch, frames, inputs)
        state : dict of arrays
            As the call before gave it, or :meth:`initial_state`; it is not changed.
        """
        import torch

        with torch.inference_mode():
            # Copies: torch's own memory lies alike for all, and products can depend on that.
            tensors = {name: torch.tensor(array) for name, array in state.items()}
            outputs, after = self._network(
                torch.tensor(np.asarray(frames, dtype=self._type)), tensors
            )
            if self.settings.head == "recognition":
                outputs = outputs.exp()
            return (
                outputs.to(self._network.input_mean.dtype).numpy(),
                {name: tensor.contiguous().numpy() for name, tensor in after.items()},
            )


def load_weights(folder: Path, settings: SequenceSettings) -> Any:
    """The network of a checkpoint, float32.

    Raises
    ------
    CheckpointError
        If the weights are missing, damaged, or of another shape than the settings say.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from transforms.models.sequence_network import SequenceNetwork

    path = folder / WEIGHTS_FILE
    with torch.device("meta"):  # shapes alone: a configuration may state more than memory holds
        network = SequenceNetwork(settings)
    try:
        # Copies: torch's own memory lies alike for all, and a file may change.
        tensors = {
            name: tensor.to(torch.float32, copy=True) for name, tensor in load_file(path).items()
        }
        network.load_state_dict(tensors, assign=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        line = " ".join(str(error).split())
        raise CheckpointError(f"{path}: not the weights of {settings.cell}: {line}") from error
    return network


def save_weights(network: Any, folder: Path, config: Mapping[str, Any]) -> None:
    """Write config.json (the settings and ``config``) and model.safetensors."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    content = {"model_type": SEQUENCE, **dataclasses.asdict(network.settings), **config}
    (folder / CONFIG_FILE).write_text(json.dumps(content, indent=2) + "\n")
    tensors = {name: t.detach().contiguous() for name, t in network.state_dict().items()}
    save_file(tensors, folder / WEIGHTS_FILE)
    (folder / WEIGHTS_FILE).chmod(0o644)  # safetensors makes it its owner's alone
