"""The model on a GPU: images per second, as a share of what the card multiplies.

    python -m benchmarks.gpu [--model=FOLDER] [--batch_sizes=16,64,256]

Needs CUDA. For each batch size the ViT backend predicts float16 images from the host, copies
included, as the pipeline does. The card's rate is that of one large bfloat16 product. For whole
tracks, run ``pipeline.main`` with its defaults on the same machine: it takes one worker per core.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.random_vit import make_vit
from transforms.models.vit import ViT
from transforms.models.vit_network import Shape, read_shape

_SIDE = 8_192
_SECONDS = 3.0


def operations(shape: Shape) -> float:
    """Floating-point operations of one image: two for each multiplication of the products."""
    tokens, hidden = shape.tokens, shape.hidden
    linear = 2 * tokens * (4 * hidden**2 + 2 * hidden * shape.intermediate)
    attention = 4 * tokens**2 * hidden
    patches = 2 * (tokens - 1) * hidden * shape.patch[0] * shape.patch[1]
    return shape.layers * (linear + attention) + patches


def calls_per_second(call: Callable[[], object]) -> float:
    """The median rate of a call that ends when its work has."""
    call()
    taken, end = [], time.monotonic() + _SECONDS
    while time.monotonic() < end or len(taken) < 5:
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return 1.0 / statistics.median(taken)


def matrix_rate() -> float:
    """Operations per second of a large bfloat16 product."""
    left = torch.randn(_SIDE, _SIDE, device="cuda", dtype=torch.bfloat16)
    right = torch.randn(_SIDE, _SIDE, device="cuda", dtype=torch.bfloat16)

    def multiply() -> None:
        left @ right
        torch.cuda.synchronize()

    return 2.0 * _SIDE**3 * calls_per_second(multiply)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--batch_sizes", default="16,64,256")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("PyTorch sees no CUDA device: nothing to measure")
    with tempfile.TemporaryDirectory() as name:
        model = options.model or Path(name) / "model"
        if options.model is None:
            make_vit(model)
        shape, card = read_shape(model), matrix_rate()
        print(f"{torch.cuda.get_device_name()}: {card / 1e12:.0f} TFLOP/s in bfloat16")
        for batch_size in map(int, options.batch_sizes.split(",")):
            vit = ViT(model, device="cuda", precision="bfloat16", batch_size=batch_size)
            noise = np.random.default_rng(0).uniform(-1, 1, (batch_size, *shape.image))
            images = noise.astype(np.float16)
            rate = batch_size * calls_per_second(lambda v=vit, i=images: v.predict(i))
            share = rate * operations(shape) / card
            print(f"batches of {batch_size}: {rate:,.0f} images/s, {share:.0%} of the card's rate")


if __name__ == "__main__":
    main()
