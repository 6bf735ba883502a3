"""What the framework costs per track, up to a million tracks.

    python -m benchmarks.million [--tracks=10000,100000,1000000] [--workers=CORES]

A Parquet manifest goes through the labelling job's own graph: listing, merge, deduplication,
journal, roll-up, publishing and books. Two stages have stand-ins (benchmarks.stand_ins): Decode,
which gives one tenth of a second of noise per track, and the model. The files are there and are
looked up, each of a size of its own, so that none is a candidate for a copy; they are sparse and
take no room but their inodes.

"framework" is all of the time (wall clock times workers) but what Preprocess and MelSpectrogram
still do with the noise.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.growth import Run, in_folder, markdown, measured, number, parser_of, report, told
from pipeline.options import LabelConfig, parse_options
from pipeline.program import exit_status
from pipeline.resources import available_cores

_FIRST_BYTES = 1_000
_FILES_PER_FOLDER = 1_000
_WINDOW_SECONDS = 0.1
_SUBTRACTED = ("Preprocess", "MelSpectrogram")


@dataclass(frozen=True)
class Line:
    """A run's line in the table; the marginal numbers, per further track, are None in the first."""

    tracks: int
    seconds: float
    workers: int
    core_ms: float  # wall clock times workers, per track
    framework_ms: float  # the same without the work on the noise
    cpu_ms: float  # CPU time, per track; unlike the wall clock, no other program's load is in it
    marginal_core_ms: float | None
    marginal_framework_ms: float | None
    marginal_cpu_ms: float | None
    peak_mib: float
    rows: int
    balanced: bool


def core_seconds(run: Run) -> float:
    """Wall clock times workers: idle cores cost as much as busy ones."""
    return run.seconds * run.workers


def framework_seconds(run: Run) -> float:
    """The same without what Preprocess and MelSpectrogram were busy."""
    return core_seconds(run) - sum(run.stages[stage]["busy_seconds"] for stage in _SUBTRACTED)


def to_lines(runs: Sequence[Run]) -> list[Line]:
    """The table's lines, fewest tracks first."""
    ordered = sorted(runs, key=lambda run: run.tracks)
    steps = [_marginal_ms(*pair) for pair in pairwise(ordered)]
    return [
        Line(
            run.tracks,
            run.seconds,
            run.workers,
            1_000 * core_seconds(run) / run.tracks,
            1_000 * framework_seconds(run) / run.tracks,
            1_000 * run.cpu_seconds / run.tracks,
            *step,
            run.peak_mib,
            run.rows,
            run.balanced,
        )
        for run, step in zip(ordered, [(None, None, None), *steps], strict=True)
    ]


def _marginal_ms(smaller: Run, larger: Run) -> tuple[float, float, float]:
    """Per further track: of all, of the framework, and of CPU time."""
    tracks = larger.tracks - smaller.tracks
    return (
        1_000 * (core_seconds(larger) - core_seconds(smaller)) / tracks,
        1_000 * (framework_seconds(larger) - framework_seconds(smaller)) / tracks,
        1_000 * (larger.cpu_seconds - smaller.cpu_seconds) / tracks,
    )


def table(lines: Sequence[Line]) -> str:
    header = ["tracks", "workers", "wall s", "all, core-ms per track", "framework", "CPU",
              "all, marginal", "framework, marginal", "CPU, marginal",
              "peak MiB", "rows", "books"]  # fmt: skip
    rows = [
        [number(line.tracks), number(line.workers), number(line.seconds, 1),
         number(line.core_ms, 2), number(line.framework_ms, 2), number(line.cpu_ms, 2),
         number(line.marginal_core_ms, 2), number(line.marginal_framework_ms, 2),
         number(line.marginal_cpu_ms, 2),
         number(line.peak_mib), number(line.rows), "balanced" if line.balanced else "WRONG"]
        for line in lines
    ]  # fmt: skip
    return markdown(header, rows)


def file_path(folder: Path, track: int) -> str:
    """Where a track's file lies."""
    return f"{folder}/{track // _FILES_PER_FOLDER:04d}/{track:08d}.wav"


def make_files(folder: Path, tracks: int) -> None:
    """Write sparse files, each of a size of its own; those that are there already stay."""
    for track in range(tracks):
        if track % _FILES_PER_FOLDER == 0:
            Path(file_path(folder, track)).parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file_path(folder, track), os.O_WRONLY | os.O_CREAT)
        os.truncate(descriptor, _FIRST_BYTES + track)
        os.close(descriptor)


def write_manifest(path: Path, files: Path, tracks: int) -> None:
    """Write a Parquet table of the first so many files."""
    uris = [file_path(files, track) for track in range(tracks)]
    ids = [f"track-{track}" for track in range(tracks)]
    pq.write_table(pa.table({"uri": uris, "track_id": ids}), path)


def run_one(manifest: Path, output: Path, workers: int) -> int:
    """Label a manifest in this process with the stand-ins; the job's exit status."""
    config = parse_options(
        [f"--input={manifest}", f"--output={output}", f"--workers={workers}", "--progress=none",
         f"--window_seconds={_WINDOW_SECONDS}"]
    )  # fmt: skip
    return exit_status(lambda: _label(config))


def _label(config: LabelConfig) -> int:
    from benchmarks.stand_ins import StandInDecode, StubHandler  # importing Beam logs warnings
    from pipeline import job

    with mock.patch.multiple("pipeline.graph", Decode=StandInDecode, make_handler=StubHandler):
        return job.run(job.prepare(config))


def measure(tracks: int, folder: Path, workers: int) -> Run:
    """Label the first so many files of ``folder/files`` in a process of its own."""
    manifest, output = folder / f"manifest-{tracks}.parquet", folder / f"labels-{tracks}"
    write_manifest(manifest, folder / "files", tracks)
    shutil.rmtree(output, ignore_errors=True)  # of an earlier call: all would be skipped
    program = [sys.executable, "-m", "benchmarks.million", f"--one={manifest}"]
    return measured([*program, f"--folder={output}", f"--workers={workers}"], output, tracks)


def main() -> int:
    parser = parser_of(__doc__, "10000,100000,1000000")
    parser.add_argument("--workers", type=int, default=available_cores())
    parser.add_argument("--one", type=Path, metavar="MANIFEST", help="label it here, into --folder")
    options = parser.parse_args()
    if options.one is not None:
        return run_one(options.one, options.folder, options.workers)

    def work(folder: Path) -> int:
        make_files(folder / "files", max(options.tracks))
        runs = [told(measure(tracks, folder, options.workers)) for tracks in options.tracks]
        lines = to_lines(runs)
        return report(lines, table(lines), options.json)

    return in_folder(options.folder, work)


if __name__ == "__main__":
    sys.exit(main())
