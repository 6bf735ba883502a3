"""The journal: what is committed, when, and what can be read back."""

from __future__ import annotations

import os
import re

import apache_beam as beam
import numpy as np
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.util import assert_that, equal_to

from transforms.errors import Reason
from transforms.journal import Journal, SegmentBuffer, commit_segment, count_rows
from transforms.records import Failure, TrackFacts, WindowPrediction

FACTS = TrackFacts(
    "a.flac", "ab" * 32, 1 << 40, 3.25, 192_000, 6, "flac", "flac", "soundfile", 2, ("truncated",)
)
FAILURE = Failure("ü [1].mp3", "Decode", Reason.CORRUPT, 'he said "no",\nand left', 17)


def prediction(index: int = 0, embedding: bool = True) -> WindowPrediction:
    rng = np.random.default_rng(index)
    return WindowPrediction(
        "a.flac",
        index,
        1.5 * index,
        1.5 * index + 3,
        2.9,
        rng.standard_normal(16).astype(np.float32),
        rng.standard_normal(8).astype(np.float32) if embedding else None,
    )


def test_facts_survive(tmp_path):
    path = commit_segment(str(tmp_path), "tracks", [FACTS])
    (row,) = pq.read_table(path).to_pylist()
    assert TrackFacts(**row | {"decode_warnings": tuple(row["decode_warnings"])}) == FACTS


def test_failures_survive(tmp_path):
    bare = Failure("b", "RollUp", Reason.INCOMPLETE, "")
    rows = pq.read_table(commit_segment(str(tmp_path), "failures", [FAILURE, bare])).to_pylist()
    assert [Failure(**row | {"reason": Reason(row["reason"])}) for row in rows] == [FAILURE, bare]


def test_predictions_survive_bit_for_bit(tmp_path):
    originals = [prediction(0), prediction(1, embedding=False)]
    rows = pq.read_table(commit_segment(str(tmp_path), "windows", originals)).to_pylist()
    assert len(rows) == 2
    for row, original in zip(rows, originals, strict=True):
        np.testing.assert_array_equal(np.float32(row["log_probs"]), original.log_probs)
        assert (row["start_s"], row["end_s"], row["content_s"], row["window_index"]) == (
            original.start_s,
            original.end_s,
            original.content_s,
            original.window_index,
        )
    np.testing.assert_array_equal(np.float32(rows[0]["embedding"]), originals[0].embedding)
    assert rows[1]["embedding"] is None


def test_names_carry_kind_and_rows_and_nothing_else_is_left(tmp_path):
    folder = tmp_path / "deep" / "run"
    commit_segment(str(folder), "failures", [FAILURE] * 3)
    commit_segment(str(folder), "tracks", [FACTS])
    names = sorted(os.listdir(folder))
    assert len(names) == 2
    assert re.fullmatch(r"failures-000003-[0-9a-f]{32}\.parquet", names[0])
    assert re.fullmatch(r"tracks-000001-[0-9a-f]{32}\.parquet", names[1])


def test_a_segment_never_shows_half_written(tmp_path, monkeypatch):
    def no_space(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        commit_segment(str(tmp_path), "tracks", [FACTS])
    assert list(tmp_path.glob("*.parquet")) == []
    assert count_rows(str(tmp_path)) == {}


def test_count_rows_adds_up_names_and_ignores_other_files(tmp_path):
    for count in (2, 5):
        commit_segment(str(tmp_path), "windows", [prediction()] * count)
    commit_segment(str(tmp_path), "tracks", [FACTS])
    (tmp_path / "windows-000009-abc.tmp").write_text("half")
    (tmp_path / "books.json").write_text("{}")
    assert count_rows(str(tmp_path)) == {"windows": 7, "tracks": 1}


def test_count_rows_before_anything_was_written(tmp_path):
    assert count_rows(str(tmp_path / "not there")) == {}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_flushes_by_rows(clock):
    commits: list[list[int]] = []
    buffer = SegmentBuffer[int](commits.append, clock)
    for number in range(4_500):
        buffer.add(number)
    assert [len(rows) for rows in commits] == [2_000, 2_000]
    buffer.flush()
    assert [number for rows in commits for number in rows] == list(range(4_500))


def test_flushes_by_seconds_that_double_up_to_a_limit(clock):
    commits: list[float] = []
    buffer = SegmentBuffer[int](lambda _rows: commits.append(clock.now - 100), clock)
    for _ in range(4 * 130):
        clock.now += 0.25
        buffer.add(0)
    # 1 s, then 2, 4, 8, 16, then every 30
    assert commits == [1, 3, 7, 15, 31, 61, 91, 121]


def test_an_empty_flush_commits_nothing(clock):
    commits: list[list[int]] = []
    SegmentBuffer[int](commits.append, clock).flush()
    assert commits == []


def test_the_transform_passes_everything_on_and_commits_all_of_it(tmp_path):
    failures = [Failure(f"{n}.mp3", "Decode", Reason.CORRUPT, "") for n in range(7)]
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        passed = pipeline | beam.Create(failures) | Journal(str(tmp_path), "failures")
        assert_that(passed, equal_to(failures))
    assert count_rows(str(tmp_path)) == {"failures": 7}
    uris = [uri for path in tmp_path.iterdir() for uri in pq.read_table(path)["uri"].to_pylist()]
    assert sorted(uris) == [f"{n}.mp3" for n in range(7)]
