from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from benchmarks.throughput import __main__ as program
from benchmarks.throughput.agreement import agreements
from benchmarks.throughput.measuring import (
    Measurement,
    ProgramError,
    check_rows,
    run_program,
)
from benchmarks.throughput.systems import PEERS, PROJECT, System, chosen_systems
from benchmarks.throughput.tracks import (
    TooFewTracksError,
    choose_tracks,
    distinct_files,
    synthesize,
)
from tests.benchmarks.recipe_by_hand import (
    assert_scored,
)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_failed_program_is_told_with_its_last_words(tmp_path):
    with pytest.raises(ProgramError, match=r"status 3 after \d+ s\nno such model"):
        run_program(python("import sys; print('no such model', file=sys.stderr); sys.exit(3)"),
                    tmp_path / "log.txt", 60)  # fmt: skip


def test_a_program_without_end_is_killed(tmp_path):
    with pytest.raises(ProgramError, match="status -9"):
        run_program(python("import time; time.sleep(600)"), tmp_path / "log.txt", 0.5)


def test_memory_counts_the_programs_of_a_program(tmp_path):
    child = "import time; held = bytearray(b'x') * (200 << 20); time.sleep(1)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    _, peak = run_program(python(code), tmp_path / "log.txt", 60, sampled=True)
    assert 200 < peak < 300


@dataclass(frozen=True)
class StandIn(System):
    """Sleeps half a second for each track and writes rows, or ends with the error."""

    error: str = ""
    label: str = "a"

    def command(self, tracks, model, folder):
        rows = [{"path": str(path), "label": self.label, "scores": [1.0]} for path in tracks]
        (folder / "rows.json").write_text(json.dumps(rows))
        end = f"import sys; sys.exit({self.error!r})"
        return python(end if self.error else f"import time; time.sleep({0.5 * len(tracks)})")

    def read_rows(self, folder):
        return json.loads((folder / "rows.json").read_text())


def test_one_failure_does_not_end_the_others():
    said: list[str] = []
    paths = [Path("1.mp3"), Path("2.mp3")]
    measurement = Measurement(paths, (1, 2), Path("m"), 2, 60, said.append)
    bad, good = StandIn("loop", "float32", "out of memory"), StandIn("dask", "float32")
    results = measurement.measure([bad, good])
    assert results[bad].error.endswith("out of memory")
    assert not any(results[bad].seconds.values())
    assert [len(seconds) for seconds in results[good].seconds.values()] == [2, 2]
    assert [row["path"] for row in results[good].rows] == ["1.mp3", "2.mp3"]
    assert results[good].peak_mib > 0
    assert len(said) == 1 + 1 + 4  # the failure, the warming up, both sizes in two rounds


def test_rows_must_be_one_for_each_track():
    with pytest.raises(ProgramError, match="one for each"):
        check_rows([{"path": "1"}, {"path": "1"}], [Path("1"), Path("2")])


def test_systems_by_name_and_precision():
    both = chosen_systems([*PEERS, PROJECT], ["float32", "bfloat16"])
    assert [system.name for system in both if system.precision == "float32"] == [*PEERS, PROJECT]
    short = [system.name for system in both if system.precision == "bfloat16"]
    assert short == ["handwritten", PROJECT]
    with pytest.raises(ValueError, match="unknown: spark"):
        chosen_systems(["spark"], ["float32"])


# Tracks and the command line


def test_equal_files_count_once(tmp_path):
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(content)
    assert distinct_files(sorted(tmp_path.iterdir())) == [tmp_path / "a", tmp_path / "c"]
    assert {path.name for path in choose_tracks(tmp_path, 2)} == {"a", "c"}
    with pytest.raises(TooFewTracksError, match=r"holds 2 .* needs 3: .*--synthesize=3"):
        choose_tracks(tmp_path, 3)


def test_synthesized_tracks(tmp_path):
    paths = synthesize(tmp_path / "new", 3, seconds=2.0)
    assert distinct_files(paths) == paths
    for path in paths:
        about = sf.info(path)
        assert (about.format, about.samplerate, about.channels) == ("MP3", 44_100, 2)
        assert about.duration == pytest.approx(2.0, abs=0.1)
        assert 8 * path.stat().st_size / about.duration == pytest.approx(128_000, rel=0.05)
        assert np.abs(sf.read(path)[0]).max() > 0.1
    kept = paths[0].stat().st_mtime_ns
    assert synthesize(tmp_path / "new", 4, seconds=2.0)[:3] == paths
    assert paths[0].stat().st_mtime_ns == kept


@pytest.mark.parametrize("wrong", ["--sizes=4,4", "--sizes=0,4", "--peers=spark", "--rounds=0"])
def test_wrong_calls(tmp_path, wrong, capsys):
    with pytest.raises(SystemExit) as ended:
        program.main([f"--tracks={tmp_path}", wrong])
    assert ended.value.code == 2
    assert wrong.partition("=")[2].split(",")[0] in capsys.readouterr().err


@pytest.mark.parametrize(("label", "status"), [("a", 0), ("b", 1)])
def test_the_program(tmp_path, monkeypatch, capsys, model, tracks, label, status):
    """All but the systems, of which the second one may give another label than the first."""
    systems = [StandIn("loop", "float32"), StandIn(PROJECT, "float32", label=label)]
    monkeypatch.setattr(program, "chosen_systems", lambda names, precisions: systems)
    call = [f"--tracks={tracks[0].parent}", f"--model={model}", "--sizes=1,3", "--rounds=1",
            "--precisions=float32"]  # fmt: skip
    files = [f"--json={tmp_path / 'all.json'}", f"--png={tmp_path / 'all.png'}"]
    assert program.main([*call, *files]) == status
    content = json.loads((tmp_path / "all.json").read_text())
    assert [system["error"] for system in content["systems"]] == ["", ""]
    assert content["tracks"] == {"sizes": [1, 3], "rounds": 1, "median_seconds": 2.5}
    assert (tmp_path / "all.png").stat().st_size > 0
    out = capsys.readouterr().out
    assert "| loop | float32 |" in out
    assert [str(path) in out for path in tracks] == 3 * [bool(status)]


@pytest.mark.slow
def test_all_systems_agree(model, tracks, expected):
    """Each as a program of its own, this project among them."""
    systems = chosen_systems([*PEERS, PROJECT], ["float32"])
    results = Measurement(tracks, (1, 3), model, 0, 300, print).measure(systems)
    assert {str(system): result.error for system, result in results.items() if result.error} == {}
    for result in results.values():
        assert_scored([(row["path"], row["scores"]) for row in result.rows], expected)
    found = agreements({system: result.rows for system, result in results.items()})
    assert len(found) == len(PEERS)
    assert all(pair.equal_share == 1 for pair in found)
