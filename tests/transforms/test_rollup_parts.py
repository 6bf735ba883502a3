"""How a track's windows find together: in one worker, over bundles, and not at all."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.util import assert_that
from apache_beam.transforms.window import GlobalWindow

from tests.rows import FACTS, PROVENANCE, RULE, predicted, track
from transforms.errors import Reason
from transforms.records import WINDOWS_COLUMN, Listing
from transforms.rollup import RollUp, _AssembleDoFn, _JoinDoFn, incomplete, is_whole
from transforms.stage_metrics import FAILURES

A, B = predicted("a.mp3", 3), predicted("b.mp3", 2, best=1)


def assemble(*bundles) -> tuple[list[dict[str, Any]], list[tuple[str, list[Any]]]]:
    """Rows of tracks that are whole within a bundle, and the parts of the others."""
    do_fn = _AssembleDoFn(RULE, PROVENANCE)
    rows, parts = [], []
    for windows in bundles:
        do_fn.start_bundle()
        for window in windows:
            for item in do_fn.process(window):
                if isinstance(item, beam.pvalue.TaggedOutput):
                    parts.append(item.value)
                else:
                    rows += item
        for item in do_fn.finish_bundle():
            assert item.value.windows == (GlobalWindow(),)
            parts.append(item.value.value)
    return rows, parts


def join(uri, *parts):
    """Rows and failures of the parts of one track."""
    items = list(_JoinDoFn(RULE, PROVENANCE).process((uri, iter(parts))))
    failures = [item.value for item in items if isinstance(item, beam.pvalue.TaggedOutput)]
    return [row for item in items if isinstance(item, list) for row in item], failures


def uris(rows):
    return [row["uri"] for row in rows]


def flat(tracks):
    """The rows of several tracks."""
    return list(itertools.chain.from_iterable(tracks))


# In one worker


def test_a_track_is_whole_as_soon_as_its_last_window_is_there():
    do_fn = _AssembleDoFn(RULE, PROVENANCE)
    do_fn.start_bundle()
    assert [uris(flat(do_fn.process(window))) for window in [*A, *B]] == [
        [], [], ["a.mp3"], [], ["b.mp3"],
    ]  # fmt: skip
    assert list(do_fn.finish_bundle()) == []


def test_tracks_do_not_mix_though_their_windows_do():
    rows, parts = assemble([A[0], B[0], A[1], B[1], A[2]])
    assert [(row["uri"], row["label"]) for row in rows] == [("b.mp3", "pop"), ("a.mp3", "jazz")]
    assert [len(row[WINDOWS_COLUMN]) for row in rows] == [2, 3]
    assert parts == []


def test_a_window_that_is_missing_leaves_a_part():
    rows, parts = assemble([A[0], A[2], *B])
    assert uris(rows) == ["b.mp3"]
    assert parts == [("a.mp3", [A[0], A[2]])]


def test_no_window_of_one_bundle_is_kept_for_the_next():
    rows, parts = assemble(A[:2], A[2:])
    assert rows == []
    assert parts == [("a.mp3", A[:2]), ("a.mp3", A[2:])]


def test_what_waits_is_bounded():
    firsts = [predicted(f"{number:03}.mp3", 2)[0] for number in range(100)]
    do_fn = _AssembleDoFn(RULE, PROVENANCE)
    do_fn.start_bundle()
    early = [item.value for window in firsts for item in do_fn.process(window)]
    late = [item.value.value for item in do_fn.finish_bundle()]
    assert len(late) <= 20
    assert early + late == [(window.uri, [window]) for window in firsts]


# Over bundles


def test_parts_are_joined_whatever_their_order():
    whole, _ = assemble(A)
    for parts in ([A[:1], A[1:]], [A[1:], A[:1]], [A[2:], A[1:2], A[:1]], [[A[2], A[0]], [A[1]]]):
        rows, failures = join("a.mp3", *parts)
        assert failures == []
        assert [row | {"labelled_at": 0} for row in rows] == [
            row | {"labelled_at": 0} for row in whole
        ]


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        (A[:2], "2 of an unknown number windows"),
        ([A[0], A[2]], "2 of 3 windows"),
        (A[2:], "1 of 3 windows"),
        ([*A, A[1]], "1 windows arrived more than once"),
        ([A[0], A[1], A[1]], "1 windows arrived more than once"),
        ([*A, *A], "3 windows arrived more than once"),
    ],
)
def test_what_is_not_whole_is_no_label(windows, message):
    rows, (failure,) = join("a.mp3", windows)
    assert rows == []
    assert (failure.track, failure.stage) == (A[0].track, "RollUp")
    assert failure.reason is Reason.INCOMPLETE
    assert message in failure.message


def test_an_incomplete_track_knows_its_size_where_its_facts_arrived():
    assert incomplete(A[1:]).size_bytes == FACTS.size_bytes
    assert incomplete(A[:1]).size_bytes is None


@pytest.mark.parametrize(
    ("windows", "whole"),
    [
        (A, True),
        (predicted("c.mp3", 1), True),
        (A[::-1], False),
        (A[:2], False),
        (A[1:], False),
        ([A[0], A[0], A[2]], False),
    ],
)
def test_is_whole(windows, whole):
    assert is_whole(windows) is whole


def test_more_windows_than_stated_are_not_whole():
    facts = dataclasses.replace(FACTS, window_count=2)
    assert not is_whole([*A[:2], dataclasses.replace(A[2], facts=facts)])


# As a transform


def rolled_up(windows, *, check):
    """RollUp behind a shuffle that deals the windows out as it likes."""
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        outputs = pipeline | beam.Create(windows) | beam.Reshuffle() | RollUp(RULE, PROVENANCE)
        rows = (outputs["tracks"], outputs["parts"]) | "Rows" >> beam.Flatten()
        assert_that(rows, lambda tracks: check(flat(tracks)), "rows")
        assert_that(outputs[FAILURES], lambda found: check_none(found), "failures")


def check_none(found):
    assert list(found) == []


def test_every_track_has_its_row_wherever_its_windows_went():
    copy = track("copy.mp3", Listing("c"))
    many = predicted(track("d.mp3", Listing("1"), Listing("2"), copies=(copy,)), 5)
    windows = [*A, *B, *many]
    shuffled = [windows[place] for place in np.random.default_rng(0).permutation(len(windows))]

    def check(rows):
        found = {(row["uri"], row["track_id"]): len(row[WINDOWS_COLUMN]) for row in rows}
        assert found == {
            ("a.mp3", None): 3,
            ("b.mp3", None): 2,
            ("d.mp3", "1"): 5,
            ("d.mp3", "2"): 0,
            ("copy.mp3", "c"): 5,
        }
        assert len(list(rows)) == 5

    rolled_up(shuffled, check=check)


def test_order_of_the_windows_changes_no_bit():
    rng = np.random.default_rng(0)
    windows = [
        dataclasses.replace(
            window,
            log_probs=np.log(rng.dirichlet(np.ones(3))).astype(np.float32),
            content_s=float(rng.uniform(0, 30)),
            embedding=rng.standard_normal(8).astype(np.float32),
        )
        for window in predicted("a.mp3", 20)
    ]
    found = []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(20)
        result = [windows[place] for place in order] | RollUp(RULE, PROVENANCE)
        (row,) = flat(result["tracks"] + result["parts"])
        found.append((row["scores"], row["embedding"]))
    assert found[0] == found[1] == found[2]


def test_failures_of_a_pipeline():
    result = [*A[:2], *B] | RollUp(RULE, PROVENANCE)
    assert uris(flat(result["tracks"] + result["parts"])) == ["b.mp3"]
    (failure,) = result[FAILURES]
    assert (failure.track, failure.reason) == (A[0].track, Reason.INCOMPLETE)


def test_nothing_in_nothing_out():
    result = [] | RollUp(RULE, PROVENANCE)
    assert result["tracks"] == result["parts"] == result[FAILURES] == []
