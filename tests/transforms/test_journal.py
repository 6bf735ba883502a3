"""The journal: what is committed, when, and what can be read back."""

from __future__ import annotations

import errno
import os
import re
import threading
import time

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.util import assert_that
from apache_beam.transforms.window import GlobalWindow

from tests.rows import (
    FAILURES_JOURNAL,
    TRACKS_JOURNAL,
    failed_rows,
    labelled_rows,
    segment,
    track,
)
from transforms import journal
from transforms.errors import StorageError
from transforms.journal import (
    Journal,
    SegmentBuffer,
    commit_count,
    commit_segment,
    count_rows,
    list_segments,
    read_segment,
)
from transforms.records import WINDOWS_COLUMN, Listing


def test_rows_survive_with_their_windows(tmp_path):
    rows = labelled_rows("ü [1].mp3", 3) + labelled_rows("b.mp3", 2, best=1)
    table = read_segment(segment(tmp_path, rows))
    assert table.schema.equals(TRACKS_JOURNAL)
    assert table.schema.metadata == TRACKS_JOURNAL.metadata
    for stored, row in zip(table.to_pylist(), rows, strict=True):
        for name in set(row) - {WINDOWS_COLUMN, "scores", "confidence", "top_k"}:
            assert stored[name] == row[name], name
        assert np.float32(stored["scores"]).tolist() == np.float32(row["scores"]).tolist()
        assert len(stored[WINDOWS_COLUMN]) == len(row[WINDOWS_COLUMN])
        for kept, window in zip(stored[WINDOWS_COLUMN], row[WINDOWS_COLUMN], strict=True):
            assert {**kept, "scores": 0, "confidence": 0} == {
                **window,
                "scores": 0,
                "confidence": 0,
            }
            assert np.float32(kept["scores"]).tolist() == np.float32(window["scores"]).tolist()


def test_failures_survive(tmp_path):
    rows = failed_rows(message='he said "no",\nand left') + failed_rows("ü [1].mp3", message="")
    assert read_segment(segment(tmp_path, rows)).to_pylist() == rows


def test_names_carry_kind_and_rows_and_nothing_else_is_left(tmp_path):
    folder = tmp_path / "deep" / "run"
    paths = [segment(folder, failed_rows() * 3), segment(folder, labelled_rows())]
    commit_count(str(folder), "skipped", 12)
    names = sorted(os.listdir(folder))
    assert len(names) == 3
    assert re.fullmatch(r"failures-000003-[0-9a-f]{32}\.parquet", names[0])
    assert re.fullmatch(r"skipped-000012-[0-9a-f]{32}\.count", names[1])
    assert re.fullmatch(r"tracks-000001-[0-9a-f]{32}\.parquet", names[2])
    assert [str(folder / names[0]), str(folder / names[2])] == paths


