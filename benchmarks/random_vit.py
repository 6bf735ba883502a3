"""A ViT-B/16 of 16 labels with seeded random weights: the size of a real model, no download.

    python -m benchmarks.random_vit --output=/tmp/vit-b16

It brings no front end, so label with --front_end=ccmusic.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from transforms.models.front_end import CCMUSIC_LABELS


def make_vit(output: Path, seed: int = 0) -> None:
    """Save the checkpoint (config.json, model.safetensors; 343 MB) in ``output``."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(seed)
    labels = dict(enumerate(CCMUSIC_LABELS))
    config = ViTConfig(id2label=labels, label2id={name: index for index, name in labels.items()})
    model = ViTForImageClassification(config)
    # The default initialisation gives nearly equal scores; wider logits tell tracks apart.
    torch.nn.init.normal_(model.classifier.weight, std=0.5)
    model.save_pretrained(output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    make_vit(options.output, options.seed)
    print(options.output)
