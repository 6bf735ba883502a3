"""Throughput of this project against other ways to do the same, and against the floor.

  python -m benchmarks.throughput --tracks=FOLDER [--synthesize=64] [--json=FILE] [--png=FILE]

All label the same tracks with the same ViT-B/16 (seeded random weights) and the same front end,
the published 16-genre recipe on whole tracks, on the CPU: a plain loop of librosa and transformers,
dask.bag, Ray Data, Beam's RunInference as its documentation shows it, a hand-written script, and
pipeline.main. Each is a process of its own, started at two sizes: the rate is that of the tracks
which the larger size has more, the start-up what it leaves of the smaller size's time. The medians
of some rounds count. The floor is what the cores could do at best: each stage alone, one thread.

The table goes to the standard output. Exit status: 0; 1 if a system failed, or two that compute in
float32 gave a track different labels; 2 for a wrong call.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import soundfile as sf

from benchmarks.random_vit import make_vit
from benchmarks.throughput.agreement import agreements
from benchmarks.throughput.chart import write_chart
from benchmarks.throughput.floor import Floor
from benchmarks.throughput.measuring import Measurement, run_program
from benchmarks.throughput.report import agreement_lines, figures, floor_table, table, to_json
from benchmarks.throughput.systems import PEERS, PROJECT, chosen_systems
from benchmarks.throughput.tracks import TooFewTracksError, choose_tracks, synthesize
from transforms.models.vit import resolve_precision

_FLOOR_TRACKS = 8


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def two_sizes(text: str) -> tuple[int, int]:
    small, large = sorted(int(size) for size in text.split(","))
    if not 0 < small < large:
        raise ValueError
    return small, large


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--tracks", type=Path, required=True, metavar="FOLDER", help="audio files, also below it")
    add("--synthesize", type=int, default=0, metavar="N", help="write N MP3s there, 60 s each")
    add("--model", type=Path, metavar="FOLDER", help="a ViT of 16 labels (default: made anew)")
    add("--sizes", type=two_sizes, default=(16, 64), metavar="N,M", help="(default: 16,64)")
    add("--rounds", type=positive, default=3, help="(default: %(default)s)")
    add("--peers", type=names, default=list(PEERS), metavar="NAME,...",
        help=f"beside the project (default: all, {','.join(PEERS)})")  # fmt: skip
    add("--precisions", type=names, default=["float32", "bfloat16"], metavar="NAME,...",
        help="(default: both, where the hardware multiplies bfloat16)")  # fmt: skip
    add("--timeout_seconds", type=float, default=1_800.0, help="of one run (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write all figures there")
    add("--png", type=Path, metavar="FILE", help="write a bar chart there")
    return parser


def usable(precisions: Sequence[str]) -> list[str]:
    """Leave out bfloat16 where the hardware does not multiply it."""
    if resolve_precision("auto", "cpu") == "bfloat16":
        return list(precisions)
    say("this processor does not multiply bfloat16: float32 alone")
    return ["float32"]


def find_floor(
    tracks: Sequence[Path], model: Path, precisions: Sequence[str], timeout_seconds: float
) -> dict[str, Floor]:
    """Measure the floor in a process of its own, on some of the tracks."""
    step = max(1, len(tracks) // _FLOOR_TRACKS)
    with tempfile.TemporaryDirectory() as temporary:
        listed, output = Path(temporary, "tracks.txt"), Path(temporary, "floor.json")
        listed.write_text("".join(f"{path}\n" for path in tracks[::step][:_FLOOR_TRACKS]))
        command = [
            sys.executable, "-m", "benchmarks.throughput.floor", f"--tracks-list={listed}",
            f"--model={model}", f"--output={output}", f"--precisions={','.join(precisions)}",
        ]  # fmt: skip
        run_program(command, Path(temporary, "log.txt"), timeout_seconds)
        content = json.loads(output.read_text())
    return {precision: Floor(**floor) for precision, floor in content.items()}


def about(tracks: Sequence[Path], sizes: tuple[int, int], rounds: int) -> dict[str, Any]:
    """What the JSON says of the tracks."""
    seconds = statistics.median(sf.info(path).duration for path in tracks)
    return {"sizes": list(sizes), "rounds": rounds, "median_seconds": round(seconds, 1)}


def benchmark(options: argparse.Namespace, tracks: Sequence[Path], model: Path) -> bool:
    """Measure and report; whether all went well."""
    precisions = usable(options.precisions)
    systems = chosen_systems([*options.peers, PROJECT], precisions)
    floors = find_floor(tracks, model, precisions, options.timeout_seconds)
    measurement = Measurement(
        tracks, options.sizes, model, options.rounds, options.timeout_seconds, say
    )
    results = measurement.measure(systems)
    rows = figures(results, floors)
    found = agreements({system: result.rows for system, result in results.items() if result.rows})
    print(table(rows, floors), floor_table(floors), "\n".join(agreement_lines(found)), sep="\n\n")
    for row in rows:
        if row.error:
            print(f"\n{row.name} {row.precision} failed: {row.error}")
    if options.json:
        content = to_json(
            rows, floors, found, command=[shlex.join(sys.argv)],
            tracks=about(tracks, options.sizes, options.rounds),
        )  # fmt: skip
        options.json.write_text(json.dumps(content, indent=2) + "\n")
    if options.png:
        write_chart(rows, floors, options.png)
    return not any(row.error for row in rows) and all(pair.acceptable for pair in found)


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(argv)
    try:
        chosen_systems(options.peers, options.precisions)
        if options.synthesize:
            synthesize(options.tracks, options.synthesize)
        tracks = choose_tracks(options.tracks, options.sizes[1])
    except (TooFewTracksError, ValueError) as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory() as temporary:
        if options.model is None:
            options.model = Path(temporary, "vit")
            make_vit(options.model)
        return 0 if benchmark(options, tracks, options.model) else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # ends its programs
    sys.exit(main())
