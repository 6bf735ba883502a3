"""Peer: dask.bag over the files, one process per core, the model loaded once in each.

Each process computes with one thread, as Dask advises: PyTorch's default would give every process
as many as there are cores, which get in each other's way. This favours the peer.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import dask.bag as db
import torch
from transformers import ViTForImageClassification

from benchmarks.throughput.peers.command import Scored, available_cores, main
from benchmarks.throughput.peers.recipe import load_image


@functools.cache
def load_model(model: str) -> Any:
    torch.set_num_threads(1)
    return ViTForImageClassification.from_pretrained(model).eval()


def score(path: str, model: str) -> Scored:
    vit = load_model(model)
    pixels = torch.from_numpy(load_image(path))[None]
    with torch.inference_mode():
        return path, vit(pixels).logits.softmax(dim=-1)[0].tolist()


def label_tracks(paths: list[str], model: str, precision: str = "float32") -> Iterable[Scored]:
    cores = available_cores()
    bag = db.from_sequence(paths).map(  # type: ignore[no-untyped-call]
        score, model=model
    )
    # By default six partitions, which are tracks here, go to a process at once: a few tracks then
    # leave a core idle at the end, which is not what is measured.
    scored: Iterable[Scored] = bag.compute(scheduler="processes", num_workers=cores, chunksize=1)
    return scored


if __name__ == "__main__":
    main(label_tracks)
