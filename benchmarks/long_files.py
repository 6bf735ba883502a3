"""Peak memory of labelling very long files, against files of three minutes.

    python -m benchmarks.long_files [--output=FOLDER]

Synthesises a 15-hour MP3 (the frames of a three-minute one, again and again) and a one-hour FLAC
of eight channels at 192 kHz, labels each alone with ``--windows=all`` and one worker, and samples
the memory of all processes together.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile as sf

from benchmarks.memory import peak_mib


def sound(seconds: int, rate_hz: int, channels: int, seed: int = 0) -> np.ndarray:
    """Quiet noise under a slow tremolo, 16 bits, (frames, channels)."""
    generator = np.random.default_rng(seed)
    time_s = np.arange(seconds * rate_hz) / rate_hz
    mono = generator.normal(0, 60, len(time_s)) * (1.1 + np.sin(time_s))
    return np.repeat(np.clip(mono, -32_768, 32_767).astype(np.int16)[:, None], channels, axis=1)


def write_mp3(path: Path, minutes: int) -> Path:
    """Three minutes of CBR frames, repeated; the frame with the encoder's own count is left out."""
    with tempfile.TemporaryDirectory() as folder:
        short = Path(folder, "short.mp3")
        sf.write(short, sound(180, 44_100, 2), 44_100, format="MP3", bitrate_mode="CONSTANT")
        frames = short.read_bytes()
    second = frames.index(frames[:2], 100)  # the first frame holds the Xing or Info tag
    with path.open("wb") as file:
        for _ in range(minutes // 3):
            file.write(frames[second:])
    return path


def write_flac(path: Path, seconds: int) -> Path:
    """Eight channels at 192 kHz, ten different seconds again and again."""
    block = sound(10, 192_000, 8)
    with sf.SoundFile(path, "w", 192_000, 8, "PCM_16", format="FLAC") as file:
        for _ in range(seconds // 10):
            file.write(block)
    return path


def label(path: Path, output: Path) -> tuple[float, float]:
    """Seconds and peak MiB of labelling one file."""
    command = [
        sys.executable, "-m", "pipeline.main", f"--input={path}", f"--output={output}",
        "--windows=all", "--workers=1", "--progress=none", "--max_failure_rate=0",
    ]  # fmt: skip
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, text=True)
    peak = peak_mib(process)
    if process.returncode:
        raise SystemExit(f"{path.name}: the run ended with {process.returncode}")
    return time.monotonic() - started, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="keep files and labels there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.output or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        files = {
            "MP3, 3 min": write_mp3(folder / "short.mp3", 3),
            "MP3, 15 h": write_mp3(folder / "long.mp3", 15 * 60),
            "FLAC 8 x 192 kHz, 3 min": write_flac(folder / "short.flac", 180),
            "FLAC 8 x 192 kHz, 1 h": write_flac(folder / "long.flac", 3_600),
        }
        base = None
        for name, path in files.items():
            seconds, peak = label(path, folder / f"labels-{path.name}")
            base = base or peak
            size_mb = path.stat().st_size / 1e6
            print(f"{name:24} {size_mb:8,.0f} MB {seconds:7.1f} s  peak {peak:6,.0f} MiB, "
                  f"{peak / base - 1:+.1%}")  # fmt: skip


if __name__ == "__main__":
    main()
