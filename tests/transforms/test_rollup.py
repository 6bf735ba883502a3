from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
import math

import numpy as np
import pyarrow as pa
import pytest

from transforms.errors import Reason
from transforms.records import (
    Failure,
    FailureRow,
    Listing,
    PredictionRow,
    Track,
    TrackFacts,
    WindowPrediction,
    WindowRow,
    schema_of,
)
from transforms.rollup import (
    LabelRule,
    Provenance,
    RollUp,
    choose_label,
    first_failure,
    mean_embedding,
    mean_scores,
    top_scores,
)

LABELS = ("jazz", "pop", "rock")
RULE = LabelRule(labels=LABELS, top_k=2)
PROVENANCE = Provenance("run-1", "1.2.3", "model0123", "frontend0123")
FACTS = TrackFacts(
    uri="a.mp3", content_sha256="c0ffee", size_bytes=1_000, duration_s=3.5, sample_rate_hz=44_100,
    channels=2, container="MP3", codec="MPEG_LAYER_III", decoder="soundfile", window_count=2,
    decode_warnings=("odd header",),
)  # fmt: skip


def logs(*probabilities) -> np.ndarray:
    return np.array([math.log(p) if p else -math.inf for p in probabilities], np.float32)


def predicted(*probabilities, index=0, seconds=1.0, uri="a.mp3", embedding=None):
    return WindowPrediction(
        uri, index, 2.0 * index, 2.0 * index + 2.0, seconds, logs(*probabilities), embedding
    )


# Two windows of a track: 3 seconds at (0.8, 0.1, 0.1) and 1 second at (0.05, 0.8, 0.15).
# jazz: (0.8^3 * 0.05)^(1/4) = 0.4000; pop: (0.1^3 * 0.8)^(1/4) = 0.168179;
# rock: (0.1^3 * 0.15)^(1/4) = 0.110668; their sum is 0.678847.
WINDOWS = [
    predicted(0.8, 0.1, 0.1, index=0, seconds=3.0),
    predicted(0.05, 0.8, 0.15, index=1, seconds=1.0),
]
SCORES = [0.4 / 0.678847, 0.168179 / 0.678847, 0.110668 / 0.678847]


def failed(stage="Decode", reason=Reason.CORRUPT, message="broken", uri="a.mp3", size=None):
    return Failure(uri, stage, reason, message, size)


def roll_up(*, tracks=None, facts=(FACTS,), predictions=WINDOWS, failures=(), rule=RULE):
    inputs = {
        "tracks": [Track("a.mp3", 999)] if tracks is None else list(tracks),
        "facts": list(facts),
        "predictions": list(predictions),
        "failures": list(failures),
    }
    return inputs | RollUp(rule, PROVENANCE)


def only_failure(result):
    """The one row of failures of a result that has nothing else."""
    assert result["predictions"] == result["windows"] == []
    (row,) = result["failures"]
    return row


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
    vectors = np.array([[1, 0], [0, 4]], np.float32)
    windows = [predicted(1, 0, 0, embedding=vector) for vector in vectors]
    assert mean_embedding(windows, np.array(weights, np.float32)) == expected


def test_no_mean_of_embeddings_that_are_not_there():
    vector = np.ones(2, np.float32)
    windows = [predicted(1, 0, 0, embedding=vector), predicted(1, 0, 0)]
    assert mean_embedding(windows, np.ones(2, np.float32)) is None
    assert mean_embedding(windows[1:], np.ones(1, np.float32)) is None


# A labelled track


def test_row_of_a_track():
    before = dt.datetime.now(dt.timezone.utc)
    result = roll_up()
    after = dt.datetime.now(dt.timezone.utc)
    assert result["failures"] == []
    (row,) = result["predictions"]
    assert row["uri"] == "a.mp3"
    assert row["label"] == "jazz"
    assert row["scores"] == pytest.approx(SCORES, abs=1e-5)
    assert row["confidence"] == pytest.approx(SCORES[0], abs=1e-5)
    assert row["top_k"] == [
        {"label": "jazz", "score": pytest.approx(SCORES[0], abs=1e-5)},
        {"label": "pop", "score": pytest.approx(SCORES[1], abs=1e-5)},
    ]
    assert row["embedding"] is None
    assert row["track_id"] is None
    assert row["decode_warnings"] == ["odd header"]
    for name in ("content_sha256", "size_bytes", "duration_s", "sample_rate_hz", "channels",
                 "container", "codec", "decoder", "window_count"):  # fmt: skip
        assert row[name] == getattr(FACTS, name)
    assert row["run_id"] == "run-1"
    assert row["pipeline_version"] == "1.2.3"
    assert row["model_fingerprint"] == "model0123"
    assert row["front_end_fingerprint"] == "frontend0123"
    assert before <= row["labelled_at"] <= after


