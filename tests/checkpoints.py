"""Tiny checkpoints with seeded random weights, and front ends that fit them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from transforms.models.checkpoint import CONFIG_FILE, THRESHOLD_KEY
from transforms.models.enhancer import SpectrumFrontEnd
from transforms.models.front_end import PRESETS, FrontEnd
from transforms.models.sequence import Cell, SequenceSettings, save_weights

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


def recogniser_front_end(**changes: Any) -> FrontEnd:
    """Windows of a second at 8 kHz, of 63 frames with 20 bands each, over full scale."""
    settings = {"sample_rate_hz": 8_000, "n_fft": 256, "hop_length": 128, "n_mels": 20,
                "fmax_hz": 4_000.0, "image_height": 20, "image_width": 63,
                "window_seconds": 1.0, "hop_seconds": 1.0, "reference": "full_scale",
                **changes}  # fmt: skip
    return dataclasses.replace(PRESETS["ccmusic"], **settings)


def random_network(settings: SequenceSettings, seed: int = 0, *, gain: float = 1.5) -> Any:
    """A sequence network whose answers differ from frame to frame.

    ``gain`` is what a layer multiplies an error with; over 1 a recurrent one amplifies rounding.
    """
    import torch

    from transforms.models.sequence_network import SequenceNetwork

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SequenceNetwork(settings)
        for name, parameter in network.named_parameters():
            inputs = parameter.numel() / len(parameter)
            wide = 0.4 if name.startswith("head") else gain / inputs**0.5
            if "norms" not in name:
                torch.nn.init.normal_(parameter, std=wide if parameter.dim() >= 2 else 0.2)
        torch.nn.init.normal_(network.input_mean, std=0.3)
        torch.nn.init.uniform_(network.input_scale, 0.5, 1.5)
    return network


def make_recogniser(
    folder: Path,
    cell: Cell = "gru",
    *,
    seed: int = 0,
    hidden_size: int = 33,
    labels: tuple[str, ...] = LABELS,
    front_end: FrontEnd | None = None,
    **config: Any,
) -> Path:
    """Save a recogniser of two layers. Rows of 33 lie differently in memory: a place may show."""
    front_end = front_end or recogniser_front_end()
    settings = SequenceSettings(
        head="recognition", cell=cell, inputs=front_end.n_mels, outputs=len(labels),
        hidden_size=hidden_size, layers=2, dropout=0.5,
    )  # fmt: skip
    named = {str(index): label for index, label in enumerate(labels)}
    save_weights(random_network(settings, seed), folder, {"id2label": named, **config})
    front_end.save(folder)
    return folder


def make_enhancer(
    folder: Path,
    cell: Cell = "gru",
    *,
    seed: int = 0,
    front_end: SpectrumFrontEnd | None = None,
    all_pass: bool = False,
) -> Path:
    """Save an enhancer of one layer; with ``all_pass`` its mask is one."""
    import torch

    front_end = front_end or SpectrumFrontEnd(sample_rate_hz=8_000, n_fft=128, hop_length=64)
    settings = SequenceSettings(
        head="enhancement", cell=cell, inputs=front_end.bins, outputs=front_end.bins,
        hidden_size=16, layers=1,
    )  # fmt: skip
    network = random_network(settings, seed)
    if all_pass:
        with torch.no_grad():
            network.head.mask.weight.zero_()
            network.head.mask.bias.fill_(100.0)
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
