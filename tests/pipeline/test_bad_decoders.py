"""Files on which the decoder hangs, crashes or takes all memory cost one failure row each."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from pipeline import job
from pipeline.options import parse_options
from tests.audio_files import noise, write_soundfile
from tests.catalog import ROOT, Run
from tests.stand_in_decoder import COMMAND, write_marked
from transforms.audio.sandbox import DecoderLimits
from transforms.errors import WorkerError

pytestmark = [pytest.mark.fault, pytest.mark.slow]

BAD = {  # misbehaviour: reason
    "hang": "timeout",
    "block_then_hang": "timeout",
    "abort": "decoder_crash",
    "segfault": "decoder_crash",
    "open_block_then_abort": "decoder_crash",
    "allocate": "out_of_memory",
}
GOOD = 8


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> Path:
    """Good tracks before, between and behind the bad ones, by name."""
    folder = tmp_path_factory.mktemp("music")
    for number, misbehaviour in enumerate(BAD):
        write_marked(folder / f"{number} {misbehaviour}.mp3", misbehaviour)
    for number in range(GOOD):
        sound = noise(1.0 + number / 2, 22_050, 1, number)
        write_soundfile(folder / f"{number} good.flac", sound, 22_050, "FLAC", "PCM_16")
    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_files_cost_a_row_each_and_no_good_one(
    music, tiny_checkpoint, tmp_path, workers, monkeypatch
):
    monkeypatch.chdir(ROOT)  # where the stand-in is found
    prepared = job.prepare(
        parse_options([f"--input={music}", f"--output={tmp_path}", f"--model={tiny_checkpoint}",
                       "--precision=float32", "--progress=none", f"--workers={workers}"])
    )  # fmt: skip
    limits = DecoderLimits(timeout_seconds=3.0, memory_bytes=256 << 20, command=COMMAND)
    assert job.run(dataclasses.replace(prepared, limits=limits)) == 0
    run = Run(tmp_path, 0, "", "")
    failed = {Path(row["uri"]).stem.split()[1]: row for row in run.rows("failures")}
    assert {name: row["reason"] for name, row in failed.items()} == BAD
    assert all(row["stage"] == "Decode" for row in failed.values())
    assert all(Path(row["uri"]).name in row["message"] for row in failed.values())
    assert len(run.rows("failures")) == len(BAD)
    labelled = [Path(row["uri"]).name for row in run.rows("predictions")]
    assert labelled == [f"{number} good.flac" for number in range(GOOD)]
    assert {Path(row["uri"]).name for row in run.rows("windows")} == set(labelled)
    counts = run.record["counts"]
    assert (counts["listed"], counts["labelled"], counts["failed"]) == (14, 8, 6)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("/no/such/decoder",), "/no/such/decoder"),
        ((sys.executable, "-c", "import sys; sys.exit('it is cold\\nand dark')"), "and dark"),
    ],
)
def test_decoders_that_do_not_start_stop_the_run_and_fail_no_track(
    music, tiny_checkpoint, tmp_path, workers, command, told
):
    options = [f"--input={music}", f"--output={tmp_path}", f"--model={tiny_checkpoint}",
               "--precision=float32", "--progress=none", f"--workers={workers}"]  # fmt: skip
    prepared = job.prepare(parse_options(options))
    limits = DecoderLimits(command=command)
    with pytest.raises(WorkerError, match=rf"decoder does not start: .*{told}.*run again"):
        job.run(dataclasses.replace(prepared, limits=limits))
    assert job.run(job.prepare(parse_options(options))) == 0  # the same call goes on
    run = Run(tmp_path, 0, "", "")
    assert not any("good" in row["uri"] for row in run.rows("failures"))
    assert len(run.rows("predictions")) == GOOD
