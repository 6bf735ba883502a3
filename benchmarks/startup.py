"""Fixed cost of a run: from the command to the first track decoded.

    python -m benchmarks.startup [--workers=1,2] [--rounds=5] [--model=FOLDER]

Starts ``pipeline.main`` on a minute of synthesised sound and looks at /proc (so it needs Linux)
until the decoder's process has had that file open and has closed it. The model is a ViT-B/16 with
random weights unless one is given.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile as sf

from benchmarks.random_vit import make_vit
from pipeline.process_memory import tree

_LOOK_SECONDS = 0.005


def has_open(pids: set[int], path: Path) -> bool:
    """Whether a decoder's process among ``pids`` has the file open."""
    for pid in pids:
        process = Path(f"/proc/{pid}")
        try:
            if b"decoder_process" not in (process / "cmdline").read_bytes():
                continue
            if any(os.readlink(link) == str(path) for link in (process / "fd").iterdir()):
                return True
        except OSError:  # it has ended, or closed the file meanwhile
            continue
    return False


def seconds_to_first_track(command: list[str], track: Path) -> float:
    """Start a run and wait for its first decoded track; ends the run."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        opened = False
        while process.poll() is None:
            is_open = has_open(tree(process.pid), track)
            if opened and not is_open:
                return time.monotonic() - started
            opened = opened or is_open
            time.sleep(_LOOK_SECONDS)
    finally:
        process.wait()
    raise SystemExit(f"the run ended with {process.returncode} and was never seen to decode")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    counts = [int(number) for number in options.workers.split(",")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        model = options.model or folder / "model"
        if options.model is None:
            make_vit(model)
        track = folder / "music" / "track.wav"
        track.parent.mkdir()
        sf.write(track, np.random.default_rng(0).normal(0, 0.1, (60 * 44_100, 2)), 44_100)
        took: dict[int, list[float]] = {count: [] for count in counts}
        for number in range(options.rounds + 1):
            for count in counts:
                command = [
                    sys.executable, "-m", "pipeline.main", f"--input={track.parent}",
                    f"--output={folder}/out-{count}-{number}", f"--model={model}",
                    "--front_end=ccmusic", f"--workers={count}", "--progress=none",
                ]  # fmt: skip
                seconds = seconds_to_first_track(command, track)
                if number:  # the first one warms the page cache
                    took[count].append(seconds)
    for count, seconds_each in took.items():
        spread = f"{min(seconds_each):.2f} to {max(seconds_each):.2f}"
        print(f"{count} workers: {statistics.median(seconds_each):.2f} s ({spread})")


if __name__ == "__main__":
    main()
