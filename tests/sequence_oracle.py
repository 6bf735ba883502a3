"""The sequence models by hand: frame by frame in numpy and float64, from the file's tensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import soundfile as sf
from safetensors.numpy import load_file
from scipy.special import erf, log_softmax

from transforms.models.front_end import FrontEnd

Weights = dict[str, Any]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _gates(weights: Weights, layer: int, x, h, count: int):
    """What comes from the input and from the layer itself, for each gate."""
    mine = {kind: weights[f"cell.layers.{kind}_l{layer}"] for kind in
            ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}  # fmt: skip
    return (
        np.split(mine["weight_ih"] @ x + mine["bias_ih"], count),
        np.split(mine["weight_hh"] @ h + mine["bias_hh"], count),
    )


def _rnn(weights, layer, x, state):
    (x,), (h,) = _gates(weights, layer, x, state[0], 1)
    return (np.tanh(x + h),)


def _gru(weights, layer, x, state):
    (xr, xz, xn), (hr, hz, hn) = _gates(weights, layer, x, state[0], 3)
    reset, update = sigmoid(xr + hr), sigmoid(xz + hz)
    return ((1 - update) * np.tanh(xn + reset * hn) + update * state[0],)


def _lstm(weights, layer, x, state):
    xs, hs = _gates(weights, layer, x, state[0], 4)
    enter, forget, new, leave = (x + h for x, h in zip(xs, hs, strict=True))
    cell = sigmoid(forget) * state[1] + sigmoid(enter) * np.tanh(new)
    return sigmoid(leave) * np.tanh(cell), cell


CELLS: dict[str, Callable[..., Any]] = {"rnn": _rnn, "gru": _gru, "lstm": _lstm}


def _recurrent(weights: Weights, config: dict[str, Any], frames) -> Iterator[Any]:
    zeros = np.zeros(config["hidden_size"])
    states = [(zeros, zeros)] * config["layers"]
    for x in frames:
        for layer in range(config["layers"]):
            states[layer] = CELLS[config["cell"]](weights, layer, x, states[layer])
            x = states[layer][0]
        yield x


def _convolved(weights: Weights, config: dict[str, Any], frames):
    hidden = frames @ weights["cell.project.weight"].T + weights["cell.project.bias"]
    taps = config["kernel_size"]
    for layer in range(config["layers"]):
        mine = {name.removeprefix("cell."): tensor for name, tensor in weights.items()}
        deviation = np.sqrt(hidden.var(axis=1, keepdims=True) + 1e-5)
        normed = (hidden - hidden.mean(axis=1, keepdims=True)) / deviation
        normed = normed * mine[f"norms.{layer}.weight"] + mine[f"norms.{layer}.bias"]
        mixed = np.tile(mine[f"convolutions.{layer}.bias"], (len(frames), 1))
        for tap in range(taps):
            late = (taps - 1 - tap) * 2 ** (layer % config["dilation_cycle"])
            kernel = mine[f"convolutions.{layer}.weight"][:, :, tap]
            for t in range(late, len(frames)):
                mixed[t] += kernel @ normed[t - late]
        active = mixed * (1 + erf(mixed / np.sqrt(2))) / 2
        hidden = hidden + active @ mine[f"mixes.{layer}.weight"].T + mine[f"mixes.{layer}.bias"]
    return hidden


def hidden_vectors(folder: Path, frames):
    """(frames, hidden) of one sequence (frames, inputs), and the tensors in float64."""
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors").items()
    weights = {name: tensor.astype(np.float64) for name, tensor in tensors}
    scaled = (frames.astype(np.float64) - weights["input_mean"]) * weights["input_scale"]
    if config["cell"] == "cnn":
        return _convolved(weights, config, scaled), weights
    return np.stack(list(_recurrent(weights, config, scaled))), weights


def recognised(folder: Path, frames):
    """Log-probabilities and the pooled vector after all of (frames, inputs)."""
    hidden, weights = hidden_vectors(folder, frames)
    gates = sigmoid(hidden @ weights["head.gate.weight"][0] + weights["head.gate.bias"]) + 1e-6
    pooled = (gates[:, None] * hidden).sum(axis=0) / gates.sum()
    logits = weights["head.classifier.weight"] @ pooled + weights["head.classifier.bias"]
    return log_softmax(logits), pooled


def full_scale_frames(samples, front_end: FrontEnd):
    """(frames, n_mels) of a window in [-1, ...], by librosa."""
    mel = librosa.feature.melspectrogram(
        y=samples,
        sr=front_end.sample_rate_hz,
        n_fft=front_end.n_fft,
        hop_length=front_end.hop_length,
        n_mels=front_end.n_mels,
        fmin=front_end.fmin_hz,
        fmax=front_end.fmax_hz,
    )
    decibels = librosa.power_to_db(mel, ref=1.0, top_db=None)
    return np.maximum(decibels, -front_end.top_db).T * 2 / front_end.top_db + 1


def recognised_file(folder: Path, path: Path, front_end: FrontEnd):
    """Each window's log-probabilities, pooled vector and samples of a file at the front end's rate.

    Its windows lie side by side.
    """
    samples, rate = sf.read(path, dtype="float32", always_2d=True)
    assert (rate, front_end.hop_seconds) == (front_end.sample_rate_hz, front_end.window_seconds)
    found = []
    for start in range(0, len(samples), front_end.window_samples):
        window = samples[start : start + front_end.window_samples].mean(axis=1)
        frames = full_scale_frames(window, front_end)
        assert len(frames) == 1 + len(window) // front_end.hop_length
        found.append((*recognised(folder, frames), len(window)))
    return found
