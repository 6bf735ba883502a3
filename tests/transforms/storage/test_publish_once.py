"""Each listing gets one row, whatever the segments repeat."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rows import LABELS, PREDICTIONS, failed_rows, labelled_rows, segment, stored, track
from transforms.errors import Reason
from transforms.records import Listing
from transforms.storage.dataset import Target
from transforms.storage.publish import listing_key, publish

TWICE = track("b.mp3", Listing("1"), Listing("2"))


@pytest.fixture
def journal(tmp_path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def target(tmp_path) -> Target:
    return Target(str(tmp_path / "out"), "run-1")


def test_a_repeated_segment_changes_nothing(journal, target):
    rows, failures = labelled_rows("a.mp3", 2) + labelled_rows(TWICE), failed_rows("d.mp3")
    paths = [segment(journal, part) for part in (rows, rows, rows[:1], failures, failures)]
    publish(paths, target, PREDICTIONS)
    assert len(stored(target.output, "predictions")) == 3
    assert len(stored(target.output, "windows")) == 3
    assert len(stored(target.output, "failures")) == 1


def test_repeated_rows_within_a_segment(journal, target):
    paths = [segment(journal, labelled_rows() * 3), segment(journal, failed_rows("d.mp3") * 3)]
    assert publish(paths, target, PREDICTIONS).total() == 2
    assert (len(stored(target.output, "windows")), len(stored(target.output, "failures"))) == (1, 1)


def test_labelled_beats_failed(journal, target):
    """A bundle that was repeated may have failed in the one go only."""
    paths = [segment(journal, failed_rows(TWICE)), segment(journal, labelled_rows(TWICE))]
    assert publish(paths, target, PREDICTIONS) == {("labelled", "jazz"): 2}
    assert stored(target.output, "failures") == []


def test_listings_of_one_file_are_told_apart(journal, target):
    labelled, failed = labelled_rows(TWICE), failed_rows(TWICE)
    publish([segment(journal, labelled[:1]), segment(journal, failed[1:])], target, PREDICTIONS)
    assert [row["track_id"] for row in stored(target.output, "predictions")] == ["1"]
    assert [row["track_id"] for row in stored(target.output, "failures")] == ["2"]


FAILED = [
    failed_rows("d.mp3", "RunInference/scores", Reason.INVALID_SCORES, "c"),
    failed_rows("d.mp3", "Preprocess", Reason.INVALID_SAMPLES, "b"),
    failed_rows("d.mp3", "Preprocess", Reason.INTERNAL_ERROR, "z"),
    failed_rows("d.mp3", "Preprocess", Reason.INVALID_SAMPLES, "a"),
    failed_rows("d.mp3", "RollUp", Reason.INCOMPLETE, "1 of 2"),
]


def test_of_several_failures_the_earliest_stage_is_told_in_any_order(tmp_path, target):
    told = set()
    for number, order in enumerate(itertools.permutations(FAILED)):
        if number % 11:  # some of the orders
            continue
        paths = [segment(tmp_path / str(number), rows) for rows in order]
        assert publish(paths, target, PREDICTIONS).total() == 1
        told |= {
            (row["stage"], row["reason"], row["message"])
            for row in stored(target.output, "failures")
        }
    assert told == {("Preprocess", "internal_error", "z")}


@pytest.mark.parametrize(
    ("stages", "first"),
    [
        (["RunInference", "Decode"], "Decode"),
        (["Decode", "ReadFiles"], "ReadFiles"),
        (["MelSpectrogram", "Preprocess"], "Preprocess"),
        (["RollUp", "RunInference/scores"], "RunInference"),
        (["Separate", "RollUp"], "RollUp"),  # a stage of one's own comes last
        (["Separate"], "Separate"),
    ],
)
def test_order_of_the_stages(journal, target, stages, first):
    publish([segment(journal, failed_rows(stage=stage)) for stage in stages], target, PREDICTIONS)
    assert [row["stage"] for row in stored(target.output, "failures")] == [first]


@settings(max_examples=25, deadline=None)
@given(
    chosen=st.lists(
        st.tuples(st.sampled_from("abcdef"), st.integers(1, 3), st.sampled_from((*LABELS, ""))),
        min_size=1, max_size=25,
    ),
    sizes=st.lists(st.integers(1, 6), min_size=25, max_size=25),
)  # fmt: skip
def test_any_segments_give_each_listing_one_row(tmp_path_factory, chosen, sizes):
    folder = tmp_path_factory.mktemp("any")
    target = Target(str(folder / "out"), "run-1")
    tracks, failures = [], []
    for uri, listings, label in chosen:
        of = track(uri, *(Listing(str(number)) for number in range(listings)))
        if label:
            tracks += labelled_rows(of, 2, best=LABELS.index(label))
        else:
            failures += failed_rows(of)
    paths = []
    for rows in (tracks, failures):
        left = list(rows)
        for size in sizes:
            if left:
                paths.append(segment(folder / "journal", left[:size]))
            left = left[size:]
        if left:
            paths.append(segment(folder / "journal", left))
    counts = publish(paths, target, PREDICTIONS)
    labelled = {(row["uri"], row["track_id"]) for row in tracks}
    failed = {(row["uri"], row["track_id"]) for row in failures} - labelled
    for name, expected in (("predictions", labelled), ("failures", failed)):
        found = [(row["uri"], row["track_id"]) for row in stored(target.output, name)]
        assert sorted(found) == sorted(expected)
    assert counts.total() == len(labelled) + len(failed)
    windows = [(row["uri"], row["window_index"]) for row in stored(target.output, "windows")]
    assert sorted(windows) == sorted(
        (uri, n) for uri in {uri for uri, _ in labelled} for n in (0, 1)
    )


def test_keys_of_listings_do_not_collide():
    pairs = [("a", 1), ("1 a", 1), ("a", 11), (" a", 1), ("a ", 1), ("1 a", 0), ("a", 0)]
    assert len({listing_key(uri, listing) for uri, listing in pairs}) == len(pairs)
