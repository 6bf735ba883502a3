"""Folders in graphs: what is there on any runner, and what comes on the one that is live."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from tests.audio_files import sine, write_soundfile
from transforms.errors import InputError, Reason
from transforms.stage_metrics import FAILURES
from transforms.streaming.blocks import Block, decode_block, encode_block
from transforms.streaming.folder import FolderSpec
from transforms.streaming.live_root import Stop
from transforms.streaming.sources import BLOCKS, ReadFolder, ReadLive

RATE = 8_000
BEGAN_US = 1_700_000_000_000_000
ROWS: list[tuple[str, int, float]] = []  # stream_id, sequence, timestamp
FAILED: list[tuple[str, Reason]] = []
CAME = threading.Condition()


@pytest.fixture(autouse=True)
def _clean():
    ROWS.clear(), FAILED.clear()


def take(pair, time_of_it=beam.DoFn.TimestampParam) -> None:
    one = decode_block(pair[1])
    assert one.stream_id == pair[0]
    with CAME:
        ROWS.append((pair[0], one.sequence, time_of_it.micros))
        CAME.notify_all()


def take_failure(failure) -> None:
    with CAME:
        FAILED.append((Path(failure.source).name, failure.reason))
        CAME.notify_all()


def came(what, where=ROWS) -> None:
    """Wait until there is a row; what does not come in a minute does not come."""
    with CAME:
        assert CAME.wait_for(lambda: what in [row[: len(what)] for row in where], timeout=60)


def run(runner, read) -> None:
    options = PipelineOptions(["--streaming"] if isinstance(read, ReadLive) else [])
    pipeline = beam.Pipeline(runner=runner, options=options)
    outputs = pipeline | read
    outputs[BLOCKS] | "Take" >> beam.Map(take)
    outputs[FAILURES] | "Fail" >> beam.Map(take_failure)
    pipeline.run().wait_until_finish()


def put(folder: Path, stream_id: str, n: int, session: int = 0) -> tuple[str, int, int]:
    one = Block(stream_id=stream_id, session=session, sequence=n, sample_rate_hz=RATE, channels=1,
                event_time_us=BEGAN_US + 250_000 * n, payload=bytes(RATE // 2))  # fmt: skip
    path = folder / one.file_name
    path.parent.mkdir(exist_ok=True)
    hidden = path.with_name(f".{path.name}")
    hidden.write_bytes(encode_block(one))
    hidden.rename(path)
    return stream_id, n, one.event_time_us


def segment(folder: Path, stream_id: str, n: int, seconds: float = 1.0) -> Path:
    (folder / stream_id).mkdir(exist_ok=True)
    path = folder / stream_id / f"{n:06d}.flac"
    return write_soundfile(path, sine(seconds, RATE, 1), RATE, "FLAC")


@pytest.mark.parametrize("make_runner", [FnApiRunner, BundleBasedDirectRunner])
def test_what_is_there_now(tmp_path, make_runner):
    wanted = [put(tmp_path, name, n) for name in ("a", "b", "c") for n in range(5)]
    segment(tmp_path, "d", 0, 2.5)
    segment(tmp_path, "d", 1)
    (tmp_path / "a" / "0-0000000009.block").write_bytes(b"")
    (tmp_path / "stray.wav").write_bytes(b"")
    (tmp_path / "no id").mkdir()
    run(make_runner(), ReadFolder(FolderSpec(str(tmp_path), follow=False)))
    for name in ("a", "b", "c"):  # each in order, wherever the others are
        assert [row for row in ROWS if row[0] == name] == [row for row in wanted if row[0] == name]
    d = [row for row in ROWS if row[0] == "d"]
    assert [n for _, n, _ in d] == [0, 1, 2, 3]
    assert np.diff([time_us for *_, time_us in d]).tolist() == [1_000_000, 1_000_000, 500_000]
    assert sorted(FAILED) == [
        (name, Reason.MALFORMED_BLOCK) for name in ("0-0000000009.block", "no id", "stray.wav")
    ]


def test_an_empty_folder(tmp_path):
    run(FnApiRunner(), ReadFolder(FolderSpec(str(tmp_path), follow=False)))
    assert ROWS == FAILED == []


def test_wrong_calls(tmp_path):
    with pytest.raises(InputError, match="is no folder"):
        ReadFolder(FolderSpec(str(tmp_path / "none"), follow=False))
    with pytest.raises(InputError, match="is no folder"):
        ReadLive([FolderSpec(str(tmp_path / "none"))])
    with pytest.raises(ValueError, match="ReadLive"):
        ReadFolder(FolderSpec(str(tmp_path)))


def in_thread(recorder, stop: Stop) -> threading.Thread:
    """Run a recorder beside the graph; its end, a failed assertion too, ends the graph."""

    def record() -> None:
        try:
            recorder()
            DONE.append(1)
        finally:
            stop.set()

    DONE.clear()
    thread = threading.Thread(target=record)
    thread.start()
    return thread


DONE: list[int] = []


def test_rows_come_while_a_recorder_still_writes(tmp_path):
    """The recorder writes the next block only when it has seen the row of the one before."""
    stop = Stop.new()

    def recorder() -> None:
        for n in range(5):
            for name in ("a", "b"):
                came(put(tmp_path, name, n))
        (tmp_path / "b" / "0-0000000005.block").write_bytes(b"")
        came(("0-0000000005.block",), FAILED)
        came(put(tmp_path, "b", 6))
        came(put(tmp_path, "c", 0))

    thread = in_thread(recorder, stop)
    run(BundleBasedDirectRunner(), ReadLive([FolderSpec(str(tmp_path))], stop))
    thread.join()
    assert DONE
    assert [(name, n) for name, n, _ in ROWS] == [
        *((name, n) for n in range(5) for name in ("a", "b")), ("b", 6), ("c", 0)
    ]  # fmt: skip
    assert FAILED == [("0-0000000005.block", Reason.MALFORMED_BLOCK)]


def test_a_recorder_of_audio_files(tmp_path):
    stop = Stop.new()

    def recorder() -> None:
        segment(tmp_path, "radio", 0, 1.5)
        growing = segment(tmp_path, "radio", 1)
        whole = growing.read_bytes()
        growing.write_bytes(whole[:1_000])
        came(("radio", 1))  # of the first segment, the last block
        assert not [row for row in ROWS if row[1] > 1]
        growing.write_bytes(whole)
        segment(tmp_path, "radio", 2)
        came(("radio", 2))
        came(("radio", 3))  # it has not changed for a while

    thread = in_thread(recorder, stop)
    spec = FolderSpec(str(tmp_path), settle_seconds=1.0)
    run(BundleBasedDirectRunner(), ReadLive([spec], stop))
    thread.join()
    assert DONE
    assert [n for _, n, _ in ROWS] == [0, 1, 2, 3]
    assert FAILED == []


def test_what_was_there_before_comes_first(tmp_path):
    wanted = [put(tmp_path, "a", n, session) for session in (0, 1) for n in range(300)]
    began_s = time.monotonic()
    run(BundleBasedDirectRunner(), ReadLive([FolderSpec(str(tmp_path))], for_seconds=3.0))
    assert wanted == ROWS
    assert time.monotonic() - began_s >= 3.0
