"""The torch side of the sequence models: causal cells, and what reads them frame by frame.

Everything here takes a state and gives the next one, so that a sequence may come in any cut. The
state is a dict of tensors whose first axis is the batch; transforms.models.sequence documents it.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

from transforms.models.sequence import SequenceSettings

State: TypeAlias = dict[str, torch.Tensor]

_FAR = 1e6  # under anything that is heard
_FRAMES_AT_ONCE = 64  # of a running sum that forgets


class SequenceNetwork(nn.Module):
    """Standardised frames through a causal cell into a head.

    Parameters
    ----------
    settings : SequenceSettings
    """

    input_mean: torch.Tensor  # (inputs,) subtracted, then
    input_scale: torch.Tensor  # (inputs,) multiplied with

    def __init__(self, settings: SequenceSettings) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("input_mean", torch.zeros(settings.inputs))
        self.register_buffer("input_scale", torch.ones(settings.inputs))
        self.level = _RunningPeak(settings) if settings.peak_range else None
        self.cell: nn.Module = (
            _Convolutions(settings) if settings.cell == "cnn" else _Recurrent(settings)
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.head: nn.Module = (
            _Recognition(settings) if settings.head == "recognition" else _Enhancement(settings)
        )

    def initial_state(self, batch: int) -> State:
        """The state before the first frame: zeros."""
        like = self.input_mean
        return {
            **({} if self.level is None else self.level.initial_state(batch, like)),
            **self.cell.initial_state(batch, like),  # type: ignore[operator]
            **self.head.initial_state(batch, like),  # type: ignore[operator]
        }

    def forward(
        self, frames: torch.Tensor, state: State | None = None
    ) -> tuple[torch.Tensor, State]:
        """Outputs of the frames that come next.

        Parameters
        ----------
        frames : (batch, frames, inputs)
        state : dict, optional
            What the call before gave; None before the first frame.

        Returns
        -------
        outputs : (batch, frames, outputs)
            Log-probabilities in float64 (recognition), or masks in [0, 1] (enhancement).
        state : dict
        """
        state = self.initial_state(len(frames)) if state is None else state
        if frames.shape[1] == 0:
            kind = torch.float64 if self.settings.head == "recognition" else frames.dtype
            return frames.new_zeros(len(frames), 0, self.settings.outputs, dtype=kind), state
        levelled, after_level = (frames, {}) if self.level is None else self.level(frames, state)
        scaled = (levelled - self.input_mean) * self.input_scale
        hidden, after_cell = self.cell(scaled, state)
        outputs, after_head = self.head(self.dropout(hidden), state)
        return outputs, {**after_level, **after_cell, **after_head}

    def levelled(self, frames: torch.Tensor) -> torch.Tensor:
        """Whole sequences as they are standardised: referred to the running peak, if at all."""
        if self.level is None:
            return frames
        state = self.level.initial_state(len(frames), self.input_mean)
        found: torch.Tensor = self.level(frames, state)[0]
        return found


class _RunningPeak(nn.Module):
    """Refers each frame to the loudest value so far, which is forgotten slowly.

    A causal stand-in for the reference to a recording's peak: how loud a recording is, and how
    silent its silence, does not matter. Computed in float64: the same in any cut.
    """

    def __init__(self, settings: SequenceSettings) -> None:
        super().__init__()
        self._range, self._decay = settings.peak_range, settings.peak_decay

    def initial_state(self, batch: int, like: torch.Tensor) -> State:
        return {"peak": like.new_full((batch, 1), -_FAR, dtype=torch.float64)}

    def forward(self, frames: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        fallen = self._decay * torch.arange(1, frames.shape[1] + 1, dtype=torch.float64)
        loudest = torch.cummax(frames.double().amax(dim=2) + fallen, dim=1).values
        peaks = torch.maximum(loudest, state["peak"]) - fallen
        under = (frames - peaks[:, :, None]).clamp_min(-self._range)
        return under.to(frames.dtype), {"peak": peaks[:, -1:]}


class _Recurrent(nn.Module):
    """PyTorch's own RNN (tanh), LSTM or GRU."""

    def __init__(self, settings: SequenceSettings) -> None:
        super().__init__()
        self._layers, self._size = settings.layers, settings.hidden_size
        self._has_cell = settings.cell == "lstm"
        kind: Any = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[settings.cell]
        self.layers = kind(
            settings.inputs,
            settings.hidden_size,
            settings.layers,
            batch_first=True,
            dropout=settings.dropout if settings.layers > 1 else 0.0,
        )

    def initial_state(self, batch: int, like: torch.Tensor) -> State:
        names = ("hidden", "cell") if self._has_cell else ("hidden",)
        return {name: like.new_zeros(batch, self._layers, self._size) for name in names}

    def forward(self, frames: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        hidden = state["hidden"].transpose(0, 1).contiguous()
        if not self._has_cell:
            outputs, hidden = self.layers(frames, hidden)
            return outputs, {"hidden": hidden.transpose(0, 1)}
        cell = state["cell"].transpose(0, 1).contiguous()
        outputs, (hidden, cell) = self.layers(frames, (hidden, cell))
        return outputs, {"hidden": hidden.transpose(0, 1), "cell": cell.transpose(0, 1)}


class _Convolutions(nn.Module):
    """Residual blocks of causal convolutions, whose dilation doubles from layer to layer.

    A temporal convolutional network (Bai et al., 2018, arXiv:1803.01271) with layer
    normalisation, which looks at one frame only.
    """

    def __init__(self, settings: SequenceSettings) -> None:
        super().__init__()
        size = settings.hidden_size
        self._contexts = [settings.context_frames(layer) for layer in range(settings.layers)]
        self.project = nn.Linear(settings.inputs, size)
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in self._contexts)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(size, size, settings.kernel_size, dilation=settings.dilation(layer))
            for layer in range(settings.layers)
        )
        self.mixes = nn.ModuleList(nn.Linear(size, size) for _ in self._contexts)
        self.dropout = nn.Dropout(settings.dropout)
        self._size = size

    def initial_state(self, batch: int, like: torch.Tensor) -> State:
        return {
            f"context.{layer}": like.new_zeros(batch, frames, self._size)
            for layer, frames in enumerate(self._contexts)
        }

    def forward(self, frames: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        hidden = self.project(frames)
        after: State = {}
        for layer, context in enumerate(self._contexts):
            name = f"context.{layer}"
            seen = torch.cat([state[name], self.norms[layer](hidden)], dim=1)
            after[name] = seen[:, seen.shape[1] - context :]
            mixed = self.convolutions[layer](seen.transpose(1, 2)).transpose(1, 2)
            hidden = hidden + self.mixes[layer](self.dropout(F.gelu(mixed)))
        return hidden, after


class _Recognition(nn.Module):
    """A running label: the classifier on the weighted mean of all hidden vectors so far.

    Each frame states its own weight (a gate), so that silence need not count. The sums are kept
    in float64: whatever the cut, they are the same sums. For streams without end what was heard
    may be forgotten: ``kept`` is the part of the sums that one frame leaves to the next.
    """

    def __init__(self, settings: SequenceSettings) -> None:
        super().__init__()
        self.gate = nn.Linear(settings.hidden_size, 1)
        self.classifier = nn.Linear(settings.hidden_size, settings.outputs)
        self._size = settings.hidden_size
        self.kept = 1.0

    def initial_state(self, batch: int, like: torch.Tensor) -> State:
        zeros = like.new_zeros(batch, self._size + 1, dtype=torch.float64)
        return {"evidence": zeros}

    def forward(self, hidden: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        weight = torch.sigmoid(self.gate(hidden)).double() + 1e-6  # never a division by zero
        weighted = torch.cat([weight * hidden.double(), weight], dim=2)
        evidence = running_sums(weighted, state["evidence"], self.kept)
        pooled = evidence[..., :-1] / evidence[..., -1:]
        logits = F.linear(pooled, self.classifier.weight.double(), self.classifier.bias.double())
        return F.log_softmax(logits, dim=-1), {"evidence": evidence[:, -1]}


def running_sums(values: torch.Tensor, before: torch.Tensor, kept: float) -> torch.Tensor:
    """Sums in which each step leaves the part ``kept`` of what was there.

    Parameters
    ----------
    values : float64, (batch, frames, n)
    before : float64, (batch, n)
        The sums before the first frame.
    kept : float
        In (0, 1].

    Returns
    -------
    float64, (batch, frames, n)
        ``sums[t] = kept * sums[t - 1] + values[t]``.
    """
    if kept == 1.0:
        return before[:, None] + values.cumsum(dim=1)
    parts = []
    for part in torch.split(values, _FRAMES_AT_ONCE, dim=1):
        steps = torch.arange(part.shape[1], dtype=torch.float64)
        ages = steps[:, None] - steps
        weights = torch.where(ages >= 0, kept ** ages.clamp_min(0), 0.0)
        parts.append(weights @ part + (kept ** (steps + 1))[:, None] * before[:, None])
        before = parts[-1][:, -1]
    return torch.cat(parts, dim=1)


class _Enhancement(nn.Module):
    """A magnitude mask for every frame, by its own hidden vector."""

    def __init__(self, settings: SequenceSettings) -> None:
        super().__init__()
        self.mask = nn.Linear(settings.hidden_size, settings.outputs)

    def initial_state(self, batch: int, like: torch.Tensor) -> State:
        return {}

    def forward(self, hidden: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        return torch.sigmoid(self.mask(hidden)), {}
