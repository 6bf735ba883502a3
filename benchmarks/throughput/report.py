"""What was measured as a Markdown table, and as JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.throughput.agreement import Agreement
from benchmarks.throughput.floor import Floor
from benchmarks.throughput.measuring import Measured, ProgramError, marginal_rate
from benchmarks.throughput.peers.command import available_cores
from benchmarks.throughput.systems import PROJECT, System
from pipeline import __version__

FORMAT = 1
"""Of the JSON; a change that a reader must know of raises it."""

_PACKAGES = ("torch", "transformers", "numpy", "librosa", "soundfile", "soxr", "apache-beam",
             "dask", "ray")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One row of the table; None where a figure could not be had.

    Parameters
    ----------
    name, precision : str
    startup_s, tracks_per_s : float
        Marginal rate, and what it leaves of the smaller size's time.
    floor_ratio : float
        The rate as a share of the floor's.
    project_ratio : float
        How many times the project's rate, at the same precision, is this one.
    peak_mib : float
    seconds : dict
        Of each round, by the number of tracks.
    error : str
        Why there are no figures; empty if there are.
    """

    name: str
    precision: str
    startup_s: float | None = None
    tracks_per_s: float | None = None
    floor_ratio: float | None = None
    project_ratio: float | None = None
    peak_mib: float | None = None
    seconds: dict[int, list[float]]
    error: str = ""


def figures(results: Mapping[System, Measured], floors: Mapping[str, Floor]) -> list[Figures]:
    """Turn what was measured into rows, in the same order."""
    alone = [_alone(system, measured) for system, measured in results.items()]
    project = {row.precision: row.tracks_per_s for row in alone if row.name == PROJECT}
    return [
        dataclasses.replace(
            row,
            floor_ratio=_ratio(row.tracks_per_s, floors[row.precision].tracks_per_s),
            project_ratio=_ratio(project.get(row.precision), row.tracks_per_s),
        )
        for row in alone
    ]


def _alone(system: System, measured: Measured) -> Figures:
    row = Figures(
        name=system.name,
        precision=system.precision,
        seconds=measured.seconds,
        peak_mib=measured.peak_mib or None,
        error=measured.error,
    )
    if measured.error:
        return row
    try:
        rate = marginal_rate(measured.seconds)
    except ProgramError as error:
        return dataclasses.replace(row, error=str(error))
    return dataclasses.replace(row, startup_s=rate.startup_s, tracks_per_s=rate.tracks_per_s)


def _ratio(value: float | None, of: float | None) -> float | None:
    return None if value is None or of is None else value / of


def _cell(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table(rows: Sequence[Figures], floors: Mapping[str, Floor]) -> str:
    """The Markdown table: all systems of a precision, then its floor."""
    lines = [
        _line(["system", "precision", "start-up, s", "tracks/s", "of the floor",
               "project is", "peak, MiB"]),
        "|---|---|--:|--:|--:|--:|--:|",
    ]  # fmt: skip
    for precision, floor in floors.items():
        lines += [_row_line(row) for row in rows if row.precision == precision]
        lines.append(_line(["floor", precision, "", f"{floor.tracks_per_s:.2f}", "100%", "", ""]))
    return "\n".join(lines)


def _row_line(row: Figures) -> str:
    return _line(
        [
            row.name,
            row.precision,
            "failed" if row.error else _cell(row.startup_s, "{:.1f}"),
            _cell(row.tracks_per_s, "{:.2f}"),
            _cell(row.floor_ratio, "{:.0%}"),
            _cell(row.project_ratio, "{:.2f}×"),
            _cell(row.peak_mib, "{:,.0f}"),
        ]
    )


def floor_table(floors: Mapping[str, Floor]) -> str:
    """The stages of the floor, each in its fastest way."""
    lines = [_line(["stage", "precision", "ms per track", "fastest way"]), "|---|---|--:|---|"]
    for precision, floor in floors.items():
        for stage, ways in floor.stages_ms.items():
            way = min(ways, key=ways.__getitem__)
            lines.append(_line([stage, precision, f"{ways[way]:.1f}", way]))
    return "\n".join(lines)


def agreement_lines(found: Sequence[Agreement]) -> list[str]:
    """A line for each pair, and one for each track that two float32 systems label differently."""
    lines = []
    for pair in found:
        lines.append(
            f"{pair.system} and {pair.reference}: {pair.equal_share:.1%} equal labels, greatest "
            f"difference of a score {pair.greatest_difference:.1e}"
        )
        if not pair.acceptable:
            lines += [f"  another label: {path}" for path in pair.differing]
    return lines


def cpu_model() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():  # Linux
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """What the figures depend on: CPU, cores, memory, versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    versions = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # a peer left out
            versions[name] = importlib.metadata.version(name)
    return {
        "cpu": cpu_model(),
        "cores": available_cores(),
        "memory_gib": round(memory / 2**30, 1),
        "system": platform.platform(),
        "versions": {"python": platform.python_version(), "project": __version__, **versions},
    }


def to_json(
    rows: Sequence[Figures],
    floors: Mapping[str, Floor],
    found: Sequence[Agreement],
    *,
    command: Sequence[str],
    tracks: Mapping[str, Any],
) -> dict[str, Any]:
    """All that was measured, ready for :func:`json.dumps`.

    Parameters
    ----------
    rows : sequence of Figures
    floors : mapping of str to Floor
        By precision.
    found : sequence of Agreement
    command : sequence of str
        The arguments of this benchmark.
    tracks : mapping
        What is known of the tracks.
    """
    return {
        "format": FORMAT,
        "date": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        "command": list(command),
        "machine": machine(),
        "tracks": dict(tracks),
        "systems": [dataclasses.asdict(row) for row in rows],
        "floor": {precision: dataclasses.asdict(floor) for precision, floor in floors.items()},
        "agreement": [dataclasses.asdict(pair) for pair in found],
    }
