from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from benchmarks.throughput import __main__ as program
from benchmarks.throughput.agreement import Agreement, agreements, compare
from benchmarks.throughput.floor import Floor, floor_of
from benchmarks.throughput.measuring import (
    Measured,
    ProgramError,
    marginal_rate,
    rounds_order,
)
from benchmarks.throughput.report import agreement_lines, figures, floor_table, table, to_json
from benchmarks.throughput.systems import PROJECT, System

LOOP, SLOW = System("loop", "float32"), System("handwritten", "float32")
OURS, OURS_SHORT = System(PROJECT, "float32"), System(PROJECT, "bfloat16")


def test_rate_and_startup_of_two_sizes():
    rate = marginal_rate({16: [5 + 16 / 4] * 3, 64: [5 + 64 / 4] * 3})
    assert (rate.startup_s, rate.tracks_per_s) == pytest.approx((5, 4))


def test_rate_takes_medians():
    rate = marginal_rate({64: [21, 90, 20.9], 16: [8.9, 9, 40]})
    assert rate.tracks_per_s == pytest.approx(48 / 12)


def test_no_rate_where_more_tracks_took_no_longer():
    with pytest.raises(ProgramError, match="further apart"):
        marginal_rate({16: [9.0], 64: [9.0]})


def test_every_other_round_goes_backwards():
    jobs = [(LOOP, 1), (LOOP, 2), (OURS, 1)]
    assert rounds_order(jobs, 3) == [*jobs, *jobs[::-1], *jobs]


def test_floor_takes_the_fastest_way_of_each_stage():
    found = floor_of({"decode": {"a": 0.05, "b": 0.04}, "model": {"a": 0.46, "b": 0.5}}, cores=2)
    assert found.tracks_per_s == pytest.approx(2 / 0.5)
    assert found.stages_ms["decode"] == pytest.approx({"a": 50, "b": 40})


def row(path: str, *scores: float) -> dict:
    return {"path": path, "label": "ab"[int(np.argmax(scores))], "scores": list(scores)}


def test_agreement_of_rows_in_another_order():
    found = compare(OURS, [row("2", 0.1, 0.9), row("1", 0.6, 0.4)],
                    LOOP, [row("1", 0.7, 0.3), row("2", 0.1, 0.9)])  # fmt: skip
    assert (found.equal_share, found.differing, found.acceptable) == (1.0, (), True)
    assert found.greatest_difference == pytest.approx(0.1)


def test_float32_must_agree_and_bfloat16_need_not():
    exact, other = (
        [row("1", 0.6, 0.4), row("2", 0.5, 0.5)],
        [row("1", 0.4, 0.6), row("2", 0.5, 0.5)],
    )
    found = agreements({OURS_SHORT: other, LOOP: exact, OURS: other})
    assert [(pair.system, pair.reference) for pair in found] == [(OURS, LOOP), (OURS_SHORT, LOOP)]
    assert [pair.acceptable for pair in found] == [False, True]
    assert [pair.equal_share for pair in found] == [0.5, 0.5]
    lines = agreement_lines(found)
    assert [line for line in lines if "another label" in line] == ["  another label: 1"]


@pytest.fixture
def results() -> dict[System, Measured]:
    return {
        LOOP: Measured({10: [15.0], 20: [25.0]}, peak_mib=1_234.0),
        SLOW: Measured({10: [], 20: []}, error="20 tracks: status 1"),
        OURS: Measured({10: [7.0], 20: [11.0]}, peak_mib=2_000.4),
        OURS_SHORT: Measured({10: [5.0], 20: [7.0]}, peak_mib=999.6),
    }


FLOORS = {
    "float32": Floor({"model": {"fast": 500.0, "slow": 900.0}}, 4.0),
    "bfloat16": Floor({"model": {"fast": 200.0}}, 10.0),
}


def test_table(results):
    rows = [
        re.split(r" *\| *", line)[1:-1]
        for line in table(figures(results, FLOORS), FLOORS).splitlines()
    ]
    assert len({len(cells) for cells in rows}) == 1
    assert rows[2:] == [
        ["loop", "float32", "5.0", "1.00", "25%", "2.50×", "1,234"],
        ["handwritten", "float32", "failed", "–", "–", "–", "–"],
        ["project", "float32", "3.0", "2.50", "62%", "1.00×", "2,000"],
        ["floor", "float32", "", "4.00", "100%", "", ""],
        ["project", "bfloat16", "3.0", "5.00", "50%", "1.00×", "1,000"],
        ["floor", "bfloat16", "", "10.00", "100%", "", ""],
    ]


def test_floor_table_names_the_fastest_way():
    assert "| model | float32 | 500.0 | fast |" in floor_table(FLOORS).splitlines()


def test_sizes_too_close_are_an_error_of_that_system(results):
    results[LOOP].seconds[20] = [15.0]
    first = figures(results, FLOORS)[0]
    assert first.tracks_per_s is None
    assert "further apart" in first.error


def test_json(results):
    pair = Agreement(OURS, LOOP, 0.5, 0.25, ("x.mp3",))
    content = to_json(figures(results, FLOORS), FLOORS, [pair], command=["python"], tracks={"n": 1})
    read = json.loads(json.dumps(content, allow_nan=False))
    assert read["format"] == 1
    assert read.keys() == {"format", "date", "command", "machine", "tracks", "systems", "floor",
                           "agreement"}  # fmt: skip
    assert read["machine"].keys() == {"cpu", "cores", "memory_gib", "system", "versions"}
    assert read["machine"]["versions"].keys() >= {"python", "project", "torch", "ray", "dask"}
    assert read["systems"][0] == {
        "name": "loop", "precision": "float32", "startup_s": 5.0, "tracks_per_s": 1.0,
        "floor_ratio": 0.25, "project_ratio": 2.5, "peak_mib": 1234.0,
        "seconds": {"10": [15.0], "20": [25.0]}, "error": "",
    }  # fmt: skip
    assert read["systems"][1]["tracks_per_s"] is None
    assert read["floor"]["bfloat16"] == {"stages_ms": {"model": {"fast": 200}}, "tracks_per_s": 10}
    assert read["agreement"][0]["differing"] == ["x.mp3"]


def test_chart(tmp_path, results):
    path = tmp_path / "chart.png"
    program.write_chart(figures(results, FLOORS), FLOORS, path)
    with Image.open(path) as image:
        width, height = image.size
    assert width == 1_200
    assert 300 < height < width