def test_rows_of_its_windows():
    rows = sorted(roll_up()["windows"], key=lambda row: row["window_index"])
    assert [row["window_index"] for row in rows] == [0, 1]
    assert [row["label"] for row in rows] == ["jazz", "pop"]
    assert [row["confidence"] for row in rows] == pytest.approx([0.8, 0.8])
    assert rows[1]["scores"] == pytest.approx([0.05, 0.8, 0.15])
    assert (rows[1]["start_s"], rows[1]["end_s"]) == (2.0, 4.0)
    for row in rows:
        assert (row["uri"], row["content_sha256"], row["run_id"]) == ("a.mp3", "c0ffee", "run-1")


@pytest.mark.parametrize(("threshold", "label"), [(0.58, "jazz"), (0.6, "unknown")])
def test_threshold(threshold, label):
    rule = dataclasses.replace(RULE, unknown_threshold=threshold)  # the best score is 0.5892
    (row,) = roll_up(rule=rule)["predictions"]
    assert row["label"] == label
    assert row["top_k"][0]["label"] == "jazz"
    assert row["confidence"] == pytest.approx(SCORES[0], abs=1e-5)


def test_silence_is_unknown_whatever_the_model_says():
    silent = [dataclasses.replace(window, content_s=0.0) for window in WINDOWS]
    result = roll_up(predictions=silent)
    (row,) = result["predictions"]
    assert row["label"] == "unknown"
    assert np.isfinite(row["scores"]).all()
    assert sum(row["scores"]) == pytest.approx(1.0)
    assert [window["label"] for window in result["windows"]] == ["unknown", "unknown"]


def test_a_silent_window_does_not_count():
    silent = dataclasses.replace(WINDOWS[1], content_s=0.0)
    result = roll_up(predictions=[WINDOWS[0], silent])
    (row,) = result["predictions"]
    assert row["label"] == "jazz"
    assert row["scores"] == pytest.approx([0.8, 0.1, 0.1])
    assert {w["window_index"]: w["label"] for w in result["windows"]} == {0: "jazz", 1: "unknown"}


def test_a_probability_of_zero():
    windows = [predicted(1, 0, 0, index=0), predicted(0.5, 0.5, 0, index=1)]
    result = roll_up(predictions=windows)
    (row,) = result["predictions"]
    assert row["label"] == "jazz"
    assert row["scores"] == pytest.approx([1, 0, 0], abs=1e-6)
    assert all(np.isfinite(window["scores"]).all() for window in result["windows"])


def test_embedding():
    vectors = np.array([[1, 0], [0, 4]], np.float32)
    windows = [
        dataclasses.replace(window, embedding=vector)
        for window, vector in zip(WINDOWS, vectors, strict=True)
    ]
    (row,) = roll_up(predictions=windows)["predictions"]
    assert row["embedding"] == [0.75, 1.0]


def test_order_of_the_windows_changes_no_bit():
    rng = np.random.default_rng(0)
    windows = [
        predicted(*p, index=i, seconds=s, embedding=rng.standard_normal(8).astype(np.float32))
        for i, (p, s) in enumerate(
            zip(rng.dirichlet(np.ones(3), 20), rng.uniform(0, 30, 20), strict=True)
        )
    ]
    facts = [dataclasses.replace(FACTS, window_count=20)]
    rows = []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(20)
        (row,) = roll_up(facts=facts, predictions=[windows[i] for i in order])["predictions"]
        rows.append((row["scores"], row["embedding"]))
    assert rows[0] == rows[1] == rows[2]


def test_every_listing_has_a_row():
    listings = (Listing("first", {"album": "A"}), Listing("second", {"album": "B"}), Listing())
    result = roll_up(tracks=[Track("a.mp3", 999, listings)])
    rows = {row["track_id"]: row for row in result["predictions"]}
    assert sorted(rows, key=str) == [None, "first", "second"]
    assert rows["first"]["album"] == "A"
    assert rows["second"]["album"] == "B"
    assert "album" not in rows[None]
    assert rows["first"]["scores"] == rows["second"]["scores"]
    assert len(result["windows"]) == 2  # the evidence is there once


def test_tracks_do_not_mix():
    other = dataclasses.replace(FACTS, uri="b.mp3", window_count=1, content_sha256="beef")
    result = roll_up(
        tracks=[Track("a.mp3"), Track("b.mp3"), Track("c.mp3")],
        facts=[FACTS, other],
        predictions=[*WINDOWS, predicted(0.1, 0.1, 0.8, uri="b.mp3")],
        failures=[failed(uri="c.mp3")],
    )
    assert {row["uri"]: row["label"] for row in result["predictions"]} == {
        "a.mp3": "jazz",
        "b.mp3": "rock",
    }
    assert [row["uri"] for row in result["failures"]] == ["c.mp3"]
    assert {(row["uri"], row["content_sha256"]) for row in result["windows"]} == {
        ("a.mp3", "c0ffee"),
        ("b.mp3", "beef"),
    }


# A failed track


