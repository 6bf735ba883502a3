"""Tables for pipeline.train --task=recognise from the Free Spoken Digit Dataset, and more voices.

    python -m benchmarks.spoken_digits --recordings=FOLDER --output=FOLDER

writes OUTPUT/digits.csv (uri, label, artist, fold; a fold for each speaker) and, where espeak-ng
and flite are installed (Debian: apt-get install espeak-ng flite), OUTPUT/voices/*.flac with
OUTPUT/voices.csv: the digits by speech synthesisers, in many voices, accents, speeds and pitches.
"""

from __future__ import annotations

import argparse
import csv
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr

WORDS = "zero one two three four five six seven eight nine".split()
RATE_HZ = 8_000
ACCENTS = "en-us en-gb en-gb-scotland en-029 en-gb-x-rp en-gb-x-gbclan en-gb-x-gbcwmd".split()
UNLIKE_PEOPLE = {"whisper", "whisperf", "croak", "Demonic", "UniRobot", "iven", "robosoft"}
FLITE_VOICES = "kal16 awb rms slt".split()
ESPEAK_REPETITIONS, FLITE_REPETITIONS = 2, 18
_EDGE_DB, _EDGE_SECONDS = 40.0, 0.025  # what is quieter under the peak is cut, but for this much


@dataclass(frozen=True)
class Spoken:
    """One synthesised digit."""

    digit: int
    voice: str
    wav: bytes


def espeak_voices() -> list[str]:
    """Variants of espeak-ng's voices that are meant to sound like people."""
    listed = subprocess.run(["espeak-ng", "--voices=variant"], capture_output=True, check=True)
    names = [line.split()[4].rpartition("/")[2] for line in listed.stdout.decode().splitlines()[1:]]
    return sorted(set(names) - UNLIKE_PEOPLE)


def by_espeak(rng: np.random.Generator) -> Iterator[Spoken]:
    for voice in espeak_voices():
        for _ in range(ESPEAK_REPETITIONS):
            accent = rng.choice(ACCENTS)
            for digit, word in enumerate(WORDS):
                speed, pitch = rng.integers(110, 220), rng.integers(20, 80)
                command = ["espeak-ng", "-v", f"{accent}+{voice}", f"-s{speed}", f"-p{pitch}"]
                made = subprocess.run([*command, "--stdout", word], capture_output=True, check=True)
                yield Spoken(digit, f"espeak-{voice}", made.stdout)


def by_flite(rng: np.random.Generator) -> Iterator[Spoken]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "word.wav"
        for voice in FLITE_VOICES:
            for _ in range(FLITE_REPETITIONS):
                for digit, word in enumerate(WORDS):
                    stretch, pitch_hz = rng.uniform(0.7, 1.5), rng.uniform(75, 240)
                    settings = [f"duration_stretch={stretch:.2f}",
                                f"int_f0_target_mean={pitch_hz:.0f}"]  # fmt: skip
                    command = ["flite", "-voice", voice, "--setf", settings[0], "--setf",
                               settings[1], "-t", word, "-o", str(path)]  # fmt: skip
                    subprocess.run(command, capture_output=True, check=True)
                    yield Spoken(digit, f"flite-{voice}", path.read_bytes())


def trimmed(wav: bytes) -> np.ndarray:
    """Mono at 8 kHz, its silent edges cut, its peak at half of full scale; empty for silence."""
    samples, rate_hz = sf.read(io.BytesIO(wav), dtype="float32")
    mono = samples if samples.ndim == 1 else samples.mean(axis=1)
    mono = soxr.resample(mono, rate_hz, RATE_HZ)
    peak = np.abs(mono).max(initial=0.0)
    (loud,) = np.nonzero(np.abs(mono) > peak * 10 ** (-_EDGE_DB / 20))
    if not len(loud):
        return mono[:0]
    edge = round(_EDGE_SECONDS * RATE_HZ)
    return 0.5 / peak * mono[max(0, loud[0] - edge) : loud[-1] + edge]


def write_table(path: Path, rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("uri", "label", "artist", "fold"), *rows])


def make_voices(output: Path, seed: int) -> int:
    folder = output / "voices"
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    rows = []
    for spoken in [*by_espeak(rng), *by_flite(rng)]:
        samples = trimmed(spoken.wav)
        if not len(samples):
            continue
        path = folder / f"{spoken.digit}_{spoken.voice}_{len(rows)}.flac"
        sf.write(path, samples, RATE_HZ, "PCM_16")
        rows.append((path.absolute(), spoken.digit, spoken.voice, ""))
    write_table(output / "voices.csv", rows)
    return len(rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recordings", required=True, type=Path, help="DIGIT_SPEAKER_N.wav")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    paths = sorted(options.recordings.glob("*_*_*.wav"))
    speakers = sorted({path.stem.split("_")[1] for path in paths})
    rows = []
    for path in paths:
        digit, speaker, _ = path.stem.split("_")
        rows.append((path.absolute(), digit, speaker, speakers.index(speaker)))
    write_table(options.output / "digits.csv", rows)
    print(f"{len(rows)} recordings by {len(speakers)} speakers")
    if shutil.which("espeak-ng") and shutil.which("flite"):
        print(f"{make_voices(options.output, options.seed)} synthesised")
    else:
        print("espeak-ng or flite is not installed: no synthesised voices", file=sys.stderr)


if __name__ == "__main__":
    main()
