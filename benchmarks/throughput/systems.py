"""What is compared: the peers and this project, each as a program to start and rows to read."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.throughput.peers.command import Row

PROJECT = "project"
PEERS = {
    "loop": "loop",
    "dask": "dask_bag",
    "ray": "ray_data",
    "handwritten": "handwritten",
    "beam": "beam_textbook",
}
"""Names on the command line, and the modules in benchmarks.throughput.peers."""

_IN_BOTH_PRECISIONS = ("handwritten", PROJECT)


@dataclass(frozen=True)
class System:
    """One program at one precision.

    Parameters
    ----------
    name : str
        A key of ``PEERS``, or ``PROJECT``.
    precision : {"float32", "bfloat16"}
    """

    name: str
    precision: str

    def __str__(self) -> str:
        return f"{self.name} {self.precision}"

    def command(self, tracks: Sequence[Path], model: Path, folder: Path) -> list[str]:
        """The program's arguments; what they name is written into ``folder``, which is empty."""
        if self.name == PROJECT:
            return _project_command(tracks, model, folder, self.precision)
        listed = folder / "tracks.txt"
        listed.write_text("".join(f"{path}\n" for path in tracks))
        command = [
            sys.executable, "-m", f"benchmarks.throughput.peers.{PEERS[self.name]}",
            f"--tracks-list={listed}", f"--model={model}", f"--output={folder / 'rows.json'}",
        ]  # fmt: skip
        both = self.name in _IN_BOTH_PRECISIONS
        return [*command, f"--precision={self.precision}"] if both else command

    def read_rows(self, folder: Path) -> list[Row]:
        """What the program wrote: path, label and scores of each track."""
        if self.name == PROJECT:
            return _project_rows(folder / "labels")
        rows: list[Row] = json.loads((folder / "rows.json").read_text())
        return rows


def _project_command(
    tracks: Sequence[Path], model: Path, folder: Path, precision: str
) -> list[str]:
    """The labelling job as it comes: bfloat16 is what its default, auto, is where it is fast."""
    manifest = folder / "tracks.csv"
    with manifest.open("w", newline="") as file:
        csv.writer(file).writerows([["uri"], *([path] for path in tracks)])
    command = [
        sys.executable, "-m", "pipeline.main", f"--input={manifest}",
        f"--output={folder / 'labels'}", f"--model={model}", "--front_end=ccmusic",
        "--windows=whole",
    ]  # fmt: skip
    return [*command, "--precision=float32"] if precision == "float32" else command


def _project_rows(output: Path) -> list[Row]:
    table = pq.read_table(output / "predictions", columns=["uri", "label", "scores"])
    return [
        {"path": row["uri"], "label": row["label"], "scores": row["scores"]}
        for row in table.to_pylist()
    ]


def chosen_systems(names: Sequence[str], precisions: Sequence[str]) -> list[System]:
    """The systems of these names, in each precision that they know.

    Raises
    ------
    ValueError
        If a name is unknown.
    """
    known = [*PEERS, PROJECT]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    return [
        System(name, precision)
        for precision in precisions
        for name in known
        if name in names and (precision == "float32" or name in _IN_BOTH_PRECISIONS)
    ]
