"""The vision transformer's forward pass, for inference alone.

The same function as transformers' ``ViTForImageClassification`` (Dosovitskiy et al., 2021), from
the same files, without what labelling does not need:

- The channels of an image are equal, so that one convolution with their summed weights does.
- Query, key and value are one product.
- Behind the last layer only the class token is read, so that only its row is computed there.
- On the CPU the weights are laid out once as oneDNN multiplies them, and it applies the
  activation to a product while that is in its caches.
- In a lower precision are products, attention and activations; the sums that run through all
  layers, the norms, the patches and the classifier are float32.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file

from transforms.errors import CheckpointError
from transforms.models.checkpoint import CONFIG_FILE, WEIGHTS_FILE, image_size
from transforms.models.linear import ACTIVATIONS, Linear, attend, make_linear

Weights: TypeAlias = dict[str, torch.Tensor]

_DEFAULTS = {  # transformers' own, for what a config.json leaves out
    "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    "hidden_act": "gelu", "layer_norm_eps": 1e-12, "patch_size": 16, "num_channels": 3,
    "qkv_bias": True,
}  # fmt: skip
# The names of transformers 5 in memory, as its files and those of version 4 have them.
_IN_FILES = {
    r"vit\.layers\.": "vit.encoder.layer.",
    r"attention\.q_proj": "attention.attention.query",
    r"attention\.k_proj": "attention.attention.key",
    r"attention\.v_proj": "attention.attention.value",
    r"attention\.o_proj": "attention.output.dense",
    r"mlp\.fc1": "intermediate.dense",
    r"mlp\.fc2": "output.dense",
}


@dataclass(frozen=True)
class Shape:
    """The sizes of a ViT, as config.json states them."""

    layers: int
    heads: int
    hidden: int
    intermediate: int
    channels: int
    labels: int
    image: tuple[int, int]
    patch: tuple[int, int]
    qkv_bias: bool
    activation: str
    epsilon: float

    @property
    def grid(self) -> tuple[int, int]:
        """Patches from top to bottom and from left to right."""
        return self.image[0] // self.patch[0], self.image[1] // self.patch[1]

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return 1 + self.grid[0] * self.grid[1]


def read_shape(folder: Path) -> Shape:
    """The sizes that a checkpoint's config.json states.

    Raises
    ------
    CheckpointError
        If its activation is not one of those known here.
    """
    config: dict[str, Any] = _DEFAULTS | json.loads((folder / CONFIG_FILE).read_text())
    if config["hidden_act"] not in ACTIVATIONS:
        raise CheckpointError(
            f"{folder}: hidden_act is {config['hidden_act']!r}; known are "
            f"{', '.join(sorted(ACTIVATIONS))}"
        )
    patch = config["patch_size"]
    return Shape(
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        channels=config["num_channels"],
        labels=len(config["id2label"]),
        image=image_size(config),
        patch=tuple(patch) if isinstance(patch, list) else (patch, patch),
        qkv_bias=config["qkv_bias"],
        activation=config["hidden_act"],
        epsilon=config["layer_norm_eps"],
    )


def _expected(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Every tensor of the checkpoint and its shape."""
    hidden, inner = shape.hidden, shape.intermediate
    tensors: dict[str, tuple[int, ...]] = {
        "vit.embeddings.cls_token": (1, 1, hidden),
        "vit.embeddings.position_embeddings": (1, shape.tokens, hidden),
        "vit.embeddings.patch_embeddings.projection.weight": (
            hidden, shape.channels, *shape.patch,
        ),
        "vit.embeddings.patch_embeddings.projection.bias": (hidden,),
        **_pair("classifier", shape.labels, hidden),
        **_norm("vit.layernorm", hidden),
    }  # fmt: skip
    for index in range(shape.layers):
        layer = f"vit.encoder.layer.{index}"
        for name in ("query", "key", "value"):
            pair = _pair(f"{layer}.attention.attention.{name}", hidden, hidden)
            tensors |= pair if shape.qkv_bias else dict(list(pair.items())[:1])
        tensors |= _pair(f"{layer}.attention.output.dense", hidden, hidden)
        tensors |= _pair(f"{layer}.intermediate.dense", inner, hidden)
        tensors |= _pair(f"{layer}.output.dense", hidden, inner)
        tensors |= _norm(f"{layer}.layernorm_before", hidden)
        tensors |= _norm(f"{layer}.layernorm_after", hidden)
    return tensors


