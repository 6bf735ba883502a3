"""A torchvision ``vit_b_16`` state dict as a transformers checkpoint.

Sizes are read from the tensors, so vit_b_32, vit_l_16 and smaller ones of the same build
convert too. The file is opened with ``weights_only=True``: it can hold tensors and nothing
that runs.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transforms.errors import CheckpointError
from transforms.models.checkpoint import THRESHOLD_KEY, check_image_size, read_threshold
from transforms.models.front_end import FrontEnd
from transforms.models.trainable_vit import save_checkpoint

if TYPE_CHECKING:
    import torch

HEAD_SIZE = 64  # every ViT of Dosovitskiy et al. (2021), table 1, has heads of 64
_LAYER = re.compile(r"encoder\.layers\.encoder_layer_(\d+)\.(.+)\.(weight|bias)")
_EMBEDDINGS = {
    "class_token": "vit.embeddings.cls_token",
    "conv_proj.weight": "vit.embeddings.patch_embeddings.projection.weight",
    "conv_proj.bias": "vit.embeddings.patch_embeddings.projection.bias",
    "encoder.pos_embedding": "vit.embeddings.position_embeddings",
    "encoder.ln.weight": "vit.layernorm.weight",
    "encoder.ln.bias": "vit.layernorm.bias",
}
_SIZED = {  # what configuration() reads sizes from
    "vit.embeddings.patch_embeddings.projection.weight",
    "vit.embeddings.position_embeddings",
    "vit.layers.0.mlp.fc1.weight",
    "classifier.weight",
}
_MODULES = {
    "ln_1": "layernorm_before",
    "ln_2": "layernorm_after",
    "self_attention.out_proj": "attention.o_proj",
    "mlp.0": "mlp.fc1",
    "mlp.3": "mlp.fc2",
    "mlp.linear_1": "mlp.fc1",  # torchvision 0.12's names
    "mlp.linear_2": "mlp.fc2",
}


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a ``.pth`` file, on the CPU.

    A dictionary that holds the state dict under ``state_dict`` or ``model`` is unwrapped, and
    the prefix ``module.`` of data-parallel training is taken off.

    Raises
    ------
    CheckpointError
        If the file cannot be read, holds more than tensors, or is no state dict.
    """
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path}: not a file of tensors alone ({reason}); "
            "save model.state_dict(), not the model"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path}: holds no state dict")
    if not all(isinstance(tensor, torch.Tensor) for tensor in content.values()):
        raise CheckpointError(f"{path}: holds more than tensors; save model.state_dict() alone")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def convert_state_dict(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename and split torchvision's tensors to the names of transformers' ViT.

    Raises
    ------
    CheckpointError
        If a tensor has no place in transformers' ViT, which has one linear layer as its head.
    """
    heads = [name for name in state if name.startswith("heads.") and state[name].dim() == 2]
    if len(heads) != 1:
        raise CheckpointError(
            f"the head has {len(heads)} linear layers; only a single one can be converted"
        )
    head = heads[0].removesuffix(".weight")
    converted: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if name in _EMBEDDINGS:
            converted[_EMBEDDINGS[name]] = tensor
        elif name.startswith(f"{head}."):
            converted["classifier." + name.removeprefix(f"{head}.")] = tensor
        else:
            converted.update(_convert_layer(name, tensor))
    return converted


def _convert_layer(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    in_projection = re.fullmatch(
        r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj_(weight|bias)", name
    )
    if in_projection:
        index, kind = in_projection.groups()
        prefix = f"vit.layers.{index}.attention"
        parts = zip("qkv", tensor.chunk(3), strict=True)
        return {f"{prefix}.{letter}_proj.{kind}": part.clone() for letter, part in parts}
    layer = _LAYER.fullmatch(name)
    if layer and layer[2] in _MODULES:
        return {f"vit.layers.{layer[1]}.{_MODULES[layer[2]]}.{layer[3]}": tensor}
    raise CheckpointError(f"tensor {name!r} is not one of torchvision's VisionTransformer")


def configuration(
    tensors: Mapping[str, torch.Tensor], labels: Sequence[str], heads: int | None = None
) -> dict[str, Any]:
    """The ViTConfig that fits the converted tensors.

    The tensors do not show the number of attention heads: None means heads of ``HEAD_SIZE``.

    Raises
    ------
    CheckpointError
        If a tensor is missing, or the number of labels is not that of the logits.
    """
    if missing := sorted(_SIZED - tensors.keys()):
        raise CheckpointError(f"tensors are missing that become {', '.join(missing)}")
    hidden_size, channels, patch_height, patch_width = tensors[
        "vit.embeddings.patch_embeddings.projection.weight"
    ].shape
    patches = tensors["vit.embeddings.position_embeddings"].shape[1] - 1
    logits = tensors["classifier.weight"].shape[0]
    if len(labels) != logits:
        raise CheckpointError(f"the model has {logits} logits, but {len(labels)} labels are given")
    if heads is not None and hidden_size % heads:
        raise CheckpointError(f"{heads} heads do not divide a hidden size of {hidden_size}")
    if patch_height != patch_width or round(patches**0.5) ** 2 != patches:
        raise CheckpointError("torchvision's VisionTransformer has square patches and images")
    return {
        "hidden_size": hidden_size,
        "num_hidden_layers": len({n for n in tensors if n.endswith("layernorm_before.weight")}),
        "num_attention_heads": heads or max(1, hidden_size // HEAD_SIZE),
        "intermediate_size": tensors["vit.layers.0.mlp.fc1.weight"].shape[0],
        "image_size": round(patches**0.5) * patch_height,
        "patch_size": patch_height,
        "num_channels": channels,
        "layer_norm_eps": 1e-6,  # torchvision's
        "hidden_act": "gelu",
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }


def convert(
    source: Path,
    output: Path,
    *,
    labels: Sequence[str],
    front_end: FrontEnd,
    unknown_threshold: float = 0.0,
    heads: int | None = None,
) -> None:
    """Write a checkpoint folder with the weights, the labels and the front end.

    Parameters
    ----------
    source : Path
        A torchvision VisionTransformer's state dict (``torch.save(model.state_dict(), ...)``).
    output : Path
        Folder to create.
    labels : sequence of str
        In the order of the logits.
    front_end : FrontEnd
        What the model was trained on.
    unknown_threshold : float
        Best scores under this become the label ``unknown``.
    heads : int, optional
        Attention heads, which the tensors do not show; None means heads of ``HEAD_SIZE``.

    Raises
    ------
    CheckpointError
        If the file is not such a state dict, does not fit the labels or the front end, or the
        threshold is out of range.
    """
    from transformers import ViTConfig, ViTForImageClassification

    tensors = convert_state_dict(read_state_dict(source))
    settings = configuration(tensors, labels, heads) | {THRESHOLD_KEY: unknown_threshold}
    check_image_size(source, settings, front_end)
    read_threshold(source, settings)
    model = ViTForImageClassification(ViTConfig(**settings))
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{source}: {error}") from error
    save_checkpoint(model, output, front_end, unknown_threshold)
