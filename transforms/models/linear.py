"""The products of a transformer: linear layers with weights laid out ahead, and attention."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F

Linear: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""(..., inputs) of its number type to (..., outputs) of the same."""


def make_linear(
    weights: Mapping[str, torch.Tensor], names: Sequence[str], dtype: torch.dtype, rows: int
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
    """
    weight = torch.cat([weights[f"{name}.weight"] for name in names]).to(dtype)
    biases = [weights[f"{name}.bias"] for name in names if f"{name}.bias" in weights]
    bias = torch.cat(biases).to(dtype) if biases else None
    if weight.device.type == "cpu" and _packs(dtype):
        return _Packed(weight, bias, rows)
    return lambda inputs: F.linear(inputs, weight, bias)


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
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, rows: int) -> None:
        self._bias = bias
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, rows)

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            inputs, self._weight, self._bias, "none", [], ""
        )
        return product


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Scaled dot-product attention; all are (batch, heads, tokens, head size).

    PyTorch's own, but on the CPU for bfloat16, where plain products were measured to take half
    its time, and for a single query, whose result depended on its place in the batch.
    """
    single = query.shape[-2] == 1
    if query.device.type != "cpu" or (query.dtype == torch.float32 and not single):
        return F.scaled_dot_product_attention(query, key, value)
    scores = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(-2, -1))
    return torch.matmul(torch.softmax(scores, dim=-1), value)