def test_a_segment_never_shows_half_written(tmp_path, monkeypatch, no_waiting):
    def no_space(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(StorageError, match="No space left"):
        segment(tmp_path, failed_rows())
    assert list(tmp_path.iterdir()) == []
    assert count_rows(str(tmp_path)) == {}


def test_count_rows_adds_up_names_and_ignores_other_files(tmp_path):
    for count in (2, 5):
        segment(tmp_path, failed_rows() * count)
    path = segment(tmp_path, labelled_rows())
    commit_count(str(tmp_path), "listed", 1_234_567)
    (tmp_path / "tracks-000009-abc.tmp").write_text("half")
    (tmp_path / ".tracks-000009-abc.parquet.tmp").write_text("half")
    (tmp_path / "books.json").write_text("{}")
    assert count_rows(str(tmp_path)) == {"failures": 7, "tracks": 1, "listed": 1_234_567}
    assert (path, "tracks", 1) in list_segments(str(tmp_path))
    assert len(list_segments(str(tmp_path))) == 4


def test_count_rows_before_anything_was_written(tmp_path):
    assert count_rows(str(tmp_path / "not there")) == {}


def test_on_an_object_store_it_is_the_same(memory_files):
    path = segment("memtest://bucket/out/journal/run", labelled_rows(count=2))
    assert list(memory_files) == [path]
    assert count_rows("memtest://bucket/out/journal/run") == {"tracks": 1}
    assert read_segment(path)["uri"].to_pylist() == ["a.mp3"]


# When


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def buffer_into(commits, clock, what=list):
    """A buffer that leaves ``what`` of its records in ``commits``."""

    def commit(records):
        commits.append(what(records))
        return f"segment {len(commits)}"

    return SegmentBuffer[int](commit, clock)


def test_flushes_by_rows(clock):
    commits: list[list[int]] = []
    buffer = buffer_into(commits, clock)
    for number in range(4_500):
        buffer.add(number)
    assert [len(rows) for rows in commits] == [2_000, 2_000]
    assert buffer.take_paths() == ["segment 1", "segment 2"]
    buffer.flush()
    assert [number for rows in commits for number in rows] == list(range(4_500))
    assert buffer.take_paths() == ["segment 3"]
    assert buffer.take_paths() == []


def test_flushes_by_windows(clock):
    commits: list[list[int]] = []
    buffer = buffer_into(commits, clock)
    for number, windows in enumerate([19_999, 1, 5, 50_000, 7]):
        buffer.add(number, windows=windows)
    assert commits == [[0, 1], [2, 3]]
    buffer.flush()
    assert commits[2:] == [[4]]


def test_flushes_by_seconds_that_double_up_to_a_limit(clock):
    commits: list[float] = []
    buffer = buffer_into(commits, clock, what=lambda _records: clock.now - 100)
    for _ in range(4 * 130):
        clock.now += 0.25
        buffer.add(0)
    # 1 s, then 2, 4, 8, 16, then every 30
    assert commits == [1, 3, 7, 15, 31, 61, 91, 121]


def test_an_empty_flush_commits_nothing(clock):
    commits: list[list[int]] = []
    buffer = buffer_into(commits, clock)
    buffer.flush()
    clock.now += 100
    buffer.commit_if_due()
    assert commits == buffer.take_paths() == []


def test_records_leave_when_no_further_one_comes(monkeypatch):
    monkeypatch.setattr(journal, "_FIRST_FLUSH_S", 0.01)
    committed = threading.Event()

    def commit(records):
        assert records == [7]
        committed.set()
        return "segment"

    buffer = SegmentBuffer[int](commit)
    buffer.start()
    buffer.add(7)
    assert committed.wait(30)
    buffer.close()
    buffer._thread.join(30)
    assert buffer.take_paths() == ["segment"]


def test_an_error_of_the_thread_stops_the_worker(monkeypatch):
    monkeypatch.setattr(journal, "_FIRST_FLUSH_S", 0.01)

    def refuse(_records):
        raise StorageError("the disk is full")

    buffer = SegmentBuffer[int](refuse, clock=lambda: 0.0)  # never due in the worker's own thread
    buffer.add(7)
    buffer._due = -1.0
    buffer.start()
    buffer._thread.join(30)
    assert not buffer._thread.is_alive()
    with pytest.raises(StorageError, match="full"):
        buffer.take_paths()


def test_a_failed_commit_keeps_the_records(clock):
    commits: list[list[int]] = []
    refusals = [StorageError("for now")]

    def commit(records):
        if refusals:
            raise refusals.pop()
        commits.append(list(records))
        return "segment"

    buffer = SegmentBuffer[int](commit, clock)
    buffer.add(1)
    with pytest.raises(StorageError):
        buffer.flush()
    buffer.add(2)
    buffer.flush()
    assert commits == [[1, 2]]


def test_many_threads_lose_and_double_nothing(monkeypatch):
    monkeypatch.setattr(journal, "_MAX_ROWS", 7)
    commits: list[list[int]] = []
    buffer = buffer_into(commits, time.monotonic)

    def add(first):
        for number in range(first, first + 500):
            buffer.add(number)
            if number % 50 == 0:
                buffer.flush()

    threads = [threading.Thread(target=add, args=(1_000 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    buffer.flush()
    expected = [1_000 * thread + number for thread in range(4) for number in range(500)]
    assert sorted(number for rows in commits for number in rows) == expected
    assert len(buffer.take_paths()) == len(commits)


# The transform


def test_the_transform_gives_the_paths_of_all_rows(tmp_path):
    rows = [failed_rows(f"{number}.mp3") for number in range(7)]

    def check(paths):
        assert paths
        assert sorted(paths) == [path for path, _, _ in list_segments(str(tmp_path))]
        uris = [uri for path in paths for uri in read_segment(path)["uri"].to_pylist()]
        assert sorted(uris) == [f"{number}.mp3" for number in range(7)]

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        written = Journal(str(tmp_path), "failures", FAILURES_JOURNAL)
        assert_that(pipeline | beam.Create(rows) | written, check)
    assert count_rows(str(tmp_path)) == {"failures": 7}


def test_windows_count_towards_a_segments_size(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "_MAX_WINDOWS", 5)
    do_fn = journal._JournalDoFn(str(tmp_path), "tracks", TRACKS_JOURNAL, WINDOWS_COLUMN)
    do_fn.setup()
    early = [path for uri in "abc" for path in do_fn.process(labelled_rows(uri, 3))]
    late = list(do_fn.finish_bundle())
    do_fn.teardown()
    assert [read_segment(path)["uri"].to_pylist() for path in early] == [["a", "b"]]
    assert [read_segment(value.value)["uri"].to_pylist() for value in late] == [["c"]]
    assert late[0].windows == (GlobalWindow(),)


def test_the_rows_of_one_track_are_in_one_segment(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "_MAX_ROWS", 4)
    of = track("a", *(Listing(str(number)) for number in range(3)), copies=(track("b"),))
    do_fn = journal._JournalDoFn(str(tmp_path), "tracks", TRACKS_JOURNAL, WINDOWS_COLUMN)
    do_fn.setup()
    paths = [*do_fn.process(labelled_rows("first", 1)), *do_fn.process(labelled_rows(of, 1))]
    do_fn.teardown()
    (path,) = paths
    assert read_segment(path)["uri"].to_pylist() == ["first", "a", "a", "a", "b"]


def test_a_row_is_durable_before_its_bundle_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "_FIRST_FLUSH_S", 0.1)
    do_fn = journal._JournalDoFn(str(tmp_path), "failures", FAILURES_JOURNAL, None)
    do_fn.setup()
    early = list(do_fn.process(failed_rows()))
    assert early in ([], [path for path, *_ in list_segments(str(tmp_path))])
    end = time.monotonic() + 30
    while not count_rows(str(tmp_path)):
        assert time.monotonic() < end, "it was never committed"
        time.sleep(0.01)
    do_fn.teardown()
    assert count_rows(str(tmp_path)) == {"failures": 1}


def test_a_row_that_does_not_fit_fails_the_run(tmp_path):
    wrong = [row | {"size_bytes": "no number"} for row in labelled_rows()]
    with pytest.raises(Exception, match="no number"):
        commit_segment(str(tmp_path), "tracks", wrong, TRACKS_JOURNAL)
    assert list(tmp_path.iterdir()) == []