def _pair(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, size: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def read_weights(folder: Path, shape: Shape) -> Weights:
    """The checkpoint's tensors, mapped into memory, by the names that files have.

    Raises
    ------
    CheckpointError
        If tensors are missing, left over or of another shape than config.json says.
    """
    try:
        tensors = load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot load the weights: {error}") from error
    weights = {_name_in_file(name): tensor for name, tensor in tensors.items()}
    expected = _expected(shape)
    problems = {
        "missing": sorted(expected.keys() - weights.keys()),
        "left over": sorted(weights.keys() - expected.keys()),
        "of another shape": sorted(
            f"{name} {tuple(weights[name].shape)} for {size}"
            for name, size in expected.items()
            if name in weights and tuple(weights[name].shape) != size
        ),
    }
    if found := {kind: names for kind, names in problems.items() if names}:
        raise CheckpointError(f"{folder}: weights and config.json disagree: {found}")
    return weights


def _name_in_file(name: str) -> str:
    for pattern, replacement in _IN_FILES.items():
        name = re.sub(pattern, replacement, name)
    return name


class _Norm:
    def __init__(self, weights: Weights, name: str, epsilon: float) -> None:
        self._weight = weights[f"{name}.weight"].float()
        self._bias = weights[f"{name}.bias"].float()
        self._epsilon = epsilon

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        size = self._weight.shape
        return F.layer_norm(hidden, size, self._weight, self._bias, self._epsilon)


class _Layer:
    """One encoder layer: (batch, tokens, hidden) float32 to the same, or to the class token."""

    def __init__(
        self, weights: Weights, index: int, shape: Shape, dtype: torch.dtype, rows: int
    ) -> None:
        name = f"vit.encoder.layer.{index}"
        self._shape, self._dtype = shape, dtype
        self._before = _Norm(weights, f"{name}.layernorm_before", shape.epsilon)
        self._after = _Norm(weights, f"{name}.layernorm_after", shape.epsilon)
        self._last = index == shape.layers - 1
        rows_behind = rows // shape.tokens if self._last else rows
        query, key, value = (f"{name}.attention.attention.{n}" for n in ("query", "key", "value"))
        if self._last:
            self._query: Linear | None = make_linear(weights, [query], dtype, rows_behind)
            self._key_value = make_linear(weights, [key, value], dtype, rows)
        else:
            self._query = None
            self._key_value = make_linear(weights, [query, key, value], dtype, rows)
        self._attended = make_linear(
            weights, [f"{name}.attention.output.dense"], dtype, rows_behind
        )
        self._inner = make_linear(
            weights,
            [f"{name}.intermediate.dense"],
            dtype,
            rows_behind,
            ACTIVATIONS[shape.activation],
        )
        self._outer = make_linear(weights, [f"{name}.output.dense"], dtype, rows_behind)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        normed = self._before(hidden).to(self._dtype)
        if self._query is None:
            query, key, value = self._heads(self._key_value(normed), 3)
        else:
            hidden = hidden[:, :1]
            (query,) = self._heads(self._query(normed[:, :1]), 1)
            key, value = self._heads(self._key_value(normed), 2)
        mixed = attend(query, key, value).transpose(1, 2).flatten(2)
        hidden = hidden + self._attended(mixed)
        inner = self._inner(self._after(hidden).to(self._dtype))
        return hidden + self._outer(inner)

    def _heads(self, joined: torch.Tensor, count: int) -> tuple[torch.Tensor, ...]:
        """(batch, tokens, count * hidden) to ``count`` of (batch, heads, tokens, head size)."""
        batch, tokens, _ = joined.shape
        return (
            joined.view(batch, tokens, count, self._shape.heads, -1).permute(2, 0, 3, 1, 4).unbind()
        )


class ViTNetwork:
    """The forward pass of one checkpoint.

    Parameters
    ----------
    folder : Path
        With config.json and model.safetensors.
    device : {"cpu", "cuda"}
    dtype : torch.dtype
        Of the products: float32 or bfloat16.
    batch_size : int
        Images per call for which the weights are laid out; others are computed, too.

    Raises
    ------
    CheckpointError
        If the weights do not fit the configuration.
    """

    def __init__(self, folder: Path, *, device: str, dtype: torch.dtype, batch_size: int) -> None:
        shape = self._shape = read_shape(folder)
        weights = {n: t.to(device) for n, t in read_weights(folder, shape).items()}
        rows = batch_size * shape.tokens
        projection = "vit.embeddings.patch_embeddings.projection"
        summed = weights[f"{projection}.weight"].float().sum(dim=1).flatten(1)
        patches = {"patches.weight": summed, "patches.bias": weights[f"{projection}.bias"]}
        self._patches = make_linear(patches, ["patches"], torch.float32, rows - batch_size)
        positions = weights["vit.embeddings.position_embeddings"].float()
        self._class_token = weights["vit.embeddings.cls_token"].float() + positions[:, :1]
        self._positions = positions[:, 1:]
        self._layers = [_Layer(weights, i, shape, dtype, rows) for i in range(shape.layers)]
        self._norm = _Norm(weights, "vit.layernorm", shape.epsilon)
        self._classifier = make_linear(weights, ["classifier"], torch.float32, batch_size)

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and the class token in front of the classifier.

        Parameters
        ----------
        images : torch.Tensor
            float32 (images, height, width): the value of all channels.

        Returns
        -------
        logits : torch.Tensor
            float32 (images, labels).
        embeddings : torch.Tensor
            float32 (images, hidden size).
        """
        count, (down, across), (height, width) = len(images), self._shape.grid, self._shape.patch
        patches = images[:, : down * height, : across * width]
        patches = patches.reshape(count, down, height, across, width).transpose(2, 3)
        patches = self._patches(patches.reshape(count, down * across, height * width))
        token = self._class_token.expand(count, -1, -1)
        hidden = torch.cat([token, patches + self._positions], dim=1)
        for layer in self._layers:
            hidden = layer(hidden)
        embeddings = self._norm(hidden[:, 0])
        return self._classifier(embeddings), embeddings
