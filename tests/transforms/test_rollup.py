"""From a track's windows to its rows: the rule by hand, every listing, every copy."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math

import numpy as np
import pyarrow as pa
import pytest

from tests.rows import FACTS, LABELS, MODIFIED, PROVENANCE, RULE, track
from transforms.errors import Reason
from transforms.records import (
    LISTING_COLUMN,
    WINDOWS_COLUMN,
    Failure,
    FailureRow,
    Listing,
    PredictionRow,
    Track,
    TrackFeatures,
    WindowPrediction,
    journal_schema,
    schema_of,
)
from transforms.rollup import small_parts
from transforms.scores import (
    LabelRule,
    choose_label,
    mean_embedding,
    mean_scores,
    top_scores,
)
from transforms.track_rows import failure_rows, track_rows

VECTORS = np.array([[1, 0], [0, 4]], np.float32)
TWO = dataclasses.replace(FACTS, window_count=2)


def logs(*probabilities) -> np.ndarray:
    return np.array([math.log(p) if p else -math.inf for p in probabilities], np.float32)


def predicted(*probabilities, index=0, seconds=1.0, of="a.mp3", embedding=None, facts=None):
    of = track(of) if isinstance(of, str) else of
    start_s = 2.0 * index
    return WindowPrediction(
        of, index, start_s, start_s + 2.0, seconds, logs(*probabilities), embedding, facts
    )


# Two windows of a track: 3 seconds at (0.8, 0.1, 0.1) and 1 second at (0.05, 0.8, 0.15).
# jazz: (0.8^3 * 0.05)^(1/4) = 0.4000; pop: (0.1^3 * 0.8)^(1/4) = 0.168179;
# rock: (0.1^3 * 0.15)^(1/4) = 0.110668; their sum is 0.678847.
WINDOWS = [
    predicted(0.8, 0.1, 0.1, index=0, seconds=3.0),
    predicted(0.05, 0.8, 0.15, index=1, seconds=1.0, facts=TWO),
]
SCORES = [0.4 / 0.678847, 0.168179 / 0.678847, 0.110668 / 0.678847]


def rows_of(windows=WINDOWS, rule=RULE):
    return list(track_rows(windows, rule, PROVENANCE))


def of_track(of, windows=WINDOWS):
    return [dataclasses.replace(window, track=of) for window in windows]


# The rule


@pytest.mark.parametrize(
    ("windows", "weights", "expected"),
    [
        ([(0.8, 0.2)], [1], [0.8, 0.2]),
        ([(0.8, 0.2)], [0], [0.8, 0.2]),
        # sqrt(0.8 * 0.5) is twice sqrt(0.2 * 0.5); the arithmetic mean would be 0.65.
        ([(0.8, 0.2), (0.5, 0.5)], [1, 1], [2 / 3, 1 / 3]),
        ([(0.8, 0.2), (0.5, 0.5)], [7, 7], [2 / 3, 1 / 3]),
        # (0.8^3 * 0.2)^(1/4) = 0.1024^(1/4) is twice (0.2^3 * 0.8)^(1/4) = 0.0064^(1/4).
        ([(0.8, 0.2), (0.2, 0.8)], [3, 1], [2 / 3, 1 / 3]),
        ([(0.8, 0.2), (0.2, 0.8)], [1, 3], [1 / 3, 2 / 3]),
        ([(0.8, 0.2), (0.2, 0.8)], [1, 1], [0.5, 0.5]),
        ([(0.8, 0.2), (0.2, 0.8)], [0, 0], [0.5, 0.5]),
        ([(0.8, 0.2), (0.2, 0.8)], [1, 0], [0.8, 0.2]),
        ([(0.8, 0.2), (0.2, 0.8)], [1e-3, 0], [0.8, 0.2]),
        # A probability of 0.
        ([(1, 0)], [1], [1, 0]),
        ([(1, 0), (0.5, 0.5)], [1, 1], [1, 0]),
        ([(1, 0), (0.5, 0.5)], [0, 1], [0.5, 0.5]),
        ([(1, 0), (0, 1)], [1, 1], [0.5, 0.5]),
        ([(1, 0), (0, 1)], [0, 0], [0.5, 0.5]),
    ],
)
def test_mean_scores_by_hand(windows, weights, expected):
    stacked = np.stack([logs(*window) for window in windows])
    scores = mean_scores(stacked, np.array(weights, np.float32))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_a_thousand_windows_neither_overflow_nor_drift():
    stacked = np.tile(logs(0.7, 0.2, 0.1), (1_000, 1))
    scores = mean_scores(stacked, np.full(1_000, 30.0, np.float32))
    np.testing.assert_allclose(scores, [0.7, 0.2, 0.1], atol=1e-6)


@pytest.mark.parametrize(
    ("scores", "threshold", "has_sound", "label"),
    [
        ([0.2, 0.5, 0.3], 0.0, True, "pop"),
        ([0.2, 0.5, 0.3], 0.5, True, "pop"),  # at the threshold is not under it
        ([0.2, 0.5, 0.3], 0.51, True, "unknown"),
        ([0.2, 0.5, 0.3], 0.0, False, "unknown"),
        ([0.4, 0.2, 0.4], 0.0, True, "jazz"),  # a tie: the first in label order
        ([0.2, 0.4, 0.4], 0.0, True, "pop"),
        ([1.0, 0.0, 0.0], 0.99, True, "jazz"),
    ],
)
def test_choose_label(scores, threshold, has_sound, label):
    rule = LabelRule(LABELS, threshold)
    assert choose_label(np.array(scores, np.float32), rule, has_sound=has_sound) == label


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.7])
def test_a_threshold_that_float32_rounds_up_is_reached(threshold):
    scores = np.array([threshold, 0.0, 0.0], np.float32)
    assert choose_label(scores, LabelRule(LABELS, threshold)) == "jazz"


@pytest.mark.parametrize(
    ("scores", "top_k", "labels"),
    [
        ([0.2, 0.5, 0.3], 2, ["pop", "rock"]),
        ([0.2, 0.5, 0.3], 5, ["pop", "rock", "jazz"]),
        ([0.4, 0.2, 0.4], 2, ["jazz", "rock"]),
        ([0.3, 0.4, 0.3], 3, ["pop", "jazz", "rock"]),
    ],
)
def test_top_scores(scores, top_k, labels):
    top = top_scores(np.array(scores, np.float32), LabelRule(LABELS, top_k=top_k))
    assert [entry["label"] for entry in top] == labels
    by_label = dict(zip(LABELS, scores, strict=True))
    for entry in top:
        assert entry["score"] == pytest.approx(by_label[entry["label"]])


@pytest.mark.parametrize(
    ("weights", "expected"),
    [([3, 1], [0.75, 1.0]), ([1, 1], [0.5, 2.0]), ([0, 0], [0.5, 2.0]), ([0, 5], [0.0, 4.0])],
)
def test_mean_embedding(weights, expected):
    windows = [predicted(1, 0, 0, embedding=vector) for vector in VECTORS]
    assert mean_embedding(windows, np.array(weights, np.float32)) == expected


def test_no_mean_of_embeddings_that_are_not_there():
    vector = np.ones(2, np.float32)
    windows = [predicted(1, 0, 0, embedding=vector), predicted(1, 0, 0)]
    assert mean_embedding(windows, np.ones(2, np.float32)) is None
    assert mean_embedding(windows[1:], np.ones(1, np.float32)) is None


# A labelled track


def test_row_of_a_track():
    before = dt.datetime.now(dt.timezone.utc)
    (row,) = rows_of()
    after = dt.datetime.now(dt.timezone.utc)
    assert (row["uri"], row["track_id"], row["label"]) == ("a.mp3", None, "jazz")
    assert row["scores"] == pytest.approx(SCORES, abs=1e-5)
    assert row["confidence"] == pytest.approx(SCORES[0], abs=1e-5)
    assert row["top_k"] == [
        {"label": "jazz", "score": pytest.approx(SCORES[0], abs=1e-5)},
        {"label": "pop", "score": pytest.approx(SCORES[1], abs=1e-5)},
    ]
    assert row["embedding"] is None
    assert row["modified_at"] == MODIFIED
    assert row["decode_warnings"] == ["odd header"]
    for name in ("content_sha256", "size_bytes", "duration_s", "sample_rate_hz", "channels",
                 "container", "codec", "decoder", "window_count"):  # fmt: skip
        assert row[name] == getattr(TWO, name)
    for name, value in dataclasses.asdict(PROVENANCE).items():
        assert row[name] == value
    assert before <= row["labelled_at"] <= after


def test_its_windows_are_in_it():
    (row,) = rows_of()
    first, second = row[WINDOWS_COLUMN]
    assert (first["window_index"], second["window_index"]) == (0, 1)
    assert (first["label"], second["label"]) == ("jazz", "pop")
    assert (first["confidence"], second["confidence"]) == pytest.approx((0.8, 0.8))
    assert second["scores"] == pytest.approx([0.05, 0.8, 0.15])
    assert (second["start_s"], second["end_s"]) == (2.0, 4.0)


@pytest.mark.parametrize(("threshold", "label"), [(0.58, "jazz"), (0.6, "unknown")])
def test_threshold(threshold, label):
    rule = dataclasses.replace(RULE, unknown_threshold=threshold)  # the best score is 0.5892
    (row,) = rows_of(rule=rule)
    assert row["label"] == label
    assert row["top_k"][0]["label"] == "jazz"
    assert row["confidence"] == pytest.approx(SCORES[0], abs=1e-5)


def test_silence_is_unknown_whatever_the_model_says():
    (row,) = rows_of([dataclasses.replace(window, content_s=0.0) for window in WINDOWS])
    assert row["label"] == "unknown"
    assert np.isfinite(row["scores"]).all()
    assert sum(row["scores"]) == pytest.approx(1.0)
    assert [window["label"] for window in row[WINDOWS_COLUMN]] == ["unknown", "unknown"]


def test_a_silent_window_does_not_count():
    (row,) = rows_of([WINDOWS[0], dataclasses.replace(WINDOWS[1], content_s=0.0)])
    assert row["label"] == "jazz"
    assert row["scores"] == pytest.approx([0.8, 0.1, 0.1])
    assert [window["label"] for window in row[WINDOWS_COLUMN]] == ["jazz", "unknown"]


def test_a_probability_of_zero():
    windows = [predicted(1, 0, 0, index=0), predicted(0.5, 0.5, 0, index=1, facts=TWO)]
    (row,) = rows_of(windows)
    assert row["label"] == "jazz"
    assert row["scores"] == pytest.approx([1, 0, 0], abs=1e-6)
    assert all(np.isfinite(window["scores"]).all() for window in row[WINDOWS_COLUMN])


def test_embedding():
    windows = [
        dataclasses.replace(window, embedding=vector)
        for window, vector in zip(WINDOWS, VECTORS, strict=True)
    ]
    (row,) = rows_of(windows)
    assert row["embedding"] == [0.75, 1.0]


def test_features_are_columns():
    heard = TrackFeatures(key="A minor", mfcc_mean=[0.5] * 20, features_seconds=3.5)
    *windows, last = WINDOWS
    facts = dataclasses.replace(last.facts, features=heard)
    (row,) = rows_of([*windows, dataclasses.replace(last, facts=facts)])
    assert "features" not in row
    expected = dataclasses.asdict(heard)
    assert {name: row[name] for name in expected} == expected


# Listings and copies


def test_every_listing_has_a_row():
    listings = (Listing("first", {"album": "A"}), Listing("second", {"album": "B"}), Listing())
    first, second, plain = rows_of(of_track(track("a.mp3", *listings)))
    assert [row["track_id"] for row in (first, second, plain)] == ["first", "second", None]
    assert [row[LISTING_COLUMN] for row in (first, second, plain)] == [0, 1, 2]
    assert (first["album"], second["album"]) == ("A", "B")
    assert "album" not in plain
    assert first["scores"] == second["scores"] == plain["scores"]
    # The evidence is there once.
    assert [len(row[WINDOWS_COLUMN]) for row in (first, second, plain)] == [2, 0, 0]


def test_every_copy_has_its_own_rows_and_windows():
    earlier = MODIFIED - dt.timedelta(days=1)
    copies = (
        Track("b.mp3", 1_000, earlier, (Listing("b1"), Listing("b2"))),
        Track("c.mp3", 1_000, None),
    )
    rows = rows_of(of_track(track("a.mp3", copies=copies)))
    found = [
        (row["uri"], row["track_id"], row["modified_at"], len(row[WINDOWS_COLUMN])) for row in rows
    ]
    assert found == [
        ("a.mp3", None, MODIFIED, 2),
        ("b.mp3", "b1", earlier, 2),
        ("b.mp3", "b2", earlier, 0),
        ("c.mp3", None, None, 2),
    ]
    assert [row[LISTING_COLUMN] for row in rows] == [0, 0, 1, 0]
    assert len({(row["label"], row["content_sha256"], *row["scores"]) for row in rows}) == 1


# A failed track


def failed(of, stage="Decode", size=None):
    failure = Failure(of, stage, Reason.CORRUPT, "broken", size)
    return list(failure_rows(failure, PROVENANCE))


def test_row_of_a_failure():
    before = dt.datetime.now(dt.timezone.utc)
    (row,) = failed(track())
    after = dt.datetime.now(dt.timezone.utc)
    assert (row["uri"], row["track_id"], row["size_bytes"]) == ("a.mp3", None, 1_000)
    assert (row["stage"], row["reason"], row["message"]) == ("Decode", "corrupt", "broken")
    assert row["modified_at"] == MODIFIED
    for name, value in dataclasses.asdict(PROVENANCE).items():
        assert row[name] == value
    assert before <= row["failed_at"] <= after


def test_every_listing_of_every_copy_has_a_failures_row():
    copy = Track("b.mp3", 1_000, None, (Listing("third"),))
    rows = failed(track("a.mp3", Listing("first"), Listing("second"), copies=(copy,)), size=5)
    found = [(row["uri"], row["track_id"], row[LISTING_COLUMN]) for row in rows]
    assert found == [("a.mp3", "first", 0), ("a.mp3", "second", 1), ("b.mp3", "third", 0)]
    assert {row["size_bytes"] for row in rows} == {5}  # as read, not as listed


def test_a_size_of_zero_as_read_outweighs_the_listed_one():
    (row,) = failed(track(), size=0)
    assert row["size_bytes"] == 0


def test_part_of_a_stage_is_told_as_the_stage():
    (row,) = failed(track(), "RunInference/scores")
    assert row["stage"] == "RunInference"


# Rows and schemas


def test_rows_are_what_the_schemas_say():
    carried = pa.schema([("album", pa.string())])
    predictions = schema_of(PredictionRow, labels=LABELS, extra=carried)
    listings = (Listing("one", {"album": "A"}), Listing("two", {"album": None}))
    rows = rows_of(of_track(track("a.mp3", *listings)))
    for schema, found in (
        (journal_schema(predictions), rows),
        (journal_schema(schema_of(FailureRow)), failed(track("a.mp3", *listings))),
    ):
        for row in found:
            assert set(row) == set(schema.names)
        table = pa.Table.from_pylist(found, schema=schema)
        table.validate(full=True)
        for column in {"labelled_at", "failed_at"} & set(schema.names):
            assert table[column].to_pylist() == [row[column] for row in found]
            assert table[column].to_pylist()[0].utcoffset() == dt.timedelta(0)


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_parts_of_a_track_are_small_and_together_all_of_it(count):
    windows = [predicted(1.0, index=index) for index in range(count)]
    parts = list(small_parts("a.mp3", windows))
    assert {uri for uri, _ in parts} == {"a.mp3"}
    assert max(len(part) for _, part in parts) <= 64
    assert [window.window_index for _, part in parts for window in part] == list(range(count))
