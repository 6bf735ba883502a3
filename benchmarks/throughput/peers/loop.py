"""Peer: a plain loop of librosa and transformers, one track at a time, all at its default.

PyTorch uses all cores for each image; librosa uses one.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from transformers import ViTForImageClassification

from benchmarks.throughput.peers.command import Scored, main
from benchmarks.throughput.peers.recipe import load_image


def label_tracks(paths: list[str], model: str, precision: str = "float32") -> Iterator[Scored]:
    vit = ViTForImageClassification.from_pretrained(model).eval()
    for path in paths:
        pixels = torch.from_numpy(load_image(path))[None]
        with torch.inference_mode():
            yield path, vit(pixels).logits.softmax(dim=-1)[0].tolist()


if __name__ == "__main__":
    main(label_tracks)
