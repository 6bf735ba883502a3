"""Whether time per track is constant and memory flat as a catalog grows.

    python -m benchmarks.growth [--tracks=100,1000,10000] [--json=FILE] [--folder=FOLDER]

Makes catalogs out of a few synthesised tracks, every file with bytes and a size of its own, so that
none is taken for another's copy, and runs ``pipeline.main`` on each with its defaults. What all
sizes need (imports, the model) is the fixed cost; the marginal one is that of the tracks which a
catalog has more than the next smaller one.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import soundfile as sf

from benchmarks.memory import peak_mib

_ROOT = Path(__file__).parent.parent
_SECONDS, _RATE_HZ = 5, 22_050
_SOUNDS = 8  # different ones
_FILES_PER_FOLDER = 1_000
_LEAST_TAG_BYTES = 64  # an ID3v2 tag: its header, one text frame's, a number, padding


@dataclass(frozen=True)
class Run:
    """One run over a catalog."""

    tracks: int
    seconds: float  # wall
    cpu_seconds: float  # of all processes together, as is the memory
    peak_mib: float
    rows: int  # in predictions
    counts: dict[str, Any]  # the run's books
    stages: dict[str, dict[str, float]]  # the run's metrics by stage
    workers: int

    @property
    def balanced(self) -> bool:
        """Whether every track is in the books, labelled, and has its row."""
        outcomes = sum(self.counts[outcome] for outcome in ("labelled", "failed", "skipped"))
        numbers = {self.counts["listed"], outcomes, self.counts["labelled"], self.rows}
        return numbers == {self.tracks}


@dataclass(frozen=True)
class Line:
    """A run's line in the table; what needs a smaller run is None in the first."""

    tracks: int
    seconds: float
    cpu_seconds: float
    marginal_ms: float | None  # per track
    fixed_seconds: float | None
    peak_mib: float
    balanced: bool


def marginal_ms(smaller: Run, larger: Run) -> float:
    """Milliseconds for each track that the larger run has more."""
    return 1_000 * (larger.seconds - smaller.seconds) / (larger.tracks - smaller.tracks)


def fixed_seconds(smaller: Run, larger: Run) -> float:
    """Seconds that would be left for no track at all, on a line through both runs."""
    return smaller.seconds - smaller.tracks * marginal_ms(smaller, larger) / 1_000


