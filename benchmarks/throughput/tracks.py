"""The tracks of a benchmark: distinct files of a folder, or synthesised ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from benchmarks.throughput.peers.command import available_cores
from pipeline.sample import RECIPES, Recipe, render

SECONDS = 60.0
_PHRASE_SECONDS = 12.0  # of music, then repeated
SAMPLE_RATE_HZ = 44_100
BIT_RATE = 128_000


class TooFewTracksError(Exception):
    """The folder holds fewer distinct tracks than the larger size; says what to do."""


def distinct_files(paths: Iterable[Path]) -> list[Path]:
    """Leave out files whose bytes are those of an earlier one; the pipeline labels them once."""
    found: dict[bytes, Path] = {}
    for path in paths:
        found.setdefault(hashlib.sha256(path.read_bytes()).digest(), path)
    return list(found.values())


def choose_tracks(folder: Path, count: int) -> list[Path]:
    """``count`` distinct tracks of a folder and those below it, in a mixed but fixed order.

    Parameters
    ----------
    folder : Path
    count : int

    Raises
    ------
    TooFewTracksError
        If there are fewer.
    """
    files = sorted(path.resolve() for path in folder.rglob("*") if path.is_file())
    found = distinct_files(files)
    if len(found) < count:
        raise TooFewTracksError(
            f"{folder} holds {len(found)} distinct files, the larger size needs {count}: make "
            f"some with --synthesize={count}, or ask for smaller --sizes"
        )
    order = np.random.default_rng(0).permutation(len(found))
    return [found[index] for index in order[:count]]


def write_mp3(path: Path, samples: npt.NDArray[np.float32]) -> None:
    """Write stereo samples of shape (frames, 2) at 44,100 Hz as an MP3 of constant 128 kbit/s."""
    with av.open(str(path), "w", format="mp3") as file:
        stream = file.add_stream("libmp3lame", rate=SAMPLE_RATE_HZ, layout="stereo")
        stream.bit_rate = BIT_RATE
        stream.options = {"compression_level": "9"}  # the fastest
        stream.codec_context.open()  # the frame size is known only then
        fitted = av.AudioResampler("fltp", "stereo", SAMPLE_RATE_HZ, stream.frame_size)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), "flt", "stereo")
        frame.sample_rate = SAMPLE_RATE_HZ
        for part in [*fitted.resample(frame), *fitted.resample(None), None]:
            file.mux(stream.encode(part))


def repeated(phrase: npt.NDArray[np.float64], seconds: float) -> npt.NDArray[np.float32]:
    """A phrase of shape (frames, 2) again and again, cut after ``seconds``."""
    frames = round(seconds * SAMPLE_RATE_HZ)
    samples = np.tile(phrase, (-(-frames // len(phrase)), 1))[:frames]
    return np.ascontiguousarray(samples, dtype=np.float32)


def synthesize(folder: Path, count: int, seconds: float = SECONDS) -> list[Path]:
    """Write tracks of several kinds of music, each of another seed; those there are kept.

    Parameters
    ----------
    folder : Path
    count : int
        How many there are then.
    seconds : float
        Duration of each.

    Returns
    -------
    list of Path
        All of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"synthesized-{number:05d}.mp3" for number in range(count)]
    kinds = list({recipe.kind: recipe for recipe in RECIPES})

    def write(number: int) -> None:
        path = paths[number]
        if path.exists():
            return
        recipe = Recipe(path.name, kinds[number % len(kinds)], SAMPLE_RATE_HZ, 2)
        phrase = render(recipe, number, min(seconds, _PHRASE_SECONDS))
        partial = path.with_suffix(".partial")  # an interrupted one is not kept
        write_mp3(partial, repeated(phrase, seconds))
        partial.rename(path)

    with ThreadPoolExecutor(available_cores()) as pool:  # the encoder leaves Python alone
        list(pool.map(write, range(count)))
    return paths
