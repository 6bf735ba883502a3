"""This project against the best script that a careful person writes by hand, on real work."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.random_vit import make_vit
from benchmarks.throughput.__main__ import usable
from benchmarks.throughput.measuring import Measurement
from benchmarks.throughput.systems import PROJECT, chosen_systems
from benchmarks.throughput.tracks import synthesize

LEAST = 1.2  # times the script's tracks per second; docs/performance.md has what is usual
SCRIPT = "handwritten"
SMALL, LARGE = 16, 64
CALLS = 3  # what else the machine does may spoil one, hardly all


def seconds_by_name(tracks: list[Path], model: Path) -> dict[str, dict[int, float]]:
    """Of one run of each system at both sizes, after one to warm up."""
    systems = chosen_systems([SCRIPT, PROJECT], usable(["bfloat16"]))
    measured = Measurement(tracks, (SMALL, LARGE), model, 1, 1_800, print).measure(systems)
    assert not [result.error for result in measured.values() if result.error]
    return {
        system.name: {size: seconds for size, (seconds,) in result.seconds.items()}
        for system, result in measured.items()
    }


@pytest.mark.slow
def test_the_hand_written_script_is_left_behind(tmp_path) -> None:
    """By the programs' fastest runs: others only ever make them slower."""
    tracks, model = synthesize(tmp_path / "tracks", LARGE), tmp_path / "vit"
    make_vit(model)
    calls: list[dict[str, dict[int, float]]] = []

    def marginal_s(name: str) -> float:
        return min(call[name][LARGE] for call in calls) - min(call[name][SMALL] for call in calls)

    ratio = 0.0
    while ratio < LEAST and len(calls) < CALLS:
        calls.append(seconds_by_name(tracks, model))
        ratio = marginal_s(SCRIPT) / marginal_s(PROJECT)
    assert ratio >= LEAST, f"times as fast as the script: {ratio:.2f}; seconds by size: {calls}"
