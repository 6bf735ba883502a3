"""The rates as a bar chart (matplotlib), with the floor of each precision as a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.throughput.floor import Floor
from benchmarks.throughput.report import Figures
from benchmarks.throughput.systems import PROJECT

_COLORS = {True: "#c2410c", False: "#94a3b8"}  # whether it is the project


def write_chart(rows: Sequence[Figures], floors: Mapping[str, Floor], path: Path) -> None:
    """Write a PNG: systems that have a rate from above, grouped by precision."""
    from matplotlib.figure import Figure  # not pyplot, which keeps every figure that it made

    drawn = [(row, row.tracks_per_s) for row in rows if row.tracks_per_s is not None]
    figure = Figure(figsize=(8, 1.2 + 0.42 * len(drawn)), layout="constrained")
    axes = figure.subplots()
    for place, (row, rate) in enumerate(drawn):
        axes.barh(place, rate, color=_COLORS[row.name == PROJECT], height=0.72)
        axes.text(rate, place, f" {rate:.2f}", va="center", fontsize=10)
    label = "floor: every core busy with nothing but the fastest stages"
    for precision, floor in floors.items():
        places = [place for place, (row, _) in enumerate(drawn) if row.precision == precision]
        if places:
            ends = [min(places) - 0.5, max(places) + 0.5]
            axes.plot([floor.tracks_per_s] * 2, ends, "--", color="#0f172a", label=label)
            label = "_"  # one entry in the legend for both
    axes.set_yticks(range(len(drawn)), [f"{row.name} · {row.precision}" for row, _ in drawn])
    axes.invert_yaxis()
    rates = [rate for _, rate in drawn] + [floor.tracks_per_s for floor in floors.values()]
    axes.set_xlim(0, 1.1 * max(rates))
    axes.set_xlabel("tracks per second, start-up left out")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper right", fontsize=9, frameon=False)
    figure.savefig(path, dpi=150)
