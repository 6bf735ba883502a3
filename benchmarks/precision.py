"""Whether bfloat16 gives the labels of float32, on real tracks.

    python -m benchmarks.precision --input=FOLDER [--model=CHECKPOINT] [--precision=bfloat16]

Labels the tracks twice and compares the rows.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile

import numpy as np
import pyarrow.parquet as pq


def rows(output: str) -> dict[str, tuple[str, int, np.ndarray]]:
    """Label, best logit and scores by uri."""
    table = pq.read_table(f"{output}/predictions", columns=["uri", "label", "scores"])
    found = {}
    for row in table.to_pylist():
        scores = np.array(row["scores"])
        found[row["uri"]] = row["label"], int(scores.argmax()), scores
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True)
    parser.add_argument("--model", default="genre-vit")
    parser.add_argument("--precision", default="bfloat16")
    options, others = parser.parse_known_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("float32", options.precision):
            command = [
                sys.executable, "-m", "pipeline.main", f"--input={options.input}",
                f"--output={folder}/{precision}", f"--model={options.model}",
                f"--precision={precision}", *others,
            ]  # fmt: skip
            subprocess.run(command, check=True, stdout=sys.stderr)
            found[precision] = rows(f"{folder}/{precision}")
    reference, other = found["float32"], found[options.precision]
    if reference.keys() != other.keys():
        raise SystemExit("the two runs labelled different tracks")
    tops = sum(reference[uri][1] == other[uri][1] for uri in reference)
    labels = sum(reference[uri][0] == other[uri][0] for uri in reference)
    apart = max(float(np.abs(reference[uri][2] - other[uri][2]).max()) for uri in reference)
    print(f"{len(reference)} tracks: same best label {tops}, same label {labels}")
    print(f"greatest difference of a score {apart:.4f}")


if __name__ == "__main__":
    main()
