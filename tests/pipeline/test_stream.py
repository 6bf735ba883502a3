"""The stream program: what goes in by a folder or a pipe comes out as rows, in every sink."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.dataset as ds
import pytest
import soundfile

from pipeline.stream import main
from tests.audio_files import noise
from tests.catalog import ROOT
from transforms.streaming.blocks import Block, decode_block, encode_block

RATE_HZ, SECONDS = 8_000, 3
START_US = 1_769_889_600_000_000
OF_THIS_RUN = ("run_id", "labelled_at", "failed_at")


def write_blocks(folder: Path, stream_id: str, sequences=range(12)) -> None:
    """A quarter of a second of noise in each."""
    sound = (20_000 * noise(SECONDS, RATE_HZ, 1)[:, 0]).astype("<i2").reshape(12, -1)
    for number in sequences:
        block = Block(
            stream_id=stream_id, sequence=number, event_time_us=START_US + 250_000 * number,
            sample_rate_hz=RATE_HZ, channels=1, last=number == 11, payload=sound[number].tobytes(),
        )  # fmt: skip
        path = folder / block.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_block(block))


def rows_of(output: Path, dataset: str = "labels") -> list[dict]:
    folder = output / dataset
    return ds.dataset(folder, format="parquet").to_table().to_pylist() if folder.exists() else []


def plain(rows: list[dict]) -> list[dict]:
    kept = [{name: row[name] for name in row if name not in OF_THIS_RUN} for row in rows]
    return sorted(kept, key=lambda row: row["row_id"])


def spans(rows: list[dict], kind: str) -> list[tuple[float, float]]:
    return sorted((row["start_s"], row["end_s"]) for row in rows if row["kind"] == kind)


def test_a_folder_once(tmp_path, capsys):
    write_blocks(tmp_path / "in", "a")
    write_blocks(tmp_path / "in", "b", [0, 1, 2, 5, 6])
    (tmp_path / "in" / "b" / "0-0000000007.block").write_bytes(b"no block")
    options = ["--once", "--to=-", f"--to={tmp_path / 'out'}", f"--clean_to={tmp_path / 'clean'}"]
    assert main([f"--source={tmp_path / 'in'}", *options]) == 0
    rows = rows_of(tmp_path / "out")
    of_a, of_b = ([row for row in rows if row["stream_id"] == name] for name in "ab")
    assert spans(of_a, "second") == [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]
    assert spans(of_a, "end") == [(0.0, 3.0)]
    segments = spans(of_a, "segment")
    assert (segments[0][0], segments[-1][1]) == (0.0, 3.0)
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(segments))
    gaps = [(row["gap_s"], row["lost_blocks"]) for row in of_b if row["kind"] == "gap"]
    assert gaps == [(0.5, 2)]
    assert all(abs(sum(row["scores"]) - 1) < 1e-5 for row in rows if row["kind"] == "second")
    (failure,) = rows_of(tmp_path / "out", "failures")
    assert failure["reason"] == "malformed_block"
    assert failure["source"].endswith("0-0000000007.block")

    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["row_id"] for row in printed} == {row["row_id"] for row in [*rows, failure]}
    clean = [decode_block(path.read_bytes()) for path in sorted((tmp_path / "clean/a").iterdir())]
    assert sum(block.frames for block in clean) == 16_000 * SECONDS
    assert [block.last for block in clean] == [False] * (len(clean) - 1) + [True]


def test_a_folder_that_is_followed_gives_the_same_rows(tmp_path):
    write_blocks(tmp_path / "in", "a")
    assert main([f"--source={tmp_path / 'in'}", "--once", f"--to={tmp_path / 'once'}"]) == 0
    command = [sys.executable, "-m", "pipeline.stream", f"--source={tmp_path / 'live'}", "--to=-",
               f"--to={tmp_path / 'out'}"]  # fmt: skip
    write_blocks(tmp_path / "live", "a", range(6))
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        first = json.loads(program.stdout.readline())  # before the stream has gone on
        assert (first["kind"], first["start_s"]) == ("second", 0.0)
        write_blocks(tmp_path / "live", "a", [7, 6, 8, 9, 10, 11])
        while json.loads(program.stdout.readline())["kind"] != "end":
            pass
        program.send_signal(signal.SIGINT)
        program.communicate(timeout=60)
    assert program.returncode == 0
    assert plain(rows_of(tmp_path / "out")) == plain(rows_of(tmp_path / "once"))


def test_standard_input(tmp_path):
    path = tmp_path / "noise.wav"
    soundfile.write(path, noise(SECONDS, 44_100, 2), 44_100)
    command = [sys.executable, "-m", "pipeline.stream", "--source=-", "--to=-"]
    with path.open("rb") as source:
        done = subprocess.run(command, cwd=ROOT, stdin=source, capture_output=True, timeout=120,
                              check=True)  # fmt: skip
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert spans(rows, "second") == [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]
    assert {row["stream_id"] for row in rows} == {"stdin"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--source=nowhere", "--once"], "nowhere"),
        (["--source=nowhere"], "nowhere"),
        (["--source=.", "--model=genre-vit"], "whole windows"),
        (["--source=.", "--model=nothing"], "nothing"),
        (["--source=.", "--runner=FlinkRunner"], "pipeline.publish"),
        (["--source=kafka://h:1/t", "--source=."], "alone"),
        (["--source=-", "--once"], "--once"),
        (["--source=kafka://nohost/"], "kafka://HOST:PORT/TOPIC"),
        (["--source=.", "--half_life_seconds=-1"], "half_life_seconds"),
        (["--source=.", "--nonsense=1"], "nonsense"),
        ([], "--source"),
    ],
)
def test_a_wrong_call_is_one_line(arguments, told, capsys):
    try:
        status = main(arguments)
    except SystemExit as ended:
        status = ended.code
    said = capsys.readouterr().err
    assert status == 2
    assert told in said
    assert "Traceback" not in said


def test_help_is_quick_and_whole(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "--compare" in capsys.readouterr().out
