"""The products of a transformer: linear layers with weights laid out ahead, and attention."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F

Linear: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""(..., inputs) of its number type to (..., outputs) of the same."""


@dataclass(frozen=True)
class Activation:
    """What follows a product, also under the name by which oneDNN takes it into the product."""

    function: Linear
    name: str
    algorithm: str = ""


NO_ACTIVATION = Activation(lambda x: x, "none")
_TANH_GELU = Activation(lambda x: F.gelu(x, approximate="tanh"), "gelu", "tanh")
_SILU = Activation(F.silu, "swish")
ACTIVATIONS = {  # by the names of transformers' config.json
    "gelu": Activation(F.gelu, "gelu", "none"),
    "gelu_new": _TANH_GELU,
    "gelu_pytorch_tanh": _TANH_GELU,
    "relu": Activation(F.relu, "none"),  # by itself: oneDNN's makes 0 of NaN
    "silu": _SILU,
    "swish": _SILU,
}


def make_linear(
    weights: Mapping[str, torch.Tensor],
    names: Sequence[str],
    dtype: torch.dtype,
    rows: int,
    activation: Activation = NO_ACTIVATION,
) -> Linear:
    """Join linear layers on the same input to one.

    Parameters
    ----------
    weights : mapping
        ``NAME.weight`` (outputs, inputs), and ``NAME.bias`` (outputs,) where there is one.
    names : sequence of str
        The layers, whose outputs stand side by side.
    dtype : torch.dtype
        To multiply in.
    rows : int
        Rows of the input for which to lay the weights out; others are computed, too.
    activation : Activation
        Of the outputs.
    """
    weight = torch.cat([weights[f"{name}.weight"] for name in names]).to(dtype)
    biases = [weights[f"{name}.bias"] for name in names if f"{name}.bias" in weights]
    bias = torch.cat(biases).to(dtype) if biases else None
    if weight.device.type == "cpu" and _packs(dtype):
        return _Packed(weight, bias, rows, activation)
    return lambda inputs: activation.function(F.linear(inputs, weight, bias))


def _packs(dtype: torch.dtype) -> bool:
    """Whether weights of a number type can be laid out for oneDNN on this processor.

    The operators are those that torch.compile itself uses in a frozen graph.
    """
    ops = torch.ops.mkldnn
    needed = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    if platform.machine() not in ("x86_64", "AMD64") or not all(hasattr(ops, n) for n in needed):
        return False
    return dtype == torch.float32 or bool(ops._is_mkldnn_bf16_supported())


class _Packed:
    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, rows: int, activation: Activation
    ) -> None:
        self._bias = bias
        self._activation = activation
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, rows)

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        activation = self._activation
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            inputs,
            self._weight,
            self._bias,
            activation.name,
            [],
            activation.algorithm,
        )
        return activation.function(product) if activation.name == "none" else product


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Scaled dot-product attention; all are (batch, heads, tokens, head size).

    PyTorch's own, but on the CPU for bfloat16, where plain products were measured to take half
    its time, and for a single query: products with a single row come out of the BLAS library in
    the last digit as the row lies in memory, that is, by its place in the batch.
    """
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value)
    scaled = query * query.shape[-1] ** -0.5
    if query.shape[-2] == 1:
        weights = torch.softmax((scaled.float() * key.float()).sum(-1), dim=-1)
        mixed = (weights.unsqueeze(-1) * value.float()).sum(-2, keepdim=True)
        return mixed.to(query.dtype)
    if query.dtype == torch.float32:
        return F.scaled_dot_product_attention(query, key, value)
    return torch.matmul(torch.softmax(torch.matmul(scaled, key.transpose(-2, -1)), dim=-1), value)
