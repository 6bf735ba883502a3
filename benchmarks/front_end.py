"""Core milliseconds that a track costs in front of the model, on one core.

    python -m benchmarks.front_end FILE... [--windows=whole|middle|3|all] [--rounds=5]

For each file: probing, decoding, mono, resampling, log-mel and resize, as the pipeline's
stages do them, in this process and on one thread. The median over the files of each one's best
round. Processor time, so that other programs count little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from transforms.audio.decoders import Audio, open_audio
from transforms.mel import to_image
from transforms.models.front_end import PRESETS, FrontEnd
from transforms.preprocess import prepare
from transforms.records import AudioWindow, Track
from transforms.stopwatch import StopWatch
from transforms.windows import cut_parts, cut_windows, needs_total


def windows_of(path: Path, front_end: FrontEnd) -> Iterator[AudioWindow]:
    """As transforms.decode cuts them, without the sandbox."""
    track = Track(str(path))
    with open_audio(path, channel_rule=front_end.channel_rule) as audio:
        what = {"track": track, "sample_rate_hz": audio.info.sample_rate_hz}
        if not needs_total(front_end):
            yield from cut_windows(audio.blocks(), front_end=front_end, **what)
        elif audio.exact_frames is not None:
            frames = audio.exact_frames
            yield from cut_parts(audio.part, front_end=front_end, total_frames=frames, **what)
        else:
            yield from _counted_first(path, audio, front_end, what)


def _counted_first(
    path: Path, audio: Audio, front_end: FrontEnd, what: dict[str, object]
) -> Iterator[AudioWindow]:
    frames = sum(map(len, audio.blocks()))
    with open_audio(path, channel_rule=front_end.channel_rule) as again:
        yield from cut_windows(again.blocks(), front_end=front_end, total_frames=frames, **what)


def cost(path: Path, front_end: FrontEnd) -> dict[str, float]:
    """Processor milliseconds of one file by part, of this thread: idle others may spin."""
    timed = StopWatch(time.thread_time)
    windows = windows_of(path, front_end)
    while True:
        with timed("decode"):
            window = next(windows, None)
        if window is None:
            return {part: 1e3 * seconds for part, seconds in timed.take().items()}
        to_image(prepare(window, front_end, timed).samples, front_end, timed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--windows", default="whole")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    front_end = PRESETS["ccmusic"].changed(windows=options.windows)
    best = []
    for path in options.files:
        rounds = [cost(path, front_end) for _ in range(options.rounds)]
        best.append(min(rounds, key=lambda parts: sum(parts.values())))
    for part in best[0]:
        print(f"{part:<9}{statistics.median(parts[part] for parts in best):8.1f} ms")
    print(f"{'all':<9}{statistics.median(sum(parts.values()) for parts in best):8.1f} ms")


if __name__ == "__main__":
    main()
