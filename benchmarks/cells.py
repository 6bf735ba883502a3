"""What a sequence model costs: parameters, and milliseconds for a second of audio, on one thread.

    python -m benchmarks.cells CHECKPOINT...

"whole" is a sequence of ten seconds at once, as the batch pipeline asks; "by frame" one frame at a
time with the state carried, as a stream does. The spectrogram is not included.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from transforms.models.checkpoint import SEQUENCE, find_checkpoint, read_config
from transforms.models.enhancer import load_spectrum_front_end
from transforms.models.front_end import load_front_end
from transforms.models.sequence import SequenceModel, load_weights, settings_of

SECONDS, ROUNDS = 10, 7


def frames_per_second(folder: Path, head: str) -> float:
    found = load_spectrum_front_end(folder) if head == "enhancement" else load_front_end(folder)
    assert found is not None
    return found.sample_rate_hz / found.hop_length


def milliseconds(work: Callable[[], object]) -> float:
    """Least CPU time of a few rounds: what else runs on the machine only adds."""
    spent = []
    for _ in range(ROUNDS):
        started = time.process_time()
        work()
        spent.append(time.process_time() - started)
    return 1e3 * min(spent)


def measure(name: str) -> str:
    folder = find_checkpoint(name)
    settings = settings_of(read_config(folder, (SEQUENCE,)))
    model = SequenceModel(network := load_weights(folder, settings))
    rate = frames_per_second(folder, settings.head)
    frames = np.random.default_rng(0).normal(size=(1, round(SECONDS * rate), settings.inputs))
    frames = frames.astype(np.float32)

    def by_frame() -> None:
        state = model.initial_state()
        for index in range(frames.shape[1]):
            _, state = model.step(frames[:, index : index + 1], state)

    whole = milliseconds(lambda: model.forward(frames)) / SECONDS
    single = milliseconds(by_frame) / SECONDS
    parameters = sum(p.numel() for p in network.parameters())
    return (
        f"| {folder.name} | {settings.cell} | {parameters:,} | {rate:.1f} | {whole:.2f} | "
        f"{single:.2f} |"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT")
    torch.set_num_threads(1)
    print("| model | cell | parameters | frames a second | whole, ms | by frame, ms |")
    print("|" + "---|" * 6)
    for name in parser.parse_args(argv).checkpoints:
        print(measure(name))


if __name__ == "__main__":
    main()