def test_any_failure_wins_over_the_windows():
    row = only_failure(roll_up(failures=[failed("MelSpectrogram", Reason.INTERNAL_ERROR, "why")]))
    assert row["uri"] == "a.mp3"
    assert (row["stage"], row["reason"]) == ("MelSpectrogram", "internal_error")
    assert row["message"] == "why"
    assert row["size_bytes"] == 999  # as listed
    assert row["run_id"] == "run-1"


def test_every_listing_has_a_failures_row():
    listings = (Listing("first"), Listing("second"))
    result = roll_up(tracks=[Track("a.mp3", 999, listings)], failures=[failed(size=5)])
    assert sorted(row["track_id"] for row in result["failures"]) == ["first", "second"]
    assert {row["size_bytes"] for row in result["failures"]} == {5}
    assert result["predictions"] == []


def test_a_failure_before_there_was_a_track():
    missing = failed("ReadFiles", Reason.NOT_FOUND, "no such file", uri="z.mp3")
    row = only_failure(roll_up(tracks=[], facts=[], predictions=[], failures=[missing]))
    assert (row["uri"], row["track_id"], row["size_bytes"]) == ("z.mp3", None, None)


@pytest.mark.parametrize(
    ("facts", "predictions", "message"),
    [
        ([FACTS], WINDOWS[:1], "1 of 2 windows"),
        ([FACTS], WINDOWS[1:], "1 of 2 windows"),
        ([FACTS], [], "0 of 2 windows"),
        ([FACTS], [*WINDOWS, WINDOWS[1]], "1 windows arrived more than once"),
        ([FACTS], [WINDOWS[0], WINDOWS[0]], "1 windows arrived more than once"),
        ([dataclasses.replace(FACTS, window_count=0)], [], "0 of 0 windows"),
        ([], WINDOWS, "0 decoding results"),
        ([FACTS, FACTS], WINDOWS, "2 decoding results"),
        ([], [], "0 decoding results"),
    ],
)
def test_what_is_not_complete_is_no_label(facts, predictions, message):
    row = only_failure(roll_up(facts=facts, predictions=predictions))
    assert (row["stage"], row["reason"]) == ("RollUp", "incomplete")
    assert message in row["message"]


FAILURES = [
    failed("RunInference/scores", Reason.INVALID_SCORES, "c"),
    failed("Preprocess", Reason.INVALID_SAMPLES, "b"),
    failed("Preprocess", Reason.INTERNAL_ERROR, "z"),
    failed("Preprocess", Reason.INVALID_SAMPLES, "a"),
    failed("MelSpectrogram", Reason.INTERNAL_ERROR, "a"),
]


def test_first_failure_does_not_depend_on_the_order_of_arrival():
    found = {first_failure(order) for order in itertools.permutations(FAILURES)}
    assert len(found) == 1
    assert found.pop().stage == "Preprocess"


@pytest.mark.parametrize(
    ("stages", "first"),
    [
        (["RunInference", "Decode"], "Decode"),
        (["Decode", "ReadFiles"], "ReadFiles"),
        (["MelSpectrogram", "Preprocess"], "Preprocess"),
        (["RunInference/scores", "MelSpectrogram"], "MelSpectrogram"),
        (["Separate", "RunInference"], "RunInference"),  # a stage of one's own comes last
        (["Separate"], "Separate"),
    ],
)
def test_first_failure_is_that_of_the_earliest_stage(stages, first):
    assert first_failure([failed(stage) for stage in stages]).stage == first


def test_part_of_a_stage_is_reported_as_the_stage():
    row = only_failure(roll_up(failures=FAILURES[:1]))
    assert (row["stage"], row["reason"]) == ("RunInference", "invalid_scores")


def test_nothing_in_nothing_out():
    result = roll_up(tracks=[], facts=[], predictions=[])
    assert result["predictions"] == result["windows"] == result["failures"] == []


# Rows and schemas


def test_rows_are_what_the_schemas_say():
    carried = pa.schema([("album", pa.string())])
    vectors = [dataclasses.replace(w, embedding=np.ones(2, np.float32)) for w in WINDOWS]
    tracks = [Track("a.mp3", 999, (Listing("one", {"album": "A"}),)), Track("b.mp3")]
    result = roll_up(tracks=tracks, predictions=vectors, failures=[failed(uri="b.mp3")])
    for name, kind, extra in (
        ("predictions", PredictionRow, carried),
        ("windows", WindowRow, None),
        ("failures", FailureRow, None),
    ):
        rows = result[name]
        schema = schema_of(kind, labels=LABELS, extra=extra)
        assert rows
        for row in rows:
            assert list(row) == schema.names
        table = pa.Table.from_pylist(rows, schema=schema)
        table.validate(full=True)
        for column in ("labelled_at", "failed_at"):
            if column in schema.names:
                assert table[column].to_pylist()[0].utcoffset() == dt.timedelta(0)
                assert table[column].to_pylist() == [row[column] for row in rows]
    assert table.schema.metadata == {b"labels": b'["jazz", "pop", "rock"]'}
