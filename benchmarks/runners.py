"""What each runner adds to a track: the same tracks, cores and rows on all of them.

    python -m benchmarks.runners [--tracks=FOLDER] [--sizes=96,480] [--rounds=2] [OPTION...]

Starts each cluster by deploy/local_cluster.sh with two workers of one core and labels 96 and 480
tracks, of FOLDER or synthesised ones of a minute of stereo MP3, after a first run that only warms
it up (Java compiles what runs often): in turns with DirectRunner on two workers. Prism has one.
The marginal time of a track is the difference of the two wall times over that of the sizes, so that
start-up drops out; of several rounds it is the median. Rows are compared with DirectRunner's.
"""

from __future__ import annotations

import argparse
import itertools
import operator
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import pyarrow.dataset as ds

from benchmarks.throughput.tracks import choose_tracks, synthesize

SCRIPT = Path(__file__).parent.parent / "deploy" / "local_cluster.sh"
DIRECT = "DirectRunner"
CLUSTERS = ("prism", "flink", "spark")


@contextmanager
def cluster(name: str) -> Iterator[list[str]]:
    """The options of a runner, whose cluster is up meanwhile."""
    if name == DIRECT:
        yield ["--workers=2"]
        return
    up = subprocess.run([SCRIPT, name, "up"], stdout=subprocess.PIPE, text=True, check=True)
    try:
        yield up.stdout.splitlines()[0].split()
    finally:
        subprocess.run([SCRIPT, name, "down"], check=True)


def seconds(catalog: Path, output: Path, options: list[str]) -> float:
    """Wall time of a run, from the command to its end."""
    command = [sys.executable, "-m", "pipeline.main", f"--input={catalog}", f"--output={output}",
               "--progress=none", "--precision=float32", *options]  # fmt: skip
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    return time.monotonic() - started


def labels(output: Path) -> list[tuple[str, str, list[float]]]:
    """The rows that must be the same."""
    table = ds.dataset(output / "predictions").to_table(columns=["uri", "label", "scores"])
    return sorted((Path(row["uri"]).name, row["label"], row["scores"]) for row in table.to_pylist())


def make_catalogs(files: list[Path], sizes: list[int], folder: Path) -> list[Path]:
    """Folders of links to the first files."""
    catalogs = []
    for size in sizes:
        catalog = folder / f"catalog-{size}"
        catalog.mkdir()
        for number, path in enumerate(files[:size]):
            (catalog / f"{number:04}{path.suffix}").symlink_to(path.resolve())
        catalogs.append(catalog)
    return catalogs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tracks", type=Path)
    parser.add_argument("--sizes", default="96,480")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--runners", default=",".join(CLUSTERS))
    given, options = parser.parse_known_args()
    sizes = sorted(int(size) for size in given.sizes.split(","))
    runners = [DIRECT, *given.runners.split(",")]
    found: dict[tuple[str, int], list[float]] = defaultdict(list)  # by runner and size
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.tracks is None:
            (folder / "tracks").mkdir()
            files = synthesize(folder / "tracks", sizes[-1])
        else:
            files = choose_tracks(given.tracks, sizes[-1])
        catalogs = make_catalogs(files, sizes, folder)
        expected: dict[int, object] = {}
        for number, runner in itertools.product(range(given.rounds), runners):
            with cluster(runner) as own:
                seconds(catalogs[0], folder / "warm", [*own, *options])
                shutil.rmtree(folder / "warm")
                for size, catalog in zip(sizes, catalogs, strict=True):
                    output = folder / "labels"
                    spent = seconds(catalog, output, [*own, *options])
                    if labels(output) != expected.setdefault(size, labels(output)):
                        sys.exit(f"{runner}: other rows than {DIRECT}'s")
                    shutil.rmtree(output)
                    found[runner, size].append(spent)
                    print(f"round {number + 1}: {runner}, {size} tracks: {spent:.1f} s", flush=True)
    report(found, runners, sizes)


def report(found: dict[tuple[str, int], list[float]], runners: list[str], sizes: list[int]) -> None:
    small, large = sizes[0], sizes[-1]
    marginal = {
        runner: median(map(operator.sub, found[runner, large], found[runner, small]))
        / (large - small)
        for runner in runners
    }
    print(f"| runner | {small} tracks, s | {large} tracks, s | marginal, ms a track | ratio |")
    print("|---|---|---|---|---|")
    for runner in runners:
        print(
            f"| {runner} | {median(found[runner, small]):.1f} | "
            f"{median(found[runner, large]):.1f} | "
            f"{1e3 * marginal[runner]:.0f} | {marginal[runner] / marginal[DIRECT]:.2f} |"
        )


if __name__ == "__main__":
    main()
