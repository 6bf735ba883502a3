"""How much work a killed run loses, and what the next run makes of what is left.

    python -m benchmarks.resume_loss --input=FOLDER [--kills=5] [--seed=0] [OPTION OF THE RUN ...]

Starts ``pipeline.main`` over and over on one output and kills all of its processes (SIGKILL) at a
random moment after the first durable rows. The loss is the time between the last row that was
durable and the kill. The last start is left to end; then every input must have one row.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq


def start(options: list[str], output: Path) -> subprocess.Popen[str]:
    """Start a run in a process group of its own."""
    command = [
        sys.executable, "-m", "pipeline.main", f"--output={output}", "--progress=none", *options,
    ]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def durable(output: Path, before: set[str]) -> list[dt.datetime]:
    """When each track was finished that a run journalled which was not there ``before``."""
    times: list[dt.datetime] = []
    for path in output.glob("journal/*/tracks-*.parquet"):
        if path.parent.name in before:
            continue
        times += pq.read_table(path, columns=["labelled_at"])["labelled_at"].to_pylist()
    return times


def kill_once(options: list[str], output: Path, after_s: float) -> tuple[float, int] | None:
    """Kill a run ``after_s`` after its first durable row; (seconds lost, durable rows)."""
    before = {path.name for path in output.glob("journal/*")}
    process = start(options, output)
    first: float | None = None
    while process.poll() is None:
        if first is None and durable(output, before):
            first = time.monotonic()
        if first is not None and time.monotonic() >= first + after_s:
            os.killpg(process.pid, signal.SIGKILL)
            killed_at = dt.datetime.now(dt.timezone.utc)
            process.wait()
            times = durable(output, before)
            return (killed_at - max(times)).total_seconds(), len(times)
        time.sleep(0.05)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options, further = parser.parse_known_args()
    run_options = [f"--input={options.input}", *further]
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder)
        for _ in range(options.kills):
            after_s = moments.uniform(0, 30)
            outcome = kill_once(run_options, output, after_s)
            if outcome is None:
                print("the run ended before its kill")
                break
            lost_s, rows = outcome
            print(f"killed {after_s:4.1f} s after the first durable row: {rows:5,} rows durable, "
                  f"the last one {lost_s:4.1f} s old")  # fmt: skip
        print(start(run_options, output).communicate()[0])
        uris = ds.dataset(output / "predictions").to_table(["uri"])["uri"].to_pylist()
        print(f"{len(uris):,} predictions of {len(set(uris)):,} files")


if __name__ == "__main__":
    main()
