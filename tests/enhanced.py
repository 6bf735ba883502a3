"""Runs of pipeline.enhance, and what they must leave."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import soundfile as sf

from tests.catalog import ROOT, Run, command_line, environment
from tests.checkpoints import make_enhancer
from transforms.models.enhancer import SpectrumFrontEnd
from transforms.results import ENHANCED_AUDIO

PROGRAM = "pipeline.enhance"
OF_A_RUN = ("run_id", "enhanced_at", "failed_at")
Rows = list[dict[str, Any]]


def make_16khz_enhancer(folder: Path, *, all_pass: bool = False) -> Path:
    """Save a small enhancer with the front end of those that are shipped."""
    return make_enhancer(folder, front_end=SpectrumFrontEnd(), all_pass=all_pass)


def enhance(output: Path, *options: str) -> Run:
    """Run the program as a user would, in a process of its own."""
    done = subprocess.run(
        command_line(output, *options, program=PROGRAM),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Run(output, done.returncode, done.stdout, done.stderr)


def enhance_here(output: Path, *options: str) -> Run:
    """The same in this process, which saves the start."""
    from pipeline.enhance import main

    status = main([f"--output={output}", "--workers=1", "--progress=none", *options])
    return Run(output, status, "", "")


def rows(output: Path, name: str = "enhanced") -> Rows:
    """All runs' rows of a dataset, without what names the run or the time, in an order."""
    found = ds.dataset(str(output / name)).to_table().to_pylist()
    told = [{k: v for k, v in row.items() if k not in OF_A_RUN} for row in found]
    return sorted(told, key=lambda row: (row["uri"], str(row["track_id"])))


def inside(output: Path, found: Rows) -> Rows:
    """Rows whose files are named as they lie in the output, to compare two outputs."""
    folder = f"{output.absolute()}/"
    return [row | {"output": row["output"].removeprefix(folder)} for row in found]


def files(output: Path) -> dict[str, str]:
    """Hashes of all enhanced files by their names in the output."""
    found = (path for path in (output / ENHANCED_AUDIO).rglob("*") if path.is_file())
    return {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
    }


def check_files(output: Path) -> None:
    """Each row's file is there as the row says, and there is no other."""
    found, told = files(output), rows(output)
    folder = f"{output.absolute()}/"
    assert found == {row["output"].removeprefix(folder): row["output_sha256"] for row in told}
    for row in told:
        info, path = sf.info(row["output"]), Path(row["output"])
        assert (info.samplerate, info.channels) == (row["sample_rate_hz"], row["channels"])
        assert info.frames == round(row["duration_s"] * row["sample_rate_hz"])
        assert path.stat().st_size == row["output_size_bytes"]
    assert [path for path in output.rglob(".*") if path.name != ".lock"] == []
    assert not list(output.glob("journal/*"))
