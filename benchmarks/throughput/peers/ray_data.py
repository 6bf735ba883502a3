"""Peer: Ray Data, paths to images in tasks, images to scores in batches by actors.

One actor per core holds the model. Ray fuses the decoding into the actors, so that no core is left
for it to wait on, and gives PyTorch one thread where it gives a process one core. Usage reports and
the dashboard, which cost a start, are off.
"""

from __future__ import annotations

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from collections.abc import Iterable
from typing import Any

import ray
import torch
from transformers import ViTForImageClassification

from benchmarks.throughput.peers.command import Scored, available_cores, main
from benchmarks.throughput.peers.recipe import load_image


def decode(row: dict[str, Any]) -> dict[str, Any]:
    return {"path": row["path"], "pixels": load_image(row["path"])}


class Classifier:
    def __init__(self, model: str) -> None:
        self._vit = ViTForImageClassification.from_pretrained(model).eval()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        with torch.inference_mode():
            logits = self._vit(torch.from_numpy(batch["pixels"])).logits
        return {"path": batch["path"], "scores": logits.softmax(dim=-1).numpy()}


def label_tracks(paths: list[str], model: str, precision: str = "float32") -> Iterable[Scored]:
    cores = available_cores()
    ray.init(num_cpus=cores, include_dashboard=False)
    scored = (
        ray.data.from_items([{"path": path} for path in paths])
        .map(decode, num_cpus=1)
        .map_batches(
            Classifier,
            fn_constructor_args=(model,),
            batch_size=8,
            num_cpus=1,
            compute=ray.data.ActorPoolStrategy(size=cores),
        )
    )
    rows = scored.take_all()
    ray.shutdown()
    return [(row["path"], row["scores"]) for row in rows]


if __name__ == "__main__":
    main(label_tracks)