def to_lines(runs: Sequence[Run]) -> list[Line]:
    """The table's lines, smallest catalog first."""
    ordered = sorted(runs, key=lambda run: run.tracks)
    steps = [(marginal_ms(*pair), fixed_seconds(*pair)) for pair in pairwise(ordered)]
    return [
        Line(run.tracks, run.seconds, run.cpu_seconds, *step, run.peak_mib, run.balanced)
        for run, step in zip(ordered, [(None, None), *steps], strict=True)
    ]


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; all columns hold numbers."""
    lines = [header, ["---:"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float | None, digits: int = 0) -> str:
    """``1,234.5``; nothing for None."""
    return "" if value is None else f"{value:,.{digits}f}"


def table(lines: Sequence[Line]) -> str:
    header = ["tracks", "wall s", "CPU s", "marginal ms per track", "fixed s", "peak MiB", "books"]
    rows = [
        [number(line.tracks), number(line.seconds, 1), number(line.cpu_seconds, 1),
         number(line.marginal_ms, 2), number(line.fixed_seconds, 1), number(line.peak_mib),
         "balanced" if line.balanced else "WRONG"]
        for line in lines
    ]  # fmt: skip
    return markdown(header, rows)


def synthesised(seed: int) -> bytes:
    """Five seconds of quiet noise under a chord, as an MP3."""
    generator = np.random.default_rng(seed)
    time_s = np.arange(_SECONDS * _RATE_HZ) / _RATE_HZ
    tones = sum(np.sin(2 * np.pi * hz * time_s) for hz in generator.uniform(80, 4_000, 5))
    buffer = io.BytesIO()
    samples = 0.1 * tones + generator.normal(0, 0.02, len(time_s))
    sf.write(buffer, samples, _RATE_HZ, format="MP3", subtype="MPEG_LAYER_III")
    return buffer.getvalue()


def id3_tag(text: str, size_bytes: int) -> bytes:
    """An ID3v2.3 tag of a given size, padding included, whose title is ``text``."""
    content = b"\0" + text.encode("latin-1")
    frame = b"TIT2" + len(content).to_bytes(4, "big") + b"\0\0" + content
    body_bytes = size_bytes - 10
    if len(frame) > body_bytes:
        raise ValueError(f"a tag of {size_bytes} bytes is too small for {text!r}")
    seven_bits = bytes(body_bytes >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x03\0\0" + seven_bits + frame.ljust(body_bytes, b"\0")


def make_catalog(folder: Path, tracks: int) -> None:
    """Write MP3s that all differ in their bytes and sizes, though not in more than eight sounds."""
    sounds = [synthesised(seed) for seed in range(min(_SOUNDS, tracks))]
    largest = max(map(len, sounds))
    for track in range(tracks):
        sound = sounds[track % len(sounds)]
        tag = id3_tag(f"track {track}", largest - len(sound) + _LEAST_TAG_BYTES + track)
        path = folder / f"{track // _FILES_PER_FOLDER:04d}" / f"{track:08d}.mp3"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tag + sound)


def measured(command: Sequence[str], output: Path, tracks: int) -> Run:
    """Execute a command that labels ``tracks`` tracks into ``output``.

    Raises
    ------
    SystemExit
        If it fails.
    """
    started, cpu_started = time.monotonic(), _children_cpu_seconds()
    process = subprocess.Popen(
        command, cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, text=True
    )
    peak = peak_mib(process)
    seconds, cpu_seconds = time.monotonic() - started, _children_cpu_seconds() - cpu_started
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: ended with {process.returncode}")
    (record_path,) = (output / "runs").glob("*.json")
    record = json.loads(record_path.read_text(encoding="utf-8"))
    files = (output / "predictions").glob("*.parquet")
    rows = sum(pq.read_metadata(path).num_rows for path in files)
    counts, stages, workers = record["counts"], record["stages"], record["config"]["workers"]
    return Run(tracks, seconds, cpu_seconds, peak, rows, counts, stages, workers)


def _children_cpu_seconds() -> float:
    """CPU time of the processes that have ended below this one; other load does not change it."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def label(catalog: Path, output: Path, tracks: int, *options: str) -> Run:
    """Run ``pipeline.main`` on a catalog."""
    program = [sys.executable, "-m", "pipeline.main", "--progress=none"]
    return measured(
        [*program, f"--input={catalog}", f"--output={output}", *options], output, tracks
    )


def measure(tracks: int, folder: Path) -> Run:
    """Make a catalog of so many tracks and label it."""
    catalog = folder / f"catalog-{tracks}"
    make_catalog(catalog, tracks)
    output = folder / f"labels-{tracks}"
    shutil.rmtree(output, ignore_errors=True)  # of an earlier call: all would be skipped
    return label(catalog, output, tracks)


def sizes(text: str) -> list[int]:
    """Numbers between commas, smallest first, each once."""
    return sorted({int(part) for part in text.split(",")})


def told(run: Run) -> Run:
    """Say on stderr that a run has ended; the next one may take an hour."""
    print(f"{run.tracks:,} tracks: {run.seconds:.1f} s, {run.peak_mib:,.0f} MiB", file=sys.stderr)
    return run


def report(lines: Sequence[Any], text: str, json_path: Path | None) -> int:
    """Print the text and write the JSON; the exit status, 1 if some run's books are wrong."""
    print(text)
    if json_path is not None:
        content = [dataclasses.asdict(line) for line in lines]
        json_path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0 if all(line.balanced for line in lines) else 1


def parser_of(description: str | None, default_tracks: str) -> argparse.ArgumentParser:
    """The arguments that both benchmarks of growth take."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tracks", type=sizes, default=default_tracks, help="sizes (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    parser.add_argument("--folder", type=Path, help="keep catalogs and labels there")
    return parser


def in_folder(folder: Path | None, work: Callable[[Path], int]) -> int:
    """What ``work`` gives in a folder, or in a temporary one."""
    with tempfile.TemporaryDirectory() as temporary:
        return work((folder or Path(temporary)).absolute())


def main() -> int:
    options = parser_of(__doc__, "100,1000,10000").parse_args()

    def work(folder: Path) -> int:
        lines = to_lines([told(measure(tracks, folder)) for tracks in options.tracks])
        return report(lines, table(lines), options.json)

    return in_folder(options.folder, work)


if __name__ == "__main__":
    sys.exit(main())
