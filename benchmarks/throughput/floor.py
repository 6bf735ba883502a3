"""The floor: each stage of a track alone, on one thread, in its fastest known way.

    python -m benchmarks.throughput.floor --tracks-list=FILE --model=FOLDER --output=floor.json

No program that does these stages one track per core can be faster than the cores divided by their
sum. Of a stage that can be done in several ways, the fastest counts. A time is the best of some
repetitions, the median over the tracks.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import soundfile as sf
import soxr
import torch
from transformers import ViTForImageClassification

from benchmarks.throughput.peers import handwritten, recipe
from benchmarks.throughput.peers.command import available_cores
from transforms.audio.soundfile_reader import SequentialSoundFile
from transforms.mel import to_image
from transforms.models.front_end import PRESETS
from transforms.models.vit import Precision, ViT

Array: TypeAlias = npt.NDArray[np.float32]
Times: TypeAlias = dict[str, dict[str, float]]
"""Seconds per track by stage, then by the way it is done."""

FRONT_END = PRESETS["ccmusic"].changed(windows="whole")
BATCHES = (1, 4, 8, 16)
_BLOCK_FRAMES = 65_536

T = TypeVar("T")


@dataclass(frozen=True)
class Floor:
    """The stages' fastest ways at one precision, and the rate that they allow.

    Parameters
    ----------
    stages_ms : dict
        Milliseconds per track by stage, then by the way it is done.
    tracks_per_s : float
        The cores divided by the sum over the stages of the fastest way.
    """

    stages_ms: dict[str, dict[str, float]]
    tracks_per_s: float


def floor_of(times: Times, cores: int) -> Floor:
    """The floor from the seconds of the stages."""
    total_s = sum(min(ways.values()) for ways in times.values())
    in_ms = {
        stage: {way: 1_000 * seconds for way, seconds in ways.items()}
        for stage, ways in times.items()
    }
    return Floor(in_ms, cores / total_s)


def timed(work: Callable[[], T], repeats: int) -> tuple[float, T]:
    """The least seconds of some repetitions, and what the last one returned."""
    least = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        result = work()
        least = min(least, time.perf_counter() - started)
    return least, result


def decode_whole(path: str) -> Array:
    """All frames of a file at once, (frames, channels)."""
    samples: Array = sf.read(path, dtype="float32", always_2d=True)[0]
    return samples


def decode_in_blocks(path: str) -> Array:
    """The same by blocks that stay in the cache, each as one channel, (frames, 1)."""
    with SequentialSoundFile(path) as file:
        blocks = file.blocks(_BLOCK_FRAMES, frames=file.frames, dtype="float32", always_2d=True)
        return np.concatenate([to_mono(block) for block in blocks])[:, None]


def to_mono(samples: Array) -> Array:
    """The mean of the channels, (frames,)."""
    total = samples[:, 0]
    for channel in range(1, samples.shape[1]):
        total = total + samples[:, channel]
    return total * np.float32(1 / samples.shape[1])


def resample(mono: Array, rate_hz: int) -> Array:
    """To the front end's rate, soxr HQ."""
    if rate_hz == recipe.SAMPLE_RATE_HZ:
        return mono
    resampled: Array = soxr.resample(mono, rate_hz, recipe.SAMPLE_RATE_HZ, quality="HQ")
    return resampled


def image_by_project(samples: Array) -> Array:
    return to_image(samples, FRONT_END)


def image_by_torch(samples: Array) -> Array:
    image: Array = recipe.to_pixels(handwritten.log_mel(samples))[0]
    return image


def time_track(path: str, repeats: int) -> tuple[Times, Array]:
    """Seconds of the stages before the model, and the image."""
    rate_hz = sf.info(path).samplerate
    whole_s, samples = timed(lambda: decode_whole(path), repeats)
    mono_s, mono = timed(lambda: to_mono(samples), repeats)
    blocks_s, _ = timed(lambda: decode_in_blocks(path), repeats)
    resample_s, resampled = timed(lambda: resample(mono, rate_hz), repeats)
    project_s, image = timed(lambda: image_by_project(resampled), repeats)
    torch_s, _ = timed(lambda: image_by_torch(resampled), repeats)
    times = {
        "decode, mono": {"whole file": whole_s + mono_s, "in blocks": blocks_s},
        "resample": {"soxr HQ": resample_s},
        "log-mel image": {"this project": project_s, "torch": torch_s},
    }
    return times, image


def median_times(tracks: Sequence[Times]) -> Times:
    """The median over the tracks of each way of each stage."""
    return {
        stage: {way: statistics.median(times[stage][way] for times in tracks) for way in ways}
        for stage, ways in tracks[0].items()
    }


def _by_transformers(model: Path, precision: str) -> Callable[[Array], Any]:
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    vit = ViTForImageClassification.from_pretrained(model, dtype=dtype).eval()

    def predict(images: Array) -> Any:
        with torch.inference_mode():
            pixels = torch.from_numpy(images)[:, None].expand(-1, 3, -1, -1)
            return vit(pixels.to(dtype)).logits.float().softmax(dim=-1).numpy()

    return predict


def time_model(
    images: Sequence[Array], model: Path, precision: Precision, repeats: int
) -> dict[str, float]:
    """Seconds per image, by the way it is computed and the size of the batch."""
    by_transformers = _by_transformers(model, precision)
    found = {}
    for size in BATCHES:
        batch = np.stack([images[index % len(images)] for index in range(size)])
        by_project = ViT(model, device="cpu", precision=precision, batch_size=size).predict
        for way, predict in (("this project", by_project), ("transformers", by_transformers)):
            seconds, _ = timed(functools.partial(predict, batch), repeats)
            found[f"{way}, batch {size}"] = seconds / size
    return found


def measure_floor(
    paths: Sequence[str], model: Path, precisions: Sequence[Precision], cores: int, repeats: int
) -> dict[str, Floor]:
    """The floor of each precision, from some tracks. Leaves PyTorch with one thread."""
    torch.set_num_threads(1)
    timed_tracks = [time_track(path, repeats) for path in paths]
    before = median_times([times for times, _ in timed_tracks])
    images = [image for _, image in timed_tracks]
    return {
        precision: floor_of(
            {**before, "model": time_model(images, model, precision, repeats)}, cores
        )
        for precision in precisions
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tracks-list", type=Path, required=True, help="a path in each line")
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="JSON")
    parser.add_argument("--precisions", default="float32,bfloat16")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    floors = measure_floor(
        options.tracks_list.read_text().splitlines(),
        options.model,
        options.precisions.split(","),
        available_cores(),
        options.repeats,
    )
    content = {precision: dataclasses.asdict(floor) for precision, floor in floors.items()}
    options.output.write_text(json.dumps(content))


if __name__ == "__main__":
    main()
