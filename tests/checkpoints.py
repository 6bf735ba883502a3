"""Tiny checkpoints with seeded random weights, and front ends that fit them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from transforms.models.checkpoint import CONFIG_FILE, THRESHOLD_KEY
from transforms.models.enhancer import SpectrumFrontEnd
from transforms.models.front_end import PRESETS, FrontEnd
from transforms.models.sequence import SequenceSettings, save_weights

LABELS = ("classical", "electronic", "pop", "rock")


def tiny_front_end(size: int = 64, **changes: Any) -> FrontEnd:
    """The 16-genre recipe on two-second windows and smaller images."""
    settings = {"image_height": size, "image_width": size, "window_seconds": 2.0,
                "hop_seconds": 2.0, **changes}  # fmt: skip
    return dataclasses.replace(PRESETS["ccmusic"], **settings)


def make_checkpoint(
    folder: Path,
    *,
    seed: int = 0,
    image_size: int = 64,
    patch_size: int = 16,
    channels: int = 3,
    labels: tuple[str, ...] = LABELS,
    front_end: FrontEnd | None = None,
    unknown_threshold: float | None = None,
    separated: bool = False,
) -> Path:
    """Save a ViT of two layers, 32 wide, as transformers itself saves it.

    ``separated`` makes the classifier's weights so wide that rounding cannot swap two labels.
    """
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=image_size,
        patch_size=patch_size,
        num_channels=channels,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ViTForImageClassification(config)
        for name, parameter in model.named_parameters():
            # The default initialisation answers nearly the same to every image.
            if parameter.dim() >= 2:
                torch.nn.init.normal_(parameter, std=0.2)
            elif "layernorm" not in name:
                torch.nn.init.normal_(parameter, std=0.1)
        if separated:
            torch.nn.init.normal_(model.classifier.weight, std=3.0)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    if unknown_threshold is not None:
        edit_config(folder, **{THRESHOLD_KEY: unknown_threshold})
    if front_end is not None:
        front_end.save(folder)
    return folder


def make_enhancer(folder: Path, *, seed: int = 0, gain: float | None = None) -> Path:
    """Save a small recurrent enhancer at 16 kHz; with a gain, its mask is that everywhere."""
    import torch

    from transforms.models.sequence_network import SequenceNetwork

    front_end = SpectrumFrontEnd()
    settings = SequenceSettings(
        head="enhancement", cell="gru", inputs=front_end.bins, outputs=front_end.bins,
        hidden_size=16, layers=1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SequenceNetwork(settings)
    if gain is not None:
        with torch.no_grad():
            network.head.mask.weight.zero_()
            network.head.mask.bias.fill_(float(np.log(gain / (1 - gain))) if gain < 1 else 100.0)
    save_weights(network, folder, {})
    front_end.save(folder)
    return folder


def edit_config(folder: Path, *, without: tuple[str, ...] = (), **changes: Any) -> None:
    """Change config.json in place; ``without`` names keys to take out."""
    path = folder / CONFIG_FILE
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if k not in without}))


class Booby:
    """An object whose pickle writes ``path`` when it is loaded."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self._path, "w")
