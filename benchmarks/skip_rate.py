"""How fast an unchanged catalog is skipped, and how much memory that takes.

    python -m benchmarks.skip_rate [--entries=10000,100000]

Makes catalogs of hard links to one small file, labels that file once, writes the row that each
link would have got, and runs ``pipeline.main`` over them. The rate is that of the entries which the
larger catalog has more; what both need (imports, the model) is the fixed cost.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf

from benchmarks.memory import peak_mib

_GROUP_ROWS = 20_000


def run_labelling(catalog: Path, output: Path, workers: int) -> tuple[float, float]:
    """Seconds and peak MiB (of all processes together) of one run over a catalog."""
    command = [
        sys.executable, "-m", "pipeline.main", f"--input={catalog}", f"--output={output}",
        f"--workers={workers}", "--progress=none",
    ]  # fmt: skip
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = peak_mib(process)
    told = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"the run ended with {process.returncode}")
    print(told.strip().splitlines()[0].strip(), file=sys.stderr)
    return time.monotonic() - started, peak


def make_catalog(folder: Path, entries: int) -> Path:
    """Folders of 1,000 files each, links to one file of noise and its copies."""
    first = folder / "000" / "00000000.wav"
    first.parent.mkdir(parents=True)
    sf.write(first, np.random.default_rng(0).normal(0, 0.1, 4_410), 22_050)
    linked: Path = first
    for number in range(1, entries):
        path = folder / f"{number // 1_000:03d}" / f"{number:08d}.wav"
        if number % 1_000 == 0:  # a file has 65,000 links at most
            path.parent.mkdir()
            linked = Path(shutil.copy2(first, path))
        else:
            os.link(linked, path)
    return first


def multiply_row(output: Path, catalog: Path) -> None:
    """Give every link the row of the one that was labelled."""
    (labelled,) = (output / "predictions").glob("*.parquet")
    row = pq.read_table(labelled, partitioning=None)
    done = row["uri"][0].as_py()
    uris = [str(path) for path in sorted(catalog.rglob("*.wav")) if str(path) != done]
    with pq.ParquetWriter(output / "predictions" / "others.parquet", row.schema) as writer:
        for start in range(0, len(uris), _GROUP_ROWS):
            part = uris[start : start + _GROUP_ROWS]
            table = row.take(pa.array(np.zeros(len(part), np.int64)))
            at = row.schema.get_field_index("uri")
            writer.write_table(table.set_column(at, row.schema.field(at), pa.array(part)))


def measure(entries: int, workers: int) -> tuple[float, float]:
    """Seconds and peak MiB of skipping a catalog of ``entries``."""
    with tempfile.TemporaryDirectory() as folder:
        catalog, output = Path(folder, "catalog"), Path(folder, "labels")
        first = make_catalog(catalog, entries)
        run_labelling(first, output, 1)
        multiply_row(output, catalog)
        return run_labelling(catalog, output, workers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--entries", default="10000,100000", help="two sizes (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    small, large = sorted(int(text) for text in options.entries.split(","))
    results = {entries: measure(entries, options.workers) for entries in (small, large)}
    for entries, (seconds, peak) in results.items():
        print(f"{entries:>9,} entries skipped in {seconds:6.1f} s, peak {peak:,.0f} MiB")
    rate = (large - small) / (results[large][0] - results[small][0])
    grown = results[large][1] - results[small][1]
    print(f"{rate:,.0f} entries/s; {grown:.0f} MiB more for {large - small:,} more entries")


if __name__ == "__main__":
    main()
