"""The ViT as its training has it: built anew, asked, sharpened and saved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transforms.models.checkpoint import THRESHOLD_KEY, WEIGHTS_FILE
from transforms.models.front_end import FrontEnd
from transforms.models.vit_training import FloatArray, ViTSettings


def build_vit(settings: ViTSettings, front_end: FrontEnd, labels: Sequence[str]) -> Any:
    """A ViT for one-channel images of ``front_end``, weights from torch's current seed."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=[front_end.image_height, front_end.image_width],
        patch_size=[front_end.image_height, settings.patch_columns],
        num_channels=1,
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        intermediate_size=4 * settings.hidden_size,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    return ViTForImageClassification(config)


def start_patches(model: Any, images: FloatArray) -> None:
    """Start the patch projection as a softly whitened, randomly rotated PCA of the patches.

    Parameters
    ----------
    model : ViTForImageClassification
        Changed in place.
    images : float32, shape (images, height, width)
        A sample of what it will see.
    """
    import torch

    projection = model.vit.embeddings.patch_embeddings.projection
    hidden, _, height, columns = projection.weight.shape
    patches = torch.from_numpy(images).unfold(2, columns, columns)  # (n, height, time, columns)
    patches = patches.permute(0, 2, 1, 3).reshape(-1, height * columns)
    mean = patches.mean(0)
    _, spread, directions = torch.linalg.svd(patches - mean, full_matrices=False)
    deviation = spread[:hidden] / len(patches) ** 0.5
    whitened = 0.3 * directions[:hidden] / (deviation[:, None] + 0.1 * deviation[0])
    rotation = torch.linalg.qr(torch.randn(hidden, hidden))[0][:, : len(whitened)]
    weight = rotation @ whitened
    with torch.no_grad():
        projection.weight.copy_(weight.reshape(projection.weight.shape))
        projection.bias.copy_(-weight @ mean)


def log_probabilities(model: Any, images: FloatArray, batch_size: int = 64) -> FloatArray:
    """Log-probabilities, float32 (images, labels), of a model in training."""
    import torch

    parts = []
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            pixels = torch.from_numpy(images[start : start + batch_size])[:, None]
            parts.append(torch.log_softmax(model(pixels).logits, dim=-1).numpy())
    return np.concatenate(parts)


def sharpen(model: Any, temperature: float) -> None:
    """Divide the logits by ``temperature`` for good, in the classifier's weights."""
    import torch

    with torch.no_grad():
        model.classifier.weight /= temperature
        model.classifier.bias /= temperature


def save_checkpoint(
    model: Any, folder: Path, front_end: FrontEnd, unknown_threshold: float
) -> None:
    """Write config.json, model.safetensors and preprocessor_config.json."""
    setattr(model.config, THRESHOLD_KEY, unknown_threshold)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    (folder / WEIGHTS_FILE).chmod(0o644)  # safetensors makes it its owner's alone
    front_end.save(folder)
